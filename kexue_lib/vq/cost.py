"""What attention costs in multiply-adds (step D10): dense, and over quantized keys."""

from __future__ import annotations

from typing import Any


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value!r} must be positive")


def dense_multiply_adds(n: int, d_k: int, d_v: int) -> float:
    r"""Multiply-adds of one head of causal softmax attention: n² (dk + dv)/2, scores and weighted values.

    Args:
        n: length.
        d_k, d_v: widths of keys and values.

    Example:
        >>> dense_multiply_adds(1024, 64, 64)
        67108864.0

    Source: chapter *vq-key-linear-attention*, step D10.
    """
    _positive(n=n, d_k=d_k, d_v=d_v)
    return n * n * (d_k + d_v) / 2


def vq_multiply_adds(n: int, d_k: int, d_v: int, c: int, block_size: int) -> float:
    r"""Multiply-adds of one head of VQ attention: n [ 3l/2 (dk + dv) + c (2 dk + dv) + dv ].

    The local part reaches 3l/2 keys back on average; then come the scores against the codes, their values, the
    assignment (c dk) and the addition of each value to its code (dv).

    Args:
        n: length.
        d_k, d_v: widths of keys and values.
        c: number of codes.
        block_size: l.

    Example:
        >>> vq_multiply_adds(4096, 64, 64, 512, 512) / dense_multiply_adds(4096, 64, 64)
        0.750244140625

    Source: chapter *vq-key-linear-attention*, step D10.
    """
    _positive(n=n, d_k=d_k, d_v=d_v, c=c, block_size=block_size)
    return n * (1.5 * block_size * (d_k + d_v) + c * (2 * d_k + d_v) + d_v)


def vq_break_even(d_k: int, d_v: int, c: int, block_size: int) -> float:
    r"""The length at which both cost the same: n* = 3l + 2 [c (2 dk + dv) + dv]/(dk + dv).

    Example:
        >>> round(vq_break_even(64, 64, 512, 512))      # 3l + 3c + 1
        3073

    Source: chapter *vq-key-linear-attention*, step D10.
    """
    _positive(d_k=d_k, d_v=d_v, c=c, block_size=block_size)
    return 3 * block_size + 2 * (c * (2 * d_k + d_v) + d_v) / (d_k + d_v)


def vq_state_numbers(c: int, d_v: int, block_size: int) -> dict[str, Any]:
    """Numbers that a stream of one head keeps: the cache and the recent tokens (step D4).

    Example:
        >>> vq_state_numbers(512, 64, 512)
        {'cache': 33280, 'recent': 66495}

    Source: chapter *vq-key-linear-attention*, steps D4 and D5.
    """
    _positive(c=c, d_v=d_v, block_size=block_size)
    return {"cache": c * (d_v + 1), "recent": (2 * block_size - 1) * (d_v + 1)}

"""What else reads long texts: a scale that grows with log n, and a window."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["logn_scale", "sliding_window_mask"]


def logn_scale(positions: Tensor, train_len: float, clip: bool = True) -> Tensor:
    r"""The factor of a query that sees n = position + 1 keys: log n / log N, at least 1 with ``clip``.

    .. math:: \max\Bigl(1, \frac{\log n}{\log N}\Bigr) = 1 + \frac{\log\max(n/N, 1)}{\log N}

    It holds the entropy of the weights together as n grows. Clipped, it changes nothing up to the trained length, so
    that it can be added to a trained model (log n† in the post, step D10); at kN it is 1 + log k / log N.
    Unclipped, it is :func:`kexue_lib.attention.attention_scale` times √d, and must be there while training.

    Args:
        positions: 0, 1, …, any shape; integers, or fractions > −1.
        train_len: N > 1.
        clip: whether positions below N get exactly 1 (default) or less.

    Returns:
        The shape of ``positions``; float32, or float64 if the positions are.

    Raises:
        ValueError: train_len ≤ 1.

    Hazards:
        Unclipped, position 0 gets 0: equal weights for all visible keys. That is harmless only under a causal mask,
        where it sees one key.

    Example:
        >>> logn_scale(torch.tensor([0, 511, 4095]), 512)
        tensor([1.0000, 1.0000, 1.3333])

    Source: https://kexue.fm/archives/8823, https://kexue.fm/archives/9706; step D10.
    """
    if isinstance(train_len, Tensor) or not 1 < train_len < math.inf:
        raise ValueError(f"train_len={train_len!r} must be a number > 1: the factor is log(n) / log(train_len)")
    dtype = torch.promote_types(positions.dtype, torch.float32) if positions.is_floating_point() else torch.float32
    n = positions.to(dtype) + 1
    if not clip:
        return n.log() / math.log(train_len)
    # Not log(n)/log(N): at n = N that may be 1 + 1 ulp, and nothing may change up to there.
    return 1 + (n / train_len).clamp(min=1).log() / math.log(train_len)


def sliding_window_mask(
    n_q: int,
    n_k: int,
    window: int,
    causal: bool = True,
    q_offset: int = 0,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Which keys a query sees in a window of w: True where :math:`0 \le i - j < w`, or, if not causal,
    :math:`|i - j| < w`.

    Args:
        n_q, n_k: number of queries and keys, ≥ 1. Keys stand at 0, …, n_k − 1.
        window: number of keys that a causal query sees, itself included, ≥ 1.
        causal: whether later keys are hidden.
        q_offset: position of the first query, ≥ 0: ``n_k - n_q`` when a text is continued from a cache.
        device: of the result.

    Returns:
        ``(n_q, n_k)`` boolean, True = visible.

    Raises:
        ValueError: window < 1, or a query that would see no key.

    Example:
        >>> sliding_window_mask(4, 4, 2).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 1, 1, 0],
                [0, 0, 1, 1]], dtype=torch.int32)

    Source: https://kexue.fm/archives/9431; https://arxiv.org/abs/2004.05150.
    """
    for name, value, least in (("n_q", n_q, 1), ("n_k", n_k, 1), ("window", window, 1), ("q_offset", q_offset, 0)):
        if isinstance(value, (bool, float, Tensor)) or value < least:
            raise ValueError(f"{name}={value!r} must be an integer >= {least}")
    if q_offset + n_q - 1 >= n_k - 1 + window:
        raise ValueError(
            f"the last query stands at {q_offset + n_q - 1} and the last key at {n_k - 1}: with window={window} it "
            f"sees no key; use a window >= {q_offset + n_q - n_k + 1} or give the keys up to the query"
        )
    distance = torch.arange(q_offset, q_offset + n_q, device=device)[:, None] - torch.arange(n_k, device=device)
    return (distance >= 0) & (distance < window) if causal else distance.abs() < window

"""The scales: by how much q·k is multiplied before softmax when n keys are seen."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import Tensor

__all__ = ["SCALE_KINDS", "attention_scale"]

SCALE_KINDS = ("sqrt_d", "logn", "sqrt_logn")
"""The scales that :func:`attention_scale` knows."""


def check_scale(kind: str, train_len: float, min_len: int) -> None:
    """Refuses what no scale takes."""
    if kind not in SCALE_KINDS:
        raise ValueError(f"kind={kind!r} is not a known scale; choose one of {', '.join(map(repr, SCALE_KINDS))}")
    if isinstance(train_len, Tensor) or not 1 < train_len < math.inf:
        raise ValueError(f"train_len={train_len!r} must be a number > 1: the factor is log(n) / log(train_len)")
    if isinstance(min_len, (bool, Tensor)) or min_len != int(min_len) or min_len < 1:
        raise ValueError(f"min_len={min_len!r} must be an integer >= 1: shorter rows get the factor of min_len keys")


def length_factor(count: int | Tensor, kind: str, train_len: float, min_len: int, dtype: torch.dtype) -> Any:
    """r(n), by which the scale of n keys differs from 1/sqrt(d)."""
    if isinstance(count, Tensor):
        if kind == "sqrt_d":
            return torch.ones_like(count, dtype=dtype)
        # Few and small operations, and in place on a tensor of our own. min_len = 0: nothing to clamp.
        r = count.to(dtype).clamp_(min=min_len) if min_len else count.to(dtype)
        r = r.log_().div_(math.log(train_len))
        return r.sqrt_() if kind == "sqrt_logn" else r
    if kind == "sqrt_d":
        return 1.0
    ratio = math.log(max(count, min_len)) / math.log(train_len)
    return math.sqrt(ratio) if kind == "sqrt_logn" else ratio


def attention_scale(
    n: int | Tensor,
    d: int,
    *,
    train_len: float = 512,
    min_len: int = 1,
    kind: str = "logn",
    dtype: torch.dtype | None = None,
) -> Any:
    r"""The factor λ that multiplies q·k before softmax when a query sees n keys.

    With r = log(max(n, min_len)) / log(train_len):

    =============== ===== ============================================================================================
    kind            λ     as n grows
    =============== ===== ============================================================================================
    ``"sqrt_d"``    1/√d  the usual scale, it does not know n: the weights spread
    ``"logn"``      r/√d  to leading order the law of one key that keeps its lead (step D6: log n + log log n + const)
    ``"sqrt_logn"`` √r/√d the law of independent Gaussian scores (step D7)
    =============== ===== ============================================================================================

    At ``n = train_len`` all three are 1/√d (step D9), so that a network that was trained at that one length can be
    evaluated with any of them. The entropy of a real network does not become constant: its growth with n is reduced.

    Args:
        n: number of *visible* keys, not the length of the sequence: under a causal mask the query's position + 1
            (lower-right aligned), under padding the number of tokens that are not padding. An integer, or an integer
            tensor of any shape. Values of a tensor are not checked (that would stop a GPU to look); everything below
            ``min_len`` counts as ``min_len``.
        d: width of a query and a key, ≥ 1.
        train_len: number of keys at which the factor is 1, > 1. The author calibrates at 512.
        min_len: rows with fewer keys get the factor of ``min_len`` keys. Unclamped, 2 keys get log 2/log 512 = 0.11 and
            a single key gets 0 (harmless: its weight is 1 anyway). The author's code uses 16.
        kind: see the table.
        dtype: of the result if ``n`` is a tensor, default ``torch.get_default_dtype()``; choose float32 or float64.

    Returns:
        A float for an integer ``n``, otherwise a tensor of the shape of ``n`` on its device.

    Raises:
        ValueError: n < 1, d < 1, train_len ≤ 1, min_len < 1, an unknown kind.
        TypeError: n is neither an integer nor an integer tensor.

    Hazards:
        The natural logarithm without ``log(train_len)`` multiplies the usual scores by 6.2 at n = 512 and trains badly.
        In code that ``torch.compile`` traces with dynamic shapes pass n as a tensor; an int is treated as a constant.

    Example:
        >>> attention_scale(512, 64)
        0.125
        >>> round(attention_scale(64, 64) / attention_scale(512, 64), 4)
        0.6667
        >>> attention_scale(torch.tensor([1, 8, 64]), 64, train_len=64)
        tensor([0.0000, 0.0625, 0.1250])

    Source: https://kexue.fm/archives/8823 and https://kexue.fm/archives/9034, step D9; the clamp is that of
    ``bert4keras``.
    """
    check_scale(kind, train_len, min_len)
    if d < 1:
        raise ValueError(f"d={d!r} must be >= 1: it is the width of a query and a key")
    if isinstance(n, Tensor):
        if n.dtype == torch.bool or n.is_floating_point() or n.is_complex():
            raise TypeError(
                f"n has dtype {n.dtype}; it counts keys, so give an integer tensor (mask.sum(-1), for example)"
            )
        return length_factor(n, kind, train_len, min_len, dtype or torch.get_default_dtype()) / math.sqrt(d)
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(
            f"n={n!r} ({type(n).__name__}) must be an integer or an integer tensor: it counts keys"
        ) from None
    if count < 1:
        raise ValueError(f"n={n!r} must be >= 1: a query needs a visible key")
    return length_factor(count, kind, train_len, min_len, torch.float64) / math.sqrt(d)

"""Clipped relative positions (ReRoPE): near keys are rotated by their distance, far ones as if they stood at w."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .rotary import apply_rope

__all__ = ["rerope_scores", "rerope_scores_plain"]


def _check(q: Any, k: Any, inv_freq: Any, window: Any, leak: Any) -> None:
    for name, x in (("q", q), ("k", k)):
        if not isinstance(x, Tensor) or x.dim() < 2:
            kind = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} {kind} must be a tensor (..., n, d)")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} must have one width")
    if q.shape[-2] > k.shape[-2]:
        raise ValueError(
            f"{q.shape[-2]} queries and {k.shape[-2]} keys: the last query is aligned with the last key, so that the "
            "first queries would stand before all keys; are q and k swapped?"
        )
    if not isinstance(inv_freq, Tensor) or inv_freq.dim() != 1:
        kind = tuple(inv_freq.shape) if isinstance(inv_freq, Tensor) else type(inv_freq).__name__
        raise ValueError(f"inv_freq {kind} must be a tensor (dim / 2,)")
    if isinstance(window, (bool, Tensor)) or not 0 < window < math.inf:
        raise ValueError(f"window={window!r} must be a positive number: distances from there on are clipped")
    if leak is not None and (isinstance(leak, (bool, Tensor)) or not leak >= 1):
        raise ValueError(f"leak={leak!r} must be a number >= 1, or None: beyond the window distances grow by 1/leak")


def _far(
    length_q: int, length_k: int, window: float, leak: float | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Positions of queries and keys whose difference is the clipped distance."""
    slope = 0.0 if leak is None else 1.0 / leak
    rows = torch.arange(length_k - length_q, length_k, device=device, dtype=torch.float64)
    columns = torch.arange(length_k, device=device, dtype=torch.float64)
    return rows * slope + window * (1 - slope), columns * slope


def rerope_scores(
    q: Tensor,
    k: Tensor,
    inv_freq: Tensor,
    window: float,
    leak: float | None = None,
    *,
    interleaved: bool = True,
) -> Tensor:
    r"""Scores of rotary attention with clipped distances: q_i · R_{−p(i−j)} k_j.

    .. math:: p(t) = \begin{cases} t & t < w\\ w & t \ge w\end{cases}
              \qquad\text{or, leaky,}\qquad p(t) = w + \frac{t-w}{\text{leak}} \text{ for } t \ge w .

    A model that was trained at N > w meets no distance it has not seen. Two matrices of scores are made, one with q and
    k rotated as usual, one with q rotated by w and k left alone, and each entry is taken from one of them.

    Args:
        q: queries ``(..., n, d)``, not rotated.
        k: keys ``(..., m, d)``, not rotated, m ≥ n. The last query is aligned with the last key.
        inv_freq: θ ``(r/2,)``, r ≤ d.
        window: w > 0.
        leak: ≥ 1, or None for clipping (leak → ∞); 1 is ordinary RoPE.
        interleaved: as in :func:`apply_rope`.

    Returns:
        ``(..., n, m)``, neither scaled by 1/√d nor masked: hide later keys (j > i) by a causal mask.

    Raises:
        ValueError: shapes that do not fit, window ≤ 0, leak < 1.

    Example:
        >>> q = k = torch.ones(1, 5, 2)
        >>> rerope_scores(q, k, torch.tensor([1.0]), 2)[0, -1]       # 2 cos(p), p = 2, 2, 2, 1, 0
        tensor([-0.8323, -0.8323, -0.8323,  1.0806,  2.0000])

    Source: https://kexue.fm/archives/9708.
    """
    _check(q, k, inv_freq, window, leak)
    (n, m), device = (q.shape[-2], k.shape[-2]), q.device
    rows, columns = torch.arange(m - n, m, device=device), torch.arange(m, device=device)
    near = apply_rope(q, rows, inv_freq, interleaved=interleaved) @ apply_rope(
        k, columns, inv_freq, interleaved=interleaved
    ).transpose(-1, -2)
    far_rows, far_columns = (
        x.to(torch.promote_types(inv_freq.dtype, torch.float32)) for x in _far(n, m, window, leak, device)
    )
    far_k = k if leak is None else apply_rope(k, far_columns, inv_freq, interleaved=interleaved)
    far = apply_rope(q, far_rows, inv_freq, interleaved=interleaved) @ far_k.transpose(-1, -2)
    return torch.where(rows[:, None] - columns < window, near, far)


def rerope_scores_plain(
    q: Tensor,
    k: Tensor,
    inv_freq: Tensor,
    window: float,
    leak: float | None = None,
    *,
    interleaved: bool = True,
) -> Tensor:
    """The specification of :func:`rerope_scores`: each key is rotated anew for each query, by the clipped distance.

    O(n m d) memory.

    Example:
        >>> q, k = torch.eye(4), torch.eye(4)
        >>> theta = torch.tensor([1.0, 0.1])
        >>> torch.allclose(rerope_scores_plain(q, k, theta, 2, 4.0), rerope_scores(q, k, theta, 2, 4.0))
        True

    Source: https://kexue.fm/archives/9708.
    """
    _check(q, k, inv_freq, window, leak)
    n, m = q.shape[-2], k.shape[-2]
    distance = (torch.arange(m - n, m)[:, None] - torch.arange(m)).double()
    beyond = torch.full_like(distance, window) if leak is None else window + (distance - window) / leak
    position = -torch.where(distance < window, distance, beyond).to(q.device, inv_freq.dtype)
    scores = []
    for i in range(n):
        turned = apply_rope(k, position[i], inv_freq, interleaved=interleaved)
        scores.append((q[..., i : i + 1, :] * turned).sum(-1))
    return torch.stack(scores, dim=-2)

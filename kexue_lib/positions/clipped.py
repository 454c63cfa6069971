"""Clipped relative positions (ReRoPE): near keys are rotated by their distance, far ones as if they stood at w."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .rotary import apply_rope

__all__ = ["rerope_attention", "rerope_attention_plain", "rerope_scores", "rerope_scores_plain"]

# Queries that are handled at once.
_ROWS = 128


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


def _check_values(q: Tensor, k: Tensor, v: Any) -> None:
    if not isinstance(v, Tensor) or v.shape[:-1] != k.shape[:-1] or q.shape[:-2] != k.shape[:-2]:
        shape = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(
            f"q {tuple(q.shape)}, k {tuple(k.shape)} and v {shape} must be (..., n, d), (..., m, d) and (..., m, dv) "
            "with the same leading axes; expand the keys and values if several heads share them"
        )


def _near(q: Tensor, k: Tensor, inv_freq: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Queries and keys rotated by their positions: their products belong to the distances themselves."""
    n, m, device = q.shape[-2], k.shape[-2], q.device
    return (
        apply_rope(q, torch.arange(m - n, m, device=device), inv_freq, interleaved=interleaved),
        apply_rope(k, torch.arange(m, device=device), inv_freq, interleaved=interleaved),
    )


def _far(
    q: Tensor, k: Tensor, inv_freq: Tensor, window: float, leak: float | None, interleaved: bool
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose products belong to the clipped distances; without a leak the keys stay as they are."""
    n, m, device = q.shape[-2], k.shape[-2], q.device
    dtype = torch.promote_types(inv_freq.dtype, torch.float32)
    if leak is None:
        at = torch.full((1,), window, device=device, dtype=dtype)
        return apply_rope(q, at, inv_freq, interleaved=interleaved), k
    rows = torch.arange(m - n, m, device=device, dtype=dtype) / leak + window * (1 - 1 / leak)
    columns = torch.arange(m, device=device, dtype=dtype) / leak
    return (
        apply_rope(q, rows, inv_freq, interleaved=interleaved),
        apply_rope(k, columns, inv_freq, interleaved=interleaved),
    )


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
    n, m = q.shape[-2], k.shape[-2]
    rows, columns = torch.arange(m - n, m, device=q.device), torch.arange(m, device=q.device)
    near_q, near_k = _near(q, k, inv_freq, interleaved)
    far_q, far_k = _far(q, k, inv_freq, window, leak, interleaved)
    return torch.where(rows[:, None] - columns < window, near_q @ near_k.mT, far_q @ far_k.mT)


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


def rerope_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inv_freq: Tensor,
    window: float,
    leak: float | None = None,
    *,
    scale: float | None = None,
    interleaved: bool = True,
) -> Tensor:
    r"""Causal softmax attention over the scores of :func:`rerope_scores`.

    .. math:: o_i = \sum_{j\le i} p_{ij} v_j, \qquad
              p_i = \mathrm{softmax}_{j\le i}\bigl(\text{scale}\; q_i\cdot R_{-p(i-j)}\,k_j\bigr)

    It goes by blocks of queries. Keys nearer than w to all queries of a block, and keys farther than w from all of
    them, get one score each; only those between need both. Later keys get none. That is half of one matrix of scores
    and a band, where the direct way takes two whole matrices.

    Args:
        q, k: ``(..., n, d)`` and ``(..., m, d)`` with the same leading axes, not rotated, m ≥ n. The last query is
            aligned with the last key, so that a text can be continued from a cache of unrotated keys.
        v: values ``(..., m, dv)``.
        inv_freq, window, leak, interleaved: as in :func:`rerope_scores`.
        scale: factor of the scores, default 1/√d.

    Returns:
        ``(..., n, dv)``, the dtype of q (under autocast that of its products).

    Raises:
        ValueError: as :func:`rerope_scores`; leading axes that differ.

    Hazards:
        Without gradients memory is O(128·m) per head. For gradients the weights are kept, O(n·m/2).
        For the factor log n multiply q: ``q * logn_scale(positions, train_len)[:, None]``; it commutes with rotations.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> q, k, v = (torch.randn(1, 2, 300, 8, generator=rng) for _ in range(3))
        >>> theta = torch.tensor([1.0, 0.1, 0.01, 0.001])
        >>> out = rerope_attention(q, k, v, theta, 64)
        >>> torch.allclose(out, rerope_attention_plain(q, k, v, theta, 64), atol=1e-5)
        True
        >>> continued = rerope_attention(q[:, :, 290:], k, v, theta, 64)
        >>> torch.allclose(continued, out[:, :, 290:], atol=1e-5)
        True

    Source: https://kexue.fm/archives/9708.
    """
    _check(q, k, inv_freq, window, leak)
    _check_values(q, k, v)
    n, m, w = q.shape[-2], k.shape[-2], math.ceil(window)
    first = m - n  # the position of the first query
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v = (x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:]) for x in (q, k, v))
    device = q.device
    near_q, near_k = _near(q, k, inv_freq, interleaved)
    if w >= m and n == m:  # ordinary rotary attention
        return F.scaled_dot_product_attention(near_q, near_k, v, is_causal=True, scale=scale).view(shape)
    if w < m:
        far_q, far_k = _far(q, k, inv_freq, window, leak, interleaved)
    nothing = near_q.new_zeros(())  # beta = 0: not read
    out = []
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        low, high = first + start, first + stop  # the positions of these queries; keys from high on are later
        far, near = max(0, high - w), max(0, low - w + 1)  # keys below far: some query's far ones; from near on: near
        distance = torch.arange(low, high, device=device)[:, None] - torch.arange(near, high, device=device)
        hidden = torch.zeros(distance.shape, dtype=near_q.dtype, device=device).masked_fill_(distance < 0, -math.inf)
        scores = torch.baddbmm(hidden, near_q[:, start:stop], near_k[:, near:high].mT, alpha=scale)
        if far:
            distant = torch.baddbmm(nothing, far_q[:, start:stop], far_k[:, :far].mT, beta=0, alpha=scale)
            both = torch.where(distance[:, : far - near] < w, scores[..., : far - near], distant[..., near:])
            scores = torch.cat((distant[..., :near], both, scores[..., far - near :]), dim=-1)
        out.append(scores.softmax(-1).to(v.dtype) @ v[:, :high])
    return torch.cat(out, dim=1).view(shape) if out else v.new_empty(shape)


def rerope_attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inv_freq: Tensor,
    window: float,
    leak: float | None = None,
    *,
    scale: float | None = None,
    interleaved: bool = True,
) -> Tensor:
    """The specification of :func:`rerope_attention`: the n×m matrix of scores, a causal mask, softmax, product.

    Example:
        >>> x = torch.ones(2, 4)
        >>> rerope_attention_plain(x, x, torch.tensor([[0.0], [1.0]]), torch.ones(2), 1)[0]   # sees itself only
        tensor([0.])

    Source: https://kexue.fm/archives/9708.
    """
    _check(q, k, inv_freq, window, leak)
    _check_values(q, k, v)
    scores = rerope_scores(q, k, inv_freq, window, leak, interleaved=interleaved)
    n, m = scores.shape[-2:]
    later = torch.arange(m - n, m, device=q.device)[:, None] < torch.arange(m, device=q.device)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return (scale * scores).masked_fill(later, -math.inf).softmax(-1).to(v.dtype) @ v

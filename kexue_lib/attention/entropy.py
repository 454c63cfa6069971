"""The measure of focus: the entropy of attention weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .checks import check_qk
from .kernels import ROWS, row_factors
from .scale import attention_scale, check_scale

__all__ = ["attention_entropy", "attention_entropy_plain", "query_key_entropy", "query_key_entropy_plain"]


def attention_entropy(scores_or_probs: Tensor, *, dim: int = -1, from_logits: bool = True) -> Tensor:
    r"""Entropy of attention weights along one axis, in nats: 0 for a single key, log n for n equal weights.

    .. math:: H = -\sum_i p_i\log p_i = \log\sum_i e^{s_i} - \sum_i p_i s_i, \qquad p = \mathrm{softmax}(s)

    (step D1). It is evaluated as −Σ p · log_softmax(s): the form log Z − Σ p s cancels badly when all scores share a
    large offset, and log(p) is −∞ where p has underflowed.

    Args:
        scores_or_probs: scores s (already multiplied by the scale λ) of any shape, or the weights p if
            ``from_logits=False``. Scores of −∞ are keys that are not visible.
        dim: the axis of the keys, default the last.
        from_logits: whether scores (default) or weights are given. Weights have to sum to one; they are not normalised.
            Prefer scores: weights in bfloat16 have lost most of what entropy needs.

    Returns:
        The shape of the input without ``dim``; float32 for half precision, which 8 bits of mantissa cannot hold.

    Hazards:
        * A row of −∞ only has no weights: its entropy is the empty sum 0, with zero gradient. Leave such rows out of
          averages.
        * NaN or +∞ among the scores, or a negative weight, gives NaN or −∞, never a plausible number.
        * The gradient with respect to a weight that is exactly 0 is defined as 0 (the true one is infinite).

    Example:
        >>> attention_entropy(torch.zeros(2, 4)).exp()
        tensor([4., 4.])
        >>> attention_entropy(torch.tensor([0.0, 0.0, -math.inf])).exp()      # a hidden key does not count
        tensor(2.)
        >>> attention_entropy(torch.tensor([0.5, 0.5, 0.0]), from_logits=False).exp()
        tensor(2.)

    Source: https://kexue.fm/archives/9034, steps D1 and D2.
    """
    if not isinstance(scores_or_probs, Tensor) or not scores_or_probs.is_floating_point():
        kind = scores_or_probs.dtype if isinstance(scores_or_probs, Tensor) else type(scores_or_probs).__name__
        raise TypeError(f"scores_or_probs has type {kind}; a floating-point tensor is needed")
    if scores_or_probs.dim() == 0:
        raise ValueError("scores_or_probs has no axis: a tensor with an axis of keys is needed")
    x = scores_or_probs.to(torch.promote_types(scores_or_probs.dtype, torch.float32))
    if not from_logits:
        return torch.special.entr(torch.where(x == 0, 1, x)).sum(dim)
    hidden = x == -math.inf
    empty = hidden.all(dim, keepdim=True)
    log_p = torch.log_softmax(x.masked_fill(empty, 0), dim)
    # exp(-inf) * (-inf) is NaN: a hidden key contributes 0 * 0 instead.
    terms = log_p.exp() * log_p.masked_fill(hidden, 0)
    return -terms.masked_fill(empty, 0).sum(dim)


def attention_entropy_plain(scores: Tensor, *, dim: int = -1) -> Tensor:
    """The specification of :func:`attention_entropy`: −Σ p log p, by the definition, in float64, for scores.

    Example:
        >>> attention_entropy_plain(torch.tensor([math.log(3.0), 0.0]))     # weights 3/4 and 1/4
        tensor(0.5623, dtype=torch.float64)

    Source: https://kexue.fm/archives/9034, step D1.
    """
    p = torch.softmax(scores.double(), dim)
    return -torch.where(p > 0, p * torch.where(p > 0, p, 1).log(), 0).sum(dim)


def query_key_entropy(
    q: Tensor,
    k: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
    scale: float | None = None,
) -> Tensor:
    """Entropy of each row of attention weights, from queries and keys, in blocks of rows.

    The fused kernels of attention do not give their weights away; this computes what they would be, beside them, with
    O(512·m) instead of O(n·m) memory (unless gradients are kept), and leaves the attention itself untouched.

    Args:
        q, k, mask, is_causal, kind, train_len, min_len: as in :func:`entropy_invariant_attention`.
        scale: a constant λ in place of ``kind``, default ``None``.

    Returns:
        ``(b, h, n)``, float32 or better; 0 where a query sees no key or one key.

    Example:
        >>> q = torch.zeros(1, 1, 4, 8)
        >>> query_key_entropy(q, q, is_causal=True).exp()      # as many equal weights as visible keys
        tensor([[[1., 2., 3., 4.]]])

    Source: https://kexue.fm/archives/9034, steps D1 and D5.
    """
    check_scale(kind, train_len, min_len)
    check_qk(q, k, mask, is_causal)
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale={scale!r} must be a finite number, or None for kind={kind!r}")
    n, m, d = q.shape[2], k.shape[2], q.shape[3]
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    with torch.autocast(q.device.type, enabled=False):  # an entropy of bfloat16 scores would be off in the second digit
        if scale is None:
            rows = row_factors(mask, is_causal, n, m, q.device, dtype, kind, train_len, min_len) / math.sqrt(d)
        else:
            rows = torch.full((1,), scale, dtype=dtype, device=q.device)
        scaled, keys = q.to(dtype) * rows, k.to(dtype).transpose(-1, -2)
        if mask is not None:
            mask = mask[(None,) * (4 - mask.dim())].expand(-1, -1, n, m)
        step = n if torch.compiler.is_compiling() else ROWS
        blocks = []
        for start in range(0, n, step):
            stop = min(start + step, n)
            scores = scaled[:, :, start:stop] @ keys
            if is_causal:
                visible = (
                    torch.arange(m, device=q.device)
                    <= torch.arange(start + m - n, stop + m - n, device=q.device)[:, None]
                )
                scores = scores.masked_fill(~visible, -math.inf)
            if mask is not None:
                scores = scores.masked_fill(~mask[:, :, start:stop], -math.inf)
            blocks.append(attention_entropy(scores))
        return torch.cat(blocks, dim=2)


def query_key_entropy_plain(
    q: Tensor,
    k: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
    scale: float | None = None,
) -> Tensor:
    """The specification of :func:`query_key_entropy`, a row at a time in float64.

    Example:
        >>> q = torch.zeros(1, 1, 2, 8)
        >>> query_key_entropy_plain(q, q).exp()
        tensor([[[2., 2.]]], dtype=torch.float64)

    Source: https://kexue.fm/archives/9034, step D1.
    """
    (b, h, n, d), m = q.shape, k.shape[2]
    out = torch.zeros(b, h, n, dtype=torch.float64)
    for i, j, row in np.ndindex(b, h, n):
        visible = torch.ones(b, h, n, m, dtype=torch.bool)[i, j, row]
        if mask is not None:
            visible = visible & mask.cpu().expand(b, h, n, m)[i, j, row]
        if is_causal:
            visible = visible & (torch.arange(m) <= row + m - n)
        count = int(visible.sum())
        if count > 0:
            lam = attention_scale(count, d, train_len=train_len, min_len=min_len, kind=kind) if scale is None else scale
            out[i, j, row] = attention_entropy_plain(lam * (k[i, j].double() @ q[i, j, row].double()).cpu()[visible])
    return out.to(q.device)

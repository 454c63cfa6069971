"""Attention whose focus does not depend on the length of the text: scales, entropies and their laws.

Softmax attention weighs ``n`` keys by ``p = softmax(lam * q·k)``. With a constant ``lam`` the weights spread as ``n``
grows; a factor that grows with ``log n`` holds them together. This module has

* the scales and the attention: :func:`attention_scale`, :func:`entropy_invariant_attention` (and its plain form),
* the measure of focus: :func:`attention_entropy`, :func:`query_key_entropy` (and their plain forms),
* the laws behind the scales, in float64 NumPy: :func:`softmax_entropy_lower_bound`, :func:`leader_entropy`,
  :func:`leader_lambda`, :func:`invariant_lambda`, :func:`sphere_entropy_drop`, :func:`sphere_entropy_rate`,
  :func:`sphere_lambda`.

Shapes: ``b`` batch, ``h`` heads, ``n`` queries, ``m`` keys, ``d`` width of a query and a key, ``dv`` width of a value.
Masks are boolean with ``True`` = visible. Entropies are in nats.

Sources: Su Jianlin, https://kexue.fm/archives/9034 (2022) and https://kexue.fm/archives/8823 (2021); the steps D1–D9
are those of the chapter *entropy-invariant-softmax*.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

__all__ = [
    "SCALE_KINDS",
    "attention_entropy",
    "attention_entropy_plain",
    "attention_scale",
    "entropy_invariant_attention",
    "entropy_invariant_attention_plain",
    "invariant_lambda",
    "leader_entropy",
    "leader_lambda",
    "query_key_entropy",
    "query_key_entropy_plain",
    "softmax_entropy_lower_bound",
    "sphere_entropy_drop",
    "sphere_entropy_rate",
    "sphere_lambda",
]

SCALE_KINDS = ("sqrt_d", "logn", "sqrt_logn")
"""The scales that :func:`attention_scale` knows."""

# Rows of queries that are handled at once where a row needs all of its scores: memory is O(_ROWS * m), not O(n * m).
_ROWS = 512

Array = npt.NDArray[np.float64]


# ----------------------------------------------------------------------------------------------------------------------
# The scale
# ----------------------------------------------------------------------------------------------------------------------


def _check_scale(kind: str, train_len: float, min_len: int) -> None:
    if kind not in SCALE_KINDS:
        raise ValueError(f"kind={kind!r} is not a known scale; choose one of {', '.join(map(repr, SCALE_KINDS))}")
    if isinstance(train_len, Tensor) or not 1 < train_len < math.inf:
        raise ValueError(f"train_len={train_len!r} must be a number > 1: the factor is log(n) / log(train_len)")
    if isinstance(min_len, (bool, Tensor)) or min_len != int(min_len) or min_len < 1:
        raise ValueError(f"min_len={min_len!r} must be an integer >= 1: shorter rows get the factor of min_len keys")


def _length_factor(count: int | Tensor, kind: str, train_len: float, min_len: int, dtype: torch.dtype) -> Any:
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
    _check_scale(kind, train_len, min_len)
    if d < 1:
        raise ValueError(f"d={d!r} must be >= 1: it is the width of a query and a key")
    if isinstance(n, Tensor):
        if n.dtype == torch.bool or n.is_floating_point() or n.is_complex():
            raise TypeError(
                f"n has dtype {n.dtype}; it counts keys, so give an integer tensor (mask.sum(-1), for example)"
            )
        return _length_factor(n, kind, train_len, min_len, dtype or torch.get_default_dtype()) / math.sqrt(d)
    try:
        count = operator.index(n)
    except TypeError:
        raise TypeError(
            f"n={n!r} ({type(n).__name__}) must be an integer or an integer tensor: it counts keys"
        ) from None
    if count < 1:
        raise ValueError(f"n={n!r} must be >= 1: a query needs a visible key")
    return _length_factor(count, kind, train_len, min_len, torch.float64) / math.sqrt(d)


# ----------------------------------------------------------------------------------------------------------------------
# Attention
# ----------------------------------------------------------------------------------------------------------------------


def _check_qk(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> None:
    for name, x in (("q", q), ("k", k)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape (batch, heads, length, width)")
        if x.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, not (batch, heads, length, width); "
                "add the missing axes with unsqueeze"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} must agree in batch, heads and width; "
            "expand the keys and values if several heads share them"
        )
    if is_causal and q.shape[2] > k.shape[2]:
        raise ValueError(
            f"is_causal with {q.shape[2]} queries and {k.shape[2]} keys: the last query is aligned with the last key, "
            f"so that the first {q.shape[2] - k.shape[2]} queries would see no key; are q and k swapped? "
            "If this is meant, give a mask"
        )
    if mask is not None:
        _check_mask(mask, (*q.shape[:3], k.shape[2]))


def _check_mask(mask: Tensor, full: tuple[int, ...]) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask has type {kind}; a boolean tensor is needed (True = visible), because visible keys are counted; "
            "turn an additive mask into (mask == 0)"
        )
    shape = tuple(mask.shape)
    padded = (1,) * (len(full) - len(shape)) + shape
    if len(shape) > len(full) or any(have != want and have != 1 for have, want in zip(padded, full, strict=True)):
        raise ValueError(
            f"mask of shape {shape} cannot be broadcast to (batch, heads, queries, keys) = {full}; "
            "a padding mask (batch, keys) becomes mask[:, None, None, :]"
        )


def _check_qkv(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float) -> None:
    _check_qk(q, k, mask, is_causal)
    if not isinstance(v, Tensor) or v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        shape = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(
            f"v {shape} must be (batch, heads, keys, dv) with the batch, heads and keys of k {tuple(k.shape)}"
        )
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p={dropout_p!r} must lie in [0, 1)")


def _causal_mask(n: int, m: int, device: torch.device) -> Tensor:
    """(n, m) boolean, lower-right aligned: query i sees the keys j <= i + m - n."""
    return torch.arange(m, device=device) <= torch.arange(m - n, m, device=device)[:, None]


def _visible_keys(
    mask: Tensor | None, is_causal: bool, n: int, m: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """How many keys each query sees, broadcastable to (batch, heads, n, 1)."""
    if mask is not None:
        if is_causal:
            mask = mask & _causal_mask(n, m, device)
        return mask.expand(*mask.shape[:-1], m).sum(-1, keepdim=True)
    if is_causal:
        return torch.arange(m - n + 1, m + 1, device=device, dtype=dtype).unsqueeze(-1)
    return torch.full((1,), m, device=device, dtype=dtype)


def _row_factors(
    mask: Tensor | None,
    is_causal: bool,
    n: int,
    m: int,
    device: torch.device,
    dtype: torch.dtype,
    kind: str,
    train_len: float,
    min_len: int,
) -> Tensor:
    """r of each query's number of visible keys, broadcastable to (batch, heads, n, 1)."""
    count = _visible_keys(mask, is_causal, n, m, device, dtype)
    # This stands beside every causal call: a clamp that the shapes make needless is left out (m − n ≥ 0 was checked).
    clamped = mask is not None or torch.compiler.is_compiling() or min_len > (m - n + 1 if is_causal else m)
    return _length_factor(count, kind, train_len, min_len if clamped else 0, dtype)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float
) -> Tensor:
    """Attention with a constant scale; causal is lower-right aligned, rows without a visible key give 0."""
    n, m = q.shape[2], k.shape[2]
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
        if is_causal:
            mask = mask & _causal_mask(n, m, q.device)
        return _softmax_attention(q, k, v, mask, False, dropout_p, scale)
    if not is_causal or n == m:
        # PyTorch aligns is_causal at the upper left; for n == m that is the same.
        return _softmax_attention(q, k, v, None, is_causal, dropout_p, scale)
    if n == 1:  # decoding: the last query sees everything
        return _softmax_attention(q, k, v, None, False, dropout_p, scale)
    if torch.compiler.is_compiling():  # CausalBias cannot be made inside a traced graph
        bias = _causal_mask(n, m, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    if q.device.type != "cpu":
        bias = causal_lower_right(n, m)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    # The CPU has no lower-right kernel, and CausalBias would make an n×m mask: go by blocks of rows, without the keys
    # that no row sees.
    blocks = []
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        seen = stop + m - n
        visible = _causal_mask(stop - start, seen, q.device)[None, None]
        blocks.append(
            _softmax_attention(q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], visible, False, dropout_p, scale)
        )
    return torch.cat(blocks, dim=2)


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float
) -> Tensor:
    """PyTorch's attention: by its kernel where one is fused, otherwise by its parts. Causal needs n = m."""
    if not _in_parts(q, k, v, dropout_p):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
        )
    b, h, n, dv = *q.shape[:3], v.shape[3]
    if mask is not None:
        mask = mask[0] if mask.shape[:2] == (1, 1) else mask.expand(b, h, -1, -1).flatten(0, 1)
    q, k, v = (x.reshape(b * h, *x.shape[2:]) for x in (q, k, v))
    return _by_parts(q, k, v, mask, is_causal, dropout_p, scale).view(b, h, n, dv)


def _in_parts(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> bool:
    """Whether no kernel is fused: the CPU's takes values as wide as keys, and no dropout.

    PyTorch's fallback keeps the n×m weights and searches them for rows that see no key; :func:`_by_parts` keeps them as
    well, and asks the mask.
    """
    return (
        (q.shape[-1] != v.shape[-1] or dropout_p > 0)
        and q.device.type == "cpu"
        and q.dtype in (torch.float32, torch.float64)
        and q.dtype == k.dtype == v.dtype
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def _by_parts(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float
) -> Tensor:
    """Attention of ``(b, n, d)``, ``(b, m, d)``, ``(b, m, dv)`` as product, softmax, product; causal needs n = m."""
    sees = None
    if mask is not None:
        sees = mask.any(-1, keepdim=True)
        # Rows that see no key get equal weights here and a zero below: no 0/0 on the way, forwards or backwards.
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(sees & ~mask, -math.inf)
    elif is_causal:
        bias = torch.full((q.shape[1], k.shape[1]), -math.inf, dtype=q.dtype, device=q.device).triu_(1)
    else:
        bias = q.new_empty(())  # beta = 0: not read
    visible_all = mask is None and not is_causal
    weights = torch.baddbmm(bias, q, k.transpose(1, 2), beta=0 if visible_all else 1, alpha=scale).softmax(-1)
    if dropout_p > 0:
        weights = F.dropout(weights, dropout_p)
    out = torch.bmm(weights, v)
    return out if sees is None else out.masked_fill(~sees, 0)


def _scale_and_rows(
    q: Tensor, m: int, mask: Tensor | None, is_causal: bool, kind: str, train_len: float, min_len: int
) -> tuple[float, Tensor | None]:
    """A constant scale and, where it is not the same for all rows of q (..., n, d), the factors of the rows."""
    n, d = q.shape[-2:]
    rsqrt_d = 1.0 / math.sqrt(d)
    if kind == "sqrt_d":
        return rsqrt_d, None
    if mask is None and not is_causal and not torch.compiler.is_compiling():
        return _length_factor(m, kind, train_len, min_len, torch.float64) * rsqrt_d, None
    # A factor per row; inside torch.compile always a tensor, so that a symbolic length stays symbolic.
    dtype = torch.promote_types(q.dtype, torch.float32)
    return rsqrt_d, _row_factors(mask, is_causal, n, m, q.device, dtype, kind, train_len, min_len)


def entropy_invariant_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
    dropout_p: float = 0.0,
) -> Tensor:
    r"""Softmax attention whose scale grows with the number of keys that each query sees.

    For query i with the visible keys J(i),

    .. math:: o_i = \sum_{j\in J(i)} p_{ij} v_j, \qquad
              p_i = \mathrm{softmax}_{j\in J(i)}\bigl(\lambda_i\, q_i\cdot k_j\bigr), \qquad
              \lambda_i = \frac{\log\max(|J(i)|, \mathrm{min\_len})}{\log \mathrm{train\_len}}\,\frac1{\sqrt d}

    for ``kind="logn"``; :func:`attention_scale` lists the other kinds. The work is done by
    ``torch.nn.functional.scaled_dot_product_attention`` and its fused kernels (on a CPU, which has none for dv ≠ d and
    for dropout, there by two products and a softmax). If all queries see the same number of keys, the factor becomes
    the kernel's own ``scale`` and costs nothing; otherwise it multiplies the rows of q, once.

    Args:
        q: ``(b, h, n, d)``.
        k: ``(b, h, m, d)``.
        v: ``(b, h, m, dv)``.
        mask: boolean, broadcastable to ``(b, h, n, m)``, ``True`` = visible; default: everything is visible. Padding of
            keys: ``mask[:, None, None, :]``.
        is_causal: query i sees the keys j ≤ i + m − n: the *last* query is aligned with the last key, so that a text
            that is continued from a cache gets the same rows (PyTorch's own ``is_causal`` aligns the *first* ones).
            Together with ``mask``, both must allow the key.
        kind, train_len, min_len: as in :func:`attention_scale`.
        dropout_p: probability with which a weight is dropped, default 0. Set it to 0 for evaluation.

    Returns:
        ``(b, h, n, dv)``, the dtype of q (under autocast that of the fused kernel).

    Raises:
        ValueError: shapes that do not fit, more queries than keys with ``is_causal``, bad scale parameters.
        TypeError: a mask that is not boolean.

    Hazards:
        * A query without any visible key gives a zero row and zero gradients.
        * Row factors are computed in float32 at least; q times its factor is rounded once to the dtype of q.
        * No n×m tensor is made here for ``mask=None`` (for ``is_causal`` with n ≠ m: not on a CPU and not on CUDA, but
          inside ``torch.compile`` a boolean one). Where no fused kernel fits, the n×m weights are kept, e.g. on a CPU
          if dv ≠ d.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> q, k, v = (torch.randn(1, 2, 6, 8, generator=rng) for _ in range(3))
        >>> out = entropy_invariant_attention(q, k, v, train_len=4)
        >>> same = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=attention_scale(6, 8, train_len=4))
        >>> bool((out == same).all())
        True
        >>> causal = entropy_invariant_attention(q, k, v, is_causal=True, train_len=4)
        >>> continued = entropy_invariant_attention(q[:, :, 4:], k, v, is_causal=True, train_len=4)
        >>> torch.allclose(causal[:, :, 4:], continued)
        True

    Source: https://kexue.fm/archives/8823, https://kexue.fm/archives/9034; chapter *entropy-invariant-softmax*, steps
    D5–D9.
    """
    _check_scale(kind, train_len, min_len)
    _check_qkv(q, k, v, mask, is_causal, dropout_p)
    scale, rows = _scale_and_rows(q, k.shape[2], mask, is_causal, kind, train_len, min_len)
    if rows is not None:
        q = (q * rows).to(q.dtype)
    return _attend(q, k, v, mask, is_causal, dropout_p, scale)


def entropy_invariant_attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
) -> Tensor:
    """The specification of :func:`entropy_invariant_attention`: the same formula with the n×m weights written out.

    Readable, differentiable and exact to the dtype of its input; O(n·m) memory. Arguments and result as there, without
    dropout.

    Example:
        >>> q = k = v = torch.eye(2, dtype=torch.float64)[None, None]
        >>> entropy_invariant_attention_plain(q, k, v, train_len=2)[0, 0]   # e^(1/√2) : 1
        tensor([[0.6698, 0.3302],
                [0.3302, 0.6698]], dtype=torch.float64)

    Source: as :func:`entropy_invariant_attention`.
    """
    _check_scale(kind, train_len, min_len)
    _check_qkv(q, k, v, mask, is_causal, 0.0)
    (b, h, n, d), m = q.shape, k.shape[2]
    visible = torch.ones(b, h, n, m, dtype=torch.bool, device=q.device)
    if mask is not None:
        visible = visible & mask
    if is_causal:
        visible = visible & (torch.arange(m)[None, :] <= torch.arange(n)[:, None] + (m - n)).to(q.device)
    lam = attention_scale(visible.sum(-1), d, train_len=train_len, min_len=min_len, kind=kind, dtype=q.dtype)
    scores = lam[..., None] * (q @ k.transpose(-1, -2))
    top = scores.masked_fill(~visible, -math.inf).amax(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).min)
    weights = torch.where(visible, (scores - top.detach()).masked_fill(~visible, 0).exp(), 0)
    total = weights.sum(-1, keepdim=True)
    return (weights / torch.where(total == 0, 1, total)) @ v


# ----------------------------------------------------------------------------------------------------------------------
# Entropy
# ----------------------------------------------------------------------------------------------------------------------


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
    _check_scale(kind, train_len, min_len)
    _check_qk(q, k, mask, is_causal)
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale={scale!r} must be a finite number, or None for kind={kind!r}")
    n, m, d = q.shape[2], k.shape[2], q.shape[3]
    dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), torch.float32)
    with torch.autocast(q.device.type, enabled=False):  # an entropy of bfloat16 scores would be off in the second digit
        if scale is None:
            rows = _row_factors(mask, is_causal, n, m, q.device, dtype, kind, train_len, min_len) / math.sqrt(d)
        else:
            rows = torch.full((1,), scale, dtype=dtype, device=q.device)
        scaled, keys = q.to(dtype) * rows, k.to(dtype).transpose(-1, -2)
        if mask is not None:
            mask = mask[(None,) * (4 - mask.dim())].expand(-1, -1, n, m)
        step = n if torch.compiler.is_compiling() else _ROWS
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


# ----------------------------------------------------------------------------------------------------------------------
# Laws: how the entropy depends on λ and n. Small, float64, NumPy.
# ----------------------------------------------------------------------------------------------------------------------


def _array(name: str, x: npt.ArrayLike | Tensor) -> Array:
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers, not {type(x).__name__}") from None


def _require(good: npt.NDArray[np.bool_] | np.bool_, name: str, values: Array, expected: str) -> None:
    if not np.all(good):
        first = np.broadcast_to(values, np.shape(good))[~np.asarray(good)].flat[0] if np.ndim(good) else values
        raise ValueError(f"{name}={float(first):g} must be {expected}")


def _plain_float(x: Array) -> Any:
    """A Python float for a 0-d result, so that doctests and tables print a number."""
    return float(x) if np.ndim(x) == 0 else x


def _bisect(f: Callable[[Array], Array], target: Array, lo: Array, hi: Array) -> Array:
    """Where the decreasing f passes target, elementwise, to the last bit of [lo, hi]."""
    for _ in range(200):
        mid = 0.5 * (lo + hi)
        if np.all((mid <= lo) | (mid >= hi)):
            break
        above = f(mid) > target
        lo, hi = np.where(above, mid, lo), np.where(above, hi, mid)
    return 0.5 * (lo + hi)


def softmax_entropy_lower_bound(s: npt.ArrayLike | Tensor, lam: npt.ArrayLike = 1.0) -> Any:
    r"""The lower bound log n − λ (max s − mean s) of the entropy of softmax(λ s) (step D4).

    .. math:: H(\lambda) \ge \log n - \lambda\,(s_{\max} - \bar s), \qquad \lambda \ge 0,

    with equality exactly if λ = 0 or all scores are equal: Jensen's inequality bounds log Z from below, and
    Σ p s ≤ max s. It is a bound and no estimate: it goes to −∞ as λ grows, which an entropy cannot.

    Args:
        s: scores ``(..., n)``; −∞ = a key that is not there, it counts neither in n nor in the mean.
        lam: λ ≥ 0, a number or an array that broadcasts with ``(...)``.

    Returns:
        float64 of the broadcast shape of ``(...)`` and ``lam``; a float if that is ().

    Raises:
        ValueError: λ < 0, or a row without any key.

    Example:
        >>> s = np.array([1.0, 0.0, 0.0, -1.0])
        >>> bound, exact = softmax_entropy_lower_bound(s, 0.5), attention_entropy(0.5 * torch.tensor(s)).item()
        >>> print(f"{bound:.4f} <= {exact:.4f}")
        0.8863 <= 1.3257

    Source: https://kexue.fm/archives/9034 (there as an approximation), step D4.
    """
    s, lam = _array("s", s), _array("lam", lam)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(f"s has shape {s.shape}; a last axis of scores is needed")
    _require(lam >= 0, "lam", lam, ">= 0 (the bound is turned around for a negative λ: negate the scores)")
    present = s > -np.inf
    n = present.sum(-1)
    if not n.all():
        raise ValueError("s has a row of -inf only: softmax of no key has no entropy")
    mean = np.where(present, s, 0.0).sum(-1) / n
    return _plain_float(np.log(n) - lam * (s.max(-1) - mean))


def leader_entropy(n: npt.ArrayLike, lead: npt.ArrayLike) -> Any:
    r"""Entropy of softmax(L, 0, …, 0): one key leads the n − 1 others by L = λΔ (step D6).

    .. math:: p_1 = \frac1{1+(n-1)e^{-L}}, \qquad H(n, L) = \log\bigl(1+(n-1)e^{-L}\bigr) + (1-p_1)\,L

    Args:
        n: number of keys, ≥ 1; may be huge (1e30) and need not be whole.
        lead: L, any real number.

    Returns:
        float64 of the broadcast shape; a float if both are numbers.

    Hazards:
        For n ≥ 2 the entropy falls from log n to 0 as L grows from 0; for −L it is another function (the leader
        trails).

    Example:
        >>> n = np.array([1e2, 1e4, 1e8])
        >>> for kappa in (0.5, 1, 2):                  # L = κ log n keeps H at no constant: κ = 1 is a transition
        ...     print(kappa, np.round(leader_entropy(n, kappa * np.log(n)), 2))
        0.5 [ 4.48  9.17 18.42]
        1 [2.98 5.3  9.9 ]
        2 [0.1 0.  0. ]

    Source: chapter *entropy-invariant-softmax*, step D6.
    """
    n, lead = _array("n", n), _array("lead", lead)
    _require(n >= 1, "n", n, ">= 1: it counts keys")
    with np.errstate(divide="ignore"):
        odds = np.log(n - 1) - lead  # log((1 - p1)/p1)
    log_z = np.logaddexp(0.0, odds)
    return _plain_float(log_z + np.exp(odds - log_z) * lead)


def leader_lambda(n: npt.ArrayLike, h0: npt.ArrayLike) -> Any:
    r"""The lead L = λΔ ≥ 0 with which one leader among n keys has the entropy H₀ (step D6).

    Solves H(n, L) = H₀ of :func:`leader_entropy` by bisection to the last bit. As n → ∞

    .. math:: L = \log n + \log\log n - \log H_0 + o(1),

    so that L/log n → 1: the provable form of "λ must grow like log n".

    Args:
        n: number of keys, > 1; may be huge.
        h0: the entropy, 0 < H₀ < log n, in nats.

    Returns:
        float64 of the broadcast shape; a float if both are numbers.

    Raises:
        ValueError: H₀ outside (0, log n).

    Example:
        >>> np.round(leader_lambda([2**6, 1e6, 1e30], 1.0) / np.log([2**6, 1e6, 1e30]), 3)
        array([1.428, 1.204, 1.062])

    Source: chapter *entropy-invariant-softmax*, step D6.
    """
    n, h0 = np.broadcast_arrays(_array("n", n), _array("h0", h0))
    _require(n > 1, "n", n, "> 1")
    _require((h0 > 0) & (h0 < np.log(n)), "h0", h0, "between 0 and log(n), without the ends")
    hi = np.log(n) + 1.0
    for _ in range(64):
        hi = np.where(_array("", leader_entropy(n, hi)) > h0, 2 * hi, hi)
    return _plain_float(_bisect(lambda lead: _array("", leader_entropy(n, lead)), h0, np.zeros_like(hi), hi))


def invariant_lambda(scores: npt.ArrayLike | Tensor, h0: float, *, per_row: bool = False) -> Any:
    r"""The λ > 0 with which softmax(λ s) has the entropy H₀, for given scores.

    Solves mean over rows of H(λ) = H₀, or H(λ) = H₀ for each row, by Newton's method in log λ, kept inside a bracket.
    It uses dH/d log λ = −Var_p(λ s) ≤ 0 (step D3): H falls monotonically, so that the solution is unique.

    Args:
        scores: ``(..., n)`` float64; −∞ = a key that is not there. Rows are all axes but the last.
        h0: the entropy in nats; between the logarithm of the number of keys that share the maximum (usually log 1 = 0)
            and log n.
        per_row: whether each row gets its own λ; default one λ for the mean entropy over rows.

    Returns:
        A float, or with ``per_row`` float64 of the shape of the rows. H(λ) equals H₀ to about 1e-12.

    Raises:
        ValueError: no such λ exists: H₀ ≥ log n, or ties at the top keep the entropy above H₀.

    Example:
        >>> s = np.random.default_rng(0).normal(size=(64, 512))
        >>> lam = invariant_lambda(s, 2.0)
        >>> round(attention_entropy(lam * torch.tensor(s)).mean().item(), 10)
        2.0

    Source: chapter *entropy-invariant-softmax*, steps D3 and D7, quick experiment A.
    """
    s = _array("scores", scores)
    if s.ndim == 0 or s.size == 0:
        raise ValueError(f"scores has shape {s.shape}; at least one row of scores is needed")
    shape, s = s.shape[:-1], s.reshape(-1, s.shape[-1])
    present = s > -np.inf
    count = present.sum(-1)
    if np.isnan(s).any() or (s == np.inf).any() or not count.all():
        raise ValueError("scores has NaN, +inf or a row of -inf only")
    top = np.log(count) if per_row else np.log(count).mean(keepdims=True)
    h0 = float(h0)
    if not 0 < h0 < top.min():
        raise ValueError(f"h0={h0:g} must lie between 0 and log(n) = {top.min():.4g}, without the ends")
    gap = np.where(present, s - s.max(-1, keepdims=True), 0.0)
    all_present = bool(present.all())
    ties = np.log(((gap == 0) & present).sum(-1))  # H as λ → ∞
    ties = ties if per_row else ties.mean(keepdims=True)
    z, w = np.empty_like(gap), np.empty_like(gap)  # reused: the arrays are large and there are a dozen rounds

    def moments(log_lam: Array) -> tuple[Array, Array]:
        """Entropy and Var_p(λ s), a row each, or their means over the rows."""
        np.multiply(gap, np.exp(log_lam)[:, None], out=z)
        np.maximum(z, -1e4, out=z)  # exp gives 0 from −746 on; keeps z² finite
        np.exp(z, out=w)
        if not all_present:
            np.multiply(w, present, out=w)
        total = w.sum(-1)
        first = np.einsum("ij,ij->i", w, z) / total
        np.multiply(z, z, out=z)
        second = np.einsum("ij,ij->i", w, z) / total
        entropy, variance = np.log(total) - first, second - first**2
        return (entropy, variance) if per_row else (entropy.mean(keepdims=True), variance.mean(keepdims=True))

    # H = log n - λ²σ²/2 + … for small λ gives the start; then widen until the bracket holds.
    spread = np.sqrt((gap**2).sum(-1) / count - (gap.sum(-1) / count) ** 2)
    spread = spread if per_row else spread.mean(keepdims=True)
    if not np.all(spread > 0):
        raise ValueError(f"scores are all equal: their entropy is log(n) for every λ, never {h0:g}")
    if not np.all(ties < h0):
        raise ValueError(
            f"no λ gives the entropy h0={h0:g}: ties among the largest scores keep it above {ties.max():.4g}"
        )
    x = np.log(np.sqrt(2 * (top - h0)) / spread)
    lo, hi = np.full_like(x, -np.inf), np.full_like(x, np.inf)
    for _ in range(200):
        entropy, variance = moments(x)
        lo, hi = np.where(entropy >= h0, x, lo), np.where(entropy >= h0, hi, x)
        done = np.abs(entropy - h0) <= 1e-13 * max(1.0, h0)
        if np.all(done | (hi - lo <= 4e-16 * np.maximum(1.0, np.abs(x)))):
            return _plain_float(np.exp(x).reshape(shape if per_row else ()))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip((entropy - h0) / variance, -2.0, 2.0)
        guess = x + np.where(np.isnan(step), 2.0, step)
        inside = (guess > lo) & (guess < hi)
        x = np.where(done, x, np.where(inside, guess, 0.5 * (np.maximum(lo, x - 2) + np.minimum(hi, x + 2))))
    raise ArithmeticError(f"invariant_lambda did not converge for h0={h0:g}; scale the scores to the order of 1")


def sphere_entropy_rate(lam: npt.ArrayLike) -> Any:
    r"""The entropy that softmax loses per dimension on a high-dimensional sphere: lim drop/d = g(λ) (step D8).

    .. math:: g(\lambda) = -\tfrac12\log(1-t_*^2), \qquad t_* = \frac{\sqrt{1+4\lambda^2}-1}{2\lambda},
              \qquad g(1) = \tfrac12\log\frac{1+\sqrt5}2 = 0.2406\dots

    g(λ) = λ²/2 − … for small λ and ½ log λ + o(1) for large λ: not linear.

    Args:
        lam: λ ≥ 0.

    Returns:
        float64 of the shape of ``lam``; a float for a number.

    Example:
        >>> np.round(sphere_entropy_rate([0.125, 1.0, 4.0]), 5)
        array([0.00764, 0.24061, 0.75549])

    Source: https://kexue.fm/archives/8823 and 7695; step D8.
    """
    lam = _array("lam", lam)
    _require(lam >= 0, "lam", lam, ">= 0")
    return _plain_float(_half_log_cosh2(lam))


def _half_log_cosh2(lam: Array) -> Array:
    """−½ log(1 − t*²), without cancellation: 1 − t*² = 2/(1 + √(1+4λ²))."""
    root = np.hypot(1.0, 2 * lam)
    return 0.5 * np.log1p(2 * lam / (1 + root) * lam)


def sphere_entropy_drop(lam: npt.ArrayLike, d: float) -> Any:
    r"""log n − H, as n → ∞, of softmax(λ q·k) over keys that are uniform on the sphere of radius √d (step D8).

    q and k have norm √d, so that the scores are a t with a = λd and the cosine t of density ∝ (1 − t²)^{(d−3)/2}. With
    ν = d/2 − 1,

    .. math:: \log n - H \to a\,\frac{I_{\nu+1}(a)}{I_\nu(a)} - \log\Bigl[\Gamma(d/2)\,(2/a)^\nu I_\nu(a)\Bigr] .

    The Bessel functions overflow for a > 700 and the difference cancels for small a, so the integrals behind them are
    computed instead: with t = tanh x the density is (cosh x)^{1−d}, the tilted one peaks at t* of
    :func:`sphere_entropy_rate` (with d − 1 in place of d), and the trapezoidal rule around that peak converges
    exponentially. Agrees with ``mpmath`` to a relative error of 1e-12 or better for d = 2 … 4096 and λ = 10⁻⁶ … 10⁸
    (tested).

    Args:
        lam: λ ≥ 0, a number or an array.
        d: dimension, a number ≥ 2.

    Returns:
        float64 of the shape of ``lam``, in nats; a float for a number.

    Raises:
        ValueError: λ < 0 or not finite, d < 2.

    Hazards:
        The limit n → ∞ is taken for fixed λ and d. For finite n it holds while the drop is well below log n; a drop
        above log n means that a few nearest keys have all the weight.

    Example:
        >>> [round(sphere_entropy_drop(1.0, d) / d, 5) for d in (16, 64, 512)]
        [0.2454, 0.24177, 0.24075]

    Source: https://kexue.fm/archives/8823 (λ = 1 by Laplace's method, 7695); the exact form is step D8.
    """
    lam = _array("lam", lam)
    _require((lam >= 0) & (lam < 1e100), "lam", lam, "a finite number >= 0")
    if not 2 <= d < math.inf:
        raise ValueError(f"d={d!r} must be a number >= 2: the sphere lives in d dimensions")
    width = 1.0 / math.sqrt(2 * (d - 1))  # of the narrowest peak; the widest is √2 times that
    h = min(width / 3, 0.1)
    y = h * np.arange(-math.ceil((12 * width + 45 / (d - 1)) / h), math.ceil((12 * width + 45 / (d - 1)) / h) + 1)
    sinh, t = np.sinh(y), np.tanh(y)
    log_cosh = np.where(
        np.abs(y) < 1, 0.5 * np.log1p(sinh**2), np.abs(y) + np.log1p(np.exp(-2 * np.abs(y))) - math.log(2)
    )
    uniform = np.exp((1 - d) * log_cosh)
    z0 = uniform.sum()

    def near_uniform(a: Array) -> Array:
        """A small drop: even and odd parts in t, where nothing cancels."""
        at = a[:, None] * t
        log_mean = np.log1p((2 * uniform * np.sinh(at / 2) ** 2).sum(-1) / z0)
        return a * (uniform * t * np.sinh(at)).sum(-1) / (uniform * np.cosh(at)).sum(-1) - log_mean

    def peaked(a: Array) -> Array:
        """A large drop: everything relative to the peak x* of the tilted density, y = x − x*."""
        mu = (a / (d - 1))[:, None]
        root = np.hypot(1.0, 2 * mu)
        peak = 2 * mu / (1 + root)  # t*
        one_minus = 2 / (1 + root) / (1 + peak)  # 1 − t*
        c = 0.5 * ((1 + peak) * np.exp(y) + one_minus * np.exp(-y))  # cosh x / cosh x*
        shift = (d - 1) * peak * sinh / c  # a (t − t*)
        tilted = np.exp(shift - (d - 1) * np.log(c))
        z1 = tilted.sum(-1)
        return (d - 1) * _half_log_cosh2(mu[:, 0]) - np.log(z1 / z0) + (tilted * shift).sum(-1) / z1

    a = (lam * d).ravel()
    small = a**2 < 2 * d
    drop = np.empty_like(a)
    drop[small], drop[~small] = near_uniform(a[small]), peaked(a[~small])
    return _plain_float(drop.reshape(lam.shape))


def sphere_lambda(n: npt.ArrayLike, d: float, h0: float) -> Any:
    r"""The λ that gives n keys on a sphere the entropy H₀: drop(λ, d) = log n − H₀ (step D8).

    The drop is that of :func:`sphere_entropy_drop`. While it is small against d, λ ≈ √(2 (log n − H₀)/d): 1/√d comes
    out by itself, with √log n. As n → ∞ at fixed d it becomes a power, λ ∝ n^{2/(d−1)}.

    Args:
        n: number of keys, log n > H₀.
        d: dimension, ≥ 2.
        h0: the entropy in nats, > 0.

    Returns:
        float64 of the shape of ``n``; a float for a number.

    Raises:
        ValueError: H₀ outside (0, log n), d < 2.

    Hazards:
        Inherits the limit n → ∞ of the drop; good while log n − H₀ is well below log n.

    Example:
        >>> np.round(sphere_lambda([64, 4096], 64, 2.0) * np.sqrt(64 / (2 * (np.log([64, 4096]) - 2))), 3)
        array([1.051, 1.157])

    Source: chapter *entropy-invariant-softmax*, step D8.
    """
    n = _array("n", n)
    _require((h0 > 0) & (h0 < np.log(n)), "h0", _array("h0", h0), "between 0 and log(n), without the ends")
    target = h0 - np.log(n)  # of the decreasing function −drop
    lo, hi = np.full_like(target, math.log(1e-9)), np.zeros_like(target)
    for _ in range(12):
        hi = np.where(-_array("", sphere_entropy_drop(np.exp(hi), d)) > target, 2 * hi + 1, hi)
        if hi.max() > 220:
            raise ValueError(f"n={float(n.max()):g} is too large for d={d}: λ would leave the range of float64")
    return _plain_float(np.exp(_bisect(lambda x: -_array("", sphere_entropy_drop(np.exp(x), d)), target, lo, hi)))

"""Softmax attention with a constant scale, by the best kernel that there is; visible keys and the factors of rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from .scale import length_factor

# Rows of queries that are handled at once where a row needs all of its scores: memory is O(ROWS * m), not O(n * m).
ROWS = 512


def causal_mask(n: int, m: int, device: torch.device) -> Tensor:
    """(n, m) boolean, lower-right aligned: query i sees the keys j <= i + m - n."""
    return torch.arange(m, device=device) <= torch.arange(m - n, m, device=device)[:, None]


def _visible_keys(
    mask: Tensor | None, is_causal: bool, n: int, m: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """How many keys each query sees, broadcastable to (batch, heads, n, 1)."""
    if mask is not None:
        if is_causal:
            mask = mask & causal_mask(n, m, device)
        return mask.expand(*mask.shape[:-1], m).sum(-1, keepdim=True)
    if is_causal:
        return torch.arange(m - n + 1, m + 1, device=device, dtype=dtype).unsqueeze(-1)
    return torch.full((1,), m, device=device, dtype=dtype)


def row_factors(
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
    return length_factor(count, kind, train_len, min_len if clamped else 0, dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float
) -> Tensor:
    """Attention with a constant scale; causal is lower-right aligned, rows without a visible key give 0."""
    n, m = q.shape[2], k.shape[2]
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
        if is_causal:
            mask = mask & causal_mask(n, m, q.device)
        return _softmax_attention(q, k, v, mask, False, dropout_p, scale)
    if not is_causal or n == m:
        # PyTorch aligns is_causal at the upper left; for n == m that is the same.
        return _softmax_attention(q, k, v, None, is_causal, dropout_p, scale)
    if n == 1:  # decoding: the last query sees everything
        return _softmax_attention(q, k, v, None, False, dropout_p, scale)
    if torch.compiler.is_compiling():  # CausalBias cannot be made inside a traced graph
        bias = causal_mask(n, m, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    if q.device.type != "cpu":
        bias = causal_lower_right(n, m)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p, scale=scale)
    # The CPU has no lower-right kernel, and CausalBias would make an n×m mask: go by blocks of rows, without the keys
    # that no row sees.
    blocks = []
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        seen = stop + m - n
        visible = causal_mask(stop - start, seen, q.device)[None, None]
        blocks.append(
            _softmax_attention(q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], visible, False, dropout_p, scale)
        )
    return torch.cat(blocks, dim=2)


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float, scale: float
) -> Tensor:
    """PyTorch's attention: by its kernel where one is fused, otherwise by its parts. Causal needs n = m."""
    if not in_parts(q, k, v, dropout_p):
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout_p, is_causal=is_causal, scale=scale
        )
    b, h, n, dv = *q.shape[:3], v.shape[3]
    if mask is not None:
        mask = mask[0] if mask.shape[:2] == (1, 1) else mask.expand(b, h, -1, -1).flatten(0, 1)
    q, k, v = (x.reshape(b * h, *x.shape[2:]) for x in (q, k, v))
    return by_parts(q, k, v, mask, is_causal, dropout_p, scale).view(b, h, n, dv)


def in_parts(q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> bool:
    """Whether no kernel is fused: the CPU's takes values as wide as keys, and no dropout.

    PyTorch's fallback keeps the n×m weights and searches them for rows that see no key; :func:`by_parts` keeps them as
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


def by_parts(
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


def scaled_queries(
    q: Tensor, m: int, mask: Tensor | None, is_causal: bool, kind: str, train_len: float, min_len: int
) -> tuple[Tensor, float]:
    """The queries (..., n, d), times the factors of their rows where these differ, and the scale of all rows."""
    n, d = q.shape[-2:]
    rsqrt_d = 1.0 / math.sqrt(d)
    if kind == "sqrt_d":
        return q, rsqrt_d
    if mask is None and not is_causal and not torch.compiler.is_compiling():
        return q, length_factor(m, kind, train_len, min_len, torch.float64) * rsqrt_d
    # A factor per row; inside torch.compile always a tensor, so that a symbolic length stays symbolic.
    dtype = torch.promote_types(q.dtype, torch.float32)
    rows = row_factors(mask, is_causal, n, m, q.device, dtype, kind, train_len, min_len)
    return (q * rows).to(q.dtype), rsqrt_d

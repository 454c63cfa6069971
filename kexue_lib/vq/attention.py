"""Softmax attention over quantized keys in linear time: blocks, their gradients, and the streaming state."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .blocks import BlockAttention, CacheGrad, Options, aggregate, refuse_second_derivative
from .checks import check_attention
from .codebook import gather_codes

# Without a window the length of a block is free: small blocks have few local scores, large ones copy the cache less.
_TILE = 128


class VQAttentionState(NamedTuple):
    r"""What a causal stream has to remember: O(c dv) numbers and fewer than two blocks of tokens, however long it is.

    Args:
        counts: ``(b, h, c)``, how often each code occurs in the cache N_s (step D3).
        means: ``(b, h, c, dv)``, the mean of the values of each code, V̄_s; 0 where the count is 0.
        recent_codes: ``(b, h, r)``, codes of the last r < 2 ``block_size`` tokens, which are not in the cache yet.
        recent_v: ``(b, h, r, dv)``, their values.
        block_size: that of the calls which made the state, and of those which use it.

    Hazards:
        The keys themselves are not kept: a state goes with the codebook that made it. Counts in float32 are exact up to
        2²⁴ tokens of one code.

    Source: https://kexue.fm/archives/9844; chapter *vq-key-linear-attention*, steps D3–D5.
    """

    counts: Tensor
    means: Tensor
    recent_codes: Tensor
    recent_v: Tensor
    block_size: int


def vq_attention(
    q: Tensor,
    codebook: Tensor,
    codes: Tensor,
    v: Tensor,
    *,
    k_hat: Tensor | None = None,
    causal: bool = True,
    block_size: int = 512,
    bias: Tensor | None = None,
    scale: float | None = None,
    cache_grad: CacheGrad = False,
    state: VQAttentionState | None = None,
    return_state: bool = False,
) -> Any:
    r"""Exact softmax attention over quantized keys K̂ = ΔC, in time and memory that are linear in n.

    .. math:: o_i = \frac{\sum_{j\le i} e^{\lambda q_i\cdot C_{z_j} + B_{i-j}} v_j}{\sum_{j\le i} e^{\lambda q_i\cdot
              C_{z_j} + B_{i-j}}}

    Keys with the same code have the same score, so all tokens that lie at least one block behind a query's own block
    enter as c terms: one for each code s, with score λ q·C_s + ln N_s and value V̄_s, the mean of that code's values
    (steps D3 and D5). The block of the query and the one before it are treated token by token; only there the bias may
    differ from zero.

    Args:
        q: queries, ``(b, h, n, dk)``.
        codebook: C, ``(h, c, dk)``.
        codes: z, integers, ``(b, h, n)``.
        v: values, ``(b, h, n, dv)``.
        k_hat: ``(b, h, n, dk)``, the quantized keys ``codebook[codes]``, with a straight-through estimator behind them
            if the keys are to learn. Default: taken from the codebook. Its *values* must be those of the codebook.
        causal: query i sees the keys j ≤ i (default); otherwise every query sees every key.
        block_size: length l of a block. It does not change the result, except that it is the width of ``bias`` and
            the window of the gradients that ``cache_grad`` leaves.
        bias: ``(h, block_size)``, added to a score by distance i − j = 0 … l − 1; from distance l on the bias is zero
            (that means unbiased, not masked). Only for ``causal``.
        scale: λ, default dk^(−1/2).
        cache_grad: what the terms of the cache pass back.

            * ``False`` (default, as Transformer-VQ trains): nothing. Values and keys learn from queries of their own
              and the next block only; queries learn from everything.
            * ``True``: to ``v`` exactly; to ``codebook`` as far as the cache uses it.
            * ``"exact"``: to ``v`` and to every ``k_hat`` exactly what dense attention passes back (step D7), in
              O(n · c dk dv) time, or in O(n² (dk + dv)) where that is less: either way with linear memory. The keys are
              ``k_hat``, so the codebook gets nothing beside them.
        state: what an earlier call returned: the sequence goes on. Nothing is passed back into a state.
        return_state: also return the state after the last token.

    Returns:
        ``(b, h, n, dv)`` in the dtype of q; with ``return_state`` a pair of this and a :class:`VQAttentionState`.

    Raises:
        ValueError: shapes that do not fit, a bias whose width is not ``block_size`` or without ``causal``, a codebook
            in half precision, a state of another block size.
        IndexError: codes outside 0 … c − 1 (on a CPU; other devices are not stopped to look).

    Hazards:
        * Scores and sums are computed in float32 at least, whatever the dtype of q, k_hat and v.
        * Quantize keys before any rotation: rotary positions make the score depend on j besides the code (step D9).
        * Second derivatives are not available, and asking for them is an error.

    Example:
        >>> from kexue_lib.vq import vq_assign
        >>> rng = torch.Generator().manual_seed(0)
        >>> q, k, v = (torch.randn(1, 2, 6, 4, generator=rng) for _ in range(3))
        >>> codebook = torch.randn(2, 3, 4, generator=rng)
        >>> codes, k_hat = vq_assign(k, codebook)
        >>> out = vq_attention(q, codebook, codes, v, block_size=2)
        >>> dense = torch.nn.functional.scaled_dot_product_attention(q, k_hat, v, is_causal=True)
        >>> torch.allclose(out, dense, atol=1e-6)
        True
        >>> first, state = vq_attention(q[:, :, :5], codebook, codes[:, :, :5], v[:, :, :5], return_state=True)
        >>> last = vq_attention(q[:, :, 5:], codebook, codes[:, :, 5:], v[:, :, 5:], state=state)
        >>> torch.allclose(torch.cat((first, last), 2), dense, atol=1e-6)
        True

    Source: https://kexue.fm/archives/9844; Transformer-VQ, arXiv 2309.16354; chapter *vq-key-linear-attention*, steps
    D1–D8.
    """
    check_attention(q, codebook, codes, v, k_hat, causal, block_size, bias, scale, cache_grad, state, return_state)
    lam = 1.0 / math.sqrt(q.shape[3]) if scale is None else float(scale)
    with torch.autocast(q.device.type, enabled=False):
        if not causal:
            return _attend_all(q, codebook, codes, v, k_hat, lam, cache_grad).to(q.dtype)
        out = _attend_causal(q, codebook, codes, v, k_hat, block_size, bias, lam, cache_grad, state).to(q.dtype)
        if not return_state:
            return out
        with torch.no_grad():
            return out, _next_state(codes, v, codebook.shape[1], block_size, state)


# ----------------------------------------------------------------------------------------------------------------------
# Causal: from the public arguments to rows of blocks
# ----------------------------------------------------------------------------------------------------------------------


def _work_dtype(*tensors: Tensor | None) -> torch.dtype:
    dtype = torch.float32
    for x in tensors:
        if x is not None:
            dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def _attend_causal(
    q: Tensor,
    codebook: Tensor,
    codes: Tensor,
    v: Tensor,
    k_hat: Tensor | None,
    block_size: int,
    bias: Tensor | None,
    scale: float,
    cache_grad: CacheGrad,
    state: VQAttentionState | None,
) -> Tensor:
    (b, h, n, _), c, d_v = q.shape, codebook.shape[1], v.shape[3]
    if n == 0:
        return v.new_zeros(b, h, 0, d_v)
    dtype = _work_dtype(q, codebook, v, k_hat, bias)
    counts = torch.zeros(b, h, c, dtype=dtype, device=q.device)
    sums = torch.zeros(b, h, c, d_v, dtype=dtype, device=q.device)
    if state is not None:
        counts, sums = state.counts.to(dtype), (state.means * state.counts.unsqueeze(-1)).to(dtype)
        codes = torch.cat((state.recent_codes.to(codes.dtype), codes), dim=2)
        v = torch.cat((state.recent_v.to(v.dtype), v), dim=2)
    total = codes.shape[2]
    old = total - n  # tokens that are known from before
    own_keys = k_hat is not None
    if k_hat is None:
        k_hat = gather_codes(codebook, codes)
        cache_grad = cache_grad is not False  # local or not, the codebook collects it: True and "exact" are one
    elif old:
        k_hat = torch.cat((gather_codes(codebook.detach(), codes[:, :, :old]).to(k_hat.dtype), k_hat), dim=2)
    learns = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, codebook, v, k_hat, bias))
    if old and not learns and old % block_size + n <= block_size:
        return _attend_rows(q, k_hat, v, codebook, bias, counts, sums, scale, dtype)
    if old:
        q = torch.cat((q.new_zeros(b, h, old, q.shape[3]), q), dim=2)
    # Gradients end with the window if the cache passes nothing back (False), or not to the keys that were given (True).
    cut = (cache_grad is False and (k_hat.requires_grad or v.requires_grad)) or (
        cache_grad is True and own_keys and k_hat.requires_grad
    )
    # Where neither a bias nor a gradient knows the window, blocks may have any length.
    windowed = bias is not None or (learns and cut)
    length = min(block_size if windowed else _TILE, total)
    if bias is not None:
        bias = bias[:, :length]  # a text within one block
    pad = -total % length
    rows = b * h

    def blocks(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, pad)) if pad else x
        return x.reshape(rows, (total + pad) // length, length, x.shape[-1])

    keys = codebook.expand(b, *codebook.shape).reshape(rows, c, -1).to(dtype)
    out = BlockAttention.apply(
        blocks(q),
        blocks(k_hat),
        blocks(v),
        keys if cache_grad is True else keys.detach(),
        bias,
        blocks(codes.unsqueeze(-1)).squeeze(-1),
        counts.reshape(rows, c),
        sums.reshape(rows, c, d_v),
        Options(windowed, scale, cache_grad, h, dtype),
    )
    return out.reshape(b, h, total + pad, d_v)[:, :, old:total]


def _attend_rows(
    q: Tensor,
    k_hat: Tensor,
    v: Tensor,
    codebook: Tensor,
    bias: Tensor | None,
    counts: Tensor,
    sums: Tensor,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    """A few queries at the end of a stream that fit into the current block: what decoding needs."""
    n, m = q.shape[2], v.shape[2]
    q = q.to(dtype) * scale
    distance = torch.arange(m - n, m, device=q.device)[:, None] - torch.arange(m, device=q.device)
    local = q @ k_hat.to(dtype).transpose(-1, -2)
    if bias is not None:
        local = local + _toeplitz(bias.to(dtype), distance)
    local = local.masked_fill(distance < 0, -math.inf)
    cache = q @ codebook.to(dtype).transpose(-1, -2) + counts.log().unsqueeze(-2)
    weights = torch.softmax(torch.cat((local, cache), dim=-1), dim=-1)
    means = sums / counts.clamp(min=1).unsqueeze(-1)
    return weights[..., :m] @ v.to(dtype) + weights[..., m:] @ means


def _toeplitz(bias: Tensor, distance: Tensor) -> Tensor:
    """(h, *distance.shape): the bias at each distance, zero beyond its width."""
    width = bias.shape[-1]
    inside = (distance >= 0) & (distance < width)
    return torch.where(inside, bias[..., distance.clamp(0, width - 1)], 0.0)


def _next_state(codes: Tensor, v: Tensor, c: int, block_size: int, state: VQAttentionState | None) -> VQAttentionState:
    """All blocks before the one before the current one go into the cache; the rest stays as it is."""
    b, h, _, d_v = v.shape
    dtype = _work_dtype(v)
    if state is None:
        counts = torch.zeros(b, h, c, dtype=dtype, device=v.device)
        means = torch.zeros(b, h, c, d_v, dtype=dtype, device=v.device)
    else:
        counts, means = state.counts, state.means
        codes = torch.cat((state.recent_codes, codes), dim=2)
        v = torch.cat((state.recent_v.to(v.dtype), v), dim=2)
    gone = max(0, codes.shape[2] // block_size - 1) * block_size
    if gone:
        new_counts, new_sums = aggregate(codes[:, :, :gone].flatten(0, 1), v[:, :, :gone].flatten(0, 1), c, dtype)
        more = new_counts.view_as(counts)
        counts = counts + more
        # V̄ ← V̄ + (Σ v − N_new V̄)/N: the mean moves, no large sum is kept (D3).
        step = new_sums.view_as(means) - more.unsqueeze(-1) * means
        means = means + step / counts.clamp(min=1).unsqueeze(-1)
    return VQAttentionState(
        counts, means, codes[:, :, gone:].detach().clone(), v[:, :, gone:].detach().clone(), block_size
    )


# ----------------------------------------------------------------------------------------------------------------------
# Not causal: every query sees every key, so there is nothing but the cache (step D2)
# ----------------------------------------------------------------------------------------------------------------------


def _attend_all(
    q: Tensor,
    codebook: Tensor,
    codes: Tensor,
    v: Tensor,
    k_hat: Tensor | None,
    scale: float,
    cache_grad: CacheGrad,
) -> Tensor:
    (b, h, n, _), c = q.shape, codebook.shape[1]
    if n == 0:
        return v.new_zeros(v.shape)
    dtype = _work_dtype(q, codebook, v, k_hat)
    flat = codes.flatten(0, 1)
    values = v.to(dtype) if cache_grad else v.detach().to(dtype)
    counts, sums = aggregate(flat, values.flatten(0, 1), c, dtype)
    means = (sums / counts.clamp(min=1).unsqueeze(-1)).view(b, h, c, -1)
    keys = codebook.to(dtype)
    if cache_grad is not True and not (cache_grad == "exact" and k_hat is None):
        keys = keys.detach()
    keys = keys.expand(b, -1, -1, -1)
    if cache_grad == "exact" and k_hat is not None:
        # The value of a code's score is that of C_s; its gradient goes to each key by itself (D7).
        return _AttendAllExact.apply(q, k_hat, v, keys, codes, counts.view(b, h, c), means.detach(), scale, dtype)
    return _over_codes(q.to(dtype) * scale, keys, counts.view(b, h, c), means)[1]


def _over_codes(q: Tensor, keys: Tensor, counts: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the codes and output."""
    weights = torch.softmax(q @ keys.transpose(-1, -2) + counts.log().unsqueeze(-2), dim=-1)
    return weights, weights @ means


class _AttendAllExact(torch.autograd.Function):
    """Every query sees every key, and every key gets its own gradient (D7 with the sum over all queries)."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k_hat: Tensor,
        v: Tensor,
        keys: Tensor,
        codes: Tensor,
        counts: Tensor,
        means: Tensor,
        scale: float,
        dtype: torch.dtype,
    ) -> Tensor:
        _, out = _over_codes(q.to(dtype) * scale, keys, counts, means)
        ctx.save_for_backward(q, k_hat, v, keys, codes, counts, means, out)
        ctx.scale, ctx.dtype = scale, dtype
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        q, k_hat, v, keys, codes, counts, means, out = ctx.saved_tensors
        (b, h, n, d_k), c, d_v = q.shape, keys.shape[2], v.shape[3]
        scaled = q.to(ctx.dtype) * ctx.scale
        weights, _ = _over_codes(scaled, keys, counts, means)
        g_o = (grad * out).sum(-1, keepdim=True)
        d_q = (weights * (grad @ means.transpose(-1, -2) - g_o)) @ keys * ctx.scale
        single = weights / counts.clamp(min=1).unsqueeze(-2)  # p_{i,s}
        index = codes.long().unsqueeze(-1)
        d_v_all = (single.transpose(-1, -2) @ grad).gather(2, index.expand(-1, -1, -1, d_v))
        # G_s = Σ_i p_{i,s} q_i g_iᵀ for every code: (b, h, c dk, dv) numbers.
        matrices = grad.new_zeros(b * h, c * d_k, d_v, dtype=ctx.dtype)
        for part in (slice(i, i + _TILE) for i in range(0, n, _TILE)):
            outer = single[:, :, part].unsqueeze(-1) * scaled[:, :, part].unsqueeze(3)
            matrices.baddbmm_(outer.flatten(0, 1).flatten(2).transpose(1, 2), grad[:, :, part].flatten(0, 1))
        place = (codes + c * torch.arange(b * h, device=codes.device).view(b, h, 1)).flatten()
        picked = matrices.view(-1, d_k, d_v).index_select(0, place) @ v.reshape(-1, d_v, 1).to(ctx.dtype)
        h_s = single.transpose(-1, -2) @ (scaled * g_o)
        d_k_hat = picked.view(b, h, n, d_k) - h_s.gather(2, index.expand(-1, -1, -1, d_k))
        return d_q.to(q.dtype), d_k_hat.to(k_hat.dtype), d_v_all.to(v.dtype), None, None, None, None, None, None

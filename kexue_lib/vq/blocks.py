"""The kernel of VQ attention: forward and backward over blocks, with buffers of constant size.

Everything has *rows* (batch times heads) and *blocks*: q ``(rows, nb, l, dk)``. A block's queries see

* the keys of their own block under the causal mask (and those of the block before, if ``previous``), one by one;
* all earlier blocks through the cache: c scores q·C_s + ln N_s with the values V̄_s (steps D3 and D5).

Both parts stand side by side in one buffer of scores, so that one softmax serves them. Chunks of a few blocks are
worked on at a time; the cache is carried from chunk to chunk. The backward pass goes through the chunks from the last
to the first, makes the weights again, and carries the sums over later queries that step D7 asks for.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

CacheGrad = Literal[False, True, "exact"]

# Numbers in the buffer of scores: 2 MB in float32 stay in a CPU's cache; a GPU wants more work at once.
_BUDGET = {"cpu": 2**19}
_BUDGET_ELSEWHERE = 2**27


class Options(NamedTuple):
    """``previous``: the block before the query's own is treated key by key as well. ``sweep``: how the exact gradient
    of the keys is computed, True for the sweep of D7, False for pairs, None for whichever costs less."""

    previous: bool
    scale: float
    cache_grad: CacheGrad
    heads: int
    dtype: torch.dtype
    sweep: bool | None = None


def aggregate(codes: Tensor, v: Tensor, c: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Δᵀ1 and ΔᵀV of each row: (..., rows, n), (..., rows, n, dv) -> (rows, c), (rows, c, dv); leading axes add up."""
    rows, d_v = codes.shape[-2], v.shape[-1]
    place = (codes + c * torch.arange(rows, device=codes.device)[:, None]).flatten()
    counts = torch.zeros(rows * c, dtype=dtype, device=v.device)
    counts.index_add_(0, place, counts.new_ones(1).expand(place.shape))
    sums = torch.zeros(rows * c, d_v, dtype=dtype, device=v.device)
    sums.index_add_(0, place, v.reshape(-1, d_v).to(dtype))
    return counts.view(rows, c), sums.view(rows, c, d_v)


def refuse_second_derivative() -> None:
    """A backward pass with gradients enabled asks for second derivatives, which would silently be zero."""
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError("vq_attention has no second derivatives (create_graph=True); use vq_attention_plain")


def _distances(length: int, local: int, device: torch.device) -> Tensor:
    """(length, local): how far each local key lies behind a query of the block; negative for later keys."""
    return torch.arange(local - length, local, device=device)[:, None] - torch.arange(local, device=device)


class _Rows:
    """Some rows of blocks and the buffers in which chunks of them are worked on."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, codebook: Tensor, codes: Tensor, mask: Tensor, o: Options):
        self.q, self.k, self.v, self.codebook, self.codes, self.mask, self.o = q, k, v, codebook, codes, mask, o
        self.rows, self.nb, self.length, self.d_k = q.shape
        self.c, self.d_v, self.local = codebook.shape[1], v.shape[-1], mask.shape[-1]
        self.lag = 2 if o.previous else 1  # the cache of block b ends with block b − lag
        self.width = self.local + self.c
        self._store: dict[str, Tensor] = {}

    def buffer(self, name: str, m: int, *shape: int) -> Tensor:
        """(rows, m, *shape) of scratch memory; the last chunk of a sequence is shorter and uses a part of it."""
        numel = self.rows * m * math.prod(shape)
        if name not in self._store or self._store[name].numel() < numel:
            self._store[name] = torch.empty(numel, dtype=self.o.dtype, device=self.q.device)
        return self._store[name][:numel].view(self.rows, m, *shape)

    def cache(self, start: int, stop: int, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Counts and sums that each block sees, (rows, m, c) and (rows, m, c, dv), given those of the block before."""
        m, first = stop - start, max(start, self.lag)
        all_counts = counts.unsqueeze(1).repeat(1, m, 1)
        all_sums = self.buffer("sums", m, self.c, self.d_v)
        all_sums.copy_(sums.unsqueeze(1))
        if first < stop:
            new = slice(first - self.lag, stop - self.lag)
            more_counts, more_sums = aggregate(
                self.codes[:, new].flatten(0, 1), self.v[:, new].flatten(0, 1), self.c, self.o.dtype
            )
            added = stop - first
            all_counts[:, m - added :] += more_counts.view(self.rows, added, self.c).cumsum(1)
            all_sums[:, m - added :] += more_sums.view(self.rows, added, self.c, self.d_v).cumsum(1)
        return all_counts, all_sums

    def beside(self, name: str, x: Tensor, start: int, stop: int, cache: Tensor | None = None) -> Tensor:
        """(rows, m, width, d): what a block sees, [the block before |] the block | the codes, side by side."""
        m, length, d = stop - start, self.length, x.shape[-1]
        out = self.buffer(name, m, self.width, d)
        if self.o.previous:
            out[:, 1:, :length] = x[:, start : stop - 1]
            if start:
                out[:, 0, :length] = x[:, start - 1]
            else:
                out[:, 0, :length] = 0
        out[:, :, self.local - length : self.local] = x[:, start:stop]
        if cache is not None:
            out[:, :, self.local :] = cache
        return out

    def weights(self, start: int, stop: int, counts: Tensor, sums: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Softmax weights, keys, values and scaled queries of a chunk, each with rows and blocks as one batch."""
        m = stop - start
        keys = self.beside("keys", self.k, start, stop, self.codebook.unsqueeze(1))
        values = self.beside("values", self.v, start, stop)
        values[:, :, self.local :] = sums
        values[:, :, self.local :] /= counts.clamp(min=1).unsqueeze(-1)
        scores = self.buffer("scores", m, self.length, self.width)
        scores[..., : self.local] = self.mask.unsqueeze(1)
        scores[..., self.local :] = counts.log().unsqueeze(2)  # a code that was not seen gets −∞
        if start == 0 and self.o.previous:
            scores[:, 0, :, : self.length] = -math.inf
        queries = self.buffer("queries", m, self.length, self.d_k)
        torch.mul(self.q[:, start:stop], self.o.scale, out=queries)
        scores, keys, values, queries = (x.flatten(0, 1) for x in (scores, keys, values, queries))
        scores.baddbmm_(queries, keys.transpose(1, 2))
        # The diagonal is never masked, so no row is empty.
        return torch.softmax(scores, -1, out=scores), keys, values, queries


def _plan(q: Tensor, width: int) -> tuple[int, int]:
    """Rows and blocks that are worked on at once."""
    rows, nb, length, _ = q.shape
    if torch.compiler.is_compiling():  # no loop to unroll
        return rows, nb
    room = max(1, _BUDGET.get(q.device.type, _BUDGET_ELSEWHERE) // (length * width))
    g = min(rows, room)
    return g, min(nb, max(1, room // g))


def _mask(bias: Tensor | None, length: int, local: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(h or 1, l, local): the bias by distance, zero beyond its width, −∞ for later keys."""
    distance = _distances(length, local, device)
    if bias is None:
        mask = torch.zeros(1, length, local, dtype=dtype, device=device)
    else:
        mask = bias.to(dtype)[:, distance.clamp(0, length - 1)] * (distance < length)
    return mask.masked_fill(distance < 0, -math.inf)


class BlockAttention(torch.autograd.Function):
    """Causal VQ attention of rows of blocks; the gradients are those that ``Options.cache_grad`` names.

    The codes, the counts and the sums of the cache at the start get no gradient.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        codebook: Tensor,
        bias: Tensor | None,
        codes: Tensor,
        counts: Tensor,
        sums: Tensor,
        o: Options,
    ) -> Tensor:
        rows, nb, length, _ = q.shape
        c, d_v = codebook.shape[1], v.shape[-1]
        local = 2 * length if o.previous else length
        mask = _mask(bias, length, local, o.dtype, q.device)
        g, m = _plan(q, local + c)
        out = torch.empty(rows, nb, length, d_v, dtype=o.dtype, device=q.device)
        learns = any(ctx.needs_input_grad)
        # The cache before each chunk: a backward pass that subtracted its way back would lose the early means.
        chunks = len(range(0, nb, m)) if learns else 0
        saved_counts, saved_sums = counts.new_empty(chunks, rows, c), sums.new_empty(chunks, rows, c, d_v)
        for r in range(0, rows, g):
            part = slice(r, r + g)
            heads = torch.arange(rows, device=q.device)[part] % o.heads
            work = _Rows(
                q[part], k[part], v[part], codebook[part], codes[part], mask if bias is None else mask[heads], o
            )
            row_counts, row_sums = counts[part], sums[part]
            for index, start in enumerate(range(0, nb, m)):
                stop = min(nb, start + m)
                if learns:
                    saved_counts[index, part], saved_sums[index, part] = row_counts, row_sums
                all_counts, all_sums = work.cache(start, stop, row_counts, row_sums)
                weights, _, values, _ = work.weights(start, stop, all_counts, all_sums)
                out[part, start:stop] = torch.bmm(weights, values).view(-1, stop - start, length, d_v)
                row_counts, row_sums = all_counts[:, -1], all_sums[:, -1].clone()
        ctx.save_for_backward(q, k, v, codebook, bias, codes, out, saved_counts, saved_sums)
        ctx.options, ctx.chunk = o, (g, m)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        refuse_second_derivative()
        q, k, v, codebook, bias, codes, out, saved_counts, saved_sums = ctx.saved_tensors
        o, (g, m) = ctx.options, ctx.chunk
        rows, nb, length, d_k = q.shape
        c, d_v = codebook.shape[1], v.shape[-1]
        local = 2 * length if o.previous else length
        mask = _mask(bias, length, local, o.dtype, q.device)
        new = {"dtype": o.dtype, "device": q.device}
        wants = ctx.needs_input_grad
        d_q, d_keys, d_v_all = (
            torch.zeros(x.shape, **new) if w else None for x, w in zip((q, k, v), wants, strict=False)
        )
        d_codebook = torch.zeros(codebook.shape, **new) if wants[3] else None
        d_mask = torch.zeros(o.heads, length, local, **new) if wants[4] else None
        exact = o.cache_grad == "exact" and d_keys is not None
        n = nb * length
        sweep = 2 * c * d_k * d_v < n * (d_k + d_v) if o.sweep is None else o.sweep
        for r in range(0, rows, g):
            part = slice(r, r + g)
            heads = torch.arange(rows, device=q.device)[part] % o.heads
            work = _Rows(
                q[part], k[part], v[part], codebook[part], codes[part], mask if bias is None else mask[heads], o
            )
            size = work.rows
            later_v = torch.zeros(size, c, d_v, **new)  # Σ p_{i,s} g_i over later queries i
            if exact and sweep:
                later_g = torch.zeros(size, c * d_k, d_v, **new)  # G_s and h_s of D7
                later_h = torch.zeros(size, c, d_k, **new)
            for index, start in reversed(list(enumerate(range(0, nb, m)))):
                stop = min(nb, start + m)
                blocks = stop - start
                counts, sums = work.cache(start, stop, saved_counts[index, part], saved_sums[index, part])
                weights, keys, values, queries = work.weights(start, stop, counts, sums)
                g_out = grad[part, start:stop].to(o.dtype).reshape(-1, length, d_v)
                g_o = (g_out * out[part, start:stop].reshape(-1, length, d_v)).sum(-1, keepdim=True)
                d_scores = work.buffer("d_scores", blocks, length, local + c).flatten(0, 1)
                torch.bmm(g_out, values.transpose(1, 2), out=d_scores)
                d_scores.sub_(g_o).mul_(weights)  # p (g·v − g·o)
                if d_q is not None:
                    d_q[part, start:stop] = (torch.bmm(d_scores, keys) * o.scale).view(size, blocks, length, d_k)
                if d_mask is not None:
                    per_row = d_scores[..., :local].reshape(size, blocks, length, local).sum(1)
                    d_mask.index_add_(0, heads, per_row)
                if d_keys is not None:
                    d_local = torch.bmm(d_scores[..., :local].transpose(1, 2), queries)
                    _give_local(d_keys[part], d_local.view(size, blocks, local, d_k), start, stop, o.previous)
                if d_codebook is not None:
                    d_codebook[part] += (
                        torch.bmm(d_scores[..., local:].transpose(1, 2), queries).view(size, blocks, c, d_k).sum(1)
                    )
                if d_v_all is not None:
                    columns = weights if o.cache_grad else weights[..., :local]
                    d_seen = torch.bmm(columns.transpose(1, 2), g_out).view(size, blocks, -1, d_v)
                    _give_local(d_v_all[part], d_seen[:, :, :local], start, stop, o.previous)
                if not o.cache_grad or not (exact or d_v_all is not None):
                    continue
                # p_{i,s}: the weight of one key of code s, which is its share of the code's weight.
                per_key = 1 / counts.clamp(min=1)
                single = weights[..., local:].view(size, blocks, length, c) * per_key.unsqueeze(2) if exact else None
                for b in reversed(range(blocks)):
                    to = start + b - work.lag  # the block that joins the cache of block b
                    z = work.codes[:, to] if to >= 0 else None
                    if d_v_all is not None:
                        later_v += d_seen[:, b, local:] * per_key[:, b].unsqueeze(-1)
                        if z is not None:
                            d_v_all[part, to] += later_v.gather(1, z.unsqueeze(-1).expand(-1, -1, d_v))
                    if single is None or d_keys is None:
                        continue
                    p, q_b = single[:, b], queries.view(size, blocks, length, d_k)[:, b]
                    g_b = g_out.view(size, blocks, length, d_v)[:, b]
                    g_o_b = g_o.view(size, blocks, length, 1)[:, b]
                    if sweep:
                        outer = (p.unsqueeze(-1) * q_b.unsqueeze(2)).view(size, length, c * d_k)
                        later_g.baddbmm_(outer.transpose(1, 2), g_b)
                        later_h.baddbmm_(p.transpose(1, 2), q_b * g_o_b)
                        if z is not None:
                            d_keys[part, to] += _collect(later_g.view(size, c, d_k, d_v), later_h, z, work.v[:, to])
                    elif z is not None:
                        _pairs(d_keys[part], p, q_b, g_b, g_o_b, work.codes, work.v, to + 1)
        d_bias = None
        if d_mask is not None:
            distance = _distances(length, local, q.device)
            inside = (distance >= 0) & (distance < length)
            d_bias = d_mask.new_zeros(o.heads, length).index_add_(
                1, distance.clamp(0, length - 1).flatten(), (d_mask * inside).flatten(1)
            )
        grads = (d_q, d_keys, d_v_all, d_codebook, d_bias)
        typed = (x if x is None else x.to(y.dtype) for x, y in zip(grads, (q, k, v, codebook, bias), strict=True))
        return (*typed, None, None, None, None)


def _give_local(target: Tensor, local: Tensor, start: int, stop: int, previous: bool) -> None:
    """Adds gradients that stand as [block before |] block to the blocks they belong to."""
    length = target.shape[2]
    target[:, start:stop] += local[:, :, -length:]
    if previous:
        first = max(start, 1)  # before the first block there is none
        target[:, first - 1 : stop - 1] += local[:, first - start :, :length]


def _collect(later_g: Tensor, later_h: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """G_{z_j} v_j − h_{z_j} for the tokens j of a block."""
    rows, length = z.shape
    _, c, d_k, d_v = later_g.shape
    place = (z + c * torch.arange(rows, device=z.device)[:, None]).flatten()
    matrices = later_g.reshape(-1, d_k, d_v).index_select(0, place)
    picked = (matrices @ v.reshape(-1, d_v, 1).to(matrices.dtype)).view(rows, length, d_k)
    return picked - later_h.reshape(-1, d_k).index_select(0, place).view(rows, length, d_k)


def _pairs(target: Tensor, p: Tensor, q: Tensor, g: Tensor, g_o: Tensor, codes: Tensor, v: Tensor, upto: int) -> None:
    """The same for all blocks before ``upto`` by their pairs with the queries of one block."""
    rows, _, length, d_k = target.shape
    z = codes[:, :upto].reshape(rows, 1, -1)
    weight = p.gather(2, z.expand(-1, p.shape[1], -1))
    change = torch.baddbmm(g_o, g, v[:, :upto].reshape(rows, -1, v.shape[-1]).to(g.dtype).transpose(1, 2), beta=-1)
    target[:, :upto] += torch.bmm((weight * change).transpose(1, 2), q).view(rows, upto, length, d_k)

"""The log-partition function with its gradient, which is the marginals, computed in one go with scaled sums."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import FORBIDDEN, _lengths, _reversal, _turned
from .recursions import _levels, _log_marginals, _steps

__all__ = []

# exp stays a normal float64 down to e^-708; what a chain of products may shrink by between two normalisations.
_ROOM = 690.0


# A tree does k³ work for each step and few calls, a loop k² work and a few calls for each step: on a CPU the tree is
# faster up to about this b·k³ (measured).
_SMALL = 4096


def _interval(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> int:
    """How many steps may pass between two normalisations so that nothing underflows; 0 if that cannot be promised.

    Let one step shrink an entry by e^{-R} against the largest at most, and let d steps lead from every tag to every tag
    (d = 1 unless steps are forbidden). Then an entry of a vector is at least e^{-dR} times the largest or exactly zero,
    an entry of a product of steps at least e^{-2dR} times its largest, and a product of two of them that is not
    negligible at least e^{-3dR}. Looks at the data, so it is for the CPU only.
    """
    h, A = h.detach(), A.detach()
    k = A.shape[0]
    spread = h.amax(-1) - h.amin(-1)
    reach = float((spread if mask is None else spread.masked_fill(~mask, 0)).max())
    d, low = 1, float(A.min())
    if low < FORBIDDEN / 2:
        allowed = A >= FORBIDDEN / 2
        if not bool(allowed.any()):
            return 0
        low, power, step = float(A[allowed].min()), allowed, allowed.double()
        while not bool(power.all()):
            d, power = d + 1, power.double() @ step > 0
            if d > k * k:
                return 0
    reach += float(A.max()) - low
    for x in (start, end):
        if x is not None:
            x = x.detach()
            allowed = x >= FORBIDDEN / 2
            reach += float(x.max() - x[allowed].min()) if bool(allowed.any()) else math.inf
    reach += math.log(k)
    if not reach * (3 * d + 1) <= _ROOM:  # also for NaN
        return 0
    return max(1, int(_ROOM / max(reach, 1e-3)) - d)


def _posterior(
    h: Tensor,
    A: Tensor,
    mask: Tensor | None,
    start: Tensor | None,
    end: Tensor | None,
    every: int,
    both: bool,
    pairs: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """log Z (b,), P(y_t = j) (b, n, k) and the expected counts (b, k, k), or each pair's (b, n - 1, k, k).

    In float64, without a graph. ``both=False``: only log Z is wanted; the rest is anything.
    """
    b, n, k = h.shape
    h = h.double() if mask is None else h.double().masked_fill(~mask[..., None], 0.0)
    A = A.double()
    zero = A.new_zeros(k)
    a = zero if start is None else start.double()
    z = zero if end is None else end.double()
    top, a_top, z_top, A_top = h.amax(-1), a.max(), z.max(), A.max()
    x, E, first, last = (h - top[..., None]).exp_(), (A - A_top).exp_(), (a - a_top).exp_(), (z - z_top).exp_()
    length = _lengths(mask, b, n, h.device)
    scale = (top if mask is None else top * mask).sum(1) + (length - 1) * A_top + a_top + z_top
    if b * k**3 <= _SMALL:
        log_z, unary, counts = _tree_posterior(x, E, mask, first, last, both, pairs)
    else:
        log_z, unary, counts = _loop_posterior(x, E, mask, first, last, every, both, pairs)
    return log_z + scale, unary, counts


def _tree_posterior(
    x: Tensor, E: Tensor, mask: Tensor | None, first: Tensor, last: Tensor, both: bool, pairs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """By the tree: up with matrices, then down with the sums over beginnings and over continuations at each middle."""
    b, n, k = x.shape
    steps, order = _steps(x, E, mask, log=False)
    logs = x.new_zeros(b)

    def product(left: Tensor, right: Tensor) -> Tensor:
        nonlocal logs
        out = (left[:, :, None] * right[None]).sum(1)
        top = out.amax((0, 1))
        logs = logs + top.log().view(-1, b).sum(0)
        return out / top

    levels = _levels(steps, b, product)
    alpha, beta = first[:, None] * x[:, 0].T, last[:, None].expand(k, b)
    log_z = logs + (alpha[:, None] * levels[-1] * beta).sum((0, 1)).log_()
    if not both:
        return log_z, x, E
    for level in levels[-2::-1]:
        left, right = level.chunk(2, dim=2)
        from_left, from_right = (alpha[:, None] * left).sum(0), (right * beta).sum(1)
        alpha = torch.cat((alpha, from_left / from_left.amax(0)), 1)
        beta = torch.cat((from_right / from_right.amax(0), beta), 1)
    joint = alpha[:, None] * levels[0] * beta
    joint = (joint / joint.sum((0, 1))).view(k, k, -1, b)
    places = torch.argsort(order)[: n - 1]
    joint = joint[:, :, places].permute(3, 2, 0, 1)  # (b, n - 1, k, k) in the order of time
    if n > 1:
        # A sentence of one place has a unit in its first step, which leaves the first tag's probabilities as they are.
        unary = torch.cat((joint[:, :1].sum(3), joint.sum(2)), 1)
    else:
        unary = (alpha * beta / (alpha * beta).sum(0)).T[:, None]
    if mask is not None:
        unary, joint = unary * mask[..., None], joint * mask[:, 1:, None, None]
    return log_z, unary, joint if pairs else joint.sum(1)


def _loop_posterior(
    x: Tensor, E: Tensor, mask: Tensor | None, first: Tensor, last: Tensor, every: int, both: bool, pairs: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """By a loop over time, normalised after ``every`` steps.

    The chain from the left and the chain from the right are the same recursion: the right one runs on the sentences
    turned round, with the transposed matrix. So both run in one loop.
    """
    b, n, k = x.shape
    index = _reversal(mask, b, n, x.device)
    if both:
        stacked = torch.stack((x.transpose(0, 1), _turned(x, index).transpose(0, 1)), 1)  # (n, 2, b, k)
        matrix, begin = torch.stack((E, E.T)), torch.stack((first, last))[:, None].expand(2, b, k)
    else:
        stacked, matrix, begin = x.transpose(0, 1)[:, None].contiguous(), E[None], first.expand(1, b, k)
    before, after = torch.empty_like(stacked), torch.empty_like(stacked)  # without and with the emission of a place
    norm = stacked.new_ones(n, *stacked.shape[1:3], 1)
    xs, ps, fs, norms = stacked.unbind(0), before.unbind(0), after.unbind(0), norm.unbind(0)
    ps[0].copy_(begin)
    torch.mul(begin, xs[0], out=fs[0])
    for t in range(1, n):
        torch.bmm(fs[t - 1], matrix, out=ps[t])
        torch.mul(ps[t], xs[t], out=fs[t])
        if t % every == 0:
            torch.sum(fs[t], -1, keepdim=True, out=norms[t])
            fs[t].div_(norms[t])
    length = _lengths(mask, b, n, x.device)
    inside = torch.arange(n, device=x.device)[:, None] < length
    end_at = (length - 1)[None, :, None].expand(1, b, k)
    log_z = (after[:, 0].gather(0, end_at)[0] @ last).log_()
    logs = norm[:, 0, :, 0].log_()
    log_z = log_z + (logs * inside).sum(0)
    if not both:
        return log_z, x, E
    p = before[:, 0].transpose(0, 1)  # sum over the beginnings, without the emission
    g = _turned(after[:, 1].transpose(0, 1), index)  # sum over the continuations, with it
    p_top = p.amax(-1, keepdim=True)
    p, g = p / p_top, g / g.amax(-1, keepdim=True)
    unary = p * g
    total = unary.sum(-1, keepdim=True)
    unary = unary / total
    f = after[:-1, 0].transpose(0, 1) / (p_top[:, 1:] * total[:, 1:])
    if mask is not None:
        unary, f = unary * mask[..., None], f * mask[:, 1:, None]
    if pairs:
        return log_z, unary, f[..., None] * E * g[:, 1:, None, :]
    return log_z, unary, (f.transpose(1, 2) @ g[:, 1:]) * E


class _LogPartition(torch.autograd.Function):
    """log Z with its gradient by hand: the marginals (step D2). The second derivative goes through the log semiring."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, A: Tensor, start: Tensor | None, end: Tensor | None, mask: Tensor | None, every: int
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        log_z, unary, counts = _posterior(h, A, mask, start, end, every, wanted)
        if wanted:
            ctx.save_for_backward(h, A, start, end, mask, unary.to(h.dtype), counts.to(h.dtype))
        return log_z.to(h.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        h, A, start, end, mask, unary, counts = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a graph through the marginals is wanted
            log_unary, log_pairs = _log_marginals(h, A, mask, start, end)
            unary, pairs = log_unary.exp(), log_pairs.exp()
            if mask is not None:
                unary, pairs = unary * mask[..., None], pairs * mask[:, 1:, None, None]
            counts = pairs.sum(1)
        unary = unary * grad[:, None, None]
        of_end = None
        if end is not None:
            length = _lengths(mask, h.shape[0], h.shape[1], h.device)
            of_end = unary.gather(1, (length - 1)[:, None, None].expand(-1, 1, h.shape[2])).sum((0, 1))
        return (
            unary,
            torch.einsum("b,bij->ij", grad, counts),
            None if start is None else unary[:, 0].sum(0),
            of_end,
            None,
            None,
        )


def _may_look(h: Tensor) -> bool:
    """Whether looking at the data is free and the hand-written gradient is allowed."""
    return (
        h.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()  # vmap and jvp need plain operations
    )

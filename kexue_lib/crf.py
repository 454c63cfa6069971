r"""Linear-chain conditional random fields: exact sums, marginals, best paths and samples, for batches with padding.

A sentence has n places and k tags. A path y = (y_1, …, y_n) of tags has the score

.. math:: S(y) = a_{y_1} + \sum_{t=1}^n h_t(y_t) + \sum_{t=2}^n A_{y_{t-1} y_t} + z_{y_n}

and the probability :math:`e^{S(y)}/Z`. There are k^n paths; everything here costs O(n k²) (O(n k³) for the tree).

* sums: :func:`crf_log_partition`, :func:`crf_score`, :func:`crf_nll`, :func:`crf_marginals`,
* paths: :func:`crf_viterbi` (the best one), :func:`crf_sample` (exact draws),
* the module :class:`LinearChainCRF`, whose transitions are read as ``scale * theta``,
* the transitions: :func:`double_center`, :func:`legal_transitions`, :func:`legal_start_end`,
* the plain forms, which look at all k^n paths one by one: :func:`crf_paths_plain`, :func:`crf_log_partition_plain`,
  :func:`crf_marginals_plain`, :func:`crf_viterbi_plain`.

Shapes: ``b`` sentences, ``n`` places, ``k`` tags; emissions h ``(b, n, k)``, transitions A ``(k, k)`` with ``A[i, j]``
the score of the step from tag i to tag j, start a and end z ``(k,)``, mask ``(b, n)`` boolean with ``True`` = a place
of the sentence. Padding stands at the end; what the emissions hold there does not matter.

Half precision is raised to float32, also under autocast: a sum over n places does not survive in 8 bits.

Sources: Su Jianlin, https://kexue.fm/archives/7196 (2020); Lafferty, McCallum and Pereira, *Conditional Random Fields*
(2001); the steps D1–D9 are those of the chapter *crf-learning-rate*.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "FORBIDDEN",
    "METHODS",
    "LinearChainCRF",
    "crf_log_partition",
    "crf_log_partition_plain",
    "crf_marginals",
    "crf_marginals_plain",
    "crf_nll",
    "crf_paths_plain",
    "crf_sample",
    "crf_score",
    "crf_viterbi",
    "crf_viterbi_plain",
    "double_center",
    "legal_start_end",
    "legal_transitions",
]

METHODS = ("auto", "scan", "tree", "scaled")
"""The ways in which :func:`crf_log_partition` computes the sum."""

FORBIDDEN = -1e30
"""The score of a forbidden step: below every real score, and 10⁸ of them still add up to a float32."""

# exp stays a normal float64 down to e^-708; what a chain of products may shrink by between two normalisations.
_ROOM = 690.0
# A tree does k³ work for each step and few calls, a loop k² work and a few calls for each step: on a CPU the tree is
# faster up to about this b·k³ (measured).
_SMALL = 4096
# Padding is a step that changes nothing: 0 on the diagonal, this elsewhere (in the log semiring).
_NEVER = FORBIDDEN

_Noise = Callable[..., Tensor]


# ----------------------------------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------------------------------


def _check(
    emissions: Tensor, transitions: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None
) -> None:
    for name, x, dims, shape in (
        ("emissions", emissions, 3, "(batch, places, tags)"),
        ("transitions", transitions, 2, "(tags, tags)"),
    ):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape {shape}")
        if x.dim() != dims:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, not {shape}")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    b, n, k = emissions.shape
    if n < 1 or k < 1:
        raise ValueError(f"emissions has shape {tuple(emissions.shape)}; at least one place and one tag are needed")
    if transitions.shape != (k, k):
        raise ValueError(f"transitions has shape {tuple(transitions.shape)}, not (tags, tags) = {(k, k)}")
    for name, at_end in (("start", start), ("end", end)):
        if at_end is not None and (not isinstance(at_end, Tensor) or at_end.shape != (k,)):
            found = tuple(at_end.shape) if isinstance(at_end, Tensor) else type(at_end).__name__
            raise ValueError(f"{name} has shape {found}, not (tags,) = {(k,)}")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask has type {kind}; a boolean tensor is needed (True = a place of the sentence)")
        if mask.shape != (b, n):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, not (batch, places) = {(b, n)}")


def _check_values(mask: Tensor | None, tags: Tensor | None, k: int) -> None:
    """What can be seen only by looking at the data (which stops a GPU): asked for with ``validate=True``."""
    if mask is not None:
        if not bool(mask[:, 0].all()):
            row = int((~mask[:, 0]).nonzero()[0])
            raise ValueError(f"mask[{row}, 0] is False: every sentence needs its first place")
        holes = mask[:, 1:] & ~mask[:, :-1]
        if bool(holes.any()):
            row = int(holes.any(1).nonzero()[0])
            raise ValueError(f"mask[{row}] has a place after padding; padding has to stand at the end")
    if tags is not None:
        wrong = (tags < 0) | (tags >= k)
        wrong = wrong if mask is None else wrong & mask
        if bool(wrong.any()):
            raise ValueError(f"tags has the value {int(tags[wrong][0])}; allowed: 0 … {k - 1} where the mask is True")


def _check_tags(tags: Tensor, emissions: Tensor) -> None:
    if not isinstance(tags, Tensor) or tags.is_floating_point() or tags.is_complex() or tags.dtype == torch.bool:
        kind = tags.dtype if isinstance(tags, Tensor) else type(tags).__name__
        raise TypeError(f"tags has type {kind}; an integer tensor of shape (batch, places) is needed")
    if tags.shape != emissions.shape[:2]:
        raise ValueError(f"tags has shape {tuple(tags.shape)}, not (batch, places) = {tuple(emissions.shape[:2])}")


def _no_autocast(x: Tensor) -> Any:
    return torch.autocast(x.device.type, enabled=False)


def _raised(emissions: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All tensors in one type: that of the widest, at least float32. A missing one stays None."""
    dtype = torch.float32
    for x in (emissions, *others):
        if x is not None:
            dtype = torch.promote_types(dtype, x.dtype)
    return tuple(None if x is None else x.to(dtype) for x in (emissions, *others))


def _lengths(mask: Tensor | None, b: int, n: int, device: torch.device) -> Tensor:
    return torch.full((b,), n, device=device) if mask is None else mask.sum(1)


def _reversal(mask: Tensor | None, b: int, n: int, device: torch.device) -> Tensor:
    """Indices (b, n) that turn each sentence round and leave its padding where it is; their own inverse."""
    t, length = torch.arange(n, device=device), _lengths(mask, b, n, device)[:, None]
    return torch.where(t < length, length - 1 - t, t)


def _turned(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand_as(x))


# ----------------------------------------------------------------------------------------------------------------------
# The log semiring: any finite scores, every derivative by autograd
# ----------------------------------------------------------------------------------------------------------------------


def _forward_scores(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None) -> list[Tensor]:
    """log of the sum over all beginnings that stand at tag j at place t, a (b, k) for each t; padding repeats it."""
    alpha = h[:, 0] if start is None else h[:, 0] + start
    out = [alpha]
    for t in range(1, h.shape[1]):
        new = torch.logsumexp(alpha[:, :, None] + A, dim=1) + h[:, t]
        alpha = new if mask is None else torch.where(mask[:, t, None], new, alpha)
        out.append(alpha)
    return out


def _backward_scores(h: Tensor, A: Tensor, mask: Tensor | None, end: Tensor | None) -> list[Tensor]:
    """log of the sum over all continuations after tag i at place t."""
    beta = torch.zeros_like(h[:, 0]) if end is None else end.expand_as(h[:, 0])
    out = [beta]
    for t in range(h.shape[1] - 1, 0, -1):
        new = torch.logsumexp(A + (h[:, t] + beta)[:, None, :], dim=2)
        beta = new if mask is None else torch.where(mask[:, t, None], new, beta)
        out.append(beta)
    return out[::-1]


def _scan(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> Tensor:
    last = _forward_scores(h, A, mask, start)[-1]
    return torch.logsumexp(last if end is None else last + end, dim=1)


def _bit_reversed(size: int, device: torch.device) -> Tensor:
    """0 … size − 1 (a power of two) in the order of the reversed bits: neighbours 2r, 2r + 1 come to lie half apart."""
    order = torch.zeros(1, dtype=torch.long, device=device)
    while len(order) < size:
        order = torch.cat((2 * order, 2 * order + 1))
    return order


def _steps(h: Tensor, A: Tensor, mask: Tensor | None, log: bool) -> tuple[Tensor, Tensor]:
    """The matrices of all steps (k, k, N·b) and their order; N is the next power of two, what is missing is a unit.

    ``h`` and ``A`` hold scores (``log``) or weights. The steps stand in the order of the reversed bits and the batch
    runs fastest, so that every level of the tree works on two halves of contiguous memory.
    """
    b, n, k = h.shape
    size = 1 << max(0, n - 2).bit_length()
    order = _bit_reversed(size, h.device)
    here = (order + 1).clamp(max=n - 1)
    zero, one = (_NEVER, 0.0) if log else (0.0, 1.0)
    x = h.permute(2, 1, 0)[:, here].flatten(1)  # (k, N·b)
    steps = A[:, :, None] + x if log else A[:, :, None] * x
    if mask is None and size == n - 1:
        return steps, order
    real = (order < n - 1)[:, None]
    real = real.expand(size, b) if mask is None else real & mask.T[here]
    unit = torch.full((k, k), zero, dtype=h.dtype, device=h.device).fill_diagonal_(one)
    return torch.where(real.flatten(), steps, unit[:, :, None]), order


def _log_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.logsumexp(left[:, :, None] + right[None], dim=1)


def _max_product(left: Tensor, right: Tensor) -> Tensor:
    return (left[:, :, None] + right[None]).amax(1)


def _levels(steps: Tensor, b: int, product: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """All levels of the tree of products, from the steps to the root (k, k, b) (step D9)."""
    levels = [steps]
    while levels[-1].shape[2] > b:
        left, right = levels[-1].chunk(2, dim=2)
        levels.append(product(left, right))
    return levels


def _tree(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> Tensor:
    """Step D9: the matrices of the steps are multiplied pair by pair, about log₂ n levels of batched products."""
    first = h[:, 0] if start is None else h[:, 0] + start
    root = _levels(_steps(h, A, mask, log=True)[0], h.shape[0], _log_product)[-1]
    total = first.T[:, None] + root
    return torch.logsumexp((total if end is None else total + end[:, None]).flatten(0, 1), dim=0)


def _log_marginals(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None
) -> tuple[Tensor, Tensor]:
    """log P(y_t = j) and log P(y_t = i, y_{t+1} = j), not masked; differentiable."""
    alpha = torch.stack(_forward_scores(h, A, mask, start), 1)
    beta = torch.stack(_backward_scores(h, A, mask, end), 1)
    log_z = torch.logsumexp(alpha[:, -1] if end is None else alpha[:, -1] + end, dim=1)[:, None, None]
    pairs = alpha[:, :-1, :, None] + A + (h[:, 1:] + beta[:, 1:])[:, :, None, :] - log_z[..., None]
    return alpha + beta - log_z, pairs


# ----------------------------------------------------------------------------------------------------------------------
# Probability space: products of matrices in float64, normalised now and then
# ----------------------------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------------------------
# Sums over all paths
# ----------------------------------------------------------------------------------------------------------------------


def crf_log_partition(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    method: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""log of the sum of e^{S(y)} over all k^n paths of each sentence (steps D1 and D9).

    ============ ================================================================================================
    method       how
    ============ ================================================================================================
    ``"scan"``   the recursion :math:`\alpha_t(j) = \log\sum_i e^{\alpha_{t-1}(i) + A_{ij}} + h_t(j)`; n steps
    ``"tree"``   the matrices of the steps multiplied pair by pair in the log semiring; ⌈log₂ n⌉ levels, work k³
    ``"scaled"`` float64 products of weights e^{score}, without logarithms, normalised now and then; gradient by hand
    ``"auto"``   on a CPU "scaled" if the scores allow it, else "scan"; on a GPU and under ``torch.compile`` "tree"
                 up to 16 tags, "scan" beyond
    ============ ================================================================================================

    All give the same number up to rounding. "scan" and "tree" take any finite scores. "scaled" must not underflow: the
    spread of scores that one step can add, max − min of an emission vector plus max − min of the transitions, has to
    stay below 170 nats or so. It looks at the data to know that, which is free on a CPU. For few tags and sentences it
    is a tree, otherwise a loop over time; either is chosen by the shape.

    Args:
        emissions: h ``(b, n, k)``.
        transitions: A ``(k, k)``, from row to column.
        mask: ``(b, n)`` boolean, padding at the end; None: no padding.
        start, end: ``(k,)`` scores of the first and of the last tag; None: zero.
        method: see the table.
        validate: also check that each sentence has a first place and no holes (looks at the data).

    Returns:
        ``(b,)`` in the type of the inputs, at least float32. The gradient by h are the marginals, the gradient by A the
        expected numbers of steps (step D2). Twice differentiable.

    Raises:
        ValueError: wrong shapes, an unknown method, scores too far apart for ``method="scaled"``.
        TypeError: not tensors, not floating-point, a mask that is not boolean.

    Hazards:
        Emissions of −inf give NaN gradients where all paths are forbidden; use :data:`FORBIDDEN`. ``torch.compile``
        unrolls "scan" into n steps. "tree" keeps O(b n k³) numbers for its backward pass.

    Example:
        >>> h, A = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]), torch.zeros(2, 2)
        >>> crf_log_partition(h, A)  # without transitions: the sum of the places' logsumexp (step D8)
        tensor([3.4402])
        >>> torch.logsumexp(h, -1).sum(1)
        tensor([3.4402])

    Source: https://kexue.fm/archives/7196; chapter *crf-learning-rate*, steps D1, D2, D8, D9.
    """
    _check(emissions, transitions, mask, start, end)
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(map(repr, METHODS))}")
    if validate:
        _check_values(mask, None, emissions.shape[2])
    with _no_autocast(emissions):
        h, A, a, z = _raised(emissions, transitions, start, end)
        if mask is not None:  # padding may hold anything, also NaN
            h = h.masked_fill(~mask[..., None], 0.0)
        return _log_partition(h, A, mask, a, z, method)


def _log_partition(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, method: str
) -> Tensor:
    if method == "scaled" and not _may_look(h):
        raise ValueError(
            "method='scaled' looks at the scores; on a GPU, compiled or under vmap choose 'tree' or 'scan'"
        )
    if method == "scaled" or (method == "auto" and _may_look(h)):
        every = _interval(h, A, mask, start, end)
        if every:
            out: Tensor
            if torch.is_grad_enabled():
                out = _LogPartition.apply(h, A, start, end, mask, every)
            else:
                out = _posterior(h, A, mask, start, end, every, both=False)[0].to(h.dtype)
            if bool(out.isfinite().all()):
                return out
        if method == "scaled":
            raise ValueError("the scores are too far apart for method='scaled': it would underflow; choose 'auto'")
        method = "scan"
    if method == "auto":
        method = "tree" if h.shape[2] <= 16 else "scan"
    return (_tree if method == "tree" else _scan)(h, A, mask, start, end)


def crf_score(
    emissions: Tensor,
    transitions: Tensor,
    tags: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    validate: bool = False,
) -> Tensor:
    r"""The score S(y) of a given path of each sentence.

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.
        tags: ``(b, n)`` integers in 0 … k − 1; at padding any number.
        validate: also check the values of mask and tags (looks at the data).

    Returns:
        ``(b,)``. The gradient by A counts the steps of the path.

    Raises:
        ValueError, TypeError: as :func:`crf_log_partition`; tags of another shape or type.

    Example:
        >>> h, A = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]), torch.tensor([[0.0, 0.0], [0.5, 0.0]])
        >>> crf_score(h, A, torch.tensor([[1, 0]]))  # 1 + 0.5 + 2
        tensor([3.5000])

    Source: chapter *crf-learning-rate*, step D1.
    """
    _check(emissions, transitions, mask, start, end)
    _check_tags(tags, emissions)
    if validate:
        _check_values(mask, tags, emissions.shape[2])
    with _no_autocast(emissions):
        h, A, a, z = _raised(emissions, transitions, start, end)
        return _score(h, A, tags, mask, a, z)


def _score(h: Tensor, A: Tensor, tags: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> Tensor:
    b, n, k = h.shape
    y = tags.long() if mask is None else tags.long().masked_fill(~mask, 0)
    chosen = h.gather(2, y[..., None])[..., 0]
    out = (chosen if mask is None else chosen.masked_fill(~mask, 0.0)).sum(1)
    # The steps are counted by a product of one-hot matrices: its gradient is a matrix product too, not a scatter.
    places = F.one_hot(y, k).to(h.dtype)
    left = places[:, :-1] if mask is None else places[:, :-1] * mask[:, 1:, None]
    out = out + (left.transpose(1, 2) @ places[:, 1:]).flatten(1) @ A.flatten()
    if start is not None:
        out = out + places[:, 0] @ start
    if end is not None:
        at = (_lengths(mask, b, n, h.device) - 1)[:, None, None].expand(-1, 1, k)
        out = out + places.gather(1, at)[:, 0] @ end
    return out


def crf_nll(
    emissions: Tensor,
    transitions: Tensor,
    tags: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    reduction: str = "mean",
    method: str = "auto",
    validate: bool = False,
) -> Tensor:
    r"""−log p(y) = log Z − S(y), the loss of a linear-chain CRF.

    Args:
        emissions, transitions, tags, mask, start, end, method, validate: as in :func:`crf_score` and
            :func:`crf_log_partition`.
        reduction: ``"mean"`` over sentences (as in the post), ``"sum"``, ``"none"``, or ``"token"``: the sum over the
            number of places.

    Returns:
        a number, or ``(b,)`` for ``"none"``, in nats. The gradient by A is the expected number of steps i → j minus
        their number in ``tags`` (step D2).

    Raises:
        ValueError, TypeError: as :func:`crf_score`; an unknown reduction.

    Hazards:
        With "sum" and plain SGD the step grows with the batch; with Adam it does not.

    Example:
        >>> h, A = torch.zeros(1, 3, 4), torch.zeros(4, 4)
        >>> crf_nll(h, A, torch.zeros(1, 3, dtype=torch.long))  # one of 64 equal paths
        tensor(4.1589)

    Source: https://kexue.fm/archives/7196; chapter *crf-learning-rate*, steps D1 and D2.
    """
    if reduction not in ("mean", "sum", "none", "token"):
        raise ValueError(f"reduction={reduction!r} is not known; choose 'mean', 'sum', 'none' or 'token'")
    score = crf_score(emissions, transitions, tags, mask, start, end, validate=validate)
    loss = crf_log_partition(emissions, transitions, mask, start, end, method=method) - score
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    places = emissions.shape[0] * emissions.shape[1] if mask is None else mask.sum()
    return loss.sum() if reduction == "sum" else loss.sum() / places


def crf_marginals(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    pairwise: bool = False,
) -> Any:
    r"""The probability of each tag at each place, and of each step between neighbours, under the model.

    They are the derivatives of log Z by the emissions and by the scores of single steps (step D2).

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.
        pairwise: also give P(y_t = i, y_{t+1} = j).

    Returns:
        ``(b, n, k)``, zero at padding; with ``pairwise`` the pair of it and ``(b, n − 1, k, k)``, zero where t + 1 is
        padding. Differentiable.

    Raises:
        ValueError, TypeError: as :func:`crf_log_partition`.

    Example:
        >>> unary, pairs = crf_marginals(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0]]), pairwise=True)
        >>> pairs.sum(), unary[0, 0], pairs[0, 0].sum(1)
        (tensor(1.), tensor([0.6502, 0.3498]), tensor([0.6502, 0.3498]))

    Source: chapter *crf-learning-rate*, step D2.
    """
    _check(emissions, transitions, mask, start, end)
    with _no_autocast(emissions):
        h, A, a, z = _raised(emissions, transitions, start, end)
        if mask is not None:
            h = h.masked_fill(~mask[..., None], 0.0)
        graph = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (h, A, a, z))
        if not graph and _may_look(h):
            every = _interval(h, A, mask, a, z)
            if every:
                log_z, unary, pairs = _posterior(h, A, mask, a, z, every, both=True, pairs=pairwise)
                if bool(log_z.isfinite().all()):
                    return (unary.to(h.dtype), pairs.to(h.dtype)) if pairwise else unary.to(h.dtype)
        log_unary, log_pairs = _log_marginals(h, A, mask, a, z)
        unary = log_unary.exp()
        if mask is not None:
            unary = unary * mask[..., None]
        if not pairwise:
            return unary
        pairs = log_pairs.exp()
        return unary, pairs if mask is None else pairs * mask[:, 1:, None, None]


# ----------------------------------------------------------------------------------------------------------------------
# Single paths
# ----------------------------------------------------------------------------------------------------------------------


def _paths(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """The best path (no noise), or draws of paths: (s, b, n) with s = 1 or the number of draws, −1 at padding."""
    tree = h.shape[0] * h.shape[2] ** 3 <= _SMALL if h.device.type == "cpu" else h.shape[2] <= 16
    tags = (_paths_by_tree if tree else _paths_by_loop)(h, A, mask, start, end, noise)
    return tags if mask is None else tags.masked_fill(~mask, -1)


def _paths_by_tree(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """Both ends first, then the tag in the middle given its neighbours, level by level down the tree."""
    b, n, k = h.shape
    steps, order = _steps(h, A, mask, log=True)
    levels = _levels(steps, b, _max_product if noise is None else _log_product)
    first = h[:, 0] if start is None else h[:, 0] + start
    root = first.T[:, None] + levels[-1]
    root = (root if end is None else root + end[:, None]).flatten(0, 1).T  # (b, k·k)
    ends = (root[None] if noise is None else root + noise(b, k * k)).argmax(-1)
    left_tag, right_tag = ends // k, ends % k  # (s, nodes·b)
    tags = [left_tag]
    for level in levels[-2::-1]:
        left, right = level.chunk(2, dim=2)
        at = torch.arange(left.shape[2], device=h.device)
        scores = left[left_tag, :, at] + right.transpose(0, 1)[right_tag, :, at]
        middle = (scores if noise is None else scores + noise(len(at), k)).argmax(-1)
        left_tag, right_tag = torch.cat((left_tag, middle), 1), torch.cat((middle, right_tag), 1)
    by_time = right_tag.unflatten(1, (-1, b))[:, torch.argsort(order)[: n - 1]]
    return torch.cat((tags[0][:, None], by_time), 1).transpose(1, 2)


def _paths_by_loop(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """From the last place to the first: y_t = argmax_i (value_t(i) + A[i, y_{t+1}] (+ noise))."""
    b, n, k = h.shape
    columns = A.T.contiguous()  # [to, from]
    if noise is None:
        places = h.unbind(1)
        best = places[0] if start is None else places[0] + start
        table = [best]
        for place in places[1:]:
            best = (best[:, None, :] + columns).amax(-1) + place
            table.append(best)
        values = torch.stack(table, 1)
    else:
        values = torch.stack(_forward_scores(h, A, None, start), 1)
    # Turned round, each sentence begins with its last place, and what stands after the end is never read.
    index = _reversal(mask, b, n, h.device)
    backwards = _turned(values, index).transpose(0, 1).unbind(0)
    scores = (backwards[0] if end is None else backwards[0] + end)[None]
    path: list[Tensor] = []
    for t in range(n):
        if t:
            scores = F.embedding(path[-1], columns) + backwards[t]
        path.append((scores if noise is None else scores + noise(b, k)).argmax(-1))
    tags = torch.stack(path, -1)
    return tags.gather(-1, index.expand_as(tags))


def crf_viterbi(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The path with the highest score: step D1 with (max, +) in place of (logsumexp, +) (step D3).

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.

    Returns:
        the tags ``(b, n)`` int64, −1 at padding, and their scores ``(b,)``. Of several best paths one is given. Tensors
        only, on the device; nothing is differentiated.

    Raises:
        ValueError, TypeError: as :func:`crf_log_partition`.

    Example:
        >>> h = torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])
        >>> crf_viterbi(h, torch.tensor([[0.0, 0.0], [0.0, -3.0]]))  # 1 → 1 costs too much
        (tensor([[0, 1]]), tensor([2.]))

    Source: chapter *crf-learning-rate*, step D3.
    """
    _check(emissions, transitions, mask, start, end)
    with torch.no_grad(), _no_autocast(emissions):
        h, A, a, z = _raised(emissions, transitions, start, end)
        if mask is not None:
            h = h.masked_fill(~mask[..., None], 0.0)
        tags = _paths(h, A, mask, a, z, None)[0]
        return tags, _score(h, A, tags.clamp(min=0), mask, a, z)


def crf_sample(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Independent draws from p(y) = e^{S(y)}/Z, exact: no chain has to burn in.

    The sums over beginnings are computed once. Then the last tag is drawn, and from right to left each tag given its
    successor, :math:`p(y_t = i \mid y_{t+1} = j) \propto e^{\alpha_t(i) + A_{ij}}`. For few tags a tree does the same
    in about log₂ n steps: both ends first, then the tag in the middle given both, and so on. A draw is the argmax of
    the scores plus Gumbel noise, so the walk is that of Viterbi.

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.
        samples: number s of draws for each sentence, ≥ 1.
        generator: the source of randomness; its device may differ from that of the emissions.

    Returns:
        ``(s, b, n)`` int64, −1 at padding.

    Raises:
        ValueError: samples < 1; otherwise as :func:`crf_log_partition`.

    Example:
        >>> y = crf_sample(torch.zeros(1, 3, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0]]), samples=4,
        ...                generator=torch.Generator().manual_seed(0))
        >>> y.shape, bool((y[..., 1:] == y[..., :-1]).all())
        (torch.Size([4, 1, 3]), True)

    Source: chapter *crf-learning-rate*, step D2 (the conditional probabilities).
    """
    _check(emissions, transitions, mask, start, end)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples={samples!r} must be an integer >= 1")
    with torch.no_grad(), _no_autocast(emissions):
        h, A, a, z = _raised(emissions, transitions, start, end)
        if mask is not None:
            h = h.masked_fill(~mask[..., None], 0.0)
        at = h.device if generator is None else generator.device

        def noise(*shape: int) -> Tensor:
            wait = torch.empty(samples, *shape, dtype=h.dtype, device=at).exponential_(generator=generator)
            return wait.to(h.device).log_().neg_()  # Gumbel

        return _paths(h, A, mask, a, z, noise)


# ----------------------------------------------------------------------------------------------------------------------
# Plain forms: all paths, one by one
# ----------------------------------------------------------------------------------------------------------------------


def crf_paths_plain(
    emissions: Tensor, transitions: Tensor, start: Tensor | None = None, end: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All k^n paths ``(k^n, n)`` and their scores ``(b, k^n)``, for sentences without padding.

    Args:
        emissions, transitions, start, end: as in :func:`crf_log_partition`, k^n ≤ 2^20.

    Raises:
        ValueError: too many paths; wrong shapes.

    Example:
        >>> crf_paths_plain(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        (tensor([[0, 0],
                [0, 1],
                [1, 0],
                [1, 1]]), tensor([[0., 1., 2., 3.]]))
    """
    _check(emissions, transitions, None, start, end)
    _, n, k = emissions.shape
    if k**n > 2**20:
        raise ValueError(f"{k} tags at {n} places give {k}^{n} paths; the plain form looks at 2^20 at most")
    paths = torch.tensor(list(itertools.product(range(k), repeat=n)), device=emissions.device)
    places = torch.arange(n, device=emissions.device)
    scores = emissions[:, places, paths].sum(-1) + transitions[paths[:, :-1], paths[:, 1:]].sum(-1)
    if start is not None:
        scores = scores + start[paths[:, 0]]
    if end is not None:
        scores = scores + end[paths[:, -1]]
    return paths, scores


def _sentences(emissions: Tensor, mask: Tensor | None) -> list[Tensor]:
    if mask is None:
        return [h[None] for h in emissions]
    return [h[keep][None] for h, keep in zip(emissions, mask, strict=True)]


def crf_log_partition_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Tensor:
    """:func:`crf_log_partition` by its definition: a logsumexp over all k^n paths.

    Example:
        >>> crf_log_partition_plain(torch.zeros(1, 3, 2), torch.zeros(2, 2)).exp()
        tensor([8.])
    """
    scores = [crf_paths_plain(h, transitions, start, end)[1] for h in _sentences(emissions, mask)]
    return torch.cat([torch.logsumexp(s, dim=1) for s in scores])


def crf_marginals_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`crf_marginals` with ``pairwise``, by adding up the probabilities of all paths.

    Example:
        >>> crf_marginals_plain(torch.zeros(1, 2, 2), torch.zeros(2, 2))[0]
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    b, n, k = emissions.shape
    unary, pairs = emissions.new_zeros(b, n, k), emissions.new_zeros(b, n - 1, k, k)
    for row, h in enumerate(_sentences(emissions, mask)):
        paths, scores = crf_paths_plain(h, transitions, start, end)
        weights = torch.softmax(scores[0], 0)
        for t in range(h.shape[1]):
            for i in range(k):
                unary[row, t, i] = weights[paths[:, t] == i].sum()
                for j in range(k if t else 0):
                    pairs[row, t - 1, i, j] = weights[(paths[:, t - 1] == i) & (paths[:, t] == j)].sum()
    return unary, pairs


def crf_viterbi_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`crf_viterbi` by looking at all paths.

    Example:
        >>> crf_viterbi_plain(torch.tensor([[[0.0, 1.0], [0.0, 2.0]]]), torch.tensor([[0.0, 0.0], [0.0, -3.0]]))
        (tensor([[0, 1]]), tensor([2.]))
    """
    tags = torch.full(emissions.shape[:2], -1, device=emissions.device)
    best = []
    for row, h in enumerate(_sentences(emissions, mask)):
        paths, scores = crf_paths_plain(h, transitions, start, end)
        top = scores[0].max(0)
        tags[row, : h.shape[1]] = paths[top.indices]
        best.append(top.values)
    return tags, torch.stack(best)


# ----------------------------------------------------------------------------------------------------------------------
# Transitions
# ----------------------------------------------------------------------------------------------------------------------


def double_center(transitions: Tensor) -> Tensor:
    r"""D_ij = A_ij − mean of row i − mean of column j + mean of all: what of A does not depend on the gauge (step D4).

    Offsets :math:`A_{ij} \to A_{ij} + r_i + c_j` can be moved into the emissions without changing any path's
    probability, up to the two ends. D is what remains.

    Args:
        transitions: ``(..., k, k)``.

    Returns:
        the same shape; rows and columns add up to zero.

    Raises:
        ValueError: the last two sizes differ.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [3.0, 8.0]])
        >>> double_center(A)
        tensor([[ 1., -1.],
                [-1.,  1.]])
        >>> torch.equal(double_center(A + torch.tensor([[5.0], [7.0]])), double_center(A))
        True

    Source: chapter *crf-learning-rate*, step D4.
    """
    if transitions.dim() < 2 or transitions.shape[-1] != transitions.shape[-2]:
        raise ValueError(f"transitions has shape {tuple(transitions.shape)}, not (..., tags, tags)")
    rows, columns = transitions.mean(-1, keepdim=True), transitions.mean(-2, keepdim=True)
    return transitions - rows - columns + rows.mean(-2, keepdim=True)


_SCHEMES = {  # letters of the scheme; (letters after which, letters that follow) of steps inside and between spans
    "bmes": ("bmes", ("bm", "me"), ("se", "sb"), "sb", "se"),
    "bio": ("bio", ("bi", "i"), ("bio", "bo"), "bo", "bio"),
}


def _parsed(tags: Sequence[str], scheme: str) -> list[tuple[str, str]]:
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme={scheme!r} is not known; choose one of {', '.join(map(repr, _SCHEMES))}")
    out = []
    for tag in tags:
        letter, _, kind = tag.partition("-")
        if letter.lower() not in _SCHEMES[scheme][0] or len(letter) != 1:
            raise ValueError(f"the tag {tag!r} does not belong to the scheme {scheme!r}")
        out.append((letter.lower(), kind))
    if not out:
        raise ValueError("tags is empty: at least one tag is needed")
    return out


def legal_transitions(tags: Sequence[str], scheme: str = "bmes") -> Tensor:
    """Which tag may follow which.

    ``"bmes"``: a word is ``s``, or ``b``, any number of ``m``, and ``e``. ``"bio"``: a span is ``b`` and any number of
    ``i``; ``o`` is outside. A tag may carry a kind after a hyphen, which stays the same within a span.

    Args:
        tags: the tags in the order of their numbers, such as ``"sbme"`` or ``["O", "B-PER", "I-PER"]``.
        scheme: ``"bmes"`` or ``"bio"``.

    Returns:
        ``(k, k)`` boolean.

    Raises:
        ValueError: an unknown scheme, or a tag that is not of the scheme.

    Example:
        >>> legal_transitions("sbme").int()
        tensor([[1, 1, 0, 0],
                [0, 0, 1, 1],
                [0, 0, 1, 1],
                [1, 1, 0, 0]], dtype=torch.int32)

    Source: https://kexue.fm/archives/7196.
    """
    parsed = _parsed(tags, scheme)
    _, inside, between, _, _ = _SCHEMES[scheme]
    return torch.tensor(
        [
            [
                (x in inside[0] and y in inside[1] and kind == other) or (x in between[0] and y in between[1])
                for y, other in parsed
            ]
            for x, kind in parsed
        ]
    )


def legal_start_end(tags: Sequence[str], scheme: str = "bmes") -> tuple[Tensor, Tensor]:
    """Which tags may begin and which may end a sentence; two ``(k,)`` booleans. As :func:`legal_transitions`.

    Example:
        >>> legal_start_end("sbme")
        (tensor([ True,  True, False, False]), tensor([ True, False, False,  True]))
    """
    parsed = _parsed(tags, scheme)
    first, last = _SCHEMES[scheme][3:]
    return torch.tensor([x in first for x, _ in parsed]), torch.tensor([x in last for x, _ in parsed])


class LinearChainCRF(nn.Module):
    r"""A linear-chain CRF as a layer: emissions in, loss, marginals, best path or samples out.

    The transitions are read as ``A = scale * theta``. With Adam a scale of s makes A move s times as fast as a plain
    parameter (and divides epsilon by s), with SGD s² times (step D7).

    Args:
        num_tags: k.
        scale: s > 0.
        start_end: also learn scores of the first and the last tag (in the same scale).
        constraints: which steps are allowed: ``(k, k)`` boolean, or that with ``(k,)`` booleans for the first and the
            last tag as a tuple ``(transitions, start, end)``. Forbidden ones get the score :data:`FORBIDDEN`.
        init: ``"uniform"``: A uniform in ±√(3/k), the Glorot initialisation of the author's layer; or ``"zeros"``.
        generator: for the initial values.

    Attributes:
        theta: the parameter ``(k, k)``; ``theta_start`` and ``theta_end`` ``(k,)`` or None.

    Raises:
        ValueError: num_tags < 1, scale ≤ 0, an unknown init, constraints of another shape.
        TypeError: constraints that are not boolean.

    Hazards:
        A checkpoint holds theta, so the scale must be the same when it is loaded. Start and end scores break the gauge
        freedom at the ends (step D4).

    Example:
        >>> crf = LinearChainCRF(4, scale=100.0, generator=torch.Generator().manual_seed(0))
        >>> h, y = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long)
        >>> loss = crf(h, y)
        >>> tags, score = crf.decode(h)
        >>> loss.shape, tags.shape, bool(crf.transitions.abs().max() <= 3**0.5 / 2)
        (torch.Size([]), torch.Size([2, 5]), True)

    Source: https://kexue.fm/archives/7196; chapter *crf-learning-rate*, steps D1 and D7.
    """

    def __init__(
        self,
        num_tags: int,
        *,
        scale: float = 1.0,
        start_end: bool = False,
        constraints: Any = None,
        init: str = "uniform",
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the parameters; the arguments stand in the docstring of the class."""
        super().__init__()
        if isinstance(num_tags, bool) or not isinstance(num_tags, int) or num_tags < 1:
            raise ValueError(f"num_tags={num_tags!r} must be an integer >= 1")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale!r} must be a number > 0")
        if init not in ("uniform", "zeros"):
            raise ValueError(f"init={init!r} is not known; choose 'uniform' or 'zeros'")
        self.num_tags, self.scale = num_tags, float(scale)
        bound = math.sqrt(3 / num_tags) / scale if init == "uniform" else 0.0

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        self.theta = parameter(num_tags, num_tags)
        self.theta_start = parameter(num_tags) if start_end else None
        self.theta_end = parameter(num_tags) if start_end else None
        given = (None, None, None) if constraints is None else constraints
        names = ("allowed", "allowed_start", "allowed_end")
        shapes = ((num_tags, num_tags), (num_tags,), (num_tags,))
        given = (given, None, None) if isinstance(given, Tensor) else tuple(given)
        if len(given) != 3:
            raise ValueError(f"constraints has {len(given)} parts; give (k, k), or (transitions, start, end)")
        for name, allowed, shape in zip(names, given, shapes, strict=True):
            if allowed is not None:
                if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
                    kind = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
                    raise TypeError(f"constraints: {name} has type {kind}; a boolean tensor is needed")
                if allowed.shape != shape:
                    raise ValueError(f"constraints: {name} has shape {tuple(allowed.shape)}, not {shape}")
            self.register_buffer(name, allowed, persistent=False)

    def _read(self, theta: Tensor | None, allowed: Tensor | None) -> Tensor | None:
        if theta is None:
            if allowed is None:
                return None
            theta = torch.zeros_like(allowed, dtype=self.theta.dtype)
        value = self.scale * theta
        return value if allowed is None else torch.where(allowed, value, FORBIDDEN)

    @property
    def transitions(self) -> Tensor:
        """A ``(k, k)``, with the forbidden steps in it."""
        out = self._read(self.theta, self.allowed)  # type: ignore[arg-type]
        assert out is not None
        return out

    @property
    def start(self) -> Tensor | None:
        """Scores of the first tag ``(k,)``, or None."""
        return self._read(self.theta_start, self.allowed_start)  # type: ignore[arg-type]

    @property
    def end(self) -> Tensor | None:
        """Scores of the last tag ``(k,)``, or None."""
        return self._read(self.theta_end, self.allowed_end)  # type: ignore[arg-type]

    def forward(
        self,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor | None = None,
        *,
        reduction: str = "mean",
        method: str = "auto",
        validate: bool = False,
    ) -> Tensor:
        """The loss of :func:`crf_nll`."""
        return crf_nll(
            emissions,
            self.transitions,
            tags,
            mask,
            self.start,
            self.end,
            reduction=reduction,
            method=method,
            validate=validate,
        )

    def log_partition(self, emissions: Tensor, mask: Tensor | None = None, *, method: str = "auto") -> Tensor:
        """:func:`crf_log_partition`."""
        return crf_log_partition(emissions, self.transitions, mask, self.start, self.end, method=method)

    def marginals(self, emissions: Tensor, mask: Tensor | None = None, *, pairwise: bool = False) -> Any:
        """:func:`crf_marginals`."""
        return crf_marginals(emissions, self.transitions, mask, self.start, self.end, pairwise=pairwise)

    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:func:`crf_viterbi`: the best path and its score."""
        return crf_viterbi(emissions, self.transitions, mask, self.start, self.end)

    def sample(
        self,
        emissions: Tensor,
        mask: Tensor | None = None,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """:func:`crf_sample`."""
        return crf_sample(emissions, self.transitions, mask, self.start, self.end, samples=samples, generator=generator)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.num_tags}, scale={self.scale:g}, start_end={self.theta_start is not None}"

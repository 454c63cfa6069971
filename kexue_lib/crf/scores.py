"""The score of a path, the log-partition function, the likelihood and the marginals."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import METHODS, _check, _check_tags, _check_values, _lengths, _no_autocast, _prepared, _raised
from .gradient import _interval, _LogPartition, _may_look, _posterior
from .recursions import _log_marginals, _scan, _tree

__all__ = ["crf_log_partition", "crf_marginals", "crf_nll", "crf_score"]


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
        h, A, a, z = _prepared(emissions, transitions, mask, start, end)
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
        h, A, a, z = _prepared(emissions, transitions, mask, start, end)
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

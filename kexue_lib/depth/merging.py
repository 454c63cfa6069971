r"""Neighbouring sublayers side by side: what a residual network loses if two branches get the same input.

* a stack in groups: :func:`grouped_stack`,
* every pair of neighbours merged, one pair at a time: :func:`merge_sublayers` (and its plain form),
* how much a branch's value changes by it: :func:`merge_errors` (and its plain form).

Source: Su Jianlin, https://kexue.fm/archives/9009 (2022). The steps D1–D5 are those of the chapter
*pre-norm-vs-post-norm*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_lib.norm import residual

from .effective import check_mode, check_stream

__all__ = ["grouped_stack", "merge_errors", "merge_errors_plain", "merge_sublayers", "merge_sublayers_plain"]

Branch = Callable[[Tensor], Tensor]


def grouped_stack(
    x: Tensor,
    branches: Sequence[Branch],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    alpha: float = 1.0,
    mode: str = "pre",
) -> Tensor:
    r"""Run branches along a residual stream, those of a group side by side: all of a group get the same input.

    .. math:: x \leftarrow \alpha x + \sum_{t \in g} F_t(\mathrm{LN}(x)) \quad\text{(pre)}, \qquad
              x \leftarrow \mathrm{LN}\Bigl(\alpha x + \sum_{t \in g} F_t(x)\Bigr) \quad\text{(post)}

    A group of two is one sublayer of double width. A branch that is in no group is dropped.

    Args:
        x: x₀, ``(..., d)``.
        branches: F_0 … F_{M-1}.
        groups: numbers of branches, in the order of the run; default one after the other.
        alpha: α > 0.
        mode: place of the norm.

    Returns:
        The stream x_0, x_1, … after each group, ``(len(groups) + 1, ..., d)``; the final norm of ``"pre"`` is left out.

    Raises:
        IndexError: no branch has that number.
        ValueError: an unknown mode, an empty group, a number twice.

    Example:
        >>> double = lambda h: 2 * h
        >>> x = torch.tensor([1.0, -1.0])
        >>> grouped_stack(x, [double, double], [(0, 1)])[-1]  # x + 2 LN(x) + 2 LN(x)
        tensor([ 5.0000, -5.0000])

    Source: https://kexue.fm/archives/9009; step D3.
    """
    check_mode(mode)
    order = [(t,) for t in range(len(branches))] if groups is None else [tuple(group) for group in groups]
    used = [t for group in order for t in group]
    for t in used:
        if not 0 <= t < len(branches):
            raise IndexError(f"there is no branch {t!r}: they are 0 … {len(branches) - 1}")
    if len(set(used)) < len(used) or not all(order):
        raise ValueError(f"groups={groups!r} is not allowed; allowed: groups of one or more, each branch at most once")
    stream = [x]
    for group in order:

        def together(h: Tensor, group: tuple[int, ...] = group) -> Tensor:
            out = branches[group[0]](h)
            for t in group[1:]:
                out = out + branches[t](h)
            return out

        stream.append(residual(stream[-1], together, alpha, mode))
    return torch.stack([part.to(stream[-1].dtype) for part in stream])


def merge_sublayers(
    x: Tensor, branches: Sequence[Branch], *, alpha: float = 1.0, mode: str = "pre", axis: int = 0
) -> Tensor:
    """The end of the stream if the branches t and t + 1 run side by side: for every t, in one pass.

    A run with the pair (t, t + 1) merged is the usual run up to x_t. After that it needs the same branches as all other
    runs. So all runs go along in one batch, and every branch is called once: M calls in place of about M².

    Args:
        x: x₀, ``(..., d)``.
        branches: F_0 … F_{M-1}, M ≥ 2; they must treat the entries of ``axis`` alike and apart from each other.
        alpha, mode: as in :func:`grouped_stack`.
        axis: along which the runs are joined; not the last.

    Returns:
        ``(M - 1, ..., d)``: entry t belongs to the pair (t, t + 1). The final norm of ``"pre"`` is the caller's.

    Raises:
        ValueError: fewer than two branches, an unknown mode, an axis that x does not have.

    Hazards:
        Memory and arithmetic grow like M runs at once. A branch that mixes the entries of ``axis`` (a batch norm, say)
        gives wrong numbers.

    Example:
        >>> merge_sublayers(torch.tensor([[1.0, 0.0, -1.0]]), [torch.relu, torch.relu, torch.neg]).round(decimals=2)
        tensor([[[ 2.0700,  0.4300, -0.0500]],
        <BLANKLINE>
                [[ 2.2200,  0.3000,  0.0400]]])

    Source: https://kexue.fm/archives/9009, claim C3.
    """
    _check_merge(x, branches, mode)
    if not -x.dim() <= axis < x.dim() or axis % x.dim() == x.dim() - 1:
        raise ValueError(f"axis={axis!r} is not allowed; allowed: an axis of x {tuple(x.shape)} other than the last")
    rows = x.shape[axis]
    saved: list[Tensor] = []
    # the batch: the usual run, then (from t = 1 on) x_{t-1} on its way to the merged pair, then merged runs
    batch, here = x, x
    for t, branch in enumerate(branches):

        def step(h: Tensor, branch: Branch = branch, first: bool = t == 0) -> Tensor:
            out = branch(h)
            usual = out.narrow(axis, 0, rows)
            if not first:
                pair = out.narrow(axis, rows, rows) + saved[-1]
                out = torch.cat((usual, pair, out.narrow(axis, 2 * rows, out.shape[axis] - 2 * rows)), axis)
            saved[:] = [usual]
            return out

        after = residual(batch, step, alpha, mode)
        if t == len(branches) - 1:
            batch = after.narrow(axis, rows, after.shape[axis] - rows)
            break
        usual = after.narrow(axis, 0, rows)
        merged = after.narrow(axis, rows, after.shape[axis] - rows)
        batch, here = torch.cat((usual, here.to(after.dtype), merged), axis), usual
    return torch.stack(batch.split(rows, axis)[::-1])


def merge_sublayers_plain(
    x: Tensor, branches: Sequence[Branch], *, alpha: float = 1.0, mode: str = "pre", axis: int = 0
) -> Tensor:
    """:func:`merge_sublayers`, one run after the other (``axis`` plays no part): its specification.

    Example:
        >>> merge_sublayers_plain(torch.tensor([[1.0, 0.0, -1.0]]), [torch.relu, torch.neg])[0].round(decimals=2)
        tensor([[1.0000, 0.0000, 0.2200]])

    Source: https://kexue.fm/archives/9009, claim C3.
    """
    _check_merge(x, branches, mode)
    count = len(branches)
    ends = []
    for t in range(count - 1):
        groups = [(s,) for s in range(t)] + [(t, t + 1)] + [(s,) for s in range(t + 2, count)]
        ends.append(grouped_stack(x, branches, groups, alpha=alpha, mode=mode)[-1])
    return torch.stack(ends)


def merge_errors(
    stream: Tensor, branches: Sequence[Branch], *, mode: str = "pre", keep: int = 0, axis: int = 0
) -> Tensor:
    r"""How much a branch's value changes if it gets the input of the branch before it.

    .. math:: e_t = \frac{\lVert F_{t+1}(h_{t+1}) - F_{t+1}(h_t)\rVert}{\lVert F_{t+1}(h_{t+1})\rVert}, \qquad
              h_t = \mathrm{LN}(x_t) \text{ (pre)}, \quad x_t \text{ (post)}

    Args:
        stream: x_0 … x_M, ``(M + 1, ..., d)``, from :func:`grouped_stack`.
        branches: F_0 … F_{M-1}, M ≥ 2.
        mode: place of the norm.
        keep: that many axes of x are not averaged over: 1 for several networks.
        axis: of x, along which two inputs may be joined to one call; as in :func:`merge_sublayers`.

    Returns:
        e, ``(M - 1, ...)``.

    Raises:
        ValueError: a stream that does not fit the branches, an unknown mode, a ``keep`` that leaves no vectors.

    Example:
        >>> branches = [lambda h: h.flip(-1), torch.tanh]
        >>> merge_errors(grouped_stack(torch.tensor([[1.0, 2.0, 6.0]]), branches), branches)
        tensor([0.3838])

    Source: https://kexue.fm/archives/9009; step D3.
    """
    inputs = _branch_inputs(stream, branches, mode, keep)
    found = []
    for t in range(1, len(branches)):
        out = branches[t](torch.cat((inputs[t], inputs[t - 1]), axis))
        usual, other = out.split(out.shape[axis] // 2, axis)
        found.append(_ratio(usual - other, usual, keep))
    return torch.stack(found)


def merge_errors_plain(
    stream: Tensor, branches: Sequence[Branch], *, mode: str = "pre", keep: int = 0, axis: int = 0
) -> Tensor:
    """:func:`merge_errors` with two calls for each pair (``axis`` plays no part): its specification.

    Example:
        >>> branches = [lambda h: h.flip(-1), torch.tanh]
        >>> merge_errors_plain(grouped_stack(torch.tensor([[1.0, 2.0, 6.0]]), branches), branches)
        tensor([0.3838])

    Source: https://kexue.fm/archives/9009; step D3.
    """
    inputs = _branch_inputs(stream, branches, mode, keep)
    found = []
    for t in range(1, len(branches)):
        usual = branches[t](inputs[t])
        found.append(_ratio(usual - branches[t](inputs[t - 1]), usual, keep))
    return torch.stack(found)


def _branch_inputs(stream: Tensor, branches: Sequence[Branch], mode: str, keep: int) -> Tensor:
    check_mode(mode)
    check_stream(stream, keep)
    if len(branches) < 2 or len(stream) != len(branches) + 1:
        raise ValueError(f"stream {tuple(stream.shape)} must be (M + 1, ..., d) for M = {len(branches)} >= 2 branches")
    return F.layer_norm(stream, stream.shape[-1:]) if mode == "pre" else stream


def _ratio(change: Tensor, usual: Tensor, keep: int) -> Tensor:
    size, base = (part.float() if part.dtype in (torch.float16, torch.bfloat16) else part for part in (change, usual))
    return (size.flatten(keep).square().sum(-1) / base.flatten(keep).square().sum(-1)).sqrt()


def _check_merge(x: Tensor, branches: Sequence[Branch], mode: str) -> None:
    check_mode(mode)
    if len(branches) < 2:
        raise ValueError(f"{len(branches)} branches cannot be merged; two at least are needed")
    if x.dim() < 2:
        raise ValueError(f"x {tuple(x.shape)} must be (..., d) with two axes at least")

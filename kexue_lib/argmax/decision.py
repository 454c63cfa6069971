"""The decision for every class of a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .certificates import _settle, _witness
from .checks import Array, _check_class, _check_index, _check_layer, _numpy_layer, _scipy
from .quick_test import _centred, _self_test
from .reflections import _SCORES, _lead, _reflect

__all__ = ["ArgmaxableResult", "Margin", "argmax_margin", "argmaxable", "argmaxable_plain"]


class ArgmaxableResult(NamedTuple):
    """What :func:`argmaxable` found, a row for each class that was asked for.

    Attributes:
        status: ``(m,)`` int8: 1 argmaxable, −1 not argmaxable, 0 undecided.
        witness: ``(m, d)`` float64: a z at which the class wins; NaN where there is none. Without bias it has norm 1.
        margin: ``(m,)`` float64: the lead of the class at its witness over the best other class, less all rounding
            errors, so that the true lead is not smaller; NaN where there is no witness.
    """

    status: Tensor
    witness: Tensor
    margin: Tensor


class Margin(NamedTuple):
    """The largest lead that class k can have, and where it has it."""

    margin: float
    z: Array


def _beaten_by_a_twin(weight: Tensor, bias: Tensor | None) -> list[int]:
    """Classes that have an equal row with an equal or a larger bias: never a strict argmax."""
    rows = (weight.double() + 0.0).cpu().numpy() if weight.dtype != torch.float32 else (weight + 0.0).cpu().numpy()
    groups: dict[bytes, list[int]] = {}
    for k, row in enumerate(rows):
        groups.setdefault(row.tobytes(), []).append(k)
    lost: list[int] = []
    for twins in groups.values():
        if len(twins) > 1:
            heights = [0.0 if bias is None else float(bias[k]) for k in twins]
            single = heights.count(max(heights)) == 1
            lost += [k for k, height in zip(twins, heights, strict=True) if height < max(heights) or not single]
    return lost


@torch.no_grad()
def argmaxable(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    index: Tensor | Sequence[int] | None = None,
    max_iter: int = 100,
    settle: bool = True,
) -> ArgmaxableResult:
    r"""Decides for each class whether some z makes it the strict argmax of ``weight @ z + bias``.

    Three stages, each for what the one before left open: :func:`self_test` for all classes at once, half a Gram matrix
    in float32; :func:`reflection_search` in batches; then for each class non-negative least squares on the rivals that
    reflection met, more rivals being added while they are needed. The last stage ends with a witness or with a
    certificate of absence (:func:`hull_certificate`).

    Args:
        weight: ``(n, d)``, any floating dtype; on its device run the first two stages.
        bias: ``(n,)`` or None.
        index: ``(m,)`` the classes to decide, default all. They compete with all n classes.
        max_iter: most reflections for a class; fewer are made where few classes are left and ``settle`` decides them.
        settle: False leaves out the last stage: what it would decide has status 0.

    Returns:
        :class:`ArgmaxableResult`. Every 1 has a witness whose lead exceeds all rounding errors, every −1 a verified
        certificate. 0 remains, with ``settle``, only where the class lies within rounding of the edge.

    Raises:
        ValueError, TypeError: wrong shapes, dtypes, classes, NaN or infinite entries.
        ImportError: ``settle`` needs SciPy.

    Hazards:
        Two equal rows with equal bias are both not argmaxable: neither ever wins strictly.
        All z count. Whether a network ever produces such a z is another question, and layer normalisation in front
        restricts z: project the rows accordingly.
        In the bias the scale matters: a witness with bias may be far from 0.

    Example:
        >>> w = torch.tensor([[2., 1.], [1., 2.], [0., 1.], [1., 0.], [1., 1.]])
        >>> argmaxable(w).status.tolist()                        # the last one is the mean of the others
        [1, 1, 1, 1, -1]
        >>> argmaxable(w, torch.tensor([0., 0., 0., 0., 0.1])).status.tolist()
        [1, 1, 1, 1, 1]
        >>> argmaxable(w, -w.square().sum(1) / 2).status.tolist()            # the cells of a Voronoi diagram
        [1, 1, 1, 1, 1]

    Source: https://kexue.fm/archives/9046; arXiv 2203.06462; chapter *unargmaxable-words*, steps D2, D3, D7, D11.
    """
    weight, bias = _check_layer(weight, bias)
    n, d = weight.shape
    every = index is None
    index = _check_index(index, n, weight.device)
    m = len(index)
    x = _centred(weight)
    status = torch.zeros(m, dtype=torch.int8, device=weight.device)
    witness = x.new_full((m, d), math.nan)
    margin = x.new_full((m,), math.nan)
    lost = torch.zeros(n, dtype=torch.bool, device=weight.device)
    lost[_beaten_by_a_twin(weight, bias)] = True
    status[lost[index]] = -1

    if every or 2 * m >= n:
        gap = _self_test(x, None)[index]
        length = x.norm(dim=1)[index]
        if bias is None:
            z, lead = x[index] / length[:, None], gap / length
        else:  # far enough out the bias does not matter
            need = bias.max() - bias[index]
            far = torch.clamp(2 * need / gap, min=1.0)
            z = far[:, None] * x[index]
            size = bias.abs().max() + far * length * x.norm(dim=1).max()
            lead = far * gap - need - 8 * torch.finfo(torch.float64).eps * size
        won = (status == 0) & (gap > 0) & (lead > 0)
        status[won] = 1
        witness[won], margin[won] = z[won], lead[won]

    open_ = (status == 0).nonzero().squeeze(1)
    for part in open_.split(max(1, _SCORES // n)):
        # a step for all classes costs about as much as settling a few of them
        steps = min(max_iter, 4 * len(part)) if settle else max_iter
        found = _reflect(x, bias, index[part], x[index[part]], steps)
        z = found.z / found.z.norm(dim=1, keepdim=True) if bias is None else found.z
        lead = _lead(x, bias, index[part], z)
        won = found.found & (lead > 0)
        status[part[won]] = 1
        witness[part[won]], margin[part[won]] = z[won], lead[won]
        if settle and not bool(won.all()):
            _settle_all(weight, bias, x, index[part[~won]], found.hits[~won], part[~won], status, witness, margin)
    return ArgmaxableResult(status, witness, margin)


def _settle_all(
    weight: Tensor,
    bias: Tensor | None,
    x: Tensor,
    classes: Tensor,
    hits: Tensor,
    rows: Tensor,
    status: Tensor,
    witness: Tensor,
    margin: Tensor,
) -> None:
    w, b = _numpy_layer(weight, bias)
    xs, bs = x.cpu(), None if bias is None else bias.cpu()
    rivals = hits.cpu().numpy()
    for row, k, hit in zip(rows.tolist(), classes.tolist(), rivals, strict=True):
        answer, z, lead, _ = _settle(w, b, xs, bs, k, np.flatnonzero(hit))
        status[row] = answer
        if z is not None:
            witness[row], margin[row] = torch.from_numpy(z).to(witness), lead


def argmax_margin(weight: Any, k: int, bias: Any = None, *, bound: float | None = None) -> Margin:
    r"""The largest lead that class k can have: one linear programme, solved by HiGHS (steps D2 and D3).

    With ``bound`` B: :math:`\max_{\|z\|_\infty\le B}\ \min_{i\ne k}\ \langle\Delta w_i, z\rangle + \Delta b_i`.
    Without it the programme is made homogeneous, so that no bound on z has to be guessed:

    .. math:: \max\ t \quad\text{subject to}\quad \langle\Delta w_i, z\rangle + \tau\,\Delta b_i \ge t,
              \quad \|z\|_\infty \le 1,\ 0 \le \tau \le 1,

    and class k is argmaxable exactly when t > 0. Then z/τ is a witness (with τ = 0: a far multiple of z).

    Args:
        weight: ``(n, d)`` tensor or array.
        k: the class.
        bias: ``(n,)`` or None.
        bound: B > 0, or None.

    Returns:
        :class:`Margin`: the value and the z (in the homogeneous form the witness, where the value is positive). It is
        right to about 1e-7 relative to the scale of the rows, as HiGHS is: no proof, unlike :func:`argmaxable`.

    Raises:
        ValueError: bad input. ImportError: no SciPy. RuntimeError: the solver failed.

    Example:
        >>> w = np.array([[1., 0.], [0., 1.], [-1., 0.], [0., -1.], [0.6, 0.5]])
        >>> round(argmax_margin(w, 4).margin, 6)
        0.1
        >>> round(argmax_margin(w, 4, bound=10).margin, 6)
        1.0

    Source: https://kexue.fm/archives/9046; chapter *unargmaxable-words*, steps D2, D3 and D11c.
    """
    w, b = _numpy_layer(weight, bias)
    n, d = w.shape
    k = _check_class(k, n)
    if bound is not None and not 0 < bound < math.inf:
        raise ValueError(f"bound={bound!r} must be a positive number, or None for all z")
    others = np.arange(n) != k
    delta = w[k] - w[others]
    scale = float(np.abs(delta).max()) or 1.0
    heights = np.zeros(n - 1) if b is None else b[k] - b[others]
    homogeneous = bound is None and b is not None
    height_scale = (float(np.abs(heights).max()) or 1.0) if homogeneous else scale * (bound or 1.0)
    columns = [-delta / scale, np.ones((n - 1, 1))]
    limits: list[tuple[float | None, float | None]] = [(-1.0, 1.0)] * d
    upper = np.zeros(n - 1)
    if homogeneous:
        columns.insert(1, -heights[:, None] / height_scale)
        limits.append((0.0, 1.0))
    else:
        upper = heights / height_scale
    matrix = np.concatenate(columns, axis=1)
    cost = np.zeros(matrix.shape[1])
    cost[-1] = -1.0
    answer = _scipy("argmax_margin").linprog(
        cost, A_ub=matrix, b_ub=upper, bounds=[*limits, (None, None)], method="highs"
    )
    if answer.status != 0:
        raise RuntimeError(f"HiGHS did not solve the linear programme of class {k}: {answer.message}")
    value, z = float(answer.x[-1]), np.asarray(answer.x[:d], dtype=np.float64)
    if homogeneous:
        direction = np.concatenate([z / scale, [answer.x[d] / height_scale]])
        return Margin(value, _witness(direction, w, b, k) if value > 0 else z)
    return Margin(value * height_scale, z * (bound or 1.0))


def argmaxable_plain(weight: Any, bias: Any = None, *, index: Sequence[int] | None = None) -> npt.NDArray[np.int8]:
    """:func:`argmaxable` as the definition says: a linear programme for each class; (m,) of 1 and −1.

    A lead below 1e-9 of the programme's scale counts as none.

    >>> argmaxable_plain(np.array([[2., 1.], [1., 2.], [0., 1.], [1., 0.], [1., 1.]])).tolist()
    [1, 1, 1, 1, -1]
    """
    w, _ = _numpy_layer(weight, bias)
    spread = float(np.abs(w - w.mean(0)).max()) or 1.0
    least = 1e-9 * (spread if bias is None else 1.0)
    chosen = range(len(w)) if index is None else index
    return np.array([1 if argmax_margin(weight, k, bias).margin > least else -1 for k in chosen], dtype=np.int8)

"""Reflection: a query walks away from the classes that beat the wanted one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import _check_index, _check_layer
from .quick_test import _centred, _rounding

__all__ = ["Reflections", "reflection_search"]

_SCORES = 2**23  # scores that are held at once


class Reflections(NamedTuple):
    """What :func:`reflection_search` found.

    Attributes:
        found: ``(m,)`` bool: the class is the argmax at z (compare in exact arithmetic where a tie matters).
        z: ``(m, d)``: the last point.
        steps: ``(m,)`` int64: reflections made.
        hits: ``(m, n)`` bool: the classes that won on the way; rivals to start a linear programme from.
    """

    found: Tensor
    z: Tensor
    steps: Tensor
    hits: Tensor


@torch.no_grad()
def reflection_search(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    index: Tensor | Sequence[int] | None = None,
    z0: Tensor | None = None,
    max_iter: int = 300,
) -> Reflections:
    r"""Looks for a z at which each class wins, by reflecting z in the hyperplane of the winner (step D11b).

    While j = argmax ≠ k,

    .. math:: z \leftarrow z - 2\,\frac{\langle\Delta w_j, z\rangle + \Delta b_j}{\|\Delta w_j\|^2}\,\Delta w_j,
              \qquad \Delta w_j = w_k - w_j,\ \Delta b_j = b_k - b_j .

    This is the relaxation method of Agmon and of Motzkin and Schoenberg with factor 2. It ends after finitely many
    steps when the class is argmaxable, and never otherwise. So it can show presence and not absence.

    Args:
        weight: ``(n, d)``; computed in float64.
        bias: ``(n,)`` or None.
        index: ``(m,)`` the classes to look for, default all n.
        z0: ``(m, d)`` where to start; default the centred rows, :func:`self_test`'s points.
        max_iter: most reflections for a class.

    Returns:
        :class:`Reflections`.

    Hazards:
        The memory of ``hits`` is m·n bytes; a step costs 2·m·n·d flops for the classes still on the way.

    Example:
        >>> w = torch.tensor([[1., 0.], [0., 1.], [-1., 0.], [0., -1.], [0.6, 0.5]], dtype=torch.float64)
        >>> r = reflection_search(w, index=[4])
        >>> r.found.tolist(), (w @ r.z[0]).argmax().item()
        ([True], 4)

    Source: arXiv 2203.06462 ("braid reflect"); Motzkin and Schoenberg 1954; chapter *unargmaxable-words*, step D11.
    """
    weight, bias = _check_layer(weight, bias)
    index = _check_index(index, len(weight), weight.device)
    x = _centred(weight)
    if z0 is None:
        z = x[index]
    else:
        if not isinstance(z0, Tensor) or z0.shape != (len(index), weight.shape[1]) or not z0.is_floating_point():
            got = tuple(z0.shape) if isinstance(z0, Tensor) else type(z0).__name__
            raise ValueError(f"z0 is {got}; floating-point (m, d) = {(len(index), weight.shape[1])} is needed")
        z = z0.detach().to(x)
    if max_iter < 0:
        raise ValueError(f"max_iter={max_iter!r} must be >= 0")
    parts = [
        _reflect(x, bias, index[rows], z[rows], max_iter)
        for rows in torch.arange(len(index), device=x.device).split(max(1, _SCORES // len(x)))
    ]
    if not parts:
        return _reflect(x, bias, index, z, 0)
    return Reflections(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _reflect(x: Tensor, bias: Tensor | None, index: Tensor, z: Tensor, max_iter: int) -> Reflections:
    m, n = len(index), len(x)
    z = z.clone()
    found = torch.zeros(m, dtype=torch.bool, device=x.device)
    steps = torch.zeros(m, dtype=torch.int64, device=x.device)
    hits = torch.zeros(m, n, dtype=torch.bool, device=x.device)
    alive = torch.arange(m, device=x.device)
    for step in range(max_iter + 1):
        if not len(alive):
            break
        at, k = z[alive], index[alive]
        score = at @ x.T
        if bias is not None:
            score += bias
        best, j = score.max(1)
        own = score.gather(1, k[:, None]).squeeze(1)
        j = torch.where(own >= best, k, j)  # a tie is left to the caller
        done = j == k
        found[alive[done]] = True
        alive, at, k, j, gap = (v[~done] for v in (alive, at, k, j, own - best))
        if step == max_iter or not len(alive):
            break
        normal = x[k] - x[j]
        length = normal.square().sum(1)
        factor = torch.where(length > 0, 2 * gap / length, torch.zeros_like(gap))  # equal rows: no way to go
        z[alive] = at - factor[:, None] * normal
        hits[alive, j] = True
        steps[alive] += 1
    return Reflections(found, z, steps, hits)


def _lead(x: Tensor, bias: Tensor | None, index: Tensor, z: Tensor) -> Tensor:
    """Lead of each class at its z, float64, less the bound of all rounding errors."""
    score = z @ x.T
    if bias is not None:
        score += bias
    own = score.gather(1, index[:, None]).squeeze(1)
    score.scatter_(1, index[:, None], -math.inf)
    error = 2 * _rounding(x, torch.float64, z.norm(dim=1))
    if bias is not None:
        error = error + 4 * torch.finfo(torch.float64).eps * (bias.abs().max() + score.amax(1).abs() + own.abs())
    return own - score.amax(1) - error

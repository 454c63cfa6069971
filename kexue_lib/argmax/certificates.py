"""Proofs of absence: the class lies in the convex hull of others. Found by least squares, checked on their own."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .checks import Array, _check_class, _numpy_layer, _scipy
from .quick_test import _centred
from .reflections import _lead

__all__ = ["hull_certificate", "verify_certificate"]

_ROUNDS = 500  # of constraint generation; a handful is usual


_EXACT_WIDTH = 40  # up to here a certificate is checked in rational numbers where intervals do not settle it


def _nnls(weight: Array, bias: Array | None, k: int, rivals: npt.NDArray[np.int64]) -> tuple[Array, Array, float]:
    """Fits ``Σ α_i (w_i, b_i, 1) = (w_k, b_k + s, 1)`` with α, s ≥ 0: returns α, and (z, τ) that separates otherwise.

    The residual ρ = (z, τ, ν) of a fit that is not perfect has, by the conditions of Karush, Kuhn and Tucker,
    ``<w_k − w_i, z> + τ (b_k − b_i) ≥ ν > 0`` for every rival i, and τ ≥ 0.
    """
    g = (weight[rivals] - weight[k]).T
    g_scale = float(np.abs(g).max()) or 1.0
    rows = [g / g_scale]
    c_scale = 1.0
    if bias is not None:
        c = bias[rivals] - bias[k]
        c_scale = float(np.abs(c).max()) or 1.0
        rows.append((c / c_scale)[None])
    rows.append(np.ones((1, len(rivals))))
    matrix = np.concatenate(rows)
    if bias is not None:
        slack = np.zeros((len(matrix), 1))
        slack[-2] = -1.0
        matrix = np.concatenate([matrix, slack], axis=1)
    target = np.zeros(len(matrix))
    target[-1] = 1.0
    try:
        found, _ = _scipy("settling a class").nnls(matrix, target, maxiter=50 * matrix.shape[1])
    except RuntimeError:  # it cycles on the last bits: nothing is decided by this fit
        found = np.zeros(matrix.shape[1])
    residual = target - matrix @ found
    direction = residual[:-1].copy()
    direction[: weight.shape[1]] /= g_scale
    if bias is not None:
        direction[-1] /= c_scale
    return found[: len(rivals)], direction, float(np.linalg.norm(residual))


def _witness(direction: Array, weight: Array, bias: Array | None, k: int) -> Array:
    """The z that a separating (z, τ) stands for."""
    d = weight.shape[1]
    z = direction[:d]
    if bias is None:
        return z / (float(np.linalg.norm(z)) or 1.0)
    tau = float(direction[d])
    lead = np.delete((weight[k] - weight) @ z, k)
    need = np.delete(bias - bias[k], k)
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.max(np.where(lead > 0, need / lead, -np.inf))
    if tau <= 1e-12 * float(np.abs(z).max()) or not np.isfinite(z / tau).all():
        return z * max(1.0, 2 * far)
    return z / tau


def _settle(
    weight: Array, bias: Array | None, x: Tensor, b: Tensor | None, k: int, rivals: npt.NDArray[np.int64]
) -> tuple[int, Array | None, float, Array | None]:
    """Decides one class with few rivals, adding those that the candidate z does not beat."""
    n, d = weight.shape
    inside = np.zeros(n, dtype=bool)
    inside[rivals] = True
    inside[k] = False
    if not inside.any():
        distance = np.square(weight - weight[k]).sum(1)
        distance[k] = np.inf
        inside[np.argpartition(distance, min(2 * d + 2, n - 2))[: 2 * d + 2]] = True
        inside[k] = False
    which = torch.tensor([k], device=x.device)
    for _ in range(_ROUNDS):
        chosen = np.flatnonzero(inside)
        alpha, direction, misfit = _nnls(weight, bias, k, chosen)
        if misfit < 1e-6:
            whole = np.zeros(n)
            whole[chosen] = alpha
            if verify_certificate(weight, k, whole, bias):
                return -1, None, math.nan, whole
        z = _witness(direction, weight, bias, k)
        at = torch.from_numpy(z).to(x)[None]
        lead = float(_lead(x, b, which, at))
        if lead > 0:
            return 1, z, lead, None
        behind = (weight[k] - weight) @ direction[:d]
        if bias is not None:
            behind += direction[d] * (bias[k] - bias)
        behind[inside] = np.inf
        behind[k] = np.inf
        worst = np.argpartition(behind, min(d + 2, n - 1))[: d + 2]
        worst = worst[behind[worst] < np.inf]
        new = worst[behind[worst] <= 1e-9 * np.abs(direction).max() * (1 + np.abs(weight).max())]
        if not len(new):
            break
        inside[new] = True
    return 0, None, math.nan, None


def hull_certificate(weight: Any, k: int, bias: Any = None) -> Array | None:
    r"""A proof that class k is not argmaxable: weights α of the other classes, or None (steps D2 and D3).

    .. math:: \alpha \ge 0,\quad \sum_i \alpha_i = 1,\quad \alpha_k = 0,\quad
              \sum_i \alpha_i w_i = w_k,\quad \sum_i \alpha_i b_i \ge b_k .

    Then :math:`\langle w_k, z\rangle + b_k \le \sum_i\alpha_i(\langle w_i, z\rangle + b_i)
    \le \max_{i\ne k}(\langle w_i, z\rangle + b_i)` for **every** z. Found by non-negative least squares on few rivals
    at a time; what is returned has passed :func:`verify_certificate`.

    Args:
        weight: ``(n, d)`` tensor or array.
        k: the class.
        bias: ``(n,)`` or None.

    Returns:
        float64 ``(n,)``, at most d + 1 entries (d + 2 with bias) are not zero; None where class k is argmaxable, or is
        so close to the edge that rounding hides it.

    Example:
        >>> w = np.array([[1., 0.], [0., 1.], [-1., -1.], [0., 0.]])
        >>> hull_certificate(w, 3).round(6).tolist()
        [0.333333, 0.333333, 0.333333, 0.0]
        >>> hull_certificate(w, 0) is None
        True

    Source: https://kexue.fm/archives/9046; chapter *unargmaxable-words*, steps D2, D3 and D11.
    """
    w, b = _numpy_layer(weight, bias)
    k = _check_class(k, len(w))
    for j in np.flatnonzero((w == w[k]).all(1)):
        if j != k and (b is None or b[j] >= b[k]):
            alpha = np.zeros(len(w))
            alpha[j] = 1.0
            return alpha
    x = _centred(torch.from_numpy(w))
    start = np.zeros(0, dtype=np.int64)
    return _settle(w, b, x, None if b is None else torch.from_numpy(b), k, start)[3]


def verify_certificate(weight: Any, k: int, alpha: npt.ArrayLike, bias: Any = None) -> bool:
    r"""Whether weights α prove that class k is not argmaxable, with every rounding error counted.

    Floating-point weights meet the equations of :func:`hull_certificate` only nearly. This shows that weights exist
    nearby that meet them exactly: on the support S of α the equations form a square system :math:`A\alpha = r`; with an
    approximate inverse R and :math:`q = \|I - RA\|_\infty < 1` the exact solution lies within

    .. math:: |R|\,|A\alpha - r| + \frac{q}{1-q}\,\bigl\||R|\,|A\alpha-r|\bigr\|_\infty

    of α, so that it is positive where α exceeds this. Where the system is not square (class k lies on a face of the
    hull) or the bound is not good enough, it is solved in rational numbers, up to width 40.

    It uses nothing of the search: neither its centred rows nor its solver.

    Args:
        weight: ``(n, d)`` tensor or array; its numbers are taken as they are.
        k: the class.
        alpha: ``(n,)`` weights, from anywhere.
        bias: ``(n,)`` or None.

    Returns:
        True: proved. False: not proved by these weights.

    Example:
        >>> w = np.array([[1., 0.], [0., 1.], [-1., -1.], [0., 0.]])
        >>> verify_certificate(w, 3, [1/3, 1/3, 1/3, 0]), verify_certificate(w, 3, [0.5, 0.5, 0, 0])
        (True, False)

    Source: the interval bound is Rump's (1983); chapter *unargmaxable-words*, step D11.
    """
    w, b = _numpy_layer(weight, bias)
    n, d = w.shape
    k = _check_class(k, n)
    a = np.asarray(alpha, dtype=np.float64)
    if a.shape != (n,):
        raise ValueError(f"alpha has shape {a.shape}; it must be {(n,)}, a weight for each class")
    if not np.isfinite(a).all() or a.min() < 0 or a[k] != 0:
        return False
    support = np.flatnonzero(a)
    if not len(support):
        return False
    matrix = np.concatenate([w[support].T, np.ones((1, len(support)))])
    target = np.concatenate([w[k], [1.0]])
    value = a[support]
    if b is not None:
        matrix = np.concatenate([matrix, b[support][None]])
        target = np.concatenate([target, [b[k]]])
        surplus = float(value @ b[support] - b[k])
        if len(support) != d + 2 or surplus > 0:
            slack = np.zeros((len(matrix), 1))
            slack[-1] = -1.0
            matrix = np.concatenate([matrix, slack], axis=1)
            value = np.concatenate([value, [max(surplus, 0.0)]])
    # powers of two: scaling the equations by them is exact
    size = np.exp2(-np.ceil(np.log2(np.maximum(np.abs(matrix).max(1), np.finfo(float).tiny))))
    matrix, target = matrix * size[:, None], target * size
    if matrix.shape[0] == matrix.shape[1] and _exact_solution_is_positive(matrix, target, value):
        return True
    return d <= _EXACT_WIDTH and _rational_solution_is_nonnegative(matrix, target, value)


def _exact_solution_is_positive(a: Array, target: Array, value: Array) -> bool:
    p = len(a)
    unit = np.finfo(float).eps / 2
    gamma = 1.01 * (p + 2) * unit
    try:
        inverse = np.linalg.inv(a)
    except np.linalg.LinAlgError:
        return False
    size = np.abs(inverse)
    off = np.abs(np.eye(p) - inverse @ a) + gamma * (size @ np.abs(a) + np.eye(p))
    q = 1.01 * off.sum(1).max()
    residual = np.abs(a @ value - target) + gamma * (np.abs(a) @ value + np.abs(target))
    if not (np.isfinite(q) and q < 0.5):
        return False
    near = 1.01 * (size @ residual)
    return bool((value > near + q / (1 - q) * near.max()).all())


def _rational_solution_is_nonnegative(a: Array, target: Array, value: Array) -> bool:
    """Solves in rational numbers; unknowns that the equations leave free keep their given values."""
    rows = [[Fraction(float(v)) for v in (*row, t)] for row, t in zip(a, target, strict=True)]
    unknowns = a.shape[1]
    pivots: list[int] = []
    order = np.argsort(-value)  # large weights are solved for, small ones stay free
    for column in order:
        r = len(pivots)
        best = next((i for i in range(r, len(rows)) if rows[i][column]), None)
        if best is None:
            continue
        rows[r], rows[best] = rows[best], rows[r]
        scale = rows[r][column]
        rows[r] = [v / scale for v in rows[r]]
        for i in range(len(rows)):
            if i != r and (f := rows[i][column]):
                rows[i] = [v - f * u for v, u in zip(rows[i], rows[r], strict=True)]
        pivots.append(int(column))
        if len(pivots) == len(rows):
            break
    if any(row[-1] for row in rows[len(pivots) :]):
        return False  # the equations contradict each other
    free = [c for c in range(unknowns) if c not in pivots]
    given = {c: Fraction(float(value[c])) for c in free}
    return all(row[-1] - sum((row[c] * v for c, v in given.items()), Fraction(0)) >= 0 for row in rows[: len(pivots)])

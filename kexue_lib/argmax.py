"""Which classes of a linear layer can be its argmax: quick test, reflection, certificates, and how likely it all is.

A layer scores class ``i`` by ``<w_i, z> + b_i``. Class ``k`` is *argmaxable* when some ``z`` gives it a score that is
strictly larger than every other one. This module has

* the decision for every class: :func:`argmaxable` (and its plain form :func:`argmaxable_plain`), built from
  :func:`self_test`, :func:`reflection_search` and non-negative least squares,
* the two kinds of proof, for one class: :func:`argmax_margin` (a linear programme; presence), :func:`hull_certificate`
  and :func:`verify_certificate` (absence),
* the laws: :func:`argmax_failure_log10`, :func:`lost_probability_log10`, :func:`wendel`, :func:`n_rankings`.

Shapes: ``n`` classes, ``d`` width of ``z``. Nothing here is differentiable or meant for a training loop. Every answer
"yes" carries a ``z`` and every answer "no" a convex combination; both are checked with rounding errors counted, so
that they are proofs about the numbers in ``weight`` and ``bias``.

SciPy (extra ``lp``) is needed wherever a linear programme or non-negative least squares is solved.

Sources: Su Jianlin, https://kexue.fm/archives/9046 (2022); Grivas, Bogoychev and Lopez, arXiv 2203.06462 (2022). The
steps D1–D11 are those of the chapter *unargmaxable-words*.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "ArgmaxableResult",
    "Margin",
    "Reflections",
    "argmax_failure_log10",
    "argmax_margin",
    "argmaxable",
    "argmaxable_plain",
    "hull_certificate",
    "lost_probability_log10",
    "n_rankings",
    "reflection_search",
    "self_test",
    "self_test_plain",
    "verify_certificate",
    "wendel",
]

Array = npt.NDArray[np.float64]

_TILE = 1024  # rows and columns of a block of the Gram matrix
_SCORES = 2**23  # scores that are held at once
_ROUNDS = 500  # of constraint generation; a handful is usual
_SMALL = 2**30  # n²d up to which float64 costs nothing
_EXACT_WIDTH = 40  # up to here a certificate is checked in rational numbers where intervals do not settle it


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


# ----------------------------------------------------------------------------------------------------------------------
# Input
# ----------------------------------------------------------------------------------------------------------------------


def _scipy(what: str, part: str = "optimize") -> Any:
    try:
        import scipy
        import scipy.optimize
        import scipy.special
    except ImportError as error:
        raise ImportError(
            f"{what} needs SciPy ({error}); it comes with the extra 'lp': pip install \"kexue-lib[lp]\""
        ) from error
    return getattr(scipy, part)


def _check_layer(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    for name, x, axes in (("weight", weight, "(n, d)"), ("bias", bias, "(n,)")):
        if x is None and name == "bias":
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape {axes}")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    if weight.dim() != 2 or weight.shape[0] < 2 or weight.shape[1] < 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, not (n, d) with n >= 2 classes and d >= 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be {tuple(weight.shape[:1])}, one per class")
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} has NaN or infinite entries; finite ones are needed")
    return weight.detach(), None if bias is None else bias.detach().double()


def _check_class(k: int, n: int) -> int:
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k={k!r} ({type(k).__name__}) must be an integer: the number of a class") from None
    if not 0 <= k < n:
        raise ValueError(f"k={k} is not a class; allowed: 0 … {n - 1}")
    return k


def _check_index(index: Tensor | Sequence[int] | None, n: int, device: torch.device) -> Tensor:
    if index is None:
        return torch.arange(n, device=device)
    chosen = torch.as_tensor(index, device=device)
    if chosen.dim() != 1 or chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise TypeError(f"index has shape {tuple(chosen.shape)} and dtype {chosen.dtype}; (m,) integers are needed")
    if chosen.numel() and not bool(((chosen >= 0) & (chosen < n)).all()):
        raise ValueError(f"index holds {int(chosen.min())} … {int(chosen.max())}; allowed: 0 … {n - 1}")
    return chosen.long()


def _numpy_layer(weight: Any, bias: Any) -> tuple[Array, Array | None]:
    weight, bias = (x if x is None or isinstance(x, Tensor) else torch.as_tensor(x) for x in (weight, bias))
    w, b = _check_layer(weight, bias)
    return w.double().cpu().numpy(), None if b is None else b.cpu().numpy()


# ----------------------------------------------------------------------------------------------------------------------
# The quick test
# ----------------------------------------------------------------------------------------------------------------------


def _unit_roundoff(dtype: torch.dtype) -> float:
    """Half an ulp of what a matrix product of this dtype multiplies and adds in."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return 2.0**-8  # TF32 or bfloat16 passes may be in use
    return torch.finfo(dtype).eps / 2


def _centred(weight: Tensor) -> Tensor:
    """Rows minus their mean, float64: shifting all rows changes all scores by the same amount (D7)."""
    x = weight.double()
    return x - x.mean(0)


def _rounding(x: Tensor, dtype: torch.dtype, length: Tensor | float) -> Any:
    """Bound of the error of <x_i, z> for all i and |z| <= length, in any order of summation, inputs rounded too."""
    d = x.shape[1]
    return 1.01 * (d + 6) * _unit_roundoff(dtype) * x.norm(dim=1).max() * length


def _largest_product(x: Tensor) -> Tensor:
    """max over i ≠ k of <x_i, x_k> for every k, from the half of the Gram matrix on and above the diagonal."""
    n = len(x)
    top = x.new_full((n,), -math.inf)
    space = x.new_empty(min(_TILE, n) ** 2)
    for i in range(0, n, _TILE):
        a = x[i : i + _TILE]
        for j in range(i, n, _TILE):
            c = x[j : j + _TILE]
            block = torch.mm(a, c.T, out=space[: len(a) * len(c)].view(len(a), len(c)))
            if i == j:
                block.fill_diagonal_(-math.inf)
            else:
                torch.maximum(top[j : j + _TILE], block.amax(0), out=top[j : j + _TILE])
            torch.maximum(top[i : i + _TILE], block.amax(1), out=top[i : i + _TILE])
    return top


@torch.no_grad()
def self_test(weight: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""How far each class leads at its own direction: a sufficient test for all classes at once (step D7).

    With :math:`x_i = w_i - \mu` and μ the mean row,

    .. math:: g_k = \|x_k\|^2 - \max_{i\ne k}\langle x_i, x_k\rangle .

    Where :math:`g_k > 0`, class k wins at :math:`z = x_k` without bias, and with any bias at a multiple of it.
    The products are symmetric, so half of the Gram matrix is enough: n²d flops instead of 2n²d, and O(n) memory.

    Args:
        weight: ``(n, d)``, any floating dtype and device.
        dtype: of the products; default float64 for small problems, float32 for large ones. The result is *less the
            bound of all rounding errors*: a positive number is a proof.

    Returns:
        ``(n,)`` float64, a lower bound of :math:`g_k`.

    Hazards:
        It is sufficient, not necessary. A negative entry says nothing.
        With ``torch.set_float32_matmul_precision`` below "highest" the rounding bound grows 65 000-fold.

    Example:
        >>> w = torch.tensor([[1., 0.], [0., 1.], [-1., 0.], [0., -1.], [0., 0.5]], dtype=torch.float64)
        >>> (self_test(w) > 0).tolist()             # the last row lies behind the second one
        [True, True, True, True, False]

    Source: https://kexue.fm/archives/9046, the argument for equal norms; arXiv 2203.06462; step D7.
    """
    weight, _ = _check_layer(weight, None)
    return _self_test(_centred(weight), dtype)


def _self_test(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None:
        dtype = torch.float64 if len(x) ** 2 * x.shape[1] <= _SMALL else torch.float32
    scale = x.norm(dim=1).max()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # float32 has a narrow range
    x = x / scale
    with torch.autocast(x.device.type, enabled=False):
        top = _largest_product(x.to(dtype)).double()
    length = x.norm(dim=1)
    return (length.square() - top - 2 * _rounding(x, dtype, length)) * scale**2


@torch.no_grad()
def self_test_plain(weight: Tensor) -> Tensor:
    """:func:`self_test` as its formula says, with the whole Gram matrix, and without the rounding bound."""
    weight, _ = _check_layer(weight, None)
    x = _centred(weight)
    gram = x @ x.T
    own = gram.diagonal().clone()
    return own - gram.fill_diagonal_(-math.inf).amax(1)


# ----------------------------------------------------------------------------------------------------------------------
# Reflection
# ----------------------------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------------------------
# Non-negative least squares with few rivals, and the certificate of absence
# ----------------------------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------------------------
# All classes
# ----------------------------------------------------------------------------------------------------------------------


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


# ----------------------------------------------------------------------------------------------------------------------
# How likely
# ----------------------------------------------------------------------------------------------------------------------


def _count(name: str, value: int, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r} ({type(value).__name__}) must be an integer") from None
    if number < least:
        raise ValueError(f"{name}={number} must be >= {least}")
    return number


def argmax_failure_log10(n: int, d: int) -> float:
    r"""log₁₀ of a bound: n Gaussian classes in width d have an unargmaxable one with at most this probability (D8).

    For independent rows from N(0, I), the quick test at :math:`z = w_k` fails against one rival with probability
    :math:`P(t_d \ge \sqrt d) = \tfrac12 I_{1/2}(\tfrac d2, \tfrac12)`, t Student's variable. The union bound over all
    ordered pairs is

    .. math:: P(\text{some class unargmaxable}) \le n(n-1)\,\tfrac12 I_{1/2}\bigl(\tfrac d2, \tfrac12\bigr) .

    Args:
        n: number of classes, ≥ 2.
        d: width, ≥ 1.

    Returns:
        Its decimal logarithm (the number itself underflows); above 0 the bound says nothing.

    Hazards:
        A bound for Gaussian rows. Rows of very different norms are another matter (D8 assumes comparable ones).

    Example:
        >>> round(argmax_failure_log10(40_000, 200), 2)
        -22.3

    Source: chapter *unargmaxable-words*, step D8 (not in the post).
    """
    n, d = _count("n", n, 2), _count("d", d, 1)
    # I = B(1/2; a, 1/2)/B(a, 1/2); with t = exp(-s/a)/2 the integral is 2^-a/a ∫ e^-s (1 - e^(-s/a)/2)^(-1/2) ds
    a = d / 2
    s, weight = np.polynomial.legendre.leggauss(200)
    s, weight = 30 * (s + 1), 30 * weight  # e^-60 is left out
    integral = float(weight @ (np.exp(-s) / np.sqrt(1 - np.exp(-s / a) / 2)))
    log_beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    log_tail = math.log(0.5) - a * math.log(2) - math.log(a) + math.log(integral) - log_beta
    return (math.log(n) + math.log(n - 1) + log_tail) / math.log(10)


def _log_inner_angle(m: int, special: Any) -> float:
    """log of the share of space that a regular simplex of dimension m fills as seen from a corner.

    It is the probability that m Gaussian coordinates with correlations −1/m are all positive. With an imaginary common
    part they become independent: ∫ φ(η) Φ(iη/√(m+1))^m dη. The contour goes through the saddle point, where the
    integrand does not oscillate away.
    """
    if m == 0:
        return 0.0
    c = 1 / math.sqrt(m + 1)
    low, high = -60.0 * math.sqrt(m + 1), 0.0
    for _ in range(100):  # the saddle: the smallest value of m log Φ(c t) + t²/2
        t = (low + high) / 2
        hazard = math.exp(-((c * t) ** 2) / 2 - float(special.log_ndtr(c * t))) / math.sqrt(2 * math.pi)
        low, high = (t, high) if m * c * hazard + t < 0 else (low, t)
    x = np.arange(-3000, 3001) * (math.sqrt(m + 1) ** 0.5 / 75)
    exponent = m * special.log_ndtr(c * t + 1j * c * x) - (x - 1j * t) ** 2 / 2
    top = float(exponent.real.max())
    total = float(np.exp(exponent - top).sum().real) * (x[1] - x[0])
    return top + math.log(total / math.sqrt(2 * math.pi))


def _log_outer_angle(m: int, n: int, special: Any) -> float:
    """log of the share of directions in which a face with m + 1 corners of a regular n-corner simplex is the top."""
    y = np.linspace(-12.0, 12.0, 6001)
    exponent = -(m + 1) * y**2 / 2 + (n - 1 - m) * special.log_ndtr(y)
    top = float(exponent.max())
    total = float(np.exp(exponent - top).sum()) * (y[1] - y[0])
    return top + math.log(total) + 0.5 * math.log((m + 1) / (2 * math.pi))


def lost_probability_log10(n: int, d: int) -> float:
    r"""log₁₀ of the probability that a class is unargmaxable, exactly, for n Gaussian classes in width d (D9).

    The convex hull of n Gaussian points is a random shadow of the regular simplex with n corners. A corner v is lost
    in it with probability

    .. math:: 2\sum_{m = d+1, d+3, \dots} \binom{n-1}{m}\,\beta_m\,\gamma_m
              = 1 - 2\sum_{m = d-1, d-3, \dots} \binom{n-1}{m}\,\beta_m\,\gamma_m ,

    with the inner angle β of a regular m-simplex at a corner and the outer angle γ of an m-face of the big simplex.
    All terms are positive; the sum that is the shorter one is taken, in log space. For d = 2 the expected number of
    argmaxable classes becomes :math:`4\sqrt\pi\binom n2\int\Phi^{n-2}\varphi^2 \sim 2\sqrt{2\pi\ln n}`.

    Args:
        n: number of classes, ≥ 2.
        d: width, ≥ 1.

    Returns:
        The decimal logarithm, with about ten correct digits of the probability; −inf for n ≤ d + 1, where no class is
        ever lost. n times the probability is the expected number of lost classes, and bounds the probability that
        there is any.

    Hazards:
        For independent N(0, I) rows without bias; equally for any N(μ, Σ), since a linear map changes nothing. Trained
        rows are another matter. Needs SciPy.

    Example:
        >>> [round(10 ** lost_probability_log10(500, d), 4) for d in (2, 8, 16)]
        [0.9785, 0.35, 0.0041]
        >>> round(lost_probability_log10(40_000, 200), 1)
        -97.2

    Source: Affentranger and Schneider 1992 with Baryshnikov and Vitale 1994; d = 2: Rényi and Sulanke 1963; chapter
    *unargmaxable-words*, step D9.
    """
    n, d = _count("n", n, 2), _count("d", d, 1)
    if n <= d + 1:
        return -math.inf
    special = _scipy("lost_probability_log10", "special")

    def term(m: int) -> float:
        choose = math.lgamma(n) - math.lgamma(m + 1) - math.lgamma(n - m)
        return math.log(2) + choose + _log_inner_angle(m, special) + _log_outer_angle(m, n, special)

    lost = -math.inf
    for m in range(d + 1, min(n, d + 400), 2):
        new = term(m)
        lost = float(np.logaddexp(lost, new))
        if lost > math.log(0.5):
            break
        if new < lost - 37:
            return lost / math.log(10)
    else:
        if n <= d + 400:
            return lost / math.log(10)
    kept = sum(math.exp(term(m)) for m in range(d - 1, -1, -2))
    return math.log10(max(1 - kept, 5e-324))


def wendel(n: int, d: int) -> Fraction:
    r"""Probability that n random vectors of width d lie in one open half-space through 0, exactly (step D9).

    .. math:: p(n, d) = 2^{-(n-1)}\sum_{k=0}^{d-1}\binom{n-1}{k}, \qquad p(2d, d) = \tfrac12

    for independent vectors whose law is symmetric about 0 and has a density. It is the probability that a class with
    **zero row** is argmaxable among n others (without bias).

    Hazards:
        It is not the probability that a random class is argmaxable: the differences :math:`w_k - w_i` share
        :math:`w_k` and are not independent.

    Example:
        >>> wendel(8, 4), float(wendel(12, 4))
        (Fraction(1, 2), 0.11328125)

    Source: Wendel 1962; chapter *unargmaxable-words*, step D9.
    """
    n, d = _count("n", n, 1), _count("d", d, 1)
    total, term = 0, 1
    for k in range(min(d, n)):
        total += term
        term = term * (n - 1 - k) // (k + 1)
    return Fraction(total, 2 ** (n - 1))


def n_rankings(n: int, d: int, *, bias: bool = False) -> int:
    r"""How many orders of n generic classes the scores can take, over all z, exactly (step D10).

    With c(n, k) the unsigned Stirling numbers of the first kind, :math:`\sum_{v=0}^{d} c(n, n-v)` with a bias, and
    :math:`2\sum_{v<d,\ v\equiv d-1\ (2)} c(n, n-v)` without; n! where d is large enough for all.

    Example:
        >>> n_rankings(4, 2), n_rankings(4, 2, bias=True), n_rankings(4, 3)
        (12, 18, 24)

    Source: Cover 1967; Good and Tideman 1977; arXiv 2203.06462; chapter *unargmaxable-words*, step D10.
    """
    n, d = _count("n", n, 2), _count("d", d, 1)
    row = [1]  # row[v] = c(m, m - v), built by c(m + 1, m + 1 - v) = c(m, m - v) + m c(m, m + 1 - v)
    for m in range(1, n):
        row = [a + m * b for a, b in zip([*row, 0], [0, *row], strict=True)]
    if bias:
        return sum(row[: d + 1])
    if d >= n - 1:
        return math.factorial(n)
    return 2 * sum(row[d - 1 :: -2])

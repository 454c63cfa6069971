r"""The shortest vector in the convex hull of finitely many vectors, and how iterations approach it.

Given :math:`g_1,\dots,g_n`, find the weights :math:`\alpha` on the simplex (:math:`\alpha_i\ge0`, sum one) that make
:math:`u=\sum_i\alpha_i g_i` as short as possible. Only the Gram matrix :math:`K_{ij}=\langle g_i,g_j\rangle` is needed.
The solution is marked by :math:`\langle g_i,u\rangle\ge\|u\|^2` for all i, and the largest violation of that is a
certificate that costs nothing: :math:`\|u\|^2-\min_i\langle g_i,u\rangle\ge\tfrac12\|u\|^2-\tfrac12\|u^*\|^2`.

* exact: :func:`min_norm_weights` from Gram matrices, in batches (and its plain form :func:`min_norm_weights_plain`);
  :func:`min_norm_point` from the vectors themselves, also for very many of them;
* iterations, to be compared: :func:`frank_wolfe` with four rules of the step, and :func:`simplex_descent` in two
  geometries.

Sources: Wolfe, *Finding the nearest point in a polytope* (1976); Désidéri (2012) for gradients of several losses; Su
Jianlin, https://kexue.fm/archives/8896 (2022); the steps D3-D8 are those of the chapter *gradient-direction*.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = [
    "GEOMETRIES",
    "RULES",
    "SOLVERS",
    "MinNormPoint",
    "SimplexPath",
    "frank_wolfe",
    "min_norm_point",
    "min_norm_weights",
    "min_norm_weights_plain",
    "simplex_descent",
]

SOLVERS = ("auto", "faces", "active_set")
"""How :func:`min_norm_weights` may work."""

RULES = ("line", "open", "average", "away")
"""The steps of :func:`frank_wolfe`."""

GEOMETRIES = ("softmax", "mirror")
"""The geometries of :func:`simplex_descent`."""

# Enumeration solves 2^n - 1 small systems: up to here that is fast, branch-free and exact.
_MOST_FACES = 8
# Above this many systems in one call the active set is faster (measured on one core).
_MOST_SYSTEMS = 256
# Above this many vectors their Gram matrix is not formed.
_MOST_GRAM = 64
# Rounds in which many tasks may enter or leave the active set at once, before Wolfe's algorithm takes over.
_ROUNDS = 12

Array = npt.NDArray[np.float64]


class MinNormPoint(NamedTuple):
    """The result of :func:`min_norm_point`.

    Attributes:
        point: the shortest vector u of the hull, ``(..., d)``.
        weights: α with u = Σ α_i g_i, ``(..., n)``.
        gap: the certificate ‖u‖² − min_i ⟨g_i, u⟩, ``(...)``; ½‖u‖² exceeds its minimum by no more.
    """

    point: Tensor
    weights: Tensor
    gap: Tensor


class SimplexPath(NamedTuple):
    """All iterates of an iteration on the simplex; the start is the first of them.

    Attributes:
        weights: ``(steps + 1, ..., n)``.
        values: ½ αᵀKα, ``(steps + 1, ...)``.
        gaps: the certificate αᵀKα − min_i (Kα)_i, ``(steps + 1, ...)``.
    """

    weights: Tensor
    values: Tensor
    gaps: Tensor


# ----------------------------------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------------------------------


def _check_gram(gram: Tensor) -> None:
    if not isinstance(gram, Tensor):
        raise TypeError(f"gram is a {type(gram).__name__}, not a tensor (..., n, n) of inner products")
    if not gram.is_floating_point():
        raise TypeError(f"gram has dtype {gram.dtype}; a floating-point tensor is needed")
    if gram.dim() < 2 or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] == 0:
        raise ValueError(f"gram has shape {tuple(gram.shape)}, not (..., n, n) with n >= 1: is it grads @ grads.T?")


def _check_finite(name: str, x: Tensor) -> None:
    # Looking at values would stop an accelerator, and cannot be traced: there NaN goes through to the weights.
    if not torch.compiler.is_compiling() and x.device.type == "cpu" and not bool(torch.isfinite(x).all()):
        where = torch.nonzero(~torch.isfinite(x))[0].tolist()
        raise ValueError(f"{name} is not finite at {where}: {float(x[tuple(where)])}; a gradient has overflowed")


def _check_tolerance(max_iter: int | None, tol: float) -> None:
    if max_iter is not None and (isinstance(max_iter, bool) or max_iter != int(max_iter) or max_iter < 1):
        raise ValueError(f"max_iter={max_iter!r} must be an integer >= 1, or None for a limit that suits the size")
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol!r} must lie in (0, 1): it is relative to the lengths of the vectors")


# ----------------------------------------------------------------------------------------------------------------------
# Exact weights
# ----------------------------------------------------------------------------------------------------------------------


def _pair_weights(gram: Tensor) -> Tensor:
    """n = 2: the foot of the altitude, clipped to the segment (step D4)."""
    p, q, r = gram[..., 0, 0], gram[..., 1, 1], (gram[..., 0, 1] + gram[..., 1, 0]) / 2
    width = p + q - 2 * r
    flat = width <= 0  # equal vectors: every weight is optimal
    first = torch.where(flat, 0.5, (q - r) / torch.where(flat, 1.0, width)).clamp(0, 1)
    return torch.stack((first, 1 - first), dim=-1)


def _face_weights(gram: Tensor, face: Tensor) -> Tensor:
    r"""The shortest affine combination of the vectors in each face: weights that add up to one, of any sign.

    They are proportional to :math:`(K_S + c\,\mathbf 1\mathbf 1^\top)^{-1}\mathbf 1` for every c > 0: the rank-one term
    makes the matrix regular also where zero is in the affine hull. Vectors outside the face get a unit row.
    """
    inside = face.to(gram.dtype)
    diagonal = torch.where(face, gram.diagonal(dim1=-2, dim2=-1), torch.inf).amin(-1)
    # The smallest squared length: a larger c would drown short vectors in rounding.
    c = torch.where(diagonal > 0, diagonal, 1.0)[..., None, None]
    matrix = (gram + c) * (inside[..., :, None] * inside[..., None, :]) + torch.diag_embed(1 - inside)
    x = torch.linalg.solve_ex(matrix, inside[..., None])[0][..., 0]
    return x / x.sum(-1, keepdim=True)


def _faces(n: int, device: torch.device) -> Tensor:
    """(2^n - 1, n) boolean: all non-empty sets of vectors."""
    return _members(torch.arange(1, 2**n, device=device), n)


def _members(code: Tensor, n: int) -> Tensor:
    """The set that a number's binary digits mean, (..., n) boolean."""
    return (code[..., None] >> torch.arange(n, device=code.device)) % 2 == 1


def _best_face(gram: Tensor) -> Tensor:
    """The face of the solution, (..., n) boolean: all are tried, the certificates decide."""
    faces = _faces(gram.shape[-1], gram.device)
    weights = _face_weights(gram[..., None, :, :], faces.expand(*gram.shape[:-2], *faces.shape))
    weights = weights.clamp(min=0)  # now on the simplex: the certificate of any such point is valid
    weights = weights / weights.sum(-1, keepdim=True)
    products = (weights @ gram.mT) if gram.dim() > 2 else weights @ gram
    square = (weights * products).sum(-1, keepdim=True)
    lengths = gram.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(gram.dtype).tiny).sqrt()[..., None, :]
    violation = ((square - products) / lengths).amax(-1)
    # Singular faces give NaN and are passed over: some regular face holds the solution (Carathéodory).
    best = torch.nan_to_num(violation, nan=torch.inf).argmin(-1)
    return _members(best + 1, gram.shape[-1])


def _active_face(gram: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """A guess of the face, and whether its certificate confirms it: many vectors enter and leave at once."""
    lengths = gram.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    face = torch.ones(gram.shape[:-1], dtype=torch.bool, device=gram.device)
    shortest = torch.zeros_like(face).scatter(-1, lengths.argmin(-1, keepdim=True), True)
    for _ in range(_ROUNDS):
        weights = torch.where(face, _face_weights(gram, face), 0.0)
        products = (gram @ weights[..., None])[..., 0]
        square = (weights * products).sum(-1, keepdim=True)
        slack = tol * lengths * (weights.abs() * lengths).sum(-1, keepdim=True)
        negative, missing = face & (weights < 0), square - products > slack
        done = torch.isfinite(weights).all(-1) & ~(negative | missing).any(-1)
        if bool(done.all()):
            break
        changed = (face & ~negative) | missing
        changed = torch.where(changed.any(-1, keepdim=True), changed, shortest)
        face = torch.where(done[..., None], face, changed)
    return face, done


def _wolfe(
    lengths: Array,
    products: Callable[[list[int], Array], Array],
    block: Callable[[int, list[int]], Array],
    max_iter: int,
    tol: float,
) -> tuple[list[int], Array]:
    """Wolfe's algorithm (1976): a set of affinely independent vectors, and their positive weights.

    Args:
        lengths: ‖g_i‖.
        products: ⟨g_i, u⟩ for all i, from a set and its weights.
        block: ⟨g_i, g_j⟩ of one i with the j of a list.
        max_iter: how many vectors may enter.
        tol: a vector enters if ‖u‖² − ⟨g_i, u⟩ > tol ‖g_i‖ Σ α_j ‖g_j‖.
    """
    members = [int(lengths.argmin())]
    weights = np.ones(1)
    gram = np.array([[lengths[members[0]] ** 2]])
    best = np.inf
    scale = np.maximum(lengths, np.finfo(np.float64).tiny)
    for _ in range(max_iter):
        h = products(members, weights)
        square = float(weights @ h[members])
        if square >= best:  # rounding: no progress is possible any more
            break
        best = square
        violation = (square - h) / scale
        violation[members] = -np.inf
        enters = int(violation.argmax())
        if violation[enters] <= tol * float(weights @ lengths[members]):
            break
        row = block(enters, [*members, enters])
        gram = np.block([[gram, row[:-1, None]], [row[None, :-1], row[None, -1:]]])
        members, weights = [*members, enters], np.append(weights, 0.0)
        while True:
            diagonal = gram.diagonal().min()
            try:
                x = np.linalg.solve(gram + (diagonal if diagonal > 0 else 1.0), np.ones(len(members)))
            except np.linalg.LinAlgError:
                x = np.full(len(members), np.nan)
            target = x / x.sum()
            if not np.isfinite(target).all():  # the last one depends on the others: it cannot help
                keep = np.arange(len(members)) < len(members) - 1
            elif (target > 0).all():
                weights = target
                break
            else:
                falling = target <= 0
                step = np.full(len(members), np.inf)
                step[falling] = weights[falling] / (weights[falling] - target[falling]).clip(min=1e-300)
                leaves = int(step.argmin())
                weights = weights + min(1.0, step[leaves]) * (target - weights)
                keep = np.arange(len(members)) != leaves
            members = [m for m, stays in zip(members, keep, strict=True) if stays]
            weights, gram = weights[keep].clip(min=0), gram[np.ix_(keep, keep)]
            weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(members), 1 / len(members))
    return members, weights


def _wolfe_gram(k: Array, max_iter: int | None, tol: float) -> tuple[list[int], Array]:
    """Wolfe's algorithm for one Gram matrix."""
    return _wolfe(
        np.sqrt(k.diagonal().clip(min=0)),
        lambda chosen, weights: weights @ k[chosen],
        lambda i, chosen: k[i, chosen],
        max_iter or 20 * len(k) + 100,
        tol,
    )


def _wolfe_face(gram: Tensor, max_iter: int | None, tol: float) -> Tensor:
    """The face of one Gram matrix, (n,) boolean."""
    members, _ = _wolfe_gram(gram.detach().cpu().numpy(), max_iter, tol)
    face = torch.zeros(len(gram), dtype=torch.bool)
    face[members] = True
    return face.to(gram.device)


def _single_weights(gram: Tensor, max_iter: int | None, tol: float) -> Tensor:
    """One matrix on the CPU: the active set of a batch, without the cost of many small calls."""
    k: Array = gram.double().numpy()
    n = len(k)
    unit = k.max()  # of a semidefinite matrix the largest number stands on the diagonal
    if not np.isfinite(k).all():
        _check_finite("gram", gram)
    if unit <= 0:
        return torch.full((n,), 1 / n, dtype=gram.dtype)
    k = k / unit
    if n == 2:
        (p, r), (t, q) = k.tolist()
        width = p + q - r - t
        first = min(max((q - (r + t) / 2) / width, 0.0), 1.0) if width > 0 else 0.5
        return torch.tensor([first, 1 - first], dtype=gram.dtype)
    weights = np.zeros(n)
    diagonal = k.diagonal()
    lengths = np.sqrt(np.maximum(diagonal, 0))
    slack = tol * lengths
    some = np.arange(n)
    for _ in range(_ROUNDS):
        rows = k if len(some) == n else k[some]
        inner = rows if len(some) == n else rows[:, some]
        shortest = diagonal[some].min()
        try:
            x = np.linalg.solve(inner + (shortest if shortest > 0 else 1.0), _ones(len(some)))
        except np.linalg.LinAlgError:
            break
        w = x / x.sum()
        size = np.abs(w) @ lengths[some]
        if not size <= 1e8:  # dependent vectors: the guess would not settle
            break
        h = w @ rows
        missing = w @ h[some] - h > slack * size
        falling = w < 0
        if not (missing.any() or falling.any()):
            weights[some] = w
            return torch.from_numpy(weights).to(gram.dtype)
        missing[some] = ~falling
        some = missing.nonzero()[0]
        if not len(some):
            some = np.array([lengths.argmin()])
    members, w = _wolfe_gram(k, max_iter, tol)
    weights[members] = w
    return torch.from_numpy(weights).to(gram.dtype)


@cache
def _ones(n: int) -> Array:
    return np.ones(n)


def min_norm_weights(gram: Tensor, solver: str = "auto", *, max_iter: int | None = None, tol: float = 1e-10) -> Tensor:
    r"""The weights of the shortest vector in the convex hull, from the Gram matrix.

    .. math:: \alpha^* \in \arg\min_{\alpha\ge0,\ \sum_i\alpha_i=1} \tfrac12\,\alpha^\top K\alpha,
              \qquad K_{ij}=\langle g_i, g_j\rangle

    ================ ==================================================================================================
    solver           how
    ================ ==================================================================================================
    ``"auto"``       n = 2: closed form; n ≤ 8 and not too many matrices: faces; otherwise the active set
    ``"faces"``      all 2ⁿ − 1 sets of vectors in one batch of small linear systems; the certificates choose. No branch
                     that depends on data: it can be compiled and does not stop a GPU
    ``"active_set"`` many vectors enter and leave at once, all matrices of a batch side by side; where that does not
                     settle, Wolfe's algorithm on the CPU
    ================ ==================================================================================================

    All are exact up to rounding, and all compute in float64. The derivative with respect to ``gram`` is that on the
    solution's face (right wherever no weight is about to become positive).

    Args:
        gram: ``(..., n, n)``, symmetric and positive semidefinite. Accumulate it in float32 or better: rounded to half
            precision it is indefinite.
        solver: see the table. ``"faces"`` is refused for n > 12.
        max_iter: how many vectors may enter in Wolfe's algorithm; default 20 n + 100.
        tol: of the active set: a vector enters if :math:`\|u\|^2-\langle g_i,u\rangle` exceeds ``tol`` times
            :math:`\|g_i\|\sum_j\alpha_j\|g_j\|`.

    Returns:
        ``(..., n)`` on the simplex, in the dtype of ``gram``. Where the solution is not unique (dependent vectors), one
        of them; if all vectors are zero, equal weights.

    Raises:
        ValueError: ``gram`` is not square, or (on the CPU) not finite; an unknown solver.
        TypeError: ``gram`` is not a floating-point tensor.

    Hazards:
        A Gram matrix holds squares: in float64 a vector u much shorter than 1e-8 of the g_i is rounding noise. Use
        :func:`min_norm_point` where that matters.

    Example:
        >>> g = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> min_norm_weights(g @ g.T)
        tensor([0.2000, 0.8000])
        >>> min_norm_weights(torch.tensor([[1.0, 2.0], [2.0, 5.0]]))  # the angle is small: the short one alone
        tensor([1., 0.])

    Source: https://kexue.fm/archives/8896, steps D4 and D9; Wolfe (1976).
    """
    _check_gram(gram)
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} is not known; choose one of {', '.join(map(repr, SOLVERS))}")
    _check_tolerance(max_iter, tol)
    n = gram.shape[-1]
    if solver == "faces" and n > 12:
        raise ValueError(f"solver='faces' would try 2^{n} - 1 faces; use 'active_set' for n > 12")
    traced = torch.compiler.is_compiling() or (gram.requires_grad and torch.is_grad_enabled())
    if gram.dim() == 2 and gram.device.type == "cpu" and solver != "faces" and not traced:
        return _single_weights(gram.detach(), max_iter, tol)
    _check_finite("gram", gram)
    if n == 1:
        return torch.ones_like(gram[..., 0])
    exact = gram.double()
    # One common unit keeps products away from overflow; all vectors zero: the unit is one.
    unit = exact.detach().diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None]
    exact = exact / torch.where(unit > 0, unit, 1.0)
    if n == 2 and solver == "auto":
        return _pair_weights(exact).to(gram.dtype)
    with torch.no_grad():
        known = exact.detach()
        few = n <= _MOST_FACES and (
            torch.compiler.is_compiling() or gram[..., 0, 0].numel() * (2**n - 1) <= _MOST_SYSTEMS
        )
        if solver == "faces" or (solver == "auto" and few):
            face = _best_face(known)
        else:
            face, done = _active_face(known, tol)
            if not bool(done.all()):
                face[~done] = torch.stack([_wolfe_face(k, max_iter, tol) for k in known[~done]])
        # All vectors zero (the unit was zero): every face is optimal; take the whole one, which gives equal weights.
        face = face | (unit[..., 0] == 0)
    weights = _face_weights(exact, face).clamp(min=0)
    weights = weights / weights.sum(-1, keepdim=True)
    return torch.where(unit[..., 0] == 0, 1 / n, weights).to(gram.dtype)


def min_norm_weights_plain(gram: Tensor) -> Tensor:
    """The plain form of :func:`min_norm_weights`: one face after the other, one Gram matrix after the other.

    Each face is solved by its optimality conditions, written out; of the solutions with weights ≥ 0 the one with the
    smallest value is taken. For tests: the time grows like 2ⁿ.

    Args:
        gram: ``(..., n, n)``.

    Returns:
        ``(..., n)`` float64.

    Example:
        >>> g = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> min_norm_weights_plain(g @ g.T)
        tensor([0.2000, 0.8000], dtype=torch.float64)

    Source: https://kexue.fm/archives/8896, step D4.
    """
    _check_gram(gram)
    _check_finite("gram", gram)
    n = gram.shape[-1]
    results = []
    for k in gram.detach().double().cpu().reshape(-1, n, n).numpy():
        best, best_value = np.full(n, 1 / n), np.inf
        for size in range(1, n + 1):
            for chosen in itertools.combinations(range(n), size):
                # K_S w = mu 1, sum w = 1
                system = np.block(
                    [[k[np.ix_(chosen, chosen)], -np.ones((size, 1))], [np.ones((1, size)), np.zeros((1, 1))]]
                )
                solution = np.linalg.lstsq(system, np.append(np.zeros(size), 1.0), rcond=None)[0][:size]
                if solution.min() < -1e-12 or abs(solution.sum() - 1) > 1e-9:
                    continue
                weights = np.zeros(n)
                weights[list(chosen)] = solution.clip(min=0)
                value = weights @ k @ weights
                if value < best_value:
                    best, best_value = weights, value
        results.append(best / best.sum())
    return torch.from_numpy(np.array(results)).reshape(gram.shape[:-1]).to(gram.device)


# ----------------------------------------------------------------------------------------------------------------------
# The point itself
# ----------------------------------------------------------------------------------------------------------------------


def _refined(vectors: Tensor, weights: Tensor) -> Tensor:
    """Two steps of iterative refinement, with residuals from the vectors: u to full relative precision."""
    face = weights > 0
    inside = face.to(vectors.dtype)
    gram = vectors @ vectors.mT
    diagonal = torch.where(face, gram.diagonal(dim1=-2, dim2=-1), torch.inf).amin(-1)
    c = torch.where(diagonal > 0, diagonal, 1.0)[..., None, None]
    matrix = (gram + c) * (inside[..., :, None] * inside[..., None, :]) + torch.diag_embed(1 - inside)
    for _ in range(2):
        residual = (vectors @ (vectors.mT @ weights[..., None]))[..., 0] * inside
        x = torch.linalg.solve_ex(matrix, torch.stack((inside, residual), dim=-1))[0]
        shift = x[..., 0] * (x[..., 1].sum(-1, keepdim=True) / x[..., 0].sum(-1, keepdim=True)) - x[..., 1]
        better = ((weights + shift) * inside).clamp(min=0)
        better = better / better.sum(-1, keepdim=True)
        old, new = ((w[..., None, :] @ vectors)[..., 0, :].square().sum(-1, keepdim=True) for w in (weights, better))
        weights = torch.where(new < old, better, weights)  # also refuses NaN
    return weights


def _wolfe_points(vectors: Tensor, max_iter: int | None, tol: float) -> Tensor:
    """The weights for one set of vectors (n, d), without their Gram matrix."""
    g = vectors.detach().cpu().numpy()
    n, d = g.shape
    members, weights = _wolfe(
        np.sqrt(np.einsum("nd,nd->n", g, g)),
        lambda chosen, w: g @ (w @ g[chosen]),
        lambda i, chosen: g[chosen] @ g[i],
        max_iter or 20 * min(n, d + 1) + 100,
        tol,
    )
    some = _refined(torch.from_numpy(g[members]), torch.from_numpy(weights))
    full = torch.zeros(n, dtype=torch.float64)
    full[members] = some
    return full.to(vectors.device)


def min_norm_point(vectors: Tensor, *, max_iter: int | None = None, tol: float = 1e-10) -> MinNormPoint:
    r"""The shortest vector in the convex hull of given vectors, its weights, and a certificate.

    .. math:: u^* = \arg\min\{\|u\| : u\in\mathrm{conv}(g_1,\dots,g_n)\}

    Zero is in the hull if and only if :math:`u^*=0`. Otherwise :math:`u^*` separates: :math:`\langle
    g_i,u^*\rangle\ge\|u^*\|^2>0` for all i.

    Up to 64 vectors: :func:`min_norm_weights` of the Gram matrix, in batches, then two steps of iterative refinement.
    More: Wolfe's algorithm on the vectors, in float64 on the CPU, one set after the other; each of its steps costs
    O(n d), and the number of steps is about the number of positive weights, at most d + 1.

    Args:
        vectors: ``(..., n, d)``.
        max_iter: how many vectors may enter; default 20 min(n, d + 1) + 100. The certificate shows if it was too few.
        tol: see :func:`min_norm_weights`.

    Returns:
        :class:`MinNormPoint`: ``point (..., d)``, ``weights (..., n)``, ``gap (...)``, in the dtype of ``vectors``,
        without gradients. ``gap`` is :math:`\|u\|^2-\min_i\langle g_i,u\rangle\ge0`, computed in float64 (and rounded).

    Raises:
        ValueError: a wrong shape, or (on the CPU) a vector that is not finite.
        TypeError: not a floating-point tensor.

    Example:
        >>> triangle = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
        >>> found = min_norm_point(triangle)
        >>> found.point, found.weights
        (tensor([0.4000, 0.8000]), tensor([0.2000, 0.8000, 0.0000]))

    Source: Wolfe (1976); https://kexue.fm/archives/8896, step D4.
    """
    if not isinstance(vectors, Tensor):
        raise TypeError(f"vectors is a {type(vectors).__name__}, not a tensor of shape (..., n, d)")
    if not vectors.is_floating_point():
        raise TypeError(f"vectors has dtype {vectors.dtype}; a floating-point tensor is needed")
    if vectors.dim() < 2 or 0 in vectors.shape[-2:]:
        raise ValueError(f"vectors has shape {tuple(vectors.shape)}, not (..., n, d) with n, d >= 1")
    _check_finite("vectors", vectors)
    _check_tolerance(max_iter, tol)
    with torch.no_grad():
        exact = vectors.detach().double()
        unit = exact.abs().amax((-2, -1), keepdim=True)
        exact = exact / torch.where(unit > 0, unit, 1.0)
        if exact.shape[-2] <= _MOST_GRAM:
            weights = min_norm_weights(exact @ exact.mT, max_iter=max_iter, tol=tol)
            weights = _refined(exact, weights)
        else:
            flat = [_wolfe_points(g, max_iter, tol) for g in exact.reshape(-1, *exact.shape[-2:])]
            weights = torch.stack(flat).reshape(exact.shape[:-1])
        point = (weights[..., None, :] @ exact)[..., 0, :]
        products = (exact @ point[..., None])[..., 0]
        gap = (point.square().sum(-1) - products.amin(-1)) * unit[..., 0, 0].square()
        return MinNormPoint((point * unit[..., 0]).to(vectors.dtype), weights.to(vectors.dtype), gap.to(vectors.dtype))


# ----------------------------------------------------------------------------------------------------------------------
# Iterations
# ----------------------------------------------------------------------------------------------------------------------


def _start(gram: Tensor, steps: int, start: Any) -> Tensor:
    _check_gram(gram)
    _check_finite("gram", gram)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"steps={steps!r} must be an integer >= 0")
    n = gram.shape[-1]
    if isinstance(start, Tensor):
        if start.shape[-1:] != (n,):
            raise ValueError(f"start has shape {tuple(start.shape)}; weights (..., {n}) are needed")
        return start.detach().to(gram).expand(gram.shape[:-1]).clone()
    if start == "uniform":
        return torch.full_like(gram[..., 0], 1 / n)
    if isinstance(start, int) and not isinstance(start, bool) and 0 <= start < n:
        weights = torch.zeros_like(gram[..., 0])
        weights[..., start] = 1
        return weights
    raise ValueError(f"start={start!r} must be 'uniform', a vertex 0 … {n - 1}, or weights (..., {n})")


def _path(gram: Tensor, weights: list[Tensor]) -> SimplexPath:
    stacked = torch.stack(weights)
    products = (gram @ stacked[..., None])[..., 0]
    square = (stacked * products).sum(-1)
    return SimplexPath(stacked, square / 2, square - products.amin(-1))


def frank_wolfe(
    gram: Tensor, steps: int, rule: str = "line", *, start: int | str | Tensor | None = None
) -> SimplexPath:
    r"""Frank-Wolfe iterations for the shortest vector of a convex hull, all of them kept.

    Each step moves from α towards the vertex :math:`e_\tau`, :math:`\tau=\arg\min_i(K\alpha)_i`, the vector that u
    serves least: :math:`\alpha\leftarrow(1-\gamma)\alpha+\gamma e_\tau`. With :math:`A=\alpha^\top K\alpha`,
    :math:`B=(K\alpha)_\tau`, :math:`C=K_{\tau\tau}`, and k = 1, 2, … the number of the step:

    ============= =================================== ==================================================================
    rule          γ                                   towards
    ============= =================================== ==================================================================
    ``"line"``    clip((A − B)/(A − 2B + C), 0, 1)    the best point of the way; MGDA codes do this from equal weights
    ``"open"``    2/(k + 1)                           as decreed (the usual 2/(k + 2) counts steps from 0)
    ``"average"`` 1/(k + 1)                           the post's rule: u is the mean of all vectors that were chosen
    ``"away"``    line search                         or away from the worst vector that has weight, if steeper
    ============= =================================== ==================================================================

    Args:
        gram: ``(..., n, n)``; float64 is advised.
        steps: how many.
        rule: see the table.
        start: a vertex, ``"uniform"``, or weights ``(..., n)``; default vertex 0 for ``"average"`` (the post's
            :math:`u^{(1)}=g_1`), else ``"uniform"``. The speed depends on it.

    Returns:
        :class:`SimplexPath`, in the dtype of ``gram``, without gradients.

    Raises:
        ValueError: an unknown rule or start, steps < 0, and what :func:`min_norm_weights` refuses.

    Example:
        >>> path = frank_wolfe(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 1)
        >>> path.weights[1], path.gaps[1] < 1e-6
        (tensor([0.2000, 0.8000]), tensor(True))

    Source: https://kexue.fm/archives/8896, step D7; Frank and Wolfe (1956), Jaggi (2013).
    """
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is not known; choose one of {', '.join(map(repr, RULES))}")
    with torch.no_grad():
        gram = gram.detach() if isinstance(gram, Tensor) else gram
        alpha = _start(gram, steps, (0 if rule == "average" else "uniform") if start is None else start)
        weights, products = [alpha], (gram @ alpha[..., None])[..., 0]
        columns = gram.mT.contiguous()
        index = torch.arange(gram.shape[-1], device=gram.device)
        for k in range(1, steps + 1):
            toward = products.argmin(-1, keepdim=True)
            vertex = (index == toward).to(gram.dtype)
            column = columns.gather(-2, toward[..., None].expand(*toward.shape, gram.shape[-1]))[..., 0, :]
            direction, moved = vertex - alpha, column - products
            limit: float | Tensor = 1.0
            if rule == "away":
                square = (alpha * products).sum(-1, keepdim=True)
                worst = torch.where(alpha > 0, products, -torch.inf).argmax(-1, keepdim=True)
                away = products.gather(-1, worst) - square > square - products.gather(-1, toward)
                share = alpha.gather(-1, worst)
                away = away & (share < 1)
                leaving = (index == worst).to(gram.dtype)
                other = columns.gather(-2, worst[..., None].expand(*worst.shape, gram.shape[-1]))[..., 0, :]
                direction = torch.where(away, alpha - leaving, direction)
                moved = torch.where(away, products - other, moved)
                limit = torch.where(away, share / (1 - share).clamp(min=torch.finfo(gram.dtype).tiny), 1.0)
            if rule == "open":
                gamma: float | Tensor = 2 / (k + 1)
            elif rule == "average":
                gamma = 1 / (k + 1)
            else:
                slope, curvature = (
                    -(direction * products).sum(-1, keepdim=True),
                    (direction * moved).sum(-1, keepdim=True),
                )
                gamma = torch.where(curvature > 0, slope / torch.where(curvature > 0, curvature, 1.0), limit)
                gamma = torch.minimum(gamma.clamp(min=0), torch.as_tensor(limit, dtype=gram.dtype, device=gram.device))
                if rule == "away":  # a drop step ends on the face, not next to it
                    alpha = torch.where(away & (gamma >= limit) & (index == worst), 0.0, alpha + gamma * direction)
                    alpha = alpha.clamp(min=0) / alpha.clamp(min=0).sum(-1, keepdim=True)
                    weights.append(alpha)
                    products = (gram @ alpha[..., None])[..., 0]
                    continue
            alpha = alpha + gamma * direction
            products = products + gamma * moved
            weights.append(alpha)
        return _path(gram, weights)


def simplex_descent(
    gram: Tensor, steps: int, lr: float, geometry: str = "mirror", *, start: int | str | Tensor = "uniform"
) -> SimplexPath:
    r"""Gradient descent of :math:`\tfrac12\alpha^\top K\alpha` with :math:`\alpha=\mathrm{softmax}(\beta)`.

    * ``"softmax"``: :math:`\beta_i\leftarrow\beta_i-\eta\,\alpha_i\bigl((K\alpha)_i-A\bigr)`, plain gradient descent.
      A weight that should vanish does so like 1/t: its own factor :math:`\alpha_i` brakes it.
    * ``"mirror"``: :math:`\beta_i\leftarrow\beta_i-\eta\,(K\alpha)_i`, exponentiated gradient. Such a weight vanishes
      exponentially.

    Here :math:`A=\alpha^\top K\alpha` (step D8).

    Args:
        gram: ``(..., n, n)``.
        steps: how many.
        lr: the step η > 0; for the mirror geometry below 1/max|K|.
        geometry: see the table.
        start: as for :func:`frank_wolfe`, with all weights > 0.

    Returns:
        :class:`SimplexPath`.

    Example:
        >>> gram = torch.tensor([[1.0, 2.0], [2.0, 5.0]], dtype=torch.float64)
        >>> [float(simplex_descent(gram, 100, 0.2, g).weights[-1, 1]) < 1e-8 for g in ("softmax", "mirror")]
        [False, True]

    Source: https://kexue.fm/archives/8896, step D8.
    """
    if geometry not in GEOMETRIES:
        raise ValueError(f"geometry={geometry!r} is not known; choose one of {', '.join(map(repr, GEOMETRIES))}")
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr={lr!r} must be a number > 0")
    with torch.no_grad():
        gram = gram.detach() if isinstance(gram, Tensor) else gram
        alpha = _start(gram, steps, start)
        if isinstance(start, int) or (isinstance(start, Tensor) and bool((start <= 0).any())):
            raise ValueError(f"start={start!r} has a weight that is zero: it would stay zero")
        beta, weights = alpha.log(), [alpha]
        for _ in range(steps):
            products = (gram @ alpha[..., None])[..., 0]
            if geometry == "softmax":
                products = alpha * (products - (alpha * products).sum(-1, keepdim=True))
            beta = beta - lr * products
            alpha = beta.softmax(-1)
            weights.append(alpha)
        return _path(gram, weights)

"""Densities on the line: the Fokker–Planck equation on a grid, and the JKO step on quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._checks import grid, positive
from .tridiagonal import solve_tridiagonal

Bands = tuple[Tensor, Tensor, Tensor]
Solver = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

# Nodes of the contour in the upper half plane: the error is about 3.89^(-2 nodes), times a factor that grows with how
# far the start lies outside of L²(1/p). 12 nodes do for starts inside; 20 leave 1e-8 for a uniform start in a steep
# well.
_NODES = 20


def _bernoulli(z: Tensor) -> Tensor:
    """z/(e^z − 1), which is 1 at 0; with its derivatives there."""
    small = z.abs() < 1e-3
    safe = torch.where(small, torch.ones_like(z), z)
    return torch.where(small, 1 - z / 2 + z * z / 12 - z**4 / 720, safe / torch.expm1(safe))


def fokker_planck_generator(potential: Tensor, dx: float) -> Bands:
    r"""The matrix of the Fokker–Planck equation :math:`\dot q = (q V')' + q''` on a grid with closed ends.

    Mass jumps from a point to its neighbour at the rate (Scharfetter and Gummel)

    .. math:: L_{i\pm1,i} = \frac{B(V_{i\pm1} - V_i)}{\Delta x^2}, \qquad B(z) = \frac z{e^z - 1}

    Its columns add up to 0 (mass is conserved), its off-diagonal entries are positive (densities stay positive), and
    :math:`e^{-V}` is stationary, all exactly. The error is O(Δx²).

    Args:
        potential: V = −log p + const on the grid, ``(n,)`` with n >= 2.
        dx: distance of the grid's points, > 0.

    Returns:
        The bands (below ``(n - 1,)``, diagonal ``(n,)``, above ``(n - 1,)``) of the matrix L; :func:`tridiagonal_dense`
        writes it out. Differentiable in the potential.

    Raises:
        ValueError: potential is not ``(n,)`` with n >= 2, or dx <= 0.
        TypeError: potential is no floating-point tensor, or dx no number.

    Example:
        >>> V = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
        >>> L = tridiagonal_dense(*fokker_planck_generator(V, 0.1))
        >>> bool((L.sum(0).abs() < 1e-12).all()), bool(((L @ torch.exp(-V)).abs() < 1e-12).all())
        (True, True)

    Source: https://kexue.fm/archives/9660, step D8; Scharfetter and Gummel 1969.
    """
    grid("potential", potential)
    width = positive("dx", dx)
    rise = potential.diff()
    right, left = _bernoulli(rise) / width**2, _bernoulli(-rise) / width**2  # i → i + 1, i + 1 → i
    none = right.new_zeros(1)
    return right, -(torch.cat((right, none)) + torch.cat((none, left))), left


def tridiagonal_dense(lower: Tensor, diag: Tensor, upper: Tensor) -> Tensor:
    """The matrix ``(..., n, n)`` of three bands."""
    return torch.diag_embed(lower, -1) + torch.diag_embed(diag) + torch.diag_embed(upper, 1)


def _contour(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights with exp(L) ≈ 2 Re Σ w (z − L)⁻¹: the trapezoidal rule on Talbot's contour."""
    count = 2 * _NODES
    angle = math.pi * (2 * torch.arange(_NODES, dtype=torch.float64, device=like.device) + 1) / count
    inner = 0.6407 * angle
    real = 0.5017 * angle / inner.tan() - 0.6122
    slope = 0.5017 / inner.tan() - 0.5017 * inner / inner.sin() ** 2
    z = count * torch.complex(real, 0.2645 * angle)
    dz = count * torch.complex(slope, torch.full_like(angle, 0.2645))
    return z, z.exp() * dz * (2 * math.pi / count) / (2j * math.pi)


def fokker_planck_evolve(q0: Tensor, potential: Tensor, dx: float, t: float | Tensor) -> Tensor:
    r"""The density at time t of the Fokker–Planck equation on a grid: :math:`q = e^{tL} q_0`, with no time stepping.

    The exponential is a Cauchy integral on Talbot's contour around the negative axis,

    .. math:: e^{tL} q_0 = \frac1{2\pi i}\int_\Gamma e^{z}\,(z - tL)^{-1} q_0\,dz

    and the trapezoidal rule reaches about 12 digits with 20 complex tridiagonal systems, whatever t and n are:
    O(n) work.
    All systems, for all times, are solved together.

    Args:
        q0: density at time 0, ``(n,)``.
        potential: V = −log p + const on the grid, ``(n,)``.
        dx: distance of the grid's points, > 0.
        t: time, a number or a tensor of times ``(...)``, > 0.

    Returns:
        ``(..., n)`` in the dtype of q0; computed in float64. Differentiable in q0, potential and a tensor t. Plain
        form: :func:`fokker_planck_evolve_plain`, with the dense matrix exponential.

    Raises:
        ValueError: shapes do not fit, dx <= 0, or a number t <= 0.
        TypeError: q0 or potential is no floating-point tensor, or dx no number.

    Hazards:
        The error is relative to the largest values of q0, so that far tails are noise of about 1e-13 and may be
        negative. A start that is much broader than p costs digits for short times: about 1e-8 are left for a uniform
        start in a well that is 170 high at the walls. Far beyond
        equilibrium about 1e-16 t/Δx² is lost. Times in a tensor are not checked.

    Example:
        >>> x = torch.linspace(-6, 6, 121, dtype=torch.float64)
        >>> q0 = torch.exp(-(x - 1) ** 2 / 2) / math.sqrt(2 * math.pi)
        >>> q = fokker_planck_evolve(q0, x**2 / 2, 0.1, math.log(2))
        >>> round(float((q * x).sum() * 0.1), 2)
        0.5

    Source: https://kexue.fm/archives/9660, step D8; Trefethen, Weideman and Schmelzer 2006 (Talbot quadrature).
    """
    grid("q0", q0)
    lower, diag, upper = (band.double() for band in fokker_planck_generator(potential, dx))
    if q0.shape != potential.shape:
        raise ValueError(f"q0 has shape {tuple(q0.shape)}, the potential {tuple(potential.shape)}")
    if not isinstance(t, Tensor):
        t = torch.tensor(positive("t", t), dtype=torch.float64, device=q0.device)
    z, weight = _contour(q0)
    time = t.double()[..., None, None]
    start = q0.to(torch.complex128)
    solved = solve_tridiagonal(-time * lower, z.unsqueeze(-1) - time * diag, -time * upper, start)
    return (2 * (weight.unsqueeze(-1) * solved).sum(-2).real).to(q0.dtype)


def fokker_planck_evolve_plain(q0: Tensor, potential: Tensor, dx: float, t: float | Tensor) -> Tensor:
    """Plain form of :func:`fokker_planck_evolve`: the exponential of the dense matrix, O(n³)."""
    time = torch.as_tensor(t, dtype=q0.dtype, device=q0.device)[..., None, None]
    return torch.linalg.matrix_exp(time * tridiagonal_dense(*fokker_planck_generator(potential, dx))) @ q0


def jko_quantile(
    q0: Tensor,
    potential: Callable[[Tensor], Tensor],
    step: float,
    tol: float = 1e-10,
    *,
    max_iterations: int = 200,
) -> Tensor:
    r"""One JKO step of KL(q ‖ e^(−V)) on the line, for n particles that stand for the quantiles of q.

    It minimises, over increasing x,

    .. math:: \frac1{2hn}\sum_i (x_i - x^0_i)^2 + \frac1n\sum_i V(x_i) - \frac1n\sum_i\log(x_{i+1} - x_i)

    by a damped Newton method. The Hessian is tridiagonal, so that an iteration costs O(n) (:func:`solve_tridiagonal`);
    the plain form :func:`jko_quantile_plain` solves dense systems. Where V'' < −1/h the Hessian is made positive.

    Args:
        q0: the particles, ``(n,)``, strictly increasing, n >= 2.
        potential: V, applied to each particle: ``(n,) -> (n,)``, twice differentiable by autograd.
        step: h > 0.
        tol: stop when no particle would move further than tol times the range of the particles.
        max_iterations: give up after so many iterations.

    Returns:
        ``(n,)``, strictly increasing, without a graph.

    Raises:
        ValueError: q0 is not strictly increasing, step <= 0, or a potential of another shape.
        TypeError: q0 is no floating-point tensor, or step no number.
        RuntimeError: no convergence, for example because V is not bounded below.

    Hazards:
        With V'' < −1/h the step may have several solutions; the one that the iteration meets is given. Accuracy ends at
        about 1e-4 in float32: use float64.

    Example:
        >>> x = torch.linspace(-1, 1, 5, dtype=torch.float64) + 2
        >>> moved = jko_quantile(x, lambda x: x**2 / 2, 0.1)
        >>> bool((moved.diff() > 0).all()), round(float(moved.mean()), 4)
        (True, 1.8182)

    Source: https://kexue.fm/archives/9660, step D7.10; Jordan, Kinderlehrer and Otto 1998.
    """
    return _jko(q0, potential, step, tol, max_iterations, solve_tridiagonal)


def jko_quantile_plain(
    q0: Tensor,
    potential: Callable[[Tensor], Tensor],
    step: float,
    tol: float = 1e-10,
    *,
    max_iterations: int = 200,
) -> Tensor:
    """Plain form of :func:`jko_quantile`: the same iteration with dense linear systems, O(n³)."""

    def dense(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
        return torch.linalg.solve(tridiagonal_dense(lower, diag, upper), rhs)

    return _jko(q0, potential, step, tol, max_iterations, dense)


def _slopes(potential: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """V, V' and V'' at each particle."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        value = potential(at)
        if value.shape != x.shape:
            raise ValueError(f"potential gives the shape {tuple(value.shape)} for particles of shape {tuple(x.shape)}")
        if not value.requires_grad:
            return value, torch.zeros_like(x), torch.zeros_like(x)
        (first,) = torch.autograd.grad(value.sum(), at, create_graph=True, materialize_grads=True)
        second = torch.zeros_like(x)
        if first.requires_grad:
            (second,) = torch.autograd.grad(first.sum(), at, materialize_grads=True)
    return value.detach(), first.detach(), second.detach()


@torch.no_grad()
def _jko(
    q0: Tensor,
    potential: Callable[[Tensor], Tensor],
    step: float,
    tol: float,
    max_iterations: int,
    solve: Solver,
) -> Tensor:
    grid("q0", q0)
    h = positive("step", step)
    positive("tol", tol)
    start = q0.detach()
    if not bool((start.diff() > 0).all()):
        raise ValueError("q0 must be strictly increasing: it holds the quantiles of a density")
    x = start.clone()
    scale = float(start[-1] - start[0])
    none = x.new_zeros(1)

    def energy(at: Tensor, value: Tensor) -> Tensor:
        return ((at - start).square() / (2 * h) + value).sum() - at.diff().log().sum()

    value, first, second = _slopes(potential, x)
    now = energy(x, value)
    for _ in range(max_iterations):
        inverse = 1 / x.diff()
        slope = (x - start) / h + first + torch.cat((inverse, none)) - torch.cat((none, inverse))
        stiff = inverse.square()
        # a negative curvature below -1/h would turn the step uphill
        centre = (1 / h + second).clamp(min=0.1 / h) + torch.cat((stiff, none)) + torch.cat((none, stiff))
        move = -solve(-stiff, centre, -stiff, slope)
        longest = float(move.abs().max())
        if not math.isfinite(longest):
            break
        # keep the order: no gap may shrink by more than nine tenths
        shrink = float((-move.diff() * inverse).max())
        size = min(1.0, 0.9 / shrink) if shrink > 0 else 1.0
        descent = float((slope * move).sum())
        rounding = 1e3 * torch.finfo(x.dtype).eps * (1 + abs(float(now)))
        for _ in range(60):
            trial = x + size * move
            value, first, second = _slopes(potential, trial)
            later = energy(trial, value)
            if float(later) <= float(now) + 1e-4 * size * descent + rounding:
                break
            size /= 2
        else:
            break
        x, now = trial, later
        if size * longest <= tol * scale:
            return x
    raise RuntimeError(
        f"the JKO step did not converge in {max_iterations} iterations: is the potential bounded below? "
        f"Otherwise allow more iterations or a larger tol than {tol:g}"
    )

"""Flows of points: Euler's method, and the steepest direction of a norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ._checks import floating, positive


def euler_flow(
    grad: Callable[[Tensor], Tensor], x0: Tensor, step: float, num_steps: int, *, return_path: bool = False
) -> Tensor:
    r"""Gradient descent, which is Euler's method for the gradient flow :math:`\dot x = -\nabla f(x)`.

    .. math:: x_{k+1} = x_k - h\,\nabla f(x_k)

    It follows the flow of f with an error O(h), and the flow of :math:`f + \frac h4|\nabla f|^2` with an error O(h²).

    Args:
        grad: the gradient of f, ``(..., d) -> (..., d)``.
        x0: the start, ``(..., d)``; it is not changed.
        step: h > 0. For a quadratic f the steps go down if and only if h < 2/λ with the largest eigenvalue λ.
        num_steps: how many steps, >= 0.
        return_path: give all points instead of the last one.

    Returns:
        ``(..., d)``, or ``(num_steps + 1, ..., d)`` with the start first. Differentiable in x0.

    Raises:
        ValueError: step <= 0, num_steps < 0, or grad gives another shape.
        TypeError: x0 is no floating-point tensor, step no number, or num_steps no integer.

    Example:
        >>> euler_flow(lambda x: x, torch.tensor([1.0]), 0.5, 2, return_path=True).squeeze(-1)
        tensor([1.0000, 0.5000, 0.2500])

    Source: https://kexue.fm/archives/9660, steps D1 and D2; the modified function: arXiv 2009.11162.
    """
    floating("x0", x0, "(..., d)")
    step = positive("step", step)
    if isinstance(num_steps, bool) or not isinstance(num_steps, int):
        raise TypeError(f"num_steps={num_steps!r} must be an integer >= 0")
    if num_steps < 0:
        raise ValueError(f"num_steps={num_steps!r} must be >= 0")
    x, path = x0, [x0]
    for _ in range(num_steps):
        slope = grad(x)
        if slope.shape != x.shape:
            raise ValueError(f"grad gives the shape {tuple(slope.shape)} for points of shape {tuple(x.shape)}")
        x = torch.sub(x, slope, alpha=step)
        if return_path:
            path.append(x)
    return torch.stack(path) if return_path else x


def steepest_direction(
    g: Tensor, norm: float | Literal["spectral"] = 2, eps: float = 1.0, metric: Tensor | None = None
) -> Tensor:
    r"""The step of length eps along which a function with gradient g falls most, for the norm that measures the step.

    .. math:: \delta = \arg\min_{\|\delta\| = \varepsilon} \langle g, \delta\rangle

    ============== ==================================================================================================
    norm           δ
    ============== ==================================================================================================
    2              −ε g/\|g\|, gradient descent
    inf            −ε sign(g): sign descent, the skeleton of Lion and Tiger
    1              one coordinate, the one with the largest \|g\|
    p > 1          −ε sign(g)\|g\|^(q−1), scaled to length ε, with 1/p + 1/q = 1
    "spectral"     −ε U Vᵀ for the matrix g = U S Vᵀ, the direction of Muon
    a metric P     −ε P⁻¹g/√(gᵀP⁻¹g), the natural gradient
    ============== ==================================================================================================

    Args:
        g: ``(..., d)``; for ``"spectral"`` ``(..., m, n)``.
        norm: a number >= 1, ``math.inf`` or ``"spectral"``. With a metric it stays 2.
        eps: length of the step, > 0.
        metric: a symmetric positive definite matrix ``(d, d)`` or ``(..., d, d)``: the length is √(δᵀPδ).

    Returns:
        The shape of g. A zero gradient gives a zero step.

    Raises:
        ValueError: norm < 1, eps <= 0, a metric of the wrong shape or not positive definite, a metric with another
            norm than 2, or "spectral" for a vector.
        TypeError: g is no floating-point tensor.

    Hazards:
        Where several steps are best (ties for norm 1, zeros for norm inf, zero singular values) one of them is given:
        the first largest coordinate, 0, and 0. For a metric, checking positive definiteness stops a GPU.
        The singular value decomposition is exact and slow; Newton–Schulz iterations are fast and inexact.

    Example:
        >>> g = torch.tensor([3.0, -4.0])
        >>> steepest_direction(g), steepest_direction(g, math.inf), steepest_direction(g, 1)
        (tensor([-0.6000,  0.8000]), tensor([-1.,  1.]), tensor([0., 1.]))

    Source: https://kexue.fm/archives/9660, steps D3 and D5.
    """
    floating("g", g, "(..., d)")
    eps = positive("eps", eps)
    if g.dim() < 1:
        raise ValueError("g has no axis; a gradient has at least one coordinate")
    if metric is not None:
        if norm != 2:
            raise ValueError(f"norm={norm!r} together with a metric: give one of them")
        return _natural(g, eps, metric)
    if norm == "spectral":
        if g.dim() < 2:
            raise ValueError(f"the spectral norm needs a matrix; g has shape {tuple(g.shape)}")
        return _spectral(g, eps)
    if isinstance(norm, (str, bool)) or not norm >= 1:
        raise ValueError(f"norm={norm!r} must be a number >= 1, math.inf or 'spectral'")
    size = g.abs()
    largest = size.amax(-1, keepdim=True)
    if norm == 1:
        index = size.argmax(-1, keepdim=True)
        return torch.zeros_like(g).scatter(-1, index, -eps * g.gather(-1, index).sign())
    if norm == math.inf:
        return -eps * g.sign()
    # scaled by the largest entry, so that no power over- or underflows
    relative = size / torch.where(largest > 0, largest, torch.ones_like(largest))
    safe = torch.where(relative > 0, relative, torch.ones_like(relative))  # a power of 0 has no slope
    power = torch.where(relative > 0, safe ** (1 / (norm - 1)), torch.zeros_like(relative))
    length = _safe(power).pow(norm).mul(power > 0).sum(-1, keepdim=True)
    return -eps * g.sign() * power / _safe(length) ** (1 / norm)


def _safe(x: Tensor) -> Tensor:
    """x, with 1 where it is 0."""
    return torch.where(x > 0, x, torch.ones_like(x))


def _natural(g: Tensor, eps: float, metric: Tensor) -> Tensor:
    d = g.shape[-1]
    floating("metric", metric, "(d, d)")
    if metric.dim() < 2 or metric.shape[-2:] != (d, d):
        raise ValueError(f"metric has shape {tuple(metric.shape)}; for g of shape {tuple(g.shape)} it must be {(d, d)}")
    factor, info = torch.linalg.cholesky_ex(metric)
    if bool((info != 0).any()):
        raise ValueError("metric is not positive definite: its Cholesky factorisation fails")
    solved = torch.cholesky_solve(g.unsqueeze(-1), factor).squeeze(-1)
    squared = (g * solved).sum(-1, keepdim=True)
    return -eps * solved / _safe(squared).sqrt()


def _spectral(g: Tensor, eps: float) -> Tensor:
    u, s, vt = torch.linalg.svd(g, full_matrices=False)
    # singular values that are rounding errors have no direction
    cut = s[..., :1] * max(g.shape[-2:]) * torch.finfo(s.dtype).eps
    return -eps * (u * (s > cut).to(u.dtype).unsqueeze(-2)) @ vt

"""Gaussians: distances, divergences, and two flows that keep them Gaussian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._checks import floating, positive


def _gaussian(m: Any, cov: Any, index: str) -> None:
    floating(f"m{index}", m, "(..., d)")
    floating(f"S{index}", cov, "(..., d, d)")
    d = m.shape[-1] if m.dim() else 0
    if d < 1 or cov.dim() < 2 or cov.shape[-2:] != (d, d):
        raise ValueError(
            f"m{index} has shape {tuple(m.shape)} and S{index} {tuple(cov.shape)}; "
            "they must be (..., d) and (..., d, d)"
        )


def _cholesky(cov: Tensor, name: str) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool((info != 0).any()):
        raise ValueError(f"{name} is not positive definite: its Cholesky factorisation fails")
    result: Tensor = factor
    return result


class _Procrustes(torch.autograd.Function):
    """min over orthogonal Q of |A − B Q|², with its exact first derivatives (the minimiser needs none)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        u, _, vt = torch.linalg.svd(b.mT @ a)
        rotation = u @ vt
        gap = a - b @ rotation
        ctx.save_for_backward(gap, rotation)
        return gap.square().sum((-2, -1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled():  # the rotation would wrongly count as a constant
            raise RuntimeError("gaussian_w2 can be differentiated once; use gaussian_w2_plain with create_graph=True")
        gap, rotation = ctx.saved_tensors
        toward_a = 2 * grad[..., None, None] * gap
        return toward_a, -toward_a @ rotation.mT


def gaussian_w2(m1: Tensor, S1: Tensor, m2: Tensor, S2: Tensor, *, squared: bool = False) -> Tensor:
    r"""The Wasserstein distance W₂ of two Gaussians.

    .. math:: W_2^2 = |m_1 - m_2|^2 + \min_{Q^\top Q = I} \|L_1 - L_2 Q\|_F^2, \qquad S_i = L_i L_i^\top

    The minimum is the Bures distance :math:`\operatorname{tr}(S_1 + S_2 - 2(S_1^{1/2} S_2 S_1^{1/2})^{1/2})`, the form
    of :func:`gaussian_w2_plain`. As a sum of squares it does not cancel: distances much smaller than √eps come out
    right, and the gradient exists where eigenvalues coincide. One singular value decomposition is all it needs.

    Args:
        m1, m2: means ``(..., d)``.
        S1, S2: symmetric positive definite covariance matrices ``(..., d, d)``; leading axes are broadcast.
        squared: give W₂² instead, whose gradient exists at distance 0 as well.

    Returns:
        ``(...)``. Differentiable once: ``create_graph=True`` raises an error.

    Raises:
        ValueError: shapes do not fit, or a covariance is not positive definite.
        TypeError: an argument is no floating-point tensor.

    Hazards:
        Only the lower triangles of the covariances are read. The check of definiteness stops a GPU.

    Example:
        >>> m, eye = torch.zeros(2), torch.eye(2)
        >>> gaussian_w2(m, eye, m + 3.0, 4 * eye, squared=True)
        tensor(20.)

    Source: https://kexue.fm/archives/9660, step D7; the orthogonal form: Bhatia, Jain and Lim, arXiv 1712.01504.
    """
    _gaussian(m1, S1, "1")
    _gaussian(m2, S2, "2")
    factors = torch.broadcast_tensors(_cholesky(S1, "S1"), _cholesky(S2, "S2"))
    result: Tensor = (m1 - m2).square().sum(-1) + _Procrustes.apply(*factors)
    return result if squared else result.sqrt()


def gaussian_w2_plain(m1: Tensor, S1: Tensor, m2: Tensor, S2: Tensor, *, squared: bool = False) -> Tensor:
    """Plain form of :func:`gaussian_w2`: with matrix square roots."""
    root = _root(S1)
    bures = (S1 + S2 - 2 * _root(root @ S2 @ root)).diagonal(dim1=-2, dim2=-1).sum(-1)
    result = (m1 - m2).square().sum(-1) + bures
    return result if squared else result.clamp(min=0).sqrt()


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def gaussian_kl(m1: Tensor, S1: Tensor, m2: Tensor, S2: Tensor) -> Tensor:
    r"""The divergence KL(N(m₁, S₁) ‖ N(m₂, S₂)).

    .. math:: \tfrac12\bigl(\operatorname{tr}(S_2^{-1}S_1) + |m_1 - m_2|^2_{S_2^{-1}} - d
              - \log\det(S_2^{-1} S_1)\bigr)

    Args:
        m1, m2: means ``(..., d)``.
        S1, S2: symmetric positive definite ``(..., d, d)``; leading axes are broadcast.

    Returns:
        ``(...)``, differentiable.

    Raises:
        ValueError: shapes do not fit, or a covariance is not positive definite.
        TypeError: an argument is no floating-point tensor.

    Hazards:
        The divergence of nearly equal Gaussians is a small difference of large terms: its absolute error is about
        d·eps.

    Example:
        >>> m, eye = torch.zeros(2), torch.eye(2)
        >>> gaussian_kl(m + 1.0, eye, m, eye)
        tensor(1.)

    Source: https://kexue.fm/archives/9660, steps D5.3 and D9.
    """
    _gaussian(m1, S1, "1")
    _gaussian(m2, S2, "2")
    first, second = _cholesky(S1, "S1"), _cholesky(S2, "S2")
    white = torch.linalg.solve_triangular(second, first, upper=False)
    shift = torch.linalg.solve_triangular(second, (m1 - m2).unsqueeze(-1), upper=False)
    logs = white.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (white.square().sum((-2, -1)) + shift.square().sum((-2, -1)) - m1.shape[-1]) / 2 - logs


def gaussian_relative_fisher(m1: Tensor, S1: Tensor, m2: Tensor, S2: Tensor) -> Tensor:
    r"""The relative Fisher information of q = N(m₁, S₁) with respect to p = N(m₂, S₂).

    .. math:: I = \int q\,\bigl|\nabla\log\tfrac qp\bigr|^2 dx
              = \bigl|S_2^{-1}(m_1 - m_2)\bigr|^2 + \operatorname{tr}\bigl(D S_1 D\bigr),
              \qquad D = S_2^{-1} - S_1^{-1}

    It is the speed at which KL(q‖p) falls along the Fokker–Planck equation of p, and at least 2λ KL if the eigenvalues
    of S₂ are at most 1/λ.

    Args:
        m1, m2: means ``(..., d)``.
        S1, S2: symmetric positive definite ``(..., d, d)``; leading axes are broadcast.

    Returns:
        ``(...)``, differentiable.

    Raises:
        ValueError: shapes do not fit, or a covariance is not positive definite.
        TypeError: an argument is no floating-point tensor.

    Example:
        >>> m, eye = torch.zeros(2), torch.eye(2)
        >>> gaussian_relative_fisher(m + 1.0, eye, m, eye)
        tensor(2.)

    Source: https://kexue.fm/archives/9660, step D9.
    """
    _gaussian(m1, S1, "1")
    _gaussian(m2, S2, "2")
    first, second = _cholesky(S1, "S1"), _cholesky(S2, "S2")
    gap = torch.cholesky_inverse(second) - torch.cholesky_inverse(first)
    pull = torch.cholesky_solve((m1 - m2).unsqueeze(-1), second)
    return pull.square().sum((-2, -1)) + (gap @ first).square().sum((-2, -1))


def ou_moments(m0: Tensor, S0: Tensor, A: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and covariance at time t of dx = −A x dt + √2 dw, which starts as N(m₀, S₀).

    .. math:: m = e^{-At} m_0, \qquad S = A^{-1} + e^{-At}\,(S_0 - A^{-1})\,e^{-At}

    This is Langevin's process for the target N(0, A⁻¹), the Wasserstein gradient flow of KL(q ‖ N(0, A⁻¹)).

    Args:
        m0: ``(d,)``.
        S0: ``(d, d)``, symmetric positive definite.
        A: ``(d, d)``, symmetric positive definite: the precision matrix of the target.
        t: time, a number or a tensor ``(...)`` of times.

    Returns:
        ``(..., d)`` and ``(..., d, d)``. Plain form: :func:`ou_moments_plain`.

    Raises:
        ValueError: shapes do not fit, or a matrix is not positive definite.
        TypeError: an argument is no floating-point tensor.

    Hazards:
        A negative time runs the flow backwards, until the covariance is no covariance any more. Gradients by A have
        the gaps of its eigenvalues in the denominator; the plain form does not.

    Example:
        >>> eye = torch.eye(1, dtype=torch.float64)
        >>> m, cov = ou_moments(torch.ones(1, dtype=torch.float64), 4 * eye, eye, torch.tensor([0.0, 50.0]))
        >>> cov.flatten()
        tensor([4., 1.], dtype=torch.float64)

    Source: https://kexue.fm/archives/9660, step D9.
    """
    values, vectors, times = _ou(m0, S0, A, t)
    decay = torch.exp(-values * times[..., None])
    turned = vectors.mT @ S0 @ vectors
    inner = turned * (decay.unsqueeze(-1) * decay.unsqueeze(-2)) + torch.diag_embed(
        -torch.expm1(-2 * values * times[..., None]) / values
    )
    return (decay * (m0 @ vectors)) @ vectors.mT, vectors @ inner @ vectors.mT


def _ou(m0: Tensor, cov: Tensor, precision: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    _gaussian(m0, cov, "0")
    floating("A", precision, "(d, d)")
    if m0.dim() != 1 or cov.dim() != 2 or precision.shape != cov.shape:
        raise ValueError(
            f"m0, S0, A have shapes {tuple(m0.shape)}, {tuple(cov.shape)}, {tuple(precision.shape)}; "
            "they must be (d,), (d, d), (d, d)"
        )
    _cholesky(cov, "S0")
    values, vectors = torch.linalg.eigh(precision)
    if bool((values <= 0).any()):
        raise ValueError(f"A is not positive definite: its smallest eigenvalue is {float(values.min()):.3g}")
    return values, vectors, torch.as_tensor(t, dtype=m0.dtype, device=m0.device)


def ou_moments_plain(m0: Tensor, S0: Tensor, A: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Plain form of :func:`ou_moments`: with the matrix exponential."""
    times = torch.as_tensor(t, dtype=m0.dtype, device=m0.device)
    decay = torch.linalg.matrix_exp(-A * times[..., None, None])
    rest = torch.linalg.inv(A)
    return (decay @ m0.unsqueeze(-1)).squeeze(-1), rest + decay @ (S0 - rest) @ decay


def jko_gaussian(m0: Tensor, S0: Tensor, step: float) -> tuple[Tensor, Tensor]:
    r"""One JKO step of KL(q ‖ N(0, I)) from N(m₀, S₀), in closed form.

    The minimum of :math:`\frac1{2h}W_2^2(q, q_0) + \mathrm{KL}(q\,\Vert\,N(0, I))` over all q is a Gaussian with

    .. math:: m = \frac{m_0}{1 + h}, \qquad s = \frac{s_0 + \sqrt{s_0^2 + 4h(1 + h)}}{2(1 + h)}

    for the standard deviation s along each eigenvector of S₀. The target is a fixed point for every h.

    Args:
        m0: ``(..., d)``.
        S0: symmetric positive definite ``(..., d, d)``.
        step: h > 0.

    Returns:
        Mean and covariance, of the shapes of the arguments.

    Raises:
        ValueError: shapes do not fit, step <= 0, or S0 is not positive definite.
        TypeError: m0 or S0 is no floating-point tensor, or step no number.

    Example:
        >>> eye = torch.eye(2)
        >>> m, cov = jko_gaussian(torch.ones(2), eye, 0.25)
        >>> m, bool(torch.allclose(cov, eye))
        (tensor([0.8000, 0.8000]), True)

    Source: https://kexue.fm/archives/9660, steps D7.12–D7.18; Jordan, Kinderlehrer and Otto 1998.
    """
    _gaussian(m0, S0, "0")
    h = positive("step", step)
    values, vectors = torch.linalg.eigh(S0)
    if bool((values <= 0).any()):
        raise ValueError(f"S0 is not positive definite: its smallest eigenvalue is {float(values.min()):.3g}")
    deviation = (values.sqrt() + (values + 4 * h * (1 + h)).sqrt()) / (2 * (1 + h))
    return m0 / (1 + h), (vectors * deviation.square().unsqueeze(-2)) @ vectors.mT

"""The laws of entropy for keys on a sphere, in float64 NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import Array, bisect, plain_float, require, to_array

__all__ = ["sphere_entropy_drop", "sphere_entropy_rate", "sphere_lambda"]


def sphere_entropy_rate(lam: npt.ArrayLike) -> Any:
    r"""The entropy that softmax loses per dimension on a high-dimensional sphere: lim drop/d = g(λ) (step D8).

    .. math:: g(\lambda) = -\tfrac12\log(1-t_*^2), \qquad t_* = \frac{\sqrt{1+4\lambda^2}-1}{2\lambda},
              \qquad g(1) = \tfrac12\log\frac{1+\sqrt5}2 = 0.2406\dots

    g(λ) = λ²/2 − … for small λ and ½ log λ + o(1) for large λ: not linear.

    Args:
        lam: λ ≥ 0.

    Returns:
        float64 of the shape of ``lam``; a float for a number.

    Example:
        >>> np.round(sphere_entropy_rate([0.125, 1.0, 4.0]), 5)
        array([0.00764, 0.24061, 0.75549])

    Source: https://kexue.fm/archives/8823 and 7695; step D8.
    """
    lam = to_array("lam", lam)
    require(lam >= 0, "lam", lam, ">= 0")
    return plain_float(_half_log_cosh2(lam))


def _half_log_cosh2(lam: Array) -> Array:
    """−½ log(1 − t*²), without cancellation: 1 − t*² = 2/(1 + √(1+4λ²))."""
    root = np.hypot(1.0, 2 * lam)
    return 0.5 * np.log1p(2 * lam / (1 + root) * lam)


def sphere_entropy_drop(lam: npt.ArrayLike, d: float) -> Any:
    r"""log n − H, as n → ∞, of softmax(λ q·k) over keys that are uniform on the sphere of radius √d (step D8).

    q and k have norm √d, so that the scores are a t with a = λd and the cosine t of density ∝ (1 − t²)^{(d−3)/2}. With
    ν = d/2 − 1,

    .. math:: \log n - H \to a\,\frac{I_{\nu+1}(a)}{I_\nu(a)} - \log\Bigl[\Gamma(d/2)\,(2/a)^\nu I_\nu(a)\Bigr] .

    The Bessel functions overflow for a > 700 and the difference cancels for small a, so the integrals behind them are
    computed instead: with t = tanh x the density is (cosh x)^{1−d}, the tilted one peaks at t* of
    :func:`sphere_entropy_rate` (with d − 1 in place of d), and the trapezoidal rule around that peak converges
    exponentially. Agrees with ``mpmath`` to a relative error of 1e-12 or better for d = 2 … 4096 and λ = 10⁻⁶ … 10⁸
    (tested).

    Args:
        lam: λ ≥ 0, a number or an array.
        d: dimension, a number ≥ 2.

    Returns:
        float64 of the shape of ``lam``, in nats; a float for a number.

    Raises:
        ValueError: λ < 0 or not finite, d < 2.

    Hazards:
        The limit n → ∞ is taken for fixed λ and d. For finite n it holds while the drop is well below log n; a drop
        above log n means that a few nearest keys have all the weight.

    Example:
        >>> [round(sphere_entropy_drop(1.0, d) / d, 5) for d in (16, 64, 512)]
        [0.2454, 0.24177, 0.24075]

    Source: https://kexue.fm/archives/8823 (λ = 1 by Laplace's method, 7695); the exact form is step D8.
    """
    lam = to_array("lam", lam)
    require((lam >= 0) & (lam < 1e100), "lam", lam, "a finite number >= 0")
    if not 2 <= d < math.inf:
        raise ValueError(f"d={d!r} must be a number >= 2: the sphere lives in d dimensions")
    width = 1.0 / math.sqrt(2 * (d - 1))  # of the narrowest peak; the widest is √2 times that
    h = min(width / 3, 0.1)
    y = h * np.arange(-math.ceil((12 * width + 45 / (d - 1)) / h), math.ceil((12 * width + 45 / (d - 1)) / h) + 1)
    sinh, t = np.sinh(y), np.tanh(y)
    log_cosh = np.where(
        np.abs(y) < 1, 0.5 * np.log1p(sinh**2), np.abs(y) + np.log1p(np.exp(-2 * np.abs(y))) - math.log(2)
    )
    uniform = np.exp((1 - d) * log_cosh)
    z0 = uniform.sum()

    def near_uniform(a: Array) -> Array:
        """A small drop: even and odd parts in t, where nothing cancels."""
        at = a[:, None] * t
        log_mean = np.log1p((2 * uniform * np.sinh(at / 2) ** 2).sum(-1) / z0)
        return a * (uniform * t * np.sinh(at)).sum(-1) / (uniform * np.cosh(at)).sum(-1) - log_mean

    def peaked(a: Array) -> Array:
        """A large drop: everything relative to the peak x* of the tilted density, y = x − x*."""
        mu = (a / (d - 1))[:, None]
        root = np.hypot(1.0, 2 * mu)
        peak = 2 * mu / (1 + root)  # t*
        one_minus = 2 / (1 + root) / (1 + peak)  # 1 − t*
        c = 0.5 * ((1 + peak) * np.exp(y) + one_minus * np.exp(-y))  # cosh x / cosh x*
        shift = (d - 1) * peak * sinh / c  # a (t − t*)
        tilted = np.exp(shift - (d - 1) * np.log(c))
        z1 = tilted.sum(-1)
        return (d - 1) * _half_log_cosh2(mu[:, 0]) - np.log(z1 / z0) + (tilted * shift).sum(-1) / z1

    a = (lam * d).ravel()
    small = a**2 < 2 * d
    drop = np.empty_like(a)
    drop[small], drop[~small] = near_uniform(a[small]), peaked(a[~small])
    return plain_float(drop.reshape(lam.shape))


def sphere_lambda(n: npt.ArrayLike, d: float, h0: float) -> Any:
    r"""The λ that gives n keys on a sphere the entropy H₀: drop(λ, d) = log n − H₀ (step D8).

    The drop is that of :func:`sphere_entropy_drop`. While it is small against d, λ ≈ √(2 (log n − H₀)/d): 1/√d comes
    out by itself, with √log n. As n → ∞ at fixed d it becomes a power, λ ∝ n^{2/(d−1)}.

    Args:
        n: number of keys, log n > H₀.
        d: dimension, ≥ 2.
        h0: the entropy in nats, > 0.

    Returns:
        float64 of the shape of ``n``; a float for a number.

    Raises:
        ValueError: H₀ outside (0, log n), d < 2.

    Hazards:
        Inherits the limit n → ∞ of the drop; good while log n − H₀ is well below log n.

    Example:
        >>> np.round(sphere_lambda([64, 4096], 64, 2.0) * np.sqrt(64 / (2 * (np.log([64, 4096]) - 2))), 3)
        array([1.051, 1.157])

    Source: chapter *entropy-invariant-softmax*, step D8.
    """
    n = to_array("n", n)
    require((h0 > 0) & (h0 < np.log(n)), "h0", to_array("h0", h0), "between 0 and log(n), without the ends")
    target = h0 - np.log(n)  # of the decreasing function −drop
    lo, hi = np.full_like(target, math.log(1e-9)), np.zeros_like(target)
    for _ in range(12):
        hi = np.where(-to_array("", sphere_entropy_drop(np.exp(hi), d)) > target, 2 * hi + 1, hi)
        if hi.max() > 220:
            raise ValueError(f"n={float(n.max()):g} is too large for d={d}: λ would leave the range of float64")
    return plain_float(np.exp(bisect(lambda x: -to_array("", sphere_entropy_drop(np.exp(x), d)), target, lo, hi)))

"""How many classes are lost: the laws for random layers, and counts of rankings."""

from __future__ import annotations

import math
import operator
from fractions import Fraction
from typing import Any

import numpy as np

from .checks import _scipy

__all__ = ["argmax_failure_log10", "lost_probability_log10", "n_rankings", "wendel"]


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

"""The statistics that chapters share: slope with its interval, mean with its spread, roots of monotone functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .numbers import as_number

__all__ = ["Slope", "mean_sd", "slope", "solve_monotone", "student_quantile"]


@dataclass(frozen=True)
class Slope:
    """A line fitted by least squares.

    Attributes:
        slope, intercept: of the line.
        low, high: ends of the confidence interval of the slope.
        points: number of points.
    """

    slope: float
    intercept: float
    low: float
    high: float
    points: int

    def __float__(self) -> float:
        """The slope alone."""
        return self.slope


def slope(x: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> Slope:
    r"""Least-squares line through points, with the Student interval of its slope.

    .. math:: b = \frac{\sum (x_i-\bar x)(y_i-\bar y)}{\sum (x_i-\bar x)^2}, \qquad
              b \pm t_{N-2}\sqrt{\frac{\sum r_i^2}{(N-2)\sum (x_i-\bar x)^2}}

    A power law y ∝ x^b is fitted by ``slope(np.log(x), np.log(y))``.

    Args:
        x, y: ``(N,)``, N ≥ 3.
        confidence: of the interval. It assumes independent errors of equal size; for a curve that bends it is only
            a measure of how straight the points lie.

    >>> line = slope([1, 2, 3, 4], [2.1, 3.9, 6.1, 7.9])
    >>> round(line.slope, 6), round(line.low, 3), round(line.high, 3)
    (1.96, 1.717, 2.203)
    """
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"x and y must be vectors of one length; received shapes {a.shape} and {b.shape}")
    if len(a) < 3:
        raise ValueError(f"a slope with an interval needs at least 3 points; received {len(a)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("x and y must be finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not allowed; allowed: a number between 0 and 1")
    dx = a - a.mean()
    sxx = float(dx @ dx)
    if sxx == 0:
        raise ValueError("all x are equal: no line has a slope there")
    value = float(dx @ b) / sxx
    intercept = float(b.mean() - value * a.mean())
    residual = b - intercept - value * a
    dof = len(a) - 2
    half = student_quantile(confidence, dof) * math.sqrt(float(residual @ residual) / dof / sxx)
    return Slope(value, intercept, value - half, value + half, len(a))


def student_quantile(confidence: float, dof: int) -> float:
    """The t for which a Student variable of ``dof`` degrees of freedom has \\|T\\| ≤ t with this probability.

    >>> round(student_quantile(0.95, 2), 4), round(student_quantile(0.95, 10), 4)
    (4.3027, 2.2281)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} is not allowed; allowed: a number between 0 and 1")
    if dof < 1:
        raise ValueError(f"dof={dof!r} is not allowed; allowed: an integer >= 1")
    # In the angle θ = atan(t/√dof) the probability is a finite sum and grows from 0 to 1 over (0, π/2).
    angle = solve_monotone(lambda theta: _student_probability(theta, dof), confidence, 0.0, math.pi / 2)
    return math.tan(angle) * math.sqrt(dof)


def _student_probability(theta: float, dof: int) -> float:
    c2 = math.cos(theta) ** 2
    even = dof % 2 == 0
    term = 1.0 if even else math.cos(theta)
    total = 0.0
    for k in range(dof // 2):
        total += term
        term *= c2 * ((2 * k + 1) / (2 * k + 2) if even else (2 * k + 2) / (2 * k + 3))
    return math.sin(theta) * total if even else 2 / math.pi * (theta + math.sin(theta) * total)


def mean_sd(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard deviation (N − 1 in the denominator) of at least two values, such as results over seeds.

    >>> mean_sd([1, 2, 3])
    (2.0, 1.0)
    """
    numbers = [as_number(value, "value") for value in values]
    if len(numbers) < 2:
        raise ValueError(f"a standard deviation needs at least 2 values; received {len(numbers)}")
    return float(np.mean(numbers)), float(np.std(numbers, ddof=1))


def solve_monotone(
    function: Callable[[float], float], target: float, low: float, high: float, *, tolerance: float = 1e-12
) -> float:
    """The x in [low, high] at which a continuous monotone function takes a value, by bisection.

    Args:
        function: rising or falling on the interval.
        target: the value.
        low, high: ends of the interval; the values there have to lie on the two sides of the target.
        tolerance: of x, relative to max(1, abs(x)).

    >>> round(solve_monotone(lambda x: x**3, 2.0, 0.0, 2.0), 6)
    1.259921
    """
    if not low < high:
        raise ValueError(f"low={low!r}, high={high!r} are not allowed; allowed: low < high")
    at_low, at_high = as_number(function(low), "function(low)"), as_number(function(high), "function(high)")
    rising = at_low < at_high
    if not min(at_low, at_high) <= target <= max(at_low, at_high):
        raise ValueError(
            f"the value {target} is not reached in [{low}, {high}]: the function is {at_low} and {at_high} at the ends"
        )
    while high - low > tolerance * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        if not low < middle < high:  # neighbours in floating point
            break
        if (function(middle) < target) == rising:
            low = middle
        else:
            high = middle
    return (low + high) / 2

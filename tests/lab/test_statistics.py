"""Slope, interval, spread and bisection against scipy and against theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from kexue_lib import lab
from kexue_lib.lab.statistics import student_quantile


@pytest.mark.parametrize("dof", [1, 2, 3, 4, 5, 10, 29, 100, 1001])
@pytest.mark.parametrize("confidence", [0.05, 0.5, 0.95, 0.999])
def test_student_quantile_equals_scipy(dof: int, confidence: float) -> None:
    assert student_quantile(confidence, dof) == pytest.approx(scipy.stats.t.ppf((1 + confidence) / 2, dof), rel=1e-9)


def test_slope_and_interval_equal_scipy() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=17)
    y = 0.7 * x - 2 + rng.normal(size=17)
    line, peer = lab.slope(x, y), scipy.stats.linregress(x, y)
    half = peer.stderr * scipy.stats.t.ppf(0.975, 15)
    assert (line.slope, line.intercept) == pytest.approx((peer.slope, peer.intercept))
    assert (line.low, line.high) == pytest.approx((peer.slope - half, peer.slope + half))
    assert float(line) == line.slope
    assert line.points == 17


def test_interval_of_the_slope_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(6.0)
    lines = (lab.slope(x, 2 * x + rng.normal(size=6), confidence=0.8) for _ in range(1000))
    covered = sum(line.low <= 2 <= line.high for line in lines)
    assert abs(covered - 800) < 4 * math.sqrt(1000 * 0.8 * 0.2)


def test_power_law_is_recovered_on_logarithmic_axes() -> None:
    n = np.array([64.0, 256, 1024, 4096])
    line = lab.slope(np.log(n), np.log(3 * n**0.5))
    assert line.slope == pytest.approx(0.5)
    assert line.high - line.low < 1e-9


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least 3 points; received 2"),
        ([1, 2, 3], [1, 2], r"shapes \(3,\) and \(2,\)"),
        ([[1, 2, 3]], [[1, 2, 3]], "must be vectors"),
        ([1, 1, 1], [1, 2, 3], "all x are equal"),
        ([1, 2, math.nan], [1, 2, 3], "must be finite"),
    ],
)
def test_slope_refuses_bad_points(x: list, y: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lab.slope(x, y)


def test_bad_confidence_and_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="confidence=1 is not allowed"):
        lab.slope([1, 2, 3], [1, 2, 4], confidence=1)
    with pytest.raises(ValueError, match="confidence=0 is not allowed"):
        student_quantile(0, 3)
    with pytest.raises(ValueError, match="dof=0 is not allowed"):
        student_quantile(0.9, 0)


def test_mean_and_sd_equal_numpy_and_need_two_values() -> None:
    values = [0.3, 0.9, 0.5]
    assert lab.mean_sd(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    with pytest.raises(ValueError, match="at least 2 values; received 1"):
        lab.mean_sd([1.0])
    with pytest.raises(ValueError, match="value=nan is not finite"):
        lab.mean_sd([1.0, math.nan])


@given(st.floats(-0.99, 0.99), st.booleans())
def test_solve_monotone_inverts_rising_and_falling_functions(target: float, rising: bool) -> None:
    sign = 1 if rising else -1
    x = lab.solve_monotone(lambda t: sign * math.tanh(t), target, -10.0, 10.0)
    assert sign * math.tanh(x) == pytest.approx(target, abs=1e-10)


def test_solve_monotone_says_when_the_value_is_not_reached() -> None:
    with pytest.raises(ValueError, match=r"the value 5.* is not reached in \[0.0, 2.0\]"):
        lab.solve_monotone(lambda x: x * x, 5.0, 0.0, 2.0)
    with pytest.raises(ValueError, match="low < high"):
        lab.solve_monotone(lambda x: x, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"function\(low\)=nan is not finite"):
        lab.solve_monotone(lambda x: math.nan, 0.0, 0.0, 1.0)


def test_solve_monotone_ends_at_neighbouring_numbers() -> None:
    assert lab.solve_monotone(lambda x: x, 1e300, 0.0, 2e300, tolerance=0.0) == pytest.approx(1e300)

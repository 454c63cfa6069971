"""Printed numbers: the sign, the digits, ties."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_lib import lab
from kexue_lib.lab.numbers import PATTERN, round_away

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"x": 0.84213}, "≈ 0.842"),
        ({"x": -0.84213, "digits": 2}, "≈ -0.84"),
        ({"x": 9.996}, "≈ 10.0"),
        ({"x": 99.96}, "≈ 100"),
        ({"x": 1234.4}, "≈ 1234"),
        ({"x": 0}, "≈ 0"),
        ({"x": -0.0}, "≈ 0"),
        ({"x": 1.23456e-5}, "≈ 1.23e-05"),
        ({"x": -9.999e-5}, "≈ -0.000100"),
        ({"x": 6.02214076e23}, "≈ 6.02e+23"),
        ({"x": 0.842, "sd": 0.0104}, "≈ 0.842 ± 0.010"),
        ({"x": 43.27, "sd": 1.04}, "≈ 43.3 ± 1.0"),
        ({"x": 0.001, "sd": 0.2}, "≈ 0.00 ± 0.20"),
        ({"x": 0.842, "sd": 0}, "≈ 0.842 ± 0"),
        ({"x": 1234.4, "sd": 210}, "≈ 1234 ± 210"),
        ({"x": 1.2e-9, "sd": 3.4e-10}, "≈ 1.20e-09 ± 0.34e-09"),
        ({"x": 43.27, "unit": "%"}, "≈ 43.3 %"),
    ],
)
def test_form(arguments: dict, text: str) -> None:
    assert lab.approx(**arguments) == text


@given(finite, st.integers(1, 8))
def test_printed_value_is_within_half_a_unit_of_its_last_digit(x: float, digits: int) -> None:
    printed = Decimal(lab.approx(x, digits).removeprefix("≈ "))
    if x:
        unit = Decimal(10) ** (Decimal(x).adjusted() - digits + 1)
        assert abs(printed - Decimal(x)) <= unit * Decimal("0.50011")


@given(finite, st.one_of(st.none(), st.floats(0, 1e30)))
def test_everything_printed_is_masked(x: float, sd: float | None) -> None:
    assert re.fullmatch(PATTERN, lab.approx(x, sd=sd))


@given(st.integers(1, 9999), st.floats(-4e-5, 4e-5))
def test_noise_around_a_tie_does_not_show(k: int, noise: float) -> None:
    tie = k + 0.5
    assert round_away(tie + noise, len(str(k))) == round_away(tie, len(str(k))) == k + 1
    assert round_away(-tie - noise, len(str(k))) == -k - 1


def test_ties_go_away_from_zero() -> None:
    assert [str(round_away(x, 2)) for x in (0.125, 0.375, -0.125, 2.25)] == ["0.13", "0.38", "-0.13", "2.3"]


@pytest.mark.parametrize("x", [np.float32(0.5), np.int64(3), torch.tensor(0.25), torch.tensor([2.0]), 3, 0.5])
def test_takes_any_number(x: object) -> None:
    assert lab.approx(x).startswith("≈ ")


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_not_finite_is_an_error(x: object) -> None:
    with pytest.raises(ValueError, match="is not finite"):
        lab.approx(x)


@pytest.mark.parametrize("x", ["0.5", None, True, np.bool_(True), [0.5], torch.ones(2), 1j])
def test_no_number_is_an_error(x: object) -> None:
    with pytest.raises(TypeError, match="is not a number"):
        lab.approx(x)


def test_wrong_digits_and_spread() -> None:
    with pytest.raises(ValueError, match="digits=0 is not allowed"):
        lab.approx(1.0, 0)
    with pytest.raises(ValueError, match="digits=0 is not allowed"):
        round_away(1.0, 0)
    with pytest.raises(ValueError, match=r"sd=-1\.0 is negative"):
        lab.approx(1.0, sd=-1)
    with pytest.raises(ValueError, match="sd=nan is not finite"):
        lab.approx(1.0, sd=math.nan)

"""Domains: corners and draws stay inside, and follow from the assumptions of a symbol."""

from __future__ import annotations

import random

import mpmath
import pytest
import sympy as sp

from kexue_lib.derive import (
    Complex,
    DerivationError,
    Integer,
    Interval,
    Matrix,
    Negative,
    Nonnegative,
    OneOf,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    Symmetric,
    UnitVector,
    Vector,
)
from kexue_lib.derive.domains import choices, default_domain, resolve
from kexue_lib.derive.evaluate import points

n = sp.Symbol("n", integer=True, positive=True)
SIZES = {n: 3}


def entries(value: object) -> list[object]:
    return [e for part in value for e in entries(part)] if isinstance(value, list) else [value]


def transposed(a: list[list[object]]) -> list[list[object]]:
    return [list(row) for row in zip(*a, strict=True)]


MEMBERS = {
    "interval": (Interval(-1, 3), lambda v: -1 <= v <= 3),
    "open interval": (Interval(0, 1, open=True), lambda v: 0 < v < 1),
    "decades": (Interval(1e-6, 1e6), lambda v: 1e-6 <= v <= 1e6 * (1 + 1e-12)),
    "real": (Real(), lambda v: mpmath.im(v) == 0),
    "positive": (Positive(), lambda v: v > 0),
    "nonnegative": (Nonnegative(), lambda v: v >= 0),
    "negative": (Negative(), lambda v: v < 0),
    "integer": (Integer(-2, 5), lambda v: v == int(v) and -2 <= v <= 5),
    "complex": (Complex(), lambda v: isinstance(v, mpmath.mpc)),
    "one of": (OneOf(1, sp.Rational(1, 3)), lambda v: v == 1 or abs(3 * v - 1) < 1e-40),
    "vector": (Vector(n, Positive()), lambda v: len(v) == 3 and all(e > 0 for e in v)),
    "simplex": (Simplex(n), lambda v: all(e > 0 for e in v) and abs(mpmath.fsum(v) - 1) < 1e-14),
    "unit vector": (UnitVector(n), lambda v: abs(mpmath.fsum(e * e for e in v) - 1) < 1e-14),
    "matrix": (Matrix(2, n), lambda v: len(v) == 2 and all(len(row) == 3 for row in v)),
    "symmetric": (Symmetric(n), lambda v: v == transposed(v)),
    "positive definite": (
        PositiveDefinite(n),
        lambda v: v == transposed(v) and min(mpmath.eigsy(mpmath.matrix(v), eigvals_only=True)) > 0,
    ),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_corners_and_draws_lie_in_the_domain(name: str) -> None:
    domain, inside = MEMBERS[name]
    rng = random.Random(name)
    corners = domain.corners(SIZES)
    assert corners
    for value in [*corners, *(domain.draw(rng, SIZES) for _ in range(200))]:
        assert inside(value), value
        assert all(mpmath.isfinite(e) for e in entries(value))


@pytest.mark.parametrize("name", [name for name in MEMBERS if name != "one of"])
def test_draws_differ(name: str) -> None:
    domain, _ = MEMBERS[name]
    rng = random.Random(1)
    assert len({str(domain.draw(rng, SIZES)) for _ in range(40)}) > 4


def test_an_interval_over_decades_gives_each_its_share() -> None:
    rng = random.Random(1)
    drawn = [Interval(1e-6, 1e6).draw(rng, {}) for _ in range(400)]
    assert 100 < sum(v < 1 for v in drawn) < 300


def test_corners_hold_the_ends_zero_one_and_equal_entries() -> None:
    assert Interval(2, 5).corners({}) == [2, 5]
    assert {0, 1, -1} <= set(Real().corners({}))
    assert 0 in Nonnegative().corners({})
    assert {1, 2} <= set(Integer(1, 12).corners({}))
    equal, one_hot = [3 * [mpmath.mpf(0)], [1, 0, 0]]
    assert equal in Vector(n).corners(SIZES)
    assert one_hot in Vector(n).corners(SIZES)
    assert Simplex(n).corners(SIZES)[0] == [mpmath.mpf(1) / 3] * 3


@pytest.mark.parametrize(
    ("symbol", "domain"),
    [
        (sp.Symbol("x"), Complex()),
        (sp.Symbol("x", real=True), Real()),
        (sp.Symbol("x", positive=True), Positive()),
        (sp.Symbol("x", nonnegative=True), Nonnegative()),
        (sp.Symbol("x", negative=True), Negative()),
        (sp.Symbol("x", integer=True), Integer(-12, 12)),
        (sp.Symbol("x", integer=True, positive=True), Integer(1, 12)),
        (sp.Symbol("x", integer=True, nonnegative=True), Integer(0, 12)),
        (sp.IndexedBase("x", shape=(n,), positive=True), Vector(n, Positive())),
        (sp.MatrixSymbol("x", 2, 3), Matrix(sp.Integer(2), sp.Integer(3))),
    ],
    ids=str,
)
def test_the_default_domain_is_the_widest_that_the_assumptions_allow(symbol: sp.Basic, domain: object) -> None:
    assert default_domain(symbol) == domain


def test_a_vector_needs_a_length_and_a_length_a_number() -> None:
    with pytest.raises(DerivationError, match="has no length"):
        default_domain(sp.IndexedBase("x"))
    with pytest.raises(DerivationError, match="dims="):
        resolve(n, {})
    assert resolve(n + 1, SIZES) == 4
    for bad in (0, -1, (2, 0), (), 2.5, "3"):
        with pytest.raises(DerivationError, match="positive integer"):
            choices(bad)  # type: ignore[arg-type]


def test_points_begin_with_the_corners_and_are_the_same_for_the_same_step() -> None:
    x, y = sp.symbols("x y", real=True)

    def drawn(seed: str) -> list[dict]:
        return list(points([x + y], seed=seed, count=30, domain={}, dims={}))

    first = drawn("D1")
    corners = Real().corners({})
    assert [point[x] for point in first[:5]] == corners
    assert [point[y] for point in first[:5]] == corners
    assert {point[x] for point in first[5:10]} == set(corners)  # once more, mixed
    assert drawn("D1") == first
    assert drawn("D2") != first


def test_sizes_take_turns() -> None:
    s = sp.IndexedBase("s", shape=(n,), real=True)
    i = sp.Symbol("i", integer=True, positive=True)
    total = sp.Sum(s[i], (i, 1, n))
    sizes = [len(point[s]) for point in points([total], seed="D1", count=8, domain={}, dims={})]
    assert set(sizes) == {1, 2, 3, 5}
    sizes = [len(point[s]) for point in points([total], seed="D1", count=4, domain={}, dims={n: (4, 7)})]
    assert sorted(set(sizes)) == [4, 7]

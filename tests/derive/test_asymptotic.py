"""Limits with their rate, and expansions: the constant, the rate and the order have to be right."""

from __future__ import annotations

import mpmath
import pytest
import sympy as sp
from sympy import Abs, O, Rational, Sum, cos, exp, floor, harmonic, log, oo, pi, sin, sqrt

from kexue_lib.derive import (
    Derivation,
    DerivationError,
    Expansion,
    LimitBySymPy,
    Rate,
    StepFailed,
    StepRefuted,
    StepUndecided,
    eq,
    le,
    similar,
    tends,
)
from kexue_lib.derive.asymptotic import regression

x = sp.Symbol("x", real=True)
p, a, c = sp.symbols("p a c", positive=True)
n, i = sp.symbols("n i", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
DECADES = [10**e for e in range(2, 9)]


def limit(relation: object, **options: object) -> object:
    return Derivation("limit").limit("D1", relation, **options)


def series(relation: object, **options: object) -> object:
    return Derivation("series").series("D1", relation, **options)


# --- by SymPy ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "relation",
    [
        tends(sin(x) / x, x, 0, 1),
        tends((1 + a / p) ** p, p, oo, exp(a)),
        tends(exp(x), x, -oo, 0),
        tends(log(p), p, oo, oo),
        tends(1 / p, p, 0, oo),
        tends(Abs(x) / x, x, 0, -1, side="-"),
        similar(p**2 + p, p**2, p, oo),
        similar(sin(p), p, p, 0),
    ],
    ids=str,
)
def test_a_true_limit_is_computed(relation: object) -> None:
    step = limit(relation)
    assert step.proved
    assert step.kind == "limit"


@pytest.mark.parametrize(
    "relation",
    [
        tends(sin(x) / x, x, 0, Rational(999, 1000)),
        tends((1 + a / p) ** p, p, oo, exp(2 * a)),
        tends(exp(x), x, -oo, 1),
        tends(log(p) / p, p, oo, oo),
        tends(p, p, oo, 0),
        tends(Abs(x) / x, x, 0, 1),
        similar(p**2 + p, 2 * p**2, p, oo),
        similar(p + sqrt(p), p**2, p, oo),
    ],
    ids=str,
)
def test_a_false_limit_is_refused(relation: object) -> None:
    with pytest.raises(StepFailed):
        limit(relation)


def test_other_relations_are_no_limits() -> None:
    with pytest.raises(StepUndecided, match="tends"):
        limit(eq(x, 1))
    with pytest.raises(StepUndecided, match="tends"):
        limit(le(sp.Limit(x, x, 0), 1))


def test_a_limit_that_sympy_cannot_compute_is_undecided_and_the_message_names_the_way_out() -> None:
    f = sp.Function("f")
    with pytest.raises(StepUndecided, match="rate"):
        limit(tends(f(p), p, oo, 0))


# --- by the rate ------------------------------------------------------------------------------------------------------
EULER = tends(harmonic(n) - log(n), n, oo, sp.EulerGamma)


def test_the_right_rate() -> None:
    step = limit(EULER, gauge=1 / n, along=DECADES)
    assert step.status == "asymptotic"
    assert not step.proved
    detail = step.record()["detail"]
    assert detail["points"] == 7
    assert detail["from"] == "10^2"
    assert detail["to"] == "10^8"
    assert detail["slope"].startswith("1.000 ±")


@pytest.mark.parametrize("gauge", [1 / n**2, 1 / sqrt(n), 1 / log(n), 1 / (n * log(n)) ** Rational(4, 5)], ids=str)
def test_a_wrong_rate_is_refuted(gauge: sp.Expr) -> None:
    with pytest.raises(StepRefuted, match="not to the power 1"):
        limit(EULER, gauge=gauge, along=DECADES)


@pytest.mark.parametrize("off", [Rational(1, 10), Rational(-1, 10**6), Rational(1, 10**7)])
def test_a_wrong_constant_is_refuted(off: sp.Expr) -> None:
    with pytest.raises(StepRefuted):
        limit(tends(harmonic(n) - log(n), n, oo, sp.EulerGamma + off), gauge=1 / n, along=DECADES)


def test_the_rate_of_a_quotient() -> None:
    stirling = similar(sp.gamma(p + 1), sqrt(2 * pi * p) * (p / sp.E) ** p, p, oo)
    assert limit(stirling, gauge=1 / p, along=DECADES).status == "asymptotic"
    with pytest.raises(StepRefuted):
        limit(stirling, gauge=1 / p**2, along=DECADES)


def test_other_symbols_need_values_and_each_case_is_checked() -> None:
    relation = tends((1 + a / p) ** p, p, oo, exp(a))
    with pytest.raises(StepUndecided, match="give values for a"):
        limit(relation, gauge=1 / p, along=DECADES)
    step = limit(relation, gauge=1 / p, along=DECADES, at=[{a: 1}, {a: Rational(1, 2)}])
    assert step.record()["detail"]["slope"].count("±") == 2
    with pytest.raises(StepRefuted, match="a = 2"):
        limit(tends((1 + a / p) ** p, p, oo, exp(1) * a), gauge=1 / p, along=DECADES, at=[{a: 1}, {a: 2}])


def test_a_rate_needs_a_sequence() -> None:
    with pytest.raises(StepUndecided, match="at least six"):
        limit(EULER, gauge=1 / n, along=[10, 100, 1000])
    with pytest.raises(StepUndecided, match="undefined"):
        limit(tends(1 / (p - 100), p, oo, 0), gauge=1 / p, along=DECADES)
    with pytest.raises(StepUndecided, match="use exact evidence"):
        limit(tends(1 + 0 * p + 1 / p - 1 / p, p, oo, 1), gauge=1 / p, along=DECADES)


def test_a_rate_towards_a_point() -> None:
    near = [mpmath.mpf(10) ** -e for e in range(2, 9)]
    assert limit(tends(sin(p) / p, p, 0, 1), gauge=p**2, along=near).status == "asymptotic"
    with pytest.raises(StepRefuted):
        limit(tends(sin(p) / p, p, 0, 1), gauge=p, along=near)


def test_regression_has_an_interval() -> None:
    slope, half = regression([0, 1, 2, 3, 4], [0, 1.1, 1.9, 3.05, 3.95])
    assert abs(slope - 0.985) < 1e-9
    assert 0.02 < half < 0.2  # Student's t with three degrees of freedom: 3.182 standard errors
    from scipy.stats import linregress, t

    fit = linregress([0, 1, 2, 3, 4], [0, 1.1, 1.9, 3.05, 3.95])
    assert abs(half - t.ppf(0.975, 3) * fit.stderr) < 1e-9


# --- expansions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "relation",
    [
        eq(cos(x), 1 - x**2 / 2 + O(x**4)),
        eq(sqrt(1 + a * x), 1 + a * x / 2 - a**2 * x**2 / 8 + O(x**3)),
        eq(log(x), (x - 1) - (x - 1) ** 2 / 2 + O((x - 1) ** 3, (x, 1))),
        eq(1 / (1 + p), 1 / p - 1 / p**2 + O(1 / p**3, (p, oo))),
        eq(exp(-1 / p), O(p**5)),
        eq(p ** Rational(5, 2), O(p**2)),
        eq(log(Sum(exp(x * s[i]), (i, 1, n))), log(n) + x * Sum(s[i], (i, 1, n)) / n + O(x**2)),
    ],
    ids=str,
)
def test_a_true_expansion_is_proved(relation: object) -> None:
    step = series(relation)
    assert step.proved
    assert step.kind == "series"


@pytest.mark.parametrize(
    "relation",
    [
        eq(cos(x), 1 - x**2 / 2 + O(x**5)),  # order too high
        eq(cos(x), 1 - x**2 / 3 + O(x**4)),  # wrong coefficient
        eq(cos(x), 1 + x - x**2 / 2 + O(x**3)),  # a term too many
        eq(log(x), (x - 1) + O((x - 1) ** 3, (x, 1))),
        eq(1 / (1 + p), 1 / p + 1 / p**2 + O(1 / p**3, (p, oo))),
        eq(Abs(x), O(x**2)),  # kinks, jumps, half powers, logarithms
        eq(Abs(x) ** 3, O(x**4)),
        eq(floor(x), O(x**2)),
        eq(p ** Rational(5, 2), O(p**3)),
        eq(p**2 * log(p), O(p**2)),
        eq(sqrt(p), O(p)),
        eq(log(Sum(exp(x * s[i]), (i, 1, n))), log(n) + x * Sum(s[i], (i, 1, n)) + O(x**2)),
    ],
    ids=str,
)
def test_a_false_expansion_is_refuted(relation: object) -> None:
    with pytest.raises(StepRefuted, match="larger than order"):
        series(relation)


def test_what_is_no_expansion_is_refused() -> None:
    with pytest.raises(StepUndecided, match="polynomial"):
        series(eq(cos(x), 1))
    with pytest.raises(StepUndecided, match="one variable"):
        series(eq(cos(x * a), 1 + O(x * a, x, a)))
    with pytest.raises(StepUndecided, match="whole power"):
        series(eq(p * log(p), O(sqrt(p))))


def test_an_expansion_at_explicit_sizes_is_sized() -> None:
    step = series(eq(Sum(exp(x * s[i]), (i, 1, n)), n + x * Sum(s[i], (i, 1, n)) + O(x**2)), dims={n: 3})
    assert step.sized
    assert step.record()["detail"] == {"order": 2}


def test_evidence_can_be_given_as_an_object() -> None:
    d = Derivation("objects")
    assert d.step("D1", tends(1 / p, p, oo, 0), LimitBySymPy()).proved
    assert d.step("D2", tends(1 / p, p, oo, 0), Rate(gauge=1 / p, along=DECADES)).status == "asymptotic"
    assert d.step("D3", eq(exp(x), 1 + O(x)), Expansion()).proved


def test_a_rate_for_a_function_that_is_defined_by_an_equation() -> None:
    root = sp.Function("W", positive=True)

    def values(v: object) -> object:
        return mpmath.lambertw(v).real

    d = Derivation("implicit")
    step = d.define_implicitly("D1", eq(root(p) * exp(root(p)), p), root(p), values)
    assert step.kind == "defined"
    inner = log(p) - log(log(p))
    along = [mpmath.mpf(10) ** (10 * 2**e) for e in range(7)]
    assert (
        d.limit("D2", tends(root(p) - inner, p, oo, 0), gauge=log(log(p)) / log(p), along=along).status == "asymptotic"
    )
    with pytest.raises(StepFailed):
        d.define_implicitly("D3", eq(root(p) * exp(root(p)), 2 * p), root(p), values)
    with pytest.raises(DerivationError, match="applied to its arguments"):
        d.define_implicitly("D4", eq(p, p), root, values)


@pytest.mark.skipif(not sp.__version__.startswith("1.14."), reason="what this release of SymPy computes")
def test_a_limit_that_sympy_gets_wrong_is_refused() -> None:
    n, delta = sp.symbols("n delta", positive=True)
    # the weight of a leader with L = (1 + δ) log n tends to 1, since (n - 1) n^(-1-δ) vanishes
    weight = sp.powsimp(1 / (1 + (n - 1) * sp.exp(-(1 + delta) * sp.log(n))))
    assert sp.limit(weight, n, sp.oo) == 0
    with pytest.raises(StepRefuted, match="settle somewhere else"):
        Derivation("limits").limit("D1", tends(weight, n, sp.oo, 0))


def test_lost_digits_do_not_refute_a_true_limit() -> None:
    """At z = 1e32 no precision tells 1 + exp(-z) from 1; the values had come within 1e-15 of the limit before."""
    z = sp.Symbol("z", positive=True)
    step = Derivation("far").limit("D1", tends(sp.exp(z) * sp.log(1 + sp.exp(-z)), z, sp.oo, 1))
    assert step.status == "proved"
    with pytest.raises(DerivationError):
        Derivation("far").limit("D1", tends(sp.exp(z) * sp.log(1 + sp.exp(-z)), z, sp.oo, 2))

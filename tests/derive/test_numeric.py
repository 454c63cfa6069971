"""Numeric evidence: points in high precision, honest about what they are, and hard to satisfy by chance."""

from __future__ import annotations

import mpmath
import pytest
import sympy as sp
from sympy import Abs, Integral, MatrixSymbol, Max, Sum, cos, exp, floor, log, oo, sin, sqrt

from kexue_lib.derive import (
    Derivation,
    DerivationError,
    Integer,
    Interval,
    Nonnegative,
    OneOf,
    Simplex,
    StepFailed,
    StepRefuted,
    StepUndecided,
    Vector,
    eq,
    ge,
    gt,
    le,
    lt,
    similar,
)
from kexue_lib.derive.evaluate import NotEvaluable, compile_expression, index_ranges

x, y = sp.symbols("x y", real=True)
p, c = sp.symbols("p c", positive=True)
u = sp.Symbol("u", nonnegative=True)
z = sp.Symbol("z")
n, i, j, k = sp.symbols("n i j k", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
P = sp.IndexedBase("P", shape=(n,), positive=True)


def numeric(relation: object, **options: object) -> object:
    return Derivation("numeric").numeric("D1", relation, **options)


@pytest.mark.parametrize(
    "relation",
    [
        eq(Integral(exp(-c * x**2), (x, -oo, oo)), sqrt(sp.pi / c)),
        eq(sin(x) ** 2, (1 - cos(2 * x)) / 2),
        eq(sp.Derivative(x**3 * sin(x), x), 3 * x**2 * sin(x) + x**3 * cos(x)),
        eq(Sum(k, (k, 1, n)), n * (n + 1) / 2),
        eq(sp.binomial(n, k), sp.binomial(n - 1, k - 1) + sp.binomial(n - 1, k)),
        eq(sp.zeta(p + 1), sp.zeta(p + 1, 1)),
        eq(sp.LambertW(p) * exp(sp.LambertW(p)), p),
        eq(z * sp.conjugate(z), Abs(z) ** 2),
        eq(sp.polygamma(0, p + 1), sp.polygamma(0, p) + 1 / p),
        ge(exp(x), 1 + x),
        le(Sum(s[i], (i, 1, n)) ** 2, n * Sum(s[i] ** 2, (i, 1, n))),
        gt(Abs(x) + 1, x),
    ],
    ids=str,
)
def test_a_true_relation_is_sampled_and_never_proved(relation: object) -> None:
    step = numeric(relation, points=40)
    assert step.status == "sampled"
    assert not step.proved
    assert step.record()["detail"]["points"] >= 30
    assert "points" in step.finding.method


@pytest.mark.parametrize(
    "relation",
    [
        eq(sin(x) ** 2, (1 + cos(2 * x)) / 2),
        eq(exp(x), 1 + x + x**2 / 2),
        eq(sp.Derivative(x**3, x), 2 * x**2),
        eq(Sum(k, (k, 1, n)), n * (n + 1) / 2 + sp.Rational(1, 10**6)),
        eq(p, p * (1 + sp.Rational(1, 10**11))),
        lt(sin(x), 1 - sp.Rational(1, 10**6)),
        lt(Abs(x), 1 + x**2 / 4 - sp.Rational(1, 10**9)),
        ge(Max(x, y), x + y / 1000),
    ],
    ids=str,
)
def test_a_false_relation_is_refuted_with_a_point(relation: object) -> None:
    with pytest.raises(StepRefuted) as caught:
        numeric(relation)
    found = caught.value.counterexample
    assert found is not None
    assert found.point
    assert found.left != found.right


@pytest.mark.parametrize("width", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5])
def test_a_narrow_violation_is_found_by_walking_towards_it(width: float) -> None:
    w = sp.Rational(str(width))
    narrow = ge((x - sp.Rational(27, 10)) ** 2, w**2)
    with pytest.raises(StepRefuted):
        numeric(narrow)
    with pytest.raises(StepRefuted):
        numeric(ge((p - 3) ** 2 + (u - sp.Rational(3, 2)) ** 2, w**2))


def test_a_violation_beside_a_point_of_equality_is_found() -> None:
    with pytest.raises(StepRefuted):
        numeric(ge(u**2, u / 1000))  # equality at 0, violated up to 1/1000
    with pytest.raises(StepRefuted):
        numeric(le(x**3, x**2 + x**2 * sp.Rational(1, 100)))  # equality at 0, violated beyond 1.01


def test_a_violation_at_one_integer_is_found() -> None:
    with pytest.raises(StepRefuted):
        numeric(ge((k - 7) ** 2, sp.Rational(1, 2)), points=12)


def test_corners_come_first_and_together() -> None:
    # false only where both symbols are equal, or only at 0 and 0
    with pytest.raises(StepRefuted):
        numeric(gt((x - y) ** 2, 0), points=12)
    with pytest.raises(StepRefuted):
        numeric(gt(x**2 + y**2, 0), points=12)


def test_sides_that_vanish_by_cancellation_are_no_counterexample() -> None:
    near_zero = exp(x) - 1 - x
    assert (
        numeric(eq(near_zero, Sum(x**k / sp.factorial(k), (k, 2, 60))), domain={x: Interval(-1, 1)}).status == "sampled"
    )


def test_an_integral_that_cannot_be_computed_reliably_is_no_counterexample() -> None:
    wild = Integral(sin(10**6 * x**2), (x, 0, 10))
    with pytest.raises(NotEvaluable, match="reliably"):
        numeric(eq(wild, sqrt(sp.pi / 2) / 2000), points=1)


def test_a_counterexample_by_quadrature_says_so() -> None:
    with pytest.raises(StepRefuted, match="quadrature"):
        numeric(eq(Integral(x**2, (x, 0, 1)), sp.Rational(1, 2)))


def test_values_that_do_not_settle_are_no_counterexample() -> None:
    def noisy(v: object) -> object:
        return mpmath.mpf(mpmath.mp.dps)  # another value at each precision

    with pytest.raises(NotEvaluable, match="do not settle"):
        numeric(eq(sp.Function("noisy")(x), x), functions={"noisy": noisy})


def test_a_narrow_peak_is_integrated_in_pieces() -> None:
    peak = Integral(exp(-((1000 * x - 700) ** 2)), (x, -1, 1))
    assert numeric(eq(1000 * peak, sqrt(sp.pi))).status == "sampled"


def test_an_infinite_series_is_not_evaluated() -> None:
    with pytest.raises(NotEvaluable, match="infinite series"):
        numeric(eq(Sum(1 / k**2, (k, 1, oo)), sp.pi**2 / 6))


def test_points_that_are_undefined_on_both_sides_are_counted_and_on_one_side_refute() -> None:
    step = numeric(eq(1 / x + 1, (1 + x) / x), points=60)
    assert step.record()["detail"]["undefined on both sides"] > 0
    with pytest.raises(StepRefuted, match="no finite value"):
        numeric(eq(sp.Mul(x, 1 / x, evaluate=False), 1))
    with pytest.raises(StepUndecided, match="undefined at all"):
        numeric(
            eq(1 / (x - x * 1 + sp.Symbol("zero", real=True)), 1 / sp.Symbol("zero", real=True)),
            domain={sp.Symbol("zero", real=True): OneOf(0)},
        )


def test_an_inequality_between_complex_numbers_is_refused() -> None:
    with pytest.raises(StepRefuted, match="real sides"):
        numeric(ge(sqrt(x), -1))


def test_where_leaves_points_out_and_says_when_there_are_none() -> None:
    assert numeric(ge(x**2, x), where=[x >= 1]).status == "sampled"
    with pytest.raises(StepRefuted):
        numeric(ge(x**2, x), where=[x >= 0])
    with pytest.raises(DerivationError, match="satisfy"):
        numeric(ge(x**2, x), where=[x > 10**6])
    with pytest.raises(DerivationError, match="where="):
        numeric(ge(x**2, x), where=[sp.Eq(x, 1)])


def test_domains_are_respected() -> None:
    assert numeric(le(x, 2), domain={x: Interval(-1, 2)}).status == "sampled"
    with pytest.raises(StepRefuted):
        numeric(lt(x, 2), domain={x: Interval(-1, 2)})
    assert numeric(lt(x, 2), domain={x: Interval(-1, 2, open=True)}).status == "sampled"
    assert numeric(eq(floor(x), x), domain={x: Integer(-4, 4)}).status == "sampled"
    entropy = -Sum(P[i] * log(P[i]), (i, 1, n))
    assert numeric(le(entropy, log(n)), domain={P: Simplex(n)}, dims={n: (2, 5, 17)}).record()["dims"] == {
        "n": [2, 5, 17]
    }
    with pytest.raises(StepRefuted):
        numeric(le(entropy, log(n)), domain={P: Vector(n, Nonnegative())}, dims={n: 3})


def test_sizes_begin_with_one() -> None:
    with pytest.raises(StepRefuted):
        numeric(gt(Sum(s[i] ** 2, (i, 2, n)) + 1, 1))


def test_tight_shows_that_a_bound_cannot_be_moved() -> None:
    step = numeric(ge(exp(x), 1 + x), tight={x: 0})
    assert step.record()["detail"]["equality at"] == "x = 0"
    with pytest.raises(StepRefuted, match="not attained"):
        numeric(ge(exp(x), x), tight={x: 0})


def test_an_undefined_function_needs_values() -> None:
    f = sp.Function("f")
    with pytest.raises(NotEvaluable, match="the function f has no values"):
        numeric(eq(f(x), x))
    assert numeric(eq(f(x), x**2), functions={"f": lambda v: v * v}).status == "sampled"
    with pytest.raises(StepRefuted):
        numeric(eq(f(x), x**2), functions={"f": mpmath.cos})


def test_a_vector_without_a_length_is_refused() -> None:
    bare = sp.IndexedBase("bare", real=True)
    with pytest.raises(DerivationError, match="has no length"):
        numeric(eq(bare[1], bare[1] + 0))


def test_an_asymptotic_relation_needs_other_evidence() -> None:
    with pytest.raises(StepUndecided, match="limit"):
        numeric(similar(p, p + 1, p, oo))


def test_too_slow_is_undecided() -> None:
    double = Integral(Integral(exp(-c * x * y), (x, 0, 1)), (y, 0, 1))
    with pytest.raises(StepUndecided, match="too long"):
        numeric(eq(double, double + 0 * c), points=500, seconds=1)


def test_the_same_points_every_time() -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(StepFailed) as caught:
            numeric(eq(exp(x) * p, exp(x * p)))
        messages.add(str(caught.value))
    assert len(messages) == 1


# --- evaluation -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "expr",
    [
        sp.Heaviside(x),
        sp.sign(x),
        sp.Mod(x, 1),
        sp.Min(x, y),
        sp.binomial(3, 5),
        sp.harmonic(4),
        sp.loggamma(p),
        sp.besseli(1, p),
        sp.erfc(x),
        sp.Piecewise((x, x > 0), (y, True)),
        sp.Subs(sp.Derivative(sin(x), x), x, 2),
        Sum(k**2, (k, 1, 4)),
        sp.Product(k, (k, 1, 4)),
        sp.re(z) + sp.im(z) + sp.arg(z),
        sp.LambertW(-exp(-2), -1),
        Integral(x * y, (x, 0, 1), (y, 0, 2)),
        sp.E + sp.pi + sp.EulerGamma + sp.GoldenRatio,
        1 / sp.Integer(3),
    ],
    ids=str,
)
def test_evaluation_agrees_with_sympy(expr: sp.Expr) -> None:
    at = {x: mpmath.mpf(-1.5), y: mpmath.mpf(0.25), p: mpmath.mpf(0.75), z: mpmath.mpc(-1, 2)}
    ours = compile_expression(expr, list(at))(at)
    values = {x: sp.Rational(-3, 2), y: sp.Rational(1, 4), p: sp.Rational(3, 4), z: -1 + 2 * sp.I}
    theirs = expr.subs({a: b for a, b in values.items() if a in expr.free_symbols}).doit().evalf(20)
    assert abs(complex(ours) - complex(theirs)) < 1e-13


def test_symbols_of_the_same_name_are_different_symbols() -> None:
    other = sp.Symbol("x", positive=True)
    assert compile_expression(x - other, [x, other])({x: mpmath.mpf(1), other: mpmath.mpf(3)}) == -2


@pytest.mark.parametrize("expr", [sp.DiracDelta(x), sp.exp_polar(x), sp.Limit(x, x, 0), sp.O(x)], ids=str)
def test_what_has_no_value_says_so(expr: sp.Expr) -> None:
    with pytest.raises(NotEvaluable):
        compile_expression(expr, [x])({x: mpmath.mpf(1)})


def test_undefined_values_are_nan() -> None:
    for expr in (1 / x, log(x) * 0 + 1 / x, sp.Piecewise((1, x > 5))):
        assert mpmath.isnan(compile_expression(expr, [x])({x: mpmath.mpf(0)}))


def test_free_indices_are_told_from_bound_ones_of_the_same_name() -> None:
    assert index_ranges([s[i] / Sum(s[i], (i, 1, n))]) == {i: n}
    assert index_ranges([i * Sum(s[i], (i, 1, n))]) == {}
    assert index_ranges([Sum(s[i] * s[j], (i, 1, n))]) == {j: n}


def test_a_matrix_has_entries() -> None:
    a = MatrixSymbol("A", 2, 2)
    step = Derivation("entries").exact("D1", eq(a[0, 0] * a[1, 1] - a[0, 1] * a[1, 0], sp.Determinant(a)), dims={n: 2})
    assert step.status == "proved"

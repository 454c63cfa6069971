"""Exact evidence: what is true is proved; no strategy proves what is false, even without the look at points."""

from __future__ import annotations

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Abs, Derivative, Integral, MatrixSymbol, Max, Rational, Sum, cos, cosh, exp, log, oo, sin, sqrt, tanh

from kexue_lib.derive import (
    Derivation,
    DerivationError,
    Exact,
    Interval,
    MaxOver,
    StepFailed,
    StepRefuted,
    StepUndecided,
    eq,
    ge,
    gt,
    le,
    lt,
    mean,
    similar,
)
from kexue_lib.derive.binding import misfit, put
from kexue_lib.derive.prove import name_sums, prove_nonnegative, prove_zero, smooth, split_sums, the_solution

x, y, a = sp.symbols("x y a", real=True)
p, q, c = sp.symbols("p q c", positive=True)
u, v = sp.symbols("u v", nonnegative=True)
z = sp.Symbol("z")
n, i, j, k, m = sp.symbols("n i j k m", integer=True, positive=True)
whole = sp.Symbol("whole", integer=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
P = sp.IndexedBase("P", shape=(n,), positive=True)


def total(term: sp.Expr, index: sp.Symbol = i) -> sp.Sum:
    return Sum(term, (index, 1, n))


# --- true statements --------------------------------------------------------------------------------------------------
TRUE = {
    "binomial formula": eq((x + y) ** 5, sum(sp.binomial(5, e) * x**e * y ** (5 - e) for e in range(6))),
    "fractions": eq(1 / (p * (p + 1)), 1 / p - 1 / (p + 1)),
    "logarithms": eq(log(p**2 * q / c), 2 * log(p) + log(q) - log(c)),
    "addition theorem": eq(cos(x - y), cos(x) * cos(y) + sin(x) * sin(y)),
    "hyperbolic": eq(tanh(x), (1 - exp(-2 * x)) / (1 + exp(-2 * x))),
    "nested root": eq(sqrt(5 + 2 * sqrt(6)), sqrt(2) + sqrt(3)),
    "derivative": eq(Derivative(log(1 + exp(x)), x), 1 / (1 + exp(-x))),
    "integral": eq(Integral(exp(-c * x), (x, 0, oo)), 1 / c),
    "odd integral": eq(Integral(x * exp(-(x**2)) * cos(x), (x, -1, 1)), 0),
    "reflected integral": eq(
        Integral(exp(c * x) * (1 - x**2) ** p, (x, -1, 1)), Integral(exp(-c * x) * (1 - x**2) ** p, (x, -1, 1))
    ),
    "gamma": eq(sp.gamma(p + 1), p * sp.gamma(p)),
    "bessel": eq(sp.besseli(c - 1, p) - sp.besseli(c + 1, p), 2 * c / p * sp.besseli(c, p)),
    "softmax adds up": eq(total(exp(s[i]) / total(exp(s[j]), j)), 1),
    "variance": eq(mean((s[i] - mean(s[j], j, n)) ** 2, i, n), mean(s[i] ** 2, i, n) - mean(s[i], i, n) ** 2),
    "two sums": eq(total(total(s[i] * P[j], i), j), total(s[i]) * total(P[i])),
    "maximum": eq(Max(x, y), (x + y + Abs(x - y)) / 2),
    "cases": eq(sp.Piecewise((x, x >= 0), (-x, True)), Abs(x)),
}


@pytest.mark.parametrize("name", TRUE)
def test_a_true_equation_is_proved(name: str) -> None:
    step = Derivation("true").exact("D1", TRUE[name])
    assert step.proved
    assert step.finding.method


@pytest.mark.parametrize("name", TRUE)
def test_its_double_is_refuted(name: str) -> None:
    relation = TRUE[name]
    with pytest.raises(StepRefuted):
        Derivation("false").exact("D1", eq(relation.lhs, 2 * relation.rhs + 1))


INEQUALITIES = {
    "square": ge(x**2 - 2 * x * y + y**2, 0),
    "arithmetic and harmonic": ge(p + 1 / p, 2),
    "tangent of exp": ge(exp(x), 1 + x),
    "tangent of log": le(log(p), p - 1),
    "log(1+u)": le(log(1 + u), u),
    "log(1+u) from below": ge(log(1 + u), u - u**2 / 2),
    "strict": lt(log(1 + p), p),
    "tanh": le(tanh(u), u),
    "cosh": ge(cosh(x), 1),
    "fourth power": ge((1 + x) ** 4, 1 + 4 * x),
    "maximum": ge(Max(x, y), y),
    "maximum of a vector": le(s[i], MaxOver(s[j], (j, 1, n))),
    "positive terms": gt(total(P[i]) * p, 0),
    "squares": ge(total(s[i] ** 2) + Abs(x), 0),
}


@pytest.mark.parametrize("name", INEQUALITIES)
def test_a_true_inequality_is_proved(name: str) -> None:
    assert Derivation("true").exact("D1", INEQUALITIES[name]).proved


@pytest.mark.parametrize("name", INEQUALITIES)
def test_the_opposite_inequality_is_refused(name: str) -> None:
    with pytest.raises(StepFailed):
        Derivation("false").exact("D1", INEQUALITIES[name].reversed_sign())


coefficients = st.lists(st.integers(-9, 9), min_size=2, max_size=5)


@settings(max_examples=25, deadline=None)
@given(coefficients, coefficients)
def test_random_products_of_polynomials_are_proved(one: list[int], other: list[int]) -> None:
    f = sum(e * x**d for d, e in enumerate(one))
    g = sum(e * x**d for d, e in enumerate(other))
    product = sp.Poly(f, x) * sp.Poly(g, x)
    assert Derivation("random").exact("D1", eq(f * g, product.as_expr())).proved


@settings(max_examples=25, deadline=None)
@given(coefficients, coefficients, st.integers(0, 6), st.sampled_from([-1, 1, Rational(1, 1000)]))
def test_a_random_perturbation_of_one_coefficient_is_refuted(
    one: list[int], other: list[int], degree: int, by: object
) -> None:
    f = sum(e * x**d for d, e in enumerate(one))
    g = sum(e * x**d for d, e in enumerate(other))
    with pytest.raises(StepRefuted):
        Derivation("random").exact("D1", eq(f * g, sp.expand(f * g) + by * x**degree))


# --- assumptions matter -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("true", "false"),
    [
        (eq(sqrt(p**2), p), eq(sqrt(x**2), x)),
        (eq(log(p * q), log(p) + log(q)), eq(log(x * y), log(x) + log(y))),
        (eq(log(exp(x)), x), eq(log(exp(z)), z)),
        (eq(Abs(u), u), eq(Abs(x), x)),
        (eq(cos(2 * sp.pi * n), 1), eq(cos(2 * sp.pi * x), 1)),
        (eq((p**2) ** x, p ** (2 * x)), eq((y**2) ** x, y ** (2 * x))),
        (ge(u, 0), gt(u, 0)),
    ],
    ids=str,
)
def test_assumptions_matter(true: object, false: object) -> None:
    assert Derivation("true").exact("D1", true).proved
    with pytest.raises(StepRefuted):
        Derivation("false").exact("D1", false)


def test_two_symbols_that_are_written_alike_are_refused() -> None:
    with pytest.raises(DerivationError, match="written x"):
        Derivation("names").exact("D1", eq(sp.Symbol("x", positive=True), x))


# --- the provers alone: nothing false, even without sampled points ----------------------------------------------------
@pytest.mark.parametrize(
    "expr",
    [
        sp.Piecewise((p, p < 1), (-1, True)),  # increasing, with a jump
        p - 3 * p * sp.Piecewise((0, p < 5), (1, True)),
        sp.tan(p),  # increasing, with poles
        sp.tan(u) - u,
        -1 / (p - 2),
        1 / (1 - u) - 1 - u,
        p - sp.floor(p) - Rational(1, 2),
        p + 1 - 2 * sp.Heaviside(p - 1) * (p + 1),
        1 / x**2 + 2 * x - 3,  # convex on both sides of a pole
        sp.gamma(x) ** 2,
        a * (exp(x) - 1 - x),  # convex only for a > 0
        x**3,
        log(x) ** 2,
        p * log(p),
    ],
    ids=str,
)
def test_no_strategy_proves_a_false_inequality(expr: sp.Expr) -> None:
    assert prove_nonnegative(expr) is None
    assert prove_nonnegative(expr, strict=True) is None


def test_convexity_on_half_a_line_says_nothing_about_the_other_half() -> None:
    punctured = sp.Symbol("x", real=True, nonzero=True)
    assert prove_nonnegative(1 / punctured**2 + 2 * punctured - 3) is None
    below = sp.Symbol("x", nonpositive=True)
    assert prove_nonnegative(below**4 + below**2 - 6 * below + 4) is not None  # every term is positive there
    assert prove_nonnegative(exp(below) - 1) is None


def test_an_increasing_function_is_strictly_positive_only_where_it_has_left_zero() -> None:
    assert prove_nonnegative(p - log(1 + p), strict=True) == "increasing in p, 0 at p = 0"
    assert prove_nonnegative(u - log(1 + u), strict=True) is None
    assert prove_nonnegative(u - log(1 + u)) is not None


def test_an_empty_sum_is_not_positive() -> None:
    assert prove_nonnegative(Sum(P[i], (i, 1, n - 1)), strict=True) is None
    assert prove_nonnegative(Sum(P[i], (i, 1, n - 1))) is not None
    assert prove_nonnegative(Sum(P[i], (i, 1, n)), strict=True) is not None


def test_counting_the_terms_of_a_range_that_may_be_empty() -> None:
    assert split_sums(Sum(1, (i, 1, n))) == n
    assert split_sums(Sum(1, (i, m, n))).has(Sum)


def test_a_series_is_not_split_into_divergent_parts() -> None:
    series = Sum(1 / k - 1 / (k + 1), (k, 1, oo))
    assert split_sums(series) == series


def test_common_names_of_indices_keep_their_sign() -> None:
    # with a positive index 0**index would vanish; from 0 on the first term is 1
    first = sp.Symbol("first", integer=True, nonnegative=True)
    assert split_sums(Sum(sp.Integer(0) ** first, (first, 0, n))).doit() != 0
    assert prove_zero(Sum(sp.Integer(0) ** first, (first, 0, 3)))[0] is None


def test_sums_with_other_limits_stay_different() -> None:
    shifted = Sum(s[i], (i, 2, n))
    assert prove_zero(shifted - total(s[i]))[0] is None
    assert prove_zero(shifted - Sum(s[j], (j, 2, n)))[0] is not None
    assert name_sums(shifted - total(s[i])) != 0


def test_an_index_that_is_free_elsewhere_is_not_captured() -> None:
    assert prove_zero(i * total(s[i]) - total(i * s[i]))[0] is None
    assert prove_zero(total(s[i] * P[j]) - P[i] * total(s[i]))[0] is None
    assert put(total(x * s[i]), {x: i}).doit() != total(i * s[i])
    with pytest.raises(StepRefuted):
        Derivation("false").exact("D1", eq(i * total(s[i]), total(i * s[i])))


@pytest.mark.parametrize(
    "expr",
    [
        Sum(sp.sqrt(i**2), (i, 0, n)),
        Sum(s[i], (i, n - k, n)),
        MaxOver(s[i], (i, 0, n)),
        Integral(sqrt(p**2), (p, -1, 1)),
        sp.Limit(Abs(p), p, -oo),
        sp.Limit(1 / p, p, 0, "-"),
    ],
    ids=str,
)
def test_a_range_that_contradicts_what_is_declared_is_refused(expr: sp.Expr) -> None:
    with pytest.raises(DerivationError, match="declared"):
        eq(expr, 0)


@pytest.mark.parametrize(
    "integral",
    [
        Integral(1 / x, (x, -1, 1)),
        Integral(x, (x, -oo, oo)),
        Integral(1 / (x - Rational(1, 2)) + 1 / (x + Rational(1, 2)), (x, -1, 1)),
    ],
    ids=str,
)
def test_an_odd_function_without_an_integral_does_not_integrate_to_zero(integral: sp.Expr) -> None:
    assert prove_zero(integral, 5)[0] is None
    with pytest.raises(StepFailed):
        Derivation("odd").exact("D1", eq(integral, 0), seconds=5)


def test_smooth_is_careful() -> None:
    assert smooth(exp(-x) / (1 + x**2) + sin(x) ** 2, x)
    assert smooth(log(p) / sqrt(p), p)
    assert smooth(log(total(exp(x * s[i]))), x)
    for rough in (1 / x, log(x), sqrt(x), Abs(x), sp.floor(x), sp.tan(x), x**a, sp.Piecewise((0, x < 0), (1, True))):
        assert not smooth(rough, x)


def test_the_one_solution() -> None:
    assert the_solution(p**2 - c, p) == sqrt(c)
    assert the_solution(c * log(p) - q, p) == exp(q / c)
    with pytest.raises(DerivationError, match="not one solution"):
        the_solution(x**2 - c, x)
    with pytest.raises(DerivationError, match="there may be others"):
        the_solution(x * exp(x) - a, x)  # Lambert's W has two real branches
    with pytest.raises(DerivationError):
        the_solution(exp(z) - 2, z)


@pytest.mark.parametrize(
    ("symbol", "value", "fact"),
    [
        (p, x, "positive"),
        (u, x, "nonnegative"),
        (p, u, "positive"),
        (x, z, "real"),
        (n, p, "integer"),
        (p, exp(x), None),
        (p, 1 + x**2, None),
        (u, (x - y) ** 2, None),
        (x, total(s[i]), None),
        (p, total(P[i]), None),
        (p, Sum(P[i], (i, 1, n - 1)), "positive"),
        (n, n + 1, None),
        (z, x, None),
    ],
    ids=str,
)
def test_what_may_be_put_for_a_symbol(symbol: sp.Symbol, value: sp.Expr, fact: str | None) -> None:
    assert misfit(symbol, value) == fact


# --- options ----------------------------------------------------------------------------------------------------------
def test_dims_write_sums_out_and_are_part_of_the_badge() -> None:
    step = Derivation("sizes").exact("D1", eq(total(s[i]) ** 2, total(s[i] * total(s[j], j))), dims={n: (2, 3)})
    assert step.status == "proved"
    assert step.sized
    assert not step.proved
    assert step.record()["dims"] == {"n": [2, 3]}
    assert "n = 2,3" in str(step)


def test_free_indices_are_instantiated_even_where_the_name_is_bound_elsewhere() -> None:
    softmax = exp(s[i]) / total(exp(s[i]))
    d = Derivation("sizes")
    with pytest.raises(StepRefuted):
        d.exact("D1", eq(softmax, exp(s[1]) / total(exp(s[i]))), dims={n: 2})
    own = exp(s[i]) / (exp(s[1]) + exp(s[2]))
    assert d.exact("D2", eq(softmax, own), dims={n: 2}).status == "proved"


def test_a_size_has_to_be_given() -> None:
    matrix = MatrixSymbol("A", n, n)
    with pytest.raises(DerivationError, match="dims"):
        Derivation("sizes").exact("D1", eq(sp.Trace(matrix), sp.Trace(matrix.T)), dims={m: 2})


def test_given_equations_are_solved_and_count_as_used() -> None:
    d = Derivation("given")
    demand = d.assume("D1", eq(p * log(512), 1 / sqrt(c)))
    step = d.exact("D2", eq(p * log(n), log(n) / (log(512) * sqrt(c))), given={demand: p})
    assert step.status == "proved"
    assert step.uses == ("D1",)
    assert step.rests_on == ("D1",)
    with pytest.raises(StepFailed):
        d.exact("D3", eq(p * log(n), 2 * log(n) / (log(512) * sqrt(c))), given={demand: p})


def test_a_given_equation_with_two_branches_is_refused() -> None:
    d = Derivation("given")
    two = d.assume("D1", eq(x * exp(x), a))
    with pytest.raises(StepUndecided, match="there may be others"):
        d.exact("D2", eq(x, sp.LambertW(a)), given={two: x})


def test_a_given_relation_has_to_be_a_step() -> None:
    with pytest.raises(DerivationError, match="no step"):
        Derivation("given").exact("D1", eq(x, 3), given={eq(x, 3): x})
    with pytest.raises(DerivationError, match="no step"):
        Derivation("given").step("D1", eq(x, 3), Exact(given={eq(x, 3): x}))


def test_put_names_the_domain_and_the_badge_shows_it() -> None:
    r = sp.Symbol("r", nonnegative=True)
    d = Derivation("put")
    with pytest.raises(StepFailed):
        d.exact("D1", ge(p, 1))
    step = d.exact("D1", ge(p, 1), put={p: 1 + r})
    assert "with p = r + 1 (r ≥ 0)" in step.finding.method


def test_tight_has_to_be_where_both_sides_are_equal() -> None:
    d = Derivation("tight")
    assert "equality at x = 0" in d.exact("D1", ge(exp(x), 1 + x), tight={x: 0}).finding.method
    with pytest.raises(StepUndecided, match="not attained"):
        d.exact("D2", ge(exp(x), x), tight={x: 0})
    with pytest.raises(StepUndecided, match="p is positive"):
        d.exact("D3", ge(p, 0), tight={p: 0})


def test_an_asymptotic_relation_needs_other_evidence() -> None:
    with pytest.raises(StepUndecided, match="limit"):
        Derivation("kind").exact("D1", similar(p + 1, p, p, oo))


def test_conditions_and_domains_narrow_the_search_for_counterexamples_and_not_the_proof() -> None:
    d = Derivation("where")
    with pytest.raises(StepUndecided):
        d.exact("D1", eq(sqrt(x**2), x), where=[x > 0])  # no counterexample there, and no proof either
    with pytest.raises(StepUndecided):
        d.exact("D1", eq(sqrt(x**2), x), domain={x: Interval(1, 2)})

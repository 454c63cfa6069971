"""Known-false relations, each refused by the evidence a chapter would give it; the true relation beside it is accepted.

Each case has an id, the false relation, how it has to fail, and where the slip was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import sympy as sp
from sympy import (
    Abs,
    E,
    I,
    Max,
    O,
    Product,
    Rational,
    Sum,
    acosh,
    asin,
    atan,
    cos,
    cosh,
    erf,
    exp,
    floor,
    gamma,
    log,
    oo,
    pi,
    sign,
    sin,
    sqrt,
    tan,
    tanh,
)

from kexue_lib.derive import (
    Derivation,
    Exact,
    Expansion,
    Interval,
    LimitBySymPy,
    MaxOver,
    Numeric,
    Rate,
    Relation,
    Simplex,
    StepFailed,
    StepRefuted,
    StepUndecided,
    eq,
    ge,
    gt,
    le,
    lt,
    similar,
    tends,
)

x, y, a, b = sp.symbols("x y a b", real=True)
p, q, c, t = sp.symbols("p q c t", positive=True)
u = sp.Symbol("u", nonnegative=True)
z, w = sp.symbols("z w")
n, i, j, k, m = sp.symbols("n i j k m", integer=True, positive=True)
theta = sp.Symbol("theta", real=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
r = sp.IndexedBase("r", shape=(n,), real=True)
P = sp.IndexedBase("P", shape=(n,), positive=True)
sigma2 = sp.Symbol("sigma2", positive=True)


def total(term: sp.Expr, index: sp.Symbol = i) -> sp.Sum:
    return Sum(term, (index, 1, n))


def rotate(v: sp.Matrix, angle: sp.Expr) -> sp.Matrix:
    return sp.Matrix([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) * v


# two positions, one pair of features: the inner product of rotated vectors
q1, q2, k1, k2 = sp.symbols("q_1 q_2 k_1 k_2", real=True)
pos_m, pos_n = sp.symbols("pos_m pos_n", real=True)
ROPE = (rotate(sp.Matrix([q1, q2]), pos_m * theta).T * rotate(sp.Matrix([k1, k2]), pos_n * theta))[0]
PLAIN, CROSS = q1 * k1 + q2 * k2, q1 * k2 - q2 * k1

# Adam
g, beta1, beta2 = (sp.Symbol(name, positive=True) for name in ("g", "beta_1", "beta_2"))
m_hat, v_hat = (1 - beta1) * g / (1 - beta1), (1 - beta2) * g**2 / (1 - beta2)

relu_mean = sp.Integral(x * exp(-(x**2) / 2) / sqrt(2 * pi), (x, 0, oo))
relu_square = sp.Integral(x**2 * exp(-(x**2) / 2) / sqrt(2 * pi), (x, 0, oo))
density = sp.Function("phi")
truncated = sp.Integral(x**2 * exp(-(x**2) / 2), (x, -c, c)) / sp.Integral(exp(-(x**2) / 2), (x, -c, c))


@dataclass(frozen=True)
class Case:
    """A false relation, its evidence, how it fails, and (where it is easy) the true relation in its place."""

    id: str
    false: Callable[[], Relation]
    evidence: object
    fails: type[StepFailed] | None  # None: at the least undecided
    source: str
    true: Callable[[], Relation] | None = None
    setting: dict | None = None


PROBABILITIES = {P: Simplex(n)}

CASES = [
    # --- books and libraries -------------------------------------------------------------------------
    Case(
        "rope-printed-line",
        lambda: eq(ROPE, PLAIN * cos(pos_m - pos_n) * pos_m * theta + CROSS * sin(pos_m - pos_n) * pos_m * theta),
        Exact(),
        StepRefuted,
        "a well-known annotated implementation prints cos(m-n)mθ",
        lambda: eq(ROPE, PLAIN * cos((pos_m - pos_n) * theta) + CROSS * sin((pos_m - pos_n) * theta)),
    ),
    Case(
        "rope-factor-outside-cosine",
        lambda: eq(ROPE, PLAIN * cos(pos_m - pos_n) * theta + CROSS * sin(pos_m - pos_n) * theta),
        Exact(),
        StepRefuted,
        "what a LaTeX parser reads in cos(m-n)θ",
    ),
    Case(
        "rope-sum-of-positions",
        lambda: eq(ROPE, PLAIN * cos((pos_m + pos_n) * theta) + CROSS * sin((pos_m + pos_n) * theta)),
        Exact(),
        StepRefuted,
        "sign slip: the score depends on the difference of the positions",
    ),
    Case(
        "adam-without-root",
        lambda: eq(m_hat / v_hat, 1),
        Exact(),
        StepRefuted,
        "a book's Adam page gives the step as m̂/v̂; the first step has size 1 only with the root",
        lambda: eq(m_hat / sqrt(v_hat), 1),
    ),
    # --- an annotated copy of the blog ----------------------------------------------------------------
    Case(
        "truncated-normal-variance-negative",
        lambda: eq(truncated, -2 * c),
        Numeric(points=12, domain={c: Interval(0.2, 4)}),
        StepRefuted,
        "variance of a truncated normal that simplifies to -2a, a negative number",
        lambda: eq(truncated, 1 - 2 * c * exp(-(c**2) / 2) / (sqrt(2 * pi) * erf(c / sqrt(2)))),
    ),
    Case(
        "variance-of-relu-is-half",
        lambda: eq(relu_square - relu_mean**2, Rational(1, 2)),
        Exact(),
        StepRefuted,
        "Var[ReLU] ≈ ½ Var: ½ is the second moment",
        lambda: eq(relu_square - relu_mean**2, (pi - 1) / (2 * pi)),
    ),
    Case(
        "deviation-for-variance",
        lambda: eq(relu_square, sqrt(Rational(1, 2))),
        Exact(),
        StepRefuted,
        "a standard deviation used as a variance",
        lambda: eq(relu_square, Rational(1, 2)),
    ),
    # --- slips in the fact sheets --------------------------------------------------------------------------------
    Case(
        "9034-entropy-drop-linear",
        lambda: eq(log((exp(x) + exp(-x)) / 2), x / 2 + O(x**2)),
        Expansion(),
        StepRefuted,
        "9034: the approximation of the entropy is linear in λ where the true drop is quadratic",
        lambda: eq(log((exp(x) + exp(-x)) / 2), x**2 / 2 + O(x**4)),
    ),
    Case(
        "9034-free-index-summed",
        lambda: eq(exp(s[i]) / total(exp(s[i])), exp(s[i]) / (n * exp(s[i]))),
        Exact(),
        StepRefuted,
        "9034, 8823: the normalising sum reuses the free index; read literally it is n times one term",
    ),
    Case(
        "9706-highest-frequency-scaled",
        lambda: eq(p / (t * c) ** 0, p / c),
        Exact(),
        StepRefuted,
        "9675: calls n/β the highest-frequency term; that is n/β⁰ = n, which another base leaves as it is",
        lambda: eq(p / (t * c) ** 0, p / t**0),
    ),
    Case(
        "9706-ntk-exponent",
        lambda: eq((k ** (Rational(2) / m)) ** ((m - 2) / sp.Integer(2)), k),
        Exact(),
        StepRefuted,
        "9706 D5: λ = k^{2/(d-2)}, not k^{2/d}",
        lambda: eq((p ** (2 / c)) ** (c / 2), p),
    ),
    Case(
        "9431-sandwich-increasing",
        lambda: ge(cos(p), cos(p / 2)),
        Exact(),
        StepRefuted,
        "9431 D8: the mean of cos((m-n)θ) falls with the distance, the post says that it rises",
    ),
    Case(
        "8934-past-tokens",
        lambda: eq((k - 1) * m / c, (k - 1) * c),
        Exact(),
        StepRefuted,
        "8934: divides by (g-1)n/c; the number of past tokens is (g-1)c",
    ),
    Case(
        "9019-relu2-is-no-square",
        lambda: eq(Max(x, 0) ** 2, x**2),
        Exact(),
        StepRefuted,
        "8934, 9019: relu² is not a square of its argument",
        lambda: eq(Max(x, 0) ** 2 + Max(-x, 0) ** 2, x**2),
    ),
    Case(
        "8990-width-786",
        lambda: eq(sqrt(sp.Integer(786)), sqrt(sp.Integer(768))),
        Exact(),
        StepRefuted,
        "8990: d = 786 for BERT base, which is 768 wide",
    ),
    Case(
        "8990-second-moment-without-factor",
        lambda: eq((sigma2 * p) ** 2 * 3, sigma2 * p**2 * 3),
        Exact(),
        StepRefuted,
        "8990: the second-moment line lacks the factor that its result has",
    ),
    Case(
        "8870-reciprocal-for-derivative",
        lambda: eq(sp.Derivative(log(p + c), p), 1 / p),
        Exact(),
        StepRefuted,
        "8870: the logarithm is not invariant under shifts of the loss",
        lambda: eq(sp.Derivative(p + c, p), 1),
    ),
    Case(
        "8896-common-descent-for-three",
        lambda: ge(1 + cos(a) + cos(b), 0),
        Exact(),
        StepRefuted,
        "8896 C1: the sum of unit gradients is a common descent direction for two losses, not for three",
        lambda: eq(1 + cos(a), 2 * cos(a / 2) ** 2),
    ),
    Case(
        "8896-lemma-of-mgda-ub",
        lambda: ge(3 * x * a + y * b, 0),
        Exact(),
        StepRefuted,
        "8896 D11: xᵀy ≥ 0 says nothing about xᵀMy, here with M = diag(3, 1)",
        setting={"where": [x * a + y * b >= 0]},
    ),
    Case(
        "8586-flatnce-is-infonce",
        lambda: eq(log(1 + total(exp(s[i]))), log(total(exp(s[i])))),
        Exact(),
        StepRefuted,
        "8586: public FlatNCE code that leaves the positive's e⁰ = 1 in the sum",
    ),
    Case(
        "9341-cosent-swapped",
        lambda: eq(log(1 + exp(x - y)), log(1 + exp(y - x))),
        Exact(),
        StepRefuted,
        "9341: the term is e^{low - high}; a sign slip trains to the reverse order",
        lambda: eq(log(1 + exp(x - y)), (x - y) + log(1 + exp(y - x))),
    ),
    Case(
        "9554-complex-as-real",
        lambda: eq(sp.re((a + I * b) * (x + I * y)), a * x + b * y),
        Exact(),
        StepRefuted,
        "9554 D9: Re((B+iC)(x+iy)) = Bx - Cy",
        lambda: eq(sp.re((a + I * b) * (x + I * y)), a * x - b * y),
    ),
    Case(
        "9660-step-of-flow",
        lambda: eq((1 - p / n) ** n, exp(-p)),
        Exact(),
        StepRefuted,
        "9660: Euler's steps equal the flow only in the limit",
    ),
    Case(
        "7196-gauge",
        lambda: eq(exp(x + a) / (exp(x + a) + exp(y)), exp(x) / (exp(x) + exp(y))),
        Exact(),
        StepRefuted,
        "7196: only a shift of all scores is a gauge freedom",
        lambda: eq(exp(x + a) / (exp(x + a) + exp(y + a)), exp(x) / (exp(x) + exp(y))),
    ),
    # --- asymptotics ---------------------------------------------------------------------------------------------
    Case(
        "harmonic-wrong-constant",
        lambda: tends(sp.harmonic(n) - log(n), n, oo, Rational(1, 2)),
        Rate(gauge=1 / n, along=[10**e for e in range(2, 9)]),
        StepRefuted,
        "the constant is Euler's",
        lambda: tends(sp.harmonic(n) - log(n), n, oo, sp.EulerGamma),
    ),
    Case(
        "stirling-wrong-rate",
        lambda: tends(sp.loggamma(p) - (p - Rational(1, 2)) * log(p) + p, p, oo, log(2 * pi) / 2),
        Rate(gauge=1 / p**2, along=[10**e for e in range(1, 8)]),
        StepRefuted,
        "the error falls like 1/p, not like 1/p²",
    ),
    Case(
        "stirling-wrong-constant",
        lambda: similar(sp.factorial(n), sqrt(pi * n) * (n / E) ** n, n, oo),
        Rate(gauge=1 / n, along=[10 * 2**e for e in range(8)]),
        StepRefuted,
        "√(πn) for √(2πn)",
        lambda: similar(sp.factorial(n), sqrt(2 * pi * n) * (n / E) ** n, n, oo),
    ),
    Case(
        "leader-half",
        lambda: tends(1 / (1 + (p - 1) / p), p, oo, 1),
        LimitBySymPy(),
        StepRefuted,
        "9034 D6: with L = log n the leader keeps one half",
        lambda: tends(1 / (1 + (p - 1) / p), p, oo, Rational(1, 2)),
    ),
    Case(
        "limit-from-one-side-only",
        lambda: tends(Abs(x) / x, x, 0, 1),
        LimitBySymPy(),
        StepFailed,
        "holds from above only",
        lambda: tends(Abs(x) / x, x, 0, 1, side="+"),
    ),
    Case(
        "euler-number",
        lambda: tends((1 + 2 / p) ** p, p, oo, E),
        LimitBySymPy(),
        StepRefuted,
        "it is E²",
        lambda: tends((1 + 2 / p) ** p, p, oo, E**2),
    ),
    Case(
        "series-wrong-coefficient",
        lambda: eq(tanh(x), x - x**3 / 6 + O(x**5)),
        Expansion(),
        StepRefuted,
        "the coefficient of sin",
        lambda: eq(tanh(x), x - x**3 / 3 + O(x**5)),
    ),
    Case(
        "series-order-too-high",
        lambda: eq(cos(x), 1 - x**2 / 2 + O(x**5)),
        Expansion(),
        StepRefuted,
        "the next term has order 4",
        lambda: eq(cos(x), 1 - x**2 / 2 + O(x**4)),
    ),
    Case("series-of-a-kink", lambda: eq(Abs(x), O(x**2)), Expansion(), StepRefuted, "|x| has no expansion at 0"),
    Case(
        "series-half-power",
        lambda: eq(p ** Rational(5, 2), O(p**3)),
        Expansion(),
        StepRefuted,
        "all derivatives that the order asks for vanish at 0, and yet the remainder is larger",
    ),
    # --- inequalities that fail in a corner ----------------------------------------------------------------------
    Case(
        "near-equality",
        lambda: ge((x - Rational(1234567, 10**6)) ** 2, Rational(1, 10**9)),
        Numeric(),
        StepRefuted,
        "violated on an interval of width 6e-5",
        lambda: ge((x - Rational(1234567, 10**6)) ** 2, 0),
    ),
    Case(
        "strict-at-equality",
        lambda: gt(exp(x), 1 + x),
        Exact(),
        StepRefuted,
        "equality at 0",
        lambda: ge(exp(x), 1 + x),
    ),
    Case("strict-square", lambda: gt(x**2, 0), Exact(), StepRefuted, "equality at 0", lambda: ge(x**2, 0)),
    Case(
        "end-of-an-interval",
        lambda: lt(t**2, t),
        Numeric(domain={t: Interval(0.001, 1)}),
        StepRefuted,
        "equality at the end 1",
        lambda: le(t**2, t),
    ),
    Case(
        "one-hot-vector",
        lambda: ge(-total(P[i] * log(P[i])), Rational(1, 100)),
        Numeric(domain=PROBABILITIES, dims={n: (3, 5)}),
        StepRefuted,
        "the entropy of a nearly one-hot distribution is nearly 0",
        lambda: ge(-total(P[i] * log(P[i])), 0),
    ),
    Case(
        "uniform-vector",
        lambda: lt(-total(P[i] * log(P[i])), log(n)),
        Numeric(domain=PROBABILITIES, dims={n: (3, 5)}),
        StepRefuted,
        "equality at the uniform distribution",
        lambda: le(-total(P[i] * log(P[i])), log(n)),
    ),
    Case("only-large-values", lambda: ge(exp(u / 100) + 10**8, u**4), Exact(), StepRefuted, "first fails at u = 100"),
    Case(
        "only-small-values",
        lambda: ge(u**2 + Rational(1, 1000), u / 10),
        Numeric(),
        StepRefuted,
        "fails between 0.011 and 0.089 only",
    ),
    Case("larger-than-its-cube", lambda: ge(2**k, k**2), Exact(), StepRefuted, "fails at k = 3 only"),
    Case(
        "bernoulli-odd-power",
        lambda: ge((1 + x) ** 3, 1 + 3 * x),
        Exact(),
        StepRefuted,
        "needs x ≥ -3",
        lambda: ge((1 + u) ** 3, 1 + 3 * u),
    ),
    Case(
        "log-below-a-secant",
        lambda: le(log(p), (p - 1) * log(3) / 2),
        Exact(),
        StepRefuted,
        "a secant of the logarithm lies below it between its ends",
        lambda: le(log(p), p - 1),
    ),
    Case("sum-of-maxima", lambda: ge(Max(x, y), x + y), Exact(), StepRefuted, "fails where both are positive"),
    Case(
        "maximum-without-the-first",
        lambda: ge(MaxOver(s[j], (j, 2, n)), s[i]),
        Exact(),
        StepRefuted,
        "the maximum misses s_1",
        lambda: ge(MaxOver(s[j], (j, 1, n)), s[i]),
    ),
    Case(
        "positive-empty-sum",
        lambda: gt(Sum(P[i], (i, 1, n - 1)), 0),
        Exact(),
        StepRefuted,
        "empty for n = 1",
        lambda: gt(total(P[i]), 0),
    ),
    Case(
        "cauchy-schwarz-without-n",
        lambda: ge(total(s[i] ** 2), total(s[i]) ** 2),
        Exact(),
        StepRefuted,
        "the factor n is missing",
    ),
    Case(
        "increasing-with-a-jump",
        lambda: ge(sp.Piecewise((p, p < 5), (-1, True)), 0),
        Exact(),
        StepRefuted,
        "the derivative is never negative; the function jumps down at 5",
    ),
    Case("increasing-with-a-pole", lambda: ge(tan(p), 0), Exact(), StepRefuted, "tan increases, and has poles"),
    Case(
        "convex-on-both-sides",
        lambda: ge(1 / x**2 + 2 * x, 3),
        Exact(),
        StepRefuted,
        "convex on each side of its pole only",
        lambda: ge(1 / p**2 + 2 * p, 3),
    ),
    # --- one value, another branch, an assumption ----------------------------------------------------------------
    Case(
        "geometric-sum-at-one",
        lambda: eq(Sum(x**m, (m, 1, n)), x * (1 - x**n) / (1 - x)),
        Exact(),
        StepRefuted,
        "holds at every point but q = 1",
        lambda: eq((1 - x) * Sum(x**m, (m, 1, 4)), x * (1 - x**4)),
    ),
    Case("log-of-exp", lambda: eq(log(exp(z)), z), Exact(), StepRefuted, "another branch", lambda: eq(log(exp(x)), x)),
    Case("root-of-square", lambda: eq(sqrt(x**2), x), Exact(), StepRefuted, "needs x > 0", lambda: eq(sqrt(p**2), p)),
    Case(
        "power-of-product",
        lambda: eq((x * y) ** Rational(1, 2), sqrt(x) * sqrt(y)),
        Exact(),
        StepRefuted,
        "needs nonnegative factors",
        lambda: eq((p * q) ** a, p**a * q**a),
    ),
    Case(
        "log-of-product",
        lambda: eq(log(x * y), log(x) + log(y)),
        Exact(),
        StepRefuted,
        "two negative factors",
        lambda: eq(log(p * q), log(p) + log(q)),
    ),
    Case("power-of-power", lambda: eq((x**2) ** y, x ** (2 * y)), Exact(), StepRefuted, "negative x"),
    Case("log-of-square", lambda: eq(log(x**2), 2 * log(x)), Exact(), StepRefuted, "negative x"),
    Case("root-of-quotient", lambda: eq(sqrt(1 / z), 1 / sqrt(z)), Exact(), StepRefuted, "on the negative axis"),
    Case(
        "x-over-x",
        lambda: eq(sp.Mul(x, sp.Pow(x, -1), evaluate=False), 1),
        Exact(),
        StepRefuted,
        "not at 0",
        lambda: eq(sp.Mul(p, sp.Pow(p, -1), evaluate=False), 1),
    ),
    Case("sign-squared", lambda: eq(sign(x) ** 2, 1), Exact(), StepRefuted, "not at 0"),
    Case("zero-to-a-power", lambda: eq(sp.Integer(0) ** u, 0), Exact(), StepRefuted, "0⁰ = 1"),
    Case("floor-is-additive", lambda: eq(floor(x + y), floor(x) + floor(y)), Exact(), StepRefuted, "carries"),
    Case("abs-is-additive", lambda: eq(Abs(x + y), Abs(x) + Abs(y)), Exact(), StepRefuted, "signs that differ"),
    Case("real-part-of-square", lambda: eq(sp.re(z) ** 2, sp.re(z**2)), Exact(), StepRefuted, "complex z"),
    Case("square-for-modulus", lambda: eq(z * sp.conjugate(z), z**2), Exact(), StepRefuted, "complex z"),
    Case("inverse-of-tan", lambda: eq(atan(tan(x)), x), Exact(), StepRefuted, "beyond π/2"),
    Case("inverse-of-sin", lambda: eq(asin(sin(x)), x), Exact(), StepRefuted, "beyond π/2"),
    Case("inverse-of-cosh", lambda: eq(acosh(cosh(x)), x), Exact(), StepRefuted, "negative x"),
    Case(
        "arc-tangents",
        lambda: eq(atan(x) + atan(1 / x), pi / 2),
        Exact(),
        StepRefuted,
        "negative x, and 0",
    ),
    Case(
        "integral-over-a-pole",
        lambda: eq(sp.Integral(1 / x**2, (x, -1, 1)), -2),
        Exact(),
        StepRefuted,
        "Newton and Leibniz across a pole",
    ),
    Case(
        "near-integer",
        lambda: eq(exp(pi * sqrt(163)), 262537412640768744),
        Exact(),
        StepUndecided,
        "Ramanujan's constant agrees to 30 digits: no sample refutes it, and no sample proves it",
    ),
    Case("reflection-at-poles", lambda: eq(gamma(x) * gamma(1 - x), pi / tan(pi * x)), Exact(), StepRefuted, "sin"),
    # --- sums ------------------------------------------------------------------------------------------------------
    Case(
        "sum-of-products",
        lambda: eq(total(s[i] * r[i]), total(s[i]) * total(r[i]) / n),
        Exact(),
        StepRefuted,
        "a covariance is missing",
    ),
    Case(
        "square-of-sum",
        lambda: eq(total(total(s[i] * s[j], i), j), n * total(s[i] ** 2)),
        Exact(),
        StepRefuted,
        "captured index",
        lambda: eq(total(total(s[i] * s[j], i), j), total(s[i]) ** 2),
    ),
    Case(
        "inner-sum-with-the-outer-index",
        lambda: eq(total(s[i] * total(s[j], j)), total(s[i] * s[i])),
        Exact(),
        StepRefuted,
        "captured index",
        lambda: eq(total(s[i] * total(s[j], j)), total(s[j], j) ** 2),
    ),
    Case(
        "log-of-sum",
        lambda: eq(log(total(P[i])), total(log(P[i]))),
        Exact(),
        StepRefuted,
        "the logarithm of a sum is no sum of logarithms",
        lambda: eq(log(Product(P[i], (i, 1, n)).subs(n, 3).doit()), total(log(P[i])).subs(n, 3).doit()),
    ),
    Case(
        "gauss-sum",
        lambda: eq(total(i), n * (n - 1) / 2),
        Exact(),
        StepRefuted,
        "off by n",
        lambda: eq(total(i), n * (n + 1) / 2),
    ),
    Case(
        "empty-range",
        lambda: eq(Sum(1, (i, m, n)), n - m + 1),
        Exact(),
        StepRefuted,
        "SymPy counts backwards where m > n + 1; an empty sum is 0",
    ),
    Case(
        "polynomials-that-agree-at-few-sizes",
        lambda: eq(Sum(i**2, (i, 1, n)), 15 * n**2 - 35 * n + 5 * n + 25 - (n - 1) * (n - 2) * (n - 3) * n / 24),
        Numeric(dims={n: tuple(range(1, 13))}),
        StepRefuted,
        "two polynomials that agree at a few sizes",
    ),
]

assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_false_relation_is_refused(case: Case) -> None:
    d = Derivation("false")
    with pytest.raises(case.fails or StepFailed) as caught:
        d.step("D1", case.false(), case.evidence, **(case.setting or {}))
    assert len(d) == 0, "a step that failed leaves nothing behind"
    if case.fails is StepRefuted:
        assert caught.value.counterexample is not None


@pytest.mark.parametrize("case", [c for c in CASES if c.true is not None], ids=lambda case: case.id)
def test_the_true_relation_in_its_place_is_accepted(case: Case) -> None:
    assert case.true is not None
    step = Derivation("true").step("D1", case.true(), case.evidence, **(case.setting or {}))
    expected = "sampled" if isinstance(case.evidence, Numeric) else "proved"
    assert step.status == ("asymptotic" if isinstance(case.evidence, Rate) else expected)


def test_agreement_at_five_sizes_proves_nothing_beyond_them() -> None:
    # n² and a polynomial that equals it for n = 1, …, 5: proved at the sizes that are written out, and only there
    bumped = n**2 + (n - 1) * (n - 2) * (n - 3) * (n - 4) * (n - 5)
    d = Derivation("sizes")
    step = d.exact("D1", eq(Sum(n, (i, 1, n)), bumped), dims={n: (1, 2, 3, 4, 5)})
    assert step.status == "proved"
    assert step.sized
    assert not step.proved
    with pytest.raises(StepRefuted):
        d.exact("D2", eq(Sum(n, (i, 1, n)), bumped), dims={n: (5, 6)})
    with pytest.raises(StepRefuted):
        d.exact("D3", eq(Sum(n, (i, 1, n)), bumped))


def test_the_rope_counterexample_is_readable() -> None:
    case = next(c for c in CASES if c.id == "rope-printed-line")
    with pytest.raises(StepRefuted) as caught:
        Derivation("rope").step("D1", case.false(), case.evidence)
    text = str(caught.value)
    for part in ("D1", "claim", "cos(pos_m*theta", "theta = ", "left side", "right side", "difference"):
        assert part in text

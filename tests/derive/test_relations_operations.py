"""Relations keep both sides; operations keep true relations true, and refuse where that is not clear."""

from __future__ import annotations

import pytest
import sympy as sp
from sympy import Derivative, Rational, Sum, cos, exp, log, oo, sin, sqrt, tan

from kexue_lib.derive import Derivation, DerivationError, Exact, StepFailed, eq, ge, gt, le, lt, similar, tends
from kexue_lib.derive.relations import Relation, as_relation

x, y, a, b = sp.symbols("x y a b", real=True)
p, q, c = sp.symbols("p q c", positive=True)
u = sp.Symbol("u", nonnegative=True)
minus = sp.Symbol("minus", negative=True)
n, i, j, k, m = sp.symbols("n i j k m", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
P = sp.IndexedBase("P", shape=(n,), positive=True)


# --- relations --------------------------------------------------------------------------------------------------------
def test_both_sides_survive() -> None:
    assert str(eq(x, x)) == "x = x"
    assert str(ge(x**2, 0)) == "x**2 ≥ 0"
    assert str(similar(p, p + 1, p, oo)) == "p ~ p + 1  (p -> oo)"
    assert eq(x, 1).sympy == sp.Eq(x, 1, evaluate=False)


@pytest.mark.parametrize("value", [sp.Eq(x, x), sp.Eq(sp.Integer(1), 2), True, sp.true, x**2 + 1 > 0])
def test_what_sympy_has_evaluated_away_is_refused(value: object) -> None:
    with pytest.raises(DerivationError, match="evaluated this relation to"):
        Derivation("evaluated").exact("D1", value)


def test_an_unevaluated_sympy_relation_is_taken() -> None:
    assert as_relation(sp.Le(x, y)) == le(x, y)
    assert Derivation("sympy").exact("D1", sp.Eq((x + 1) ** 2, x**2 + 2 * x + 1, evaluate=False)).proved


@pytest.mark.parametrize("value", [x, "x = 1", None, sp.Ne(x, 1)])
def test_what_is_no_relation_is_refused(value: object) -> None:
    with pytest.raises(DerivationError, match="needs a relation"):
        as_relation(value)


def test_bad_relations() -> None:
    with pytest.raises(DerivationError, match="unknown relation sign '<>'"):
        Relation(x, "<>", y)
    with pytest.raises(DerivationError, match="must be an expression"):
        eq(sp.Eq(x, y), 1)
    with pytest.raises(DerivationError, match="variable and its limit"):
        Relation(x, "~", y)
    with pytest.raises(DerivationError, match="no SymPy counterpart"):
        _ = similar(p, p, p, oo).sympy


def test_limits_come_from_the_side_that_the_variable_has() -> None:
    assert tends(p, p, 0, 0).lhs.args[3] == sp.Symbol("+")
    assert tends(x, x, oo, 0).lhs.args[3] == sp.Symbol("-")
    assert tends(x, x, -oo, 0).lhs.args[3] == sp.Symbol("+")


# --- operations that keep truth ---------------------------------------------------------------------------------------
def ready() -> Derivation:
    d = Derivation("operations")
    d.exact("D1", eq((x + 1) ** 2, x**2 + 2 * x + 1))
    d.exact("D2", ge(exp(x), 1 + x))
    d.exact("D3", lt(log(1 + p), p))
    d.exact("D4", le(s[i] * 2 - s[i] ** 2, 1))
    d.assume("D5", eq(c * log(512), 1 / sqrt(q)))
    d.exact("D6", ge((k - 1) ** 2, 0))
    return d


D = ready()


def proved_by(made: Relation) -> str:
    """Write the relation that operations have made as a step of its own."""
    step = D.exact("D99", made, made=made)
    del D.steps["D99"]
    assert step.status == "proved"
    assert step.uses
    return step.by


def test_each_operation_makes_a_relation_that_is_proved_by_it() -> None:
    d1, d2, d3, d4 = D["D1"], D["D2"], D["D3"], D["D4"]
    assert d1.subs(x, y**2).rhs == y**4 + 2 * y**2 + 1
    assert d1.differentiate(x).lhs == 2 * x + 2
    for made in (
        d1.subs({x: a - b}),
        d1.differentiate(x, 2),
        d1.integrate(x, 0, a),
        d1.multiply(y),
        d1.apply(sin),
        d1.expand("lhs"),
        d2.subs(x, -(a**2)),
        d2.integrate(x, 0, c),
        d2.multiply(-p),
        d2.multiply(a**2),
        d2.add(x),
        d2.add(d1),
        d2.apply(exp),
        d2.apply(lambda v: 2 * v + 1),
        d2.swap_sides(),
        d2.subs(x, p).apply(log),
        d3.multiply(c),
        d3.add(D["D3"].subs(p, q)),
        d3.limit(p, 0),
        d4.sum(i, 1, n),
        d4.average(i, n),
        d4.multiply(P[i]).sum(i, 1, n),
    ):
        proved_by(made)


def test_the_signs() -> None:
    assert D["D2"].multiply(-1).op == "<="
    assert D["D2"].multiply(minus).op == "<="
    assert D["D2"].swap_sides().op == "<="
    assert D["D3"].limit(p, 0).op == "<="
    assert D["D3"].add(D["D1"]).op == "<"
    assert D["D3"].add(D["D4"]).op == "<"
    assert D["D3"].integrate(p, 0, q).op == "<"
    assert D["D3"].integrate(p, 0, u).op == "<="  # u may be 0
    assert D["D3"].subs(p, P[i]).sum(i, 1, n).op == "<"
    assert D["D3"].apply(lambda v: v + v**3).op == "<"  # the slope 1 + 3v² is positive
    assert D["D3"].apply(lambda v: v - v + 1).op == "<="


def test_the_reason_says_what_was_done() -> None:
    assert proved_by(D["D2"].subs(x, a).multiply(p)) == "put $x := a$; multiply by $p$"


def test_solve() -> None:
    assert D["D5"].solve(c).rhs == 1 / (sqrt(q) * log(512))
    d = Derivation("solve")
    root = d.assume("D1", eq(p**2, q))
    assert root.solve(p).rhs == sqrt(q)
    either = d.assume("D2", eq(x**2, q))
    with pytest.raises(DerivationError, match="not one solution"):
        either.solve(x)
    lambert = d.assume("D3", eq(x * exp(x), a))
    with pytest.raises(DerivationError, match="there may be others"):
        lambert.solve(x)


def test_what_rests_on_an_assumption_is_not_refuted_for_being_false_elsewhere() -> None:
    d = Derivation("conditional")
    small = d.assume("D1", lt(p, Rational(1, 2)))
    step = d.exact("D2", lt(2 * p, 1), made=small.multiply(2))
    assert step.status == "proved"
    assert step.rests_on == ("D1",)
    assert not step.proved


# --- operations that are refused --------------------------------------------------------------------------------------
REFUSED = {
    "a real number for a positive symbol": lambda: D["D3"].subs(p, x),
    "zero for a positive symbol": lambda: D["D3"].subs(p, 0),
    "a complex number for a real symbol": lambda: D["D2"].subs(x, sp.Symbol("z")),
    "one half for an integer": lambda: D["D6"].subs(k, Rational(1, 2)),
    "something for an expression": lambda: D["D2"].subs(exp(x), 3),
    "derivative of an inequality": lambda: D["D2"].differentiate(x),
    "derivative by an integer": lambda: D["D1"].subs(x, k).differentiate(k),
    "integral with ends of unknown order": lambda: D["D2"].integrate(x, a, b),
    "integral with ends the wrong way round": lambda: D["D2"].integrate(x, 1, 0),
    "integral beyond the domain": lambda: D["D3"].integrate(p, -1, 1),
    "integral over an integer": lambda: D["D6"].integrate(k, 1, 2),
    "sum over a real number": lambda: D["D2"].sum(x, 1, n),
    "sum from zero over a positive index": lambda: D["D6"].sum(k, 0, n),
    "sum beyond a vector": lambda: D["D4"].sum(i, 1, 2 * n),
    "sum over a range that may be turned round": lambda: D["D6"].sum(k, m, n),
    "mean over a number of unknown sign": lambda: D["D6"].average(k, sp.Symbol("size", integer=True)),
    "factor of unknown sign": lambda: D["D2"].multiply(y),
    "factor that may be zero in a strict inequality": lambda: D["D3"].multiply(u),
    "opposite directions": lambda: D["D2"].add(D["D3"]),
    "a decreasing function": lambda: D["D2"].apply(lambda v: exp(-v)),
    "a function with a jump": lambda: D["D2"].apply(lambda v: sp.Piecewise((v, v < 0), (v - 5, True))),
    "a function with poles": lambda: D["D2"].apply(tan),
    "a function with a pole": lambda: D["D2"].apply(lambda v: -1 / v),
    "cosine": lambda: D["D2"].apply(cos),
    "a square": lambda: D["D2"].apply(lambda v: v**2),
    "the logarithm of what may be negative": lambda: D["D2"].apply(log),
    "the root of what may be negative": lambda: D["D2"].apply(sqrt),
    "solving an inequality": lambda: D["D2"].solve(x),
    "a rewrite that changes the value": lambda: D["D2"].transform(lambda e: e + 1, "rhs"),
    "a rewrite that holds for positive numbers only": lambda: (
        D["D2"].subs(x, sqrt(y**2)).transform(lambda e: e.subs(sp.Abs(y), y))
    ),
    "a side that is none": lambda: D["D1"].transform(sp.expand, "left"),  # type: ignore[arg-type]
    "a limit beyond the domain": lambda: D["D3"].limit(p, -1),
    "a limit of integers to a point": lambda: D["D6"].limit(k, 3),
    "a limit that does not exist": lambda: D["D1"].apply(lambda v: sin(1 / v)).limit(x, -1),
    "a derivative of ~": lambda: similar(p, p + 1, p, oo).differentiate(p),
    "a product of ~": lambda: similar(p, p + 1, p, oo).multiply(2),
    "a sum with ~": lambda: D["D2"].add(similar(p, p + 1, p, oo)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_operation_that_may_not_keep_truth_is_refused(name: str) -> None:
    with pytest.raises(DerivationError) as caught:
        REFUSED[name]()
    assert str(caught.value)


def test_a_step_has_the_operations_and_no_others() -> None:
    assert D["D1"].multiply(2) == D["D1"].relation.multiply(2)
    with pytest.raises(AttributeError, match="no attribute 'frobnicate'"):
        D["D1"].frobnicate  # noqa: B018


# --- substitution captures nothing ------------------------------------------------------------------------------------
def test_substitution_captures_no_index() -> None:
    d = Derivation("capture")
    linear = d.exact("D1", eq(Sum(x * s[i], (i, 1, n)), x * Sum(s[i], (i, 1, n))))
    made = linear.subs(x, s[i])
    assert all(i in e.free_symbols for e in made.lhs.atoms(sp.Sum))
    with pytest.raises(StepFailed):
        d.exact("D2", eq(Sum(s[i] * s[i], (i, 1, n)), s[i] * Sum(s[i], (i, 1, n))), made=made)
    assert d.exact("D3", eq(Sum(s[i] * s[j], (j, 1, n)), s[i] * Sum(s[j], (j, 1, n))), made=made).proved


def test_a_function_sees_the_value_of_a_side_and_not_how_it_is_written() -> None:
    d = Derivation("apply")
    identity = d.exact("D1", eq((x + 1) ** 2, x**2 + 2 * x + 1))
    made = identity.apply(lambda e: e.args[0] if e.args else e + 0)
    assert made.lhs == identity.lhs


# --- made= cannot be smuggled -----------------------------------------------------------------------------------------
def test_a_relation_that_is_no_step_proves_nothing() -> None:
    d = Derivation("smuggle")
    loose = le(x, 10**9)
    with pytest.raises(DerivationError, match="no step"):
        d.exact("D1", le(x + 1, 10**9 + 1), made=loose.add(1))
    with pytest.raises(DerivationError, match="no step"):
        d.exact("D1", loose, made=loose)
    with pytest.raises(DerivationError, match="no step"):
        d.step("D1", le(x + 1, 10**9 + 1), Exact(made=loose.add(1)))
    with pytest.raises(DerivationError, match="no step"):
        d.chain("D1", x + 1, ("<=", 10**9 + 1, Exact(made=loose.add(1)), "smuggled"))
    true = d.exact("D1", ge(x**2, 0))
    with pytest.raises(DerivationError, match="no step"):
        d.exact("D2", ge(x**2 + 10**9, x), made=true.add(loose.swap_sides()))
    assert list(d.steps) == ["D1"]


def test_other_sides_are_another_statement() -> None:
    d = Derivation("smuggle")
    true = d.exact("D1", ge(x**2, 0))
    for changed in (true.add(1).with_sides(-(x**2), x), true.add(1).reversed_sign()):
        with pytest.raises(DerivationError, match="no step"):
            d.exact("D2", changed, made=changed)


def test_a_step_of_another_derivation_proves_nothing_here() -> None:
    one, other = Derivation("same name"), Derivation("same name")
    one.exact("D1", ge(x**2, 0))
    foreign = other.assume("D1", ge(x, 5))
    with pytest.raises(DerivationError, match="another derivation"):
        one.exact("D2", ge(2 * x, 10), made=foreign.multiply(2))
    with pytest.raises(DerivationError, match="another derivation"):
        one.exact("D2", ge(x**2, 0), uses=[foreign])
    assert foreign.multiply(2).origin.sources == (foreign,)


def test_the_claim_has_to_be_what_the_operations_made() -> None:
    with pytest.raises(StepFailed, match="another relation"):
        D.exact("D99", ge(exp(x), 2 + x), made=D["D2"].add(0))
    with pytest.raises(StepFailed, match="opposite inequality"):
        D.exact("D99", le(exp(x), 1 + x), made=D["D2"].add(0))
    with pytest.raises(StepFailed, match="sign"):
        D.exact("D99", gt(exp(x), 1 + x), made=D["D2"].add(0))
    with pytest.raises(StepFailed, match="sign"):
        D.exact("D99", eq(exp(x), 1 + x), made=D["D2"].add(0))
    weaker = D.exact("D99", le(log(1 + p), p), made=D["D3"].add(0))
    del D.steps["D99"]
    assert weaker.proved


def test_an_inequality_made_by_operations_is_proved_by_them_without_saying_so() -> None:
    step = D.exact("D99", D["D2"].multiply(p))
    del D.steps["D99"]
    assert step.uses == ("D2",)
    assert step.record()["detail"]["operations"] == ["multiply by $p$"]


def test_derivatives_stay_written_until_they_are_proved() -> None:
    d = Derivation("derivative")
    assert d.exact("D1", eq(Derivative(log(1 + exp(x)), x), exp(x) / (1 + exp(x)))).proved

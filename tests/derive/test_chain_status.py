"""Steps, ids, definitions, chains, and the status that is computed from what a step uses."""

from __future__ import annotations

import pytest
import sympy as sp
from sympy import Derivative, Function, Integral, Sum, exp, log, sqrt

from kexue_lib.derive import (
    Derivation,
    DerivationError,
    Exact,
    Numeric,
    StepFailed,
    StepRefuted,
    eq,
    ge,
    le,
    lt,
)

x, y = sp.symbols("x y", real=True)
p, q = sp.symbols("p q", positive=True)
z = sp.Symbol("z")
n, i, j, k = sp.symbols("n i j k", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)
w = sp.IndexedBase("w", shape=(n,), real=True)


def total(term: sp.Expr, index: sp.Symbol = i) -> sp.Sum:
    return Sum(term, (index, 1, n))


# --- ids --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bad", ["", "3", "d3", "D", "D3.", "D.3", "D3a", "E3", "D3 ", 3, None, "D3\n"])
def test_a_bad_id_is_refused(bad: object) -> None:
    with pytest.raises(DerivationError, match="id looks like D3"):
        Derivation("ids").exact(bad, eq(x, x))  # type: ignore[arg-type]


def test_a_derivation_needs_a_name() -> None:
    for bad in ("", None, 3):
        with pytest.raises(DerivationError, match="needs a name"):
            Derivation(bad)  # type: ignore[arg-type]


def test_an_id_is_given_once() -> None:
    d = Derivation("ids")
    d.exact("D1", eq(x, x))
    for again in (d.exact, d.numeric, d.assume, d.define):
        with pytest.raises(DerivationError, match="there is a step D1 already"):
            again("D1", eq(y, y))
    with pytest.raises(DerivationError, match="already"):
        d.chain("D1", x, ("=", x, Exact(), "same"))


def test_an_unknown_step_is_named() -> None:
    d = Derivation("ids")
    d.exact("D1", eq(x, x))
    with pytest.raises(DerivationError, match="D2 uses D9, which is no step so far; there are D1"):
        d.exact("D2", eq(y, y), uses=["D9"])
    with pytest.raises(DerivationError, match="no step D7; there are D1"):
        d["D7"]
    assert d.exact("D2", eq(y, y), uses="D1").uses == ("D1",)


def test_reading_a_derivation() -> None:
    d = Derivation("reading")
    d.exact("D1", eq(x, x))
    d.chain("D2", p, ("=", p, Exact(), "same"))
    assert len(d) == 3
    assert [step.id for step in d] == ["D1", "D2.1", "D2"]
    assert [step.id for step in d.checked_parts()] == ["D1", "D2.1"]
    assert str(d).count("D2.1") == 1


# --- status -----------------------------------------------------------------------------------------------------------
def test_what_rests_on_an_assumption_says_so_through_proved_steps() -> None:
    d = Derivation("status")
    d.assume("D1", eq(p, 2 * q))
    d.exact("D2", eq(p + q - q, p), uses=["D1"])
    d.exact("D3", eq(x, x), uses=["D2"])
    d.exact("D4", eq(y, y), uses=["D3"])
    d.exact("D5", eq(y, y))
    assert d["D4"].status == "proved"
    assert d["D4"].rests_on == ("D1",)
    assert not d["D4"].proved
    assert d["D5"].proved
    assert not d["D1"].proved
    assert d["D1"].status == "unchecked"


def test_sampled_asymptotic_cited_and_sized_steps_count_definitions_do_not() -> None:
    d = Derivation("status")
    d.define("D1", eq(sp.Symbol("name"), x + 1))
    d.numeric("D2", eq(x + y, y + x))
    d.cite("D3", le(x, x + 1), by="a book")
    d.exact("D4", eq(total(s[i]), total(s[j], j)), dims={n: 2})
    d.limit("D5", eq(sp.Limit((1 + 1 / p) ** p, p, sp.oo, "-"), sp.E), gauge=1 / p, along=[10**e for e in range(2, 9)])
    step = d.exact("D6", eq(x, x), uses=["D5", "D1", "D2", "D3", "D4"])
    assert step.uses == ("D1", "D2", "D3", "D4", "D5")
    assert step.rests_on == ("D2", "D3", "D4", "D5")


def test_a_citation_names_its_source() -> None:
    with pytest.raises(DerivationError, match="names its source"):
        Derivation("cite").cite("D1", eq(x, y), by="")


def test_a_step_that_fails_leaves_nothing_behind() -> None:
    d = Derivation("clean")
    with pytest.raises(StepRefuted):
        d.exact("D1", eq(x, x + 1))
    assert len(d) == 0
    assert d.exact("D1", eq(x, x)).proved


def test_the_message_of_a_failing_step_is_readable() -> None:
    with pytest.raises(StepRefuted) as caught:
        Derivation("message").exact("D3.1", le(sqrt(p), p))
    lines = str(caught.value).splitlines()
    assert lines[0] == "Step D3.1 is false."
    labels = [line.split("  ")[2].strip() for line in lines if line.startswith("    ")]
    assert labels == ["claim", "evidence", "reason", "at", "left side", "right side", "difference"]
    assert "sqrt(p) ≤ p" in str(caught.value)
    assert "p = 0." in str(caught.value)
    error = caught.value
    assert (error.step, error.evidence) == ("D3.1", "exact")
    assert set(error.counterexample.point) == {"p"}
    with pytest.raises(StepFailed, match="what to do  split the step"):
        Derivation("advice").exact("D1", eq(exp(sp.pi * sqrt(163)), 262537412640768744))


# --- chains -----------------------------------------------------------------------------------------------------------
def test_a_chain_joins_its_signs() -> None:
    d = Derivation("chain")
    step = d.chain(
        "D1",
        log((1 + p) ** 2),
        ("=", 2 * log(1 + p), Exact(), "a power"),
        ("<", 2 * p, Exact(), "the tangent"),
        ("<=", 2 * p + x**2, Exact(), "a square"),
        by="together",
    )
    assert str(step.statement) == "log((p + 1)**2) < 2*p + x**2"
    assert step.status == "proved"
    assert step.proved
    assert [link.id for link in step.links] == ["D1.1", "D1.2", "D1.3"]
    assert d["D1.2"].statement == lt(2 * log(1 + p), 2 * p)
    assert d.chain("D2", x, ("=", x + 0, Exact(), "a"), ("=", 1 * x, Exact(), "b")).statement.op == "="
    assert d.chain("D3", p + 1, (">=", p, Exact(), "a"), ("=", p + 0, Exact(), "b")).statement.op == ">="
    assert d.chain("D4", p + 1, (">", p, Exact(), "a"), (">=", sp.Integer(0), Exact(), "b")).statement.op == ">"


@pytest.mark.parametrize(
    "links",
    [
        (("<=", p + 1, Exact(), "up"), (">=", p, Exact(), "down")),
        (("<", p + 1, Exact(), "up"), ("=", 1 + p, Exact(), "same"), (">", p, Exact(), "down")),
    ],
)
def test_directions_that_do_not_join_are_refused_and_leave_nothing_behind(links: tuple) -> None:
    d = Derivation("chain")
    with pytest.raises(DerivationError, match="do not join"):
        d.chain("D1", p, *links)
    assert len(d) == 0


def test_a_failing_link_is_named_and_the_chain_leaves_nothing_behind() -> None:
    d = Derivation("chain")
    with pytest.raises(StepRefuted) as caught:
        d.chain("D1", x**2, ("=", x * x, Exact(), "a"), ("<=", x, Exact(), "false"), ("=", x, Exact(), "never seen"))
    assert caught.value.step == "D1.2"
    assert len(d) == 0
    with pytest.raises(DerivationError, match="at least one link"):
        d.chain("D1", x)
    with pytest.raises(DerivationError, match="unknown relation sign"):
        d.chain("D1", x, ("==", x, Exact(), "a"))
    assert len(d) == 0


def test_a_chain_is_as_weak_as_its_weakest_link() -> None:
    d = Derivation("chain")
    d.assume("D1", ge(p, 0))
    step = d.chain("D2", x, ("=", x + 0, Exact(), "a", ["D1"]), ("=", 1 * x, Numeric(), "b"), uses="D1")
    assert step.status == "sampled"
    assert step.kind == "numeric"
    assert step.rests_on == ("D1",)
    assert not step.proved
    above = d.exact("D3", eq(y, y), uses=["D2"])
    assert above.rests_on == ("D1", "D2")


def test_a_chain_with_a_sized_link_is_sized() -> None:
    d = Derivation("chain")
    step = d.chain("D1", total(s[i]), ("=", total(s[j], j), Exact(dims={n: 2}), "renamed"))
    assert step.sized
    assert not step.proved
    assert d.exact("D2", eq(x, x), uses=["D1"]).rests_on == ("D1",)


# --- definitions ------------------------------------------------------------------------------------------------------
def test_definitions_of_symbols_functions_and_entries_are_unfolded() -> None:
    d = Derivation("define")
    f, z_sum = Function("f"), sp.Symbol("Z", positive=True)
    weights = sp.IndexedBase("weights", shape=(n,), positive=True)
    d.define("D1", eq(f(x, y), x**2 + y))
    d.define("D2", eq(z_sum, total(exp(s[i]))))
    d.define("D3", eq(weights[i], exp(s[i]) / z_sum))
    assert d.exact("D4", eq(f(y, 3), y**2 + 3)).uses == ("D1",)
    step = d.exact("D5", eq(total(weights[j], j), 1))
    assert step.uses == ("D2", "D3")
    assert step.proved  # definitions do not count as assumptions
    assert d.exact("D6", eq(log(weights[k]), s[k] - log(z_sum))).proved
    with pytest.raises(StepRefuted):
        d.exact("D7", eq(log(weights[k]), s[j] - log(z_sum)))


def test_bound_indices_are_not_captured_by_definitions() -> None:
    d = Derivation("define")
    entry = sp.Symbol("entry", real=True)
    d.define("D1", eq(entry, s[i]))  # one entry, at the free index i
    with pytest.raises(StepRefuted):
        d.exact("D2", eq(total(entry), total(s[i])))
    assert d.exact("D3", eq(total(entry), n * s[i])).proved
    d.define("D4", eq(w[i], total(s[i])))  # the bound i of the sum is not the index of w
    assert d.exact("D5", eq(w[j], total(s[k], k))).proved
    with pytest.raises(StepRefuted):
        d.exact("D6", eq(w[j], n * s[j]))
    d.define("D7", eq(Function("g")(x), Integral(exp(y * x), (y, 0, 1))))
    assert d.exact("D8", eq(Function("g")(p) * p, exp(p) - 1)).uses == ("D7",)


def test_circular_definitions_are_refused() -> None:
    d = Derivation("define")
    one, two = sp.symbols("one two")
    with pytest.raises(DerivationError, match="through itself"):
        d.define("D1", eq(one, one + 1))
    with pytest.raises(DerivationError, match="through itself"):
        d.define("D1", eq(Function("f")(x), Function("f")(x - 1) + 1))
    with pytest.raises(DerivationError, match="through itself"):
        d.define("D1", eq(w[i], w[i - 1] / 2))
    d.define("D1", eq(one, two + 1))
    with pytest.raises(DerivationError, match=r"two and one \(D1\) are defined in a circle"):
        d.define("D2", eq(two, one - 1))
    with pytest.raises(DerivationError, match="one is defined already, in D1"):
        d.define("D2", eq(one, 5))
    assert len(d) == 1


@pytest.mark.parametrize(
    "relation",
    [
        le(x, 1),
        eq(x + 1, y),
        eq(sp.Integer(2), x),
        eq(Function("f")(x**2), y),
        eq(Function("f")(x, x), x**2),
        eq(s[1], y),
        eq(s[i + 1], y),
    ],
    ids=str,
)
def test_what_is_no_definition_is_refused(relation: object) -> None:
    with pytest.raises(DerivationError):
        Derivation("define").define("D1", relation)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (p, x),
        (p, x**2),
        (sp.Symbol("u", nonnegative=True), x),
        (sp.Symbol("m", negative=True), x),
        (Function("f", positive=True)(x), x),
        (sp.IndexedBase("b", shape=(n,), positive=True)[i], s[i]),
    ],
    ids=str,
)
def test_a_name_is_not_declared_more_than_its_definition_keeps(name: sp.Expr, value: sp.Expr) -> None:
    with pytest.raises(StepRefuted, match="is declared"):
        Derivation("define").define("D1", eq(name, value))


def test_a_name_declared_real_needs_a_real_definition() -> None:
    with pytest.raises(StepRefuted, match="declared real"):
        Derivation("define").define("D1", eq(sp.Symbol("r", real=True), log(x)))
    assert Derivation("define").define("D1", eq(sp.Symbol("r", real=True), log(p))).status == "unchecked"


def test_a_function_is_used_where_it_is_defined() -> None:
    d = Derivation("define")
    root = Function("root")
    d.define("D1", eq(root(p), sqrt(p**2)))  # for positive p
    assert d.exact("D2", eq(root(q + 1), q + 1)).proved
    with pytest.raises(DerivationError, match="defined for positive p"):
        d.exact("D3", eq(root(x), x))


def test_opaque_definitions_stay_folded_in_the_proof() -> None:
    d = Derivation("define")
    square = sp.Symbol("square", nonnegative=True)
    d.define("D1", eq(square, x**2))
    assert d.exact("D2", ge(square, 0), opaque=["D1"]).proved
    with pytest.raises(StepFailed):
        d.exact("D3", eq(square, x * x), opaque=["D1"])
    assert d.exact("D3", eq(square, x * x)).proved


def test_a_definition_is_unfolded_before_it_is_differentiated() -> None:
    d = Derivation("define")
    f = Function("f")(x)
    d.define("D1", eq(f, x**3))
    assert d.exact("D2", eq(Derivative(f, x), 3 * x**2)).proved
    with pytest.raises(StepRefuted):
        d.exact("D3", eq(Derivative(f, x), 0))

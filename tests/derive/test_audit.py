"""The mutation audit: sensitive evidence kills every mutant that says something else; weak evidence is found out."""

from __future__ import annotations

import json

import pytest
import sympy as sp
from sympy import Max, O, Sum, cos, exp, log, oo, sin

from kexue_lib.derive import (
    Derivation,
    Exact,
    Finding,
    Integer,
    MaxOver,
    Numeric,
    Rate,
    Relation,
    Setting,
    eq,
    ge,
    le,
    tends,
)
from kexue_lib.derive.audit import audit, judge
from kexue_lib.derive.mutants import Mutant, mutants

x, y = sp.symbols("x y", real=True)
p, q = sp.symbols("p q", positive=True)
n, i = sp.symbols("n i", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)


class Vacuous:
    """Evidence that accepts everything."""

    kind = "exact"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        return Finding("proved", "because I say so")


def single(relation: Relation, evidence: object, **setting: object) -> Derivation:
    d = Derivation("single")
    d.step("D1", relation, evidence, **setting)
    return d


SENSITIVE = {
    "exact equation": (eq((x + 1) ** 2, x**2 + 2 * x + 1), Exact()),
    "trigonometry": (eq(sin(x) ** 2, (1 - cos(2 * x)) / 2), Exact()),
    "sum": (eq(Sum(i, (i, 1, n)), n * (n + 1) / 2), Exact()),
    "tight inequality": (ge(exp(x), 1 + x), Exact(tight={x: 0})),
    "sampled equation": (eq(exp(x + y), exp(x) * exp(y)), Numeric(points=30)),
    "sampled tight inequality": (le(log(p), p - 1), Numeric(points=60, tight={p: 1})),
    "limit": (tends((1 + 1 / p) ** p, p, oo, sp.E), Rate(gauge=1 / p, along=[10**e for e in range(2, 9)])),
}


@pytest.mark.parametrize("name", SENSITIVE)
def test_sensitive_evidence_kills_every_mutant_that_says_something_else(name: str) -> None:
    report = audit(single(*SENSITIVE[name]))
    assert report.survived == 0, str(report)
    assert report.killed >= 5
    assert report.passed


def test_an_expansion_is_sensitive() -> None:
    d = Derivation("series")
    d.series("D1", eq(log(1 + p), p - p**2 / 2 + O(p**3)))
    d.limit("D2", tends(sin(x) / x, x, 0, 1))
    report = audit(d)
    assert report.survived == 0, str(report)
    assert report.passed


@pytest.mark.parametrize("relation", [eq(x + y, y + x), ge(exp(x), 1 + x)], ids=str)
def test_vacuous_evidence_is_found_out(relation: Relation) -> None:
    report = audit(single(relation, Vacuous()))
    assert report.survived >= 3
    assert not report.passed
    assert "survivor: " in str(report)
    assert report.record()["steps"][0]["survived"]


def test_evidence_that_looks_too_little_is_found_out() -> None:
    report = audit(single(eq(x**2, x), Numeric(domain={x: Integer(0, 1)})))  # true at the two points that are tried
    assert report.survived > 0
    assert not report.passed


def test_a_loose_tolerance_is_found_out() -> None:
    report = audit(single(eq(sin(x) + 3, sin(x) + 3 + x**2 / 10**6), Numeric(tolerance=1e-1)))
    assert report.survived > 0


def verdict(relation: Relation, evidence: object, mutant: Relation, side: str | None, kind: str = "test") -> str:
    step = single(relation, evidence)["D1"]
    return judge(step, Mutant(kind, "by hand", mutant, side))


def test_equivalent_mutants_are_recognised() -> None:
    # the swap of two symbols in a symmetric expression
    square = eq((x + y) ** 2, x**2 + 2 * x * y + y**2)
    assert verdict(square, Exact(), eq((y + x) ** 2, sp.expand((x + y) ** 2)), "rhs") == "equivalent"
    assert (
        verdict(eq(Max(x, y), Max(y, x)), Numeric(), eq(Max(x, y), (x + y + sp.Abs(x - y)) / 2), "rhs") == "equivalent"
    )
    # a limit that a lower order does not move
    limit = tends(sp.log(p + 1) / p, p, oo, 0)
    rate = Rate(gauge=log(p) / p, along=[10**e for e in (8, 16, 32, 64, 128, 256)])
    assert verdict(limit, rate, tends(sp.log(p + 2) / p, p, oo, 0), "lhs") == "equivalent"
    # a positive factor in a comparison with zero
    assert verdict(ge(x**2, 0), Exact(), ge(2 * x**2, 0), "lhs") == "equivalent"


def test_what_is_not_equivalent_is_not_called_so() -> None:
    assert verdict(eq(x, x), Vacuous(), eq(x, 2 * x), "rhs") == "survived"
    assert verdict(eq(x, x), Vacuous(), eq(x, x + sp.Rational(1, 10**9)), "rhs") == "survived"


def test_weaker_inequalities_are_implied_and_stronger_ones_are_not() -> None:
    claim = le(log(p), p)
    assert verdict(claim, Exact(), le(log(p), p + 1), "rhs") == "implied"
    assert verdict(claim, Exact(), le(log(p) - 1, p), "lhs") == "implied"
    assert verdict(claim, Vacuous(), le(log(p), p / 2), "rhs") == "survived"
    assert verdict(claim, Vacuous(), le(2 * log(p), p), "lhs") == "survived"
    assert verdict(claim, Exact(), ge(log(p), p), None) == "killed"


def test_a_spent_budget_does_not_pass() -> None:
    d = single(*SENSITIVE["exact equation"])
    report = audit(d, budget=0)
    assert report.not_run > 0
    assert report.killed == 0
    assert not report.passed
    assert "not run" in str(report)
    assert report.record()["not_run"] == report.not_run


def test_a_step_without_a_killed_mutant_does_not_pass() -> None:
    d = Derivation("nothing")
    d.exact("D1", eq(sp.Derivative(q, p), 0))  # whatever is done to either side, it says the same
    report = audit(d)
    assert report.survived == 0
    assert report.killed == 0
    assert not report.passed


def test_links_of_chains_are_audited_and_unchecked_steps_are_not() -> None:
    d = Derivation("parts")
    d.assume("D1", eq(x, y))
    tight = Exact(tight={x: 0})
    d.chain(
        "D2", exp(x) * (sin(x) ** 2 + cos(x) ** 2), ("=", exp(x), Exact(), "1"), (">=", 1 + x, tight, "the tangent")
    )
    seen: list[str] = []
    report = audit(d, progress=seen.append)
    assert seen == ["D2.1", "D2.2"]
    assert [step.id for step in report.steps] == seen
    assert report.survived == 0


def test_the_record_is_json_and_the_same_each_time() -> None:
    records = [json.dumps(audit(single(*SENSITIVE["exact equation"])).record()) for _ in range(2)]
    assert records[0] == records[1]
    record = json.loads(records[0])
    assert {"schema", "derivation", "steps", "killed", "equivalent", "implied", "survived", "not_run"} <= set(record)
    assert record["killed"] == sum(step["killed"] for step in record["steps"])
    assert set(record["steps"][0]) >= {"id", "killed", "equivalent", "implied", "survived"}


# --- mutants ----------------------------------------------------------------------------------------------------------
def test_every_kind_of_slip_is_tried() -> None:
    relation = le(Sum(sin(x) * s[i] ** 2, (i, 1, n)) + y, x**2 + 3 * y * exp(x))
    kinds = {m.kind for m in mutants(relation, 200)}
    assert kinds >= {
        "reversed",
        "sign",
        "factor",
        "exponent",
        "constant",
        "dropped term",
        "dropped factor",
        "function",
        "range",
        "swapped symbols",
    }


def test_mutants_differ_from_the_relation_and_from_each_other() -> None:
    relation = eq(x**2 + 2 * x * y, sin(x) * exp(y))
    made = mutants(relation, 200)
    keys = [(m.relation.lhs, m.relation.op, m.relation.rhs) for m in made]
    assert len(set(keys)) == len(keys)
    assert all(m.relation != relation for m in made)
    assert [m.change for m in made] == [m.change for m in mutants(relation, 200)]


def test_every_kind_gets_its_turn() -> None:
    relation = le(Sum(sin(x) * s[i] ** 2, (i, 1, n)) + y, x**2 + 3 * y * exp(x))
    assert len({m.kind for m in mutants(relation, 12)}) >= 8
    assert len(mutants(relation, 12)) == 12


def test_mutants_that_make_no_sense_are_left_out() -> None:
    # swapping p and x would let the integral over the positive t reach a real number
    t = sp.Symbol("t", positive=True)
    relation = eq(sp.Integral(t * p, (t, 0, p)) + x, p**3 / 2 + x)
    assert mutants(relation, 100)
    assert audit(single(relation, Exact())).survived == 0


def test_what_stands_under_a_limit_is_changed_and_the_limit_is_not() -> None:
    relation = tends((1 + 1 / p) ** p, p, oo, sp.E)
    changed = [m.relation.lhs for m in mutants(relation, 100) if m.side == "lhs"]
    inside = [e for e in changed if isinstance(e, sp.Limit)]
    assert inside
    assert all(e.args[1:3] == (p, oo) for e in inside)


def test_a_mutant_that_cannot_be_built_is_no_mutant() -> None:
    """Without what stands between them, two maxima merge into one with two indices, which MaxOver refuses."""
    m, w = sp.Symbol("m", integer=True, positive=True), sp.IndexedBase("w", shape=(n,), real=True)
    inner = MaxOver(s[i], (i, 1, n))
    relation = eq(MaxOver(inner + w[m], (m, 1, n)), inner + MaxOver(w[m], (m, 1, n)))
    assert all(isinstance(mutant.relation.lhs, sp.Expr) for mutant in mutants(relation, 40))


def test_a_line_of_which_sympy_has_made_a_tautology_does_not_pass() -> None:
    """2 (x - 1) becomes 2 x - 2 by itself: such a line was on a page once, with all its mutants killed."""
    d = Derivation("empty")
    d.exact("D1", eq(x - (2 - x), 2 * (x - 1)))
    report = audit(d)
    assert not report.passed
    (step,) = report.steps
    assert "SymPy has made both sides the same, 2*x - 2" in step.survived[0]

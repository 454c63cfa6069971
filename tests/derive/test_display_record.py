"""How a step looks in Markdown and in a terminal, and the record that the ledger gathers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import sympy as sp
from sympy import Function, O, Sum, exp, log, oo

from kexue_lib.derive import Derivation, Exact, Interval, MaxOver, eq, ge, le, similar, tends
from kexue_lib.derive.display import STEP_MIME, latex, latex_relation

x = sp.Symbol("x", real=True)
p, lam = sp.symbols("p lambda", positive=True)
n, i, j = sp.symbols("n i j", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)


def small_derivation() -> Derivation:
    d = Derivation("example", domain={lam: Interval(0.01, 40)})
    d.define("D0", eq(Function("Z", positive=True)(lam), Sum(exp(lam * s[i]), (i, 1, n))))
    d.assume("D1", le(p, 1), by="small steps")
    d.exact("D2", ge(exp(x), 1 + x), by="the tangent at $0$")
    d.numeric("D3", le(Sum(s[i], (i, 1, n)) ** 2, n * Sum(s[i] ** 2, (i, 1, n))), dims={n: (2, 3)}, uses=["D2"])
    d.limit("D4", tends(log(p) / p, p, oo, 0), uses=["D1"])
    d.series("D5", eq(exp(x), 1 + x + O(x**2)))
    d.chain(
        "D6",
        log(Function("Z", positive=True)(lam)),
        ("=", log(Sum(exp(lam * s[j]), (j, 1, n))), Exact(), "put the definition"),
        ("=", log(n) + log(Sum(exp(lam * s[j]), (j, 1, n)) / n), Exact(), "a mean", ["D3"]),
        by="in two moves",
    )
    d.cite("D7", similar(p + 1, p, p, oo), by="a book")
    d.limit("D8", tends((1 + 1 / p) ** p, p, oo, sp.E), gauge=1 / p, along=[10**e for e in range(2, 9)])
    return d


D = small_derivation()


@pytest.mark.parametrize("step", list(D), ids=lambda step: step.id)
def test_the_record_is_plain_json_with_what_the_ledger_reads(step: object) -> None:
    record = step.record()
    assert json.loads(json.dumps(record)) == record
    assert {
        "schema",
        "derivation",
        "id",
        "kind",
        "status",
        "rests_on",
        "uses",
        "latex",
        "text",
        "by",
        "method",
        "dims",
        "detail",
    } <= set(record)
    assert record["schema"] == 1
    assert record["derivation"] == "example"
    assert record["kind"] in {"exact", "limit", "series", "numeric", "defined", "assumed", "cited"}
    assert record["status"] in {"proved", "asymptotic", "sampled", "unchecked"}
    assert record["text"]
    assert record["latex"]


def test_the_record_says_how_a_step_stands() -> None:
    third = D["D3"].record()
    assert (third["kind"], third["status"], third["uses"]) == ("numeric", "sampled", ["D2"])
    assert third["dims"] == {"n": [2, 3]}
    assert third["detail"]["points"] > 100
    assert D["D4"].record()["rests_on"] == ["D1"]
    chain = D["D6"].record()
    assert [link["id"] for link in chain["links"]] == ["D6.1", "D6.2"]
    assert chain["rests_on"] == ["D3"]
    assert chain["links"][1]["by"] == "a mean"
    assert "links" not in third


def test_numbers_that_may_differ_between_machines_stand_under_measured() -> None:
    def floats(value: object) -> list[float]:
        if isinstance(value, dict):
            return [f for key, part in value.items() if key != "measured" for f in floats(part)]
        if isinstance(value, list):
            return [f for part in value for f in floats(part)]
        return [value] if isinstance(value, float) else []

    for step in D:
        assert set(floats(step.record())) <= {0.1}, step.id  # the tolerance of a rate is a constant


def test_markdown_has_number_anchor_and_badge() -> None:
    text = D["D2"]._repr_mimebundle_()["text/markdown"]
    assert text.startswith('<a id="D2"></a>')
    assert r"$$e^{x} \ge x + 1 \tag{D2}$$" in text
    assert '<span class="kx-badge kx-exact kx-proved">**✓ exact**</span>' in text
    assert "the tangent at $0$" in text
    assert "*convex in x, smallest at x = 0*" in text
    sampled = D["D3"]._repr_mimebundle_()["text/markdown"]
    assert "○ numeric" in sampled
    assert "uses [D2](#D2)" in sampled
    assert "$n = 2,3$" in sampled
    assert "**rests on [D1](#D1)**" in D["D4"]._repr_mimebundle_()["text/markdown"]
    assert "△ assumed" in D["D1"]._repr_mimebundle_()["text/markdown"]


def test_a_chain_is_aligned_with_an_anchor_for_each_link() -> None:
    text = D["D6"]._repr_mimebundle_()["text/markdown"]
    assert text.count(r"\tag{") == 1
    assert r"\tag{D6}" in text
    for key in ("D6", "D6.1", "D6.2"):
        assert f'<a id="{key}"></a>' in text
    assert text.count("&=") == 2
    assert r"\begin{aligned}" in text
    assert "- D6.1" in text
    assert "in two moves" in text


def test_every_kind_of_display_is_in_the_bundle() -> None:
    bundle = D["D2"]._repr_mimebundle_()
    assert list(bundle) == ["text/plain", "text/markdown", STEP_MIME]
    assert bundle[STEP_MIME] == D["D2"].record()
    assert bundle["text/plain"] == str(D["D2"])
    assert "\n" not in str(D["D2"])
    assert str(D["D2"]).startswith("D2  exp(x) ≥ x + 1    [✓ exact: ")


def test_markdown_needs_no_roles_or_directives() -> None:
    for step in D:
        text = step._repr_mimebundle_()["text/markdown"]
        assert "{eq}" not in text
        assert ":::" not in text
        assert "```" not in text
        assert text.count("$") % 2 == 0, text


def test_latex() -> None:
    assert latex(s[i]) == "s_{i}"
    assert latex(MaxOver(s[i], (i, 1, n))) == r"\max_{1 \le i \le n} s_{i}"
    assert latex(sp.besseli(0, x)) == r"I_{0}\left(x\right)"
    assert latex(sp.polygamma(0, x)) == r"\psi\left(x\right)"
    assert latex(sp.Dummy("t")) == "t"
    assert latex(log(n) - x) == r"\log{\left(n \right)} - x"
    assert latex_relation(similar(p, p + 1, p, oo)).endswith(r"\qquad \left(p \to \infty\right)")


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_display_record as t
from kexue_lib.derive.audit import audit
steps = t.small_derivation()
print(json.dumps([step._repr_mimebundle_() for step in steps]))
print(json.dumps(audit(steps, most=5).record()))
"""


@pytest.mark.slow
def test_everything_is_the_same_in_every_process() -> None:
    here = os.path.dirname(__file__)
    outputs = set()
    for seed in ("0", "1", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, here], capture_output=True, text=True, env=env, timeout=300
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert json.loads(outputs.pop().splitlines()[1])["killed"] > 15


def test_an_index_joins_a_subscript_that_the_name_has() -> None:
    """TeX refuses two subscripts; the page would show its complaint in place of the equation."""
    h = sp.IndexedBase("h_1", shape=(3,), real=True)
    alpha = sp.IndexedBase(r"\alpha_2", shape=(3,), real=True)
    hat = sp.IndexedBase(r"\hat{p}", shape=(3,), real=True)
    j = sp.Symbol("j", integer=True, positive=True)
    assert latex(h[j] + alpha[1] + hat[j]).count("_") == 3
    assert {latex(h[j]), latex(alpha[1]), latex(hat[j])} == {"h_{1,j}", r"\alpha_{2,1}", r"\hat{p}_{j}"}

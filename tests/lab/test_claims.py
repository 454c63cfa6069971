"""The life of a claim: rule, measurement, verdict, table; and every way to use it wrongly."""

from __future__ import annotations

import importlib
import json
import math
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

from kexue_lib import lab
from kexue_lib.lab.claims import MIME
from kexue_lib.lab.markdown import cell, table

LOW = lab.Criterion("low", "x at least 0", lambda m: m["x"] >= 0)
HIGH = lab.Criterion("high", "x at most 1", lambda m: m["x"] <= 1)


def step(id: str = "D1", status: str = "proved", rests_on: tuple[str, ...] = ()) -> SimpleNamespace:
    return SimpleNamespace(id=id, status=status, rests_on=list(rests_on), kind="exact")


def one(*criteria: lab.Criterion, **more: object) -> lab.Claims:
    claims = lab.Claims("a-chapter")
    settings: dict = {"kind": "empirical", "how": "by test", "criteria": criteria, **more}
    claims.register("C1", "a claim", **settings)
    return claims


# The verdict --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([True], "holds"),
        ([True, True], "holds"),
        ([True, False], "partly"),
        ([False, True, True], "partly"),
        ([False], "fails"),
        ([False, False], "fails"),
    ],
)
def test_verdict_is_all_some_or_none_of_the_criteria(tests: list[bool], verdict: str) -> None:
    claims = one(*(lab.Criterion(f"c{i}", "rule", lambda m, met=met: met) for i, met in enumerate(tests)))
    assert claims.verdict("C1") == "open"
    claims.measure("C1", x=0.0)
    assert claims.verdict("C1") == verdict
    assert [c["met"] for c in claims.record()["claims"][0]["criteria"]] == tests


def test_verdict_cannot_be_declared() -> None:
    with pytest.raises(TypeError):
        one(LOW, verdict="holds")
    with pytest.raises(AttributeError):
        one(LOW)["C1"].verdict = "holds"  # type: ignore[misc]


def test_measuring_again_replaces_the_numbers() -> None:
    claims = one(LOW)
    claims.measure("C1", x=1.0)
    claims.measure("C1", x=-1.0, y=2)
    assert claims.verdict("C1") == "fails"
    assert claims["C1"].measured == {"x": -1.0, "y": 2.0}


def test_a_refused_measurement_changes_nothing() -> None:
    claims = one(LOW)
    claims.measure("C1", x=1.0)
    for wrong in ({"y": 1.0}, {"x": math.nan}, {}):
        with pytest.raises(lab.ClaimError):
            claims.measure("C1", wrong)
    assert claims.verdict("C1") == "holds"
    assert claims["C1"].measured == {"x": 1.0}


def test_names_with_spaces_and_numbers_of_all_libraries() -> None:
    claims = one(lab.Criterion("c", "rule", lambda m: m["leader slope"] > m["n"] - 4))
    claims.measure("C1", {"leader slope": np.float64(0.89)}, n=torch.tensor(4))
    assert claims["C1"].measured == {"leader slope": 0.89, "n": 4.0}
    assert claims.verdict("C1") == "holds"


def test_criterion_may_answer_with_a_numpy_or_torch_truth_value() -> None:
    claims = one(
        lab.Criterion("numpy", "r", lambda m: np.float64(m["x"]) > 0),
        lab.Criterion("nan-free", "r", lambda m: bool(torch.tensor(m["x"]) > 0)),
    )
    claims.measure("C1", x=1.0)
    assert claims.verdict("C1") == "holds"
    assert all(type(met) is bool for met in claims["C1"].met.values())


# Derivation steps --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "rests_on", "verdict"),
    [
        ("exact", "proved", (), "holds"),
        ("exact", "asymptotic", (), "fails"),
        ("exact", "sampled", (), "fails"),
        ("exact", "unchecked", (), "fails"),
        ("exact", "proved", ("D9",), "fails"),
        ("asymptotic", "asymptotic", (), "holds"),
        ("asymptotic", "sampled", (), "fails"),
        ("heuristic", "proved", (), "holds"),
    ],
)
def test_a_step_settles_a_claim_by_its_status(kind: str, status: str, rests_on: tuple, verdict: str) -> None:
    claims = one(kind=kind, steps=[step(status=status, rests_on=rests_on)])
    assert claims.verdict("C1") == verdict


def test_several_steps_are_several_criteria() -> None:
    claims = one(kind="exact", steps=[step("D1"), step("D2", "sampled")], evidence=["D1", "D5"])
    record = claims.record()["claims"][0]
    assert record["verdict"] == "partly"
    assert record["evidence"] == ["D1", "D2", "D5"]
    assert [(c["name"], c["text"], c["met"]) for c in record["criteria"]] == [
        ("D1", "D1 proved", True),
        ("D2", "D2 proved", False),
    ]


def test_accepted_status_and_assumptions_are_named() -> None:
    rule = lab.settled(step("D7", "sampled", ("D7.2",)), "the law is √log n", accept=["sampled"], assuming=["D7.2"])
    assert rule.text == "the law is √log n (D7), assuming D7.2"
    assert rule.test({}) is True
    assert lab.settled(step("D7", "sampled", ("D7.2",)), accept=["sampled"]).test({}) is False
    claims = one(kind="exact", steps=[step("D3", "asymptotic")], accept=("proved", "asymptotic"))
    assert claims.record()["claims"][0]["criteria"][0]["text"] == "D3 proved or asymptotic"
    assert claims.verdict("C1") == "holds"


def test_steps_and_measurements_together_are_open_until_measured() -> None:
    claims = one(
        lab.settled(step("D4"), "a lower bound"), lab.Criterion("close", "within 10 %", lambda m: m["e"] < 0.1)
    )
    assert claims.verdict("C1") == "open"
    claims.measure("C1", e=2.0)
    assert claims.verdict("C1") == "partly"


def test_unknown_statuses_are_errors() -> None:
    with pytest.raises(lab.ClaimError, match="accept has 'unchecked'; allowed: 'proved', 'asymptotic', 'sampled'"):
        lab.settled(step(), accept=["unchecked"])
    with pytest.raises(lab.ClaimError, match="step D1 has the status 'green'"):
        lab.settled(step(status="green"))


def test_real_derivation_steps_settle_claims() -> None:
    derive = importlib.import_module("kexue_lib.derive")
    sympy = importlib.import_module("sympy")
    x = sympy.Symbol("x", real=True)
    d = derive.Derivation("a-chapter")
    proved = d.exact("D1", derive.eq((x + 1) ** 2, x**2 + 2 * x + 1), by="expand")
    assert one(kind="exact", steps=[proved]).verdict("C1") == "holds"


# Errors --------------------------------------------------------------------------------


def test_rules_come_before_measurements() -> None:
    claims = one(LOW)
    claims.measure("C1", x=0.0)
    message = r"C2 is registered after a measurement: rules come first.*Claims\('a-chapter'"
    with pytest.raises(lab.ClaimError, match=message):
        claims.register("C2", "late", kind="empirical", how="by test", criteria=[LOW])
    assert len(claims) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "C1"}, "claim C1 is registered already"),
        ({"id": "claim"}, "id='claim' is not allowed"),
        ({"id": "D1"}, "id='D1' is not allowed"),
        ({"kind": "proved"}, "C2: kind='proved' is not allowed; allowed: 'exact', 'asymptotic'"),
        ({"text": " "}, "C2: text=' ' is not allowed"),
        ({"how": ""}, "C2: how='' is not allowed"),
        ({"criteria": []}, "C2 has no rule"),
        ({"criteria": [LOW, LOW]}, "C2: two criteria have one name: low, low"),
        ({"accept": ["guessed"], "steps": [step()]}, "accept has 'guessed'"),
    ],
)
def test_wrong_registrations(change: dict, message: str) -> None:
    claims = one(LOW)
    arguments = {"id": "C2", "text": "t", "kind": "empirical", "how": "h", "criteria": [LOW], **change}
    with pytest.raises(lab.ClaimError, match=message):
        claims.register(arguments.pop("id"), arguments.pop("text"), **arguments)
    assert [claim.id for claim in claims] == ["C1"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "C1 was measured without a number"),
        ({"y": 1.0}, "criterion 'low' reads 'x', which was not measured; measured: 'y'"),
        ({"x": math.nan}, "claim C1: x=nan is not finite"),
        ({"x": math.inf}, "claim C1: x=inf is not finite"),
        ({"x": "1"}, "claim C1: x='1' is not a number"),
        ({"x": True}, "claim C1: x=True is not a number"),
        ({"x": [1.0, 2.0]}, "is not a number"),
    ],
)
def test_wrong_measurements(values: dict, message: str) -> None:
    with pytest.raises(lab.ClaimError, match=re.escape(message)):
        one(LOW).measure("C1", values)


def test_numbers_of_a_clock_are_named_in_the_record_and_have_to_be_measured() -> None:
    claims = one(LOW, clocked=["time ratio"])
    with pytest.raises(lab.ClaimError, match=r"clocked='time ratio', but 'time ratio' was not measured; measured: 'x'"):
        claims.measure("C1", x=0.5)
    assert claims["C1"].measured == {}
    claims.measure("C1", {"x": 0.5, "time ratio": 2.0})
    assert claims.record()["claims"][0]["clocked"] == ["time ratio"]
    assert one(LOW).record()["claims"][0]["clocked"] == []


def test_unknown_claims_are_named_with_those_that_exist() -> None:
    for use in (lambda c: c.measure("C9", x=1.0), lambda c: c.verdict("C9"), lambda c: c["C9"]):
        with pytest.raises(lab.ClaimError, match="no claim 'C9' in a-chapter; registered: C1"):
            use(one(LOW))
    with pytest.raises(lab.ClaimError, match="registered: none"):
        lab.Claims("a")["C1"]
    with pytest.raises(lab.ClaimError, match="chapter='' is not allowed"):
        lab.Claims("")


def test_a_criterion_that_answers_neither_yes_nor_no() -> None:
    with pytest.raises(lab.ClaimError, match=r"criterion 'c' answered 0\.5, neither true nor false"):
        one(lab.Criterion("c", "rule", lambda m: m["x"])).measure("C1", x=0.5)  # type: ignore[arg-type,return-value]


def test_an_error_inside_a_criterion_keeps_its_own_name() -> None:
    with pytest.raises(ZeroDivisionError):
        one(lab.Criterion("c", "rule", lambda m: 1 / m["x"] > 0)).measure("C1", x=0.0)


def test_open_claims_say_why_and_cannot_be_measured() -> None:
    claims = one(LOW, open_because="needs a GPU", steps=[step()])
    assert claims.verdict("C1") == "open"
    assert "needs a GPU" in claims.table().markdown()
    assert "needs a GPU" in str(claims.table())
    with pytest.raises(lab.ClaimError, match=r"registered as open \(needs a GPU\): it cannot be measured"):
        claims.measure("C1", x=1.0)
    assert one(open_because="no data").verdict("C1") == "open"


# The table --------------------------------------------------------------------------------


def example() -> lab.Claims:
    claims = lab.Claims("entropy-invariant-softmax")
    claims.register("C1", r"$H = -\sum p|\log p| < \|x\|$ a|b", kind="exact", how="derived", steps=[step("D1")])
    claims.register("C2", "it\nholds", kind="heuristic", how="fit, $|x|$", criteria=[LOW, HIGH], evidence=["D6"])
    claims.register("C3", "later", kind="empirical", how="train", criteria=[LOW], open_because="needs a GPU")
    claims.measure("C2", x=-2.0)
    return claims


def parsed(markdown: str) -> list[list[str]]:
    """The cells of the one table, as the book's own Markdown parser sees them; math is put in angle quotes."""
    tokens = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin).parse(markdown)
    assert sum(token.type == "table_open" for token in tokens) == 1
    rows: list[list[str]] = []
    for token, after in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            children = after.children or []
            text = (f"«{c.content}»" if c.type == "math_inline" else c.content for c in children)
            rows[-1].append("".join(text))
    return rows


def test_table_has_the_five_columns_and_a_row_for_each_claim() -> None:
    head, *rows = parsed(example().table().markdown())
    assert head == ["claim", "kind", "how tested", "measured", "verdict"]
    assert [row[0][:2] for row in rows] == ["C1", "C2", "C3"]
    assert all(len(row) == 5 for row in rows)
    assert [row[1] for row in rows] == ["exact", "heuristic", "empirical"]
    assert [re.sub(r"\W", "", row[4]) for row in rows] == ["holds", "partly", "open"]


def test_bars_in_mathematics_do_not_cut_cells() -> None:
    rows = parsed(example().table().markdown())
    assert rows[1][0] == r"C1 «H = -\sum p\vert \log p\vert  \lt  \Vert x\Vert » a|b"
    assert r"«\vert x\vert »" in rows[2][2]


def test_criteria_show_whether_they_are_met() -> None:
    markdown = example().table().markdown()
    assert "✓ D1 proved" in markdown
    assert "✗ x at least 0" in markdown
    assert "✓ x at most 1" in markdown
    assert "– x at least 0" in markdown  # of the open claim
    text = str(example().table())
    assert re.search(r"\[not met\]\s+x at least 0", text)
    assert re.search(r"\[met\]\s+x at most 1", text)


def test_measured_numbers_carry_the_sign() -> None:
    for text in (example().table().markdown(), str(example().table())):
        assert "x ≈ -2.00" in text
        assert not re.search(r"(?<!≈ )-?\d+\.\d", text.replace("≈ -", "≈ "))


def test_table_is_plain_markdown() -> None:
    markdown = example().table().markdown()
    assert set(re.findall(r"<[^>]*>", markdown)) == {"<br>"}
    assert "\n\n*" in markdown  # the legend stands outside the table
    assert "all met → holds" in markdown


def test_output_holds_markdown_text_and_record() -> None:
    claims = example()
    bundle = claims.table()._repr_mimebundle_()
    assert set(bundle) == {"text/markdown", "text/plain", MIME}
    assert json.loads(json.dumps(bundle[MIME], allow_nan=False)) == claims.record()
    record = claims.record()
    assert (record["schema"], record["chapter"]) == (1, "entropy-invariant-softmax")
    assert [claim["id"] for claim in record["claims"]] == ["C1", "C2", "C3"]
    assert set(record["claims"][1]) == {
        "id", "claim", "kind", "how", "criteria", "measured", "clocked", "evidence", "open_because", "verdict",
    }  # fmt: skip


def test_only_measured_holds_numbers_that_may_differ() -> None:
    def floats(value: object, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if isinstance(value, dict):
            return set().union(*(floats(v, (*path, str(k))) for k, v in value.items()), set())
        if isinstance(value, list):
            return set().union(*(floats(v, path) for v in value), set())
        return {path} if isinstance(value, float) else set()

    assert floats(example().record()) == {("claims", "measured", "x")}


def test_a_table_is_a_snapshot() -> None:
    claims = one(LOW)
    before = claims.table()
    claims.measure("C1", x=1.0)
    assert "open" in before.markdown().split("*✓")[0]
    assert "holds" in claims.table().markdown().split("*✓")[0]


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("a | b", r"a \| b"),
        (r"a \| b", r"a \| b"),
        ("$|x|$", r"$\vert x\vert $"),
        (r"$\left|x\right|$", r"$\left\vert x\right\vert $"),
        (r"costs \$5 | or \$6", r"costs \$5 \| or \$6"),
        ("$a<b$ and $c>d$", r"$a\lt b$ and $c\gt d$"),
        ("two\n  lines", "two lines"),
    ],
)
def test_cell(text: str, inside: str) -> None:
    assert cell(text) == inside


def test_table_refuses_rows_of_another_width() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells, the table 2 columns"):
        table(["a", "b"], [["1"]])

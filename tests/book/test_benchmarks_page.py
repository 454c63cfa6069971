"""The page of the benchmarks: made from the record, or saying clearly that there is none."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from checkouts import Checkout

from kexue_lib.book.benchmarks_page import benchmarks_page, read_record, record_path, stale_files, validate
from kexue_lib.book.errors import BookError
from kexue_lib.book.pages import write_pages
from kexue_lib.book.place import digest

CHAPTER = "attention/entropy-invariant-softmax"


def ratio(median: float, coverage: float = 0.96) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median, "coverage": coverage}


def row(name: str, role: str, ms: float, ours: float = 1.0, **more: Any) -> dict[str, Any]:
    found = {"name": name, "role": role, "ms": ms, "q1": 0.9 * ms, "q3": 1.2 * ms, "turns": 31, **more}
    return found if role == "ours" else {**found, "ours_to_this": ratio(ours / ms)}


def record(case: str, ours: float, peer: float, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "operation": "op",
        "case": case,
        "mode": "forward+backward",
        "dtype": "float32",
        "rounds": 31,
        "clock": "cpu time",
        "contestants": [
            row("kexue_lib", "ours", ours),
            row("plain", "plain", 50 * ours, ours),
            row("a|b package", "peer", peer, ours),
            row("floor", "limit", ours / 2, ours),
        ],
        "missing": [],
        "best_peer": "a|b package",
        "ratio": ratio(ours / peer),
        "bar": 1.0,
        "verdict": verdict,
        "plain_factor": ratio(50.0),
        **more,
    }


def entry(*records: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "chapter": CHAPTER,
        "about": "what it computes, with $x$",
        "tests": ["tests/test_x.py"],
        "bar": 1.0,
        "date": "2026-01-02",
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "threads": 1,
            "load": 0.1,
            "system": "Linux",
            "python": "3.11.7",
            "torch": "2.9.0",
            "device": "cpu",
        },
        "versions": {"peer-package": "1.2"},
        "settings": {"rounds": 31},
        "files": {},
        "refused": "",
        "records": list(records),
        **more,
    }


def write(checkout: Checkout, **operations: Any) -> str:
    document = json.dumps({"schema": 2, "operations": operations})
    checkout.write("book/records/benchmarks.json", document)
    return benchmarks_page(checkout.project).replace("\N{NO-BREAK SPACE}", " ")


def cells(page: str, start: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_without_a_record_the_page_says_so(checkout: Checkout) -> None:
    page = benchmarks_page(checkout.project)
    assert "No benchmark has been recorded yet." in page
    assert "make bench ARGS=--record" in page
    assert page.startswith("# Benchmarks\n")
    assert "No benchmark has been recorded yet." in write(checkout)  # a record of nothing


def test_the_page_shows_times_ratios_factors_and_verdicts(checkout: Checkout) -> None:
    fast = record("small", 0.5, 1.0, "met", promised_factor=40.0)
    equal = record("large", 1500.0, 1510.0, "open", mode="step")
    page = write(checkout, op=entry(fast, equal))
    assert "Recorded on 2026-01-02 on: Some CPU, 2 cores, 1 thread, Linux, Python 3.11.7, PyTorch 2.9.0." in page
    assert "Peers: peer-package 1.2." in page
    assert "1 operation. Of 2 measurements with a peer, 1 is faster" in page
    assert "## A quick derivation of the entropy-invariant softmax" in page
    assert "### `op`\n\nWhat it computes, with \\$x\\$.\n" in page
    assert cells(page, "small") == [
        *("small", "forward + backward", "500 µs", "a\\|b package", "1.00 ms", "0.50 [0.45, 0.55]", "faster"),
        "50.0× (promised 40.0×)",
    ]
    assert cells(page, "large") == [
        *("large", "step", "1.50 s", "a\\|b package", "1.51 s", "0.99 [0.89, 1.09]", "equal", "50.0×"),
    ]
    assert "Where the goal is missed" not in page
    assert "::::{dropdown} All contestants" in page
    assert page.count("::::") == 2
    widths = [len(re.split(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("|")]
    assert set(widths) == {10, 8}  # eight columns and six


def test_the_page_says_which_operations_miss_the_goal_and_why(checkout: Checkout) -> None:
    slow = record("small", 2.0, 1.0, "missed", note="because <small> things_are slow")
    silent = record("large", 3.0, 1.0, "missed", bar=1.5)
    page = write(checkout, op=entry(slow, silent))
    assert (
        "- `op`, small, forward + backward: 2.00 [1.80, 2.20] of a\\|b package. Because \\<small\\> things\\_are"
        in page
    )
    assert "No reason is recorded." in page
    assert cells(page, "small")[6] == "**slower**"
    assert cells(page, "large")[6] == "**slower** (goal 1.5)"


def test_an_operation_without_peer_or_number(checkout: Checkout) -> None:
    alone = record("small", 1.0, 1.0, "open")
    for key in ("best_peer", "ratio", "bar", "verdict"):
        del alone[key]
    alone["contestants"] = alone["contestants"][:2]
    alone["missing"] = ["not there"]
    page = write(checkout, op=entry(alone), bad=entry(refused="its tests are red", chapter=""))
    assert cells(page, "small")[3:7] == ["none", "", "", ""]
    assert "Not installed when this was measured: not there." in page
    assert "Without a number, because they were refused: `bad`." in page
    assert (
        "## Other operations\n\n### `bad`\n\nWhat it computes, with \\$x\\$.\n\nNo number: Its tests are red.\n" in page
    )


def test_memory_stands_where_it_was_measured(checkout: Checkout) -> None:
    found = record("small", 1.0, 2.0, "met")
    for i, r in enumerate(found["contestants"]):
        r["peak_bytes"] = 3 * 2**20 * 10**i
    page = write(checkout, op=entry(found, record("large", 1.0, 2.0, "met")))
    assert cells(page, "small")[8] == "3.00 MiB : 300 MiB"
    assert cells(page, "large")[8] == ""


def test_few_rounds_are_said(checkout: Checkout) -> None:
    found = record("small", 1.0, 2.0, "met")
    found["ratio"] = ratio(0.5, coverage=0.75)
    assert "0.50 [0.45, 0.55] at 75 %" in write(checkout, op=entry(found))


def test_machines_are_told_apart(checkout: Checkout) -> None:
    one, two = entry(record("small", 1.0, 2.0, "met")), entry(record("small", 1.0, 2.0, "met"))
    two["machine"] = {**two["machine"], "gpu": "Some GPU"}
    page = write(checkout, one=one, two=two)
    assert "PyTorch 2.9.0 (`one`)." in page
    assert "on: Some GPU (host: Some CPU), Linux" in page


def test_a_number_that_is_older_than_its_code_is_marked(checkout: Checkout) -> None:
    files = {
        "kexue_lib/alpha.py": digest("VALUE = 1\n"),
        "kexue_lib/beta.py": digest("VALUE = 0\n"),
        "benchmarks/gone.py": digest(""),
    }
    found = entry(record("small", 1.0, 2.0, "met"), files=files)
    assert stale_files(checkout.project, found) == ["benchmarks/gone.py", "kexue_lib/beta.py"]
    page = write(checkout, op=found)
    assert "*Measured before `benchmarks/gone.py`, `kexue_lib/beta.py` changed: measure again.*" in page
    checkout.write("kexue_lib/beta.py", "VALUE = 0\n")
    checkout.write("benchmarks/gone.py", "")
    assert "measure again" not in benchmarks_page(checkout.project)


def test_chapters_come_in_the_plans_order_and_link_when_they_are_there(checkout: Checkout) -> None:
    later = entry(record("small", 1.0, 2.0, "met"), chapter="gated/gau-warmup")
    page = write(checkout, a=later, b=entry(record("small", 1.0, 2.0, "met")))
    assert page.index("### `b`") < page.index("### `a`")
    assert ".ipynb" not in page
    checkout.write(f"book/chapters/{CHAPTER}.ipynb", "{}")
    assert f"(chapters/{CHAPTER}.ipynb)" in benchmarks_page(checkout.project)


def test_write_pages_writes_it(checkout: Checkout) -> None:
    write_pages(checkout.project)
    assert (checkout.root / "book" / "benchmarks.md").read_text() == benchmarks_page(checkout.project)


GOOD = {"schema": 2, "operations": {"op": entry(record("small", 1.0, 2.0, "met"))}}


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (["schema"], 1, "has not schema 2"),
        (["operations"], [], "'operations' is"),
        (["operations", "op"], 3, "op: 3 is not an object"),
        (["operations", "op", "date"], None, "op: 'date' is None, not a str"),
        (["operations", "op", "bar"], True, "'bar' is True"),
        (["operations", "op", "records"], [], "either refused or has records"),
        (["operations", "op", "refused"], "red", "either refused or has records"),
        (["operations", "op", "records", 0, "rounds"], 3.5, "'rounds' is 3.5, not a int"),
        (["operations", "op", "records", 0, "verdict"], "good", "verdict 'good'"),
        (["operations", "op", "records", 0, "best_peer"], "nobody", "best peer 'nobody'"),
        (["operations", "op", "records", 0, "ratio"], {"median": 1.0}, "'low' is None"),
        (["operations", "op", "records", 0, "plain_factor"], 3.0, "plain_factor: 3.0 is not an object"),
        (["operations", "op", "records", 0, "contestants", 0, "role"], "peer", "'ours_to_this'|None is not an object"),
        (["operations", "op", "records", 0, "contestants", 1, "role"], "ours", "not exactly one contestant of ours"),
        (["operations", "op", "records", 0, "contestants", 0, "ms"], 0, "quartiles"),
    ],
)
def test_a_record_of_another_shape_is_refused(place: list[Any], value: Any, words: str) -> None:
    validate(GOOD)
    bad: Any = copy.deepcopy(GOOD)
    *path, last = place
    inner = bad
    for key in path:
        inner = inner[key]
    inner[last] = value
    with pytest.raises(BookError, match=words):
        validate(bad)


def test_a_broken_file_is_named(checkout: Checkout) -> None:
    path = checkout.write("book/records/benchmarks.json", "{")
    assert path == record_path(checkout.project)
    with pytest.raises(BookError, match=r"benchmarks\.json: the record of the benchmarks cannot be read"):
        read_record(path)
    assert read_record(checkout.root / "none.json") is None


def test_the_committed_record_can_be_read() -> None:
    from checkouts import REPOSITORY

    from kexue_lib.book.project import Project

    page = benchmarks_page(Project(REPOSITORY))
    assert page.startswith("# Benchmarks\n")

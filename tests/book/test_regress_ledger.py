"""The ledger of regressions: rows are valid, appends are whole, reports follow from the rows."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress.compare import compare
from kexue_lib.book.regress.identity import combined
from kexue_lib.book.regress.report import markdown, report
from kexue_lib.book.regress.row import Key, claims_of, clocked_of, decode, encode, validate
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.regress.summary import interval, summarise


def row(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid row."""
    return {
        "schema": 1, "chapter": "depth/x", "scale": "quick", "device": "cpu", "seed": seed,
        "source": "0" * 64, "library": {"hash": "1" * 64, "files": ["kexue_lib/__init__.py"]},
        "versions": {"python": "3.11.7", "torch": "2.13.0"}, "commit": "abc", "started": "2026-01-02T03:04:05Z",
        "seconds": 12.5, "cpu_seconds": 11.0, "peak_bytes": 2**30, "gpu_peak_bytes": None, "machine": "a CPU",
        "attempts": 1, "resumed": False, "status": "done", "claims": [claim()], "error": None,
        "steps": {"proved": 3, "asymptotic": 0, "sampled": 1, "unchecked": 0}, **changes,
    }  # fmt: skip


def claim(verdict: str = "holds", id: str = "C1", met: bool | None = True, **measured: float) -> dict[str, Any]:
    measured = measured or {"slope": 0.5}
    return {"id": id, "claim": "it | holds", "verdict": verdict, "criteria": {"rule": met}, "measured": measured}


def failed(seed: int = 0) -> dict[str, Any]:
    return row(seed, status="failed", claims=[], steps=None, error={"message": "boom", "place": None, "traceback": ""})


class Book:
    """A ledger in a folder, and what it warned of."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.path = folder / "ledger.jsonl"
        self.locks = folder / "locks"

    def open(self) -> Ledger:
        return Ledger(self.path, self.locks, self.said.append)


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


# Rows -------------------------------------------------------------------------------------------------------------


def test_a_row_is_valid_and_survives_the_way_through_the_file(book: Book) -> None:
    rows = [row(), failed(1)]
    book.open().append(rows)
    assert book.open().new_rows() == rows
    assert book.said == []


@pytest.mark.parametrize(
    "change",
    [
        {"chapter": "x"}, {"device": "tpu"}, {"seed": "0"}, {"source": "abc"}, {"status": "ok"}, {"seconds": -1.0},
        {"attempts": 0}, {"claims": [{"id": "C1"}]}, {"claims": [claim("good")]}, {"library": {"hash": "1" * 64}},
        {"versions": {}}, {"started": "yesterday"}, {"error": "boom"}, {"schema": 0},
    ],
)  # fmt: skip
def test_a_row_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BookError):
        validate(row(**change))


def test_every_field_is_needed() -> None:
    for name in row():
        with pytest.raises(BookError):
            validate({key: value for key, value in row().items() if key != name})


def test_a_ledger_of_a_newer_version_is_refused_with_the_line(book: Book) -> None:
    book.path.write_text(json.dumps(row()) + "\n" + json.dumps({"schema": 2, "anything": "else"}) + "\n")
    with pytest.raises(BookError, match=r"line 2: it has schema 2, and this version of kexue knows schemas up to 1"):
        book.open().new_rows()


@given(st.floats())
def test_every_number_survives_json(value: float) -> None:
    again = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
    assert again == value or (again != again and value != value)


def test_claims_keep_verdict_criteria_and_numbers() -> None:
    record = {"id": "C1", "claim": "so", "kind": "exact", "how": "", "evidence": [], "verdict": "partly",
              "criteria": [{"name": "a", "text": "", "met": True}, {"name": "b", "text": "", "met": None}],
              "measured": {"x": float("inf")}}  # fmt: skip
    (kept,) = claims_of((record,))
    assert kept == {"id": "C1", "claim": "so", "verdict": "partly", "criteria": {"a": True, "b": None},
                    "measured": {"x": "inf"}}  # fmt: skip
    validate(row(claims=[kept]))


# The file ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(min_value=0, max_value=3000), again=st.booleans())
def test_cut_anywhere_all_whole_rows_stay_and_the_next_append_is_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int, again: bool
) -> None:
    book = Book(tmp_path_factory.mktemp("cut"))
    book.open().append([row(seed) for seed in range(3)])
    content = book.path.read_bytes()
    cut = min(cut, len(content))
    book.path.write_bytes(content[:cut])
    # A line whose end alone is missing is whole.
    whole = content[:cut].count(b"\n") + (cut < len(content) and content[cut : cut + 1] == b"\n")
    if again:
        book.open().repair()
    book.open().append([row(9)])
    assert [r["seed"] for r in book.open().new_rows()] == [*range(whole), 9]
    assert all(json.loads(line) for line in book.path.read_bytes().splitlines())


def test_a_reader_sees_what_others_append_and_only_that(book: Book) -> None:
    reader, writer = book.open(), book.open()
    assert reader.new_rows() == []
    writer.append([row(0)])
    assert [r["seed"] for r in reader.new_rows()] == [0]
    writer.append([row(1), row(2)])
    assert [r["seed"] for r in reader.new_rows()] == [1, 2]
    assert reader.new_rows() == []


def test_a_ledger_that_shrinks_in_use_is_an_error(book: Book) -> None:
    ledger = book.open()
    ledger.append([row()])
    ledger.new_rows()
    book.path.write_bytes(b"")
    with pytest.raises(BookError, match="has become shorter"):
        ledger.new_rows()


def _append(path: Path, first: int, locks: Path) -> None:
    ledger = Ledger(path, locks, print)
    for seed in range(first, first + 100):
        ledger.append([row(seed, machine="x" * (seed * 37 % 5000))])


def test_processes_that_append_at_once_lose_and_mix_no_row(book: Book) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_append, args=(book.path, 100 * n, book.locks)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(r["seed"] for r in book.open().new_rows()) == list(range(400))
    assert book.said == []


def _hold(path: Path, locks: Path, key: Key, held: Any) -> None:
    ledger = Ledger(path, locks, print)
    assert ledger.reserve(key)
    held.set()
    time.sleep(60)


def test_a_reserved_run_is_free_again_when_its_process_is_killed(book: Book) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    key, other = Key("depth/x", "quick", "cpu", 0), Key("depth/x", "quick", "cpu", 1)
    process = context.Process(target=_hold, args=(book.path, book.locks, key, held))
    process.start()
    held.wait(20)
    ledger = book.open()
    assert not ledger.reserve(key)
    assert ledger.reserve(other)
    process.kill()
    process.join()
    assert ledger.reserve(key)


def test_the_hash_of_files_is_that_of_their_names_and_contents() -> None:
    assert combined({"a": "1", "b": "2"}) != combined({"a": "2", "b": "1"})
    assert combined({"a": "1"}, ["a", "b"]) != combined({"a": "1"})
    assert combined({"b": "2", "a": "1"}) == combined({"a": "1", "b": "2"}, ["b", "a", "a"])


# Reports ----------------------------------------------------------------------------------------------------------


def test_an_interval_is_students() -> None:
    values = [0.1, 0.4, 0.35, 0.8]
    found = interval(values)
    assert found.mean == pytest.approx(0.4125)
    # 3.182446: the 97.5 % point of Student's distribution with three degrees of freedom, as tables have it.
    assert found.half == pytest.approx(3.182446 * (sum((v - 0.4125) ** 2 for v in values) / 3 / 4) ** 0.5, rel=1e-6)
    assert (found.low, found.high) == (0.1, 0.8)


def test_an_unstable_claim_names_the_criterion_the_seeds_and_the_numbers_that_set_them_apart() -> None:
    rows = [row(seed, claims=[claim(slope=0.9 + seed / 100)]) for seed in range(4)]
    rows.append(row(4, claims=[claim("fails", met=False, slope=0.4)]))
    (group,) = summarise(rows).values()
    found = group.claims["C1"]
    assert not found.stable
    assert found.counts == {"holds": 4, "fails": 1}
    assert found.reason() == "criterion “rule” is not met by seed 4 (slope 0.4, other seeds 0.9 … 0.93)"
    text = markdown(report(summarise(rows)))
    assert "| depth/x (quick, cpu) | C1 | holds 4/5, fails 1/5 | criterion “rule” is not met by seed 4" in text
    assert "it \\| holds" in text


def test_stable_claims_are_said_to_be_stable() -> None:
    text = markdown(report(summarise([row(seed) for seed in range(3)])))
    assert "Every claim has the same verdict with every seed." in text
    assert "holds 3/3" in text


def test_the_newest_row_of_a_run_counts() -> None:
    (group,) = summarise([failed(0), row(0), row(1), failed(1)]).values()
    assert list(group.ended) == [1]
    assert "boom" in markdown(report({group.group: group}))


def verdicts(*values: str) -> dict[Any, Any]:
    return summarise([row(seed, claims=[claim(verdict)]) for seed, verdict in enumerate(values)])


@pytest.mark.parametrize(
    ("before", "after", "fell"),
    [
        (("holds", "holds"), ("holds", "holds"), False),
        (("holds", "holds"), ("holds", "partly"), True),
        (("holds",), ("fails",), True),
        (("holds",), ("open",), True),
        (("partly",), ("open",), True),
        (("open",), ("fails",), True),
        (("fails",), ("fails",), False),
        (("fails",), ("holds",), False),
        (("holds", "fails"), ("fails", "holds"), True),
    ],
)
def test_a_verdict_fell_if_any_seed_says_less_than_before(before: Any, after: Any, fell: bool) -> None:
    assert compare(verdicts(*before), verdicts(*after)).fell is fell


def test_with_other_seeds_the_weakest_verdict_is_compared() -> None:
    old = summarise([row(0), row(1)])
    assert compare(old, summarise([row(5), row(6, claims=[claim("fails")])])).fell
    assert not compare(old, summarise([row(5), row(6)])).fell


def test_a_claim_that_is_gone_counts_as_fallen_and_a_new_one_does_not() -> None:
    one, two = summarise([row()]), summarise([row(claims=[claim(), claim(id="C2")])])
    assert compare(two, one).fell
    assert not compare(one, two).fell
    assert [(move.claim, move.how) for move in compare(one, two).verdicts] == [("C2", "new")]


def test_a_run_that_ends_no_more_counts_as_fallen() -> None:
    found = compare(summarise([row(0), row(1)]), summarise([row(0), failed(1)]))
    assert found.fell
    assert found.broken == [(("depth/x", "quick", "cpu"), 1)]


def test_numbers_that_moved_are_listed_by_the_size_of_their_change() -> None:
    def book_of(*values: tuple[float, float]) -> dict[Any, Any]:
        return summarise([row(s, claims=[claim(a=a, b=b, c=0.0)]) for s, (a, b) in enumerate(values)])

    moved = compare(book_of((1.0, 2.0), (1.0, 4.0)), book_of((1.04, 1.0), (1.0, 2.0), (9.0, 9.0))).values
    assert [(move.name, round(move.relative, 6)) for move in moved] == [("b", -0.5)]  # the new seed does not count
    assert compare(book_of((1.0, 1.0)), book_of((float("nan"), 1.0))).values[0].name == "a"


def test_the_page_says_what_moved_and_without_times_it_knows_no_machine() -> None:
    old, new = summarise([row()]), summarise([row(seconds=99.0, claims=[claim("fails", met=False)])])
    text = markdown(report(new, compare(old, new), baseline="v1"))
    assert "## Verdicts that moved against v1" in text
    assert "| depth/x (quick, cpu) | C1 | fell | holds | fails (seed 0) |" in text
    assert "| depth/x (quick, cpu) | 12.5 | 99 |" in text
    bare = markdown(report(new, compare(old, new), baseline="v1", times=False))
    assert "a CPU" not in bare
    assert "99" not in bare
    assert "fails (seed 0)" in bare


def test_numbers_of_a_clock_may_differ_by_half_and_are_left_out_of_reports_without_times() -> None:
    def run(slope: float, ratio: float, curve: float) -> dict[str, Any]:
        return row(
            claims=[claim(slope=slope, ratio=ratio)],
            figures={"race": {"n": [1.0, 2.0], "ours": [1.0, curve]}},
            clocked={"claims": {"C1": ["ratio"]}, "figures": {"race": ["ours"]}},
        )

    old, near, far = (summarise([run(*numbers)]) for numbers in ((1.0, 2.0, 2.0), (1.0, 2.8, 2.8), (1.0, 5.0, 8.0)))
    noise, change = compare(old, near), compare(old, far)
    assert (noise.values, noise.figures.moves) == ([], [])
    assert [(move.name, move.clocked) for move in change.values] == [("ratio", True)]
    assert [(move.series, move.clocked) for move in change.figures.moves] == [("ours", True)]
    with_times = markdown(report(far, change, baseline="v1"))
    assert "ratio ≈ 5" in with_times
    assert "| ratio | 2 | 5 | +150 % |" in with_times
    bare = [markdown(report(new, compare(old, new), baseline="v1", times=False)) for new in (near, far)]
    assert bare[0] == bare[1]
    assert "slope ≈ 1" in bare[0]
    moved = summarise([run(1.2, 2.0, 2.0)])
    assert "| slope | 1 | 1.2 | +20 % |" in markdown(report(moved, compare(old, moved), baseline="v1", times=False))


def test_a_row_says_which_numbers_came_from_a_clock() -> None:
    claims = [{"id": "C1", "clocked": ["ratio"]}, {"id": "C2", "clocked": []}, {"id": "C3"}]
    figures = [{"name": "race", "clocked": ["ours"]}, {"name": "old"}]
    clocked = clocked_of(claims, figures)
    assert clocked == {"claims": {"C1": ["ratio"]}, "figures": {"race": ["ours"]}}
    validate(row(clocked=clocked))
    with pytest.raises(BookError):
        validate(row(clocked={"claims": ["ratio"]}))


def test_a_report_lists_numbers_in_the_order_of_the_chapter_also_after_the_file(book: Book) -> None:
    book.open().append([row(claims=[claim(z=1.0, a=2.0)])])
    assert "z ≈ 1; a ≈ 2" in markdown(report(summarise(book.open().new_rows())))

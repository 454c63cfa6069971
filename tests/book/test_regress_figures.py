"""Figures in the ledger: a row keeps their data, and a report says which series moved against the baseline."""

from __future__ import annotations

import copy
import io
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkouts import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_regress_ledger import claim, failed, row

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.records import gather
from kexue_lib.book.regress.command import show_ledger
from kexue_lib.book.regress.compare import Comparison, compare
from kexue_lib.book.regress.figures import array, distance
from kexue_lib.book.regress.report import markdown, report
from kexue_lib.book.regress.row import validate
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.regress.summary import summarise

Rows = list[dict[str, Any]]


def drawn(*series: Any, name: str = "y") -> Rows:
    """A row for each seed, with a figure of one series; without, if that is ``...``."""
    return [row(s, figures={"curve": {} if y is ... else {name: y}}) for s, y in enumerate(series)]


def compared(old: Rows, new: Rows) -> Comparison:
    return compare(summarise(old), summarise(new))


def moves(old: Rows, new: Rows) -> list[tuple[str, float, str]]:
    return [(m.how, round(m.relative, 6), m.where) for m in compared(old, new).figures.moves]


def scaled(values: Any, factor: float) -> Any:
    if isinstance(values, list):
        return [scaled(value, factor) for value in values]
    return None if values is None else values * factor


NUMBERS = st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)
#: Series as chapters write them: a number, or an array of one or two axes, with gaps.
SERIES = st.one_of(
    NUMBERS,
    st.lists(NUMBERS | st.none(), max_size=6),
    st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(NUMBERS | st.none(), min_size=n, max_size=n), max_size=4)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(SERIES, min_size=1, max_size=4))
def test_the_same_figures_have_not_moved_whatever_their_shapes(series: list[Any]) -> None:
    found = compared(drawn(*series), drawn(*copy.deepcopy(series))).figures
    assert found.moves == []
    assert (found.compared, found.known) == (1, True)


@settings(max_examples=60, deadline=None)
@given(st.lists(SERIES, min_size=1, max_size=4), st.sampled_from([1.1, 0.8, -1.0]))
def test_a_scaled_series_has_moved_by_its_factor(series: list[Any], factor: float) -> None:
    old, new = drawn(*series), drawn(*(scaled(values, factor) for values in series))
    found = moves(old, new)
    arrays = [array(values) for values in series]
    if all(np.isnan(values).all() for values in arrays):
        assert found == []
    elif len({values.shape for values in arrays}) == 1:
        stack = np.stack(arrays)
        mean = np.ma.masked_invalid(stack).mean(axis=0)
        if float(np.abs(mean).max()) > 1e-6:  # seeds may cancel
            ((how, relative, _),) = found
            assert how == ""
            assert relative == pytest.approx(abs(factor - 1), rel=1e-4)
    else:  # no mean over seeds of different shapes
        ((how, relative, where),) = found
        assert how == ""
        assert relative == pytest.approx(abs(factor - 1), rel=1e-4)
        assert where.startswith("seed ")


def test_up_to_five_percent_a_series_has_not_moved_and_the_largest_difference_is_named() -> None:
    assert moves(drawn([3.0, 4.0]), drawn([3.0, 4.2])) == []
    assert moves(drawn([3.0, 4.0]), drawn([3.0, 4.5])) == [("", 0.1, "at [1]: 4 → 4.5")]
    assert moves(drawn(2.0), drawn(3.0)) == [("", 0.5, "2 → 3")]
    assert moves(drawn([0.0, 0.0]), drawn([0.0, 1.0])) == [("", float("inf"), "at [1]: 0 → 1")]


def test_the_means_over_the_common_seeds_are_compared() -> None:
    assert moves(drawn([1.0], [3.0]), drawn([3.0], [1.0])) == []
    assert moves(drawn([1.0], [3.0]), drawn([2.0], [4.0], [99.0])) == [("", 0.5, "at [0]: 2 → 3")]
    assert compared(drawn([1.0]), [row(5, figures={"curve": {"y": [9.0]}})]).figures.compared == 0


def test_places_without_a_number_are_left_out_and_told_when_they_came_or_went() -> None:
    gaps = [None, 1.0, None]
    assert moves(drawn(gaps), drawn(gaps)) == []
    assert moves(drawn([5.0, 1.0, None]), drawn([None, 1.0, 7.0])) == [("", 0.0, "1 value came, 1 value went")]
    assert moves(drawn([None, 1.0]), drawn([2.0, 2.0])) == [("", 1.0, "at [1]: 1 → 2; 1 value came")]
    # In one of two seeds: the place counts with the other seed.
    assert moves(drawn([1.0], [3.0]), drawn([1.0], [None])) == [("", 0.0, "1 value went")]
    relative, where = distance([np.array([np.nan])], [np.array([np.nan])])
    assert (relative, str(where)) == (0.0, "")


@pytest.mark.parametrize(
    ("old", "new", "how", "where"),
    [
        (([1.0],), ([1.0, 2.0],), "another shape", "(1,) → (2,)"),
        (([1.0], [1.0]), ([1.0], [[1.0]]), "another shape", "(1,) → (1, 1) for seed 1"),
        ((1.0,), (...,), "gone", ""),
        ((...,), (1.0,), "new", ""),
        ((1.0, 1.0), (1.0, ...), "gone", "for seed 1"),
        ((1.0, ...), (1.0, 1.0), "new", "for seed 1"),
    ],
)
def test_a_series_of_another_shape_a_lost_one_and_a_new_one_are_told(old: Any, new: Any, how: str, where: str) -> None:
    assert moves(drawn(*old), drawn(*new)) == [(how, 0.0, where)]


def test_where_the_shape_depends_on_the_seed_the_seed_that_moved_most_is_named() -> None:
    old = drawn([1.0], [1.0, 1.0], [2.0, 2.0, 2.0])
    assert moves(old, drawn([1.0], [1.0, 1.5], [2.0, 2.0, 2.2])) == [("", 0.353553, "seed 1 at [1]: 1 → 1.5")]
    assert moves(old, drawn([1.0], [1.0, None], [2.0, 2.0, 2.0])) == [("", 0.0, "seed 1: 1 value went")]


def test_rows_of_different_lengths_are_compared_too() -> None:
    """No chapter writes such a series, but a report has to survive it."""
    ragged = [[1.0], [2.0, None]]
    validate(row(figures={"curve": {"y": ragged}}))
    assert moves(drawn(ragged), drawn(ragged)) == []
    assert moves(drawn(ragged), drawn([[1.0], [3.0, None]])) == [("", 0.447214, "at [1]: 2 → 3")]


def test_moved_figures_are_listed_up_to_a_number_and_leave_the_verdict_alone() -> None:
    old = [row(figures={f"f{n}": {"a": [1.0], "b": [1.0]} for n in range(20)})]
    new = [row(figures={f"f{n}": {"a": [1.0 + n / 10], "b": [1.0]} for n in range(1, 20)})]
    found = compared(old, new)
    assert not found.fell
    lines = markdown(report(summarise(new), found, baseline="v1")).splitlines()
    at = lines.index("## Figures that moved")
    assert lines[at + 2] == "21 series moved (38 series compared over their common seeds)."
    listed = lines[at + 6 :]
    assert listed[0] == "| depth/x (quick, cpu) | f0 | a | gone |  |"
    assert listed[2] == "| depth/x (quick, cpu) | f19 | a | 190 % | at [0]: 1 → 2.9 |"
    many = compared([row(figures={"f": {f"s{n}": 1.0 for n in range(50)}})], [row(figures={"f": {"s0": 1.0}})])
    text = markdown(report(summarise(new), many, baseline="v1"))
    assert "49 series moved (1 series compared over their common seeds); 19 of them are not listed." in text
    assert text.count("| gone |") == 30


def test_a_baseline_without_figures_gives_one_sentence_and_one_that_agrees_another() -> None:
    new = drawn([1.0])
    text = markdown(report(summarise(new), compared([row()], new), baseline="v1"))
    assert "## Figures that moved\n\nv1 has no data of figures for these runs.\n\n## " in text
    text = markdown(report(summarise(new), compared(new, new), baseline="v1"))
    assert "No series has moved (1 series compared over their common seeds)." in text
    assert compared(new, [row()]).figures.moves == []  # a ledger of an earlier version lacks them all


def test_the_data_of_every_executed_chapter_fit_into_a_row_and_come_back_unmoved(tmp_path: Path) -> None:
    rows, series = [], 0
    for path in sorted((REPOSITORY / "book" / "chapters").glob("*/*.ipynb")):
        records = gather(json.loads(path.read_text(encoding="utf-8")))
        figures = {figure["name"]: figure["measured"] for figure in records.figures}
        series += sum(map(len, figures.values()))
        rows.append(row(chapter=f"{path.parent.name}/{path.stem}", figures=figures))
    assert len(rows) >= 11
    Ledger(tmp_path / "ledger.jsonl", tmp_path, print).append(rows)
    again = Ledger(tmp_path / "ledger.jsonl", tmp_path, print).new_rows()
    assert again == rows
    found = compared(rows, again).figures
    assert (found.moves, found.compared) == ([], series)
    other = [
        {**r, "figures": {f: {s: scaled(v, 1.1) for s, v in y.items()} for f, y in r["figures"].items()}} for r in rows
    ]
    relative = {round(move.relative, 6) for move in compared(rows, other).figures.moves}
    assert relative == {0.1}


@pytest.mark.parametrize("figures", [[], {"f": [1.0]}, {"f": {"y": "1"}}, {"f": {"y": [[True]]}}, {"f": {"y": {}}}])
def test_data_that_are_no_numbers_are_refused(figures: Any) -> None:
    with pytest.raises(BookError):
        validate(row(figures=figures))


# The page without times ----------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), runs=st.integers(1, 6))
def test_without_times_the_page_knows_neither_order_nor_machine_nor_date_nor_attempts(
    tmp_path_factory: pytest.TempPathFactory, seed: int, runs: int
) -> None:
    generator = random.Random(seed)
    rows = [
        row(s, chapter=chapter, scale=scale, claims=[claim(a=s * 0.1, b=1 / (s + 1))], figures={"f": {"y": [s, 1.0]}})
        for chapter in ("depth/x", "attention/y")
        for scale in ("quick", "full")
        for s in range(runs)
    ]
    rows.append(failed(runs))
    pages = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("ledger")
        again = [
            {
                **r, "machine": f"machine {generator.random()}", "seconds": generator.random(),
                "started": f"2026-01-{generator.randint(10, 28)}T03:04:05Z", "cpu_seconds": generator.random(),
                "peak_bytes": generator.randint(1, 99),
                "gpu_peak_bytes": None, "attempts": generator.randint(1, 3), "resumed": generator.random() < 0.5,
                "commit": None, "processes": generator.randint(1, 2),
            }
            for r in generator.sample(rows, len(rows))
        ]  # fmt: skip
        Ledger(folder / "ledger.jsonl", folder, print).append(again)
        base = [{**r, "figures": {"f": {"y": [r["seed"], 2.0]}}} for r in rows]
        Ledger(folder / "base.jsonl", folder, print).append(base)
        console = Console(file=io.StringIO())
        page = folder / "page.md"
        given_ = {"times": False, "output": page, "baseline": "base.jsonl"}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            (folder / "_config.yml").touch()
            show_ledger(Project(folder), folder / "ledger.jsonl", console, **given_)  # type: ignore[arg-type]
        pages.append(page.read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    assert "## Figures that moved" in pages[0]

"""What a chapter's page says of its full runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_regress_ledger import claim, row

from kexue_lib.book.full_record import from_other_library, full_note, newest_full, with_note
from kexue_lib.book.project import Project
from kexue_lib.book.regress.identity import combined

HERE = "0" * 64


def full(seed: int = 0, **changes: Any) -> dict[str, Any]:
    given = {"scale": "full", "device": "cuda", "machine": "NVIDIA <H100>", "seconds": 600.0}
    return row(seed, **{**given, **changes})


def test_without_a_full_run_the_page_says_so() -> None:
    assert "Not yet run in full" in full_note([], {"C1": "holds"}, HERE)


def test_a_full_run_is_named_with_date_device_versions_and_verdicts() -> None:
    note = full_note([full(0), full(1)], {"C1": "holds"}, HERE)
    assert "2026-01-02, on NVIDIA &lt;H100&gt;, torch 2.13.0, commit abc, seeds 0..1, 10 minutes: 1 holds." in note
    assert "The verdicts are those of this page." in note
    assert "earlier version" not in note


def test_verdicts_that_differ_from_the_page_and_between_seeds_are_named() -> None:
    rows = [full(0, claims=[claim(), claim("open", "C2")]), full(1, claims=[claim("fails"), claim("open", "C2")])]
    note = full_note(rows, {"C1": "holds", "C2": "open"}, HERE)
    assert "seeds 0..1, 10 minutes: 1 open, 1 holds or fails." in note
    assert "Other verdicts than on this page: C1 holds or fails (here: holds)." in note
    assert "C2 " not in note


def test_a_run_of_an_earlier_source_is_marked() -> None:
    assert "made with an earlier version of this chapter" in full_note([full()], {"C1": "holds"}, "1" * 64)


def test_a_run_with_other_files_of_the_library_is_marked() -> None:
    hashes = {"kexue_lib/a.py": "1", "kexue_lib/b.py": "2"}
    run = full(library={"hash": combined(hashes, ["kexue_lib/a.py"]), "files": ["kexue_lib/a.py"]})
    assert not from_other_library(run, {**hashes, "kexue_lib/b.py": "3"})
    assert from_other_library(run, {**hashes, "kexue_lib/a.py": "3"})
    said = "Files of the library that it loaded have changed since."
    assert said in full_note([run], {"C1": "holds"}, HERE, other_library=True)
    assert said not in full_note([run], {"C1": "holds"}, HERE)


def test_the_newest_full_runs_of_one_source_and_device_count() -> None:
    old = full(0, source="1" * 64, started="2025-01-01T00:00:00Z")
    rows = [full(1), row(5), full(2, status="failed"), old, full(0), full(3, chapter="depth/y", device="cpu")]
    found = newest_full(rows)
    assert {chapter: [r["seed"] for r in runs] for chapter, runs in found.items()} == {
        "depth/x": [0, 1],
        "depth/y": [3],
    }
    assert newest_full([full(0), full(1, device="cpu", started="2026-02-01T00:00:00Z")])["depth/x"][0]["seed"] == 1


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ("# T\n\n> post\n> more\n\ntext", "# T\n\n> post\n> more\n\nNOTE\n\ntext"),
        ("# T\n\ntext", "# T\n\nNOTE\n\ntext"),
        ("# T", "# T\n\nNOTE"),
    ],
)
def test_the_note_follows_the_quotation_that_names_the_post(source: str, made: str) -> None:
    notebook = {"cells": [{"cell_type": "markdown", "source": source}, {"cell_type": "code", "source": "x"}]}
    after = with_note(notebook, "NOTE")
    assert after["cells"][0]["source"] == made
    assert after["cells"][1:] == notebook["cells"][1:]
    assert notebook["cells"][0]["source"] == source


@pytest.mark.slow
def test_every_chapters_page_says_whether_it_was_run_in_full(site: Path) -> None:
    project = Project.find(Path(__file__))
    for chapter in project.chapters:
        page = (site / f"{chapter.page}.html").read_text(encoding="utf-8")
        assert page.count('class="kexue-full"') == 1, chapter.name

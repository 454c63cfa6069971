"""The page "Over seeds" says what the committed ledger says, claim by claim."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from kexue_lib.book.project import Project
from kexue_lib.book.regress.baseline import COMMITTED
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.seeds_page import seeds_page

REPOSITORY = Path(__file__).resolve().parents[2]
CHAPTERS = ("depth/why-residual", "attention/entropy-invariant-softmax")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "book" / "records").mkdir(parents=True)
    shutil.copy(REPOSITORY / "book" / "plan.yml", tmp_path / "book" / "plan.yml")
    return Project(tmp_path)


def row(chapter: str, seed: int, verdict: str = "holds", value: float = 0.5, **changes: Any) -> dict[str, Any]:
    claim = {
        "id": "C1", "claim": "$x$ | grows", "verdict": verdict, "criteria": {"rule": verdict == "holds"},
        "measured": {"slope": value},
    }  # fmt: skip
    return {
        "schema": 1, "chapter": chapter, "scale": "quick", "device": "cpu", "seed": seed, "source": "0" * 64,
        "library": {"hash": "1" * 64, "files": ["kexue_lib/__init__.py"]}, "versions": {"python": "3.11.7"},
        "commit": None, "started": "2026-01-02T03:04:05Z", "seconds": 1.0, "cpu_seconds": None, "peak_bytes": None,
        "gpu_peak_bytes": None, "machine": "a CPU", "attempts": 1, "resumed": False, "status": "done",
        "claims": [claim], "error": None, "steps": None, **changes,
    }  # fmt: skip


def commit(project: Project, *rows: dict[str, Any]) -> str:
    ledger = Ledger(project.root / COMMITTED, project.root, print)
    ledger.append(list(rows))
    ledger.close()
    return seeds_page(project)


def test_without_a_committed_ledger_the_page_says_so(project: Project) -> None:
    assert f"No regression has been committed yet (`{COMMITTED}`)." in seeds_page(project)


def test_each_claim_has_its_verdicts_its_numbers_and_the_way_to_its_chapter(project: Project) -> None:
    page = commit(project, *(row(CHAPTERS[0], seed, value=1.0 + seed) for seed in range(3)))
    assert page.startswith("# Over seeds\n")
    assert "2026-01-02" in page
    assert "## Why do we need residuals? A DeepNet point of view\n" in page
    assert "[C1](chapters/depth/why-residual.ipynb#C1) $x$ | grows" in page
    assert "holds\N{NO-BREAK SPACE}3/3" in page
    assert "slope\N{NO-BREAK SPACE}≈\N{NO-BREAK SPACE}2 ± 2.5 (1 … 3)" in page
    assert "None: every claim has the same verdict with every seed." in page
    assert "kx-claim kx-holds" in page


def test_a_claim_that_depends_on_the_seed_is_named_with_the_reason(project: Project) -> None:
    rows = [row(CHAPTERS[0], 0), row(CHAPTERS[0], 1), row(CHAPTERS[0], 2, "fails", 0.1)]
    page = commit(project, *rows)
    assert "None: every claim" not in page
    above = page.split("## Why do we need residuals?")[0]
    assert "(holds\N{NO-BREAK SPACE}2/3, fails\N{NO-BREAK SPACE}1/3)" in above
    assert "criterion “rule” is not met by seed 2 (slope 0.1, other seeds 0.5)" in above
    assert "| 3 | 1 | 0 | 1 | 0 | 0 | 0 |" in above  # seeds, claims, stable, holds, partly, fails, open


def test_chapters_come_in_the_books_order_and_other_scales_are_told_apart(project: Project) -> None:
    page = commit(project, *(row(name, 0) for name in CHAPTERS), row(CHAPTERS[0], 0, scale="full", device="cuda"))
    places = [page.index(f"\n## {title}") for title in ("A quick derivation", "Why do we need residuals? A")]
    assert places == sorted(places)
    assert "## Why do we need residuals? A DeepNet point of view (full, cuda)\n" in page


def test_a_run_that_did_not_end_well_is_told(project: Project) -> None:
    error = {"message": "boom", "place": None, "traceback": ""}
    page = commit(project, row(CHAPTERS[0], 0), row(CHAPTERS[0], 1, status="failed", claims=[], error=error))
    assert "Seed 1 did not end well: failed." in page

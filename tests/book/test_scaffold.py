"""`kexue new`: a chapter that converts, runs, passes every check and is audited as it is; and a wrong step in it."""

from __future__ import annotations

import shutil

import pytest
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.cards import read_card
from kexue_lib.book.plan import disagreements, read_plan
from kexue_lib.book.project import Project
from kexue_lib.book.scaffold import chapter_text


def test_the_scaffold_of_every_planned_chapter_has_a_card_that_agrees_with_the_plan(checkout: Checkout) -> None:
    plan = read_plan(Project(REPOSITORY))
    for planned in plan:
        path = checkout.write(f"notebooks/{planned.name}.py", "")
        path.write_text(chapter_text(planned), encoding="utf-8")
        assert disagreements(read_card(path), plan) == []
        assert "«" not in path.read_text(encoding="utf-8").replace(planned.title_zh, "")


@pytest.fixture
def real(checkout: Checkout) -> Checkout:
    """A checkout with the real library and a new chapter."""
    shutil.rmtree(checkout.root / "kexue_lib")
    shutil.copytree(REPOSITORY / "kexue_lib", checkout.root / "kexue_lib", ignore=shutil.ignore_patterns("__pycache__"))
    checkout.write("_toc.yml", "format: jb-book\nroot: book/index\nchapters:\n- file: book/chapters/gated/gau-warmup\n")
    done = checkout.kexue("new", "gau-warmup")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "- file: book/chapters/gated/gau-warmup" in done.stdout
    return checkout


@pytest.mark.slow
def test_a_new_chapter_runs_and_passes_every_check_as_it_is(real: Checkout) -> None:
    done = real.kexue("build", "--no-html", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without teeth" not in done.stdout
    done = real.kexue("check")
    assert done.returncode == 0, done.stdout + done.stderr
    text = real.executed("gau-warmup").read_text(encoding="utf-8")
    assert '"alt": "Five points from n = 16' in text
    assert text.count('"verdict": "holds"') == 2


@pytest.mark.slow
def test_a_wrong_step_fails_the_build_with_a_counterexample_and_names_step_and_cell(real: Checkout) -> None:
    source = real.project.chapters[0].source
    text = source.read_text(encoding="utf-8")
    wrong = text.replace("eq(square - mean**2, 4 * p * (1 - p))", "eq(square - mean**2, 4 * p * (1 + p))")
    assert wrong != text
    source.write_text(wrong, encoding="utf-8")
    line = wrong.splitlines().index(next(row for row in wrong.splitlines() if row.startswith("D1 = "))) + 1
    done = real.kexue("build", "--no-html", timeout=300)
    assert done.returncode == 1
    assert f"gated/gau-warmup: failed in cell 6 (notebooks/gated/gau-warmup.py:{line}): StepRefuted" in done.stdout
    assert "Step D1 is false" in done.stdout
    assert "left side" in done.stdout
    assert not real.executed("gau-warmup").exists()

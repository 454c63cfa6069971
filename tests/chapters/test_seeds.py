"""Verdicts do not depend on the seed: every chapter is run by `kexue run` with other seeds and compared.

The committed notebook is the run with seed 0; that it gives the same verdicts again is tested by test_nbval.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import Records, gather

PROJECT = Project(Path(__file__).resolve().parents[2])
SEEDS = (1, 2)


def verdicts(records: Records) -> dict[str, str]:
    return {claim["id"]: claim["verdict"] for claim in records.claims}


def run(chapter: Chapter, seed: int, folder: Path) -> tuple[Records | None, str]:
    """Run a chapter with a seed as a user would; gives the records, or None and what was said."""
    output = folder / f"{chapter.slug}-{seed}.ipynb"
    command = [
        *(sys.executable, "-m", "kexue_lib.book.cli", "--root", str(PROJECT.root)),
        *("run", chapter.name, "-p", "seed", str(seed), "-o", str(output)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    return (gather(json.loads(output.read_text(encoding="utf-8"))), said) if done.returncode == 0 else (None, said)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Chapter, int], tuple[Records | None, str]]:
    """The run of a chapter with a seed; made once."""
    folder = tmp_path_factory.mktemp("seeds")
    return cache(lambda chapter, seed: run(chapter, seed, folder))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("chapter", "seed"),
    [(chapter, seed) for chapter in PROJECT.chapters for seed in SEEDS],
    ids=lambda value: getattr(value, "slug", value),
)
def test_the_verdicts_and_the_proofs_are_those_of_the_committed_run(
    chapter: Chapter, seed: int, result: Callable[[Chapter, int], tuple[Records | None, str]]
) -> None:
    records, said = result(chapter, seed)
    assert records is not None, said
    committed = gather(read_executed(chapter))
    assert committed.run["parameters"]["seed"] == 0
    assert records.run["parameters"] == {**committed.run["parameters"], "seed": seed}
    assert verdicts(records), "a chapter without claims"
    assert verdicts(records) == verdicts(committed)
    assert [(s["id"], s["status"]) for s in records.steps] == [(s["id"], s["status"]) for s in committed.steps]
    for claim in records.claims:
        assert f"{claim['id']}" in said, "`kexue run` prints the claims"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chapter", PROJECT.chapters, ids=lambda chapter: chapter.slug)
def test_the_seed_reaches_the_experiment(
    chapter: Chapter, result: Callable[[Chapter, int], tuple[Records | None, str]]
) -> None:
    """Otherwise equal verdicts would mean nothing: some measured value differs between the seeds."""
    measured = []
    for seed in SEEDS:
        records, said = result(chapter, seed)
        assert records is not None, said
        measured.append({claim["id"]: claim.get("measured") for claim in records.claims})
    if any(any(values.values()) for values in measured):
        assert measured[0] != measured[1], f"{chapter.name}: seeds {SEEDS} measure the same to the last digit"

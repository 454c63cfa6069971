"""Verdicts do not depend on the seed: every chapter is run by `kexue run` with other seeds and compared.

The committed notebook is the run with seed 0; that it gives the same verdicts again is tested by test_nbval.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import Records, gather

PROJECT = Project(Path(__file__).resolve().parents[2])
SEEDS = (1, 2)
RUNS = [(chapter, seed) for chapter in PROJECT.chapters for seed in SEEDS]


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
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], tuple[Records | None, str]]:
    """All runs, as many at a time as there are cores (each uses one)."""
    folder = tmp_path_factory.mktemp("seeds")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        done = pool.map(lambda what: run(*what, folder), RUNS)
        return {(chapter.name, seed): result for (chapter, seed), result in zip(RUNS, done, strict=True)}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("chapter", "seed"), RUNS, ids=lambda value: getattr(value, "slug", value))
def test_the_verdicts_and_the_proofs_are_those_of_the_committed_run(
    chapter: Chapter, seed: int, results: dict[tuple[str, int], tuple[Records | None, str]]
) -> None:
    records, said = results[chapter.name, seed]
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
def test_the_seed_reaches_the_experiment(results: dict[tuple[str, int], tuple[Records | None, str]]) -> None:
    """Otherwise equal verdicts would mean nothing: some measured value differs between the seeds."""
    for chapter in PROJECT.chapters:
        measured = []
        for seed in SEEDS:
            records, said = results[chapter.name, seed]
            assert records is not None, said
            measured.append({claim["id"]: claim.get("measured") for claim in records.claims})
        if any(any(values.values()) for values in measured):
            assert measured[0] != measured[1], f"{chapter.name}: seeds {SEEDS} measure the same to the last digit"

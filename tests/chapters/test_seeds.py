"""Verdicts do not depend on the seed: every chapter is run by `kexue run` with another seed and compared.

The committed notebook is the run with seed 0; that it gives the same verdicts again is tested by test_nbval. Seeds 1
and 2 take turns, chapter by chapter; with ``--thorough`` each chapter is run with both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each chapter with one of the seeds, or with all of them."""
    thorough = metafunc.config.getoption("--thorough")
    seeds = {c: SEEDS if thorough else (SEEDS[k % len(SEEDS)],) for k, c in enumerate(PROJECT.chapters)}
    runs = [(chapter, seed) for chapter, some in seeds.items() for seed in some]
    metafunc.parametrize(("chapter", "seed"), runs, ids=[f"{chapter.slug}-{seed}" for chapter, seed in runs])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_another_seed_measures_other_numbers_and_gives_the_verdicts_and_proofs_of_the_committed_run(
    chapter: Chapter, seed: int, tmp_path: Path
) -> None:
    records, said = run(chapter, seed, tmp_path)
    assert records is not None, said
    committed = gather(read_executed(chapter))
    assert committed.run["parameters"]["seed"] == 0
    assert records.run["parameters"] == {**committed.run["parameters"], "seed": seed}
    assert verdicts(records), "a chapter without claims"
    assert verdicts(records) == verdicts(committed)
    assert [(s["id"], s["status"]) for s in records.steps] == [(s["id"], s["status"]) for s in committed.steps]
    for claim in records.claims:
        assert f"{claim['id']}" in said, "`kexue run` prints the claims"
    # Equal verdicts would mean nothing if the seed did not reach the experiment.
    measured, before = ({claim["id"]: claim.get("measured") for claim in of.claims} for of in (records, committed))
    if any(before.values()):
        assert measured != before, f"{chapter.name}: seed {seed} measures the same as seed 0, to the last digit"

"""Every check of every chapter has teeth: the mutation audit, run again outside the pipeline, leaves no survivor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from kexue_lib.book.audit_run import audited_cells, read_audit
from kexue_lib.book.project import Chapter, Project

PROJECT = Project(Path(__file__).resolve().parents[2])

# Run the cells of a derivation as a plain program, audit what they made, and print the reports.
PROGRAM = """
import json, sys
from kexue_lib.derive import Derivation
from kexue_lib.derive.audit import audit
space = {}
for cell in json.load(sys.stdin):
    exec(compile(cell, "<cell>", "exec"), space)
found = {id(value): value for value in space.values() if isinstance(value, Derivation)}
reports = [audit(derivation, budget=240) for derivation in found.values()]
print("REPORTS" + json.dumps([{**report.record(), "passed": report.passed} for report in reports]))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chapter", PROJECT.chapters, ids=lambda chapter: chapter.slug)
def test_no_mutant_survives_and_the_committed_record_says_so(chapter: Chapter, tmp_path: Path) -> None:
    cells = [cell["source"] for cell in audited_cells(jupytext.read(chapter.source))]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT.root), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(cells),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(done.stdout.rpartition("REPORTS")[2])
    assert reports, "the chapter makes no derivation"
    for report in reports:
        survivors = {step["id"]: step["survived"] for step in report["steps"] if step["survived"]}
        assert report["passed"], f"survivors: {survivors}; not run: {report['not_run']}"
        assert all(step["killed"] for step in report["steps"])
    committed = read_audit(chapter)
    assert committed is not None
    totals = ("derivation", "killed", "equivalent", "implied", "survived")
    assert [[r[k] for k in totals] for r in reports] == [[r[k] for k in totals] for r in committed.derivations]

"""Every check of every chapter has teeth: the mutation audit, run again outside the pipeline, leaves no survivor.

`kexue build` audits every step of a chapter that changed, and `kexue check` refuses a record that is out of date. Here
a third of the steps is audited once more, each chapter beginning at another one, and compared with the record; with
``--thorough`` all are.
"""

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

# Run the cells of a derivation as a plain program, audit steps of what they made, and print the reports.
PROGRAM = """
import json, sys
from kexue_lib.derive import Derivation
from kexue_lib.derive.audit import audit
job = json.load(sys.stdin)
space = {}
for cell in job["cells"]:
    exec(compile(cell, "<cell>", "exec"), space)
reports = []
for derivation in {id(value): value for value in space.values() if isinstance(value, Derivation)}.values():
    steps = derivation.checked_parts()
    derivation.checked_parts = lambda: steps[job["first"] :: job["stride"]]
    report = audit(derivation, budget=240)
    reports.append({**report.record(), "passed": report.passed, "of": [step.id for step in steps]})
print("REPORTS" + json.dumps(reports))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("chapter", PROJECT.chapters, ids=lambda chapter: chapter.slug)
def test_no_mutant_survives_and_the_committed_record_says_so(
    chapter: Chapter, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    stride = 1 if pytestconfig.getoption("--thorough") else 3
    first = PROJECT.chapters.index(chapter) % stride
    cells = [cell["source"] for cell in audited_cells(jupytext.read(chapter.source))]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT.root), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "random"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps({"cells": cells, "first": first, "stride": stride}),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = json.loads(done.stdout.rpartition("REPORTS")[2])
    assert reports, "the chapter makes no derivation"
    committed = read_audit(chapter)
    assert committed is not None
    assert [report["derivation"] for report in reports] == [record["derivation"] for record in committed.derivations]
    counts = ("id", "killed", "equivalent", "implied", "survived")
    for report, record in zip(reports, committed.derivations, strict=True):
        survivors = {step["id"]: step["survived"] for step in report["steps"] if step["survived"]}
        assert report["passed"], f"survivors: {survivors}; not run: {report['not_run']}"
        assert [step["id"] for step in record["steps"]] == report["of"], "the record has every step"
        found = [[step[key] for key in counts] for step in report["steps"]]
        assert found == [[step[key] for key in counts] for step in record["steps"][first::stride]]

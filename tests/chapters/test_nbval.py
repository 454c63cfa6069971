"""The committed notebooks, executed again and compared output by output.

Verdicts, statuses, proofs and exact values have to be equal to the letter; only what is marked as measured is masked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pytest
from nbclient import NotebookClient

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project

HERE = Path(__file__).resolve().parent
PROJECT = Project(HERE.parents[1])
Notebook = dict[str, Any]


def nbval(folder: Path) -> dict[str, list[str]]:
    """Execute and compare all notebooks in a folder; gives what failed, by notebook."""
    (folder / "empty.ini").write_text("[pytest]\n", encoding="utf-8")
    report = folder / "report.xml"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-c", str(folder / "empty.ini"), "--rootdir", str(folder)),
        *("-p", "kexue_nbval", "-p", "no:cacheprovider", f"--junit-xml={report}"),
        *("--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(HERE / "nbval.cfg")),
        *("--nbval-cell-timeout", "600", "--nbval-kernel-startup-timeout", "300"),
        str(folder),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), str(PROJECT.root)]),
        "KEXUE_PROGRESS": "0",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    failed: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["classname"].rpartition(".ipynb")[0].rpartition(".")[2] or case.attrib["classname"]
        lines = failed.setdefault(name, [])
        for fault in [*case.findall("failure"), *case.findall("error")]:
            text = re.sub(r"(?:\x1b|#x1B)\[[0-9;]*m", "", fault.text or "")
            lines.append(f"{case.attrib['name']}: {text[:3000]}")
    return failed


def write(folder: Path, name: str, notebook: Notebook) -> None:
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# The chapters
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chapter", PROJECT.chapters, ids=lambda chapter: chapter.slug)
def test_the_chapter_gives_the_committed_outputs_again(chapter: Chapter, tmp_path: Path) -> None:
    write(tmp_path, chapter.slug, read_executed(chapter))
    failed = nbval(tmp_path)
    assert failed.keys() == {chapter.slug}
    said = "\n".join(failed[chapter.slug])
    assert not said, said


# ---------------------------------------------------------------------------------------------------------------------
# The comparison has teeth, and masks what it should
# ---------------------------------------------------------------------------------------------------------------------

SOURCES = [
    "from IPython.display import display\nscale = 'quick'",
    "print('slope ≈ 0.842 ± 0.010, proved')",
    """display({
    "text/markdown": "| **C1** | ≈ 0.842 | **partly** |",
    "text/plain": "C1 partly",
    "application/vnd.kexue.claims+json": {"schema": 1, "chapter": "x", "claims": [{
        "id": "C1", "measured": {"slope": 0.8421, "curve": [1.0, 2.0]}, "verdict": "partly",
        "criteria": [{"name": "a", "met": True}, {"name": "b", "met": False}]}]},
}, raw=True)""",
    """display({
    "text/markdown": "$$ x = x \\\\tag{D1} $$",
    "text/plain": "D1 proved",
    "application/vnd.kexue.step+json": {"schema": 1, "id": "D1", "status": "proved", "latex": "x = x"},
}, raw=True)""",
]


@pytest.fixture(scope="module")
def executed() -> Notebook:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SOURCES])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return json.loads(nbformat.writes(notebook))


def replaced(old: str, new: str) -> Callable[[Notebook], Notebook]:
    """An edit of the outputs (the sources stay as they are)."""

    def edit(notebook: Notebook) -> Notebook:
        changed = json.loads(json.dumps(notebook))
        for cell in changed["cells"]:
            text = json.dumps(cell["outputs"], ensure_ascii=False)
            cell["outputs"] = json.loads(text.replace(old, new))
        assert changed != notebook, f"{old!r} is in no output"
        return changed

    return edit


FINE = {
    "as-it-is": lambda notebook: notebook,
    "another-measured-number": replaced("≈ 0.842", "≈ 0.851"),
    "another-measured-value-in-a-record": replaced("0.8421", "0.9"),
}
WRONG = {
    "another-verdict": replaced('"verdict": "partly"', '"verdict": "holds"'),
    "another-verdict-in-the-table": replaced("**partly**", "**holds**"),
    "a-criterion-that-was-not-met": replaced('"met": false', '"met": true'),
    "another-status": replaced('"status": "proved"', '"status": "sampled"'),
    "another-equation": replaced("$$ x = x", "$$ x = y"),
    "another-printed-word": replaced(", proved", ", sampled"),
    "another-name-of-a-measured-value": replaced('"slope"', '"gradient"'),
    "a-shorter-curve": replaced("[1.0, 2.0]", "[1.0]"),
    "a-missing-record": replaced("vnd.kexue.step", "vnd.kexue.other"),
}


@pytest.mark.slow
def test_a_changed_output_fails_unless_it_is_marked_as_measured(executed: Notebook, tmp_path: Path) -> None:
    for name, edit in {**FINE, **WRONG}.items():
        write(tmp_path, name, edit(executed))
    failed = nbval(tmp_path)
    assert failed.keys() == FINE.keys() | WRONG.keys()
    for name in FINE:
        assert failed[name] == [], name
    for name in WRONG:
        assert len(failed[name]) == 1, f"{name}: {failed[name]}"


@pytest.mark.slow
def test_a_deliberately_changed_output_of_a_chapter_fails(tmp_path: Path) -> None:
    """Of a real chapter: the status of its first step. The cells after it are left out, to save time."""
    (chapter, *_) = PROJECT.chapters
    notebook = read_executed(chapter)
    mime = "application/vnd.kexue.step+json"
    index, output = next(
        (index, output)
        for index, cell in enumerate(notebook["cells"])
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    )
    notebook["cells"] = notebook["cells"][: index + 1]
    write(tmp_path, "good", notebook)
    record = output["data"][mime]
    record["status"] = "unchecked" if record["status"] == "proved" else "proved"
    write(tmp_path, "changed", notebook)
    failed = nbval(tmp_path)
    assert failed["good"] == []
    assert len(failed["changed"]) == 1
    assert mime in failed["changed"][0]


def test_the_mask_is_the_pattern_by_which_the_bench_prints() -> None:
    from kexue_lib.lab.numbers import PATTERN, approx

    (pattern,) = re.findall(r"^regex: (.*)$", (HERE / "nbval.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert pattern == PATTERN
    for text in (approx(0.8421), approx(-3.0e-9), approx(0.8421, sd=0.01)):
        assert re.sub(pattern, "≈ #", text) == "≈ #"

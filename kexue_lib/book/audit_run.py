"""The mutation audits of the chapters and their records, ``book/records/<part>/<slug>.audit.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kexue_lib.book.chapters import Options
from kexue_lib.book.errors import BookError
from kexue_lib.book.execute import Job
from kexue_lib.book.notebooks import read_executed, text
from kexue_lib.book.pins import installed, public, read_pins
from kexue_lib.book.place import digest, place
from kexue_lib.book.progress import Progress
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import gather
from kexue_lib.book.report import Failure, failure
from kexue_lib.book.schedule import run_jobs
from kexue_lib.book.staleness import changed_files, changed_pins, library_hashes
from kexue_lib.book.workplace import workplace

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds for the audit of one derivation.
BUDGET = 240.0

#: Code cells that the audit does not run.
SKIPPED = frozenset({"setup", "experiment"})

_COUNTS = ("killed", "equivalent", "implied", "survived")


@dataclass(frozen=True)
class Audit:
    """The record of a chapter's audit, as read from its file."""

    derivations: tuple[dict[str, Any], ...]

    def counts(self) -> dict[str, int]:
        """How many mutants were killed, are equivalent or implied, and survived."""
        return {key: sum(int(d[key]) for d in self.derivations) for key in _COUNTS}

    def killed_by_step(self) -> dict[str, int]:
        """How many mutants of each step were killed, by the step's id."""
        return {step["id"]: int(step["killed"]) for d in self.derivations for step in d["steps"]}

    def problems(self) -> list[str]:
        """A line for each step that has surviving mutants, or whose mutants were not killed a single time."""
        found = []
        for derivation in self.derivations:
            for step in derivation["steps"]:
                name = f"{derivation['derivation']} {step['id']}"
                found += [f"{name}: the mutant survives: {mutant}" for mutant in step["survived"]]
                if not step["killed"] and not step["survived"]:
                    found.append(f"{name}: no mutant was killed, so nothing shows that the check can fail")
        return found


def audited_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The code cells that an audit runs: all but the setup cell and those tagged ``experiment``."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not SKIPPED & set(cell["metadata"].get("tags", []))
    ]


def read_audit(chapter: Chapter) -> Audit | None:
    """The chapter's audit record, None if there is none or it cannot be read."""
    record = _read(chapter)
    return Audit(tuple(record["derivations"])) if record else None


def stale_audit(chapter: Chapter, project: Project, library: dict[str, str]) -> list[str]:
    """Why the audit has to be run again; empty if its record is fresh.

    It rests on the cells it runs, on the files of ``kexue_lib`` that they load (other than the experiments' bench and
    this pipeline) and on the pinned SymPy and mpmath.
    """
    record = _read(chapter)
    if record is None:
        return ["there is no audit record"]
    found = []
    if record["cells"] != _cells_hash(read_executed(chapter)):
        found.append("the derivation has changed")
    return found + changed_files(record["library"], library) + changed_pins(record["packages"], read_pins(project))


def run_audits(
    project: Project, chapters: Sequence[Chapter], options: Options, console: Console
) -> tuple[list[str], list[Failure]]:
    """Audit chapters (whose executed notebooks are fresh) and write their records.

    Returns the names of the chapters audited, and the failures: a cell that fails without the experiments before it,
    a derivation that the notebook shows and the audit does not find, mutants for which no time was left.
    """
    notebooks = {c.name: read_executed(c) for c in chapters}
    by_name = {c.name: c for c in chapters}
    library = library_hashes(project)
    done, failures = [], []
    with workplace(project) as work:
        jobs = [
            Job(
                name=c.name,
                module="kexue_lib.book.audit_child",
                notebook=json.dumps(notebooks[c.name]),
                library=str(project.library),
                scratch=str(work.scratch / f"{c.slug}-audit"),
                cache=str(work.cache),
                timeout=options.timeout,
                options={"cells": [cell["id"] for cell in audited_cells(notebooks[c.name])], "budget": BUDGET},
            )
            for c in chapters
        ]
        with Progress(console, {job.name: job.progress for job in jobs}, "audit of ") as progress:
            for job, result in run_jobs(jobs, workers=options.workers, keep_going=True, tick=progress.tick):
                chapter = by_name[job.name]
                assert result is not None
                if result["status"] == "done":
                    result = _refuse_unfinished(_refuse_unseen(notebooks[job.name], result))
                if result["status"] == "done":
                    record = _record(chapter, notebooks[job.name], result, library, project)
                    place(
                        chapter.audit,
                        json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
                        work.scratch,
                    )
                    done.append(job.name)
                else:
                    source = chapter.source.read_text(encoding="utf-8")
                    failures.append(failure(chapter, source, notebooks[job.name], {**result, "status": "audit failed"}))
                progress.ended(job.name, result["status"], result["seconds"])
    return done, failures


def _refuse_unseen(notebook: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    shown = {step["derivation"] for step in gather(notebook).steps}
    missing = shown - {record["derivation"] for record in result["records"]}
    if not missing:
        return result
    message = (
        f"the notebook shows steps of {', '.join(sorted(missing))}, but no Derivation of that name is left in the "
        "chapter's names after its derivation cells: keep each Derivation in a variable, outside of cells tagged "
        "experiment"
    )
    return {**result, "status": "failed", "message": message}


def _refuse_unfinished(result: dict[str, Any]) -> dict[str, Any]:
    not_run = sum(record.get("not_run", 0) for record in result.get("records", []))
    if result["status"] != "done" or not not_run:
        return result
    message = f"{not_run} mutants were not run within {BUDGET:g} s: make the steps' evidence quicker, or split it"
    return {**result, "status": "failed", "message": message}


def _record(
    chapter: Chapter, notebook: dict[str, Any], result: dict[str, Any], library: dict[str, str], project: Project
) -> dict[str, Any]:
    pins = read_pins(project)
    used = [f for f in result["files"] if f in library and not f.startswith(("kexue_lib/lab/", "kexue_lib/book/"))]
    return {
        "schema": 1,
        "chapter": chapter.slug,
        "cells": _cells_hash(notebook),
        "library": {name: library[name] for name in used},
        "packages": {n: public(v) for n in ("mpmath", "sympy") if n in pins and (v := installed(n))},
        # Whether a mutant was killed with a counterexample can depend on the machine's speed, so it is not kept.
        "derivations": [
            {
                **record,
                "steps": [{k: v for k, v in s.items() if k != "without_counterexample"} for s in record["steps"]],
            }
            for record in result["records"]
        ],
    }


def _cells_hash(notebook: dict[str, Any]) -> str:
    return digest("\0".join(text(cell["source"]) for cell in audited_cells(notebook)))


def _read(chapter: Chapter) -> dict[str, Any] | None:
    try:
        record = json.loads(chapter.audit.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    keys = {"cells": str, "library": dict, "packages": dict, "derivations": list}
    if not isinstance(record, dict) or any(not isinstance(record.get(k), t) for k, t in keys.items()):
        return None
    return record


def missing_executed(chapter: Chapter) -> bool:
    """Whether there is no readable executed notebook to audit."""
    try:
        read_executed(chapter)
    except BookError:
        return True
    return False

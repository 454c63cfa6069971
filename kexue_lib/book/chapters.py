"""Executing chapters: jobs out, finished notebooks and failures in."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib.book.conditions import forget_failure, note_failure
from kexue_lib.book.config import Config
from kexue_lib.book.convert import parameters_of, to_notebook
from kexue_lib.book.errors import BookError
from kexue_lib.book.execute import Job
from kexue_lib.book.pins import public, read_pins
from kexue_lib.book.place import digest, place
from kexue_lib.book.postprocess import UnsteadyOutput, finish, refuse_unsteady, write
from kexue_lib.book.progress import Progress
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.report import Failure, failure
from kexue_lib.book.schedule import run_jobs
from kexue_lib.book.staleness import library_hashes
from kexue_lib.book.workplace import workplace

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Options:
    """How chapters are run.

    Args:
        workers: how many at a time.
        timeout: seconds for each chapter.
        keep_going: go on with the other chapters after one has failed.
        any_versions: accept other versions than the pinned ones.
        processes: how many run each chapter together, by ``torchrun``.
        checkpoints: where trainings keep their state, to go on after a crash.
    """

    workers: int = 1
    timeout: float = 300.0
    keep_going: bool = False
    any_versions: bool = False
    processes: int = 1
    checkpoints: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of the chapters: the names of those done, the failures, the names of those not begun."""

    done: tuple[str, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]


def execute_chapters(
    project: Project,
    config: Config,
    chapters: Sequence[Chapter],
    options: Options,
    console: Console,
    *,
    parameters: dict[str, Any] | None = None,
    target: Path | None = None,
) -> Outcome:
    """Run chapters and write each executed notebook when, and only when, its run has ended well.

    Args:
        project: the checkout.
        config: its configuration.
        chapters: what to run.
        options: how to run it.
        console: where the progress is shown.
        parameters: values that replace the chapters' own (a run of its own, not for the book).
        target: where to write the notebook of such a run, instead of under ``book/chapters``.

    Raises:
        BookError: wrong card or source, or a run loaded another version than the pinned one.
    """
    sources = {c.name: c.source.read_text(encoding="utf-8") for c in chapters}
    converted = {c.name: json.loads(json.dumps(to_notebook(c.source, config))) for c in chapters}
    library = library_hashes(project)
    done, failures, skipped = [], [], []
    with workplace(project) as work:
        jobs = [
            Job(
                name=c.name,
                module="kexue_lib.book.runner",
                notebook=json.dumps(converted[c.name]),
                library=str(project.library),
                scratch=str(work.scratch / c.slug),
                cache=str(work.cache),
                timeout=options.timeout,
                parameters=parameters or {},
                processes=options.processes,
                checkpoints=str(options.checkpoints) if options.checkpoints else None,
            )
            for c in chapters
        ]
        by_name = {c.name: c for c in chapters}
        with Progress(console, {job.name: job.progress for job in jobs}) as progress:
            results = run_jobs(jobs, workers=options.workers, keep_going=options.keep_going, tick=progress.tick)
            for job, result in results:
                chapter = by_name[job.name]
                if result is None:
                    skipped.append(job.name)
                    progress.ended(job.name, "skipped", 0.0)
                    continue
                if result["status"] == "done":
                    run = _run_record(sources[job.name], converted[job.name], result, library, project, options, job)
                    try:
                        notebook = finish(json.loads(result["notebook"]), converted[job.name], run)
                        if target is None:
                            refuse_unsteady(notebook, _folders(project))
                    except UnsteadyOutput as error:
                        result = {**result, "status": "failed", "cell": error.cell, "message": str(error)}
                    else:
                        place(target or chapter.executed, write(notebook), work.scratch)
                        done.append(job.name)
                        if target is None:
                            forget_failure(project, chapter)
                if result["status"] != "done":
                    failures.append(failure(chapter, sources[job.name], converted[job.name], result))
                    _keep_for_inspection(project, chapter, failures[-1], result, work.scratch)
                    if target is None:
                        note_failure(project, chapter, failures[-1], digest(sources[job.name]), work.scratch)
                progress.ended(job.name, result["status"], result["seconds"])
    return Outcome(tuple(done), tuple(failures), tuple(skipped))


def _run_record(
    source: str,
    converted: dict[str, Any],
    result: dict[str, Any],
    library: dict[str, str],
    project: Project,
    options: Options,
    job: Job,
) -> dict[str, Any]:
    pins = read_pins(project)
    packages = {name: public(version) for name, version in sorted(result["distributions"].items()) if name in pins}
    other = [f"{n}: loaded {v}, pinned {pins[n]}" for n, v in packages.items() if v != pins[n]]
    if other and not options.any_versions:
        raise BookError(
            f"{job.name} was run with other versions than the pinned ones ({'; '.join(other)}), so its notebook was "
            "not kept. Install the pins (pip install -r requirements.txt), or go on with --any-versions."
        )
    return {
        "source": digest(source),
        # The hashes are those from before the run: a file that was edited meanwhile makes the chapter stale.
        "library": {name: library[name] for name in result["files"] if name in library},
        "packages": packages,
        "parameters": {**parameters_of(converted), **job.parameters},
    }


def _folders(project: Project) -> list[Path]:
    return [f for f in (project.root, project.library, Path(sys.prefix), Path.home()) if len(f.parts) > 1]


def _keep_for_inspection(
    project: Project, chapter: Chapter, failed: Failure, result: dict[str, Any], scratch: Path
) -> None:
    """Leave the report and the notebook of a failed run under ``_build/failed``."""
    folder = project.build / "failed" / chapter.part
    place(folder / f"{chapter.slug}.txt", f"{failed}\n", scratch)
    notebook = folder / f"{chapter.slug}.ipynb"
    if "notebook" in result:
        place(notebook, result["notebook"], scratch)
    else:
        with contextlib.suppress(FileNotFoundError):
            notebook.unlink()

"""``kexue run``: one chapter with other parameters, to a notebook of its own."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kexue_lib.book.build import report, say
from kexue_lib.book.chapters import Options, execute_chapters
from kexue_lib.book.config import read_config
from kexue_lib.book.convert import parameters_of, to_notebook
from kexue_lib.book.errors import BookError
from kexue_lib.book.parameters import override
from kexue_lib.book.pins import refuse_other_versions
from kexue_lib.book.place import digest
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import Records, gather
from kexue_lib.book.staleness import library_hashes

if TYPE_CHECKING:
    from rich.console import Console

#: Seconds for a run, by scale, unless --timeout says otherwise.
LIMITS = {"quick": 300.0, "full": 3600.0}


def run_chapter(
    project: Project,
    name: str,
    given: Sequence[tuple[str, str]],
    console: Console,
    *,
    output: Path | None = None,
    timeout: float | None = None,
    any_versions: bool = False,
    processes: int = 1,
) -> int:
    """Run a chapter with parameters of the caller's choice, write its notebook, print its claims.

    A run that is not quick keeps the state of its trainings under ``_build/checkpoints`` until it has ended well: the
    same command goes on from there after a crash.

    Args:
        project: the checkout.
        name: the chapter.
        given: names and values, as typed.
        console: where to say what happens.
        output: the notebook to write; by default below ``_build/runs``.
        timeout: seconds; by default 300 for quick runs and 3600 for others.
        any_versions: accept other versions than the pinned ones.
        processes: how many run the chapter together, each with a share of its trainings' batches.

    Returns:
        0, or 1 if the run failed.

    Raises:
        BookError: unknown chapter or parameter, a value of the wrong type, an output under ``book/chapters``.
    """
    config = read_config(project)
    chapter = project.chapter(name)
    defaults = parameters_of(to_notebook(chapter.source, config), chapter.source_name)
    values = override(defaults, given, chapter.name)
    target = _target(project, chapter, values, output)
    if not any_versions:
        refuse_other_versions(project)
    scale = str({**defaults, **values}.get("scale", "quick"))
    checkpoints = None if scale == "quick" else _checkpoints(project, chapter, values)
    if checkpoints is not None and checkpoints.is_dir():
        say(console, f"Going on with the trainings that an earlier run has left in {checkpoints}.")
    options = Options(
        timeout=timeout or LIMITS.get(scale, LIMITS["full"]),
        any_versions=any_versions,
        processes=processes,
        checkpoints=checkpoints,
    )
    outcome = execute_chapters(project, config, [chapter], options, console, parameters=values, target=target)
    if outcome.failures:
        report(console, outcome.failures, "No notebook was written.")
        return 1
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    show_claims(gather(json.loads(target.read_text(encoding="utf-8"))), console)
    say(console, f"Written: {target}")
    return 0


def show_claims(records: Records, console: Console) -> None:
    """Print the claims of a run with what was measured and the verdicts."""
    if not records.claims:
        say(console, "The run registered no claims.")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("id", "claim", "kind", "measured", "verdict")
    for claim in records.claims:
        measured = ", ".join(f"{key} ≈ {_number(value)}" for key, value in claim.get("measured", {}).items())
        table.add_row(
            *(escape(str(v)) for v in (claim["id"], claim["claim"], claim["kind"], measured, claim["verdict"]))
        )
    console.print(table)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _checkpoints(project: Project, chapter: Chapter, values: dict[str, object]) -> Path:
    """The folder for the trainings of a run: another one if the chapter, the library or a parameter has changed."""
    library = {k: v for k, v in library_hashes(project).items() if not k.startswith("kexue_lib/book/")}
    known = json.dumps([chapter.source.read_text(encoding="utf-8"), library, values], sort_keys=True)
    return project.build / "checkpoints" / chapter.part / chapter.slug / digest(known)[:16]


def _target(project: Project, chapter: Chapter, values: dict[str, object], output: Path | None) -> Path:
    if output is None:
        said = "_".join(f"{k}-{v}" for k, v in sorted(values.items())) or "default"
        said = re.sub(r"[^A-Za-z0-9._-]+", "-", said)
        return project.build / "runs" / chapter.part / chapter.slug / f"{said}.ipynb"
    target = output.resolve()
    if target.suffix != ".ipynb":
        raise BookError(f"The output {output} has to be a notebook: a name that ends in .ipynb.")
    if target.is_relative_to(project.root / "book"):
        raise BookError(
            f"The output {output} lies under book/, where only `kexue build` writes. Choose another place, or leave "
            "out -o: then the notebook goes below _build/runs."
        )
    return target

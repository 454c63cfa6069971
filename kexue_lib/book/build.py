"""``kexue build``: execute what is stale, audit it, write the generated pages, make the book."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kexue_lib.book.chapters import Options
from kexue_lib.book.config import HOW_TO_SET_URL, read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.pages import write_pages
from kexue_lib.book.pins import refuse_other_versions
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.staleness import library_hashes, reasons
from kexue_lib.book.workplace import lock

if TYPE_CHECKING:
    from rich.console import Console

    from kexue_lib.book.report import Failure


def build(
    project: Project,
    names: Sequence[str],
    options: Options,
    console: Console,
    *,
    force: bool = False,
    html: bool = True,
) -> int:
    """Bring the executed notebooks, the audits, the generated pages and the book up to date.

    Args:
        project: the checkout.
        names: the chapters to look at; all if empty.
        options: how chapters are run.
        console: where to say what happens.
        force: execute the chapters even if they are fresh.
        html: make the book as well.

    Returns:
        0, or 1 if a chapter failed (then the book is left as it was, or, with ``keep_going``, the chapter's page says
        that it is not built and why).

    Raises:
        BookError: wrong configuration, card, name or environment.
    """
    with lock(project):
        config = read_config(project)
        chapters = project.select(names)
        library = library_hashes(project)
        why = {c: (["--force"] if force else reasons(c, project, config, library)) for c in chapters}
        stale = [c for c in chapters if why[c]]
        for other in (c for c in project.chapters if c not in why and reasons(c, project, config, library)):
            say(console, f"{other.name} is stale too, but was not asked for: its page says so")
        failures: list[Failure] = []
        for chapter in stale:
            say(console, f"{chapter.name} has to be executed: {'; '.join(why[chapter])}")
        if stale:
            from kexue_lib.book.chapters import execute_chapters

            if not options.any_versions:
                refuse_other_versions(project, _loaded_before(stale))
            outcome = execute_chapters(project, config, stale, options, console)
            failures += outcome.failures
            for name in outcome.skipped:
                say(console, f"{name}: not run, because another chapter failed (--keep-going runs all)")
        failed = {f.chapter for f in failures}
        if not failures or options.keep_going:
            ready = [c for c in chapters if c.name not in failed]
            failures += renew_audits(project, ready, options, console, library, force=False)
        write_pages(project)
        made = html and (options.keep_going or not failures)
        if made:
            from kexue_lib.book.html import make_html

            if not make_html(project, config, console):
                return 1
        if failures:
            kept = "their pages say why" if made else "so are the pages of the book (--keep-going makes them)"
            report(console, failures, f"The notebooks of these chapters are as they were before; {kept}.")
            return 1
        if not config.published:
            say(console, HOW_TO_SET_URL)
        return 0


def renew_audits(
    project: Project,
    chapters: Sequence[Chapter],
    options: Options,
    console: Console,
    library: dict[str, str],
    *,
    force: bool,
) -> list[Failure]:
    """Run the audits that are stale, and say which mutants survive; the failures of audits that could not be run."""
    from kexue_lib.book.audit_run import missing_executed, read_audit, run_audits, stale_audit

    there = [c for c in chapters if not missing_executed(c)]
    stale = [c for c in there if force or stale_audit(c, project, library)]
    failures: list[Failure] = []
    if stale:
        _, failures = run_audits(project, stale, options, console)
    for chapter in there:
        audit = read_audit(chapter)
        for line in audit.problems() if audit else []:
            say(console, f"{chapter.name}: a check without teeth: {line}")
    return failures


def report(console: Console, failures: Sequence[Failure], closing: str) -> None:
    """Print what failed: chapter, cell, line of the source, traceback."""
    from rich.text import Text

    for failed in failures:
        console.print()
        console.print(Text.from_ansi(str(failed)), soft_wrap=True)
    console.print()
    count = f"{len(failures)} failure{'' if len(failures) == 1 else 's'}"
    say(console, f"{count}. {closing} More under _build/failed.")


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _loaded_before(chapters: Sequence[Chapter]) -> set[str]:
    """The distributions that the last runs of chapters had loaded."""
    return {name for chapter in chapters for name in _loaded(chapter)}


def _loaded(chapter: Chapter) -> list[str]:
    try:
        return list(read_executed(chapter)["metadata"]["kexue"]["run"]["packages"])
    except (BookError, KeyError, TypeError):
        return []

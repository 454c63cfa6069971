"""``kexue check``: everything about the chapters that can be checked without executing them, and the audits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kexue_lib.book.build import renew_audits, report, say
from kexue_lib.book.cards import read_card
from kexue_lib.book.chapters import Options
from kexue_lib.book.config import read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.guard import guard
from kexue_lib.book.links import link_problems
from kexue_lib.book.lint import lint
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.plan import disagreements, read_plan
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import gather
from kexue_lib.book.redirects import redirect_problems
from kexue_lib.book.regress.baseline import committed_rows
from kexue_lib.book.staleness import library_hashes, reasons
from kexue_lib.book.toc import toc_problems
from kexue_lib.book.workplace import lock

if TYPE_CHECKING:
    from rich.console import Console


def check(project: Project, options: Options, console: Console, *, audit: bool = True) -> int:
    """Check the checkout, and print each problem on a line.

    Args:
        project: the checkout.
        options: how stale audits are run.
        console: where to say what was found.
        audit: look at the mutation audits, and run those that are stale.

    Returns:
        0 if nothing is wrong, else 1.
    """
    with lock(project):
        config = read_config(project)
        library = library_hashes(project)
        chapters = project.chapters
        problems = [p for c in chapters for p in card_problems(c, project)]
        fresh = []
        for chapter in chapters:
            mine = guard(chapter, config)
            mine += [
                f"{chapter.name} is stale: {why}." for why in reasons(chapter, project, config, library) if not mine
            ]
            mine += record_problems(chapter) if not mine else []
            problems += mine
            if not mine:
                fresh.append(chapter)
        warned: list[str] = []
        committed_rows(project, warned.append)
        problems += warned
        problems += lint(project) + link_problems(project) + toc_problems(project) + redirect_problems(project)
        for problem in problems:
            say(console, problem)
        toothless = 0
        if audit:
            from kexue_lib.book.audit_run import read_audit

            failures = renew_audits(project, fresh, options, console, library, force=False)
            if failures:
                report(console, failures, "These audits could not be run.")
            toothless = sum(len(found.problems()) for c in fresh if (found := read_audit(c)))
            problems += map(str, failures)
        if problems or toothless:
            say(console, f"{len(problems) + toothless} problems in {len(chapters)} chapters.")
            return 1
        say(
            console,
            f"{len(chapters)} chapters checked: nothing is wrong." + ("" if audit else " Audits were left out."),
        )
        return 0


def card_problems(chapter: Chapter, project: Project) -> list[str]:
    """What is wrong with a chapter's card: its form, what it says otherwise than the plan, unknown prerequisites."""
    try:
        card = read_card(chapter.source)
    except BookError as error:
        return [str(error)]
    plan = read_plan(project)
    unknown = [slug for slug in card.prerequisites if slug not in {p.slug for p in plan}]
    found = disagreements(card, plan)
    if unknown:
        found.append(f"{chapter.name}: the prerequisites {', '.join(unknown)} are not in book/plan.yml.")
    return found


def record_problems(chapter: Chapter) -> list[str]:
    """What is wrong with the records in a fresh notebook: unreadable ones, or evidence that names no step."""
    try:
        records = gather(read_executed(chapter))
    except BookError as error:
        return [f"{chapter.executed_name}: {error}"]
    known = {leaf["id"] for leaf in records.leaves} | {step["id"] for step in records.steps}
    return [
        f"{chapter.executed_name}: claim {claim['id']} names the evidence {name}, and no step has that id."
        for claim in records.claims
        for name in claim.get("evidence", [])
        if name not in known
    ]

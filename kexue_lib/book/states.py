"""What the generated pages say of each planned chapter."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kexue_lib.book.audit_run import Audit, read_audit
from kexue_lib.book.cards import read_card
from kexue_lib.book.conditions import NOT_BUILT, Condition, conditions
from kexue_lib.book.config import read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.plan import Planned, read_plan
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import Records, gather


@dataclass(frozen=True)
class State:
    """A planned chapter with what is there of it.

    Args:
        planned: its entry in the plan.
        chapter: its files, if it has a source.
        records: what its executed notebook says, if there is one.
        audit: the record of its mutation audit, if there is one.
        condition: why its results are not to be taken for fresh ones; None if they are fresh or it has no source.
    """

    planned: Planned
    chapter: Chapter | None
    records: Records | None
    audit: Audit | None
    condition: Condition | None = None

    @property
    def builds_on(self) -> tuple[str, ...]:
        """Slugs of the chapters to read before: what its card says or, before there is one, the plan."""
        if self.chapter is not None:
            with contextlib.suppress(BookError):  # `kexue check` says what is wrong with a card
                return read_card(self.chapter.source).prerequisites
        return self.planned.after


def states(project: Project) -> tuple[State, ...]:
    """The state of every planned chapter, in the plan's order."""
    chapters = {chapter.name: chapter for chapter in project.chapters}
    not_fresh = conditions(project, read_config(project)) if chapters else {}
    found = []
    for planned in read_plan(project):
        chapter = chapters.get(planned.name)
        records = None
        condition = not_fresh.get(planned.name)
        # Results of an earlier run count, marked as stale; those of a chapter that fails now do not.
        if chapter is not None and (condition is None or condition.state != NOT_BUILT):
            try:
                records = gather(read_executed(chapter))
            except BookError:  # `kexue check` says why; the pages show what is there
                records = None
        found.append(State(planned, chapter, records, read_audit(chapter) if chapter else None, condition))
    return tuple(found)

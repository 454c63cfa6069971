"""What the generated pages say of each planned chapter."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from kexue_lib.book.audit_run import Audit, read_audit
from kexue_lib.book.cards import read_card
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
    """

    planned: Planned
    chapter: Chapter | None
    records: Records | None
    audit: Audit | None

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
    found = []
    for planned in read_plan(project):
        chapter = chapters.get(planned.name)
        records = None
        if chapter is not None:
            try:
                records = gather(read_executed(chapter))
            except BookError:  # `kexue check` says why; the pages show what is there
                records = None
        found.append(State(planned, chapter, records, read_audit(chapter) if chapter else None))
    return tuple(found)

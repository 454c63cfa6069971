"""Chapters without any executed notebook: Sphinx needs a file where the contents list one."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence

from kexue_lib.book.cards import read_card
from kexue_lib.book.place import place
from kexue_lib.book.project import Chapter, Project


def page_title(chapter: Chapter) -> str:
    """The title of a chapter's page: the first heading of its source, else the title on its card."""
    found = re.search(r"^# # +(\S.*)$", chapter.source.read_text(encoding="utf-8"), re.MULTILINE)
    return found.group(1).strip() if found else read_card(chapter.source).title_en


@contextlib.contextmanager
def filled_vacancies(project: Project, names: Sequence[str]) -> Iterator[None]:
    """While the book is made, an empty notebook stands where a chapter has none (or a corrupt one).

    It holds no code cell and no record of a run: should it be left behind by a build that was killed, the chapter
    counts as never executed, and the next build executes it.

    Args:
        project: the checkout.
        names: the chapters that are not built; where a notebook can be read it is left alone.
    """
    scratch = project.build / "tmp"
    before: list[tuple[Chapter, bytes | None]] = []
    try:
        for chapter in map(project.chapter, names):
            content = chapter.executed.read_bytes() if chapter.executed.is_file() else None
            if content is None or not _readable(content):
                before.append((chapter, content))
                card = {"kexue": read_card(chapter.source).metadata()}
                cell = {"cell_type": "markdown", "id": "vacant", "metadata": {}, "source": f"# {page_title(chapter)}"}
                empty = {"cells": [cell], "metadata": card, "nbformat": 4, "nbformat_minor": 5}
                place(chapter.executed, json.dumps(empty), scratch)
        yield
    finally:
        for chapter, content in before:
            if content is None:
                chapter.executed.unlink(missing_ok=True)
            else:
                chapter.executed.write_bytes(content)


def _readable(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content)["cells"], list)
    except (ValueError, KeyError, TypeError):
        return False

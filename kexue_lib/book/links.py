"""Links inside the chapters: does every target exist?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from kexue_lib.book.errors import BookError
from kexue_lib.book.lint import markdown_cells
from kexue_lib.book.notebooks import read_executed, text
from kexue_lib.book.project import Chapter, Project

_LINK = re.compile(r"(?<!!)\[(?:[^\][]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_ANCHOR = re.compile(r"<[a-z]+\s[^>]*\b(?:id|name)=[\"']([^\"']+)[\"']")


def link_problems(project: Project) -> list[str]:
    """Links in Markdown cells whose target does not exist, as ``file:line: what``.

    A link leads to a place on its page (``#D3``), to another chapter's page (``../part/slug.ipynb#D3``), to another
    file of the book, or to an https address (which is not fetched).
    """
    found = []
    for chapter in project.chapters:
        for start, lines in markdown_cells(chapter.source.read_text(encoding="utf-8")):
            for offset, line in enumerate(lines):
                for target in _LINK.findall(re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", line)):
                    problem = _problem(target, chapter, project)
                    if problem:
                        found.append(f"{chapter.source_name}:{start + offset}: {problem}")
    return found


def anchors(notebook: dict[str, Any]) -> set[str]:
    """The places on a chapter's page that a link can lead to: headings, ``<a id=…>``, in cells and in outputs."""
    found: set[str] = set()
    for piece in _markdown(notebook):
        found |= set(_ANCHOR.findall(piece))
        for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", piece, flags=re.MULTILINE):
            found.add(_slug(heading))
    return found


def _problem(target: str, chapter: Chapter, project: Project) -> str | None:
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        if target.startswith(("https://", "mailto:")):
            return None
        return f"the link {target} is neither relative nor https."
    name, _, anchor = unquote(target).partition("#")
    page = (chapter.executed.parent / name).resolve() if name else chapter.executed
    other = next((c for c in project.chapters if c.executed == page), None)
    if other is None:
        return (
            None if page.is_file() else f"the link {target} leads to nothing: there is no {_relative(page, project)}."
        )
    if not anchor:
        return None
    try:
        known = anchors(read_executed(other))
    except BookError as error:
        return f"the link {target} cannot be followed: {error}"
    return None if anchor in known else f"the link {target} leads to nothing: {other.name} has no place #{anchor}."


def _markdown(notebook: dict[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            yield text(cell["source"])
        for output in cell.get("outputs", []):
            for mime in ("text/markdown", "text/html"):
                if mime in output.get("data", {}):
                    yield text(output["data"][mime])


def _slug(heading: str) -> str:
    """The anchor that MyST gives a heading (as GitHub does)."""
    plain = re.sub(r"[`*$]|<[^>]+>", "", heading).lower()
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", plain).strip())


def _relative(page: Path, project: Project) -> str:
    return page.relative_to(project.root).as_posix() if page.is_relative_to(project.root) else str(page)

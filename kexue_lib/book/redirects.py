"""Pages that have moved: the table ``book/redirects.yml``. sphinx-reredirects writes the pages that lead on."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any

import yaml

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.toc import listed_pages

#: What stands at an old address: leads on by script, with what stands behind the ``#``, and by a link without one.
TEMPLATE = Path(__file__).with_name("redirect.html")


def read_redirects(project: Project) -> dict[str, str]:
    """Old page: new page, as the table has them; empty if there is no table.

    Raises:
        BookError: no YAML, or not a mapping from names to names.
    """
    path = project.root / "book" / "redirects.yml"
    if not path.is_file():
        return {}
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise BookError(f"book/redirects.yml is no YAML: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(name, str) for pair in table.items() for name in pair):
        raise BookError("book/redirects.yml: expected lines `old page: new page`, such as `book/a: book/b`.")
    return table


def sphinx_options(project: Project) -> dict[str, Any]:
    """The configuration for sphinx-reredirects; targets are relative, so that they work in any folder."""
    table = read_redirects(project)
    if not table:
        return {}
    relative = {old: posixpath.relpath(f"{new}.html", posixpath.dirname(old)) for old, new in table.items()}
    return {"redirects": relative, "redirect_html_template_file": str(TEMPLATE)}


def redirect_problems(project: Project) -> list[str]:
    """What is wrong with the table: an old address that is in use, a new one that is no page, a page on the way."""
    try:
        table = read_redirects(project)
        pages = set(listed_pages(project))
    except (BookError, OSError, yaml.YAMLError) as error:
        return [str(error)]
    found = []
    for old, new in sorted(table.items()):
        if old in pages:
            found.append(f"book/redirects.yml: {old} is a page of the book, so nothing can lead on from there.")
        if new in table:
            found.append(f"book/redirects.yml: {old} leads to {new}, which has moved too: name {table[new]}.")
        elif new not in pages:
            found.append(f"book/redirects.yml: {old} leads to {new}, which is not in _toc.yml.")
    return found

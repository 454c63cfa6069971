"""``kexue dist`` and ``kexue pdf``: the built book as one file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from kexue_lib.book.build import say
from kexue_lib.book.config import Config, read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.html import is_current
from kexue_lib.book.project import Project
from kexue_lib.book.toc import listed_pages
from kexue_lib.book.workplace import lock

if TYPE_CHECKING:
    from rich.console import Console

#: Pages that a reader of paper has no use for.
_NOT_PRINTED = ("book/library", "book/benchmarks")


def hand_out_archive(project: Project, console: Console) -> int:
    """Pack the built book into ``dist/<title>-<version>.zip``; 0.

    Raises:
        BookError: the built book is missing or not up to date.
    """
    from kexue_lib.book.dist import make_archive

    with lock(project):
        config = _of_current_book(project)
        made = make_archive(project.build / "html", project.root / "dist", title=_title(config), version=_version())
    _tell(console, project, made)
    return 0


def hand_out_pdf(project: Project, names: Sequence[str], console: Console, *, output: Path | None = None) -> int:
    """Print the built book, or chapters of it, into a PDF; 0.

    Raises:
        BookError: the built book is missing or not up to date; no such chapter; no Chromium, Playwright or pypdf.
    """
    from kexue_lib.book.pdf import make_pdf

    with lock(project):
        config = _of_current_book(project)
        pages = [c.page for c in project.select(names)] if names else listed_pages(project)
        pages = [page for page in pages if page not in _NOT_PRINTED]
        stem = "-".join([_title(config).lower().replace(" ", "-"), *(names and ["chapters"]), _version()])
        target = output or project.root / "dist" / f"{stem}.pdf"
        author = config.content.get("author", _title(config))
        about = f"{author}. Version {_version()}. Prose: CC BY 4.0; code: Apache-2.0."
        count = make_pdf(project.build / "html", pages, target, book=_title(config), about=about, address=config.site)
    _tell(console, project, target, f", {count} pages")
    return 0


def _of_current_book(project: Project) -> Config:
    config = read_config(project)
    if not is_current(project, config):
        raise BookError("The built book is missing or older than its sources. Make it first: kexue build")
    return config


def _title(config: Config) -> str:
    return str(config.content.get("title") or "book")


def _version() -> str:
    return version("kexue-lib")


def _tell(console: Console, project: Project, made: Path, more: str = "") -> None:
    where = made.relative_to(project.root) if made.is_relative_to(project.root) else made
    say(console, f"{where}: {made.stat().st_size / 1e6:.1f} MB{more}")

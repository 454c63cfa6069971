"""Which chapters have to be executed again: by content, never by time stamps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kexue_lib.book.cards import read_card
from kexue_lib.book.config import Config
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed, text
from kexue_lib.book.pins import read_pins
from kexue_lib.book.place import digest
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.setup_cell import setup_source


def library_hashes(project: Project) -> dict[str, str]:
    """The hash of every module of ``kexue_lib``, by its path: ``kexue_lib/attention.py``."""
    base = project.library
    return {
        path.relative_to(base).as_posix(): digest(path.read_bytes())
        for path in sorted((base / "kexue_lib").rglob("*.py"))
        if "__pycache__" not in path.parts
    }


def reasons(chapter: Chapter, project: Project, config: Config, library: dict[str, str] | None = None) -> list[str]:
    """Why the executed notebook of a chapter is stale; empty if it is fresh.

    A chapter is stale when its executed notebook is missing or corrupt, its source or setup cell has changed, a file
    of ``kexue_lib`` that its run had loaded has changed or is gone, or a distribution that it had loaded is pinned in
    another version.

    Args:
        chapter: the chapter.
        project: its checkout.
        config: the configuration, for the setup cell.
        library: what :func:`library_hashes` returns, if it is at hand.
    """
    try:
        notebook = read_executed(chapter)
    except BookError as error:
        return [str(error)]
    run = notebook["metadata"].get("kexue", {}).get("run")
    if not _is_run(run):
        return ["it has no record of a run"]
    library = library_hashes(project) if library is None else library
    found = []
    if run["source"] != digest(chapter.source.read_text(encoding="utf-8")):
        found.append("the source has changed")
    elif _setup(notebook) != setup_source(read_card(chapter.source), config):
        found.append("the setup cell has changed (the repository's address, or the pipeline)")
    found += changed_files(run["library"], library)
    found += changed_pins(run["packages"], read_pins(project))
    return found


def changed_files(recorded: dict[str, str], library: dict[str, str]) -> list[str]:
    """What to say of library files that differ from their recorded hashes."""
    return [
        f"{name} has changed" if name in library else f"{name} is gone"
        for name, value in sorted(recorded.items())
        if library.get(name) != value
    ]


def changed_pins(recorded: dict[str, str], pins: dict[str, str]) -> list[str]:
    """What to say of distributions that are pinned in another version than the recorded one."""
    return [
        f"it was made with {name} {version}, pinned is {pins[name]}"
        for name, version in sorted(recorded.items())
        if name in pins and pins[name] != version
    ]


def file_hash(path: Path) -> str:
    """The hash of a source's text, as a run records it."""
    return digest(path.read_text(encoding="utf-8"))


def _setup(notebook: dict[str, Any]) -> str | None:
    return next((text(c["source"]) for c in notebook["cells"] if "setup" in c["metadata"].get("tags", [])), None)


def _is_run(run: Any) -> bool:
    return (
        isinstance(run, dict)
        and isinstance(run.get("source"), str)
        and all(isinstance(run.get(key), dict) for key in ("library", "packages", "parameters"))
    )

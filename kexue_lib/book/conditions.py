"""Which chapters are not what their page would seem to say: stale ones, and those that could not be executed.

A failed run leaves the previous notebook as it was. That is right for the file; on a page the old results would look
like new ones. So a build asks here, and the page says what it shows.
"""

from __future__ import annotations

import datetime
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kexue_lib.book.config import Config
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.place import place
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.report import Failure, plain
from kexue_lib.book.staleness import file_hash, library_hashes, reasons

STALE, NOT_BUILT = "stale", "not built"

#: Lines of a traceback that a page shows: its end, where the error stands.
_TRACEBACK_LINES = 30


@dataclass(frozen=True)
class Condition:
    """Why a chapter's page must not look like any other.

    Args:
        state: ``"stale"`` (the page shows the results of an earlier run) or ``"not built"`` (there are none to show).
        why: the reasons, each a clause: "the source has changed".
        since: the day on which the shown notebook was made, ``YYYY-MM-DD``; empty if none is shown.
        failed: whether the last run failed; then ``why`` says how.
        place: where a failed run stopped: "cell 5 (notebooks/part/slug.py:12)"; empty if that is not known.
        traceback: the end of the traceback of a failed run.
    """

    state: str
    why: tuple[str, ...]
    since: str = ""
    failed: bool = False
    place: str = ""
    traceback: str = ""

    def as_data(self) -> dict[str, Any]:
        """The condition as plain data, for a configuration file."""
        return {**asdict(self), "why": list(self.why)}


def conditions(project: Project, config: Config, library: dict[str, str] | None = None) -> dict[str, Condition]:
    """The chapters that are not fresh, by name.

    Args:
        project: the checkout.
        config: its configuration (the setup cell depends on it).
        library: what :func:`~kexue_lib.book.staleness.library_hashes` returns, if it is at hand.
    """
    library = library_hashes(project) if library is None else library
    found = {}
    for chapter in project.chapters:
        why = reasons(chapter, project, config, library)
        if why:
            found[chapter.name] = _condition(chapter, project, why)
    return found


def note_failure(project: Project, chapter: Chapter, failed: Failure, source: str, scratch: Path) -> None:
    """Keep what went wrong, for the page: until the chapter runs well or its source changes."""
    record = {
        "source": source,
        "why": f"{failed.status}: {failed.message}",
        "place": (f"cell {failed.cell}" if failed.cell else "") + (f" ({failed.place})" if failed.place else ""),
        "traceback": "\n".join(plain(failed.traceback).rstrip().splitlines()[-_TRACEBACK_LINES:]),
    }
    place(_record(project, chapter), json.dumps(record, indent=1, ensure_ascii=False), scratch)


def forget_failure(project: Project, chapter: Chapter) -> None:
    """The chapter ran well: nothing is left to say about its earlier failure."""
    for suffix in (".json", ".txt", ".ipynb"):
        _record(project, chapter).with_suffix(suffix).unlink(missing_ok=True)


def day_of(path: Path) -> str:
    """The day on which a file was last committed, or else written, ``YYYY-MM-DD``."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments, "--", path.name]
        return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed, day = git("status", "--porcelain"), git("log", "-1", "--format=%cs")
    except (OSError, subprocess.CalledProcessError):  # no git, or no repository
        changed, day = "", ""
    if day and not changed:
        return day
    return datetime.datetime.fromtimestamp(path.stat().st_mtime, tz=datetime.timezone.utc).date().isoformat()


def _condition(chapter: Chapter, project: Project, why: Sequence[str]) -> Condition:
    failed = _failure(project, chapter)
    if failed is not None:
        return Condition(NOT_BUILT, (failed["why"],), failed=True, place=failed["place"], traceback=failed["traceback"])
    try:
        notebook = read_executed(chapter)
    except BookError:
        said = "it has not been executed yet" if not chapter.executed.exists() else "its executed notebook is corrupt"
        return Condition(NOT_BUILT, (said,))
    if not any(cell["cell_type"] == "code" for cell in notebook["cells"]):
        return Condition(NOT_BUILT, ("it has not been executed yet",))
    return Condition(STALE, tuple(why), since=day_of(chapter.executed))


def _failure(project: Project, chapter: Chapter) -> dict[str, str] | None:
    """What is known of the last run, if it failed and the source is still the same."""
    try:
        record = json.loads(_record(project, chapter).read_text(encoding="utf-8"))
        same = record["source"] == file_hash(chapter.source)
        return {key: str(record[key]) for key in ("why", "place", "traceback")} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _record(project: Project, chapter: Chapter) -> Path:
    return project.build / "failed" / chapter.part / f"{chapter.slug}.json"

"""What ran how: the outcome of a job, and the text that tells a person where it went wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from kexue_lib.book.convert import cell_lines
from kexue_lib.book.project import Chapter

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """A run that did not end well.

    Args:
        chapter: its name.
        status: failed, timeout or died.
        message: what went wrong.
        cell: number of the cell, from 1, as in the notebook and in the source.
        place: file and line of the source, ``notebooks/part/slug.py:12``.
        traceback: the traceback, with colours if it had some.
        log: what the process printed outside of cells.
    """

    chapter: str
    status: str
    message: str
    cell: int | None = None
    place: str | None = None
    traceback: str = ""
    log: str = ""

    def __str__(self) -> str:
        """Chapter, cell, line, message and traceback, without colours."""
        where = f" in cell {self.cell}" if self.cell else ""
        where += f" ({self.place})" if self.place else ""
        lines = [f"{self.chapter}: {self.status}{where}: {self.message}"]
        if self.traceback:
            lines += ["", plain(self.traceback)]
        elif self.log.strip():
            lines += ["", "The end of its log:", *plain(self.log).strip().splitlines()[-15:]]
        return "\n".join(lines)


def plain(text: str) -> str:
    """A text without the codes that colour a terminal."""
    return _ANSI.sub("", text)


def failure(chapter: Chapter, source: str, converted: dict[str, Any], result: dict[str, Any]) -> Failure:
    """The failure that a job's result tells of.

    Args:
        chapter: the chapter.
        source: the text of its source.
        converted: the notebook that was run.
        result: what :func:`kexue_lib.book.execute.run_job` returned.
    """
    ids = [cell["id"] for cell in converted["cells"]]
    number: int | None = None
    if result.get("cell") in ids:
        number = ids.index(result["cell"]) + 1
    elif result.get("at"):
        number = int(result["at"])
    lines = cell_lines(source)
    place = None
    if number is not None and number <= len(lines):
        generated = "setup" in converted["cells"][number - 1]["metadata"].get("tags", [])
        offset = 0 if generated else (result.get("line") or 1) - 1
        place = f"{chapter.source_name}:{lines[number - 1] + offset}"
    return Failure(
        chapter=chapter.name,
        status=result["status"],
        message=result["message"],
        cell=number,
        place=place,
        traceback=result.get("traceback", ""),
        log=result.get("log", ""),
    )

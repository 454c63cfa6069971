"""The grid of runs: chapters × scales × devices × seeds, and which of them a ledger has already."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kexue_lib.book.cards import read_card
from kexue_lib.book.config import Config
from kexue_lib.book.convert import parameters_of, to_notebook
from kexue_lib.book.errors import BookError
from kexue_lib.book.place import digest
from kexue_lib.book.project import Chapter
from kexue_lib.book.regress.identity import combined
from kexue_lib.book.regress.row import FINAL, Key, key_of, processes_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A chapter as it is now: its source, the notebook made of it, and the expected minutes by scale."""

    chapter: Chapter
    text: str
    hash: str
    notebook: dict[str, Any]
    content: str
    minutes: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Item:
    """A planned run.

    Args:
        key: which run.
        source: its chapter.
        expected: seconds that it will probably take.
        known: whether that was measured; otherwise it is the card's word.
        processes: how many run the chapter together.
    """

    key: Key
    source: Source
    expected: float
    known: bool
    processes: int = 1

    @property
    def device(self) -> str:
        """What it takes."""
        return self.key.device

    @property
    def width(self) -> int:
        """How many units of its device it takes: one for each process."""
        return self.processes


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds that a text names, in order, each once.

    >>> parse_seeds("0..3,7")
    (0, 1, 2, 3, 7)

    Raises:
        BookError: not numbers and ranges.
    """
    seeds: dict[int, None] = {}
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*\.\.\s*(\d+))?\s*", piece)
        if not match or (match[2] is not None and int(match[2]) < int(match[1])):
            raise BookError(f"--seeds {text!r}: expected numbers and ranges from low to high, like 0..4 or 0,3,7..9.")
        seeds.update(dict.fromkeys(range(int(match[1]), int(match[2] or match[1]) + 1)))
    return tuple(seeds)


def read_source(chapter: Chapter, config: Config) -> Source:
    """A chapter as it is now.

    Raises:
        BookError: a wrong card or source, or a chapter without the parameters scale, seed and device.
    """
    text = chapter.source.read_text(encoding="utf-8")
    notebook = json.loads(json.dumps(to_notebook(chapter.source, config)))
    missing = {"scale", "seed", "device"} - parameters_of(notebook, chapter.source_name).keys()
    if missing:
        raise BookError(f"{chapter.source_name}: a regression needs the parameters {', '.join(sorted(missing))}.")
    return Source(chapter, text, digest(text), notebook, json.dumps(notebook), read_card(chapter.source).minutes)


def plan(
    sources: Sequence[Source],
    seeds: Sequence[int],
    scales: Sequence[str],
    device_of: Callable[[str], Sequence[str]],
    rows: Iterable[Row],
    processes: Callable[[str], int] = lambda scale: 1,
) -> list[Item]:
    """All runs of the grid, those that take longest first.

    Args:
        sources: the chapters.
        seeds, scales: what each is run with.
        device_of: the devices for a scale.
        rows: earlier runs, for the expected durations.
        processes: how many run a chapter together at a scale.
    """
    durations = Durations(rows)
    items = [
        Item(
            Key(source.chapter.name, scale, device, seed),
            source,
            *durations.expect(source, scale, device, processes(scale)),
            processes(scale),
        )
        for source in sources
        for scale in scales
        for device in device_of(scale)
        for seed in seeds
    ]
    return sorted(items, key=lambda item: (-item.expected, item.key))


class Durations:
    """What runs took, by chapter, scale, device and processes: the median of those that ended by themselves, in one go.

    How much faster two processes are depends on the chapter, so runs of other numbers of processes say nothing here.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        """From the rows of a ledger."""
        seconds: dict[tuple[str, str, str, int], list[float]] = {}
        for row in rows:
            if row["status"] in FINAL and not row["resumed"]:
                key = (row["chapter"], row["scale"], row["device"], processes_of(row))
                seconds.setdefault(key, []).append(row["seconds"])
        self._median = {key: median(values) for key, values in seconds.items()}

    def expect(self, source: Source, scale: str, device: str, processes: int = 1) -> tuple[float, bool]:
        """The expected seconds of a run, and whether they were measured."""
        measured = self._median.get((source.chapter.name, scale, device, processes))
        if measured is not None:
            return measured, True
        return 60.0 * source.minutes.get(scale, source.minutes["full"]), False


class Freshness:
    """Whether a row says what a run would say now.

    Args:
        sources: the hash of each chapter's source.
        library: the hash of each file of ``kexue_lib``.
        python: the version of Python.
        installed: the version of an installed distribution.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        library: Mapping[str, str],
        python: str,
        installed: Callable[[str], str | None],
    ) -> None:
        """What there is now."""
        self._sources, self._library, self._python = sources, dict(library), python
        self._installed = installed
        self._versions: dict[str, str | None] = {}

    def __call__(self, row: Row) -> bool:
        """Whether the row's source, library files and versions are those of now, and the run ended by itself."""
        library = row["library"]
        return (
            row["status"] in FINAL
            and library is not None
            and self._sources.get(row["chapter"]) == row["source"]
            and combined(self._library, library["files"]) == library["hash"]
            and all(self._version(name) == version for name, version in row["versions"].items())
        )

    def _version(self, name: str) -> str | None:
        if name == "python":
            return self._python
        if name not in self._versions:
            self._versions[name] = self._installed(name)
        return self._versions[name]


def made(rows: Iterable[Row], fresh: Freshness) -> dict[Key, Row]:
    """The newest fresh row of each run."""
    return {key_of(row): row for row in rows if fresh(row)}

"""The view while chapters run: a line for each with its state and seconds; plain lines where there is no terminal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "skipped": "yellow"}


@dataclass
class _Line:
    progress: Path
    state: str = "waiting"
    began: float | None = None
    seconds: float | None = None
    cells: str = ""


class Progress:
    """Shows the state of named jobs.

    Args:
        console: where to show it.
        jobs: for each job's name, the file in which its run notes ``cell total``.
        what: what stands before each name.
    """

    def __init__(self, console: Console, jobs: dict[str, Path], what: str = "") -> None:
        """Nothing is shown before the context is entered."""
        self._console, self._what = console, what
        self._lines = {name: _Line(path) for name, path in jobs.items()}
        self._live = None
        if console.is_terminal and jobs:
            from rich.live import Live

            self._live = Live(self._table(), console=console, refresh_per_second=4)

    def __enter__(self) -> Progress:
        """Start to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def tick(self) -> None:
        """Look at how far the runs are."""
        for name, line in self._lines.items():
            if line.state in ("waiting", "running") and line.progress.is_file():
                if line.state == "waiting":
                    line.state, line.began = "running", time.monotonic()
                    self._say(f"{self._what}{name}: running")
                at, _, total = line.progress.read_text(encoding="utf-8").partition(" ")
                line.cells = f"cell {at} of {total}" if at not in ("", "0") else ""
        if self._live is not None:
            self._live.update(self._table())

    def ended(self, name: str, state: str, seconds: float) -> None:
        """A job has ended."""
        line = self._lines[name]
        line.state, line.seconds = state, seconds
        self._say(f"{self._what}{name}: {state}" + (f" ({seconds:.0f} s)" if seconds else ""))

    def _say(self, text: str) -> None:
        if self._live is None:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        for name, line in self._lines.items():
            seconds = line.seconds
            if seconds is None and line.began is not None:
                seconds = time.monotonic() - line.began
            style = _STYLES.get(line.state, "bold red")
            table.add_row(
                f"{self._what}{name}",
                f"[{style}]{line.state}[/]",
                f"{seconds:5.0f} s" if seconds is not None else "",
                line.cells if line.state != "done" else "",
            )
        return table

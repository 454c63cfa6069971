"""What a person sees while a regression runs: how many runs are done, which are at work, what went wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kexue_lib.book.regress.grid import Item
from kexue_lib.book.regress.row import Key, processes_of

if TYPE_CHECKING:
    from rich.console import Console, Group

#: Lines of runs at work that fit on a screen.
_LINES = 12
#: Without a terminal each run's end is a line up to this many runs; beyond, a line of counts every half minute.
_EACH = 500


class View:
    """Shows the state of a regression; plain lines where there is no terminal.

    Args:
        console: where to show it.
        items: the runs that have to be made.
        there: how many runs of the grid the ledger has already.
        slots: the units of each device, for the time that is left; a run takes one for each of its processes.
    """

    def __init__(self, console: Console, items: Sequence[Item], there: int, slots: Mapping[str, int]) -> None:
        """Nothing is shown before the context is entered."""
        self._console, self._slots = console, slots
        self._expected = self._took = 0.0  # of the runs that have ended, times their units
        self._left = {item.key: item.expected * item.width for item in items}
        self._total, self._there = len(items), there
        self._running: dict[str, tuple[float, str]] = {}
        self._began, self._said, self._drawn = time.monotonic(), time.monotonic(), 0.0
        self.counts: Counter[str] = Counter()
        self._live = None
        if console.is_terminal and items:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> View:
        """Start to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._live.update(self._picture(), refresh=True)
            self._live.stop()

    def started(self, key: Key) -> None:
        """A run was given to the cluster."""
        self._running[str(key)] = (time.monotonic(), "")

    def told(self, event: Mapping[str, Any]) -> None:
        """A run says at which cell it is (called from another thread)."""
        name = str(event.get("run"))
        if name in self._running:
            at, _, total = str(event.get("cells", "")).partition(" ")
            cells = f"cell {at} of {total}" if at not in ("", "0") else ""
            self._running[name] = (self._running[name][0], f"{cells}  on {event.get('name')}".strip())

    def retried(self, key: Key, message: str) -> None:
        """A run is tried again."""
        self._running.pop(str(key), None)
        self.counts["tried again"] += 1
        self._say(f"{key}: tried again, because {message}")

    def elsewhere(self, key: Key) -> None:
        """Another process has made a run."""
        self._left.pop(key, None)
        self.counts["done elsewhere"] += 1

    def ended(self, key: Key, row: Mapping[str, Any]) -> None:
        """A run's row is in the ledger."""
        self._running.pop(str(key), None)
        self._expected += self._left.pop(key, 0.0)
        self._took += row["seconds"] * processes_of(dict(row))
        self.counts[row["status"]] += 1
        if row["status"] != "done":
            place = f" ({row['error']['place']})" if row["error"].get("place") else ""
            self._say(f"{key}: {row['status']}{place}: {row['error']['message']}")
        elif self._total <= _EACH and self._live is None:
            verdicts = Counter(claim["verdict"] for claim in row["claims"])
            said = ", ".join(f"{n} {verdict}" for verdict, n in sorted(verdicts.items()))
            self._say(f"{key}: done ({row['seconds']:.0f} s; {said or 'no claims'})")

    def tick(self) -> None:
        """Draw what is new, at most four times a second."""
        now = time.monotonic()
        if self._live is not None:
            if now - self._drawn > 0.25:
                self._drawn = now
                self._live.update(self._picture(), refresh=True)
        elif now - self._said > 30:
            self._say(self._line())

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _line(self) -> str:
        done = self._total - len(self._left)
        counts = ", ".join(f"{n} {name}" for name, n in sorted(self.counts.items()))
        there = f", {self._there} were there already" if self._there else ""
        return f"{done} of {self._total} runs ({counts or 'none yet'}{there}), about {_span(self._remaining())} left"

    def _remaining(self) -> float:
        """Seconds that are left: by the expected durations, corrected by how wrong they were so far."""
        work: Counter[str] = Counter()
        for key, seconds in self._left.items():
            work[key.device] += int(seconds) + 1
        wrong = self._took / self._expected if self._expected else 1.0
        return wrong * max((work[device] / max(1, self._slots[device]) for device in work), default=0.0)

    def _picture(self) -> Group:
        from rich.console import Group
        from rich.padding import Padding
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        running = list(self._running.items())
        for name, (since, what) in running[:_LINES]:
            table.add_row(f"  {name}", f"{now - since:5.0f} s", what)
        if len(running) > _LINES:
            table.add_row(f"  … and {len(running) - _LINES} more", "", "")
        bar = ProgressBar(total=max(1, self._total), completed=self._total - len(self._left), width=60)
        return Group(Text(self._line()), Padding(bar, (0, 0, 1, 0)), table)


def _span(seconds: float) -> str:
    """A time in words.

    >>> _span(42), _span(600), _span(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"

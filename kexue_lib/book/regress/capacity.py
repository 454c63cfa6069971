"""How long a grid takes on how many slots, what limits it, and what it costs: a small discrete-event simulation.

``python -m kexue_lib.book.regress.capacity LEDGER`` prints the table of ``book/regression.md``.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.regress.baseline import COMMITTED
from kexue_lib.book.regress.grid import Item


@dataclass(frozen=True)
class Work:
    """One run of the simulation: the device that it takes, its seconds, and how many units of the device it takes."""

    device: str
    seconds: float
    width: int = 1


@dataclass(frozen=True)
class Outcome:
    """What a simulation gives.

    Args:
        makespan: seconds until the last run has ended.
        busy: seconds of work by device, runs that were lost included; a run of two units counts twice.
        slots: the slots by device.
        longest: seconds of the longest run.
        lost: how many runs were lost with their worker and made again.
    """

    makespan: float
    busy: dict[str, float]
    slots: dict[str, int]
    longest: float
    lost: int

    @property
    def limit(self) -> str:
        """What bounds the makespan: the work of a device's slots, or the longest run alone."""
        bounds = {f"{device} slots": self.busy[device] / self.slots[device] for device in self.busy}
        name, bound = max(bounds.items(), key=lambda pair: pair[1])
        return "the longest run" if self.longest > bound else name

    @property
    def bound(self) -> float:
        """Seconds that no order of the runs can beat."""
        return max(self.longest, *(self.busy[device] / self.slots[device] for device in self.busy))

    def used(self, device: str) -> float:
        """The share of a device's slot time in which a run was at work."""
        return self.busy.get(device, 0.0) / (self.slots[device] * self.makespan) if self.makespan else 0.0


def simulate(
    works: Sequence[Work],
    slots: Mapping[str, int],
    *,
    dispatch: float = 0.005,
    mtbf: float | None = None,
    seed: int = 0,
) -> Outcome:
    """Run works in their order on slots: the next one starts when a slot of its device is free.

    Args:
        works: what is run, the first ones first.
        slots: the units of each device: how many works of width 1 run at a time.
        dispatch: seconds that the command itself needs for each run (one after the other): submit, fetch, append.
        mtbf: mean seconds of work between two losses of a slot; a lost run is made again from its start.
        seed: of the losses.

    >>> outcome = simulate([Work("cuda", 3.0), Work("cuda", 2.0), Work("cuda", 2.0)], {"cuda": 2}, dispatch=0.0)
    >>> outcome.makespan, outcome.bound, outcome.limit
    (4.0, 3.5, 'cuda slots')

    Raises:
        ValueError: a work takes more units of a device than there are.
    """
    generator = random.Random(seed)
    queues: dict[str, list[Work]] = {}
    for work in reversed(works):
        if slots.get(work.device, 0) < work.width:
            raise ValueError(f"a run takes {work.width} × {work.device!r}, and slots={dict(slots)} has fewer")
        queues.setdefault(work.device, []).append(work)
    free = {device: slots[device] for device in queues}
    busy = dict.fromkeys(queues, 0.0)
    events: list[tuple[float, int, Work, bool]] = []
    now = command = 0.0
    lost = count = 0
    while events or any(queues.values()):
        for device, waiting in queues.items():
            while waiting and free[device] >= waiting[-1].width:
                work = waiting.pop()
                free[device] -= work.width
                command = max(command, now) + dispatch
                life = generator.expovariate(1 / mtbf) if mtbf else float("inf")
                heapq.heappush(events, (command + min(life, work.seconds), count, work, life < work.seconds))
                busy[device] += work.width * min(life, work.seconds)
                count += 1
        now, _, work, failed = heapq.heappop(events)
        free[work.device] += work.width
        if failed:
            queues[work.device].append(work)
            lost += 1
    longest = max((work.seconds for work in works), default=0.0)
    return Outcome(now, busy, {device: slots[device] for device in queues}, longest, lost)


def forecast(items: Sequence[Item], slots: Mapping[str, int]) -> str:
    """In words: how long the runs will take on this machine, and how much of that was measured."""
    if not items:
        return "Nothing is left to run."
    devices = {item.device for item in items}
    widest = {device: max(item.width for item in items if item.device == device) for device in devices}
    there = {device: max(widest[device], slots.get(device, 0)) for device in devices}
    outcome = simulate([Work(item.key.device, item.expected, item.width) for item in items], there)
    known = sum(item.known for item in items)
    on = " and ".join(f"{there[device]} × {device}" for device in sorted(devices))
    wide = [item.width for item in items if item.width > 1]
    by = f" ({len(wide)} of them by {max(wide)} processes each)" if wide else ""
    return (
        f"{len(items)} runs{by} on {on}: about {hours(outcome.makespan)}, limited by {outcome.limit}. "
        f"{known} durations were measured, {len(items) - known} are the chapters' own estimates."
    )


def hours(seconds: float) -> str:
    """A time in a unit that fits.

    >>> hours(90), hours(5400), hours(400_000)
    ('2 min', '1.5 h', '4.6 days')
    """
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def grid(quick: Sequence[float], full: Sequence[float], *, chapters: int = 36, seeds: int = 20) -> list[Work]:
    """The whole book: each chapter's quick run on the CPU and full run on the GPU, with every seed, longest first.

    Args:
        quick, full: seconds of the chapters that are known; the others take them in turn.
        chapters: how many chapters.
        seeds: how many seeds.
    """
    works = [Work("cpu", quick[i % len(quick)]) for i in range(chapters) for _ in range(seeds)]
    works += [Work("cuda", full[i % len(full)]) for i in range(chapters) for _ in range(seeds)]
    return sorted(works, key=lambda work: -work.seconds)


def table(
    quick: Sequence[float],
    full: Sequence[float],
    *,
    gpus: Sequence[int] = (1, 8, 64),
    cpus: int = 4,
    price: float = 2.5,
    mtbf: float = 24 * 3600.0,
) -> str:
    """The grid of the whole book on some GPUs, as Markdown.

    Args:
        quick, full: seconds of the known chapters.
        gpus: how many GPUs, a row for each.
        cpus: CPU slots that come with a GPU.
        price: of an hour of a GPU with its CPUs.
        mtbf: mean seconds of work between two losses of a slot.
    """
    lines = [
        "| GPUs | CPU slots | makespan | lower bound | limited by | GPUs at work | runs lost | GPU hours | cost |",
        "|--:|--:|--:|--:|---|--:|--:|--:|--:|",
    ]
    works = grid(quick, full)
    for count in gpus:
        outcome = simulate(works, {"cuda": count, "cpu": cpus * count}, mtbf=mtbf)
        paid = count * outcome.makespan / 3600
        cells = [str(count), str(cpus * count), hours(outcome.makespan), hours(outcome.bound), outcome.limit]
        cells += [f"{100 * outcome.used('cuda'):.0f} %", str(outcome.lost), f"{paid:.0f}", f"{price * paid:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def known(project: Project, ledger: Path) -> list[tuple[str, float, bool, float, bool]]:
    """For each chapter the seconds of a quick run and of a full one, each with whether it was measured.

    A quick run has one thread and here a core of its own, so that it takes its CPU seconds and three for the kernel's
    start. What was not measured counts as the chapter's card says.
    """
    from kexue_lib.book.config import read_config
    from kexue_lib.book.regress.baseline import read_ledger
    from kexue_lib.book.regress.grid import Durations, read_source

    rows = read_ledger(ledger, project, print)
    for row in rows:
        if row["device"] == "cpu" and row["cpu_seconds"] is not None:
            row["seconds"] = min(row["seconds"], row["cpu_seconds"] + 3.0)
    durations = Durations(rows)
    config = read_config(project)
    sources = [read_source(chapter, config) for chapter in project.chapters]
    return [
        (s.chapter.name, *durations.expect(s, "quick", "cpu"), *durations.expect(s, "full", "cuda")) for s in sources
    ]


def main(ledger: str) -> None:
    """Print the durations that a ledger holds, and the table."""
    found = known(Project.find(), Path(ledger))
    print("| chapter | quick, seconds | full, seconds |\n|---|--:|--:|")
    for name, quick, measured, full, on_gpu in found:
        print(f"| {name} | {quick:.0f}{'' if measured else ' (card)'} | {full:.0f}{'' if on_gpu else ' (card)'} |")
    print()
    print(table([round(row[1]) for row in found], [round(row[3]) for row in found]))


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else COMMITTED)
    except BookError as problem:
        sys.exit(str(problem))

"""A regression as a person reads it: what moved, what is unstable, every claim over its seeds, time and memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kexue_lib.book.regress.compare import Comparison
from kexue_lib.book.regress.figures import FigureMoves
from kexue_lib.book.regress.row import processes_of
from kexue_lib.book.regress.summary import (
    ClaimOverSeeds,
    Group,
    GroupSummary,
    Interval,
    interval,
    middle,
    number,
)

if TYPE_CHECKING:
    from rich.console import Console

#: Numbers beside a claim; the ledger has all of them.
_NUMBERS = 4
#: Series of figures that are listed; the rest is counted.
_SERIES = 30


@dataclass
class Table:
    """A table with its heading and a sentence before it."""

    heading: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    said: str = ""


def report(
    summary: Mapping[Group, GroupSummary],
    comparison: Comparison | None = None,
    *,
    baseline: str = "",
    times: bool = True,
    stale: Callable[[dict[str, Any]], bool] | None = None,
) -> list[Table]:
    """The tables of a report.

    Args:
        summary: what :func:`~kexue_lib.book.regress.summary.summarise` made of a ledger.
        comparison: what moved against a baseline.
        baseline: its name.
        times: also time and memory, which machine, and numbers that come from a clock. Without them the report is a
            function of the verdicts and the other numbers alone, so that two machines can be compared to the letter.
        stale: whether a row was made with another source, library or version than the checkout has.
    """
    tables = [_overview(summary, stale)]
    if comparison is not None:
        tables += _moved(comparison, baseline, times)
    tables += [_unstable(summary, times), _failures(summary), *(_claims(group, times) for group in summary.values())]
    if times:
        tables.append(_times(summary))
    return [table for table in tables if table.rows or table.said]


def _overview(summary: Mapping[Group, GroupSummary], stale: Callable[[dict[str, Any]], bool] | None) -> Table:
    columns = (
        "chapter",
        "scale",
        "device",
        "seeds",
        "ended well",
        "claims",
        "stable",
        "holds",
        "partly",
        "fails",
        "open",
    )
    table = Table("Chapters", (*columns, "of other sources or versions") if stale else columns)
    for (chapter, scale, device), group in summary.items():
        claims = list(group.claims.values())
        usual = Counter(claim.usual for claim in claims)
        line = [chapter, scale, device, span(list(group.rows)), str(len(group.rows) - len(group.ended))]
        line += [str(len(claims)), str(sum(claim.stable for claim in claims))]
        line += [str(usual[verdict]) for verdict in ("holds", "partly", "fails", "open")]
        table.rows.append((*line, str(sum(map(stale, group.rows.values())))) if stale else tuple(line))
    if not table.rows:
        table.said = "The ledger has no run."
    return table


def _moved(comparison: Comparison, baseline: str, times: bool) -> list[Table]:
    verdicts = Table(f"Verdicts that moved against {baseline}", ("chapter", "claim", "how", "before", "after"))
    verdicts.rows = [(_name(m.group), m.claim, m.how, m.before, m.after) for m in comparison.verdicts]
    verdicts.rows += [
        (_name(group), "all", "broken", f"seed {seed} done", "not done") for group, seed in comparison.broken
    ]
    if not comparison.groups:
        verdicts.said = "The baseline has no run of these chapters at these scales on these devices."
    elif not verdicts.rows:
        verdicts.said = f"No verdict has moved ({comparison.groups} groups of runs compared)."
    values = Table("Numbers that moved", ("chapter", "claim", "number", "before", "after", "change"))
    values.rows = [
        (_name(m.group), m.claim, m.name, number(m.before), number(m.after), f"{100 * m.relative:+.0f} %")
        for m in comparison.values
        if times or not m.clocked
    ]
    steps = Table("Steps that moved", ("chapter", "status", "before", "after"))
    for group, (before, after) in comparison.steps.items():
        steps.rows += [(_name(group), s, str(before[s]), str(after[s])) for s in before if before[s] != after[s]]
    slower = Table("Times that moved by more than half", ("chapter", "seconds before", "seconds after"))
    slower.rows = [
        (_name(group, many), number(was), number(now))
        for (group, many), (was, now) in comparison.seconds.items()
        if not was / 1.5 <= now <= was * 1.5
    ]
    figures = [_figures(comparison.figures, baseline, times)] if comparison.groups else []
    return [verdicts, values, *figures, steps, *([slower] if times else [])]


def _figures(found: FigureMoves, baseline: str, times: bool) -> Table:
    table = Table("Figures that moved", ("chapter", "figure", "series", "change", "where"))
    moves = [move for move in found.moves if times or not move.clocked]
    table.rows = [
        (_name(m.group), m.figure, m.series, m.how or f"{100 * m.relative:.0f} %", m.where) for m in moves[:_SERIES]
    ]
    left = len(moves) - len(table.rows)
    compared = f"{found.compared} series compared over their common seeds"
    if not found.known:
        table.said = f"{baseline} has no data of figures for these runs."
    elif not table.rows:
        table.said = f"No series has moved ({compared})."
    else:
        table.said = f"{len(moves)} series moved ({compared})" + (f"; {left} of them are not listed." if left else ".")
    return table


def _unstable(summary: Mapping[Group, GroupSummary], times: bool) -> Table:
    table = Table("Unstable claims", ("chapter", "claim", "verdicts", "why"))
    for group in summary.values():
        table.rows += [
            (_name(group.group), claim.id, _counts(claim), claim.reason(times=times))
            for claim in group.claims.values()
            if not claim.stable
        ]
    if summary and not table.rows:
        table.said = "Every claim has the same verdict with every seed."
    return table


def _failures(summary: Mapping[Group, GroupSummary]) -> Table:
    table = Table("Runs that did not end well", ("chapter", "seed", "how", "where", "message"))
    for group in summary.values():
        for seed, row in sorted(group.ended.items()):
            error = row["error"] or {}
            message = str(error.get("message", ""))
            table.rows.append(
                (_name(group.group), str(seed), row["status"], error.get("place") or "", _short(message, 200))
            )
    return table


def _claims(group: GroupSummary, times: bool) -> Table:
    table = Table(_name(group.group), ("claim", "says", "verdicts over seeds", "measured (mean ± 95 %, range)"))
    table.rows = [(c.id, c.text, _counts(c), _measured(c.intervals(times=times))) for c in group.claims.values()]
    return table


def _times(summary: Mapping[Group, GroupSummary]) -> Table:
    columns = ("chapter", "runs", "seconds", "of the CPU", "longest", "memory", "GPU memory", "machine")
    table = Table("Time and memory", columns)
    for group in summary.values():
        for many in group.processes:
            seconds = group.amount("seconds", many)
            if not seconds:
                continue
            machines = sorted({row["machine"] for row in group.rows.values() if processes_of(row) == many})
            table.rows.append(
                (
                    _name(group.group, many),
                    str(len(seconds)),
                    number(middle(seconds) or 0.0),
                    _amount(middle(group.amount("cpu_seconds", many))),
                    number(max(seconds)),
                    _bytes(group.amount("peak_bytes", many)),
                    _bytes(group.amount("gpu_peak_bytes", many)),
                    ", ".join(machines),
                )
            )
    if table.rows:
        table.said = "Median seconds of a run, start of its kernel included; the peak of its process's memory."
        if any(many > 1 for group in summary.values() for many in group.processes):
            table.said += " Where several processes run a chapter together, CPU and memory are those of the first."
    return table


def _counts(claim: ClaimOverSeeds) -> str:
    total = len(claim.verdicts)
    if claim.stable:
        return f"{claim.usual} {total}/{total}"
    return ", ".join(f"{verdict} {count}/{total}" for verdict, count in claim.counts.items())


def _measured(intervals: Mapping[str, Interval]) -> str:
    said = [f"{name} ≈ {value}" for name, value in list(intervals.items())[:_NUMBERS]]
    left = len(intervals) - len(said)
    return "; ".join(said) + (f"; {left} more" if left else "")


def _name(group: Group, processes: int = 1) -> str:
    chapter, scale, device = group
    return f"{chapter} ({scale}, {device}{f', {processes} processes' if processes > 1 else ''})"


def span(seeds: Sequence[int]) -> str:
    """Seeds as ``--seeds`` takes them.

    >>> span([0, 1, 2, 5])
    '0..2,5'
    """
    pieces: list[list[int]] = []
    for seed in sorted(seeds):
        if pieces and pieces[-1][-1] == seed - 1:
            pieces[-1].append(seed)
        else:
            pieces.append([seed])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}..{p[-1]}" for p in pieces)


def _bytes(values: Sequence[float]) -> str:
    return f"{max(values) / 2**30:.2f} GiB" if values else "–"


def _amount(value: float | None) -> str:
    return "–" if value is None else number(value)


def _short(text: str, length: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


# Writing it down -----------------------------------------------------------------------------------------------------


def markdown(tables: Sequence[Table], level: int = 2) -> str:
    """The report as Markdown, with headings of a level."""
    lines = []
    for table in tables:
        lines += [f"{'#' * level} {table.heading}", ""]
        if table.said:
            lines += [table.said, ""]
        if table.rows:
            lines += [_line(table.columns), "|" + "---|" * len(table.columns)]
            lines += [*map(_line, table.rows), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def show(tables: Sequence[Table], console: Console) -> None:
    """Print the report."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    for table in tables:
        console.print()
        console.print(Text(table.heading, style="bold"))
        if table.said:
            console.print(Text(table.said), soft_wrap=True)
        if table.rows:
            drawn = Drawn(*table.columns, box=box.SIMPLE)
            for row in table.rows:
                drawn.add_row(*(Text(cell) for cell in row))
            console.print(drawn)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


__all__ = ["Table", "interval", "markdown", "report", "show"]

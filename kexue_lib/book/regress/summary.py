"""Counting over seeds: verdicts, their stability, intervals of what was measured, time and memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from statistics import median
from typing import Any

from kexue_lib.book.records import STATUSES, VERDICTS
from kexue_lib.book.regress.row import Key, decode, key_of, processes_of

Row = dict[str, Any]

#: A group of runs that differ only in their seeds: chapter, scale, device.
Group = tuple[str, str, str]


@dataclass(frozen=True)
class Interval:
    """What was measured over seeds.

    Args:
        mean: the mean.
        half: half the width of Student's 95 % interval of the mean; None for one seed, or if a value is not finite.
        low, high: the smallest and the largest value.
        seeds: how many.
    """

    mean: float
    half: float | None
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        """Mean and half width, or the one value, or the range if a value is not finite."""
        if self.seeds == 1 or self.low == self.high:
            return number(self.mean)
        if self.half is None:
            return f"{number(self.low)} … {number(self.high)}"
        return f"{number(self.mean)} ± {number(self.half, 2)} ({number(self.low)} … {number(self.high)})"


@dataclass
class ClaimOverSeeds:
    """One claim of one group.

    Args:
        id: the claim's id.
        text: the claim.
        verdicts: the verdict by seed.
        criteria: by the criterion's name, whether it was met by seed.
        measured: by name, the measured number by seed.
        clocked: the names of those that came from a clock.
    """

    id: str
    text: str
    verdicts: dict[int, str] = field(default_factory=dict)
    criteria: dict[str, dict[int, bool | None]] = field(default_factory=dict)
    measured: dict[str, dict[int, float]] = field(default_factory=dict)
    clocked: set[str] = field(default_factory=set)

    @property
    def stable(self) -> bool:
        """Whether all seeds give the same verdict."""
        return len(set(self.verdicts.values())) <= 1

    @property
    def counts(self) -> dict[str, int]:
        """How many seeds give each verdict, in the order of the verdicts."""
        found = Counter(self.verdicts.values())
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}

    @property
    def usual(self) -> str:
        """The verdict of most seeds; of several the weakest."""
        counts = self.counts
        return max(counts, key=lambda verdict: (counts[verdict], VERDICTS.index(verdict)))

    def intervals(self, *, times: bool = True) -> dict[str, Interval]:
        """Each measured number over the seeds; without ``times`` only those that do not come from a clock."""
        names = [name for name in self.measured if times or name not in self.clocked]
        return {name: interval(list(self.measured[name].values())) for name in names}

    def reason(self, *, times: bool = True) -> str:
        """Why the claim is unstable: the criteria that not all seeds meet, and the numbers that set these seeds apart.

        Empty for a stable claim. Without ``times`` numbers that come from a clock are left out.
        """
        if self.stable:
            return ""
        parts = []
        for name, by_seed in sorted(self.criteria.items()):
            if len(set(by_seed.values())) > 1:
                apart = sorted(seed for seed, met in by_seed.items() if met is not True)
                parts.append(f"criterion “{name}” is not met by {_seeds(apart)}{self._numbers(apart, times)}")
        missing = sorted(self.verdicts.keys() - set.intersection(*map(set, self.criteria.values()), set(self.verdicts)))
        if missing or not parts:
            other = {seed: v for seed, v in sorted(self.verdicts.items()) if v != self.usual}
            parts.append("; ".join(f"seed {seed} gives “{verdict}”" for seed, verdict in other.items()))
        return "; ".join(parts)

    def _numbers(self, apart: Sequence[int], times: bool) -> str:
        """The measured numbers by which the seeds differ from the others, at most three."""
        said = []
        for name, values in self.measured.items():
            if name in self.clocked and not times:
                continue
            there = [values[seed] for seed in apart if seed in values]
            others = [value for seed, value in values.items() if seed not in apart]
            if there and others and (max(there) < min(others) or min(there) > max(others)):
                said.append(f"{name} {_range(there)}, other seeds {_range(others)}")
        return f" ({'; '.join(said[:3])})" if said else ""


@dataclass
class GroupSummary:
    """All runs of a chapter at one scale on one device.

    Args:
        group: chapter, scale and device.
        rows: the row of each seed.
        claims: the claims, in the chapter's order.
    """

    group: Group
    rows: dict[int, Row]
    claims: dict[str, ClaimOverSeeds]

    @property
    def ended(self) -> dict[int, Row]:
        """The runs that did not end as they should."""
        return {seed: row for seed, row in self.rows.items() if row["status"] != "done"}

    @property
    def steps(self) -> dict[str, int] | None:
        """The fewest steps of each status over the seeds; a step's status does not depend on the seed."""
        found = [row["steps"] for row in self.rows.values() if row["steps"]]
        return {name: min(steps.get(name, 0) for steps in found) for name in STATUSES} if found else None

    @property
    def processes(self) -> list[int]:
        """The numbers of processes that ran the chapter together. Times of different ones are never put together."""
        return sorted({processes_of(row) for row in self.rows.values()})

    def amount(self, name: str, processes: int) -> list[float]:
        """Seconds or bytes of the runs by so many processes that ended well and in one go, where they are known."""
        rows = [row for row in self.rows.values() if row["status"] == "done" and not row["resumed"]]
        return [row[name] for row in rows if row[name] is not None and processes_of(row) == processes]


def summarise(rows: Iterable[Row]) -> dict[Group, GroupSummary]:
    """The newest row of each run, by group, in the order of chapters."""
    newest: dict[Key, Row] = {}
    for row in rows:
        newest[key_of(row)] = row
    groups: dict[Group, dict[int, Row]] = {}
    for key in sorted(newest):
        groups.setdefault((key.chapter, key.scale, key.device), {})[key.seed] = newest[key]
    return {group: GroupSummary(group, by_seed, _claims(by_seed)) for group, by_seed in groups.items()}


def _claims(by_seed: Mapping[int, Row]) -> dict[str, ClaimOverSeeds]:
    found: dict[str, ClaimOverSeeds] = {}
    for seed, row in by_seed.items():
        for claim in row["claims"]:
            over = found.setdefault(claim["id"], ClaimOverSeeds(claim["id"], claim["claim"]))
            over.verdicts[seed] = claim["verdict"]
            over.clocked.update(row.get("clocked", {}).get("claims", {}).get(claim["id"], []))
            for name, met in claim["criteria"].items():
                over.criteria.setdefault(name, {})[seed] = met
            for name, value in claim["measured"].items():
                over.measured.setdefault(name, {})[seed] = decode(value)
    return found


def interval(values: Sequence[float]) -> Interval:
    """Mean, Student's 95 % interval and range of some numbers.

    >>> str(interval([1.0, 2.0, 3.0]))
    '2 ± 2.5 (1 … 3)'
    """
    low, high, n = min(values), max(values), len(values)
    mean = sum(values) / n
    if n == 1 or not all(map(math.isfinite, values)):
        return Interval(mean, None, low, high, n)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(mean, _student(n - 1) * deviation / math.sqrt(n), low, high, n)


def number(value: float, digits: int = 3) -> str:
    """A number to a few significant digits.

    >>> number(0.51234), number(12345.0), number(3.0), number(1e-12)
    ('0.512', '12300', '3', '1e-12')
    """
    if not math.isfinite(value):
        return str(value)
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < 1e6 else text


def middle(values: Sequence[float]) -> float | None:
    """The median; None of nothing."""
    return median(values) if values else None


def _range(values: Sequence[float]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} … {high}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"


@cache
def _student(dof: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(dof, 0.975))

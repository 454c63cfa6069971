"""What moved between two ledgers: verdicts, measured numbers, figures, steps, time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kexue_lib.book.records import VERDICTS
from kexue_lib.book.regress.figures import FigureMoves
from kexue_lib.book.regress.summary import ClaimOverSeeds, Group, GroupSummary, middle

#: How much a verdict says for a claim. An open claim was not refuted, but nothing supports it either.
RANK = {"holds": 3, "partly": 2, "open": 1, "fails": 0}
assert set(RANK) == set(VERDICTS)

#: How much of a time may be the machine's mood.
CLOCK = 0.5


@dataclass(frozen=True)
class VerdictMove:
    """A verdict that is not what it was.

    Args:
        group: chapter, scale and device.
        claim: the claim's id.
        how: "fell", "rose", "gone" (the claim, or its runs' results, are there no more) or "new".
        before, after: the verdicts, in words.
    """

    group: Group
    claim: str
    how: str
    before: str
    after: str


@dataclass(frozen=True)
class ValueMove:
    """A measured number whose mean over the common seeds has moved.

    Args:
        group: chapter, scale and device.
        claim: the claim's id.
        name: of the number.
        before, after: the means.
        clocked: whether it comes from a clock.
    """

    group: Group
    claim: str
    name: str
    before: float
    after: float
    clocked: bool = False

    @property
    def relative(self) -> float:
        """The change relative to the earlier mean."""
        if self.before == self.after:
            return 0.0
        return (self.after - self.before) / abs(self.before) if self.before else math.inf


@dataclass
class Comparison:
    """What moved against a baseline.

    Args:
        verdicts: verdicts that fell, rose, went or came.
        values: numbers that moved by more than the tolerance, largest change first.
        steps: for a group, the step counts before and after, where they differ.
        seconds: for a group and a number of processes, the median seconds before and after, where both are known.
        figures: series of figures that moved.
        broken: runs that ended as they should, and do no more: group and seed.
        groups: how many groups both ledgers have.
    """

    verdicts: list[VerdictMove] = field(default_factory=list)
    values: list[ValueMove] = field(default_factory=list)
    steps: dict[Group, tuple[dict[str, int], dict[str, int]]] = field(default_factory=dict)
    seconds: dict[tuple[Group, int], tuple[float, float]] = field(default_factory=dict)
    figures: FigureMoves = field(default_factory=FigureMoves)
    broken: list[tuple[Group, int]] = field(default_factory=list)
    groups: int = 0

    @property
    def fell(self) -> bool:
        """Whether something that was said of a claim can be said no more, or a run ends no more."""
        return bool(self.broken) or any(move.how in ("fell", "gone") for move in self.verdicts)


def compare(
    old: Mapping[Group, GroupSummary], new: Mapping[Group, GroupSummary], tolerance: float = 0.05
) -> Comparison:
    """What moved from one summary to another, for the groups that both have.

    Verdicts are compared seed by seed where both ledgers have the seed; if they have none in common, the weakest
    verdict of each counts.

    Args:
        old: the baseline.
        new: what is compared with it.
        tolerance: relative change of a mean above which a number, or a series of a figure, has moved. What comes from
            a clock has moved if it changed by more than :data:`CLOCK`.
    """
    found = Comparison()
    for group, after in new.items():
        before = old.get(group)
        if before is None:
            continue
        found.groups += 1
        found.broken += [(group, seed) for seed in after.ended if seed in before.rows and seed not in before.ended]
        _verdicts(group, before, after, found.verdicts)
        for id, claim in after.claims.items():
            if id in before.claims:
                found.values += _values(group, before.claims[id], claim, tolerance)
        if before.steps and after.steps and before.steps != after.steps:
            found.steps[group] = before.steps, after.steps
        for many in after.processes:
            was, now = middle(before.amount("seconds", many)), middle(after.amount("seconds", many))
            if was is not None and now is not None:
                found.seconds[group, many] = was, now
        found.figures.add(group, before, after, tolerance, CLOCK)
    found.figures.sort()
    found.values.sort(key=lambda move: -abs(move.relative))
    return found


def _verdicts(group: Group, before: GroupSummary, after: GroupSummary, found: list[VerdictMove]) -> None:
    for id in {**before.claims, **after.claims}:
        was, now = before.claims.get(id), after.claims.get(id)
        if now is None:
            assert was is not None
            found.append(VerdictMove(group, id, "gone", _words(was), "no result"))
        elif was is None:
            found.append(VerdictMove(group, id, "new", "not there", _words(now)))
        else:
            _verdict(group, was, now, found)


def _verdict(group: Group, was: ClaimOverSeeds, now: ClaimOverSeeds, found: list[VerdictMove]) -> None:
    common = sorted(was.verdicts.keys() & now.verdicts.keys())
    pairs: dict[int | None, tuple[str, str]] = {seed: (was.verdicts[seed], now.verdicts[seed]) for seed in common}
    pairs = pairs or {None: (_weakest(was), _weakest(now))}
    for how, sign in (("fell", -1), ("rose", 1)):
        moved = {seed: pair for seed, pair in pairs.items() if (RANK[pair[1]] - RANK[pair[0]]) * sign > 0}
        if moved:
            seeds = "" if None in moved else f" (seed{'s' if len(moved) > 1 else ''} {', '.join(map(str, moved))})"
            old = sorted({pair[0] for pair in moved.values()}, key=VERDICTS.index)
            new = sorted({pair[1] for pair in moved.values()}, key=VERDICTS.index)
            found.append(VerdictMove(group, now.id, how, " or ".join(old), " or ".join(new) + seeds))


def _values(group: Group, was: ClaimOverSeeds, now: ClaimOverSeeds, tolerance: float) -> list[ValueMove]:
    found = []
    for name, values in now.measured.items():
        old = was.measured.get(name, {})
        seeds = sorted(old.keys() & values.keys())
        if not seeds:
            continue
        move = ValueMove(
            group,
            now.id,
            name,
            sum(old[s] for s in seeds) / len(seeds),
            sum(values[s] for s in seeds) / len(seeds),
            clocked=name in now.clocked,
        )
        # A comparison with NaN is false: a number that became NaN, or was it, has moved unless it stayed so.
        both_nan = math.isnan(move.before) and math.isnan(move.after)
        if not both_nan and not abs(move.relative) <= (CLOCK if move.clocked else tolerance):
            found.append(move)
    return found


def _weakest(claim: ClaimOverSeeds) -> str:
    return min(claim.verdicts.values(), key=RANK.__getitem__)


def _words(claim: ClaimOverSeeds) -> str:
    return ", ".join(f"{verdict} {count}" for verdict, count in claim.counts.items())

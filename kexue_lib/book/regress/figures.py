"""Which figures' data moved between two ledgers: each series against the same series of the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kexue_lib.book.regress.summary import Group, GroupSummary, number

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: A series of a row: a number, null where there is none, or a list of such.
Series = Any


@dataclass(frozen=True)
class FigureMove:
    """A series of a figure that is not what it was.

    Args:
        group: chapter, scale and device.
        figure: the figure's name.
        series: the series' name.
        how: "another shape", "gone" or "new"; "" if its numbers have moved.
        relative: the change of its numbers, relative to the earlier ones; 0 where they cannot be compared.
        where: the place of the largest difference, the shapes, and values that came or went, in words.
        clocked: whether it comes from a clock.
    """

    group: Group
    figure: str
    series: str
    how: str
    relative: float
    where: str
    clocked: bool = False


@dataclass
class FigureMoves:
    """What moved in the figures.

    Args:
        moves: the series that moved: first those that cannot be compared, then by the size of their change.
        compared: how many series both ledgers have for a common seed.
        known: whether the baseline has data of figures at all.
    """

    moves: list[FigureMove] = field(default_factory=list)
    compared: int = 0
    known: bool = False

    def add(self, group: Group, before: GroupSummary, after: GroupSummary, tolerance: float, clock: float) -> None:
        """Compare the figures of a group, over the seeds whose runs have ended well in both ledgers.

        Args:
            group: chapter, scale and device.
            before, after: its runs.
            tolerance: relative change above which a series has moved.
            clock: the same for a series that comes from a clock.
        """
        old, new = _figures(before), _figures(after)
        self.known |= bool(old)
        seeds = sorted(old.keys() & new.keys())
        names = {pair: None for runs in (old, new) for seed in seeds for pair in runs[seed]}
        times = _clocked(after)
        for name in sorted(names):
            was = {seed: old[seed][name] for seed in seeds if name in old[seed]}
            now = {seed: new[seed][name] for seed in seeds if name in new[seed]}
            self.compared += bool(was.keys() & now.keys())
            how, relative, where = _compare(was, now)
            # Not "relative > tolerance": NaN, which only a damaged ledger could give, has moved.
            if how or where.nulls or not relative <= (clock if name in times else tolerance):
                self.moves.append(FigureMove(group, *name, how, relative, str(where), clocked=name in times))

    def sort(self) -> None:
        """Bring the moves into their order."""
        self.moves.sort(key=lambda move: (not move.how, -move.relative, move.group, move.figure, move.series))


@dataclass(frozen=True)
class _Where:
    said: str = ""
    nulls: str = ""

    def __str__(self) -> str:
        return "; ".join(filter(None, (self.said, self.nulls)))


def _figures(summary: GroupSummary) -> dict[int, dict[tuple[str, str], Series]]:
    """By seed, each series by the names of figure and series; only of runs that have any."""
    return {
        seed: {(figure, name): values for figure, all_ in row["figures"].items() for name, values in all_.items()}
        for seed, row in summary.rows.items()
        if row["status"] == "done" and row.get("figures")
    }


def _clocked(summary: GroupSummary) -> set[tuple[str, str]]:
    """The series that come from a clock, by the names of figure and series."""
    return {
        (figure, name)
        for row in summary.rows.values()
        for figure, names in row.get("clocked", {}).get("figures", {}).items()
        for name in names
    }


def _compare(was: Mapping[int, Series], now: Mapping[int, Series]) -> tuple[str, float, _Where]:
    if not was or not now:
        return ("gone" if was else "new"), 0.0, _Where()
    if lost := sorted(was.keys() - now.keys()):
        return "gone", 0.0, _Where(f"for {_seeds(lost)}")
    if more := sorted(now.keys() - was.keys()):
        return "new", 0.0, _Where(f"for {_seeds(more)}")
    old, new = ({seed: array(values) for seed, values in runs.items()} for runs in (was, now))
    other = [seed for seed in old if old[seed].shape != new[seed].shape]
    if other:
        shapes = f"{old[other[0]].shape} → {new[other[0]].shape}"
        return "another shape", 0.0, _Where(shapes if len(other) == len(old) else f"{shapes} for {_seeds(other)}")
    if len({values.shape for values in old.values()}) == 1:
        return "", *distance(list(old.values()), list(new.values()))
    # The shape depends on the seed, so that there is no mean over the seeds.
    each = {seed: distance([old[seed]], [new[seed]]) for seed in old}
    worst = max(each, key=lambda seed: each[seed][0])
    relative, where = each[worst]
    nulls = [f"seed {seed}: {there.nulls}" for seed, (_, there) in each.items() if there.nulls]
    return "", relative, _Where(f"seed {worst} {where.said}" if where.said else "", ", ".join(nulls))


def distance(old: Sequence[Array], new: Sequence[Array]) -> tuple[float, _Where]:
    """How far the means over seeds are from one another: ‖new − old‖₂ / ‖old‖₂, and where most.

    A place counts with the seeds for which it has a number in both; values that came or went are told apart.

    Args:
        old, new: for each seed an array, all of one shape; NaN where there is no number.

    >>> import numpy as np
    >>> relative, where = distance([np.array([3.0, 4.0])], [np.array([3.0, 4.5])])
    >>> relative, str(where)
    (0.1, 'at [1]: 4 → 4.5')
    """
    import numpy as np

    before, after = np.stack(list(old)), np.stack(list(new))
    there, still = ~np.isnan(before), ~np.isnan(after)
    both = there & still
    counts = both.sum(axis=0)
    some = counts > 0
    means = [np.where(both, values, 0.0).sum(axis=0) / np.maximum(counts, 1) for values in (before, after)]
    difference = np.where(some, means[1] - means[0], 0.0)
    came, went = int((still & ~there).any(axis=0).sum()), int((there & ~still).any(axis=0).sum())
    said = [f"{many} value{'s' if many > 1 else ''} {how}" for many, how in ((came, "came"), (went, "went")) if many]
    nulls = ", ".join(said)
    if not difference.any():
        return 0.0, _Where(nulls=nulls)
    size = float(np.linalg.norm(np.where(some, means[0], 0.0).ravel()))
    relative = float(np.linalg.norm(difference.ravel())) / size if size else float("inf")
    place = np.unravel_index(int(np.abs(difference).argmax()), difference.shape)
    index = f"at [{', '.join(str(int(i)) for i in place)}]: " if place else ""
    return relative, _Where(f"{index}{number(float(means[0][place]))} → {number(float(means[1][place]))}", nulls)


def array(values: Series) -> Array:
    """A series as an array with NaN for null. Rows of different lengths, which no chapter writes, become one axis."""
    import numpy as np

    try:
        return np.array(values, dtype=float)
    except ValueError:
        return np.array([number for row in values for number in array(row).ravel()], dtype=float)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"

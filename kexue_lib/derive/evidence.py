"""What every kind of evidence shares: its setting, its finding, and the search for a counterexample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import mpmath
import sympy as sp

from .domains import Domain, Integer, Interval, Nonnegative, Positive, Real, Vector, default_domain
from .errors import Counterexample, Refusal
from .evaluate import (
    NotEvaluable,
    Point,
    compile_expression,
    index_ranges,
    points,
    sampled_symbols,
    show_number,
    show_point,
)
from .relations import Relation
from .rewriting import Definition, unfold

Sizes = Mapping[sp.Symbol, int | Sequence[int]]

# Two sides agree at a point when they differ by less than this, relative to the larger one.
TOLERANCE = mpmath.mpf(10) ** -12
_DIGITS = (30, 60, 120)  # working precision; a counterexample needs two of them to agree on both sides


@dataclass(frozen=True)
class Setting:
    """What a step knows besides its relation: definitions, domains, sizes and conditions."""

    step: str
    definitions: tuple[Definition, ...] = ()
    opaque: tuple[Definition, ...] = ()  # stay folded in proofs; sampled points need them all the same
    domain: Mapping[sp.Basic, Domain] = field(default_factory=dict)
    dims: Sizes = field(default_factory=dict)
    where: tuple[sp.Basic, ...] = ()
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    conditional: bool = False  # rests on an assumption, so that it need not hold at every point
    seconds: float = 60.0

    def unfold(self, relation: Relation) -> Relation:
        """Put definitions in place of the names that they define."""
        return relation.with_sides(*(unfold(s, self.definitions) for s in relation.sides))

    def for_points(self) -> Setting:
        """The same setting with every definition unfolded."""
        return replace(self, definitions=self.definitions + self.opaque, opaque=())

    def within(self, seconds: float) -> Setting:
        """The same setting with another time allowance."""
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class Finding:
    """What evidence found when it accepted a relation."""

    status: str  # proved | asymptotic | sampled | unchecked
    method: str
    detail: Mapping[str, Any] = field(default_factory=dict)  # the same on every machine
    measured: Mapping[str, float] = field(default_factory=dict)  # may differ in the last digits


class Evidence(Protocol):
    """Evidence looks at a relation in a setting and returns a finding, or raises :class:`Refusal`."""

    kind: str

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Accept or refuse."""


@dataclass
class Sampled:
    """The outcome of comparing both sides at sampled points."""

    used: int = 0
    skipped: int = 0  # both sides undefined
    unclear: int = 0  # a side could not be computed reliably
    worst: Any = mpmath.mpf("0")  # noqa: RUF009 (an mpf cannot be changed); relative error of an equation
    margin: Any = None  # smallest relative slack of an inequality
    tightest: Point | None = None
    starts: list[tuple[Any, Point]] = field(default_factory=list)  # the tightest points, where the attack sets out

    def note(self, margin: Any, point: Point) -> None:
        """Remember an inequality's slack at a point."""
        if self.margin is None or margin < self.margin:
            self.margin, self.tightest = margin, point
        if all(point != other for _, other in self.starts):
            self.starts = sorted([*self.starts, (margin, point)], key=lambda start: start[0])
            # some points of equality, and the nearest one that is none
            equal = [start for start in self.starts if start[0] <= TOLERANCE]
            self.starts = equal[:3] + [start for start in self.starts if start[0] > TOLERANCE][:1]


def _sides_at(point: Point, sides: tuple[Callable[[Point], Any], ...], digits: int) -> tuple[Any, Any]:
    with mpmath.workdps(digits):
        left, right = (f(point) for f in sides)
        return left, right


def _real(value: Any) -> Any:
    if isinstance(value, mpmath.mpc):
        return value.real if abs(value.imag) <= TOLERANCE * (1 + abs(value.real)) else mpmath.nan
    return value


def _counterexample(point: Point, left: Any, right: Any, note: str = "") -> Counterexample:
    gap = left - right
    return Counterexample(show_point(point), show_number(left, 12), show_number(right, 12), show_number(gap, 4), note)


def compare(
    relation: Relation,
    point: Point,
    sides: tuple[Callable[[Point], Any], ...],
    outcome: Sampled,
    tolerance: Any = TOLERANCE,
) -> None:
    """Compare both sides at one point; raise :class:`Refusal` with a counterexample where they do not agree."""
    before: list[tuple[Any, Any]] = []
    for digits in _DIGITS:
        if len(before) > 1 and _settled(*before[-2:]):
            break
        left, right = _sides_at(point, sides, digits)
        before.append((left, right))
        undefined = [bool(mpmath.isnan(v)) for v in (left, right)]
        if all(undefined):
            outcome.skipped += 1
            return
        if any(undefined) or (mpmath.isinf(left) != mpmath.isinf(right)):
            which = "left" if undefined[0] or mpmath.isinf(left) else "right"
            raise Refusal(
                f"at a point of the domain the {which} side has no finite value, and the other has",
                counterexample=_counterexample(point, left, right),
                advice="exclude the point with where=[…] or a narrower domain, if the claim is not meant there",
            )
        if mpmath.isinf(left):
            outcome.skipped += 1
            return
        scale = max(abs(left), abs(right))
        if relation.op == "=":
            error = abs(left - right) / scale if scale else mpmath.mpf(0)
            # Both sides may vanish by cancellation: then the error falls with the precision.
            if error <= tolerance or abs(left - right) <= mpmath.mpf(10) ** (-digits // 2):
                outcome.used += 1
                outcome.worst = max(outcome.worst, error if error <= tolerance else mpmath.mpf(0))
                return
            continue
        left, right = _real(left), _real(right)
        if mpmath.isnan(left) or mpmath.isnan(right):
            raise Refusal(
                "an inequality needs real sides",
                counterexample=_counterexample(point, *_sides_at(point, sides, digits)),
            )
        slack = right - left if relation.op in ("<", "<=") else left - right
        rounding = mpmath.mpf(10) ** (-digits // 2)
        strict = relation.op in ("<", ">")
        if slack > rounding * scale if strict else slack >= -rounding * (1 + scale):
            outcome.used += 1
            relative = slack / scale if scale else slack
            outcome.note(relative, point)
            return
    if not _settled(*before[-2:]):
        raise NotEvaluable(f"the values at {show_point(point)} do not settle when the precision grows")
    by_quadrature = any(side.has(sp.Integral) for side in relation.sides)
    note = "integrals were computed by quadrature, which can miss a very narrow peak" if by_quadrature else ""
    raise Refusal("the two sides do not agree", counterexample=_counterexample(point, *before[-1], note))


def _settled(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether two precisions give the same values: otherwise the computation is at fault, and not the claim."""
    return all(
        abs(a - b) <= mpmath.mpf(10) ** -8 * abs(b) + mpmath.mpf(10) ** -20 for a, b in zip(one, other, strict=True)
    )


def sample(
    relation: Relation, setting: Setting, count: int, tolerance: Any = TOLERANCE, *, walk: bool = True
) -> Sampled:
    """Compare the sides at ``count`` points of the domain, corners first; walk on from the tightest ones."""
    setting = setting.for_points()
    relation = setting.unfold(relation)
    exprs = [*relation.sides]
    symbols = sampled_symbols(exprs)
    extra = sorted({s for c in setting.where for s in sp.sympify(c).free_symbols} - set(symbols), key=str)
    arguments = [*symbols, *extra]
    sides = tuple(compile_expression(e, arguments, setting.functions) for e in exprs)
    outcome = Sampled()
    drawn = points(
        exprs,
        seed=setting.step,
        count=count if symbols else 1,
        domain=setting.domain,
        dims=setting.dims,
        where=setting.where,
    )
    unclear: NotEvaluable | None = None
    for point in drawn:
        try:
            compare(relation, point, sides, outcome, tolerance)
        except NotEvaluable as error:  # noqa: PERF203 (no word against the claim, and none for it)
            outcome.unclear, unclear = outcome.unclear + 1, error
            if outcome.unclear > 3 and not outcome.used:
                break
    if unclear is not None and not outcome.used:
        raise unclear
    if walk and relation.op != "=" and symbols:
        _attack(relation, setting, sides, outcome)
    if not outcome.used:
        raise Refusal(
            f"the sides are undefined at all {outcome.skipped} sampled points",
            advice="give a domain in which they have values",
        )
    return outcome


def _attack(relation: Relation, setting: Setting, sides: tuple[Callable[[Point], Any], ...], outcome: Sampled) -> None:
    """Walk from the tightest sampled points towards less slack: random points rarely meet a narrow violation."""
    if setting.where:
        return
    # sizes of vectors, and indices that run over their entries, cannot move on their own
    fixed = {
        s for base in outcome.tightest or {} for size in getattr(base, "shape", None) or () for s in size.free_symbols
    }
    fixed |= set(setting.dims) | set(index_ranges(relation.sides))
    for margin, start in outcome.starts:
        _walk(start, margin, fixed, relation, setting, sides)


def _walk(
    point: Point,
    best: Any,
    fixed: set[sp.Basic],
    relation: Relation,
    setting: Setting,
    sides: tuple[Callable[[Point], Any], ...],
) -> None:
    step = mpmath.mpf("0.25")
    for _ in range(40):
        improved = False
        for symbol, value in list(point.items()):
            if symbol in fixed:
                continue
            entries = range(len(value)) if isinstance(value, list) else (None,)
            for entry in list(entries)[:8]:
                for moved in _moves(symbol, value, entry, step, setting):
                    trial = {**point, symbol: moved}
                    probe = Sampled()
                    try:
                        compare(relation, trial, sides, probe)
                    except NotEvaluable:
                        continue
                    if probe.margin is not None and probe.margin < best:
                        point, value, best, improved = trial, moved, probe.margin, True
        if not improved:
            step /= 4
            if step < mpmath.mpf(10) ** -6:
                break


def _moves(symbol: sp.Basic, value: Any, entry: int | None, step: Any, setting: Setting) -> Iterator[Any]:
    """Move one coordinate a little, in its domain; nothing where that is not possible on its own."""
    domain = setting.domain.get(symbol) or default_domain(symbol)
    inner = domain.entry if isinstance(domain, Vector) else domain
    old = value if entry is None else value[entry]
    if isinstance(inner, Integer):
        moved = [old - 1, old + 1]
    elif isinstance(inner, (Interval, Real, Positive)):  # Positive has the kinds Nonnegative and Negative
        moved = [old * (1 + step), old / (1 + step)]
        if abs(old) < step and isinstance(inner, (Interval, Real, Nonnegative)):
            moved += [old + step, old - step]
    else:
        return  # simplex, unit vectors: moving one coordinate would leave them
    for new in moved:
        if isinstance(inner, (Interval, Integer)) and not inner.low <= new <= inner.high:
            continue
        if isinstance(inner, Interval) and inner.open and new in (inner.low, inner.high):
            continue
        if isinstance(inner, Nonnegative) and new < 0:
            continue
        yield new if entry is None else [*value[:entry], new, *value[entry + 1 :]]


def refute(relation: Relation, setting: Setting, count: int = 24) -> Sampled | None:
    """Look for a counterexample before any proof is tried; None where the relation cannot be evaluated at points."""
    slow = any(side.has(sp.Integral) for side in setting.for_points().unfold(relation).sides)  # quadrature
    try:
        return sample(relation, setting, min(count, 8) if slow else count, walk=not slow)
    except NotEvaluable:
        return None

"""What every kind of evidence shares: its setting, its finding, and the search for a counterexample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import mpmath
import sympy as sp

from .domains import Domain
from .errors import Counterexample, Refusal
from .evaluate import NotEvaluable, Point, compile_expression, points, sampled_symbols, show_number, show_point
from .relations import Relation
from .rewriting import Definition, unfold

Sizes = Mapping[sp.Symbol, int | Sequence[int]]

# Two sides agree at a point when they differ by less than this, relative to the larger one.
TOLERANCE = mpmath.mpf(10) ** -12
_DIGITS = (30, 90)  # working precision; the second is tried before a point counts as a counterexample


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
    worst: Any = mpmath.mpf("0")  # noqa: RUF009 (an mpf cannot be changed); relative error of an equation
    margin: Any = None  # smallest relative slack of an inequality
    tightest: Point | None = None


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
    for digits in _DIGITS:
        left, right = _sides_at(point, sides, digits)
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
            if outcome.margin is None or relative < outcome.margin:
                outcome.margin, outcome.tightest = relative, point
            return
    raise Refusal("the two sides do not agree", counterexample=_counterexample(point, left, right))


def sample(relation: Relation, setting: Setting, count: int, tolerance: Any = TOLERANCE) -> Sampled:
    """Compare the sides at ``count`` points of the domain, corners first."""
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
    for point in drawn:
        compare(relation, point, sides, outcome, tolerance)
    if relation.op != "=" and symbols:
        _attack(relation, setting, sides, outcome)
    if not outcome.used:
        raise Refusal(
            f"the sides are undefined at all {outcome.skipped} sampled points",
            advice="give a domain in which they have values",
        )
    return outcome


def _attack(relation: Relation, setting: Setting, sides: tuple[Callable[[Point], Any], ...], outcome: Sampled) -> None:
    """Walk from the tightest sampled point towards less slack: random points rarely meet a narrow violation."""
    point = outcome.tightest
    if point is None:
        return
    step, best = mpmath.mpf("0.25"), outcome.margin
    for _ in range(40):
        improved = False
        for symbol, value in list(point.items()):
            entries = range(len(value)) if isinstance(value, list) else (None,)
            for entry in list(entries)[:8]:
                for factor in (1 + step, 1 / (1 + step)):
                    moved = _moved(symbol, value, entry, factor, setting)
                    if moved is None:
                        continue
                    trial = {**point, symbol: moved}
                    probe = Sampled()
                    compare(relation, trial, sides, probe)
                    if probe.margin is not None and probe.margin < best:
                        point, value, best, improved = trial, moved, probe.margin, True
        if not improved:
            step /= 4
            if step < mpmath.mpf(10) ** -6:
                break
    outcome.margin, outcome.tightest = best, point


def _moved(symbol: sp.Basic, value: Any, entry: int | None, factor: Any, setting: Setting) -> Any:
    """Scale one coordinate; None where that would leave the domain."""
    from .domains import Interval, Negative, Nonnegative, Positive, Real, Vector, default_domain

    domain = setting.domain.get(symbol)
    if domain is None:
        if symbol in setting.dims or getattr(symbol, "is_integer", False):
            return None
        domain = default_domain(symbol)
    inner = domain.entry if isinstance(domain, Vector) else domain
    if not isinstance(inner, (Interval, Real, Positive, Nonnegative, Negative)):
        return None  # simplex, unit vectors, integers: scaling one coordinate would leave them
    old = value if entry is None else value[entry]
    new = old * factor
    if setting.where:
        return None
    if isinstance(inner, Interval) and not (inner.low <= new <= inner.high):
        return None
    return new if entry is None else [*value[:entry], new, *value[entry + 1 :]]


def refute(relation: Relation, setting: Setting, count: int = 24) -> Sampled | None:
    """Look for a counterexample before any proof is tried; None where the relation cannot be evaluated at points."""
    try:
        return sample(relation, setting, count)
    except NotEvaluable:
        return None

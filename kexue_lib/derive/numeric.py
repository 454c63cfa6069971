"""Evidence ``numeric``: the relation holds at many points of its domain, in high precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mpmath
import sympy as sp

from .domains import Domain, OneOf
from .errors import Refusal
from .evaluate import show_number
from .evidence import Finding, Setting, sample
from .relations import Relation
from .timelimit import TimeLimitReached, time_limit


@dataclass(frozen=True)
class Numeric:
    """Compare both sides at sampled points, with 30 digits (60 before a point counts as a counterexample).

    Args:
        points: how many points; the first third of them are corners of the domain.
        domain: where symbols live, e.g. ``{lam: Interval(0.01, 40)}``; by default what their assumptions allow.
        dims: sizes of vectors, all tried in turn, e.g. ``{n: (3, 17, 256)}``.
        tolerance: largest relative error of an equation.
        tight: where, as ``{symbol: value or domain}``, an inequality becomes an equation. Giving it proves that the
            bound cannot be moved, and lets the audit kill mutants that merely move it.
        seconds: time limit.
    """

    points: int = 200
    domain: Mapping[sp.Basic, Domain] = field(default_factory=dict)
    dims: Mapping[sp.Symbol, int | Sequence[int]] = field(default_factory=dict)
    tolerance: float = 1e-12
    tight: Mapping[sp.Basic, Any] | None = None
    seconds: float = 60.0

    kind = "numeric"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Sample ``relation`` or refuse it."""
        setting = replace(setting, domain={**setting.domain, **self.domain}, dims={**setting.dims, **self.dims})
        if relation.op == "~":
            raise Refusal("an asymptotic relation needs the evidence 'limit'")
        try:
            with time_limit(self.seconds):
                outcome = sample(relation, setting, self.points, mpmath.mpf(self.tolerance))
                if self.tight is not None:
                    self._is_tight(relation, setting)
        except TimeLimitReached as limit:
            raise Refusal(
                f"{self.points} points took too long ({limit})", advice="fewer points or smaller sizes"
            ) from None
        detail: dict[str, Any] = {"points": outcome.used}
        if outcome.skipped:
            detail["undefined on both sides"] = outcome.skipped
        if outcome.unclear:
            detail["not computed reliably"] = outcome.unclear
        if relation.op == "=":
            detail["tolerance"] = f"{self.tolerance:.0e}"
            worst = "0" if outcome.worst < mpmath.mpf(10) ** -28 else show_number(outcome.worst, 1)
            return Finding("sampled", f"{outcome.used} points, worst relative error {worst}", detail)
        detail["violations"] = 0
        if self.tight is not None:
            detail["equality at"] = ", ".join(f"{k} = {v}" for k, v in self.tight.items())
        return Finding("sampled", f"{outcome.used} points, no violation", detail)

    def _is_tight(self, relation: Relation, setting: Setting) -> None:
        pinned = {k: v if hasattr(v, "draw") else OneOf(v) for k, v in (self.tight or {}).items()}
        there = replace(setting, domain={**setting.domain, **pinned})
        try:
            sample(replace(relation, op="="), there, 6, mpmath.mpf(self.tolerance))
        except Refusal as refusal:
            raise Refusal(
                "the bound is not attained where the step says that it is", counterexample=refusal.counterexample
            ) from None

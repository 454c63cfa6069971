"""The mutation audit: does the evidence of a step refuse wrong versions of it?

Every checked relation is changed in small ways and its own evidence runs again. A mutant is

* *killed* when the evidence refuses it (with a counterexample, or because it is not decided);
* *equivalent* when the changed side is proved equal to the original one, or (for a limit) when the difference of both
  is seen to vanish in the limit: the relation says the same;
* *implied* when the change only weakens a true inequality, which is shown by the same evidence;
* a *survivor* otherwise: then the step's evidence is too weak to be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from .asymptotic import vanishes
from .derivation import Derivation
from .errors import DerivationError, Refusal
from .evidence import refute
from .exact import Exact
from .mutants import Mutant, mutants
from .prove import prove_zero
from .relations import Relation
from .rewriting import explicit
from .steps import Step
from .timelimit import TimeLimitReached, deep_recursion, time_limit

_PATIENCE = 8.0  # seconds for one mutant: a false relation is usually refuted at once
MOST = 14  # mutants for one step


@dataclass
class StepAudit:
    """What became of the mutants of one step."""

    id: str
    killed: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)  # killed too, but without a counterexample
    equivalent: list[str] = field(default_factory=list)
    implied: list[str] = field(default_factory=list)
    survived: list[str] = field(default_factory=list)
    not_run: int = 0


@dataclass
class Report:
    """The audit of a derivation."""

    derivation: str
    steps: list[StepAudit]
    seconds: float

    def _count(self, name: str) -> int:
        return sum(len(getattr(s, name)) for s in self.steps)

    @property
    def killed(self) -> int:
        """Mutants that the evidence refused."""
        return self._count("killed") + self._count("undecided")

    @property
    def equivalent(self) -> int:
        """Mutants proved to say the same."""
        return self._count("equivalent")

    @property
    def implied(self) -> int:
        """Mutants of inequalities that are weaker and true."""
        return self._count("implied")

    @property
    def survived(self) -> int:
        """Mutants that the evidence wrongly accepted."""
        return self._count("survived")

    @property
    def not_run(self) -> int:
        """Mutants for which no time was left."""
        return sum(s.not_run for s in self.steps)

    @property
    def passed(self) -> bool:
        """No survivor, every mutant run, and every step with at least one killed mutant."""
        return self.survived == 0 and self.not_run == 0 and all(s.killed or s.undecided for s in self.steps)

    def record(self) -> dict[str, Any]:
        """Return the report as JSON, without times."""
        return {
            "schema": 1,
            "derivation": self.derivation,
            "killed": self.killed,
            "equivalent": self.equivalent,
            "implied": self.implied,
            "survived": self.survived,
            "not_run": self.not_run,
            "steps": [
                {
                    "id": s.id,
                    "killed": len(s.killed) + len(s.undecided),
                    "without_counterexample": len(s.undecided),
                    "equivalent": len(s.equivalent),
                    "implied": len(s.implied),
                    "survived": s.survived,
                }
                for s in self.steps
            ],
        }

    def __str__(self) -> str:
        rows = [f"{'step':<8}{'killed':>8}{'equivalent':>12}{'implied':>9}{'survived':>10}"]
        for s in self.steps:
            killed = len(s.killed) + len(s.undecided)
            rows.append(f"{s.id:<8}{killed:>8}{len(s.equivalent):>12}{len(s.implied):>9}{len(s.survived):>10}")
            rows += [f"    survivor: {change}" for change in s.survived]
        rows.append(f"{'all':<8}{self.killed:>8}{self.equivalent:>12}{self.implied:>9}{self.survived:>10}")
        if self.not_run:
            rows.append(f"{self.not_run} mutants were not run: the time budget was spent")
        return "\n".join(rows)


def audit(
    derivation: Derivation,
    *,
    budget: float = 240.0,
    most: int = MOST,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Run mutants of every checked step through the step's own evidence.

    Args:
        derivation: a derivation whose steps all hold.
        budget: seconds of processor time for everything (a busy machine does not matter); mutants beyond it count as
            not run, and then the audit does not pass.
        most: mutants for one step.
        progress: called with each step's id before its mutants run.
    """
    start = time.process_time()
    reports = []
    for step in derivation.checked_parts():
        if progress is not None:
            progress(step.id)
        found = StepAudit(step.id)
        if step.statement.op == "=" and step.statement.lhs == step.statement.rhs:
            found.survived.append(f"SymPy has made both sides the same, {step.statement.lhs}: the line says nothing")
        for mutant in mutants(step.statement, most):
            if time.process_time() - start > budget:
                found.not_run += 1
                continue
            with deep_recursion():
                verdict = judge(step, mutant)
            getattr(found, verdict).append(f"{mutant.kind}: {mutant.change}  ⟶  {mutant.relation}")
        reports.append(found)
    return Report(derivation.name, reports, time.process_time() - start)


def judge(step: Step, mutant: Mutant) -> str:
    """Return ``killed``, ``undecided``, ``equivalent``, ``implied`` or ``survived``."""
    assert step.evidence is not None
    assert step.setting is not None
    setting = step.setting.within(_PATIENCE)
    try:
        with time_limit(5 * _PATIENCE):
            step.evidence.check(mutant.relation, setting)
    except Refusal as refusal:
        return "undecided" if refusal.counterexample is None else "killed"
    except (DerivationError, TimeLimitReached):
        return "undecided"  # nothing in it can be evaluated or decided any more: refused too
    if _equivalent(step, mutant):
        return "equivalent"
    return "implied" if _implied(step, mutant) else "survived"


def _equivalent(step: Step, mutant: Mutant) -> bool:
    """Whether the changed side is the old one in other words: proved, and not contradicted at fresh points."""
    if mutant.side is None or step.setting is None:
        return False
    old, new = (getattr(r, mutant.side) for r in (step.statement, mutant.relation))
    other = step.statement.rhs if mutant.side == "lhs" else step.statement.lhs
    if step.statement.op in ("<", "<=", ">", ">=") and other == 0 and sp.simplify(new / old).is_positive:
        return True  # a positive factor does not change a comparison with zero
    if old.has(sp.Order) or new.has(sp.Order):
        old, new = old.removeO(), new.removeO()
    setting = step.setting.for_points()
    if step.kind == "limit" and mutant.side == "lhs":
        return vanishes(step.statement, mutant.relation, step.evidence, setting)
    gap = setting.unfold(Relation(old, "=", new))
    sizes = {k: v for k, v in (getattr(step.evidence, "dims", None) or {}).items() if isinstance(v, int)}
    try:
        refute(gap, replace(setting, step=f"{step.id} audit", dims={**setting.dims, **sizes}), 60)
    except (Refusal, DerivationError):
        return False
    # An equation that its exact evidence accepts is proved: both versions of the side equal the other side.
    if step.statement.op == "=" and isinstance(step.evidence, Exact):
        return True
    if sizes:
        gap = gap.with_sides(*(explicit(s, sizes) for s in gap.sides))
    return prove_zero(gap.lhs - gap.rhs, _PATIENCE)[0] is not None


def _implied(step: Step, mutant: Mutant) -> bool:
    """Whether the changed side only moves away from the other one: ``a <= b <= b'`` gives ``a <= b'``."""
    if mutant.side is None or step.statement.op not in ("<", "<=", ">", ">=") or step.setting is None:
        return False
    old, new = (getattr(r, mutant.side) for r in (step.statement, mutant.relation))
    upward = (step.statement.op in ("<", "<=")) == (mutant.side == "rhs")
    weaker = Relation(old, "<=" if upward else ">=", new)
    evidence = step.evidence
    changes = {name: value for name, value in (("made", None), ("tight", None)) if hasattr(evidence, name)}
    plain = replace(evidence, **changes) if changes else evidence  # type: ignore[type-var]
    setting = step.setting.within(_PATIENCE)
    try:
        assert plain is not None
        refute(weaker, replace(setting, step=f"{step.id} audit"), 60)  # evidence that accepts everything proves nothing
        plain.check(weaker, setting)
    except (Refusal, DerivationError, TimeLimitReached):
        return False
    return True

"""What a derivation says when a step cannot stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Counterexample:
    """A point of the declared domain at which a relation does not hold.

    ``point`` maps the printed name of each symbol to its printed value; ``left``, ``right`` and ``difference`` are
    printed values too, so that an instance can be shown, stored and compared without SymPy or mpmath.
    """

    point: dict[str, str]
    left: str
    right: str
    difference: str
    note: str = ""

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each line that a reader needs."""
        at = ", ".join(f"{name} = {value}" for name, value in self.point.items()) or "every point (no free symbol)"
        rows = [("at", at), ("left side", self.left), ("right side", self.right), ("difference", self.difference)]
        return [*rows, ("note", self.note)] if self.note else rows


class DerivationError(ValueError):
    """A step was written wrongly: a missing id, a relation that SymPy evaluated away, an unknown option."""


class StepFailed(DerivationError):
    """A step's evidence did not accept its relation; the message names the step and says why."""

    headline = "does not hold up"

    def __init__(
        self,
        step: str,
        relation: str,
        evidence: str,
        reason: str,
        *,
        counterexample: Counterexample | None = None,
        advice: str = "",
    ) -> None:
        self.step, self.relation, self.evidence = step, relation, evidence
        self.reason, self.counterexample, self.advice = reason, counterexample, advice
        super().__init__(self._message())

    def _message(self) -> str:
        rows = [("claim", self.relation), ("evidence", self.evidence), ("reason", self.reason)]
        if self.counterexample is not None:
            rows += self.counterexample.lines()
        if self.advice:
            rows.append(("what to do", self.advice))
        width = max(len(label) for label, _ in rows)
        body = "\n".join(f"    {label:<{width}}  {text}" for label, text in rows)
        return f"Step {self.step} {self.headline}.\n\n{body}\n"


class StepRefuted(StepFailed):
    """The relation is false: there is a counterexample."""

    headline = "is false"


class StepUndecided(StepFailed):
    """No counterexample was found, and no proof either."""

    headline = "could not be decided"


class Refusal(Exception):
    """Raised by evidence; :class:`~kexue_lib.derive.Derivation` turns it into a :class:`StepFailed` with a name."""

    def __init__(
        self, reason: str, *, counterexample: Counterexample | None = None, advice: str = "", **detail: Any
    ) -> None:
        super().__init__(reason)
        self.reason, self.counterexample, self.advice, self.detail = reason, counterexample, advice, detail

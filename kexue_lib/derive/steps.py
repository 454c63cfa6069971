"""Steps: a relation, its evidence, and a status that is computed from both and from the steps that it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from . import display
from .evidence import Evidence, Finding, Setting
from .operations import Operations
from .relations import Relation

UNCHECKED = ("defined", "assumed", "cited")


@dataclass(frozen=True, eq=False)  # a step is itself: two steps are never "equal", and it can be a dictionary key
class Step:
    """One numbered step. Make steps with the methods of :class:`~kexue_lib.derive.Derivation`.

    Attributes:
        id: ``"D3"``, or ``"D4.2"`` for a part.
        statement: the relation.
        kind: ``exact``, ``limit``, ``series``, ``numeric``, ``defined``, ``assumed`` or ``cited``.
        finding: what the evidence found.
        by: the reason, for the reader.
        uses: ids of the steps that it uses.
        unfolds: those of them that are definitions of names in it.
        rests_on: ids of all steps below it that are not proved (assumed, cited, sampled); definitions do not count.
        links: the links of a chain, each a step of its own.
    """

    derivation: str
    id: str
    statement: Relation
    kind: str
    finding: Finding
    by: str = ""
    uses: tuple[str, ...] = ()
    unfolds: tuple[str, ...] = ()
    rests_on: tuple[str, ...] = ()
    evidence: Evidence | None = None
    setting: Setting | None = None
    links: tuple[Step, ...] = ()

    @property
    def status(self) -> str:
        """``proved``, ``asymptotic`` (a fitted rate), ``sampled`` or ``unchecked``."""
        return self.finding.status

    @property
    def sized(self) -> bool:
        """Proved at explicit sizes only (``dims``), not for every size."""
        written_out = self.kind != "numeric" and bool(getattr(self.evidence, "dims", None))
        return written_out or any(link.sized for link in self.links)

    @property
    def proved(self) -> bool:
        """Proved for every size, and everything below it too."""
        return self.status == "proved" and not self.rests_on and not self.sized

    @property
    def relation(self) -> Relation:
        """The relation, marked with this step as its source, ready for operations."""
        return replace(self.statement, origin=replace(self.statement.origin, operations=(), sources=(self,)))

    @property
    def lhs(self) -> sp.Expr:
        """The left side."""
        return self.statement.lhs

    @property
    def rhs(self) -> sp.Expr:
        """The right side."""
        return self.statement.rhs

    def __getattr__(self, name: str) -> Any:
        # step.differentiate(x) is step.relation.differentiate(x)
        if not name.startswith("_") and name in vars(Operations):
            return getattr(self.relation, name)
        raise AttributeError(f"a step has no attribute {name!r}")

    def checked_parts(self) -> tuple[Step, ...]:
        """The steps with evidence: the links of a chain, or the step itself; none for an unchecked step."""
        if self.links:
            return tuple(part for link in self.links for part in link.checked_parts())
        return () if self.kind in UNCHECKED else (self,)

    def record(self) -> dict[str, Any]:
        """Return what the ledger gathers (JSON)."""
        sizes = dict(getattr(self.evidence, "dims", {}) or {})
        record: dict[str, Any] = {
            "schema": 1,
            "derivation": self.derivation,
            "id": self.id,
            "kind": self.kind,
            "status": self.status,
            "rests_on": list(self.rests_on),
            "uses": list(self.uses),
            "unfolds": list(self.unfolds),
            "latex": display.latex_relation(self.statement),
            "text": str(self.statement),
            "by": self.by,
            "method": self.finding.method,
            "dims": {str(k): list(v) if isinstance(v, Sequence) else [int(v)] for k, v in sizes.items()},
            "detail": dict(self.finding.detail),
        }
        if self.finding.measured:
            record["measured"] = dict(self.finding.measured)
        if self.links:
            record["links"] = [link.record() for link in self.links]
        return record

    def __str__(self) -> str:
        return display.text_step(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {
            "text/plain": display.text_step(self),
            "text/markdown": display.markdown_step(self),
            display.STEP_MIME: self.record(),
        }


@dataclass(frozen=True)
class Link:
    """One link of a chain: sign, next expression, evidence and reason."""

    sign: str
    expr: sp.Expr
    evidence: Evidence
    by: str = ""
    uses: Sequence[Any] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

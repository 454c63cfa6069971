"""Claims with their rule, registered before the measurement, and the table of their verdicts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import ClaimError
from .markdown import cell, table
from .numbers import approx, as_number

__all__ = ["KINDS", "MIME", "Claim", "Claims", "ClaimsTable", "Criterion", "settled"]

MIME = "application/vnd.kexue.claims+json"
KINDS = ("exact", "asymptotic", "approximation", "heuristic", "empirical")
VERDICTS = {"holds": "●", "partly": "◐", "fails": "○", "open": "◌"}

# What a derivation step has to be to settle a claim of a kind, unless the author allows more by name.
_ACCEPT = {"exact": ("proved",)}
_ACCEPT_ELSE = ("proved", "asymptotic")
_STATUSES = ("proved", "asymptotic", "sampled", "unchecked")


class Step(Protocol):
    """What a claim reads of a step of :mod:`kexue_lib.derive`."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def rests_on(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Criterion:
    """One condition of a claim's rule.

    Args:
        name: short name, unique in its claim.
        text: the condition in words (Markdown with ``$…$``), as exact as the test.
        test: from the measured numbers, by name, to true or false. It may read only what the measurement gives.
        step: for a criterion that a derivation step settles; made by :func:`settled`.

    >>> rule = Criterion("leader", "slope for the leader in [0.8, 1.2]", lambda m: 0.8 <= m["leader slope"] <= 1.2)
    >>> rule.test({"leader slope": 0.89})
    True
    """

    name: str
    text: str
    test: Callable[[Mapping[str, float]], bool]
    step: str | None = None


def settled(
    step: Step, text: str | None = None, *, accept: Sequence[str] = ("proved",), assuming: Sequence[str] = ()
) -> Criterion:
    """A criterion that a derivation step settles: it has an accepted status and rests on nothing unchecked.

    Args:
        step: a step of :mod:`kexue_lib.derive`: anything with ``id``, ``status`` and ``rests_on``.
        text: the condition in words; by default "D4 proved".
        accept: statuses that count, of "proved", "asymptotic", "sampled".
        assuming: ids of unchecked steps on which it may rest; they are named in the text.

    >>> from types import SimpleNamespace
    >>> rule = settled(SimpleNamespace(id="D1", status="proved", rests_on=[]))
    >>> rule.text, rule.test({})
    ('D1 proved', True)
    """
    for status in accept:
        if status not in _STATUSES[:3]:
            raise ClaimError(f"accept has {status!r}; allowed: {_listed(_STATUSES[:3])}")
    if step.status not in _STATUSES:
        raise ClaimError(f"step {step.id} has the status {step.status!r}; known: {_listed(_STATUSES)}")
    words = text or f"{step.id} {' or '.join(accept)}"
    if text is not None and step.id not in text:
        words = f"{text} ({step.id})"
    if assuming:
        words += f", assuming {', '.join(assuming)}"
    met = step.status in accept and set(step.rests_on) <= set(assuming)
    return Criterion(name=step.id, text=words, test=lambda _: met, step=step.id)


class _Measured(dict[str, float]):
    """The measured numbers as a criterion sees them: a name that was not measured is an error that says so."""

    def __missing__(self, name: str) -> float:
        raise _NotMeasured(name)


class _NotMeasured(Exception):
    pass


@dataclass
class Claim:
    """A registered claim; see :meth:`Claims.register` for the fields.

    Attributes:
        met: by the criterion's name True, False, or None while it is not tested.
        measured: the numbers of the last measurement.
        verdict: ``"holds"`` if all criteria are met, ``"partly"`` if some, ``"fails"`` if none; ``"open"`` while one
            of them is not tested.
    """

    id: str
    text: str
    kind: str
    how: str
    criteria: tuple[Criterion, ...]
    evidence: tuple[str, ...]
    open_because: str | None
    clocked: tuple[str, ...] = ()
    met: dict[str, bool | None] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``"holds"``, ``"partly"``, ``"fails"`` or ``"open"``, from the criteria."""
        values = list(self.met.values())
        if not values or any(value is None for value in values):
            return "open"
        return "holds" if all(values) else "partly" if any(values) else "fails"

    def record(self) -> dict[str, Any]:
        """The claim as plain data, for the notebook's output and the ledger."""
        return {
            "id": self.id,
            "claim": self.text,
            "kind": self.kind,
            "how": self.how,
            "criteria": [{"name": c.name, "text": c.text, "met": self.met[c.name]} for c in self.criteria],
            "measured": dict(self.measured),
            "clocked": list(self.clocked),
            "evidence": list(self.evidence),
            "open_because": self.open_because,
            "verdict": self.verdict,
        }


class Claims:
    """The claims of a chapter: first every rule, then the measurements, then the table.

    A verdict is never declared. It is computed from the criteria, and those are fixed before anything is measured.

    Args:
        chapter: the chapter's slug.

    >>> claims = Claims("entropy-invariant-softmax")
    >>> rule = Criterion("slope", "slope in [0.8, 1.2]", lambda m: 0.8 <= m["slope"] <= 1.2)
    >>> claims.register("C3", r"$\\lambda \\propto \\log n$", kind="heuristic", how="fit over n", criteria=[rule])
    >>> claims.verdict("C3")
    'open'
    >>> claims.measure("C3", slope=0.89)
    >>> claims.verdict("C3")
    'holds'
    >>> print(claims.table())
    C3  holds  heuristic
        claim     $\\lambda \\propto \\log n$
        tested    fit over n
        [met]     slope in [0.8, 1.2]
        measured  slope ≈ 0.890
    """

    def __init__(self, chapter: str) -> None:
        """Start without claims."""
        if not isinstance(chapter, str) or not chapter:
            raise ClaimError(f"chapter={chapter!r} is not allowed; allowed: the chapter's slug")
        self.chapter = chapter
        self._claims: dict[str, Claim] = {}
        self._measuring = False

    def register(
        self,
        id: str,
        text: str,
        *,
        kind: str,
        how: str,
        criteria: Iterable[Criterion] = (),
        steps: Iterable[Step] = (),
        evidence: Iterable[str] = (),
        accept: Sequence[str] | None = None,
        open_because: str | None = None,
        clocked: Iterable[str] = (),
    ) -> None:
        """Register a claim with its rule. All claims come before the first measurement.

        Args:
            id: the claim's id in the chapter, such as ``"C3"``.
            text: what is claimed, Markdown with ``$…$``.
            kind: ``"exact"``, ``"asymptotic"``, ``"approximation"``, ``"heuristic"`` or ``"empirical"``.
            how: how it is tested, in a few words.
            criteria: the rule, in the order of the table; see :class:`Criterion` and :func:`settled`.
            steps: derivation steps that settle the claim, each one a criterion (put before ``criteria``).
            evidence: ids of further steps that a reader should look at.
            accept: statuses that count for ``steps``; by default ``("proved",)`` for an exact claim,
                ``("proved", "asymptotic")`` for the others.
            open_because: why the claim cannot be tested here; then it stays open, and measuring it is an error.
            clocked: names of the measured numbers that come from a clock. They differ from run to run, so that a
                comparison of two runs of one seed leaves them out.

        Raises:
            ClaimError: a repeated id, an unknown kind, no rule, two criteria of one name, or a measurement was made.
        """
        if self._measuring:
            raise ClaimError(
                f"claim {id} is registered after a measurement: rules come first. In a notebook, run the cell that "
                f"creates Claims({self.chapter!r}) and those after it again"
            )
        if not re.fullmatch(r"C\d+(\.\d+|[a-z])?", id):
            raise ClaimError(f"id={id!r} is not allowed; allowed: C1, C2, … (or C3.1, C3a)")
        if id in self._claims:
            raise ClaimError(
                f"claim {id} is registered already. In a notebook, run the cell that creates "
                f"Claims({self.chapter!r}) again"
            )
        if kind not in KINDS:
            raise ClaimError(f"claim {id}: kind={kind!r} is not allowed; allowed: {_listed(KINDS)}")
        for name, value in (("text", text), ("how", how)):
            if not isinstance(value, str) or not value.strip():
                raise ClaimError(f"claim {id}: {name}={value!r} is not allowed; allowed: a text")
        statuses = accept if accept is not None else _ACCEPT.get(kind, _ACCEPT_ELSE)
        rules = (*(settled(step, accept=statuses) for step in steps), *criteria)
        if not rules and open_because is None:
            raise ClaimError(f"claim {id} has no rule: give criteria or steps, or say why it is open (open_because)")
        names = [rule.name for rule in rules]
        if len(set(names)) < len(names):
            raise ClaimError(f"claim {id}: two criteria have one name: {', '.join(names)}")
        seen = dict.fromkeys([*(rule.step for rule in rules if rule.step), *evidence])
        claim = Claim(id, text, kind, how, rules, tuple(seen), open_because, tuple(clocked), dict.fromkeys(names))
        if open_because is None:
            for rule in rules:  # what derivation has settled needs no measurement
                if rule.step:
                    claim.met[rule.name] = _decide(claim, rule, {})
        self._claims[id] = claim

    def measure(self, id: str, values: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Give the measured numbers of a claim and apply its rule. Measuring again replaces the numbers.

        Args:
            id: the claim.
            values: numbers by name; names with spaces are fine.
            named: the same as keywords.

        Raises:
            ClaimError: unknown id, an open claim, no numbers, a number that is none or not finite, or one that a
                criterion reads or the registration calls clocked and that was not measured. Then the claim stays as
                it was.
        """
        claim = self[id]
        given = {**(values or {}), **named}
        if claim.open_because is not None:
            raise ClaimError(f"claim {id} was registered as open ({claim.open_because}): it cannot be measured")
        if not given:
            raise ClaimError(f"claim {id} was measured without a number")
        try:
            measured = {name: as_number(value, name) for name, value in given.items()}
        except (TypeError, ValueError) as error:
            raise ClaimError(f"claim {id}: {error}") from None
        if missing := [name for name in claim.clocked if name not in measured]:
            raise ClaimError(
                f"claim {id} was registered with clocked={_listed(claim.clocked)}, but {_listed(missing)} was not "
                f"measured; measured: {_listed(measured)}"
            )
        met = {rule.name: _decide(claim, rule, measured) for rule in claim.criteria}
        claim.met.update(met)
        claim.measured = measured
        self._measuring = True

    def verdict(self, id: str) -> str:
        """``"holds"``, ``"partly"``, ``"fails"`` or ``"open"``."""
        return self[id].verdict

    def __getitem__(self, id: str) -> Claim:
        """The claim of this id."""
        try:
            return self._claims[id]
        except KeyError:
            known = ", ".join(self._claims) or "none"
            raise ClaimError(f"there is no claim {id!r} in {self.chapter}; registered: {known}") from None

    def __iter__(self) -> Iterator[Claim]:
        """The claims in the order in which they were registered."""
        return iter(self._claims.values())

    def __len__(self) -> int:
        """Number of claims."""
        return len(self._claims)

    def record(self) -> dict[str, Any]:
        """All claims as plain data (MIME type ``application/vnd.kexue.claims+json``)."""
        return {"schema": 1, "chapter": self.chapter, "claims": [claim.record() for claim in self]}

    def table(self) -> ClaimsTable:
        """The table as it stands now; shown when it is the last expression of a cell."""
        return ClaimsTable(self.record())


def _decide(claim: Claim, rule: Criterion, measured: Mapping[str, float]) -> bool:
    try:
        answer = rule.test(_Measured(measured))
    except _NotMeasured as error:
        names = ", ".join(repr(name) for name in measured) or "nothing"
        raise ClaimError(
            f"claim {claim.id}: criterion {rule.name!r} reads {error.args[0]!r}, which was not measured; "
            f"measured: {names}"
        ) from None
    if not isinstance(answer, bool) and type(answer).__name__ not in ("bool", "bool_"):
        raise ClaimError(f"claim {claim.id}: criterion {rule.name!r} answered {answer!r}, neither true nor false")
    return bool(answer)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(repr(value) for value in values)


class ClaimsTable:
    """The claims as a table (Markdown, plain text) with the record for the ledger."""

    columns = ("claim", "kind", "how tested", "measured", "verdict")

    def __init__(self, record: dict[str, Any]) -> None:
        """Hold the record of the claims (:meth:`Claims.record`)."""
        self.record = record

    def markdown(self) -> str:
        """A Markdown table, the same in Jupyter, in Colab and in the book."""
        rows = [self._row(claim) for claim in self.record["claims"]]
        legend = (
            "✓ criterion met · ✗ not met · – not tested. The verdict follows from the criteria, which were fixed "
            "before the measurement: all met → holds, some → partly, none → fails, not tested → open."
        )
        return f"{table(self.columns, rows)}\n\n*{legend}*"

    @staticmethod
    def _row(claim: dict[str, Any]) -> list[str]:
        how = [cell(claim["how"])]
        how += [f"{_SIGN[c['met']]} {cell(c['text'])}" for c in claim["criteria"]]
        if claim["open_because"]:
            how.append(f"not tested here: {cell(claim['open_because'])}")
        measured = [f"{cell(name)} {approx(value)}" for name, value in claim["measured"].items()]
        if claim["evidence"]:
            measured.append(f"see {', '.join(claim['evidence'])}")
        verdict = f"{VERDICTS[claim['verdict']]} **{claim['verdict']}**"
        lines = (how, measured or ["–"])
        return [f"**{claim['id']}** {cell(claim['claim'])}", claim["kind"], *("<br>".join(x) for x in lines), verdict]

    def __str__(self) -> str:
        """The table for a terminal: a block for each claim."""
        blocks = []
        for claim in self.record["claims"]:
            lines = [("claim", claim["claim"]), ("tested", claim["how"])]
            lines += [(_WORD[c["met"]], c["text"]) for c in claim["criteria"]]
            if claim["open_because"]:
                lines.append(("open", claim["open_because"]))
            numbers = ", ".join(f"{name} {approx(value)}" for name, value in claim["measured"].items())
            if numbers:
                lines.append(("measured", numbers))
            if claim["evidence"]:
                lines.append(("see", ", ".join(claim["evidence"])))
            head = f"{claim['id']}  {claim['verdict']}  {claim['kind']}"
            blocks.append("\n".join([head, *(f"    {name:<9} {value}" for name, value in lines)]))
        return "\n".join(blocks)

    __repr__ = __str__

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/markdown": self.markdown(), "text/plain": str(self), MIME: self.record}


_SIGN = {True: "✓", False: "✗", None: "–"}
_WORD = {True: "[met]", False: "[not met]", None: "[not tested]"}

"""A derivation: steps in order, each checked when it is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sympy as sp
from sympy.core.function import AppliedUndef

from .asymptotic import Expansion, limit_evidence
from .autograd import Autograd
from .domains import Domain
from .errors import DerivationError, Refusal, StepRefuted, StepUndecided
from .evidence import Evidence, Finding, Setting, refute
from .exact import Exact
from .numeric import Numeric
from .operations import UNCHECKED as UNCHECKED_SOURCE
from .relations import Relation, as_relation, ge, gt, le, lt
from .rewriting import Definition
from .steps import Step
from .timelimit import deep_recursion

_ID = re.compile(r"D\d+(\.\d+)*")
_DIRECTION = {"=": 0, "<": -1, "<=": -1, ">": 1, ">=": 1}


class Derivation:
    """Numbered steps ``D1, D2, …``; writing a step runs its evidence, and a step that does not hold raises.

    Args:
        name: the chapter's slug; it goes into every record.
        domain: where symbols live when points are sampled, for all steps; see :mod:`kexue_lib.derive.domains`.

    >>> x = sp.Symbol("x", real=True)
    >>> d = Derivation("example")
    >>> print(d.exact("D1", Relation((x + 1) ** 2, "=", x**2 + 2 * x + 1), by="expand the square"))
    D1  (x + 1)**2 = x**2 + 2*x + 1    [✓ exact: expand the square; expand]
    >>> d.exact("D2", Relation(sp.sqrt(x**2), "=", x))
    Traceback (most recent call last):
        ...
    kexue_lib.derive.errors.StepRefuted: Step D2 is false.
    <BLANKLINE>
        claim       Abs(x) = x
        evidence    exact
        reason      the two sides do not agree
        at          x = -1.0
        left side   1.0
        right side  -1.0
        difference  2.0
    <BLANKLINE>
    """

    def __init__(self, name: str, *, domain: Mapping[sp.Basic, Domain] | None = None) -> None:
        if not name or not isinstance(name, str):
            raise DerivationError(f"a derivation needs a name (the chapter's slug), not {name!r}")
        self.name = name
        self.domain = dict(domain or {})
        self.steps: dict[str, Step] = {}
        self.functions: dict[str, Any] = {}  # values of functions that are defined implicitly

    # --- checked steps ---------------------------------------------------------------------------------------------
    def exact(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = (), **options: Any) -> Step:
        """A step that SymPy proves; options: :class:`~kexue_lib.derive.exact.Exact`, ``domain``, ``where``,
        ``functions``, ``opaque``. A relation that operations have made from an inequality is proved by them."""
        relation = as_relation(relation)
        setting, options = _split(options)
        if "made" in options:
            options["made"] = as_relation(options["made"])
        elif relation.op != "=" and relation.origin.sources:
            options["made"] = relation
        return self.step(id, relation, Exact(**options), by, uses=uses, **setting)

    def numeric(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = (), **options: Any) -> Step:
        """A step sampled in high precision; options: :class:`~kexue_lib.derive.numeric.Numeric`, ``where``,
        ``functions``."""
        setting, options = _split(options, keep=("domain",))
        return self.step(id, relation, Numeric(**options), by, uses=uses, **setting)

    def autograd(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = (), **options: Any) -> Step:
        """A gradient identity sampled with torch.autograd in float64; options:
        :class:`~kexue_lib.derive.autograd.Autograd`."""
        setting, options = _split(options, keep=("domain",))
        return self.step(id, relation, Autograd(**options), by, uses=uses, **setting)

    def limit(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = (), **options: Any) -> Step:
        """A limit by SymPy, or by its rate when ``gauge`` is given; options: :mod:`kexue_lib.derive.asymptotic`."""
        setting, options = _split(options, keep=("domain",) if "gauge" in options else ())
        return self.step(id, relation, limit_evidence(**options), by, uses=uses, **setting)

    def series(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = (), **options: Any) -> Step:
        """An expansion ``f = polynomial + O(x**k)``; options: :class:`~kexue_lib.derive.asymptotic.Expansion`."""
        setting, options = _split(options)
        return self.step(id, relation, Expansion(**options), by, uses=uses, **setting)

    # --- unchecked steps -------------------------------------------------------------------------------------------
    def define(self, id: str, relation: Any, by: str = "") -> Step:
        """Introduce a name: a symbol, ``f(x)`` or ``p[i]`` on the left. Steps that use it unfold it."""
        self._new_id(id)
        relation = as_relation(relation)
        new = Definition(relation)  # a definition that cannot be unfolded is refused here
        for key, known in self._known().items():
            if new.occurs_in(known.name):
                raise DerivationError(f"{id}: {new.name} is defined already, in {key}")
        within = self._definitions(relation.with_sides(relation.rhs, relation.rhs))
        for key, below in within.items():
            if new.occurs_in(below.rhs):
                raise DerivationError(f"{id}: {new.name} and {below.name} ({key}) are defined in a circle")
        self._assumptions_hold(id, relation)
        return self._unchecked(id, relation, "defined", by, list(within))

    def define_implicitly(
        self, id: str, relation: Any, function: Any, values: Callable[..., Any], by: str = "", **options: Any
    ) -> Step:
        """Introduce a function as the solution of an equation, e.g. ``L(n)`` by ``H(n, L(n)) = H0``.

        Args:
            id: the step's id.
            relation: the equation.
            function: the function that it defines, applied to its arguments: ``L(n)``.
            values: computes the function with mpmath; that its values solve the equation is checked at sampled points.
            by: the reason that there is one solution.
            options: ``points``, ``domain`` and so on, as for :meth:`numeric`.
        """
        relation = as_relation(relation)
        if not isinstance(function, AppliedUndef):
            raise DerivationError(f"{id}: give the function that is defined, applied to its arguments, not {function}")
        name = str(function.func)
        setting, options = _split(options, keep=("domain",))
        checked = self.step(id, relation, Numeric(**{"points": 60, **options}), by, functions={name: values}, **setting)
        self.functions[name] = values
        detail = dict(checked.finding.detail)
        step = replace(checked, kind="defined", finding=Finding("unchecked", "", detail), evidence=None, setting=None)
        self.steps[id] = step
        return step

    def _assumptions_hold(self, id: str, relation: Relation) -> None:
        """A name declared positive must not be defined as something that is negative somewhere."""
        name, rhs = relation.sides
        claims = [
            ("positive", gt(rhs, 0)),
            ("negative", lt(rhs, 0)),
            ("nonnegative", ge(rhs, 0)),
            ("nonpositive", le(rhs, 0)),
            ("real", ge(rhs**2, 0)),
        ]
        for fact, claim in claims:
            if getattr(name, f"is_{fact}"):
                definitions = tuple(self._definitions(claim).values())
                setting = Setting(id, definitions=definitions, domain=self.domain, functions=self.functions)
                try:
                    with deep_recursion():
                        refute(claim, setting)
                except Refusal as refusal:
                    if refusal.counterexample is None:  # undefined wherever it was tried: nothing is known
                        break
                    raise StepRefuted(
                        id,
                        str(relation),
                        "defined",
                        f"{name} is declared {fact}, and its definition is not",
                        counterexample=refusal.counterexample,
                    ) from None
                break

    def assume(self, id: str, relation: Any, by: str = "", *, uses: Sequence[Any] = ()) -> Step:
        """State an assumption. What uses it says that it rests on it."""
        return self._unchecked(id, as_relation(relation), "assumed", by, uses)

    def cite(self, id: str, relation: Any, by: str, *, uses: Sequence[Any] = ()) -> Step:
        """State a theorem that is not checked here; ``by`` names its source."""
        if not by:
            raise DerivationError(f"{id}: a cited step names its source in by=")
        return self._unchecked(id, as_relation(relation), "cited", by, uses)

    # --- chains ----------------------------------------------------------------------------------------------------
    def chain(
        self, id: str, start: Any, *links: tuple[Any, ...], by: str = "", uses: Sequence[Any] = (), **setting: Any
    ) -> Step:
        """A chain ``A = B = C ≤ D``: each link is ``(sign, expression, evidence, reason[, uses])``.

        The links are steps ``D4.1``, ``D4.2``, … of their own; the chain's relation joins its ends.
        """
        self._new_id(id)
        if not links:
            raise DerivationError(f"{id}: a chain needs at least one link")
        parts: list[Step] = []
        left = sp.sympify(start)
        shared = [uses] if isinstance(uses, (str, Step)) else uses
        try:
            for k, (sign, expr, evidence, reason, *more) in enumerate(links, 1):
                relation = Relation(left, sign, sp.sympify(expr))
                part = self.step(
                    f"{id}.{k}", relation, evidence, reason, uses=[*shared, *(more[0] if more else ())], **setting
                )
                parts.append(part)
                left = relation.rhs
            relation = Relation(sp.sympify(start), _join(id, [p.statement.op for p in parts]), left)
        except BaseException:
            for part in parts:  # a chain stands or falls as a whole
                del self.steps[part.id]
            raise
        order = ("proved", "asymptotic", "sampled", "unchecked")
        weakest = max(parts, key=lambda p: order.index(p.status))
        rests_on = _ordered([r for p in parts for r in p.rests_on] + [p.id for p in parts if p.status != "proved"])
        step = Step(
            derivation=self.name,
            id=id,
            statement=relation,
            kind=weakest.kind,
            finding=Finding(weakest.status, f"chain of {len(parts)} links", {}),
            by=by,
            uses=tuple(_ordered(u for p in parts for u in p.uses)),
            unfolds=tuple(_ordered(u for p in parts for u in p.unfolds)),
            rests_on=tuple(r for r in rests_on if r not in {p.id for p in parts}),
            links=tuple(parts),
        )
        self.steps[id] = step
        return step

    # --- the common road -------------------------------------------------------------------------------------------
    def step(
        self,
        id: str,
        relation: Any,
        evidence: Evidence,
        by: str = "",
        *,
        uses: Sequence[Any] = (),
        domain: Mapping[sp.Basic, Domain] | None = None,
        where: Sequence[Any] = (),
        functions: Mapping[str, Any] | None = None,
        opaque: Sequence[str] = (),
    ) -> Step:
        """Check ``relation`` by any evidence and add it; the other methods are shorter ways to say this.

        Definitions of this derivation that occur in the relation are unfolded, and count as used; ``opaque`` lists ids
        of definitions that stay folded.
        """
        self._new_id(id)
        relation = as_relation(relation)
        _different_names(id, relation)
        made, given = getattr(evidence, "made", None), getattr(evidence, "given", {})
        sources = (made if made is not None else relation).origin.sources
        if made is not None and (not sources or UNCHECKED_SOURCE in sources):
            raise DerivationError(
                f"{id}: made= has to start from steps of this derivation, not from {UNCHECKED_SOURCE}"
            )
        definitions: dict[str, Definition] = {}
        for source in filter(None, [relation, made, *(getattr(g, "relation", g) for g in given)]):
            definitions |= self._definitions(source)
        made_from = self._used(id, [s for s in [*sources, *given] if s != UNCHECKED_SOURCE])
        used = self._used(id, [*([uses] if isinstance(uses, (str, Step)) else uses), *made_from, *definitions])
        below = {key for source in made_from for key in (source.id, *source.rests_on)}
        setting = Setting(
            step=id,
            definitions=tuple(d for k, d in definitions.items() if k not in opaque),
            opaque=tuple(d for k, d in definitions.items() if k in opaque),
            domain={**self.domain, **(domain or {})},
            where=tuple(where),
            functions={**self.functions, **(functions or {})},
            conditional=any(self.steps[key].kind == "assumed" for key in below),
        )
        try:
            with deep_recursion():
                finding = evidence.check(relation, setting)
        except Refusal as refusal:
            kind = StepRefuted if refusal.counterexample is not None else StepUndecided
            raise kind(
                id,
                str(relation),
                evidence.kind,
                refusal.reason,
                counterexample=refusal.counterexample,
                advice=refusal.advice,
            ) from None
        step = Step(
            derivation=self.name,
            id=id,
            statement=relation,
            kind=evidence.kind,
            finding=finding,
            by=by or _operations_in_words(relation, evidence),
            uses=tuple(s.id for s in used),
            unfolds=tuple(s.id for s in used if s.kind == "defined"),
            rests_on=_rests_on(used),
            evidence=evidence,
            setting=setting,
        )
        self.steps[id] = step
        return step

    def _unchecked(self, id: str, relation: Relation, kind: str, by: str, uses: Sequence[Any]) -> Step:
        self._new_id(id)
        used = self._used(id, uses)
        step = Step(
            derivation=self.name,
            id=id,
            statement=relation,
            kind=kind,
            finding=Finding("unchecked", ""),
            by=by,
            uses=tuple(s.id for s in used),
            unfolds=tuple(s.id for s in used if s.kind == "defined"),
            rests_on=_rests_on(used),
        )
        self.steps[id] = step
        return step

    def _new_id(self, id: str) -> None:
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise DerivationError(f"a step's id looks like D3 or D3.1, not {id!r}")
        if id in self.steps:
            raise DerivationError(
                f"there is a step {id} already; run the derivation's first cell again to start afresh"
            )

    def _used(self, id: str, uses: Sequence[Any]) -> list[Step]:
        found: dict[str, Step] = {}
        for item in [uses] if isinstance(uses, (str, Step)) else uses:
            key = item.id if isinstance(item, Step) else item
            if key not in self.steps:
                raise DerivationError(
                    f"{id} uses {key}, which is no step so far; there are {', '.join(self.steps) or 'none'}"
                )
            if isinstance(item, Step) and item is not self.steps[key]:
                raise DerivationError(
                    f"{id} uses {key} of another derivation, or of an earlier run of this one: run all cells again"
                )
            found[key] = self.steps[key]
        order = list(self.steps)
        return sorted(found.values(), key=lambda step: order.index(step.id))

    def _known(self) -> dict[str, Definition]:
        """All definitions so far; an implicit one has nothing to unfold."""
        defined = {k: s for k, s in self.steps.items() if s.kind == "defined" and not s.finding.detail}
        return {k: Definition(s.statement) for k, s in defined.items()}

    def _definitions(self, relation: Relation) -> dict[str, Definition]:
        """The definitions whose names occur in the relation, and in those definitions, and so on."""
        known = self._known()
        found: dict[str, Definition] = {}
        queue = list(relation.sides)
        while queue:
            expr = queue.pop()
            for key, definition in known.items():
                if key not in found and definition.occurs_in(expr):
                    found[key] = definition
                    queue.append(definition.rhs)
        return {k: found[k] for k in known if k in found}

    # --- reading ---------------------------------------------------------------------------------------------------
    def __getitem__(self, id: str) -> Step:
        try:
            return self.steps[id]
        except KeyError:
            raise DerivationError(f"no step {id}; there are {', '.join(self.steps) or 'none'}") from None

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps.values())

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        top = [s for s in self if not any(s in other.links for other in self)]
        return "\n".join(str(step) for step in top)

    def checked_parts(self) -> list[Step]:
        """All steps with evidence, the links of chains one by one: what the mutation audit goes through."""
        return [step for step in self if step.evidence is not None]


def _split(options: dict[str, Any], keep: Sequence[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the setting of a step from the options of its evidence."""
    names = [n for n in ("domain", "where", "functions", "opaque") if n not in keep]
    setting = {n: options[n] for n in names if n in options}
    return setting, {k: v for k, v in options.items() if k not in setting}


def _different_names(id: str, relation: Relation) -> None:
    """Refuse two different symbols that are written alike, such as a real and a positive x."""
    seen: dict[str, sp.Basic] = {}
    for x in relation.free_symbols():
        if isinstance(x, sp.Symbol) and not isinstance(x, sp.Dummy) and seen.setdefault(x.name, x) != x:
            raise DerivationError(f"{id}: two different symbols are both written {x}; they differ in their assumptions")


def _rests_on(used: Sequence[Step]) -> tuple[str, ...]:
    found: list[str] = []
    for step in used:
        if step.kind != "defined" and (step.status != "proved" or step.sized):
            found.append(step.id)
        found += step.rests_on
    return tuple(_ordered(found))


def _ordered(ids: Any) -> list[str]:
    unique = list(dict.fromkeys(ids))
    return sorted(unique, key=lambda i: [int(k) for k in i[1:].split(".")])


def _join(id: str, signs: Sequence[str]) -> str:
    ways = {_DIRECTION[s] for s in signs if s in _DIRECTION} - {0}
    if len(ways) > 1 or any(s not in _DIRECTION for s in signs):
        raise DerivationError(f"{id}: the signs {' '.join(signs)} do not join to one relation")
    if not ways:
        return "="
    strict = any(s in "<>" for s in signs)
    return {(-1, True): "<", (-1, False): "<=", (1, True): ">", (1, False): ">="}[(ways.pop(), strict)]


def _operations_in_words(relation: Relation, evidence: Evidence) -> str:
    made = getattr(evidence, "made", None) or relation
    return "; ".join(made.origin.operations)


__all__ = ["Derivation", "replace"]

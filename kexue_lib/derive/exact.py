"""Evidence ``exact``: SymPy proves the relation, and no sampled point contradicts the proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from .binding import misfit, put
from .errors import DerivationError, Refusal
from .evaluate import index_ranges, sizes_from
from .evidence import Finding, Setting, refute
from .prove import prove_nonnegative, prove_zero, the_solution
from .relations import FLIP, Relation
from .rewriting import explicit, instances
from .timelimit import TimeLimitReached, time_limit

_WEAKER = {"<": "<=", ">": ">="}


@dataclass(frozen=True)
class Exact:
    """Prove a relation by rewriting.

    Args:
        dims: sizes at which sums and vectors are written out, e.g. ``{n: 3}`` or ``{n: (2, 3)}``. Without it the proof
            holds for every size.
        given: equations to be used, each solved for the symbol that it stands with, e.g. ``{calibration: kappa}``.
        put: names for the domain, e.g. ``{n: 1 + r}`` with ``r >= 0`` where ``n >= 1``: each symbol is written through
            others whose assumptions say what SymPy has to know. The new expression has to reach every value that is
            meant; the badge shows it.
        made: a relation that operations have made; the step's relation has to be the same one, up to rewriting.
        tight: where an inequality becomes an equation, as ``{symbol: value}``; proved as well, so that the bound cannot
            be moved (and the audit can kill mutants that merely move it).
        seconds: time limit.

    A first look at sampled points refuses what is false with a counterexample. Agreement there proves nothing.
    """

    dims: Mapping[sp.Symbol, Any] = field(default_factory=dict)
    given: Mapping[Any, sp.Symbol] = field(default_factory=dict)
    put: Mapping[sp.Symbol, sp.Expr] = field(default_factory=dict)
    made: Relation | None = None
    tight: Mapping[sp.Symbol, Any] | None = None
    seconds: float = 30.0

    kind = "exact"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Prove ``relation`` or refuse it."""
        setting = replace(setting, dims={**setting.dims, **self.dims})
        relation = self._prepare(relation, setting)
        if self.made is not None:
            return self._same_as_made(relation, setting)
        if relation.op == "~":
            raise Refusal("an asymptotic relation needs the evidence 'limit'")
        looked = refute(relation, setting)
        if (
            looked is None and self.dims
        ):  # a derivative by an entry of a vector has values only where that is written out
            for piece in self._pieces(relation):
                looked = refute(piece, setting)
        prove = self._equation if relation.op == "=" else self._inequality
        methods = [prove(piece, setting) for piece in self._pieces(relation)]
        if self.tight is not None:
            self._attained(relation, setting)
            methods.append("equality at " + ", ".join(f"{k} = {v}" for k, v in self.tight.items()))
        names = [f"with {k} = {v}{_facts(v)}" for k, v in self.put.items()]
        return Finding("proved", ", ".join(dict.fromkeys([*methods, *names])), self._detail(looked))

    def _attained(self, relation: Relation, setting: Setting) -> None:
        tight = {k: sp.sympify(v) for k, v in (self.tight or {}).items()}
        for symbol, value in tight.items():
            if fact := misfit(symbol, value):
                raise Refusal(f"the bound cannot be attained at {symbol} = {value}: {symbol} is {fact}")
        there = [put(s, tight) for s in relation.sides]
        if prove_zero(there[0] - there[1], min(self.seconds, setting.seconds))[0] is None:
            raise Refusal(
                f"the bound is not attained at {dict(self.tight or {})}: {there[0]} against {there[1]}",
                advice="give the point at which both sides are equal, or leave tight= out",
            )

    def _detail(self, looked: Any) -> dict[str, Any]:
        # "points" is the number at which no contradiction was found: a safeguard against SymPy, not the proof
        return {"points": looked.used} if looked is not None else {}

    def _prepare(self, relation: Relation, setting: Setting) -> Relation:
        relation = self._use_given(setting.unfold(relation), setting)
        return relation.with_sides(*(put(s, self.put) for s in relation.sides))

    def _use_given(self, relation: Relation, setting: Setting) -> Relation:
        for source, unknown in self.given.items():
            equation = setting.unfold(getattr(source, "relation", source))
            if equation.op != "=":
                raise Refusal(f"the given relation {equation} is no equation")
            try:
                solution = the_solution(equation.lhs - equation.rhs, unknown)
            except DerivationError as error:
                raise Refusal(f"the given equation {equation} cannot be used: {error}") from None
            relation = relation.with_sides(*(put(s, {unknown: solution}) for s in relation.sides))
        return relation

    def _pieces(self, relation: Relation) -> list[Relation]:
        """The relation itself, or its instances at the given sizes."""
        if not self.dims:
            return [relation]
        ranges = index_ranges(relation.sides)
        return [
            relation.with_sides(left, right)
            for sizes in sizes_from(self.dims)
            for left, right in zip(*(instances(s, sizes, ranges, explicit) for s in relation.sides), strict=True)
        ]

    def _equation(self, relation: Relation, setting: Setting) -> str:
        method, tried = prove_zero(relation.lhs - relation.rhs, min(self.seconds, setting.seconds))
        if method is None:
            raise Refusal(
                f"SymPy did not reduce the difference of the sides to 0 (tried {', '.join(tried)})",
                advice="split the step, rewrite one side first, give an explicit dimension, or use 'numeric'",
            )
        return method

    def _inequality(self, relation: Relation, setting: Setting) -> str:
        upward = (
            relation
            if relation.op in (">", ">=")
            else replace(relation, lhs=relation.rhs, rhs=relation.lhs, op=FLIP[relation.op])
        )
        seconds = min(self.seconds, setting.seconds)
        try:
            with time_limit(seconds):
                how = prove_nonnegative(upward.lhs - upward.rhs, strict=upward.op == ">")
        except TimeLimitReached:
            how = None
        if how is None:
            raise Refusal(
                f"no strategy shows within {seconds:g} s that the difference of the sides has one sign",
                advice="make the inequality from a simpler one by operations (made=…), or use the evidence 'numeric'",
            )
        return how

    def _same_as_made(self, relation: Relation, setting: Setting) -> Finding:
        assert self.made is not None
        operations, made = self.made.origin.operations, self._prepare(self.made, setting)
        if relation.op != made.op and relation.op != _WEAKER.get(made.op):
            if FLIP[relation.op] != made.op:
                raise Refusal(f"the operations lead to the sign {made.op}, the step claims {relation.op}")
            raise Refusal(f"the operations lead to the opposite inequality ({made.op}, not {relation.op})")
        # The same statement: both sides equal, or at least the same difference of sides.
        gap = Relation(relation.lhs - relation.rhs, "=", made.lhs - made.rhs)
        try:
            looked = refute(gap, setting)
        except Refusal as refusal:
            raise Refusal(
                "the operations lead to another relation: the sides' difference is not the same",
                counterexample=refusal.counterexample,
            ) from None
        # A relation that rests on an assumption need not hold at every point; any other one has to.
        sampled = None if setting.conditional else refute(relation, setting)
        methods = [self._equation(piece, setting) for piece in self._pieces(gap)]
        return Finding(
            "proved",
            ", ".join(dict.fromkeys(methods)),
            {**self._detail(looked), "operations": list(operations), "sampled": sampled is not None},
        )


def _facts(expr: sp.Expr) -> str:
    """What is assumed about the symbols of an expression, in words: ``" (r ≥ 0)"``."""
    signs = (("positive", "> 0"), ("nonnegative", "≥ 0"), ("negative", "< 0"), ("nonpositive", "≤ 0"))
    known = []
    for x in sorted(expr.free_symbols, key=str):
        known += [f"{x} {sign}" for fact, sign in signs if getattr(x, f"is_{fact}")][:1]
    return f" ({', '.join(known)})" if known else ""

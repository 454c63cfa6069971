"""Making new relations from old ones, by operations that keep a true relation true.

An operation refuses when it would not: multiplying an inequality by something of unknown sign, differentiating an
inequality, applying a function that is not known to increase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import sympy as sp

from .errors import DerivationError
from .prove import prove_nonnegative

if TYPE_CHECKING:
    from .relations import Relation

_FLIP = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_INCREASING = {sp.exp, sp.log, sp.sqrt, sp.tanh, sp.sinh, sp.atan}
UNCHECKED = "a relation that is no step"
Side = Literal["lhs", "rhs", "both"]


class Operations:
    """The operations of :class:`~kexue_lib.derive.relations.Relation`."""

    if TYPE_CHECKING:
        lhs: sp.Expr
        op: str
        rhs: sp.Expr
        towards: Any
        origin: Any

    # --- helpers ---------------------------------------------------------------------------------------------------
    def _made(self, what: str, lhs: sp.Expr, rhs: sp.Expr, *others: Any, op: str | None = None) -> Relation:
        # A relation that is no step counts as an unchecked source, so that it cannot be smuggled into a proof.
        operations: tuple[str, ...] = ()
        sources: tuple[str, ...] = ()
        for relation in (self, *others):
            operations += relation.origin.operations
            sources += relation.origin.sources or (UNCHECKED,)
        origin = replace(self.origin, operations=(*operations, what), sources=tuple(dict.fromkeys(sources)))
        relation = cast("Relation", self)
        return replace(relation, lhs=sp.sympify(lhs), rhs=sp.sympify(rhs), op=op or self.op, origin=origin)

    def _only(self, operation: str, *signs: str) -> None:
        if self.op not in signs:
            raise DerivationError(f"cannot {operation} the relation {self}: that keeps only {' '.join(signs)} true")

    # --- operations ------------------------------------------------------------------------------------------------
    def subs(self, *arguments: Any) -> Relation:
        """Put an expression in place of a symbol, on both sides (``simultaneous``)."""
        pairs = arguments[0] if len(arguments) == 1 else {arguments[0]: arguments[1]}
        pairs = {sp.sympify(k): sp.sympify(v) for k, v in dict(pairs).items()}
        for old, new in pairs.items():
            for fact in ("real", "positive", "nonnegative", "integer"):
                if getattr(old, f"is_{fact}") and getattr(new, f"is_{fact}") is False:
                    raise DerivationError(f"cannot put {new} for {old}: {old} is {fact}, {new} is not")
        what = "put " + ", ".join(f"${sp.latex(k)} := {sp.latex(v)}$" for k, v in pairs.items())
        return self._made(what, *(s.subs(pairs, simultaneous=True) for s in (self.lhs, self.rhs)))

    def differentiate(self, x: sp.Symbol, times: int = 1) -> Relation:
        """Differentiate both sides of an identity."""
        self._only("differentiate", "=")
        if isinstance(x, sp.MatrixSymbol):
            raise DerivationError(
                "SymPy's derivative by a MatrixSymbol returns wrong zeros; differentiate A + ε H with respect to ε at "
                "ε = 0, on explicit matrices"
            )
        return self._made(f"differentiate by ${sp.latex(x)}$", self.lhs.diff(x, times), self.rhs.diff(x, times))

    def integrate(self, x: sp.Symbol, low: Any, high: Any) -> Relation:
        """Integrate both sides from ``low`` to ``high``."""
        self._only("integrate", *_FLIP)
        if self.op != "=" and prove_nonnegative(sp.sympify(high) - sp.sympify(low)) is None:
            raise DerivationError(
                f"cannot integrate an inequality from {low} to {high}: it is not clear that the second is larger"
            )
        return self._made(
            f"integrate over ${sp.latex(x)}$ from ${sp.latex(low)}$ to ${sp.latex(high)}$",
            sp.integrate(self.lhs, (x, low, high)),
            sp.integrate(self.rhs, (x, low, high)),
        )

    def sum(self, index: sp.Symbol, low: Any, high: Any) -> Relation:
        """Add up the relation over an index that is free in it."""
        self._only("sum", *_FLIP)
        limits = (index, low, high)
        return self._made(f"sum over ${sp.latex(index)}$", sp.Sum(self.lhs, limits), sp.Sum(self.rhs, limits))

    def average(self, index: sp.Symbol, size: Any) -> Relation:
        """Take the mean of the relation over an index from 1 to ``size``."""
        self._only("average", *_FLIP)
        sides = (sp.Sum(s, (index, 1, size)) / size for s in (self.lhs, self.rhs))
        return self._made(f"average over ${sp.latex(index)}$", *sides)

    def multiply(self, factor: Any) -> Relation:
        """Multiply both sides; an inequality needs a factor of known sign."""
        factor, op = sp.sympify(factor), self.op
        self._only("multiply", *_FLIP)
        if op != "=":
            strict = op in "<>"
            if factor.is_positive or (not strict and prove_nonnegative(factor) is not None):
                pass
            elif factor.is_negative or (not strict and prove_nonnegative(-factor) is not None):
                op = _FLIP[op]
            else:
                raise DerivationError(f"cannot multiply an inequality by {factor}: its sign is not known")
        return self._made(f"multiply by ${sp.latex(factor)}$", self.lhs * factor, self.rhs * factor, op=op)

    def add(self, other: Any) -> Relation:
        """Add an expression to both sides, or another relation side by side."""
        self._only("add to", *_FLIP)
        if isinstance(getattr(other, "relation", None), Operations):  # a step
            other = other.relation
        if not isinstance(other, Operations):
            other = sp.sympify(other)
            return self._made(f"add ${sp.latex(other)}$", self.lhs + other, self.rhs + other)
        signs = {self.op, other.op} - {"="}
        if len({s[0] for s in signs}) > 1 or "~" in signs:
            raise DerivationError(f"cannot add {other} to {self}: they point different ways")
        strict = [s for s in signs if len(s) == 1]
        op = strict[0] if strict else next(iter(signs), "=")
        return self._made("add the relations", self.lhs + other.lhs, self.rhs + other.rhs, other, op=op)

    def apply(self, function: Callable[[sp.Expr], sp.Expr], name: str = "") -> Relation:
        """Apply a function to both sides; to an inequality only one that increases wherever it is defined."""
        self._only("apply a function to", *_FLIP)
        name = name or str(getattr(function, "__name__", "a function"))
        if self.op != "=" and function not in _INCREASING:
            x = sp.Dummy("x", real=True)
            if prove_nonnegative(sp.diff(function(x), x)) is None:
                raise DerivationError(f"cannot apply {name} to an inequality: it is not clear that it increases")
        return self._made(f"apply {name}", function(self.lhs), function(self.rhs))

    def transform(self, function: Callable[[sp.Expr], sp.Expr], side: Side = "both", name: str = "") -> Relation:
        """Rewrite one or both sides without changing their value, e.g. ``transform(sp.factor, "rhs")``."""
        if side not in ("lhs", "rhs", "both"):
            raise DerivationError(f"side must be 'lhs', 'rhs' or 'both', not {side!r}")
        lhs = function(self.lhs) if side in ("lhs", "both") else self.lhs
        rhs = function(self.rhs) if side in ("rhs", "both") else self.rhs
        return self._made(name or str(getattr(function, "__name__", "rewrite")), lhs, rhs)

    def expand(self, side: Side = "both") -> Relation:
        """Expand products and powers."""
        return self.transform(sp.expand, side)

    def simplify(self, side: Side = "both") -> Relation:
        """Let SymPy simplify."""
        return self.transform(sp.simplify, side)

    def solve(self, unknown: sp.Symbol, pick: Callable[[sp.Expr], bool] | None = None) -> Relation:
        """Solve an equation that has one solution in the domain of ``unknown``; ``pick`` chooses among several."""
        self._only("solve", "=")
        solutions = sp.solve(self.lhs - self.rhs, unknown, dict=False)
        if pick is not None:
            solutions = [s for s in solutions if pick(s)]
        if len(solutions) != 1:
            found = ", ".join(map(str, solutions)) or "none"
            raise DerivationError(
                f"{self} has not one solution for {unknown} but {len(solutions)}: {found}; give pick="
            )
        return self._made(f"solve for ${sp.latex(unknown)}$", unknown, solutions[0])

    def limit(self, x: sp.Symbol, to: Any, side: str = "+-") -> Relation:
        """Let ``x`` go to a point; strict inequalities become weak ones."""
        self._only("take a limit of", *_FLIP)
        weak = {"<": "<=", ">": ">="}.get(self.op, self.op)
        direction = "-" if to is sp.oo else side
        sides = (sp.limit(s, x, to, direction) for s in (self.lhs, self.rhs))
        return self._made(rf"let ${sp.latex(x)} \to {sp.latex(sp.sympify(to))}$", *sides, op=weak)

    def swap_sides(self) -> Relation:
        """Read the relation from right to left."""
        self._only("turn round", *_FLIP)
        return self._made("read from right to left", self.rhs, self.lhs, op=_FLIP[self.op])

"""Making new relations from old ones, by operations that keep a true relation true.

An operation refuses when it would not, or when that is not clear: multiplying an inequality by something of unknown
sign, differentiating an inequality, applying a function that is not known to increase, putting a number of unknown
sign for a positive symbol, summing over an index beyond its vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import sympy as sp

from .binding import misfit, put
from .display import latex
from .errors import DerivationError
from .prove import SYMPY_FAILURES, prove_nonnegative, prove_zero, smooth, the_solution
from .timelimit import TimeLimitReached, time_limit

if TYPE_CHECKING:
    from .relations import Relation

_FLIP = {"=": "=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_WEAK = {"<": "<=", ">": ">="}
# Strictly increasing functions, and where an argument has to lie: everywhere, above 0, from 0 on.
_INCREASING = {sp.exp: None, sp.tanh: None, sp.sinh: None, sp.atan: None, sp.erf: None, sp.log: True, sp.sqrt: False}
_PATIENCE = 5.0  # seconds for showing that a rewrite keeps the value
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
        sources: tuple[Any, ...] = ()
        for relation in (self, *others):
            operations += relation.origin.operations
            sources += relation.origin.sources or (UNCHECKED,)
        origin = replace(self.origin, operations=(*operations, what), sources=tuple(dict.fromkeys(sources)))
        relation = cast("Relation", self)
        return replace(relation, lhs=sp.sympify(lhs), rhs=sp.sympify(rhs), op=op or self.op, origin=origin)

    def _only(self, operation: str, *signs: str) -> None:
        if self.op not in signs:
            raise DerivationError(f"cannot {operation} the relation {self}: that keeps only {' '.join(signs)} true")

    def _stays_in_domain(self, operation: str, x: sp.Symbol, value: Any) -> None:
        fact = misfit(x, sp.sympify(value))
        if fact is not None:
            raise DerivationError(f"cannot {operation}: {x} is {fact}, and {value} is not known to be")

    def _covers(self, index: sp.Symbol, low: Any, high: Any) -> str:
        """Check that the relation holds for every index in the range; return the sign that its sum has."""
        low, high = sp.sympify(low), sp.sympify(high)
        if not index.is_integer:
            raise DerivationError(f"cannot sum over {index}: it is not declared an integer")
        for fact in ("positive", "nonnegative"):
            if getattr(index, f"is_{fact}") and not getattr(low, f"is_{fact}"):
                raise DerivationError(f"cannot sum from {low}: the relation is stated for {fact} {index}")
        for item in self.lhs.atoms(sp.Indexed) | self.rhs.atoms(sp.Indexed):
            for k, length in zip(item.indices, item.base.shape or (), strict=False):
                if k == index and not ((low - 1).is_nonnegative and (length - high).is_nonnegative):
                    raise DerivationError(f"cannot sum {item} from {low} to {high}: {item.base} has {length} entries")
        if self.op != "=" and not (high - low + 1).is_nonnegative:
            raise DerivationError(f"cannot sum an inequality from {low} to {high}: it is not clear which is larger")
        return self.op if (high - low).is_nonnegative else _WEAK.get(self.op, self.op)  # an empty sum: 0 < 0 is false

    # --- operations ------------------------------------------------------------------------------------------------
    def subs(self, *arguments: Any) -> Relation:
        """Put expressions in place of symbols, on both sides and at once; each has to meet its symbol's assumptions."""
        pairs = arguments[0] if len(arguments) == 1 else {arguments[0]: arguments[1]}
        pairs = {sp.sympify(k): sp.sympify(v) for k, v in dict(pairs).items()}
        for old, new in pairs.items():
            if not isinstance(old, (sp.Symbol, sp.Indexed)):
                raise DerivationError(f"cannot put something for {old}: only for a symbol")
            self._stays_in_domain(f"put {new} for {old}", old, new)
        what = "put " + ", ".join(f"${latex(k)} := {latex(v)}$" for k, v in pairs.items())
        return self._made(what, *(put(s, pairs) for s in (self.lhs, self.rhs)))

    def differentiate(self, x: sp.Symbol, times: int = 1) -> Relation:
        """Differentiate both sides of an identity by a real or complex variable."""
        self._only("differentiate", "=")
        if isinstance(x, sp.MatrixSymbol):
            raise DerivationError(
                "SymPy's derivative by a MatrixSymbol returns wrong zeros; differentiate A + ε H with respect to ε at "
                "ε = 0, on explicit matrices"
            )
        if x.is_integer:
            raise DerivationError(f"cannot differentiate by {x}: an identity between integers has no derivative")
        return self._made(f"differentiate by ${latex(x)}$", self.lhs.diff(x, times), self.rhs.diff(x, times))

    def integrate(self, x: sp.Symbol, low: Any, high: Any) -> Relation:
        """Integrate both sides from ``low`` to ``high``."""
        self._only("integrate", *_FLIP)
        low, high = sp.sympify(low), sp.sympify(high)
        if x.is_integer:
            raise DerivationError(f"cannot integrate over {x}: the relation is stated for integers")
        # almost every point counts, so that an end of the range may lie on the edge of the domain
        for fact in ("nonnegative", "nonpositive"):
            for end in (low, high):
                if getattr(x, f"is_{fact}") and not getattr(end, f"is_extended_{fact}"):
                    raise DerivationError(f"cannot integrate to {end}: the relation is stated for {fact} {x}")
        op = self.op
        if op != "=" and prove_nonnegative(high - low, strict=True) is None:
            op = _WEAK.get(op, op)
            if prove_nonnegative(high - low) is None:
                raise DerivationError(
                    f"cannot integrate an inequality from {low} to {high}: it is not clear that the second is larger"
                )
        what = f"integrate over ${latex(x)}$ from ${latex(low)}$ to ${latex(high)}$"
        return self._made(what, *(sp.integrate(s, (x, low, high)) for s in (self.lhs, self.rhs)), op=op)

    def sum(self, index: sp.Symbol, low: Any, high: Any) -> Relation:
        """Add up the relation over an index that is free in it."""
        self._only("sum", *_FLIP)
        op, limits = self._covers(index, low, high), (index, low, high)
        return self._made(f"sum over ${latex(index)}$", sp.Sum(self.lhs, limits), sp.Sum(self.rhs, limits), op=op)

    def average(self, index: sp.Symbol, size: Any) -> Relation:
        """Take the mean of the relation over an index from 1 to ``size``."""
        self._only("average", *_FLIP)
        size = sp.sympify(size)
        if not size.is_positive:
            raise DerivationError(f"cannot average over {size} entries: it is not known to be positive")
        op = self._covers(index, 1, size)
        sides = (sp.Sum(s, (index, 1, size)) / size for s in (self.lhs, self.rhs))
        return self._made(f"average over ${latex(index)}$", *sides, op=op)

    def multiply(self, factor: Any) -> Relation:
        """Multiply both sides; an inequality needs a factor of known sign."""
        factor, op = sp.sympify(factor), self.op
        self._only("multiply", *_FLIP)
        if op != "=":
            strict = op in "<>"
            if prove_nonnegative(factor, strict=strict) is not None:
                pass
            elif prove_nonnegative(-factor, strict=strict) is not None:
                op = _FLIP[op]
            else:
                raise DerivationError(f"cannot multiply an inequality by {factor}: its sign is not known")
        return self._made(f"multiply by ${latex(factor)}$", self.lhs * factor, self.rhs * factor, op=op)

    def add(self, other: Any) -> Relation:
        """Add an expression to both sides, or another relation side by side."""
        self._only("add to", *_FLIP)
        if isinstance(getattr(other, "relation", None), Operations):  # a step
            other = other.relation
        if not isinstance(other, Operations):
            other = sp.sympify(other)
            return self._made(f"add ${latex(other)}$", self.lhs + other, self.rhs + other)
        signs = {self.op, other.op} - {"="}
        if len({s[0] for s in signs}) > 1 or "~" in signs:
            raise DerivationError(f"cannot add {other} to {self}: they point different ways")
        strict = [s for s in signs if len(s) == 1]
        op = strict[0] if strict else next(iter(signs), "=")
        return self._made("add the relations", self.lhs + other.lhs, self.rhs + other.rhs, other, op=op)

    def apply(self, function: Callable[[sp.Expr], sp.Expr], name: str = "") -> Relation:
        """Apply a function of a number to both sides; to an inequality only one that is known to increase there."""
        self._only("apply a function to", *_FLIP)
        name, op = name or str(getattr(function, "__name__", "a function")), self.op
        if op != "=":
            op = self._increasing(function, name)
        x = sp.Dummy("x")  # the function sees a name, not how a side is written
        body = sp.sympify(function(x))
        return self._made(f"apply {name}", put(body, {x: self.lhs}), put(body, {x: self.rhs}), op=op)

    def _increasing(self, function: Callable[[sp.Expr], sp.Expr], name: str) -> str:
        """Check that a function increases on the range of both sides; return the sign that it leaves."""
        if function in _INCREASING:
            strict = _INCREASING[function]
            smaller = self.lhs if self.op in ("<", "<=") else self.rhs
            if strict is not None and prove_nonnegative(smaller, strict=strict) is None:
                need = "positive" if strict else "nonnegative"
                raise DerivationError(f"cannot apply {name} to an inequality: {smaller} is not known to be {need}")
            return self.op
        x = sp.Dummy("x", real=True)
        body = sp.sympify(function(x))
        slope = sp.diff(body, x)
        if not smooth(body, x) or prove_nonnegative(slope) is None:
            raise DerivationError(f"cannot apply {name} to an inequality: it is not clear that it increases")
        return self.op if prove_nonnegative(slope, strict=True) is not None else _WEAK.get(self.op, self.op)

    def transform(self, function: Callable[[sp.Expr], sp.Expr], side: Side = "both", name: str = "") -> Relation:
        """Rewrite one or both sides, e.g. ``transform(sp.factor, "rhs")``; that the value stays is proved."""
        if side not in ("lhs", "rhs", "both"):
            raise DerivationError(f"side must be 'lhs', 'rhs' or 'both', not {side!r}")
        name = name or str(getattr(function, "__name__", "rewrite"))
        sides = []
        for which in ("lhs", "rhs"):
            old = getattr(self, which)
            new = sp.sympify(function(old)) if side in (which, "both") else old
            if new != old and prove_zero(new - old, _PATIENCE)[0] is None:
                raise DerivationError(f"cannot {name}: it is not shown that {new} has the value of {old}")
            sides.append(new)
        return self._made(name, *sides)

    def expand(self, side: Side = "both") -> Relation:
        """Expand products and powers."""
        return self.transform(sp.expand, side)

    def simplify(self, side: Side = "both") -> Relation:
        """Let SymPy simplify."""
        return self.transform(sp.simplify, side)

    def solve(self, unknown: sp.Symbol) -> Relation:
        """Solve an equation that has one solution in the domain of ``unknown``: declare its sign to choose a root."""
        self._only("solve", "=")
        solution = the_solution(self.lhs - self.rhs, unknown)
        return self._made(f"solve for ${latex(unknown)}$", unknown, solution)

    def limit(self, x: sp.Symbol, to: Any, side: str = "+-") -> Relation:
        """Let ``x`` go to a point; strict inequalities become weak ones."""
        self._only("take a limit of", *_FLIP)
        to = sp.sympify(to)
        for fact, kept in (("nonnegative", "+"), ("nonpositive", "-")):
            if getattr(x, f"is_{fact}"):  # a limit may lie on the edge of the domain, and then has one side
                if not getattr(to, f"is_extended_{fact}"):
                    raise DerivationError(f"cannot let {x} go to {to}: the relation is stated for {fact} {x}")
                side = kept if to.is_zero else side
        if x.is_integer and to.is_finite:
            raise DerivationError(f"cannot let the integer {x} go to {to}")
        direction = "-" if to is sp.oo else "+" if to is -sp.oo else side
        try:
            with time_limit(_PATIENCE):
                sides = [sp.limit(s, x, to, direction) for s in (self.lhs, self.rhs)]
        except (TimeLimitReached, *SYMPY_FAILURES) as error:
            raise DerivationError(f"SymPy finds no limit of {self} as {x} goes to {to}: {error}") from None
        for found in sides:
            if found.has(sp.Limit, sp.AccumBounds, sp.nan, sp.zoo):
                raise DerivationError(f"SymPy finds no limit of {self} as {x} goes to {to} (it says {found})")
        return self._made(rf"let ${latex(x)} \to {latex(to)}$", *sides, op=_WEAK.get(self.op, self.op))

    def swap_sides(self) -> Relation:
        """Read the relation from right to left."""
        self._only("turn round", *_FLIP)
        return self._made("read from right to left", self.rhs, self.lhs, op=_FLIP[self.op])

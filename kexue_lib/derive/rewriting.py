"""Unfold definitions and write sums out at a small dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import sympy as sp
from sympy.core.function import AppliedUndef

from .binding import bound_names, misfit, rename_bound
from .errors import DerivationError
from .relations import Relation

_DEPTH = 30


class Definition:
    """An equation whose left side is a name: a symbol, ``f(x, y)`` or ``p[i]``; unfolding puts the right side."""

    def __init__(self, relation: Relation) -> None:
        lhs, rhs = relation.sides
        if relation.op != "=":
            raise DerivationError(f"a definition is an equation, not {relation}")
        if isinstance(lhs, AppliedUndef):
            arguments = lhs.args
        elif isinstance(lhs, sp.Indexed):
            arguments = lhs.indices
        elif isinstance(lhs, sp.Symbol):
            arguments = ()
        else:
            raise DerivationError(f"a definition needs a symbol, f(x) or p[i] on its left side, not {lhs}")
        if any(not isinstance(a, sp.Symbol) for a in arguments):
            raise DerivationError(f"the arguments of {lhs} in its definition must be plain symbols")
        if len(set(arguments)) < len(arguments):
            raise DerivationError(f"the arguments of {lhs} in its definition must be different")
        if self_reference := [e for e in sp.preorder_traversal(rhs) if self._same_name(lhs, e)]:
            raise DerivationError(f"{lhs} is defined through itself: {self_reference[0]} stands on the right side")
        self.name, self.arguments, self.rhs = lhs, arguments, rhs

    @staticmethod
    def _same_name(name: sp.Basic, expr: sp.Basic) -> bool:
        if isinstance(name, AppliedUndef):
            return isinstance(expr, AppliedUndef) and expr.func == name.func and len(expr.args) == len(name.args)
        if isinstance(name, sp.Indexed):
            return isinstance(expr, sp.Indexed) and expr.base == name.base
        return bool(expr == name)

    def _matches(self, expr: sp.Basic) -> bool:
        return self._same_name(self.name, expr)

    def occurs_in(self, expr: sp.Expr) -> bool:
        """Whether the name occurs in an expression."""
        return any(self._matches(e) for e in sp.preorder_traversal(expr))

    def unfold(self, expr: sp.Expr) -> sp.Expr:
        """Put the right side for every occurrence of the name."""

        def body(found: sp.Basic) -> sp.Expr:
            given = found.indices if isinstance(found, sp.Indexed) else found.args
            if isinstance(found, AppliedUndef):
                for argument, value in zip(self.arguments, given, strict=True):
                    if fact := misfit(argument, value):
                        raise DerivationError(f"{self.name} is defined for {fact} {argument}, and {value} may not be")
            fresh = rename_bound(self.rhs)
            if not self.arguments:
                return fresh
            return fresh.subs(dict(zip(self.arguments, given, strict=True)), simultaneous=True)

        if (self.rhs.free_symbols - set(self.arguments)) & bound_names(expr):  # they would be captured
            expr = rename_bound(expr)
        return expr.replace(self._matches, body)


def unfold(expr: sp.Expr, definitions: Iterable[Definition]) -> sp.Expr:
    """Unfold definitions until none is left."""
    definitions = list(definitions)
    for _ in range(_DEPTH):
        before = expr
        for definition in definitions:
            expr = definition.unfold(expr)
        if expr == before:
            return expr
    raise DerivationError("the definitions refer to each other in a circle")


def explicit(expr: sp.Expr, sizes: Mapping[sp.Symbol, int]) -> sp.Expr:
    """Write sums, maxima, vectors and matrices out at fixed sizes, with one scalar symbol for each entry.

    >>> n, i = sp.symbols("n i", integer=True, positive=True)
    >>> s = sp.IndexedBase("s", shape=(n,), real=True)
    >>> explicit(sp.Sum(s[i], (i, 1, n)), {n: 2})
    s_1 + s_2
    """
    expr = expr.subs(dict(sizes))
    matrices: dict[sp.Basic, sp.Basic] = {}
    for symbol in expr.atoms(sp.MatrixSymbol):
        if not (symbol.rows.is_Integer and symbol.cols.is_Integer):
            raise DerivationError(f"the size of {symbol} is not known; give it with dims")
        matrices[symbol] = sp.Matrix(
            symbol.rows, symbol.cols, lambda a, b, m=symbol: sp.Symbol(f"{m.name}_{a + 1}{b + 1}", real=True)
        )
    if matrices:
        expr = expr.subs(matrices).doit()
    expr = expr.doit()

    def entry(item: sp.Indexed) -> sp.Expr:
        if not all(k.is_Integer for k in item.indices):
            return item
        facts = {k: v for k, v in item.assumptions0.items() if k != "commutative"}
        return sp.Symbol("_".join([str(item.base.label), *map(str, item.indices)]), **facts)

    return expr.replace(lambda e: isinstance(e, sp.Indexed), entry)


def instances(
    expr: sp.Expr, sizes: Mapping[sp.Symbol, int], ranges: Mapping[sp.Symbol, sp.Expr], write: Callable[..., sp.Expr]
) -> list[sp.Expr]:
    """Instantiate the free indices of ``expr`` with every value that they can take."""
    found = [expr]
    for index, length in ranges.items():
        top = sp.sympify(length).subs(dict(sizes))
        if not top.is_Integer:
            raise DerivationError(f"the length {length}, over which {index} runs, is not known; give it with dims")
        found = [e.subs(index, k) for e in found for k in range(1, int(top) + 1)]
    return [write(e, sizes) for e in found]

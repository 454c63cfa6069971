"""Names: what is bound inside an expression, and what may be put in place of a symbol."""

from __future__ import annotations

from collections.abc import Mapping

import sympy as sp
from sympy.concrete.expr_with_limits import ExprWithLimits

from .errors import DerivationError
from .prove import prove_nonnegative, sums_by_their_terms

_FACTS = (
    *("integer", "even", "odd", "prime", "rational", "irrational"),
    *("positive", "negative", "nonnegative", "nonpositive", "nonzero"),
    *("real", "extended_real"),
)


def bound_names(expr: sp.Basic) -> set[sp.Basic]:
    """Indices of sums and variables of integrals."""
    return {limit[0] for e in expr.atoms(ExprWithLimits) for limit in e.limits}


def rename_bound(expr: sp.Expr) -> sp.Expr:
    """Give the bound indices of an expression fresh names, so that no later substitution captures them."""

    def fresh(e: sp.Basic) -> sp.Expr:
        names = {limit[0]: sp.Dummy(str(limit[0]), **limit[0].assumptions0) for limit in e.limits}
        limits = [sp.Tuple(names[limit[0]], *limit[1:]) for limit in e.limits]
        return e.func(e.function.xreplace(names), *limits)

    return expr.replace(lambda e: isinstance(e, ExprWithLimits), fresh)


def put(expr: sp.Expr, pairs: Mapping[sp.Basic, sp.Basic]) -> sp.Expr:
    """Substitute simultaneously; an index of a sum never captures a free symbol of what is put in.

    >>> i, n = sp.symbols("i n", integer=True, positive=True)
    >>> x = sp.Symbol("x")
    >>> put(sp.Sum(x, (i, 1, n)), {x: i}).doit()
    i*n
    """
    free = set().union(*(e.free_symbols for pair in pairs.items() for e in pair))
    if free & bound_names(expr):
        expr = rename_bound(expr)
    return expr.subs(dict(pairs), simultaneous=True)


def misfit(symbol: sp.Basic, new: sp.Expr) -> str | None:
    """Name an assumption of ``symbol`` that ``new`` is not known to satisfy; None where it satisfies all of them.

    >>> misfit(sp.Symbol("x", positive=True), sp.Symbol("y", real=True))
    'positive'
    """
    new = sums_by_their_terms(sp.sympify(new))
    strict = {"positive": (new, True), "negative": (-new, True)}
    weak = {"nonnegative": (new, False), "nonpositive": (-new, False)}
    for fact in _FACTS:
        if not getattr(symbol, f"is_{fact}", None) or getattr(new, f"is_{fact}", None):
            continue
        expr, strictly = {**strict, **weak}.get(fact, (None, False))
        if expr is None or prove_nonnegative(expr, strict=strictly) is None:
            return fact
    return None


def check_ranges(expr: sp.Basic) -> None:
    """Refuse a bound variable whose declared sign its range contradicts: SymPy would simplify under the declaration.

    >>> i, n = sp.symbols("i n", integer=True, positive=True)
    >>> check_ranges(sp.Sum(sp.sqrt(i), (i, 0, n)))
    Traceback (most recent call last):
        ...
    kexue_lib.derive.errors.DerivationError: i is declared positive, and in Sum(sqrt(i), (i, 0, n)) it starts at 0
    """
    for e in expr.atoms(ExprWithLimits):
        for x, *ends in e.limits:
            if len(ends) == 2:
                _check_ends(x, ends[0], ends[1], e, strict=not isinstance(e, sp.Integral))
    for e in expr.atoms(sp.Limit):
        _, x, to, side = e.args
        if x.is_nonnegative and (to.is_negative or to is -sp.oo or (to.is_zero and str(side) != "+")):
            raise DerivationError(f"{x} is declared nonnegative, and in {e} it comes from below 0")
        if x.is_nonpositive and (to.is_positive or to is sp.oo or (to.is_zero and str(side) != "-")):
            raise DerivationError(f"{x} is declared nonpositive, and in {e} it comes from above 0")


def _check_ends(x: sp.Symbol, low: sp.Expr, high: sp.Expr, where: object, strict: bool) -> None:
    if strict:  # a sum takes the value at its ends; an integral does not care
        if x.is_even or x.is_odd or x.is_prime or (x.is_nonzero and not (x.is_positive or x.is_negative)):
            raise DerivationError(f"the index {x} of {where} is declared as more than an integer of some sign")
        if x.is_positive and not low.is_positive:
            raise DerivationError(f"{x} is declared positive, and in {where} it starts at {low}")
        if x.is_negative and not high.is_negative:
            raise DerivationError(f"{x} is declared negative, and in {where} it ends at {high}")
    for end in (low, high):
        if x.is_nonnegative and not (end.is_extended_nonnegative or (end is high and strict)):
            raise DerivationError(f"{x} is declared nonnegative, and {where} reaches {end}")
        if x.is_nonpositive and not (end.is_extended_nonpositive or (end is low and strict)):
            raise DerivationError(f"{x} is declared nonpositive, and {where} reaches {end}")

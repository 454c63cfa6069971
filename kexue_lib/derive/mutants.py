"""Wrong versions of a relation: small changes, each of a kind that people make by mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import sympy as sp
from sympy.concrete.expr_with_limits import ExprWithLimits

from .errors import DerivationError
from .relations import FLIP, Relation
from .vocabulary import MaxOver

Change = tuple[str, sp.Expr]


@dataclass(frozen=True)
class Mutant:
    """A changed relation and what was changed; ``side`` is the side that differs (None: the sign)."""

    kind: str
    change: str
    relation: Relation
    side: str | None


def _shift(order: sp.Expr, at: sp.Expr) -> sp.Expr:
    return sp.besseli(order + 1, at)


_SWAPS: dict[type, tuple[str, Callable[..., sp.Expr]]] = {
    sp.sin: ("sin → cos", sp.cos),
    sp.cos: ("cos → sin", sp.sin),
    sp.tan: ("tan → sin", sp.sin),
    sp.sinh: ("sinh → cosh", sp.cosh),
    sp.cosh: ("cosh → sinh", sp.sinh),
    sp.tanh: ("tanh → sinh", sp.sinh),
    sp.log: ("log x → sqrt x", sp.sqrt),
    sp.exp: ("exp x → exp(-x)", lambda x: sp.exp(-x)),
    sp.gamma: ("Γ(x) → Γ(x + 1)", lambda x: sp.gamma(x + 1)),
    sp.besseli: ("I_ν → I_{ν+1}", _shift),
    sp.polygamma: ("ψ^(k) → ψ^(k+1)", lambda k, x: sp.polygamma(k + 1, x)),
    sp.erf: ("erf → erfc", sp.erfc),
    sp.Max: ("max → min", sp.Min),
    sp.Min: ("min → max", sp.Max),
    sp.Abs: ("|x| → x", lambda x: x),
}


def _at_nodes(expr: sp.Expr, mutate: Callable[[sp.Expr], Iterator[Change]], top: bool = True) -> Iterator[Change]:
    """Apply ``mutate`` to every node of an expression, rebuilding what stands around it."""
    for what, new in mutate(expr):
        if new != expr:
            yield what, new
    if isinstance(expr, (sp.Indexed, sp.Symbol, sp.Number)):
        return
    if isinstance(expr, sp.Derivative):
        for what, new in _at_nodes(expr.expr, mutate, False):
            yield what, sp.Derivative(new, *expr.variable_count)
        return
    if isinstance(expr, (ExprWithLimits, sp.Limit)):  # not the bound variable and its range
        for what, new in _at_nodes(expr.args[0], mutate, False):
            with suppress(TypeError, ValueError):  # such as a maximum that merges with one inside it
                yield what, expr.func(new, *expr.args[1:])
        return
    for k, argument in enumerate(expr.args):
        if isinstance(argument, sp.Expr):
            for what, new in _at_nodes(argument, mutate, False):
                with suppress(TypeError, ValueError):  # what cannot be built is no mutant
                    yield what, expr.func(*expr.args[:k], new, *expr.args[k + 1 :])


def _sign(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Add):
        for term in e.args:
            yield f"sign of {term}", e - 2 * term


def _whole_sign(e: sp.Expr) -> Iterator[Change]:
    yield "sign of the side", -e


def _factor(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Add):
        for term in e.args:
            yield f"{term} doubled", e + term


def _whole_factor(e: sp.Expr) -> Iterator[Change]:
    yield "side doubled", 2 * e


def _constant(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Rational) and e not in (0, -1) and not e.is_infinite:
        yield f"{e} → {e + 1}", e + 1
    elif isinstance(e, sp.NumberSymbol):
        yield f"{e} → {e} + 1", e + 1


def _exponent(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Pow) and e.exp.is_number:
        yield f"exponent {e.exp} of {e.base}", e.base ** (e.exp + sp.Rational(1, 2))
    elif isinstance(e, sp.exp):
        yield f"exponent {e.args[0]}", sp.exp(2 * e.args[0])


def _drop_term(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Add):
        for term in e.args:
            yield f"without {term}", e - term


def _drop_factor(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, sp.Mul):
        for k, factor in enumerate(e.args):
            if factor != -1:
                yield f"without the factor {factor}", e.func(*e.args[:k], *e.args[k + 1 :])


def _function(e: sp.Expr) -> Iterator[Change]:
    if type(e) in _SWAPS:
        what, swap = _SWAPS[type(e)]
        yield what, swap(*e.args)


def _range(e: sp.Expr) -> Iterator[Change]:
    if isinstance(e, (sp.Sum, sp.Product)) and len(e.limits) == 1:
        index, low, high = e.limits[0]
        yield f"sum from {low + 1}", e.func(e.function, (index, low + 1, high))
        yield f"sum to {high - 1}", e.func(e.function, (index, low, high - 1))
    elif isinstance(e, MaxOver):
        index, low, high = e.limits[0]
        yield f"maximum from {low + 1}", e.func(e.function, (index, low + 1, high))


def _swap_symbols(e: sp.Expr, running: frozenset[sp.Symbol] = frozenset()) -> Iterator[Change]:
    bound = set(running)
    bound |= {limit[0] for x in e.atoms(ExprWithLimits) for limit in x.limits}
    bound |= {x.args[1] for x in e.atoms(sp.Limit)}
    bases = {x.base.label for x in e.atoms(sp.Indexed)}
    names = sorted((x for x in e.free_symbols - bound - bases if isinstance(x, sp.Symbol)), key=str)
    for a, b in combinations(names, 2):
        if a.is_integer == b.is_integer:
            yield f"{a} ↔ {b}", e.subs({a: b, b: a}, simultaneous=True)


_NODES = {
    "sign": _sign,
    "factor": _factor,
    "exponent": _exponent,
    "constant": _constant,
    "dropped term": _drop_term,
    "dropped factor": _drop_factor,
    "function": _function,
    "range": _range,
}
_WHOLE = {"sign": _whole_sign, "factor": _whole_factor, "swapped symbols": _swap_symbols}


def _inside_limit(side: sp.Expr, make: Callable[[sp.Expr], Iterator[Change]]) -> Iterator[Change]:
    """Change what stands under a limit; the limit itself is a name."""
    if isinstance(side, sp.Limit):
        if make is _swap_symbols:  # what runs to the limit is a name, too
            make = partial(_swap_symbols, running=frozenset({side.args[1]}))
        for what, new in make(side.args[0]):
            yield what, sp.Limit(new, *side.args[1:])
    else:
        yield from make(side)


def _changes(side: sp.Expr) -> Iterator[tuple[str, Change]]:
    order = side.getO() if side.has(sp.Order) else None
    body = side.removeO() if order is not None else side
    for kind, make in _NODES.items():
        for what, new in _inside_limit(body, lambda e, m=make: _at_nodes(e, m)):  # type: ignore[misc]
            yield kind, (what, new if order is None else sp.Add(new, order, evaluate=False))
    for kind, make in _WHOLE.items():
        for what, new in _inside_limit(body, make):
            yield kind, (what, new if order is None else sp.Add(new, order, evaluate=False))


def mutants(relation: Relation, most: int = 24) -> list[Mutant]:
    """Make up to ``most`` mutants of a relation, every kind getting its turn, always in the same order.

    >>> x = sp.Symbol("x")
    >>> [m.change for m in mutants(Relation(sp.sin(x), "=", x), most=3)]
    ['sin → cos', 'sign of the side', 'side doubled']
    """
    groups: dict[tuple[str, str], list[Mutant]] = {}
    seen: set[tuple[sp.Expr, sp.Expr, str]] = {(relation.lhs, relation.rhs, relation.op)}

    def add(kind: str, change: str, mutant: Relation, side: str | None) -> None:
        key = (mutant.lhs, mutant.rhs, mutant.op)
        if key not in seen and not any(s.has(sp.nan, sp.zoo) for s in mutant.sides):
            seen.add(key)
            groups.setdefault((kind, side or ""), []).append(Mutant(kind, change, mutant, side))

    if relation.op in ("<", "<=", ">", ">="):
        add("reversed", "inequality reversed", replace(relation, op=FLIP[relation.op]), None)
    for side in ("lhs", "rhs"):
        for kind, (what, new) in _changes(getattr(relation, side)):
            with suppress(DerivationError):  # a change that makes no sense, such as a range that leaves its domain
                add(kind, what, replace(relation, **{side: new}), side)
    chosen: list[Mutant] = []
    depth = 0
    while len(chosen) < most and any(len(g) > depth for g in groups.values()):
        for group in groups.values():
            if len(group) > depth and len(chosen) < most:
                chosen.append(group[depth])
        depth += 1
    return chosen

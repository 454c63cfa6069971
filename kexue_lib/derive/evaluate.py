"""Evaluate SymPy expressions in high precision, by mpmath code that does not share SymPy's rewriting rules.

Sums become loops, derivatives ``mpmath.diff``, integrals ``mpmath.quad``: an identity that SymPy "proved" by a wrong
rule does not survive this.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mpmath
import sympy as sp
from sympy.concrete.expr_with_limits import ExprWithLimits
from sympy.printing.pycode import MpmathPrinter

from .domains import Domain, choices, default_domain, resolve
from .errors import DerivationError

Point = dict[sp.Basic, Any]


class NotEvaluable(DerivationError):
    """The expression holds something that has no numerical meaning here."""


class _Printer(MpmathPrinter):
    """Python source for mpmath, with safe names and every number an ``mpf`` (``1/n`` must not become a float)."""

    def __init__(self) -> None:
        super().__init__({"fully_qualified_modules": False, "strict": False})
        self.names: dict[Any, str] = {}

    def safe(self, symbol: Any) -> str:  # by the symbol, not by its name: a real and a positive x are two symbols
        return self.names.setdefault(symbol, f"v{len(self.names)}")

    def _print_Symbol(self, expr: Any) -> str:
        return self.safe(expr)

    _print_Dummy = _print_Symbol

    def _print_Idx(self, expr: Any) -> str:
        return self.safe(expr.label)

    def _print_Integer(self, expr: Any) -> str:
        return f"mpf({int(expr)})"

    _print_One = _print_Zero = _print_NegativeOne = _print_Integer

    def _print_Half(self, expr: Any) -> str:
        return "mpf(0.5)"

    def _print_Infinity(self, expr: Any) -> str:
        return "inf"

    def _print_NegativeInfinity(self, expr: Any) -> str:
        return "(-inf)"

    def _print_ComplexInfinity(self, expr: Any) -> str:
        return "undefined()"

    _print_NaN = _print_ComplexInfinity

    def _print_Indexed(self, expr: Any) -> str:
        return self.safe(expr.base.label) + "".join(f"[int({self._print(k)})]" for k in expr.indices)

    def _loop(self, expr: Any, combine: str) -> str:
        body = self._print(expr.function)
        loops = " ".join(
            f"for {self.safe(i)} in whole({self._print(a)}, {self._print(b)})" for i, a, b in reversed(expr.limits)
        )
        return f"{combine}([{body} {loops}])"

    def _print_Sum(self, expr: Any) -> str:
        if any(end.is_infinite for limit in expr.limits for end in limit[1:]):
            raise NotEvaluable("cannot add up an infinite series reliably")
        return self._loop(expr, "fsum")

    def _print_Product(self, expr: Any) -> str:
        return self._loop(expr, "fprod")

    def _print_MaxOver(self, expr: Any) -> str:
        return self._loop(expr, "max")

    def _print_Derivative(self, expr: Any) -> str:
        if any(not isinstance(x, sp.Symbol) for x, _ in expr.variable_count):
            raise NotEvaluable(f"cannot evaluate a derivative by {expr.variables}: differentiate by plain symbols")
        names = [self.safe(x) for x, _ in expr.variable_count]
        orders = [int(k) for _, k in expr.variable_count]
        at, order = (names[0], orders[0]) if len(names) == 1 else (f"({', '.join(names)})", tuple(orders))
        return f"derivative(lambda {', '.join(names)}: {self._print(expr.expr)}, {at}, {order})"

    def _print_Subs(self, expr: Any) -> str:
        names = ", ".join(self.safe(x) for x in expr.variables)
        return f"(lambda {names}: {self._print(expr.expr)})({', '.join(self._print(p) for p in expr.point)})"

    def _print_Limit(self, expr: Any) -> str:
        raise NotEvaluable("cannot evaluate a limit at a point; use the evidence 'limit'")

    def _print_Order(self, expr: Any) -> str:
        raise NotEvaluable("cannot evaluate a Landau symbol at a point; use the evidence 'series'")

    def _print_Function(self, expr: Any) -> str:
        name = expr.func.__name__
        if name not in self.known_functions and hasattr(mpmath, name):
            return f"{name}({', '.join(self._print(a) for a in expr.args)})"
        if name in _OTHER_NAMES:
            return f"{_OTHER_NAMES[name]}({', '.join(self._print(a) for a in expr.args)})"
        return str(super()._print_Function(expr))

    def _print_not_supported(self, expr: Any) -> str:
        raise NotEvaluable(f"cannot evaluate {expr}: mpmath has no counterpart of {type(expr).__name__}")

    def _print_binomial(self, expr: Any) -> str:
        return f"binomial({', '.join(self._print(a) for a in expr.args)})"

    def _print_loggamma(self, expr: Any) -> str:
        return f"loggamma({self._print(expr.args[0])})"

    _print_conjugate = _print_re = _print_im = _print_arg = _print_Function
    _print_LambertW = _print_Function

    _print_polygamma = _print_Function

    def _print_AppliedUndef(self, expr: Any) -> str:
        return f"given[{str(expr.func)!r}]({', '.join(self._print(a) for a in expr.args)})"

    def _print_Mod(self, expr: Any) -> str:
        a, b = (self._print(x) for x in expr.args)
        return f"fmod({a}, {b})"


# names that differ in mpmath
_OTHER_NAMES = {"conjugate": "conj", "LambertW": "lambertw", "Ei": "ei", "Si": "si", "Ci": "ci"}


def _undefined() -> Any:
    raise ZeroDivisionError("undefined")


def _whole(low: Any, high: Any) -> Iterator[Any]:
    return (mpmath.mpf(k) for k in range(int(low), int(high) + 1))


def _derivative(f: Callable[..., Any], at: Any, order: Any) -> Any:
    # Working at three times the precision pays for the cancellation in finite differences.
    with mpmath.workdps(3 * mpmath.mp.dps):
        return mpmath.diff(f, at, order)


def _pieces(low: Any, high: Any) -> list[Any]:
    low, high = mpmath.mpf(low), mpmath.mpf(high)
    if mpmath.isfinite(low) and mpmath.isfinite(high):
        return [low + (high - low) * k / 16 for k in range(17)]
    steps = [mpmath.mpf(v) for v in (-100, -10, -3, -1, 0, 1, 3, 10, 100)]
    return [low, *(v for v in steps if low < v < high), high]


def _quad(f: Callable[..., Any], *ranges: Any) -> Any:
    split = tuple(_pieces(*r) for r in ranges) if len(ranges) == 1 else ranges
    # With high precision, in the second look before a counterexample is reported, other nodes are used from the start,
    # so that a peak that was missed shows up.
    for attempt in (split,) if mpmath.mp.dps > 45 else (ranges, split):
        value, error = mpmath.quad(f, *attempt, error=True)
        if not mpmath.isfinite(value) or error <= mpmath.mpf(10) ** -8 * (1 + abs(value)):
            return value
    raise NotEvaluable("cannot integrate this reliably")  # a peak, a pole or a slow tail: no word against the claim


_NAMESPACE: dict[str, Any] = {
    **{name: getattr(mpmath, name) for name in dir(mpmath) if not name.startswith("_")},
    "mpmath": mpmath,
    "undefined": _undefined,
    "whole": _whole,
    "derivative": _derivative,
    "quad": _quad,
    "max": max,
    "min": min,
    "abs": abs,
    "polygamma": mpmath.polygamma,
}


def compile_expression(
    expr: sp.Expr, arguments: Sequence[sp.Basic], functions: Mapping[str, Callable[..., Any]] | None = None
) -> Callable[[Point], Any]:
    """Compile ``expr`` to a function of a :data:`Point`.

    ``functions`` gives numerical meaning to undefined functions such as ``L(n)`` (a root that mpmath finds, say).
    """
    printer = _Printer()
    names = [printer.safe(a.label if isinstance(a, sp.IndexedBase) else a) for a in arguments]
    source = printer.doprint(expr)
    unknown = {str(f.func) for f in expr.atoms(sp.core.function.AppliedUndef)} - set(functions or {})
    if unknown:
        raise NotEvaluable(
            f"the function {', '.join(sorted(unknown))} has no values here; define it in an earlier step that this one "
            "uses, or give functions={name: callable}"
        )
    space = {**_NAMESPACE, "given": dict(functions or {})}
    try:
        code = eval(f"lambda {', '.join(names)}: {source}", space)
    except SyntaxError as error:  # the printer met something that it does not know
        raise NotEvaluable(f"cannot evaluate {expr}: mpmath has no counterpart ({source})") from error

    def evaluate(point: Point) -> Any:
        values = [_from_one(point[a]) if isinstance(a, sp.IndexedBase) else point[a] for a in arguments]
        try:
            value = code(*values)
            return mpmath.nan if value is None else mpmath.mpmathify(value)  # None: no case of a Piecewise applies
        except NotEvaluable:
            raise
        except (
            ArithmeticError,
            ValueError,
            IndexError,
            MemoryError,
            mpmath.libmp.ComplexResult,
            mpmath.libmp.NoConvergence,
        ):
            return mpmath.nan
        except (NameError, TypeError) as error:
            raise NotEvaluable(f"cannot evaluate {expr}: {error}") from error

    return evaluate


def _from_one(value: Any) -> Any:
    """Entries of vectors and matrices count from 1, as in the formulas."""
    return [None, *map(_from_one, value)] if isinstance(value, list) else value


# --- points --------------------------------------------------------------------------------------------------------
def sampled_symbols(exprs: Sequence[sp.Expr]) -> list[sp.Basic]:
    """List the free symbols and vectors of expressions that need values, in a fixed order."""
    free = set().union(*(e.free_symbols for e in exprs)) if exprs else set()
    bases = {e for e in free if isinstance(e, sp.IndexedBase)}
    bases |= {e.base for expr in exprs for e in expr.atoms(sp.Indexed)}
    labels = {b.label for b in bases}
    scalars = {e for e in free if isinstance(e, sp.Symbol) and e not in labels and not isinstance(e, sp.Indexed)}
    scalars -= {e for e in scalars if isinstance(e, sp.IndexedBase)}
    return sorted(scalars, key=str) + sorted(bases, key=str)


def index_ranges(exprs: Sequence[sp.Expr]) -> dict[sp.Symbol, Any]:
    """Free indices of vectors, with the length of the vector that they index."""
    ranges: dict[sp.Symbol, Any] = {}

    def visit(expr: sp.Basic, bound: frozenset[sp.Basic]) -> None:
        if isinstance(expr, ExprWithLimits):
            for limit in expr.limits:  # the same name may be bound here and free elsewhere
                for end in limit[1:]:
                    visit(end, bound)
            visit(expr.function, bound | {limit[0] for limit in expr.limits})
            return
        if isinstance(expr, sp.Indexed):
            lengths = zip(expr.indices, expr.base.shape or (), strict=False)
            ranges.update({k: size for k, size in lengths if isinstance(k, sp.Symbol) and k not in bound})
        for argument in expr.args:
            visit(argument, bound)

    for expr in exprs:
        visit(expr, frozenset())
    return ranges


def sizes_from(dims: Mapping[sp.Symbol, int | Sequence[int]]) -> list[dict[sp.Symbol, int]]:
    """All combinations of the sizes that ``dims`` allows."""
    keys = list(dims)
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(choices(dims[k]) for k in keys))]


def points(
    exprs: Sequence[sp.Expr],
    *,
    seed: str,
    count: int,
    domain: Mapping[sp.Basic, Domain],
    dims: Mapping[sp.Symbol, int | Sequence[int]],
    where: Sequence[sp.Basic] = (),
) -> Iterator[Point]:
    """Draw ``count`` points: corners first, then random ones, the sizes in ``dims`` taking turns.

    First all symbols take their first corner together, then their second, and so on; after that the corners are mixed.
    Points at which a condition of ``where`` is not true are left out.
    """
    rng = random.Random(seed)
    symbols = sampled_symbols([*exprs, *(sp.sympify(c).lhs for c in where), *(sp.sympify(c).rhs for c in where)])
    ranges = index_ranges(exprs)
    lengths = {d for base in symbols if isinstance(base, sp.IndexedBase) for d in (base.shape or ())}
    unsized = {s for d in lengths for s in sp.sympify(d).free_symbols} - set(dims)
    all_sizes = sizes_from({**dict.fromkeys(sorted(unsized, key=str), (1, 2, 3, 5)), **dims})
    conditions = [(type(c), compile_expression(c.lhs, symbols), compile_expression(c.rhs, symbols)) for c in where]
    decks: dict[sp.Basic, list[int]] = {}
    made = tries = 0
    while made < count:
        tries += 1
        if tries > 50 * count + 200:
            raise DerivationError(
                f"found only {made} of {count} points that satisfy {', '.join(map(str, where))}; give a narrower domain"
            )
        sizes = all_sizes[tries % len(all_sizes)]
        point: Point = {}
        for symbol in symbols:
            if symbol in sizes:
                point[symbol] = mpmath.mpf(sizes[symbol])
            elif symbol in ranges and symbol not in domain:
                point[symbol] = mpmath.mpf(rng.randint(1, resolve(ranges[symbol], sizes)))
            else:
                source = domain.get(symbol) or default_domain(symbol)
                corners = source.corners(sizes) if tries <= max(8, count // 3) else []
                if corners:
                    deck = decks.setdefault(symbol, list(range(len(corners))))
                    point[symbol] = corners[deck.pop(0) % len(corners)]
                    if not deck:
                        deck += rng.sample(range(len(corners)), len(corners))
                else:
                    point[symbol] = source.draw(rng, sizes)
        if any(not _true(kind, left(point), right(point)) for kind, left, right in conditions):
            continue
        made += 1
        yield point


def _true(kind: type, left: Any, right: Any) -> bool:
    tests: dict[type, Callable[[Any, Any], bool]] = {
        sp.Ne: lambda a, b: a != b,
        sp.Lt: lambda a, b: a < b,
        sp.Le: lambda a, b: a <= b,
        sp.Gt: lambda a, b: a > b,
        sp.Ge: lambda a, b: a >= b,
    }
    if kind not in tests:
        raise DerivationError(f"where= takes <, <=, >, >= and Ne, not {kind.__name__}")
    return bool(tests[kind](left, right))


def show_number(value: Any, digits: int = 6) -> str:
    """Print a number for a reader."""
    if isinstance(value, list):
        return "(" + ", ".join(show_number(v, 3) for v in value[:6]) + (", …)" if len(value) > 6 else ")")
    if mpmath.isnan(value):
        return "undefined"
    return str(mpmath.nstr(value, digits))


def show_point(point: Point) -> dict[str, str]:
    """Print a point for a reader."""
    return {str(symbol): show_number(value) for symbol, value in point.items()}

"""Proofs by rewriting: is an expression zero, is it never negative?

Every strategy returns its name when it decides, so that a badge can say what did. Nothing here samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import sympy as sp
from sympy.concrete.expr_with_limits import ExprWithLimits

from .errors import DerivationError
from .nested_sums import reorder_sums
from .timelimit import TimeLimitReached, time_limit
from .vocabulary import MaxOver

Rewrite = Callable[[sp.Expr], sp.Expr]

# What SymPy raises when a strategy does not apply or does not end; it decides nothing.
SYMPY_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    StopIteration,  # escapes from sum_simplify
    TypeError,
    ValueError,
)


def split_sums(expr: sp.Expr) -> sp.Expr:
    """Use that sums are linear: split them, pull out what does not depend on the index, add up constants.

    >>> n, i = sp.symbols("n i", integer=True, positive=True)
    >>> a = sp.Symbol("a")
    >>> s = sp.IndexedBase("s", shape=(n,))
    >>> split_sums(sp.Sum(2 * s[i] + a, (i, 1, n)))
    a*n + 2*Sum(s[i], (i, 1, n))
    """

    def one(total: sp.Sum) -> sp.Expr:
        if any(end.is_infinite for limit in total.limits for end in limit[1:]):
            return total  # a convergent series may split into divergent ones
        result = total.function.replace(lambda e: isinstance(e, sp.Sum), one)
        for limit in total.limits:  # the innermost first
            result = over(sp.expand(result), *limit)
        return result

    def over(body: sp.Expr, index: sp.Symbol, low: sp.Expr, high: sp.Expr) -> sp.Expr:
        result = sp.Integer(0)
        for term in sp.Add.make_args(body):
            inside, outside = [sp.Integer(1)], [sp.Integer(1)]
            for factor in sp.Mul.make_args(sp.expand_power_exp(term)):
                (inside if index in factor.free_symbols else outside).append(factor)
            weight, rest = sp.Mul(*outside), sp.Mul(*inside)
            # a common name for the index lets equal sums cancel
            facts = {"positive": True} if low.is_positive else {"nonnegative": True} if low.is_nonnegative else {}
            name = sp.Symbol("i", integer=True, **facts)
            if name in rest.atoms(sp.Symbol) | low.free_symbols | high.free_symbols:
                name = index
            rest = rest.subs(index, name)
            counts = rest == 1 and (high - low + 1).is_nonnegative
            result += weight * (high - low + 1 if counts else sp.Sum(rest, (name, low, high)))
        return result

    return sp.expand(expr.replace(lambda e: isinstance(e, sp.Sum), one))


def _unknown(total: sp.Expr) -> sp.Dummy:
    """Return a new name for a sum or a maximum, with what is known about every term of it."""
    (_, low, high), *more = total.limits
    term, finite = total.function, all(end.is_finite for limit in total.limits for end in limit[1:])
    filled = (high - low).is_nonnegative and not more  # an empty sum is 0, and not positive
    facts: dict[str, bool] = {}
    if finite and term.is_positive and filled:
        facts["positive"] = True
    elif finite and term.is_nonnegative:
        facts["nonnegative"] = True
    elif finite and term.is_real:
        facts["real"] = True
    return sp.Dummy("S", **facts)


def sums_by_their_terms(expr: sp.Expr) -> sp.Expr:
    """Put a name for every sum and maximum: positive where every term is, and so on."""
    names: dict[sp.Basic, sp.Symbol] = {}
    return expr.replace(lambda e: isinstance(e, (sp.Sum, MaxOver)), lambda e: names.setdefault(e, _unknown(e)))


def name_sums(expr: sp.Expr) -> sp.Expr:
    """Put one symbol for each different sum, innermost first, positive where every term is; split logarithms meanwhile.

    >>> n, i = sp.symbols("n i", integer=True, positive=True)
    >>> s = sp.IndexedBase("s", shape=(n,), real=True)
    >>> total = sp.Sum(sp.exp(s[i]), (i, 1, n))
    >>> name_sums(sp.Sum(sp.exp(s[i]) / total, (i, 1, n)))
    1
    """
    names: dict[sp.Basic, sp.Symbol] = {}

    def rewrite_body(e: sp.Sum) -> sp.Expr:
        return e.func(sp.expand(sp.expand_log(sp.expand(e.function))), *e.limits)

    for _ in range(6):
        expr = split_sums(expr.replace(lambda e: isinstance(e, sp.Sum), rewrite_body))
        sums = [e for e in expr.atoms(sp.Sum) if not e.function.has(sp.Sum)]
        bound = _bound(expr)
        # a sum that mentions the index of another one has to wait until that one is split
        free = [e for e in sums if not (e.free_symbols - {limit[0] for limit in e.limits}) & bound]
        for e in sorted(free, key=sp.default_sort_key):
            names.setdefault(e, _unknown(e))
        if not free:
            break
        expr = expr.xreplace({e: names[e] for e in free})
    return sp.simplify(sp.expand(sp.expand_log(sp.expand(expr))))


def _logs(expr: sp.Expr) -> sp.Expr:
    """Split logarithms where the assumptions allow it, after pulling constants out of sums."""
    expr = expr.replace(lambda e: isinstance(e, sp.log), lambda e: sp.log(sp.factor_terms(split_sums(e.args[0]))))
    return sp.expand(sp.expand_log(sp.powsimp(expr)))


def _log_of_quotient(expr: sp.Expr) -> sp.Expr:
    return sp.simplify(sp.logcombine(sp.expand_log(expr)))


def _exponentials(expr: sp.Expr) -> sp.Expr:
    return sp.simplify(sp.expand(expr.rewrite(sp.exp)))


def _together(expr: sp.Expr) -> sp.Expr:
    return sp.expand(sp.fraction(sp.together(sp.expand_power_exp(expr)))[0])


def _special(expr: sp.Expr) -> sp.Expr:
    expr = sp.expand_func(expr)
    return sp.simplify(sp.gammasimp(sp.besselsimp(expr) if expr.has(sp.besseli, sp.besselj, sp.besselk) else expr))


def _bessel_recurrence(expr: sp.Expr) -> sp.Expr:
    r"""Write :math:`I_{\nu\pm1}` through one order, by :math:`I_{\nu-1}-I_{\nu+1}=\frac{2\nu}{z}I_\nu`."""
    atoms = sorted(expr.atoms(sp.besseli), key=sp.default_sort_key)
    for base in atoms:
        nu, z = base.args
        for item in atoms:
            gap = sp.simplify(item.args[0] - nu)
            if item.args[1] == z and gap == 2:
                expr = expr.subs(item, base - 2 * (nu + 1) / z * sp.besseli(nu + 1, z))
    return sp.simplify(expr)


def _roots(expr: sp.Expr) -> sp.Expr:
    return sp.simplify(sp.radsimp(sp.sqrtdenest(expr)))


def _even_part(expr: sp.Expr) -> sp.Expr:
    """Over a finite interval that is symmetric about 0 only the even part of a smooth function counts.

    Elsewhere the odd part need not have an integral at all: 1/x over (-1, 1), or x over the whole line. Then t and -t
    count as the same.
    """

    def fold(e: sp.Integral) -> sp.Expr:
        if len(e.limits) != 1 or len(e.limits[0]) != 3 or e.limits[0][1] != -e.limits[0][2]:
            return e
        t, low, high = e.limits[0]
        everywhere = sp.Dummy(t.name, real=True)
        if not (low.is_finite and high.is_finite and smooth(e.function.subs(t, everywhere), everywhere)):
            # the other direction is the same integral in any case: one of the two stands for both
            return e.func(min(e.function, e.function.subs(t, -t), key=sp.default_sort_key), e.limits[0])
        body = sp.factor_terms(sp.expand((e.function + e.function.subs(t, -t)) / 2))
        return e.func(body, e.limits[0]) if body != 0 else body

    return sp.expand(expr.replace(lambda e: isinstance(e, sp.Integral), fold))


def _cases(expr: sp.Expr) -> sp.Expr:
    return sp.simplify(sp.piecewise_fold(expr.rewrite(sp.Piecewise))) if expr.has(sp.Piecewise) else expr


def _equals(expr: sp.Expr) -> sp.Expr:
    return sp.Integer(0) if expr.equals(0) is True else expr


def _bound(expr: sp.Basic) -> set[sp.Basic]:
    """What is bound anywhere in an expression."""
    found: set[sp.Basic] = {limit[0] for e in expr.atoms(ExprWithLimits) for limit in e.limits}
    found |= {e.args[1] for e in expr.atoms(sp.Limit)}
    return found.union(*(e.variables for e in expr.atoms(sp.Subs)))


def evaluate(expr: sp.Expr) -> sp.Expr:
    """Carry out derivatives, integrals and so on, but leave sums over entries of a vector as they are.

    SymPy looks for a closed form of every sum. There is none for ``Sum(s[i], …)``, and the search may take minutes.
    """

    def differentiate(d: sp.Derivative) -> sp.Expr:
        return d.expr.diff(*d.variable_count)

    expr = expr.replace(lambda e: isinstance(e, sp.Derivative), differentiate)
    kept: dict[sp.Basic, sp.Dummy] = {}

    def keep(e: sp.Expr) -> sp.Expr:
        facts = {"positive": True} if isinstance(e, sp.Sum) and e.function.is_positive else {}
        return kept.setdefault(e, sp.Dummy("S", **facts))

    def hide(e: sp.Basic) -> sp.Basic:
        """From the outside in: what is bound further out must not get lost in a name."""
        if isinstance(e, sp.Sum) and e.has(sp.Indexed):
            return keep(e)
        if isinstance(e, (ExprWithLimits, sp.Limit, sp.Subs)):
            inside = set().union(*(total.free_symbols for total in e.atoms(sp.Sum) if total.has(sp.Indexed)))
            if inside & _bound(e):
                return keep(e)
        return e.func(*map(hide, e.args)) if e.args else e

    return hide(expr).doit().xreplace({name: e for e, name in kept.items()})


CASCADE: tuple[tuple[str, Rewrite], ...] = (
    ("identical", lambda e: e),
    ("maxima as moduli", lambda e: sp.expand(e.rewrite(sp.Abs)) if e.has(sp.Max, sp.Min) else e),
    ("symmetry of an integral", lambda e: _even_part(e) if e.has(sp.Integral) else e),
    ("evaluate", evaluate),
    ("expand", sp.expand),
    ("linearity of sums", split_sums),
    ("common denominator", _together),
    ("laws of logarithms", _logs),
    ("sums as unknowns", lambda e: name_sums(e) if e.has(sp.Sum) else e),
    ("order of sums", lambda e: reorder_sums(e) if e.has(sp.Sum) else e),
    ("simplify", sp.simplify),
    ("exponentials", _exponentials),
    ("one logarithm", _log_of_quotient),
    ("special functions", _special),
    ("Bessel recurrence", _bessel_recurrence),
    ("roots", _roots),
    ("cases", _cases),
    ("equals", _equals),
)


class Clock:
    """A time allowance that several attempts share."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._end = seconds, time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()


def prove_zero(expr: sp.Expr, seconds: float = 10.0) -> tuple[str | None, list[str]]:
    """Try to rewrite ``expr`` to 0; return the strategy that did it (or None) and what was tried.

    >>> x = sp.Symbol("x", real=True)
    >>> prove_zero((x + 1) ** 2 - x**2 - 2 * x - 1)[0]
    'expand'
    >>> prove_zero(sp.sqrt(x**2) - x)[0] is None
    True
    """
    clock, tried = Clock(seconds), []
    for name, rewrite in CASCADE:
        if clock.left <= 0:
            tried.append("time limit")
            break
        try:
            with time_limit(max(0.05, min(clock.left, seconds / 2))):
                result = rewrite(expr)
        except TimeLimitReached:
            tried.append(f"{name} (stopped)")
            continue
        except SYMPY_FAILURES as error:
            tried.append(f"{name} ({type(error).__name__})")
            continue
        tried.append(name)
        if result == 0:
            return name, tried
        if name == "evaluate":
            expr = result
    return None, tried


def _sign(expr: sp.Expr, strict: bool) -> bool:
    return bool(expr.is_positive if strict else expr.is_nonnegative)


def _forms(expr: sp.Expr) -> list[tuple[str, sp.Expr]]:
    forms = [("sign", expr)]
    for name, rewrite in (
        ("expand", sp.expand),
        ("factor", sp.factor),
        ("simplify", sp.simplify),
        ("hyperbolic functions", lambda e: sp.simplify(e.rewrite(sp.cosh))),
        ("common denominator", lambda e: sp.factor(sp.together(e))),
    ):
        try:
            form = rewrite(expr)
        except SYMPY_FAILURES:
            continue
        if all(form != other for _, other in forms):
            forms.append((name, form))
    return forms


def _by_maximum(expr: sp.Expr, strict: bool) -> bool:
    """``max(a, b, …) + c`` is not negative when ``a + c`` is not."""
    maxima = expr.atoms(sp.Max, MaxOver)
    if len(maxima) != 1:
        return False
    (maximum,) = maxima
    rest = sp.expand(expr - maximum)
    if rest.has(maximum):
        return False
    if isinstance(maximum, sp.Max):
        return any(_sign(sp.expand(a + rest), strict) for a in maximum.args)
    (index, low, high) = maximum.limits[0]
    # an index of a vector that runs over just this range takes one of the entries
    entries = {
        k
        for item in rest.atoms(sp.Indexed)
        for k, length in zip(item.indices, item.base.shape or (), strict=False)
        if isinstance(k, sp.Symbol) and low == 1 and length == high
    }
    return any(_sign(sp.expand(maximum.function.subs(index, k) + rest), strict) for k in entries)


_ENTIRE = (sp.exp, sp.sin, sp.cos, sp.sinh, sp.cosh, sp.tanh, sp.atan, sp.asinh, sp.erf, sp.erfc)
_ON_POSITIVE = (sp.log, sp.gamma, sp.loggamma)


def smooth(expr: sp.Expr, x: sp.Symbol) -> bool:
    """Whether ``expr`` is plainly a smooth real function of ``x``, everywhere where the assumptions of ``x`` allow it.

    >>> x, p = sp.Symbol("x", real=True), sp.Symbol("p", positive=True)
    >>> smooth(sp.exp(-x) + 1 / (1 + x**2), x), smooth(1 / (x - 2), x), smooth(sp.log(p), p), smooth(sp.floor(p), p)
    (True, False, True, False)
    """
    if x not in expr.free_symbols:
        return bool(expr.is_real)
    if expr == x:
        return bool(x.is_real)
    if isinstance(expr, (sp.Add, sp.Mul, *_ENTIRE)):
        return all(smooth(a, x) for a in expr.args)
    if isinstance(expr, sp.Sum):
        ends = [end for limit in expr.limits for end in limit[1:]]
        return smooth(expr.function, x) and all(end.is_finite and x not in end.free_symbols for end in ends)
    if isinstance(expr, _ON_POSITIVE):
        return smooth(expr.args[0], x) and bool(sums_by_their_terms(expr.args[0]).is_positive)
    if isinstance(expr, sp.Pow):
        base, power = expr.args
        if not (smooth(base, x) and smooth(power, x)):
            return False
        base = sums_by_their_terms(base)
        if power.is_integer:
            return bool(power.is_nonnegative or base.is_nonzero)
        return bool(base.is_positive)
    return False


def _line(x: sp.Symbol) -> bool:
    """Whether a symbol runs over the whole real line."""
    return bool(x.is_real) and all(
        getattr(x, f"is_{fact}") is None for fact in ("zero", "positive", "negative", "integer", "rational")
    )


def _at_least(value: sp.Expr, strict: bool) -> bool:
    value = sp.simplify(value)
    return bool(value.is_positive if strict else value.is_nonnegative)


def _by_calculus(expr: sp.Expr, strict: bool, depth: int) -> str | None:
    """A convex function lies above its minimum; an increasing one above its value at the left end."""
    for x in sorted(expr.free_symbols, key=str):
        half = x.is_nonnegative and not x.is_integer and not x.is_zero
        inside = sp.Dummy(x.name, positive=True) if half else x  # at 0 itself a continuous function has no surprise
        inner = expr.subs(x, inside)
        if not (half or _line(x)) or not smooth(inner, inside):
            continue
        slope = sp.simplify(sp.diff(inner, inside))
        if half and depth > 0 and (x.is_positive or _continuous_at_zero(expr, x)):
            start = sp.limit(inner, inside, 0, "+")
            if _at_least(start, False):
                rising = strict and not _at_least(start, True)  # from 0 it has to rise at once
                closed = rising and not x.is_positive
                if not closed and prove_nonnegative(slope, strict=rising, depth=depth - 1) is not None:
                    return f"increasing in {x}, {start} at {x} = 0"
        if half and not x.is_positive:
            continue
        curvature = sp.diff(slope, inside)
        if any(_sign(form, False) for _, form in _forms(curvature)):
            for lowest in (sp.Integer(1),) if half else (sp.Integer(0), sp.Integer(1)):
                if sp.simplify(slope.subs(inside, lowest)) == 0 and _at_least(inner.subs(inside, lowest), strict):
                    return f"convex in {x}, smallest at {x} = {lowest}"
    return None


def _continuous_at_zero(expr: sp.Expr, x: sp.Symbol) -> bool:
    value = expr.subs(x, 0)
    return bool(value.is_finite) and sp.simplify(value - sp.limit(expr, x, 0, "+")) == 0


def prove_nonnegative(expr: sp.Expr, *, strict: bool = False, depth: int = 2) -> str | None:
    """Try to prove ``expr >= 0`` (``> 0`` if strict) under the assumptions of its symbols; return how, or None.

    >>> x = sp.Symbol("x", real=True)
    >>> prove_nonnegative(x**2 - 2 * x + 1)
    'factor'
    >>> prove_nonnegative(sp.exp(x) - 1 - x)
    'convex in x, smallest at x = 0'
    >>> prove_nonnegative(x) is None
    True
    """
    try:
        return _nonnegative(evaluate(sp.sympify(expr)), strict, depth)
    except SYMPY_FAILURES:
        return None


def _nonnegative(expr: sp.Expr, strict: bool, depth: int) -> str | None:
    for name, form in _forms(expr):
        if _sign(form, strict):
            return name
        if form.has(sp.Max, MaxOver) and _by_maximum(form, strict):
            return "a maximum is at least each of its entries"
        if form.has(sp.Sum, MaxOver) and _sign(sums_by_their_terms(form), strict):
            return "every term has this sign"
    return None if expr.has(sp.Sum, MaxOver) else _by_calculus(expr, strict, depth)


def the_solution(expr: sp.Expr, unknown: sp.Symbol) -> sp.Expr:
    """Return the one solution of ``expr = 0`` in the domain of ``unknown``; refuse where there may be others.

    SymPy gives one branch of an equation such as ``x e^x = a`` and says nothing about the others.

    >>> x, a = sp.symbols("x a", positive=True)
    >>> the_solution(x**2 - a, x)
    sqrt(a)
    """
    found = sp.solve(expr, unknown)
    if len(found) != 1:
        shown = ", ".join(map(str, found)) or "none"
        raise DerivationError(f"{expr} = 0 has not one solution for {unknown} but {len(found)}: {shown}")
    if not sp.fraction(sp.together(expr))[0].is_polynomial(unknown):
        slope = sp.diff(expr, unknown)
        signs = (prove_nonnegative(e, strict=True) for e in (slope, -slope))
        if not smooth(expr, unknown) or all(how is None for how in signs):
            raise DerivationError(f"{expr} = 0 has the solution {unknown} = {found[0]}; there may be others")
    return found[0]

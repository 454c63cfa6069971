"""Proofs by rewriting: is an expression zero, is it never negative?

Every strategy returns its name when it decides, so that a badge can say what did. Nothing here samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import sympy as sp

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
        if len(total.limits) != 1:
            return total
        (index, low, high) = total.limits[0]
        body = sp.expand(total.function.replace(lambda e: isinstance(e, sp.Sum), one))
        result = sp.Integer(0)
        for term in sp.Add.make_args(body):
            inside, outside = [sp.Integer(1)], [sp.Integer(1)]
            for factor in sp.Mul.make_args(sp.expand_power_exp(term)):
                (inside if index in factor.free_symbols else outside).append(factor)
            weight, rest = sp.Mul(*outside), sp.Mul(*inside)
            # a common name for the index lets equal sums cancel
            name = sp.Symbol("i", integer=True, positive=True)
            if name != index and name in rest.atoms(sp.Symbol):
                name = index
            rest = rest.subs(index, name)
            result += weight * (high - low + 1 if rest == 1 else sp.Sum(rest, (name, low, high)))
        return result

    return sp.expand(expr.replace(lambda e: isinstance(e, sp.Sum), one))


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
        bound = {limit[0] for e in expr.atoms(sp.Sum) for limit in e.limits}
        # a sum that mentions the index of another one has to wait until that one is split
        free = [e for e in sums if not (e.free_symbols - {limit[0] for limit in e.limits}) & bound]
        for e in sorted(free, key=sp.default_sort_key):
            facts = {"positive": True} if e.function.is_positive else {"real": True} if e.function.is_real else {}
            names.setdefault(e, sp.Dummy("S", **facts))
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
    """Over an interval that is symmetric about 0 only the even part of a function counts."""

    def fold(e: sp.Integral) -> sp.Expr:
        if len(e.limits) != 1 or len(e.limits[0]) != 3 or e.limits[0][1] != -e.limits[0][2]:
            return e
        t = e.limits[0][0]
        body = sp.factor_terms(sp.expand((e.function + e.function.subs(t, -t)) / 2))
        return e.func(body, e.limits[0])

    return sp.expand(expr.replace(lambda e: isinstance(e, sp.Integral), fold))


def _cases(expr: sp.Expr) -> sp.Expr:
    return sp.simplify(sp.piecewise_fold(expr))


def _equals(expr: sp.Expr) -> sp.Expr:
    return sp.Integer(0) if expr.equals(0) is True else expr


CASCADE: tuple[tuple[str, Rewrite], ...] = (
    ("identical", lambda e: e),
    ("even part of an integral", lambda e: _even_part(e) if e.has(sp.Integral) else e),
    ("evaluate", lambda e: e.doit()),
    ("expand", sp.expand),
    ("linearity of sums", split_sums),
    ("common denominator", _together),
    ("laws of logarithms", _logs),
    ("sums as unknowns", lambda e: name_sums(e) if e.has(sp.Sum) else e),
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


def _by_calculus(expr: sp.Expr, strict: bool, depth: int) -> str | None:
    """A convex function lies above its minimum; an increasing one above its value at the left end."""
    for x in sorted(expr.free_symbols, key=str):
        if not x.is_extended_real or x.is_integer:
            continue
        slope = sp.simplify(sp.diff(expr, x))
        if not (x.is_positive or x.is_nonnegative or x.is_negative):  # the whole real line
            curvature = sp.diff(slope, x)
            if any(_sign(form, False) for _, form in _forms(curvature)):
                for minimum in {sp.Integer(0), sp.Integer(1)}:
                    if sp.simplify(slope.subs(x, minimum)) == 0:
                        value = sp.simplify(expr.subs(x, minimum))
                        if (value.is_positive if strict else value.is_nonnegative) or (not strict and value == 0):
                            return f"convex in {x}, smallest at {x} = {minimum}"
        elif x.is_nonnegative and depth > 0:
            start = sp.limit(expr, x, 0, "+")
            if start.is_nonnegative and not (strict and not start.is_positive):
                how = prove_nonnegative(slope, strict=False, depth=depth - 1)
                if how is not None:
                    return f"increasing in {x}, {start} at {x} = 0"
            if x.is_positive:  # smallest at x = 1, as for x - 1 - log x
                curvature = sp.diff(slope, x)
                if any(_sign(form, False) for _, form in _forms(curvature)) and sp.simplify(slope.subs(x, 1)) == 0:
                    value = sp.simplify(expr.subs(x, 1))
                    if value.is_positive or (not strict and value == 0):
                        return f"convex in {x}, smallest at {x} = 1"
    return None


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
        return _nonnegative(sp.sympify(expr).doit(), strict, depth)
    except SYMPY_FAILURES:
        return None


def _nonnegative(expr: sp.Expr, strict: bool, depth: int) -> str | None:
    for name, form in _forms(expr):
        if _sign(form, strict):
            return name
        if form.has(sp.Max, MaxOver) and _by_maximum(form, strict):
            return "a maximum is at least each of its entries"
        if isinstance(form, sp.Sum) and _sign(form.function, strict):
            return "every term has this sign"
    return None if expr.has(sp.Sum, MaxOver) else _by_calculus(expr, strict, depth)

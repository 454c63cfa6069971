"""Evidence ``limit`` and ``series``: by SymPy, or by values along a sequence with the rate at which they settle."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import mpmath
import sympy as sp

from .display import latex
from .domains import Domain, OneOf
from .errors import Counterexample, Refusal
from .evaluate import NotEvaluable, Point, compile_expression, points, sampled_symbols, show_number, show_point
from .evidence import Finding, Setting
from .prove import SYMPY_FAILURES, prove_zero, smooth, split_sums
from .relations import Relation
from .rewriting import explicit
from .timelimit import TimeLimitReached, time_limit


@dataclass(frozen=True)
class _Target:
    """A limit statement, taken apart."""

    expr: sp.Expr
    variable: sp.Symbol
    to: sp.Expr
    side: str
    value: sp.Expr


def _target(relation: Relation, sizes: Mapping[sp.Symbol, int]) -> _Target:
    if relation.towards is not None:
        variable, to = relation.towards
        quotient = relation.lhs / relation.rhs
        return _Target(explicit(quotient, sizes), variable, to, "-" if to is sp.oo else "+", sp.Integer(1))
    if relation.op != "=" or not isinstance(relation.lhs, sp.Limit):
        raise Refusal("the evidence 'limit' needs tends(expr, x, to, value) or similar(f, g, x, to)")
    expr, variable, to, side = relation.lhs.args
    return _Target(explicit(expr, sizes), variable, to, str(side), explicit(relation.rhs, sizes))


def _approach(target: _Target) -> list[Any]:
    powers = (2, 4, 8, 16, 32)
    if target.to is sp.oo:
        return [mpmath.mpf(10) ** k for k in powers]
    if target.to is -sp.oo:
        return [-(mpmath.mpf(10) ** k) for k in powers]
    sign = -1 if target.side == "-" else 1
    to = mpmath.mpmathify(target.to.evalf(60))
    return [to + sign * mpmath.mpf(10) ** -k for k in powers]


def _look(target: _Target, setting: Setting) -> None:
    """Refuse a limit that values near the point plainly contradict; silent where they settle too slowly to tell."""
    exprs = [target.expr, target.value]
    arguments = sampled_symbols(exprs)
    if target.variable not in arguments:
        arguments.append(target.variable)
    domain = {**setting.domain, target.variable: OneOf(1)}
    try:
        f, value = (compile_expression(e, arguments, setting.functions) for e in exprs)
        for point in points(exprs, seed=setting.step, count=4, domain=domain, dims=setting.dims, where=setting.where):
            with mpmath.workdps(120):
                claimed = value({**point, target.variable: mpmath.mpf(1)})
                near = [f({**point, target.variable: x}) for x in _approach(target)]
            if mpmath.isnan(claimed) or any(mpmath.isnan(v) or mpmath.isinf(v) for v in near[-2:]):
                continue
            moved, away = abs(near[-1] - near[-2]), abs(near[-1] - claimed)
            if mpmath.isinf(claimed):
                settled_elsewhere = abs(near[-1]) < 10 and moved < mpmath.mpf(10) ** -6
            else:
                settled_elsewhere = away > mpmath.mpf(10) ** -10 * (1 + abs(claimed)) and moved < away / 1000
                # Values that came as close as this and left again lost their digits: 1 + exp(-x) is 1 from some x on.
                settled_elsewhere &= all(abs(v - claimed) > mpmath.mpf(10) ** -15 * (1 + abs(claimed)) for v in near)
            if settled_elsewhere:
                at = {k: v for k, v in point.items() if k != target.variable}
                shown = {**show_point(at), str(target.variable): mpmath.nstr(_approach(target)[-1], 3)}
                raise Refusal(
                    "values near the point settle somewhere else",
                    counterexample=Counterexample(
                        shown, show_number(near[-1], 12), show_number(claimed, 12), show_number(near[-1] - claimed, 4)
                    ),
                )
    except (NotEvaluable, MemoryError):
        return


@dataclass(frozen=True)
class LimitBySymPy:
    """Let SymPy compute the limit and prove that it is the claimed one."""

    dims: Mapping[sp.Symbol, int] = field(default_factory=dict)
    seconds: float = 60.0

    kind = "limit"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Compute the limit or refuse."""
        relation = setting.unfold(relation)
        target = _target(relation, self.dims)
        try:
            with time_limit(self.seconds):
                _look(target, setting)
        except TimeLimitReached:
            pass
        try:
            with time_limit(min(self.seconds, setting.seconds)):
                found = sp.limit(target.expr, target.variable, target.to, target.side)
        except (TimeLimitReached, *SYMPY_FAILURES) as error:
            raise Refusal(
                f"SymPy could not compute the limit ({error})",
                advice="give a rate: values along a sequence with the gauge that the error follows",
            ) from None
        if isinstance(found, sp.Limit) or found.has(sp.Limit, sp.nan):
            raise Refusal("SymPy left the limit unevaluated", advice="give a rate")
        if found != target.value:
            if found.is_infinite or target.value.is_infinite:
                raise Refusal(f"SymPy finds the limit {found}, the step claims {target.value}")
            method, _ = prove_zero(found - target.value, min(self.seconds, setting.seconds))
            if method is None:
                raise Refusal(f"SymPy finds the limit {found}, which is not shown to equal {target.value}")
        return Finding("proved", "limit by SymPy", {})


@dataclass(frozen=True)
class Rate:
    r"""Check a limit by its rate: the error along a sequence has to follow a gauge.

    The logarithm of the error is regressed on the logarithm of the gauge. If the error is of the order of the gauge,
    the slope is one. A wrong constant leaves an error that does not fall (slope 0); a wrong rate gives another slope.

    Args:
        gauge: an expression of the running variable that tends to 0, e.g. ``1/n`` or ``1/log(n)``.
        along: values of the running variable, in the direction of the limit; at least six.
        at: values of the other symbols, each combination checked on its own; a mapping or a list of mappings.
        tolerance: how far the slope may be from one, interval included.
        seconds: time limit.
    """

    gauge: sp.Expr
    along: Sequence[Any]
    at: Mapping[sp.Symbol, Any] | Sequence[Mapping[sp.Symbol, Any]] = ()
    tolerance: float = 0.1
    domain: Mapping[sp.Basic, Domain] = field(default_factory=dict)
    dims: Mapping[sp.Symbol, int] = field(default_factory=dict)
    seconds: float = 60.0

    kind = "limit"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Fit the rate or refuse."""
        if len(self.along) < 6:
            raise Refusal("a rate needs at least six values along the sequence")
        relation = setting.unfold(relation)
        target = _target(relation, self.dims)
        cases = [self.at] if isinstance(self.at, Mapping) else list(self.at) or [{}]
        try:
            with time_limit(self.seconds):
                fits = [self._fit(target, dict(case), setting) for case in cases]
        except TimeLimitReached as limit:
            raise Refusal(f"the values took too long ({limit})", advice="a shorter sequence") from None
        slopes = "; ".join(f"{s:.3f} ± {h:.3f}" for s, h in fits)
        low, high = (f"10^{int(mpmath.floor(mpmath.log10(x)))}" for x in (self.along[0], self.along[-1]))
        detail = {
            "gauge": str(self.gauge),
            "from": low,
            "to": high,
            "points": len(self.along),
            "slope": slopes,
            "tolerance": self.tolerance,
        }
        return Finding(
            "asymptotic", f"error falls like ${latex(self.gauge)}$ to the power {slopes} (1 expected)", detail
        )

    def _fit(self, target: _Target, case: dict[sp.Symbol, Any], setting: Setting) -> tuple[float, float]:
        exprs = [target.expr, target.value, sp.sympify(self.gauge)]
        arguments = sampled_symbols(exprs)
        if target.variable not in arguments:
            arguments.append(target.variable)
        missing = [str(a) for a in arguments if a != target.variable and a not in case]
        if missing:
            raise Refusal(f"give values for {', '.join(missing)} with at=")
        f, value, gauge = (compile_expression(e, arguments, setting.functions) for e in exprs)
        fixed: Point = {k: mpmath.mpmathify(sp.sympify(v).evalf(60)) for k, v in case.items()}
        errors, gauges, shown = [], [], None
        with mpmath.workdps(60):
            for x in self.along:
                point = {**fixed, target.variable: mpmath.mpmathify(x)}
                left, right, g = f(point), value(point), gauge(point)
                error = abs(left - right)
                shown = Counterexample(
                    show_point(point), show_number(left, 12), show_number(right, 12), show_number(left - right, 4)
                )
                if any(mpmath.isnan(v) for v in (left, right, g)) or g <= 0:
                    raise Refusal(f"a value along the sequence is undefined, at {show_point(point)}")
                if error == 0:
                    raise Refusal(f"the error vanishes at {show_point(point)}: use exact evidence")
                errors.append(error)
                gauges.append(g)
        slope, half = regression([mpmath.log(g) for g in gauges], [mpmath.log(e) for e in errors])
        where = f" at {', '.join(f'{k} = {v}' for k, v in case.items())}" if case else ""
        if not all(later < earlier for earlier, later in pairwise(errors)):
            raise Refusal(
                f"the error does not fall along the sequence{where} (slope {slope:.3f})", counterexample=shown
            )
        if abs(slope - 1) + half > self.tolerance:
            raise Refusal(
                f"the error follows the gauge {self.gauge} to the power {slope:.3f} ± {half:.3f}{where}, "
                f"not to the power 1 (tolerance {self.tolerance:g})",
                counterexample=shown,
            )
        return slope, half


def regression(x: Sequence[Any], y: Sequence[Any]) -> tuple[float, float]:
    """Slope of a least-squares line and the half-width of its 95 % interval (Student's t).

    >>> regression([0, 1, 2, 3], [1, 3, 5, 7])
    (2.0, 0.0)
    """
    n = len(x)
    mx, my = mpmath.fsum(x) / n, mpmath.fsum(y) / n
    sxx = mpmath.fsum((a - mx) ** 2 for a in x)
    slope = mpmath.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sxx
    residual = mpmath.fsum((b - my - slope * (a - mx)) ** 2 for a, b in zip(x, y, strict=True))
    spread = mpmath.sqrt(abs(residual) / (n - 2) / sxx)
    return float(slope), float(_student(n - 2) * spread)


def _student(freedom: int) -> Any:
    """The 97.5 % quantile of Student's t distribution."""

    def tail(t: Any) -> Any:
        return mpmath.betainc(mpmath.mpf(freedom) / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True) - 0.05

    return mpmath.findroot(tail, (1.5, 15), solver="anderson")


# Taylor's theorem says nothing about functions of these kinds, though SymPy differentiates them.
_KINKS = (sp.Abs, sp.sign, sp.Piecewise, sp.floor, sp.ceiling, sp.Max, sp.Min, sp.Heaviside, sp.Mod, sp.frac)


@dataclass(frozen=True)
class Expansion:
    r"""Check ``f = polynomial + O((x - x0)^k)``: every Taylor coefficient below order k agrees.

    Args:
        dims: sizes at which sums are written out; without it the coefficients are compared for every size.
        seconds: time limit.
    """

    dims: Mapping[sp.Symbol, int] = field(default_factory=dict)
    seconds: float = 60.0

    kind = "series"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Compare the coefficients or refuse."""
        order = relation.rhs.getO()
        if relation.op != "=" or order is None:
            raise Refusal("the evidence 'series' needs eq(f, polynomial + O(x**k))")
        if len(order.variables) != 1:
            raise Refusal("the evidence 'series' takes one variable")
        (x,), (x0,) = order.variables, order.point
        power = order.expr.subs(x, x + x0) if x0.is_finite else 1 / order.expr
        k = sp.sympify(power.as_base_exp()[1])
        if not (k.is_Integer and k > 0 and power == x**k):
            raise Refusal(
                f"the evidence 'series' takes O of a whole power of {x - x0 if x0.is_finite else x}, not {order}"
            )
        unfolded = setting.unfold(relation.with_sides(relation.lhs, relation.rhs.removeO()))
        if self.dims:
            unfolded = unfolded.with_sides(*(explicit(s, self.dims) for s in unfolded.sides))
        gap = unfolded.lhs - unfolded.rhs
        self._look(gap, x, x0, int(k), setting)
        try:
            with time_limit(min(self.seconds, setting.seconds)):
                method = self._coefficients(gap, x, x0, int(k))
        except TimeLimitReached as limit:
            raise Refusal(f"the coefficients took too long ({limit})", advice="give an explicit dimension") from None
        return Finding("proved", method, {"order": int(k)})

    def _coefficients(self, gap: sp.Expr, x: sp.Symbol, x0: sp.Expr, k: int) -> str:
        if x0.is_finite:
            taylor, term = not gap.has(*_KINKS), gap
            everywhere = sp.Dummy(x.name, real=True)
            known = smooth(gap.subs(x, everywhere), everywhere)
            for m in range(k + 1 - known if taylor else 0):
                coefficient = split_sums(term.subs(x, x0)) if term.has(sp.Sum) else term.subs(x, x0).doit()
                if coefficient.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
                    taylor = False
                    break
                if m == k:  # finite: so that the remainder has the order that is claimed
                    break
                if prove_zero(coefficient, self.seconds)[0] is None:
                    raise Refusal(
                        f"the coefficients of order {m} are not shown to agree (difference {sp.simplify(coefficient)})"
                    )
                term = term.diff(x)
            if taylor:
                return f"Taylor coefficients up to order {k - 1}"
        try:
            rest = sp.series(gap, x, x0, k).removeO()
        except SYMPY_FAILURES as error:
            raise Refusal(f"SymPy found no expansion ({error})") from None
        if prove_zero(rest, self.seconds)[0] is None:
            raise Refusal(f"SymPy expands the difference of the sides to {rest}")
        return "series by SymPy"

    def _look(self, gap: sp.Expr, x: sp.Symbol, x0: sp.Expr, k: int, setting: Setting) -> None:
        """Refuse at once when the remainder, divided by the claimed order, grows towards the point."""
        arguments = sampled_symbols([gap])
        if x not in arguments:
            return
        steps = [mpmath.mpf(10) ** -j for j in (3, 9, 27)]
        sides = (1,) if x.is_nonnegative or not x0.is_finite else (1, -1)
        try:
            f = compile_expression(gap, arguments, setting.functions)
            domain = {**setting.domain, x: OneOf(1)}
            drawn = points([gap], seed=setting.step, count=6, domain=domain, dims={**setting.dims, **self.dims})
            for point, side in itertools.product(drawn, sides):
                with mpmath.workdps(30 * k + 90):
                    xs = [x0_value(x0) + side * h if x0.is_finite else 1 / h for h in steps]
                    values = [abs(f({**point, x: v})) for v in xs]
                    sizes = [value / h**k for value, h in zip(values, steps, strict=True)]
                if (
                    any(mpmath.isnan(v) for v in sizes)
                    or sizes[0] == 0
                    or values[-1] < mpmath.mpf(10) ** (-30 * k - 60)
                ):
                    continue
                if sizes[1] > 2 * sizes[0] and sizes[2] > 2 * sizes[1]:
                    shown = {**show_point(point), str(x): mpmath.nstr(xs[-1], 3)}
                    claimed = f"O({mpmath.nstr(steps[-1] ** k, 3)})"
                    raise Refusal(
                        f"the remainder is larger than order {k}",
                        counterexample=Counterexample(
                            shown, show_number(values[-1], 6), claimed, show_number(values[-1], 4)
                        ),
                    )
        except NotEvaluable:
            return


def x0_value(x0: sp.Expr) -> Any:
    """The point of an expansion as an mpmath number."""
    return mpmath.mpmathify(x0.evalf(80))


def vanishes(one: Relation, other: Relation, evidence: Any, setting: Setting) -> bool:
    """Whether two expressions under the same limit come together: their difference falls to nothing along a sequence.

    For ``~`` the two quotients are compared. This looks at values only, on a sequence of its own.
    """
    sizes = getattr(evidence, "dims", {})
    a, b = (_target(setting.unfold(r), sizes) for r in (one, other))
    arguments = sampled_symbols([a.expr, b.expr])
    if a.variable not in arguments:
        arguments.append(a.variable)
    cases = [evidence.at] if isinstance(getattr(evidence, "at", ()), Mapping) else list(getattr(evidence, "at", ()))
    fixed = {k: OneOf(v) for k, v in (cases[0] if cases else {}).items()}
    try:
        f, g = (compile_expression(e, arguments, setting.functions) for e in (a.expr, b.expr))
        drawn = points(
            [a.expr, b.expr],
            seed=f"{setting.step} vanishes",
            count=3,
            domain={**setting.domain, **fixed, a.variable: OneOf(1)},
            dims=setting.dims,
            where=setting.where,
        )
        for point in drawn:
            with mpmath.workdps(200):
                gaps = [abs(f({**point, a.variable: x}) - g({**point, a.variable: x})) for x in _approach(a)]
            if any(mpmath.isnan(gap) for gap in gaps):
                return False
            if not all(later <= earlier for earlier, later in pairwise(gaps[1:])):
                return False
            if gaps[-1] > mpmath.mpf("0.05") and gaps[-1] > gaps[1] / 3:
                return False
    except NotEvaluable:
        return False
    return True


def limit_evidence(**options: Any) -> LimitBySymPy | Rate:
    """Choose the evidence for a limit: a rate if a gauge is given, SymPy's limit otherwise."""
    return Rate(**options) if "gauge" in options else LimitBySymPy(**options)


__all__ = ["Expansion", "LimitBySymPy", "Rate", "limit_evidence", "regression", "vanishes"]

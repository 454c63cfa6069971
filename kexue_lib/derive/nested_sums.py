"""Finite sums over rectangles: their order does not matter, and products of sums are sums of products."""

from __future__ import annotations

import itertools

import sympy as sp

__all__ = ["reorder_sums"]

_MOST_TERMS = 400  # beyond that, products of sums are not written out
_MOST_INDICES = 5  # of one connected sum: all their orders are compared
_MOST_POWER = 4

Limit = tuple[sp.Symbol, sp.Expr, sp.Expr]


class _TooLargeError(ValueError):
    pass


def reorder_sums(expr: sp.Expr) -> sp.Expr:
    r"""Write an expression as a polynomial in sums that have no sum inside and cannot be split any further.

    Sums inside sums are merged where their limits do not depend on each other, products and small powers of sums become
    sums of products, every term is split into the parts that share no index, and each part gets one name, whatever its
    indices are called and in whatever order they are summed. So two expressions that differ by the order of finite
    sums (the discrete Fubini theorem) or by the distributive law become equal.

    >>> m, n, i, j = sp.symbols("m n i j", integer=True, positive=True)
    >>> a = sp.IndexedBase("a", shape=(m, n), real=True)
    >>> rows = sp.Sum(sp.Sum(a[i, j], (j, 1, n)), (i, 1, m))
    >>> reorder_sums(rows - sp.Sum(a[j, i], (i, 1, n), (j, 1, m)))
    0
    """
    names: dict[sp.Basic, sp.Expr] = {}
    try:
        return sp.expand(sp.Add(*(_named(term, limits, names) for term, limits in _flat(sp.expand(expr)))))
    except _TooLargeError:
        return expr


def _rectangular(total: sp.Sum) -> bool:
    indices = {limit[0] for limit in total.limits}
    ends = [end for limit in total.limits for end in limit[1:]]
    return all(len(limit) == 3 for limit in total.limits) and not any(
        end.is_infinite or end.free_symbols & indices for end in ends
    )


def _flat(expr: sp.Expr) -> list[tuple[sp.Expr, tuple[Limit, ...]]]:
    """The expression as a list of terms, each a product without sums under its limits."""
    found: list[tuple[sp.Expr, tuple[Limit, ...]]] = []
    for term in sp.Add.make_args(sp.expand(expr)):
        parts: list[tuple[sp.Expr, tuple[Limit, ...]]] = [(sp.Integer(1), ())]
        for factor in sp.Mul.make_args(term):
            for one in _repeated(factor):
                new = _opened(one)
                if len(parts) * len(new) + len(found) > _MOST_TERMS:
                    raise _TooLargeError
                parts = [(a * b, (*limits, *more)) for (a, limits), (b, more) in itertools.product(parts, new)]
        found += parts
    return found


def _repeated(factor: sp.Expr) -> list[sp.Expr]:
    small = isinstance(factor, sp.Pow) and factor.exp.is_Integer and 1 < int(factor.exp) <= _MOST_POWER
    return [factor.base] * int(factor.exp) if small and factor.base.has(sp.Sum) else [factor]


def _opened(factor: sp.Expr) -> list[tuple[sp.Expr, tuple[Limit, ...]]]:
    """The terms of a sum, with fresh indices; anything else stays one factor."""
    if isinstance(factor, sp.Add) and factor.has(sp.Sum):
        return _flat(factor)
    if not isinstance(factor, sp.Sum) or not _rectangular(factor):
        return [(factor, ())]
    fresh = {limit[0]: sp.Dummy(limit[0].name, **limit[0].assumptions0) for limit in factor.limits}
    limits = tuple((fresh[index], low, high) for index, low, high in factor.limits)
    inner = _flat(factor.function.subs(fresh, simultaneous=True))
    own = set(fresh.values())
    if any(end.free_symbols & own for _, more in inner for limit in more for end in limit[1:]):
        return [(factor, ())]  # a triangle: its order matters
    return [(body, (*more, *limits)) for body, more in inner]


def _named(term: sp.Expr, limits: tuple[Limit, ...], names: dict[sp.Basic, sp.Expr]) -> sp.Expr:
    """The product of the parts of a term that share no index, each by its name."""
    result, left = sp.Integer(1), list(sp.Mul.make_args(sp.expand_power_exp(term)))
    waiting = list(limits)
    while waiting:
        indices, body = {waiting[0][0]}, []
        grows = True
        while grows:
            new = [f for f in left if f.free_symbols & indices]
            grows = bool(new)
            body += new
            left = [f for f in left if not f.free_symbols & indices]
            indices |= {limit[0] for limit in waiting for f in new if limit[0] in f.free_symbols}
        part = [limit for limit in waiting if limit[0] in indices]
        waiting = [limit for limit in waiting if limit[0] not in indices]
        if not body:
            ((_, low, high),) = part
            if not (high - low + 1).is_nonnegative:
                raise _TooLargeError  # an empty sum with crossed limits: leave it alone
            result *= high - low + 1
        else:
            result *= names.setdefault(_canonical(sp.Mul(*body), part), sp.Dummy("S"))
    return result * sp.Mul(*left)


def _canonical(body: sp.Expr, limits: list[Limit]) -> sp.Basic:
    """The same for all names and orders of the indices."""
    if len(limits) > _MOST_INDICES:
        raise _TooLargeError
    ranges = sorted({limit[1:] for limit in limits}, key=sp.default_sort_key)
    forms = []
    for order in itertools.permutations(limits):
        if [ranges.index(limit[1:]) for limit in order] != sorted(ranges.index(limit[1:]) for limit in order):
            continue
        places = {limit[0]: sp.Symbol(f"_{k}", **limit[0].assumptions0) for k, limit in enumerate(order)}
        key = sp.Tuple(body.xreplace(places), *(sp.Tuple(places[i], low, high) for i, low, high in order))
        forms.append(key)
    return min(forms, key=sp.default_sort_key)

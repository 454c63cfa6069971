"""Finite sums over rectangles may be summed in any order, and multiplied out; nothing else may."""

from __future__ import annotations

import pytest
import sympy as sp
from sympy import Sum, exp

from kexue_lib.derive import Derivation, DerivationError, eq
from kexue_lib.derive.nested_sums import reorder_sums
from kexue_lib.derive.prove import evaluate

n, d, i, j, k, m = sp.symbols("n d i j k m", integer=True, positive=True)
a = sp.IndexedBase("a", shape=(n,), nonnegative=True)
g = sp.IndexedBase("g", shape=(n, d), real=True)
v = sp.IndexedBase("v", shape=(d,), real=True)
w = sp.IndexedBase("w", shape=(d,), real=True)


def tasks(term: sp.Expr, index: sp.Symbol = i) -> sp.Expr:
    return Sum(term, (index, 1, n))


def places(term: sp.Expr, index: sp.Symbol = k) -> sp.Expr:
    return Sum(term, (index, 1, d))


TRUE = {
    "mean of inner products": (tasks(a[i] * places(g[i, k] * v[k])), places(v[k] * tasks(a[i] * g[i, k]))),
    "inner product with a mean": (
        places(g[i, k] * tasks(a[j] * g[j, k], j)),
        tasks(a[j] * places(g[i, k] * g[j, k]), j),
    ),
    "square of a norm of a mean": (
        places(tasks(a[i] * g[i, k]) ** 2),
        tasks(tasks(a[i] * a[j] * places(g[i, k] * g[j, k]), j)),
    ),
    "the names of indices do not matter": (tasks(tasks(a[i] * a[j] ** 2, j)), tasks(tasks(a[i] ** 2 * a[j], j))),
    "Lagrange's identity": (
        places(v[k] ** 2) * places(w[k] ** 2) - places(v[k] * w[k]) ** 2,
        places(places((v[k] * w[m] - v[m] * w[k]) ** 2, m)) / 2,
    ),
    "a constant counts its terms": (tasks(places(v[k])), n * places(v[k])),
    "exponentials split": (tasks(exp(a[i] + places(v[k]))), exp(places(v[k])) * tasks(exp(a[i]))),
}
FALSE = {
    "one task too many": (tasks(a[i] * places(g[i, k] * v[k])), places(v[k] * tasks(a[j] * g[i, k], j))),
    "square of a sum": (places(v[k]) ** 2, places(v[k] ** 2)),
    "half of Lagrange": (
        places(v[k] ** 2) * places(w[k] ** 2) - places(v[k] * w[k]) ** 2,
        places(places((v[k] * w[m] - v[m] * w[k]) ** 2, m)),
    ),
    "another factor": (tasks(places(v[k])), d * places(v[k])),
}


@pytest.mark.parametrize("name", TRUE)
def test_true_for_all_sizes(name: str) -> None:
    step = Derivation("sums").exact("D1", eq(*TRUE[name]))
    assert step.status == "proved"
    assert "n = " not in str(step)  # for every size, not for some


@pytest.mark.parametrize("name", FALSE)
def test_false_ones_are_refused(name: str) -> None:
    assert reorder_sums(FALSE[name][0] - FALSE[name][1]) != 0
    with pytest.raises(DerivationError):
        Derivation("sums").exact("D1", eq(*FALSE[name]))


def test_a_triangle_keeps_its_order() -> None:
    x = sp.IndexedBase("x", real=True)
    lower = Sum(Sum(x[i, j], (j, 1, i)), (i, 1, n))
    square = Sum(Sum(x[i, j], (i, 1, n)), (j, 1, n))
    assert reorder_sums(lower - square) != 0
    assert reorder_sums(lower - Sum(Sum(x[j, i], (j, 1, i)), (i, 1, n))) != 0
    assert reorder_sums(lower - lower) == 0


def test_infinite_sums_are_left_alone() -> None:
    x = sp.IndexedBase("x", real=True)
    there = Sum(Sum(x[i, j], (j, 1, sp.oo)), (i, 1, sp.oo))
    back = Sum(Sum(x[i, j], (i, 1, sp.oo)), (j, 1, sp.oo))
    assert reorder_sums(there - back) != 0
    assert reorder_sums(Sum(x[i, i], (i, 1, sp.oo)) ** 2) == sp.expand(Sum(x[i, i], (i, 1, sp.oo)) ** 2)


def test_a_product_of_many_sums_is_left_alone() -> None:
    x = [sp.IndexedBase(f"x{q}", shape=(n,), real=True) for q in range(12)]
    large = sp.Mul(*(1 + tasks(y[i]) for y in x))
    assert reorder_sums(large) == large


def test_what_an_outer_sum_or_integral_binds_is_not_taken_for_a_constant() -> None:
    """`evaluate` gives sums over vectors a name; it must not hide an index or a variable that is bound outside."""
    t = sp.Symbol("t", positive=True)
    inner = tasks(a[i] * g[i, k])
    assert evaluate(places(inner**2)) == places(inner**2)
    moving = sp.Integral(tasks(exp(a[i] * t)), (t, 0, 1))
    assert evaluate(moving) == moving
    assert evaluate(sp.Integral(t * tasks(a[i]), (t, 0, 1))) == tasks(a[i]) / 2
    with pytest.raises(DerivationError):
        Derivation("sums").exact("D1", eq(places(inner**2), d * tasks(a[i] * g[i, 1]) ** 2), dims={n: 2, d: 2})

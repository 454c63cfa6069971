"""Names with two indices, A[i, j]: sampled as matrices, written out, summed, differentiated, defined like vectors."""

from __future__ import annotations

import pytest
import sympy as sp
from sympy import Derivative, Sum, exp, log

from kexue_lib.derive import Derivation, DerivationError, eq
from kexue_lib.derive.audit import audit
from kexue_lib.derive.domains import Interval, Matrix, Positive, Real, default_domain

k, n, i, j, t = sp.symbols("k n i j t", integer=True, positive=True)
A = sp.IndexedBase("A", shape=(k, n), real=True)
P = sp.IndexedBase("P", shape=(n, n), positive=True)
r = sp.IndexedBase("r", shape=(k,), real=True)


def over(index: sp.Symbol, size: sp.Symbol, term: sp.Expr) -> sp.Expr:
    return Sum(term, (index, 1, size))


def test_the_default_is_a_matrix_with_the_entries_that_the_assumptions_allow() -> None:
    assert default_domain(A) == Matrix(k, n, Real())
    assert default_domain(P) == Matrix(n, n, Positive())
    assert all(x > 0 for corner in Matrix(n, n, Positive()).corners({n: 2}) for row in corner for x in row)
    with pytest.raises(DerivationError, match=r"declare IndexedBase\('B', shape=\(n,\), real=True\) for a vector"):
        default_domain(sp.IndexedBase("B"))


@pytest.mark.parametrize("dims", [{k: (1, 2, 3), n: (2, 4)}, {k: 2, n: 3}])
def test_the_order_of_two_sums_does_not_matter(dims: dict) -> None:
    d = Derivation("two")
    step = d.exact("D1", eq(over(i, k, over(j, n, A[i, j])), over(j, n, over(i, k, A[i, j]))), dims=dims)
    assert step.status == "proved"


def test_rows_and_columns_are_not_confused() -> None:
    """Sampling has to see A[i, j] and not A[j, i]: a wrong relation between them is refused, with both indices."""
    square = sp.IndexedBase("S", shape=(n, n), real=True)
    d = Derivation("two")
    with pytest.raises(DerivationError, match="S"):
        d.numeric("D1", eq(square[1, 2], square[2, 1]), dims={n: (2, 3)})
    with pytest.raises(DerivationError):
        d.numeric("D2", eq(over(j, n, A[1, j]), over(j, k, A[1, j])), dims={k: 2, n: 3})
    # an index beyond the first axis is free to run over the second
    step = d.numeric("D3", eq(over(j, n, A[1, j] - A[1, n + 1 - j]), 0), dims={k: 2, n: 5})
    assert step.status == "sampled"


def test_free_indices_run_over_their_own_axes() -> None:
    d = Derivation("two")
    step = d.exact("D1", eq(exp(A[i, j] + r[i]) / exp(r[i]), exp(A[i, j])), dims={k: 2, n: 3})
    assert step.status == "proved"
    step = d.numeric("D2", eq(log(exp(A[i, j])), A[i, j]), dims={k: 2, n: 3})
    assert step.status == "sampled"


def test_a_definition_with_two_indices_is_unfolded() -> None:
    d = Derivation("two")
    w = sp.IndexedBase("w", shape=(k, n), positive=True)
    d.define("D1", eq(w[i, j], exp(A[i, j]) / over(t, n, exp(A[i, t]))))
    step = d.exact("D2", eq(over(j, n, w[i, j]), 1), dims={k: 2, n: (2, 3)}, uses=["D1"])
    assert step.status == "proved"
    with pytest.raises(DerivationError):
        d.exact("D3", eq(over(i, k, w[i, j]), 1), dims={k: 2, n: 2})


def test_the_derivative_by_an_entry_is_that_entrys() -> None:
    d = Derivation("two", domain={A: Matrix(k, n, Interval(-2, 2))})
    total = log(over(i, k, over(j, n, exp(A[i, j]))))
    d.exact("D1", eq(Derivative(total, A[1, 2]), exp(A[1, 2] - total)), dims={k: 2, n: 2})
    assert d.autograd("D2", eq(Derivative(total, A[1, 2]), exp(A[1, 2] - total)), dims={k: 2, n: 2}).status == "sampled"
    with pytest.raises(DerivationError):
        d.autograd("D3", eq(Derivative(total, A[1, 2]), exp(A[2, 1] - total)), dims={k: 2, n: 2})


def test_mutants_of_relations_with_two_indices_die() -> None:
    d = Derivation("two")
    d.exact(
        "D1", eq(over(i, k, over(j, n, A[i, j] + r[i])), over(i, k, n * r[i] + over(j, n, A[i, j]))), dims={k: 2, n: 3}
    )
    report = audit(d)
    assert report.survived == 0
    assert report.killed > 0


def test_a_mutant_that_makes_an_index_a_length_is_refused_not_an_error() -> None:
    c, s, x = sp.symbols("c s x", integer=True, positive=True)
    a = sp.IndexedBase("a", shape=(c,), real=True)
    d = Derivation("delta")
    d.exact("D1", eq(exp(a[x]), Sum(sp.KroneckerDelta(x, s) * exp(a[s]), (s, 1, c))), dims={c: (2, 3)})
    report = audit(d)
    assert report.survived == 0


def test_a_mutant_on_which_sympy_stops_iterating_is_undecided_not_an_error() -> None:
    p, s = sp.IndexedBase("p", shape=(n,), positive=True), sp.IndexedBase("s", shape=(n,), real=True)
    lq, lk = sp.symbols("l_q l_k", positive=True)
    d = Derivation("softmax")
    d.define("D1", eq(p[i], exp(lq * lk * s[i]) / Sum(exp(lq * lk * s[j]), (j, 1, n))))
    d.exact("D2", eq(Derivative(p[i], lq), lk * p[i] * (s[i] - Sum(p[j] * s[j], (j, 1, n)))))
    report = audit(d)
    assert report.survived == 0
    assert report.killed > 0

"""Derivatives by matrices: SymPy's silent zeros are refused, directional derivatives are proved."""

from __future__ import annotations

import pytest
import sympy as sp

from kexue_lib.derive import Derivation, DerivationError, StepRefuted, eq

eps = sp.Symbol("epsilon", real=True)


def entries(name: str, size: int) -> sp.Matrix:
    return sp.Matrix(size, size, lambda i, j: sp.Symbol(f"{name}_{i + 1}{j + 1}", real=True))


def along(f: sp.Expr) -> sp.Expr:
    """d/dε at ε = 0, left for the engine to compute."""
    return sp.Subs(sp.Derivative(f, eps), eps, 0)


def log_det(size: int) -> tuple[sp.Expr, sp.Matrix, sp.Matrix]:
    a, h = entries("a", size), entries("h", size)
    return along(sp.log((a + eps * h).det(method="berkowitz"))), a, h


def norm(size: int) -> tuple[sp.Expr, sp.Matrix, sp.Matrix]:
    a, h = entries("a", size), entries("h", size)
    moved = a + eps * h
    return along((moved.T * moved).trace()), a, h


def inverse(a: sp.Matrix) -> sp.Matrix:
    return a.adjugate() / a.det(method="berkowitz")


@pytest.mark.skipif(not sp.__version__.startswith("1.14."), reason="what this release of SymPy does")
def test_sympy_returns_silent_zeros() -> None:
    # the reason for the ban
    a, b = sp.MatrixSymbol("A", 2, 2), sp.MatrixSymbol("B", 2, 2)
    assert str((sp.Trace(a.T * a) + sp.Trace(b.T * b)).diff(a)) == "0"
    assert str(sp.log(sp.Determinant(a)).diff(a)) == "0"


@pytest.mark.parametrize("size", [2, 3])
def test_the_silent_zero_of_log_det_is_refused(size: int) -> None:
    left, _, _ = log_det(size)
    with pytest.raises(StepRefuted):
        Derivation("matrix").exact("D1", eq(left, 0))


@pytest.mark.parametrize("size", [2, 3])
def test_the_silent_zero_of_a_sum_of_traces_is_refused(size: int) -> None:
    left, _, _ = norm(size)
    b = entries("b", size)
    with pytest.raises(StepRefuted):
        Derivation("matrix").exact("D1", eq(left + along((b.T * b).trace()), 0))


def test_the_differential_of_log_det_is_proved() -> None:
    left, a, h = log_det(2)
    step = Derivation("matrix").exact("D1", eq(left, (inverse(a) * h).trace()))
    assert step.proved


def test_the_differential_of_the_squared_norm_is_proved() -> None:
    for size in (2, 3):
        left, a, h = norm(size)
        assert Derivation("matrix").exact("D1", eq(left, 2 * (a.T * h).trace())).proved


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, h: -(inverse(a) * h).trace(),
        lambda a, h: 2 * (inverse(a) * h).trace(),
        lambda a, h: (inverse(a).T * h).trace(),
        lambda a, h: (a * h).trace(),
    ],
    ids=["sign", "factor", "transpose", "inverse"],
)
def test_mutants_of_the_differential_of_log_det_are_refused(wrong: object) -> None:
    left, a, h = log_det(2)
    with pytest.raises(StepRefuted) as caught:
        Derivation("matrix").exact("D1", eq(left, wrong(a, h)))  # type: ignore[operator]
    assert caught.value.counterexample is not None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, h: -2 * (a.T * h).trace(),
        lambda a, h: (a.T * h).trace(),
        lambda a, h: 2 * (a * h).trace(),
        lambda a, h: 2 * (h.T * h).trace(),
    ],
    ids=["sign", "factor", "transpose", "symbols"],
)
def test_mutants_of_the_differential_of_the_norm_are_refused(wrong: object) -> None:
    left, a, h = norm(2)
    with pytest.raises(StepRefuted):
        Derivation("matrix").exact("D1", eq(left, wrong(a, h)))  # type: ignore[operator]


def test_a_derivative_by_a_matrix_symbol_is_refused_with_the_reason() -> None:
    a = sp.MatrixSymbol("A", 2, 2)
    with pytest.raises(DerivationError, match="by a matrix: SymPy returns wrong zeros"):
        eq(sp.Derivative(sp.log(sp.Determinant(a)), a), 0)
    with pytest.raises(DerivationError, match="on explicit matrices"):
        eq(sp.Trace(a), sp.Trace(a)).differentiate(a)


def test_a_matrix_is_no_side_of_a_relation() -> None:
    a = sp.MatrixSymbol("A", 2, 2)
    with pytest.raises(DerivationError, match="is a number"):
        eq(a, a)
    with pytest.raises(DerivationError, match="is a number"):
        eq(sp.eye(2), sp.eye(2))


def test_matrix_symbols_are_written_out() -> None:
    n = sp.Symbol("n", integer=True, positive=True)
    a, b = sp.MatrixSymbol("A", n, n), sp.MatrixSymbol("B", n, n)
    step = Derivation("matrix").exact("D1", eq(sp.Trace(a * b), sp.Trace(b * a)), dims={n: (2, 3)})
    assert step.status == "proved"
    assert step.sized
    with pytest.raises(StepRefuted):
        Derivation("matrix").exact("D1", eq(sp.Trace(a * b), sp.Trace(a * b.T)), dims={n: 2})

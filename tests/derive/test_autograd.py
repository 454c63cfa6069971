"""Gradient identities by torch.autograd: SymPy does not do the work that is being checked."""

from __future__ import annotations

import pytest
import sympy as sp
from sympy import Derivative, Max, Sum, cos, exp, log, sin, sqrt, tanh

from kexue_lib.derive import Derivation, Interval, StepRefuted, StepUndecided, eq, ge

pytest.importorskip("torch")

x, y = sp.symbols("x y", real=True)
p, lam = sp.symbols("p lambda", positive=True)
n, i, k = sp.symbols("n i k", integer=True, positive=True)
s = sp.IndexedBase("s", shape=(n,), real=True)


def autograd(relation: object, **options: object) -> object:
    return Derivation("autograd").autograd("D1", relation, **options)


@pytest.mark.parametrize(
    "relation",
    [
        eq(Derivative(x**2 * sin(y), x), 2 * x * sin(y)),
        eq(Derivative(x**3, x, x), 6 * x),
        eq(Derivative(x**2 * y**2, x, y), 4 * x * y),
        eq(Derivative(log(1 + exp(x)), x), 1 / (1 + exp(-x))),
        eq(Derivative(tanh(x), x) + tanh(x) ** 2, 1),
        eq(Derivative(Max(x, 0), x) * x, Max(x, 0)),
        eq(Derivative(sqrt(p), p), 1 / (2 * sqrt(p))),
        eq(Derivative(sp.erf(x), x), 2 * exp(-(x**2)) / sqrt(sp.pi)),
    ],
    ids=str,
)
def test_a_true_gradient_is_sampled(relation: object) -> None:
    step = autograd(relation)
    assert step.status == "sampled"
    assert step.kind == "numeric"
    record = step.record()
    assert record["detail"]["points"] == 50
    assert record["measured"]["worst relative error"] < 1e-9


@pytest.mark.parametrize(
    "relation",
    [
        eq(Derivative(x**2 * sin(y), x), 2 * x * cos(y)),
        eq(Derivative(x**3, x, x), 3 * x**2),
        eq(Derivative(log(1 + exp(x)), x), exp(-x) / (1 + exp(-x))),
        eq(Derivative(tanh(x), x), 1 - tanh(x)),
        eq(Derivative(sqrt(p), p), 1 / sqrt(p)),
    ],
    ids=str,
)
def test_a_false_gradient_is_refuted_with_a_point(relation: object) -> None:
    with pytest.raises(StepRefuted, match="autograd gives another value") as caught:
        autograd(relation)
    assert caught.value.counterexample is not None
    assert caught.value.counterexample.point


def test_the_gradient_of_the_entropy_of_a_softmax() -> None:
    weights = exp(lam * s[i]) / Sum(exp(lam * s[k]), (k, 1, n))
    entropy = -Sum(weights * log(weights), (i, 1, n))
    first = weights.subs(i, 1)
    right = -lam * first * (log(first) + entropy)
    step = autograd(eq(Derivative(entropy, s[1]), right), dims={n: 4}, domain={lam: Interval(0.1, 3)})
    assert step.status == "sampled"
    assert step.record()["dims"] == {"n": [4]}
    with pytest.raises(StepRefuted):
        autograd(eq(Derivative(entropy, s[1]), -lam * first * (log(first) - entropy)), dims={n: 4})


def test_several_sizes_are_tried_in_turn() -> None:
    step = autograd(eq(Derivative(Sum(s[i] ** 2, (i, 1, n)), s[1]), 2 * s[1]), dims={n: (2, 5)}, points=10)
    assert step.record()["detail"]["points"] == 20


def test_what_autograd_cannot_check_is_refused() -> None:
    with pytest.raises(StepUndecided, match="no Derivative"):
        autograd(eq(x, x))
    with pytest.raises(StepUndecided, match="equation"):
        autograd(ge(Derivative(x**2, x), x))


def test_undefined_values_are_no_agreement() -> None:
    with pytest.raises(StepUndecided, match="undefined at every point"):
        autograd(eq(Derivative(sqrt(p), p), 1 / (2 * sqrt(p))), domain={p: Interval(-2, -1)})
    with pytest.raises(StepRefuted):
        autograd(eq(Derivative(sqrt(p), p), p), domain={p: Interval(-2, -1)})


def test_the_same_points_every_time() -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(StepRefuted) as caught:
            autograd(eq(Derivative(sin(x), x), sin(x)))
        messages.add(str(caught.value))
    assert len(messages) == 1

"""kexue_lib.min_norm: the optimality conditions, parity with plain form and peers, the iterations and their rates."""

from __future__ import annotations

import doctest
import importlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import assert_close

import kexue_lib.min_norm as M

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64
SIZES = (1, 2, 3, 5, 8, 9, 13, 32)


def vectors(n, d, *, batch=(), seed=0, spread=1.0, shift=0.0):
    """Vectors whose lengths differ by factors of about exp(spread)."""
    g = randn_(*batch, n, d, seed=seed) + shift
    return g * torch.exp(spread * randn_(*batch, n, 1, seed=seed + 1))


def assert_optimal(g, weights, bound=1e-9):
    """On the simplex, and <g_i, u> >= |u|^2: by convexity this is the solution (D4). Relative to the lengths."""
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), rtol=0, atol=1e-12)
    u = (weights[..., None, :] @ g)[..., 0, :]
    square = u.square().sum(-1, keepdim=True)
    lengths = g.norm(dim=-1)
    served = (g @ u[..., None])[..., 0]
    assert (square - served <= bound * lengths * (weights * lengths).sum(-1, keepdim=True)).all()


# --- exact weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 5, 40])
@pytest.mark.parametrize(
    ("n", "solver"), [(n, solver) for n, solver in product(SIZES, M.SOLVERS) if n <= 9 or solver != "faces"]
)
def test_weights_are_optimal(n, d, solver):  # D4 (i)
    for seed, spread, shift in product(range(3), (0.3, 3.0), (0.0, 0.7)):
        g = vectors(n, d, batch=(2,), seed=seed, spread=spread, shift=shift)
        before = (gram := g @ g.mT).clone()
        assert_optimal(g, M.min_norm_weights(gram, solver))
        assert torch.equal(gram, before)


@pytest.mark.parametrize("solver", M.SOLVERS)
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_weights_equal_their_plain_form(n, solver):
    for seed in range(6):
        g = vectors(n, 7, batch=(2, 2), seed=seed, shift=0.5 * (seed % 2))
        gram = g @ g.mT
        want = M.min_norm_weights_plain(gram)
        torch.testing.assert_close(M.min_norm_weights(gram, solver), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [2, 4, 8, 12, 32, 64])
def test_weights_equal_nonnegative_least_squares(n):
    # min |sum x_i g_i|^2 + c^2 (sum x_i - 1)^2 over x >= 0 has the solution x proportional to the weights.
    nnls = importlib.import_module("scipy.optimize").nnls
    for seed in range(3):
        g = vectors(n, n + 5, seed=seed, shift=0.4).cpu()
        c = float(g.norm(dim=-1).min())
        x, _ = nnls(np.vstack([g.T.numpy(), np.full((1, n), c)]), np.append(np.zeros(n + 5), c))
        want = torch.from_numpy(x / x.sum()).to(DEVICE)
        torch.testing.assert_close(M.min_norm_weights((g @ g.T).to(DEVICE)), want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_weights_agree_with_torchjd_in_its_tight_setting(n):
    mgda = importlib.import_module("torchjd.aggregation").MGDA(epsilon=1e-9, max_iters=20000)
    for seed in range(3):
        g = vectors(n, 300, seed=seed, spread=0.1).cpu()  # all tasks are active: its line search converges quickly
        assert_close("u", mgda(g), M.min_norm_weights(g @ g.T) @ g, 1e-7)


def test_no_weights_of_torchjd_give_a_shorter_vector():
    mgda = importlib.import_module("torchjd.aggregation").MGDA()
    for seed in range(20):
        g = vectors(4, 10, seed=seed, spread=0.7).cpu()
        assert float((M.min_norm_weights(g @ g.T) @ g).norm()) <= float(mgda(g).norm()) * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(2, 10),
    d=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    twins=st.booleans(),
    zero=st.booleans(),
    spread=st.sampled_from([0.0, 2.0, 8.0]),
)
def test_weights_are_optimal_also_for_dependent_twin_and_zero_vectors(n, d, seed, twins, zero, spread):
    g = vectors(n, d, seed=seed, spread=spread)
    if twins:
        g[-1] = g[0]
    if zero:
        g[n // 2] = 0
    for solver in ("auto", "active_set"):
        weights = M.min_norm_weights(g @ g.mT, solver)
        if zero:
            assert float((weights @ g).norm()) <= 1e-9 * float(g.norm(dim=-1).max())
        else:
            assert_optimal(g, weights, bound=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), factor=st.floats(1e-100, 1e100))
def test_weights_do_not_depend_on_a_common_unit_or_on_the_order(seed, n, factor):
    g = vectors(n, 12, seed=seed)
    gram = g @ g.mT
    weights = M.min_norm_weights(gram)
    torch.testing.assert_close(M.min_norm_weights(gram * factor), weights, rtol=0, atol=1e-10)
    back = torch.arange(n - 1, -1, -1, device=DEVICE)
    torch.testing.assert_close(M.min_norm_weights(gram[back][:, back])[back], weights, rtol=0, atol=1e-10)


def test_short_vectors_are_not_drowned_by_long_ones():
    # Two tasks a million times smaller than a third one: their weights are those of the two alone.
    g = torch.tensor([[1e-6, 0, 0], [0, 2e-6, 0], [0.5, 0.5, 1.0]], dtype=F64, device=DEVICE)
    want = torch.tensor([0.8, 0.2, 0.0], dtype=F64, device=DEVICE)
    for solver in M.SOLVERS:
        torch.testing.assert_close(M.min_norm_weights(g @ g.T, solver), want, rtol=0, atol=1e-9)


def test_two_tasks_have_the_closed_form():  # D4
    for p, q, r, want in ((4, 1, 0, 0.2), (1, 5, 2, 1.0), (5, 1, 2, 0.0), (1, 1, -1, 0.5), (1, 1, 1, 0.5)):
        gram = torch.tensor([[p, r], [r, q]], dtype=F64, device=DEVICE)
        assert M.min_norm_weights(gram).tolist() == pytest.approx([want, 1 - want], abs=1e-15)


def test_all_zero_gradients_get_equal_weights():
    for n, solver in product((1, 2, 4, 9), M.SOLVERS):
        if solver == "faces" and n > 8:
            continue
        gram = torch.zeros(3, n, n, dtype=F64, device=DEVICE)
        torch.testing.assert_close(M.min_norm_weights(gram, solver), torch.full((3, n), 1 / n, dtype=F64).to(DEVICE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_are_computed_in_float64_whatever_the_dtype(dtype):
    gram = (g := vectors(4, 9)) @ g.mT
    got = M.min_norm_weights(gram.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got, M.min_norm_weights(gram.to(dtype).double()).to(dtype))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        torch.testing.assert_close(M.min_norm_weights(gram), M.min_norm_weights(gram), rtol=0, atol=0)
        assert M.min_norm_weights(gram).dtype == F64


@pytest.mark.parametrize(("n", "solver"), [(2, "auto"), (4, "auto"), (4, "active_set"), (9, "auto")])
def test_the_derivative_is_that_of_the_solution(n, solver):
    g = vectors(n, n + 3, seed=3, spread=0.3)
    gram = (g @ g.mT).requires_grad_()
    weights = M.min_norm_weights(gram, solver)
    assert n == 2 or float(weights.detach()[weights > 0].min()) > 1e-4  # away from a change of the face

    def f(k):
        return M.min_norm_weights((k + k.mT) / 2, solver)

    assert torch.autograd.gradcheck(f, (gram.detach().requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 6])
def test_weights_compile_without_a_break(n):
    gram = (g := vectors(n, 9, batch=(2,))) @ g.mT
    compiled = torch.compile(M.min_norm_weights, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(gram), M.min_norm_weights(gram), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: M.min_norm_weights(torch.ones(2, 3)), ValueError, r"\(2, 3\)"),
        (lambda: M.min_norm_weights(torch.ones(0, 0)), ValueError, r"\(0, 0\)"),
        (lambda: M.min_norm_weights([[1.0]]), TypeError, "list"),
        (lambda: M.min_norm_weights(torch.eye(2, dtype=torch.int64)), TypeError, "int64"),
        (lambda: M.min_norm_weights(torch.eye(2), "simplex"), ValueError, "'simplex'.*'faces'"),
        (lambda: M.min_norm_weights(torch.eye(13), "faces"), ValueError, "2.13"),
        (lambda: M.min_norm_weights(torch.eye(2), tol=0), ValueError, "tol=0"),
        (lambda: M.min_norm_weights(torch.eye(2), max_iter=0), ValueError, "max_iter=0"),
        (lambda: M.min_norm_point(torch.ones(3)), ValueError, r"\(3,\)"),
        (lambda: M.min_norm_point(torch.ones(3, 0)), ValueError, r"\(3, 0\)"),
        (lambda: M.min_norm_point(np.ones((2, 2))), TypeError, "ndarray"),
        (lambda: M.min_norm_point(torch.ones(2, 2, dtype=torch.int32)), TypeError, "int32"),
        (lambda: M.frank_wolfe(torch.eye(2), 3, "exact"), ValueError, "'exact'.*'line'"),
        (lambda: M.frank_wolfe(torch.eye(2), -1), ValueError, "steps=-1"),
        (lambda: M.frank_wolfe(torch.eye(2), 3, start=2), ValueError, "start=2.*0 … 1"),
        (lambda: M.frank_wolfe(torch.eye(2), 3, start=torch.ones(3)), ValueError, r"\(3,\)"),
        (lambda: M.simplex_descent(torch.eye(2), 3, 0.0), ValueError, r"lr=0\.0"),
        (lambda: M.simplex_descent(torch.eye(2), 3, 0.1, "flat"), ValueError, "'flat'"),
        (lambda: M.simplex_descent(torch.eye(2), 3, 0.1, start=0), ValueError, "zero"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.skipif(DEVICE.type != "cpu", reason="values are looked at on the CPU only")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_place(bad):
    gram = torch.eye(3)
    gram[1, 2] = bad
    with pytest.raises(ValueError, match=r"\[1, 2\]: (nan|inf)"):
        M.min_norm_weights(gram)
    with pytest.raises(ValueError, match="vectors is not finite"):
        M.min_norm_point(gram)


# --- the point --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 5), (6, 3), (20, 9), (65, 9), (300, 20), (2000, 5)])
def test_point_weights_and_certificate_fit(n, d):
    for shift in (0.0, 1.0):
        g = vectors(n, d, seed=n, spread=0.2, shift=shift)
        found = M.min_norm_point(g)
        longest = float(g.norm(dim=-1).max())
        assert float((found.point - found.weights @ g).norm()) <= 1e-14 * longest
        assert_optimal(g, found.weights)
        gap = found.point.square().sum() - (g @ found.point).min()
        assert abs(float(found.gap - gap)) <= 1e-14 * longest**2


@pytest.mark.parametrize(("n", "d"), [(8, 3), (40, 6), (400, 6), (1000, 30)])
def test_zero_inside_the_hull_is_found_to_rounding(n, d):
    # A point of the hull and its negative: zero is in it. The Gram matrix alone would know it to 1e-8 only.
    g = torch.cat((half := vectors(n // 2, d, seed=5, spread=0.3), -half))
    assert float(M.min_norm_point(g).point.norm()) <= 1e-13 * float(g.norm(dim=-1).max())


def test_a_point_outside_is_separated():
    g = vectors(500, 8, seed=2, spread=0.0) * 0.3
    g[:, 0] += 3
    found = M.min_norm_point(g)
    assert ((g @ found.point) > 0).all()
    assert int((found.weights > 0).sum()) <= 8  # a point on the boundary needs no more (Carathéodory)


def test_the_two_ways_to_the_point_agree(monkeypatch):
    g = vectors(30, 6, batch=(4,), shift=0.6)
    small = M.min_norm_point(g)
    monkeypatch.setattr(M, "_MOST_GRAM", 0)
    large = M.min_norm_point(g)
    assert_close("point", large.point, small.point, 1e-12)
    assert small.gap.shape == large.gap.shape == (4,)


def test_wolfe_takes_over_where_the_guess_does_not_settle(monkeypatch):
    gram = (g := vectors(20, 6, batch=(5,), shift=0.5)) @ g.mT
    want = M.min_norm_weights(gram)
    monkeypatch.setattr(M, "_ROUNDS", 1)
    assert_optimal(g, M.min_norm_weights(gram))
    assert_close("u", (M.min_norm_weights(gram)[:, None] @ g), want[:, None] @ g, 1e-8)


def test_vectors_of_any_size_and_dtype():
    g = vectors(5, 4, shift=0.5)
    want = M.min_norm_point(g)
    for factor in (1e-150, 1e150):
        assert_close("point", M.min_norm_point(g * factor).point / factor, want.point, 1e-12)
    got = M.min_norm_point(g.float())
    assert got.point.dtype == got.weights.dtype == got.gap.dtype == torch.float32
    assert_close("point", got.point, want.point, 1e-6)
    assert not M.min_norm_point(g.requires_grad_()).point.requires_grad


# --- iterations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", M.RULES)
def test_every_rule_of_frank_wolfe_converges_and_its_certificate_is_valid(rule):  # D7
    gram = (g := vectors(5, 8, batch=(6,), seed=1, spread=0.4, shift=0.3)) @ g.mT
    best = M.min_norm_weights(gram)
    best_value = ((best[:, None] @ gram)[:, 0] * best).sum(-1) / 2
    path = M.frank_wolfe(gram, 400, rule)
    assert path.weights.shape == (401, 6, 5)
    assert path.values.shape == path.gaps.shape == (401, 6)
    assert (path.weights >= 0).all()
    torch.testing.assert_close(path.weights.sum(-1), torch.ones(401, 6, dtype=F64, device=DEVICE))
    excess = path.values - best_value
    assert (excess >= -1e-12).all()
    assert (path.gaps >= excess - 1e-12).all()
    assert (excess[-1] <= 0.03 * best_value).all()


@pytest.mark.parametrize("rule", ["line", "away"])
def test_line_searches_never_increase_the_value(rule):
    gram = (g := vectors(6, 4, batch=(5,), seed=4)) @ g.mT
    values = M.frank_wolfe(gram, 100, rule).values
    assert (values[1:] <= values[:-1] * (1 + 1e-12) + 1e-15).all()


def test_the_averaging_rule_is_the_mean_of_the_chosen_gradients():  # D7: the post's iteration, written as it stands
    g = vectors(4, 6, seed=7)
    u, k = g[0], 1
    for _ in range(57):
        tau = int((g @ u).argmin())
        u = (k * u + g[tau]) / (k + 1)
        k += 1
    assert_close("u", M.frank_wolfe(g @ g.T, 57, "average").weights[-1] @ g, u, 1e-12)


def test_the_line_search_is_torchjds():
    mgda = importlib.import_module("torchjd.aggregation").MGDA
    for n, seed in product((2, 5), range(3)):
        g = vectors(n, 9, seed=seed).cpu()
        ours = M.frank_wolfe(g @ g.T, 30, "line").weights[-1] @ g
        assert_close("u", mgda(epsilon=1e-300, max_iters=30)(g), ours, 1e-12)


def test_away_steps_are_linear_where_the_line_search_is_not():  # D7: an inactive task, equal weights at the start
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.3, 2.0]], dtype=F64, device=DEVICE) + torch.tensor([0.0, 1.0]).to(
        DEVICE
    )
    gram = g @ g.T
    best = 0.5
    line, away = (M.frank_wolfe(gram, 200, rule).values[-1] - best for rule in ("line", "away"))
    assert float(away) < 1e-14
    assert float(line) > 1e-6


def test_iterations_take_the_start_that_is_given():
    gram = (g := vectors(3, 5, batch=(2,))) @ g.mT
    own = torch.tensor([0.2, 0.3, 0.5], dtype=F64, device=DEVICE)
    assert torch.equal(M.frank_wolfe(gram, 0, start=own).weights[0], own.expand(2, 3))
    assert M.frank_wolfe(gram, 1, start=2).weights[0, 0].tolist() == [0, 0, 1]
    assert M.frank_wolfe(gram, 0, "average").weights[0, 0].tolist() == [1, 0, 0]
    assert len(M.simplex_descent(gram, 4, 0.01, start=own).weights) == 5


def test_a_softmax_brakes_a_weight_that_should_vanish_and_a_mirror_does_not():  # D8
    gram = torch.tensor([[1.0, 2.0], [2.0, 5.0]], dtype=F64, device=DEVICE)
    soft, mirror = (M.simplex_descent(gram, 1000, 0.2, geometry).weights[:, 1] for geometry in M.GEOMETRIES)
    assert float(soft[100] / soft[1000]) == pytest.approx(10, rel=0.1)  # like 1/t
    assert float(mirror[100]) < 1e-8
    assert float(mirror[1000]) < 1e-80


def test_a_softmax_step_is_gradient_descent():  # D8
    gram = (g := vectors(4, 6)) @ g.mT
    beta = torch.zeros(4, dtype=F64, device=DEVICE, requires_grad=True)
    for _ in range(3):
        alpha = beta.softmax(-1)
        (grad,) = torch.autograd.grad(alpha @ gram @ alpha / 2, beta)
        beta = (beta - 0.01 * grad).detach().requires_grad_()
    assert_close("weights", M.simplex_descent(gram, 3, 0.01, "softmax").weights[-1], beta.softmax(-1), 1e-14)


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(M).failed == 0

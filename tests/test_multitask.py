"""kexue_lib.multitask: descent, invariances, parity with plain forms and torchjd, gradients in one backward pass."""

from __future__ import annotations

import doctest
import importlib
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import OUTPUT, assert_close
from torch import nn

import kexue_lib.multitask as M
from kexue_lib.min_norm import min_norm_weights

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


def as_tuples(grads, sizes=((2, 3), (4,), ())):
    """The rows of a matrix as one tuple of tensors for each task."""
    counts = [int(torch.tensor(size).prod()) for size in sizes]
    return [tuple(part.reshape(size) for part, size in zip(row.split(counts), sizes, strict=True)) for row in grads]


# --- the Gram matrix --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "p"), [(1, 1), (2, 7), (5, 11), (3, 1000)])
def test_gramian_equals_its_plain_form(n, p, dtype, monkeypatch):
    g = randn_(n, p, dtype=dtype)
    before = g.clone()
    want = M.gramian_plain(g)
    made = M.gramian(g)
    assert made.dtype == (F64 if dtype == F64 else torch.float32)  # half precision is accumulated in float32
    assert_close("K", made, want, OUTPUT[made.dtype])
    assert_close("K in float64", M.gramian(g, dtype=F64), want, OUTPUT[F64])
    monkeypatch.setattr(M, "_COLUMNS", 64)  # by blocks
    assert_close("K by blocks", M.gramian(g, dtype=F64), want, OUTPUT[F64])
    assert torch.equal(made, made.T)
    assert torch.equal(g, before)


def test_gramian_of_parameters_is_that_of_the_matrix():
    g = randn_(3, 11)
    tuples = as_tuples(g)
    assert_close("K", M.gramian(tuples), g @ g.T, OUTPUT[F64])
    assert_close("plain", M.gramian_plain(tuples), g @ g.T, OUTPUT[F64])


def test_a_parameter_that_a_task_does_not_use_counts_as_zero():
    g = randn_(3, 11)
    tuples = [list(task) for task in as_tuples(g)]
    tuples[1][0] = None
    g[1, :6] = 0
    assert_close("K", M.gramian(tuples), g @ g.T, OUTPUT[F64])
    assert_close("plain", M.gramian_plain(tuples), g @ g.T, OUTPUT[F64])
    u = M.common_descent(tuples, normalize=None).direction
    assert_close("u", torch.cat([x.reshape(-1) for x in u]), M.common_descent(g, normalize=None).direction, 1e-13)
    for task in tuples:
        task[2] = None
    assert M.common_descent(tuples).direction[2] is None


def test_gramian_has_derivatives():
    g = randn_(3, 5, grad=True)
    assert torch.autograd.gradcheck(M.gramian, (g,))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: M.gramian(torch.ones(3)), ValueError, r"\(3,\)"),
        (lambda: M.gramian(torch.ones(2, 2, dtype=torch.int64)), TypeError, "int64"),
        (lambda: M.gramian([]), TypeError, "list"),
        (lambda: M.gramian([(torch.ones(1),), ()]), ValueError, r"\[1, 0\]"),
        (lambda: M.gramian([(torch.ones(1),), (torch.ones(2),)]), ValueError, "parameter 0"),
        (lambda: M.gramian([(None,), (None,)]), ValueError, "None"),
        (lambda: M.common_descent(torch.ones(2, 3), normalize="L2"), ValueError, "'L2'.*'l2'"),
        (lambda: M.common_descent(torch.ones(2, 3), gram=torch.eye(3)), ValueError, r"\(3, 3\)"),
        (lambda: M.common_descent(torch.ones(2, 3), normalize="loss"), ValueError, "needs losses"),
        (
            lambda: M.common_descent(torch.ones(2, 3), normalize="loss", losses=torch.ones(3)),
            ValueError,
            r"\(3,\).*\(2,\)",
        ),
        (
            lambda: M.common_descent(torch.ones(2, 3), normalize="loss", losses=torch.tensor([1.0, -1])),
            ValueError,
            "-1.0.*not all positive",
        ),
        (lambda: M.mgda_ub_weights(torch.ones(3)), ValueError, r"\[3\]"),
        (lambda: M.pcgrad_weights(torch.ones(2, 3)), ValueError, r"\[2, 3\]"),
        (lambda: M.pcgrad_weights(torch.eye(2), order=torch.zeros(2)), ValueError, r"\(2,\)"),
        (lambda: M.task_gradients(torch.tensor(1.0), []), ValueError, r"\(\).*stack"),
        (lambda: M.shared_gradients(torch.ones(2), []), ValueError, "empty"),
        (lambda: M.shared_gradients(torch.ones(2), [lambda h: h]), ValueError, "head 0"),
        (lambda: M.shared_gradients(torch.ones(2), [lambda h: h.sum()], [torch.ones(2)]), ValueError, "no graph"),
        (lambda: M.shared_gradients(torch.ones(2), [lambda h: h.sum()]).matrix(), ValueError, "parameters="),
        (lambda: M.shared_gradients(torch.ones(2), [lambda h: h.sum()]).gramian(), ValueError, "parameters="),
        (lambda: M.conflicts(torch.ones(2, 3), torch.ones(2)), ValueError, r"\(2, 3\).*\(2,\)"),
        (lambda: M.conflicting_pairs(torch.ones(2, 3)), ValueError, r"\(2, 3\)"),
    ],
)
def test_bad_input_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# --- the direction ----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), p=st.integers(1, 20), seed=st.integers(0, 10**6), normalize=st.sampled_from([None, "l2"]))
def test_no_loss_increases_and_active_ones_fall_equally(n, p, seed, normalize):  # D4 (i)
    g = randn_(n, p, seed=seed)
    found = M.common_descent(g, normalize=normalize)
    assert_close("u", found.direction, found.coefficients @ g, 1e-13)
    scaled = g / g.norm(dim=1, keepdim=True) if normalize else g
    served, square = scaled @ found.direction, found.direction.square().sum()
    longest = scaled.norm(dim=1).max() ** 2
    assert (served >= square - 1e-9 * longest).all()
    assert (served[found.weights > 1e-6] <= square + 1e-9 * longest).all()
    assert square <= scaled.square().sum(1).min() * (1 + 1e-12)  # D4 (iv)
    if float(square) > 1e-12:
        assert not M.conflicts(g, found.direction).any()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_normalised_directions_do_not_know_the_units_of_the_losses(n, seed):
    g, units = randn_(n, 9, seed=seed), torch.exp(3 * randn_(n, 1, seed=seed + 1))
    losses = 1 + randn_(n, seed=seed + 2).square()
    assert_close("l2", M.common_descent(units * g).direction, M.common_descent(g).direction, 1e-8)
    one, other = (
        M.common_descent(a * g, normalize="loss", losses=a[:, 0] * losses).direction
        for a in (units, torch.ones_like(units))
    )
    assert_close("loss", one, other, 1e-8)


def test_without_normalisation_the_unit_decides():  # 8870: shift invariant, not scale invariant
    g = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64, device=DEVICE)
    unit = torch.tensor([[1.0], [10.0]], dtype=F64, device=DEVICE)
    assert M.common_descent(unit * g, normalize=None).weights.tolist() == pytest.approx([100 / 101, 1 / 101])


def test_parameters_and_matrix_give_the_same_direction():
    g = randn_(4, 11)
    for normalize in (None, "l2"):
        flat, parts = M.common_descent(g, normalize=normalize), M.common_descent(as_tuples(g), normalize=normalize)
        assert [x.shape for x in parts.direction] == [(2, 3), (4,), ()]
        assert_close("u", torch.cat([x.reshape(-1) for x in parts.direction]), flat.direction, 1e-13)
        known = M.common_descent(g, normalize=normalize, gram=M.gramian(g))
        assert torch.equal(known.direction, flat.direction)


def test_a_gradient_that_is_zero_stops_everything():  # D4 (iv): one stationary task is weak Pareto stationarity
    g = randn_(3, 5)
    g[1] = 0
    for normalize in (None, "l2"):
        assert float(M.common_descent(g, normalize=normalize).direction.norm()) == 0


def test_a_common_descent_step_lowers_all_smooth_losses():  # D1: for eta <= 2/beta no loss increases
    centres, curvature = randn_(3, 6), 4.0
    theta = randn_(6, seed=5) * 3

    def losses(x):
        return curvature / 2 * (x - centres).square().sum(1)

    for _ in range(50):
        u = M.common_descent(curvature * (theta - centres), normalize=None).direction
        after = theta - 2 / curvature * u
        assert (losses(after) <= losses(theta) + 1e-12).all()
        theta = theta - 1 / curvature * u
    assert float(M.common_descent(theta - centres, normalize=None).direction.norm()) < 1e-3  # Pareto stationary


def test_direction_in_float32_and_under_autocast():
    g = randn_(3, 50)
    want = M.common_descent(g).direction
    assert_close("float32", M.common_descent(g.float()).direction, want, 1e-5)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        assert_close("autocast", M.common_descent(g.float()).direction, want, 1e-5)
        assert M.gramian(g.float()).dtype == torch.float32


def test_direction_compiles_without_a_break():
    g = randn_(3, 20)
    compiled = torch.compile(M.common_descent, fullgraph=True, backend="aot_eager")
    assert_close("u", compiled(g).direction, M.common_descent(g).direction, 1e-12)


# --- shortcuts and peers ----------------------------------------------------------------------------------------------


def test_the_upper_bound_may_increase_a_loss_although_the_trunk_has_full_rank():  # D11
    a = torch.tensor([[1.0, 1.0], [-1.0, 4.0]], dtype=F64, device=DEVICE)
    trunk = torch.diag(torch.tensor([10.0, 1.0], dtype=F64, device=DEVICE))
    weights = M.mgda_ub_weights(a)
    g = a @ trunk
    assert weights.tolist() == [1, 0]
    assert (g @ (weights @ g)).tolist() == [101, -96]
    assert M.conflicts(g, weights @ g).tolist() == [False, True]
    assert not M.conflicts(g, M.common_descent(g, normalize=None).direction).any()


def test_disjoint_labels_leave_inverse_squares():  # D10
    a = torch.zeros(3, 6, 4, dtype=F64, device=DEVICE)
    for task in range(3):
        a[task, 2 * task : 2 * task + 2] = (task + 1) * randn_(2, 4, seed=task)
    want = 1 / a.square().sum((1, 2))
    assert_close("weights", M.mgda_ub_weights(a), want / want.sum(), 1e-13)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 5))
def test_the_upper_bound_lowers_the_weighted_loss(seed, n):  # D11: the half that is true
    a, trunk = randn_(n, 7, seed=seed), randn_(7, 12, seed=seed + 1)
    weights = M.mgda_ub_weights(a)
    g = a @ trunk
    u = weights @ g
    assert float(weights @ (g @ u)) == pytest.approx(float(u @ u))


def test_pcgrad_is_torchjds_for_two_tasks():
    peer = importlib.import_module("torchjd.aggregation").PCGrad()
    for seed in range(6):
        g = randn_(2, 5, seed=seed).cpu()
        assert_close("u", M.pcgrad_weights(g @ g.T) @ g, peer(g), 1e-13)
        assert not M.conflicts(g, M.pcgrad_weights(g @ g.T) @ g).any()


def test_pcgrad_equals_its_definition_in_any_order():
    g = randn_(4, 6, seed=3)
    perms = list(itertools.permutations(range(4)))
    for seed in range(5):
        rows = [perms[(7 * seed + 5 * k) % 24] for k in range(4)]
        total = torch.zeros(6, dtype=F64, device=DEVICE)
        for k, row in enumerate(rows):
            freed = g[k]
            for j in row:
                if j != k and (product := freed @ g[j]) < 0:
                    freed = freed - product / (g[j] @ g[j]) * g[j]
            total = total + freed
        assert_close("u", M.pcgrad_weights(g @ g.T, order=torch.tensor(rows)) @ g, total, 1e-13)
    draws = [M.pcgrad_weights(g @ g.T, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*draws)


# --- gradients --------------------------------------------------------------------------------------------------------


def network(n=3, dtype=F64, seed=0):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).to(DEVICE, dtype)
    heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(n)).to(DEVICE, dtype)
    x = randn_(6, 5, dtype=dtype)
    tasks = [lambda h, head=head: head(h).square().mean() for head in heads]
    return trunk, heads, x, tasks


def test_batched_gradients_equal_the_plain_form():
    trunk, heads, x, tasks = network()
    unused = torch.ones(2, device=DEVICE, requires_grad=True)
    wanted = [*trunk.parameters(), *heads.parameters(), unused]

    def losses():
        h = trunk(x)
        return torch.stack([task(h) for task in tasks])

    for ours, plain in zip(M.task_gradients(losses(), wanted), M.task_gradients_plain(losses(), wanted), strict=True):
        assert_close("gradient", ours, plain, OUTPUT[F64])


def test_shared_gradients_are_those_of_each_task_and_of_its_head():
    trunk, heads, x, tasks = network()
    found = M.shared_gradients(trunk(x), tasks, list(trunk.parameters()))
    h = trunk(x)
    losses = torch.stack([task(h) for task in tasks])
    plain = M.task_gradients_plain(losses, [h, *trunk.parameters()])
    assert_close("losses", found.losses, losses, OUTPUT[F64])
    for ours, want in zip((found.representation, *found.parameters), plain, strict=True):
        assert_close("gradient", ours, want, OUTPUT[F64])
    assert found.matrix().shape == (3, sum(p.numel() for p in trunk.parameters()))
    h = trunk(x)
    for task, head in zip(tasks, heads, strict=True):
        for p, want in zip(head.parameters(), torch.autograd.grad(task(h), list(head.parameters())), strict=True):
            assert_close("head", p.grad, want, OUTPUT[F64])
    assert all(p.grad is None for p in trunk.parameters())


def test_shared_gradients_give_gram_matrix_and_update_without_a_copy():
    trunk, _, x, tasks = network()
    scale = torch.ones((), dtype=F64, device=DEVICE, requires_grad=True)  # a parameter without axes
    found = M.shared_gradients(scale * trunk(x), tasks, [*trunk.parameters(), scale])
    g = found.matrix()
    assert_close("K", found.gramian(), g @ g.T, OUTPUT[F64])
    weights = min_norm_weights(found.gramian())
    parts = found.combined(weights)
    assert [u.shape for u in parts] == [p.shape for p in (*trunk.parameters(), scale)]
    assert_close("u", torch.cat([u.reshape(-1) for u in parts]), weights @ g, 1e-13)


def test_shared_gradients_walk_the_heads_once_and_the_trunk_once():
    trunk, _, x, tasks = network(n=4)
    walked = {"trunk": 0, "heads": 0}

    class Count(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(y, where):
            return y.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.where = inputs[1]

        @staticmethod
        def backward(ctx, grad):
            walked[ctx.where] += 1
            return grad, None

    h = Count.apply(trunk(x), "trunk")
    M.shared_gradients(h, [lambda h, t=t: t(Count.apply(h, "heads")) for t in tasks], list(trunk.parameters()))
    assert walked == {"trunk": 1, "heads": 4}  # each head its own graph, once


def test_shared_gradients_without_a_trunk_and_with_an_idle_head():
    found = M.shared_gradients(torch.ones(2, 3), [lambda h: h.sum(), lambda h: (0 * h).sum()])
    assert found.parameters is None
    assert found.representation.tolist() == [[[1.0] * 3] * 2, [[0.0] * 3] * 2]


def test_shared_gradients_may_be_taken_again_if_the_graph_is_kept():
    trunk, _, x, tasks = network()
    h = trunk(x)
    first = M.shared_gradients(h, tasks, list(trunk.parameters()), retain_graph=True)
    again = M.shared_gradients(h, tasks, list(trunk.parameters()))
    assert torch.equal(first.matrix(), again.matrix())


def test_one_backward_with_the_weighted_cotangent_gives_the_update():  # what MGDA-UB saves
    trunk, _, x, tasks = network()
    h = trunk(x)
    found = M.shared_gradients(h, tasks, list(trunk.parameters()), retain_graph=True)
    weights = M.mgda_ub_weights(found.representation)
    cheap = torch.autograd.grad(h, list(trunk.parameters()), torch.einsum("n,n...->...", weights, found.representation))
    assert_close("u", torch.cat([g.flatten() for g in cheap]), weights @ found.matrix(), 1e-12)


def test_conflicts_are_counted():
    g = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], device=DEVICE)
    assert M.conflicts(g, torch.tensor([1.0, 1.0], device=DEVICE)).tolist() == [False, True, False]
    assert not M.conflicts(g, torch.zeros(2, device=DEVICE)).any()
    batch = M.conflicts(g.expand(4, 3, 2), torch.ones(4, 2, device=DEVICE))
    assert batch.shape == (4, 3)
    assert int(M.conflicting_pairs(g @ g.T)) == 1
    assert M.conflicting_pairs((g @ g.T).expand(5, 3, 3)).tolist() == [1] * 5


def test_weights_of_common_descent_are_those_of_min_norm():
    g = randn_(5, 8)
    assert torch.equal(M.common_descent(g, normalize=None).weights, min_norm_weights(M.gramian(g)))


def test_examples_of_the_docstrings_run():
    assert doctest.testmod(M).failed == 0

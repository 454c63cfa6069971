"""kexue_lib.optim: Tiger and Lion against their plain forms and the peers, and what the chapter proves about them."""

from __future__ import annotations

import copy
import importlib
import io
import math
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import OUTPUT, assert_close
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kexue_lib.optim as optim
from kexue_lib.optim import (
    Lion,
    Tiger,
    attach_accumulation_hooks,
    lion_step_plain,
    signs,
    tiger_param_groups,
    tiger_step_plain,
)

F64 = torch.float64
SHAPES = [(7, 5), (5,), (), (1, 9), (3, 2, 4), (0, 3), (60, 31)]  # the last one is cut into pieces on a CPU
SCALES = list(signs.SCALES)
TIGHT = 16 * torch.finfo(F64).eps


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Small blocks, so that lists are split between and inside tensors."""
    monkeypatch.setitem(signs._BLOCK, "cpu", 64)


def parameters(dtype=F64, shapes=SHAPES, seed=0):
    return [nn.Parameter(0.1 * randn_(*shape, seed=seed + i, dtype=dtype)) for i, shape in enumerate(shapes)]


def gradients(step, dtype=F64, shapes=SHAPES):
    return [randn_(*shape, seed=1000 * (step + 1) + i, dtype=dtype) for i, shape in enumerate(shapes)]


def run(optimizer, params, steps, dtype=F64, spoil=None, start=0):
    """Some steps with given gradients."""
    for t in range(start, start + steps):
        for i, (p, g) in enumerate(zip(params, gradients(t, dtype, [p.shape for p in params]), strict=True)):
            p.grad = g
            if spoil is not None and spoil(t, i) and p.numel():
                p.grad.view(-1)[0] = spoil(t, i)
        before = [p.grad.clone() for p in params]
        optimizer.step()
        assert all(torch.equal(p.grad.nan_to_num(7), b.nan_to_num(7)) for p, b in zip(params, before, strict=True))
    return params


def momenta(optimizer, params):
    return [optimizer.state[p]["exp_avg"] for p in params]


def assert_same(name, ours, other, bound=TIGHT):
    for i, (x, y) in enumerate(zip(ours, other, strict=True)):
        if y.numel():
            assert_close(f"{name} {i}", x, y, bound)


BAD = {
    "finite": None,
    "nan": lambda t, i: math.nan if (t, i) in {(1, 0), (2, 6), (3, 1), (5, 4)} else None,
    "inf": lambda t, i: math.inf if (t + i) % 3 == 0 else None,
}


# --- parity with the plain forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("scale", SCALES)
def test_tiger_equals_its_plain_form(scale, k, bad):
    options = {"lr": 0.02, "scale": scale, "min_rms": 0.03, "center": 0.5, "shrink_ratio": 0.9}
    fast, plain, theta = parameters(), parameters(), [p.detach().clone() for p in parameters()]
    ours = Tiger(fast, grad_accum_steps=k, **options)
    slow = Tiger(plain, grad_accum_steps=k, foreach=False, **options)
    run(ours, fast, 7, spoil=BAD[bad])
    run(slow, plain, 7, spoil=BAD[bad])
    m = [torch.zeros_like(x) for x in theta]
    for t in range(7):
        for i, g in enumerate(gradients(t)):
            if BAD[bad] and BAD[bad](t, i) and g.numel():
                g.view(-1)[0] = BAD[bad](t, i)
            theta[i], m[i] = tiger_step_plain(theta[i], m[i], g, grad_accum_steps=k, micro_step=t % k, **options)
    assert_same("loop", plain, theta)
    assert_same("fast", fast, theta)
    assert_same("momentum", momenta(ours, fast), m, 8 * TIGHT)  # the sum of seven gradients may nearly cancel
    assert all(x.isfinite().all() for x in [*fast, *momenta(ours, fast)])


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.95)], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_lion_equals_its_plain_form(scale, betas, bad):
    options = {"lr": 0.02, "betas": betas, "weight_decay": 0.1, "scale": scale, "center": 1.0, "shrink_ratio": 0.9}
    fast, plain, theta = parameters(), parameters(), [p.detach().clone() for p in parameters()]
    run(Lion(fast, **options), fast, 6, spoil=BAD[bad])
    run(Lion(plain, foreach=False, **options), plain, 6, spoil=BAD[bad])
    m = [torch.zeros_like(x) for x in theta]
    for t in range(6):
        for i, g in enumerate(gradients(t)):
            if BAD[bad] and BAD[bad](t, i) and g.numel():
                g.view(-1)[0] = BAD[bad](t, i)
            theta[i], m[i] = lion_step_plain(theta[i], m[i], g, **options)
    assert_same("loop", plain, theta)
    assert_same("fast", fast, theta)


@pytest.mark.parametrize("bad", ["finite", "nan"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_way_without_looking_equals_the_way_of_a_cpu(monkeypatch, k, bad):
    """On an accelerator no value is looked at: there `torch.where` decides."""
    looked, blind = parameters(), parameters()
    run(Tiger(looked, lr=0.02, grad_accum_steps=k, center=1.0), looked, 6, spoil=BAD[bad])
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    run(Tiger(blind, lr=0.02, grad_accum_steps=k, center=1.0), blind, 6, spoil=BAD[bad])
    assert_same("parameter", blind, looked)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scale", SCALES)
def test_one_step_in_low_precision_is_the_exact_one_rounded(dtype, scale):
    params = parameters(dtype)
    exact = [p.detach().double() for p in params]
    run(Tiger(params, lr=0.1, scale=scale, state_dtype=torch.float32), params, 1, dtype)
    for p, theta, g in zip(params, exact, gradients(0, dtype), strict=True):
        new, _ = tiger_step_plain(theta, torch.zeros_like(theta), g.double(), lr=0.1, scale=scale)
        if p.numel():
            assert_close(str(tuple(p.shape)), p, new, OUTPUT[dtype])
        assert p.dtype == dtype


# --- the peers ------------------------------------------------------------------------------------------------------


def peer(name, params, *, lr, beta, weight_decay):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "lion-pytorch":
            return importlib.import_module("lion_pytorch").Lion(
                params, lr=lr, betas=(beta, beta), weight_decay=weight_decay
            )
        package = importlib.import_module("pytorch_optimizer")
        if name == "pytorch-optimizer Tiger":
            return package.Tiger(params, lr=lr, beta=beta, weight_decay=weight_decay)
        return package.Lion(params, lr=lr, betas=(beta, beta), weight_decay=weight_decay)


@pytest.mark.parametrize("foreach", [None, False], ids=["fast", "plain"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", ["lion-pytorch", "pytorch-optimizer Tiger", "pytorch-optimizer Lion"])
def test_without_relative_steps_tiger_is_the_peers_tiger_and_their_lion_with_equal_betas(name, weight_decay, foreach):
    shapes = [s for s in SHAPES if s]  # a peer cannot do a 0-d parameter's step in one go
    ours, other = parameters(shapes=shapes), parameters(shapes=shapes)
    options = {"lr": 0.01, "beta": 0.965, "weight_decay": weight_decay}
    run(Tiger(ours, scale=None, foreach=foreach, **options), ours, 30)
    run(peer(name, other, **options), other, 30)
    assert max(float((x - y).detach().abs().max()) for x, y in zip(ours, other, strict=True) if x.numel()) <= 3e-15


@pytest.mark.parametrize("name", ["lion-pytorch", "pytorch-optimizer"])
@pytest.mark.parametrize("foreach", [None, False], ids=["fast", "plain"])
def test_lion_is_the_peers_lion(name, foreach):
    package = importlib.import_module({"lion-pytorch": "lion_pytorch"}.get(name, "pytorch_optimizer"))
    ours, other = parameters(), parameters()
    options = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    run(Lion(ours, foreach=foreach, **options), ours, 30)
    run(package.Lion(other, **options), other, 30)
    assert max(float((x - y).detach().abs().max()) for x, y in zip(ours, other, strict=True) if x.numel()) <= 3e-15


def test_tiger_is_bitwise_lion_with_equal_betas():  # D1
    tiger, lion = parameters(), parameters()
    run(Tiger(tiger, lr=0.01, beta=0.9, weight_decay=0.1, scale=None), tiger, 20)
    run(Lion(lion, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1), lion, 20)
    assert all(torch.equal(x, y) for x, y in zip(tiger, lion, strict=True))


# --- accumulation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_block_of_micro_steps_is_one_step_with_the_mean_gradient(k, scale):  # D2
    micro, large = parameters(), parameters()
    a, b = Tiger(micro, lr=0.02, grad_accum_steps=k, scale=scale), Tiger(large, lr=0.02, scale=scale)
    for block in range(4):
        frozen = [p.detach().clone() for p in micro]
        run(a, micro, k - 1, start=block * k)
        assert all(torch.equal(x, y) for x, y in zip(micro, frozen, strict=True)), "parameters move inside a block"
        run(a, micro, 1, start=block * k + k - 1)
        for p, *gs in zip(large, *(gradients(block * k + j) for j in range(k)), strict=True):
            p.grad = torch.stack(gs).mean(0)
        b.step()
    assert_same("parameter", micro, large)
    assert_same("momentum", momenta(a, micro), momenta(b, large))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.floats(0, 0.999), st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=6), st.floats(-9, 9))
def test_the_momentum_after_a_block_is_that_of_the_mean(k, beta, numbers, start):  # D2
    theta, m = torch.zeros(1, dtype=F64), torch.full((1,), start, dtype=F64)
    for j in range(k):
        g = torch.tensor([numbers[j]], dtype=F64)
        theta, m = tiger_step_plain(
            theta, m, g, lr=1.0, beta=beta, scale=None, weight_decay=0.0, grad_accum_steps=k, micro_step=j
        )
    expected = beta * start + (1 - beta) * sum(numbers[:k]) / k
    assert m.item() == pytest.approx(expected, abs=1e-12 * (1 + abs(start) + max(map(abs, numbers))))
    assert theta.item() == -torch.sign(m).item()


def test_a_missing_gradient_counts_as_zero_inside_a_block_and_is_skipped_without_blocks():
    p, q = nn.Parameter(randn_(3, 4)), nn.Parameter(randn_(3, 4))
    a, b = Tiger([p], lr=0.1, grad_accum_steps=2), Tiger([q], lr=0.1)
    for first, second in (("g", None), (None, "g"), (None, None)):
        g = randn_(3, 4, seed=5)
        for one in (first, second):
            p.grad = g.clone() if one else None
            a.step()
        q.grad = g / 2 if first or second else torch.zeros_like(g)
        b.step()
        assert_close("parameter", p, q, TIGHT)
    before = q.detach().clone()
    q.grad = None
    b.step()
    assert torch.equal(q, before)


def network(seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.LayerNorm(width), nn.Linear(width, 3)).to(DEVICE, F64)


@pytest.mark.parametrize("poisoned", [False, True], ids=["finite", "nan"])
@pytest.mark.parametrize("k", [1, 4])
def test_hooks_give_bitwise_the_results_of_explicit_accumulation(k, poisoned):
    models = [network(), network()]
    optimizers = [Tiger(tiger_param_groups(m), lr=0.05, grad_accum_steps=k) for m in models]
    with attach_accumulation_hooks(optimizers[1]):
        for t in range(3 * k):
            x = randn_(8, 5, seed=t)
            if poisoned and t in (1, 4):
                x[0, 0] = math.nan
            for model, optimizer in zip(models, optimizers, strict=True):
                model(x).square().mean().backward()
                optimizer.step()
                for p in model.parameters():
                    p.grad = None
    for x, y in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(x, y)
        assert torch.equal(optimizers[0].state[x]["exp_avg"], optimizers[1].state[y]["exp_avg"])


def test_hooks_let_one_gradient_live_at_a_time():
    def peak(hooked):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(8))).to(DEVICE)
        optimizer = Tiger(model.parameters(), grad_accum_steps=2)
        most = 0
        if hooked:
            attach_accumulation_hooks(optimizer)

        class Watch(TorchDispatchMode):
            """Counts the bytes of all gradients after each operation of the backward pass."""

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                nonlocal most
                out = func(*args, **(kwargs or {}))
                most = max(most, sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))
                return out

        for _ in range(2):
            loss = model(torch.ones(4, 32, device=DEVICE)).sum()
            with Watch():
                loss.backward()
                optimizer.step()
            optimizer.zero_grad()
        return most, [p.nbytes for p in model.parameters()]

    free, sizes = peak(False)
    one, _ = peak(True)
    assert free == sum(sizes)
    assert one == max(sizes)


def test_hooks_refuse_what_cannot_work():
    model = network()
    with pytest.raises(TypeError, match="SGD"):
        attach_accumulation_hooks(torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer = Tiger(model.parameters())
    hooks = attach_accumulation_hooks(optimizer)
    model(randn_(2, 5)).sum().backward()
    with pytest.raises(RuntimeError, match="step"):
        model(randn_(2, 5)).sum().backward()
    hooks.remove()
    optimizer.step()
    optimizer.zero_grad()
    model(randn_(2, 5)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


# --- state ----------------------------------------------------------------------------------------------------------


def tensors_in(x):
    if isinstance(x, torch.Tensor):
        yield x
    elif isinstance(x, dict):
        for value in x.values():
            yield from tensors_in(value)
    elif isinstance(x, (list, tuple)):
        for value in x:
            yield from tensors_in(value)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
def test_the_state_is_one_buffer_of_the_size_of_the_parameters(dtype, k):
    params = parameters(dtype)
    optimizer = Tiger(params, grad_accum_steps=k)
    run(optimizer, params, 2 * k + 1, dtype)
    state = list(tensors_in(optimizer.state_dict()["state"]))
    assert sum(x.nbytes for x in state) == sum(p.nbytes for p in params)
    assert len(state) == len(params)
    assert not list(tensors_in([{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]))


@pytest.mark.parametrize("at", [4, 5, 6])
def test_state_dict_round_trip_even_inside_a_block(at):
    params, straight = parameters(), parameters()
    first = Tiger(params, lr=0.02, grad_accum_steps=3)
    run(first, params, at)
    stream = io.BytesIO()
    torch.save([first.state_dict(), [p.detach() for p in params]], stream)
    stream.seek(0)
    saved, values = torch.load(stream, weights_only=True)
    again = [nn.Parameter(v.clone()) for v in values]
    second = Tiger(again, lr=0.5)  # options come from the saved groups
    second.load_state_dict(saved)
    run(second, again, 9 - at, start=at)
    run(Tiger(straight, lr=0.02, grad_accum_steps=3), straight, 9)
    assert all(torch.equal(x, y) for x, y in zip(again, straight, strict=True))


def test_a_loaded_momentum_keeps_its_dtype_and_is_no_alias():
    params, again = parameters(torch.bfloat16), parameters(torch.bfloat16)
    first = Tiger(params, state_dtype=torch.float32)
    run(first, params, 2, torch.bfloat16)
    second = Tiger(again, state_dtype=torch.float32)
    second.load_state_dict(first.state_dict())
    for x, y in zip(momenta(first, params), momenta(second, again), strict=True):
        assert y.dtype == torch.float32
        assert torch.equal(x, y)
        assert x.data_ptr() != y.data_ptr() or not x.numel()


def test_optimizers_can_be_copied_and_pickled():
    params = parameters()
    optimizer = Tiger(params, lr=0.02)
    run(optimizer, params, 2)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs = other.param_groups[0]["params"]
        run(other, theirs, 1, start=2)
        assert_same("state", momenta(other, theirs), momenta(other, theirs))
    run(optimizer, params, 1, start=2)
    assert all(torch.equal(x, y) for x, y in zip(params, theirs, strict=True))


# --- scale ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-20, 3, 10])
def test_gradients_times_a_power_of_two_leave_the_trajectory_bitwise_equal(power):  # D4
    plain, scaled = parameters(), parameters()
    a, b = Tiger(plain, lr=0.02), Tiger(scaled, lr=0.02)
    for t in range(12):
        for p, q, g in zip(plain, scaled, gradients(t), strict=True):
            p.grad, q.grad = g, g * 2.0**power
        a.step()
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(plain, scaled, strict=True))


@pytest.mark.parametrize("scale", ["rms", "rms_rows"])
def test_relative_steps_map_trajectories_of_a_scale_free_loss_onto_each_other(scale):  # D4
    def trajectory(size):
        w = nn.Parameter(size * randn_(6, 4))
        optimizer = Tiger([w], lr=0.05, scale=scale, weight_decay=0.0)  # decay has a scale of its own
        for t in range(15):
            direction = w / w.square().mean(-1, keepdim=True).sqrt() if scale == "rms_rows" else w / w.norm()
            optimizer.zero_grad()
            (direction @ randn_(4, 3, seed=t)).tanh().square().sum().backward()
            optimizer.step()
        return w.detach()

    assert_close("scaled", trajectory(8.0), 8.0 * trajectory(1.0), 1e-10)


def test_tensors_of_zeros_need_min_rms():
    stuck, free = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.zeros(3, 3))
    for p, options in ((stuck, {}), (free, {"min_rms": 0.1})):
        p.grad = torch.ones(3, 3)
        Tiger([p], lr=0.5, **options).step()
    assert not stuck.any()
    assert torch.allclose(free, torch.full((3, 3), -0.05))


def test_a_large_float16_tensor_has_a_finite_size():
    p = nn.Parameter(torch.full((3000, 2000), 60.0, dtype=torch.float16))  # its norm, 147000, is beyond float16
    p.grad = torch.ones_like(p)
    Tiger([p], lr=0.01, weight_decay=0.0).step()
    assert p.isfinite().all()
    assert p[0, 0].item() == pytest.approx(59.4, abs=0.02)


# --- gradients that are not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [None, False], ids=["fast", "plain"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_gradient_shrinks_its_tensor_to_the_centre_and_spares_the_momentum(bad, foreach):  # D7
    hit, fine = nn.Parameter(randn_(4, 5)), nn.Parameter(randn_(4, 5, seed=1))
    optimizer = Tiger([{"params": [hit], "center": 1.0}, {"params": [fine]}], lr=0.1, foreach=foreach)
    run(optimizer, [hit, fine], 3)
    before, m, other = hit.detach().clone(), momenta(optimizer, [hit])[0].clone(), fine.detach().clone()
    run(optimizer, [hit, fine], 1, spoil=lambda t, i: bad if i == 0 else None, start=3)
    assert_close("shrunk", hit, (before - 1) * 0.99 + 1, TIGHT)
    assert torch.equal(momenta(optimizer, [hit])[0], m)
    assert not torch.equal(fine, other)


def test_huge_finite_gradients_are_not_bad():
    p = nn.Parameter(torch.ones(4, 4))
    optimizer = Tiger([p], lr=0.1, weight_decay=0.0)
    p.grad = torch.full((4, 4), 3e38)  # the sum of squares overflows
    optimizer.step()
    assert torch.allclose(p, torch.full((4, 4), 0.9))


def test_without_the_test_a_nan_freezes_its_entry_for_good():
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Tiger([p], lr=0.1, weight_decay=0.0, shrink_ratio=None)
    p.grad = torch.tensor([[math.nan, 1.0], [1.0, 1.0]])
    for _ in range(3):
        optimizer.step()
        p.grad = torch.ones(2, 2)
    assert p[0, 0].item() == 1.0
    assert p[0, 1].item() < 0.8


# --- groups, schedule, rounding -------------------------------------------------------------------------------------


def test_groups_cover_every_parameter_once_by_the_rules_of_the_post():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 9, bias=False)
            self.table = nn.Embedding(9, 4)
            self.head.weight = self.table.weight
            self.norms = nn.ModuleList([nn.LayerNorm(4), nn.BatchNorm1d(4), nn.GroupNorm(2, 4)])
            self.mix = nn.Linear(4, 4)
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
            self.gain = nn.Parameter(torch.ones(()))

    model = Tied()
    groups = tiger_param_groups(model, 0.05)
    found = {name: (g["scale"], g["weight_decay"], g["center"]) for g in groups for name in g["names"]}
    assert found == {
        "head.weight": ("rms_rows", 0.05, 0.0),
        "gain": ("half", 0.0, 0.0),
        **{f"norms.{i}.weight": ("half", 0.0, 1.0) for i in range(3)},
        **{f"norms.{i}.bias": ("half", 0.0, 0.0) for i in range(3)},
        "mix.weight": ("rms", 0.05, 0.0),
        "mix.bias": ("half", 0.0, 0.0),
    }
    wanted = {id(p) for p in model.parameters() if p.requires_grad}
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(wanted)
    Lion(groups), Tiger(groups)
    assert {g["scale"] for g in tiger_param_groups(model, rows=False)} == {"half", "rms"}


def test_embedding_rows_without_gradient_still_move_by_their_own_size():
    table = nn.Parameter(torch.tensor([[1.0, 1.0], [10.0, 10.0], [0.0, 0.0]]))
    table.grad = torch.ones(3, 2)
    Tiger([table], lr=0.1, weight_decay=0.0, scale="rms_rows").step()
    assert torch.allclose(table, torch.tensor([[0.9, 0.9], [9.0, 9.0], [0.0, 0.0]]))


def test_schedule_is_linear_between_its_points():
    factor = optim.piecewise_linear_schedule({40000: 1, 160000: 0.5, 640000: 0.1, 1280000: 0.01})
    assert [factor(s) for s in (0, 20000, 40000, 100000, 160000)] == [0.0, 0.5, 1.0, 0.75, 0.5]
    assert factor(400000) == pytest.approx(0.3)
    assert factor(10**9) == 0.01
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = Tiger([p], lr=2.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, optim.piecewise_linear_schedule({4: 1.0, 6: 0.0}))
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.0, 0.5, 1.0, 1.5, 2.0, 1.0, 0.0, 0.0]


def test_stochastic_rounding_is_unbiased_and_exact_where_it_can_be():
    x = torch.cat([randn_(50_000, dtype=torch.float32), torch.tensor([0.0, -0.0, 1.0, -3.5, math.inf, -math.inf])])
    generator = torch.Generator().manual_seed(3)
    draws = torch.stack(
        [optim.stochastic_round_(torch.empty_like(x, dtype=torch.bfloat16), x, generator=generator) for _ in range(64)]
    )
    assert torch.equal(draws[:, -6:].float(), x[-6:].expand(64, -1))
    y = draws[:, :-6].double()
    gap = x[:-6].abs().double().log2().floor().exp2() * 2.0**-7  # spacing of bfloat16
    assert ((y - x[:-6]).abs() < gap).all()
    bias = ((y - x[:-6]) / gap).mean()
    assert abs(float(bias)) < 5 * 0.5 / math.sqrt(y.numel())
    share = ((x[:-6].double() / gap).frac().abs()).mean()  # the share of steps away from zero
    up = (y.abs() > x[:-6].abs()).double().mean()
    assert float(up) == pytest.approx(float(share), abs=5e-3)
    nan = optim.stochastic_round_(torch.empty(1, dtype=torch.bfloat16), torch.tensor([math.nan]))
    assert nan.isnan().all()


def test_stochastic_rounding_keeps_steps_that_nearest_loses():  # D6
    moved = {}
    for rounding in ("nearest", "stochastic"):
        p = nn.Parameter(torch.full((64, 64), 0.05, dtype=torch.bfloat16))
        options = {"rounding": rounding, "generator": torch.Generator().manual_seed(0)}
        optimizer = Tiger([p], lr=1e-3, weight_decay=0.0, **options)
        for _ in range(100):
            p.grad = torch.ones_like(p)
            optimizer.step()
        moved[rounding] = p.float().mean().item()
    assert moved["nearest"] == pytest.approx(0.05, rel=2e-3)
    assert moved["stochastic"] == pytest.approx(0.05 * (1 - 1e-3) ** 100, rel=5e-3)


# --- compilation ----------------------------------------------------------------------------------------------------


def compiled(optimizer, backend):
    """The step as torch's own tests compile it: without the profiler's wrapper."""
    step = type(optimizer).step
    step = getattr(step, "__wrapped__", step)
    return torch.compile(lambda: step(optimizer), fullgraph=True, backend=backend)


MAKERS = {
    "tiger": lambda p: Tiger(p, lr=torch.tensor(0.02, dtype=F64)),
    "tiger, no test": lambda p: Tiger(p, lr=0.02, shrink_ratio=None, scale=None),
    "tiger, 2 micro-steps": lambda p: Tiger(p, lr=0.02, grad_accum_steps=2),
    "tiger, rows": lambda p: Tiger(p, lr=0.02, scale="rms_rows"),
    "lion": lambda p: Lion(p, lr=0.02, weight_decay=0.1),
}


def check_compiled(make, backend, shapes):
    eager, graph = parameters(shapes=shapes), parameters(shapes=shapes)
    a, b = make(eager), make(graph)
    torch.compiler.reset()
    step = compiled(b, backend)
    for t in range(6):
        for p, q, g in zip(eager, graph, gradients(t, shapes=shapes), strict=True):
            if t == 3:
                g.view(-1)[0] = math.nan if a.defaults["shrink_ratio"] is not None else 1.0
            p.grad, q.grad = g, g.clone()
        a.step()
        step()
    assert_same("parameter", graph, eager)


@pytest.mark.parametrize("make", MAKERS)
def test_the_step_compiles_into_one_graph(make):
    check_compiled(MAKERS[make], "aot_eager", [(7, 5), (5,), (3, 2, 4)])


@pytest.mark.slow
def test_the_step_compiles_with_inductor():
    check_compiled(MAKERS["tiger"], "inductor", [(7, 5), (5,)])


def test_a_rate_in_a_tensor_is_not_compiled_anew():
    params = parameters(shapes=[(4, 3)])
    lr = torch.tensor(0.1, dtype=F64)
    optimizer = Tiger(params, lr=lr)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    step = compiled(optimizer, "eager")
    for t in range(6):
        params[0].grad = gradients(t, shapes=[(4, 3)])[0]
        step()
        lr.mul_(0.9)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2  # with and without a new state


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["every micro-step", "no_sync", "hooks"])
def test_two_processes_equal_one_with_the_joint_batch(tmp_path, way):
    worker = Path(__file__).with_name("ddp_worker.py")
    command = [sys.executable, str(worker), str(tmp_path), way]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    sys.path.insert(0, str(worker.parent))
    try:
        from ddp_worker import train_alone
    finally:
        sys.path.remove(str(worker.parent))
    alone = train_alone()
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        assert_close(name, ranks[0][name], value, 64 * torch.finfo(F64).eps)


# --- bad input ------------------------------------------------------------------------------------------------------

W = [nn.Parameter(torch.ones(2, 2))]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Tiger(W, lr=-1.0), ValueError, r"lr=-1\.0"),
        (lambda: Tiger(W, lr=math.nan), ValueError, "lr=nan"),
        (lambda: Tiger(W, lr="1"), TypeError, "lr='1'"),
        (lambda: Tiger(W, lr=torch.ones(2)), ValueError, r"\(2,\)"),
        (lambda: Tiger(W, beta=1.0), ValueError, r"beta=1\.0.*\[0, 1\)"),
        (lambda: Tiger(W, weight_decay=-0.1), ValueError, "weight_decay=-0.1"),
        (lambda: Tiger(W, grad_accum_steps=0), ValueError, "grad_accum_steps=0"),
        (lambda: Tiger(W, grad_accum_steps=2.0), TypeError, r"grad_accum_steps=2\.0"),
        (lambda: Tiger(W, shrink_ratio=0.0), ValueError, r"shrink_ratio=0\.0"),
        (lambda: Tiger(W, shrink_ratio=1.1), ValueError, r"shrink_ratio=1\.1"),
        (lambda: Tiger(W, scale="max"), ValueError, "'max'.*'rms_rows'"),
        (lambda: Tiger(W, center=math.inf), ValueError, "center=inf"),
        (lambda: Tiger(W, min_rms=-1), ValueError, "min_rms=-1"),
        (lambda: Tiger(W, rounding="up"), ValueError, "'up'.*'stochastic'"),
        (lambda: Tiger(W, rounding="stochastic"), TypeError, "bfloat16.*float32"),
        (lambda: Tiger([nn.Parameter(torch.ones(2, dtype=torch.complex64))]), TypeError, "complex"),
        (lambda: Tiger([{"params": W, "scale": "row"}]), ValueError, "'row'"),
        (lambda: Lion(W, betas=(0.9, 1.0)), ValueError, r"beta2=1\.0"),
        (lambda: Lion(W, betas=0.9), TypeError, r"betas=0\.9"),
        (lambda: Lion([{"params": W, "grad_accum_steps": 2}]), ValueError, "Tiger"),
        (lambda: tiger_param_groups(W), TypeError, "list"),
        (lambda: tiger_param_groups(nn.Linear(2, 2), -1.0), ValueError, r"weight_decay=-1\.0"),
        (lambda: optim.piecewise_linear_schedule({}), ValueError, "empty"),
        (lambda: optim.piecewise_linear_schedule({-1: 1.0}), ValueError, "-1"),
        (lambda: optim.piecewise_linear_schedule({1: math.nan}), ValueError, "nan"),
        (lambda: optim.piecewise_linear_schedule({1.5: 1.0}), TypeError, r"1\.5"),
        (lambda: optim.piecewise_linear_schedule({1: 1.0})(-1), ValueError, "-1"),
        (lambda: optim.stochastic_round_(torch.ones(2), torch.ones(2)), TypeError, "float32"),
        (
            lambda: optim.stochastic_round_(torch.ones(2, dtype=torch.bfloat16), torch.ones(3)),
            ValueError,
            r"\(2,\).*\(3,\)",
        ),
        (lambda: optim.average_momentum_(Tiger(W)), RuntimeError, "init_process_group"),
        (lambda: Tiger(W).fold(W[0]), ValueError, "gradient"),
        (lambda: optim.nonsense, AttributeError, "nonsense"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_sparse_gradients_are_refused():
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match="sparse"):
        Tiger(table.parameters()).step()


def test_a_refused_group_is_not_kept():
    optimizer = Tiger(W)
    with pytest.raises(ValueError, match="scale"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))], "scale": "x"})
    assert len(optimizer.param_groups) == 1


def test_the_closure_is_called_with_gradients_on():
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = Tiger([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert (w < 1).all()


def test_names_are_imported_when_they_are_used():
    code = (
        "import sys, kexue_lib.optim as o; assert 'torch' not in sys.modules; "
        "assert set(o.__all__) == set(o._HOME) and 'Tiger' in dir(o)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

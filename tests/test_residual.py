"""kexue_lib.depth: residual weights, Euler's products, the growth of a perturbation, and the largest stable rate."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from tolerances import GRADIENT, OUTPUT, assert_close
from torch import nn

import kexue_lib.depth as K

# forward-mode differentiation loads PyTorch's decompositions, which still use torch.jit.script
pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]
F64, F32 = torch.float64, torch.float32


# --- weights and their growth ----------------------------------------------------------------------------------------


@given(n=st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_D4_the_rules_hold_the_sum_of_squares_or_the_sum(n):
    assert n * K.residual_weight(n) ** 2 == pytest.approx(1)
    assert n * K.residual_weight(n, "inv") == pytest.approx(1)
    assert K.residual_weight(n, "one") == 1
    assert K.residual_weight(n, 0.25) == 0.25
    # D5: the coherent growth stays below e for 1/N, and the other one below √e for N^(-1/2)
    assert K.residual_growth(n, 1 / n, coherent=True) < math.e * (1 + 1e-9)
    assert K.residual_growth(n, n**-0.5) < math.sqrt(math.e) * (1 + 1e-9)


def test_D5_growth_by_hand_and_its_limits():
    assert K.residual_growth(3, 0.5, coherent=True) == pytest.approx(1.5**3)
    assert K.residual_growth(3, 0.5) == pytest.approx(1.25**1.5)
    assert K.residual_growth(10**6, 1e-6, coherent=True) == pytest.approx(math.e, rel=1e-5)
    n = 10**4  # the expansion of D5: N ln(1 + N^(-1/2)) = √N - 1/2 + 1/(3√N) - …
    assert math.log(K.residual_growth(n, n**-0.5, coherent=True)) == pytest.approx(100 - 0.5 + 1 / 300, abs=1e-4)
    assert K.residual_growth(10**4, 1.0, coherent=True) == math.inf


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: K.residual_weight(0), "depth=0"),
        (lambda: K.residual_weight(2.0), r"depth=2\.0"),
        (lambda: K.residual_weight(True), "depth=True"),
        (lambda: K.residual_weight(4, "sqrt"), "'sqrt'.*'inv_sqrt'"),
        (lambda: K.residual_weight(4, 0.0), r"rule=0\.0"),
        (lambda: K.residual_weight(4, -1), "rule=-1"),
        (lambda: K.residual_weight(4, math.nan), "rule=nan"),
        (lambda: K.residual_weight(4, math.inf), "rule=inf"),
        (lambda: K.residual_weight(4, True), "rule=True"),
        (lambda: K.residual_weight(4, None), "rule=None"),
        (lambda: K.residual_growth(4, 0.0), r"0\.0"),
        (lambda: K.residual_growth(-1, 0.1), "depth=-1"),
    ],
)
def test_bad_weights_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- Euler's products ------------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """N matrices with an activation between them; one of them stands in a stack of its own."""

    def __init__(self, n=6, width=5, activation="relu", seed=0, dtype=F64):
        super().__init__()
        scale = math.sqrt(2 / width)
        self.stack = nn.Parameter(scale * randn_(n - 1, width, width, seed=seed, dtype=dtype))
        self.last = nn.Parameter(scale * randn_(width, 3, seed=seed + 1, dtype=dtype))
        self.activation = {
            "none": lambda h: h,
            "relu": torch.relu,
            "leaky": lambda h: F.leaky_relu(h, 0.2),
            "tanh": torch.tanh,
        }[activation]

    def forward(self, x):
        for w in self.stack.unbind():
            x = self.activation(x @ w)
        return x @ self.last


INPUTS = {dtype: randn_(7, 5, seed=8, dtype=dtype) for dtype in (F64, F32)}


def loss_of(chain):
    return F.cross_entropy(chain(INPUTS[chain.last.dtype]), torch.arange(7, device=DEVICE) % 3)


def flat(found, field="product"):
    return torch.cat([getattr(e, field).reshape(-1) for e in found.values()])


@pytest.mark.parametrize("activation", ["none", "relu", "leaky", "tanh"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
def test_D3_products_equal_their_plain_form(activation, dtype):
    chain, exact = Chain(activation=activation, dtype=dtype), Chain(activation=activation)
    with torch.no_grad():
        for p, q in zip(exact.parameters(), chain.parameters(), strict=True):
            p.copy_(q)
    got, want = K.euler_products(chain, loss_of), K.euler_products_plain(exact, loss_of)
    assert got.keys() == want.keys() == {"stack", "last"}
    for field in ("product", "norm", "g2"):
        assert got["stack"]._asdict()[field].shape == (5,)
        assert got["last"]._asdict()[field].shape == ()
        # a product sums terms of both signs and a squared gradient doubles the error of a gradient
        assert_close(field, flat(got, field), flat(want, field), 2 * GRADIENT[dtype])


@given(n=st.integers(2, 12), seed=st.integers(0, 10**4), activation=st.sampled_from(["none", "relu", "leaky"]))
@settings(max_examples=30, deadline=None)
def test_D3_all_products_are_equal_in_a_homogeneous_chain_and_bound_the_gradient(n, seed, activation):
    chain = Chain(n=n, seed=seed, activation=activation)
    found = K.euler_products(chain, loss_of)
    products, norms, g2 = (flat(found, field) for field in ("product", "norm", "g2"))
    out = chain(INPUTS[F64]).detach().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(out, torch.arange(7, device=DEVICE) % 3), out)
    torch.testing.assert_close(products, (g * out).sum().expand(n), rtol=1e-11, atol=1e-13)
    tight, loose = (K.gradient_bound(products[0], norms, redistributed=flag) for flag in (False, True))
    assert loose <= tight * (1 + 1e-12)
    assert tight <= g2.sum() * (1 + 1e-12)


def test_D3_no_redistribution_of_scale_gets_below_the_second_bound():
    chain = Chain(n=4)
    with torch.no_grad():
        chain.last.div_(chain.last.norm())
    floor = None
    for factors in ([1, 1, 1], [8, 1, 1 / 8], [100, 0.1, 0.1], [1e-3, 1e6, 1e-3]):
        other = Chain(n=4)
        with torch.no_grad():
            other.last.copy_(chain.last)
            other.stack.copy_(chain.stack * torch.tensor(factors, dtype=F64, device=DEVICE)[:, None, None])
        found = K.euler_products(other, loss_of)
        bound = K.gradient_bound(flat(found)[0], flat(found, "norm"), redistributed=True)
        floor = bound if floor is None else floor
        torch.testing.assert_close(bound, floor, rtol=1e-10, atol=0)  # the function, so the bound, is the same
        assert flat(found, "g2").sum() > floor


@pytest.mark.parametrize("activation", ["tanh"])
def test_products_differ_where_the_chain_is_not_homogeneous(activation):
    products = flat(K.euler_products(Chain(activation=activation), loss_of))
    assert (products.max() - products.min()) > 0.05 * products.abs().max()


def test_products_of_members_and_of_chosen_parameters():
    model = nn.Module()
    model.w = nn.Parameter(randn_(3, 4, 5, 5))  # three members of four layers
    model.v = nn.Parameter(randn_(3, 5, 5, seed=1))
    x = randn_(3, 6, 5, seed=2)

    def losses(m):
        h = x
        for w in m.w.unbind(1):
            h = torch.relu(h @ w)
        return (h @ m.v).square().mean((1, 2)).log()

    found = K.euler_products(model, losses)
    assert found["w"].product.shape == (3, 4)
    torch.testing.assert_close(found["w"].product, found["v"].product[:, None].expand(3, 4))
    plain = K.euler_products_plain(model, losses)
    torch.testing.assert_close(found["w"].g2, plain["w"].g2)
    torch.testing.assert_close(found["w"].product, plain["w"].product)
    assert K.euler_products(model, losses, parameters=lambda name: name == "v").keys() == {"v"}


def test_the_model_is_unchanged_and_zero_biases_are_allowed():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(DEVICE, F64)
    for layer in (net[0], net[2]):
        nn.init.zeros_(layer.bias)
    before, x = {name: p.detach().clone() for name, p in net.named_parameters()}, randn_(3, 4)

    def loss(m):
        return m(x).exp().mean()

    for f in (K.euler_products, K.euler_products_plain):
        with torch.no_grad():  # it differentiates all the same
            products = flat(f(net, loss))
        assert products[0].item() == pytest.approx(products[1].item(), rel=1e-12)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in net.named_parameters())
    with torch.no_grad():
        net[2].bias[0] = 0.1
    for f in (K.euler_products, K.euler_products_plain):
        with pytest.raises(ValueError, match=r"2\.bias"):
            f(net, loss)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: K.euler_products(nn.ReLU(), lambda m: torch.tensor(1.0)), "no matrix"),
        (lambda: K.euler_products(Chain(), loss_of, parameters=lambda name: False), "no matrix"),
        (lambda: K.euler_products(Chain(), lambda m: torch.tensor(1.0)), "does not depend"),
        (lambda: K.euler_products(Chain(), lambda m: m.last), r"\(5, 3\)"),
        (lambda: K.euler_products(Chain(), lambda m: 1.0), "float"),
        (lambda: K.gradient_bound(torch.tensor(1.0), torch.tensor(1.0)), r"\(\)"),
        (lambda: K.gradient_bound(torch.tensor(1.0), torch.ones(2, 0)), r"\(2, 0\)"),
    ],
)
def test_bad_products_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_gradient_bound_by_hand_in_batches_and_without_overflow():
    norms, c = randn_(3, 5).abs() + 0.5, randn_(3, seed=1)
    torch.testing.assert_close(K.gradient_bound(c, norms), (c[:, None] / norms).square().sum(1))
    want = 5 * c**2 / norms.prod(1) ** (2 / 5)
    torch.testing.assert_close(K.gradient_bound(c, norms, redistributed=True), want)
    many = torch.full((1000,), 8.0, device=DEVICE)  # the product is 8^1000
    assert K.gradient_bound(many[0], many, redistributed=True).item() == pytest.approx(1000, rel=1e-3)
    norms.requires_grad_(), c.requires_grad_()
    for flag in (False, True):
        assert torch.autograd.gradcheck(lambda a, b, flag=flag: K.gradient_bound(a, b, redistributed=flag), [c, norms])


# --- the growth of a perturbation ------------------------------------------------------------------------------------


def mixed_layers(dtype=F64, scale=1.0):
    """Layers of changing width: with an activation, a residual connection, a norm, and a cubic one without a matrix."""
    a, b, c = (scale * randn_(*s, seed=k, dtype=dtype) for k, s in enumerate(((5, 7), (7, 4), (4, 4))))
    return [
        lambda h: torch.relu(h @ a),
        lambda h: torch.tanh(h @ b),
        lambda h: h + 0.3 * (h @ c).sin(),
        lambda h: F.layer_norm(h, (4,)),
        lambda h: h * h.square().sum(-1, keepdim=True),
    ]


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("probes", [None, 1, 4])
def test_D6_growth_equals_the_product_of_whole_jacobians(shape, probes):
    x, v = randn_(*shape), randn_(*([probes] if probes else []), *shape, seed=1)
    got, want = K.jacobian_growth(mixed_layers(), x, v), K.jacobian_growth_plain(mixed_layers(), x, v)
    assert got.log_gain.shape == (5, *v.shape[:-1])
    assert got.direction.shape == (*v.shape[:-1], 4)
    assert_close("log gain", got.log_gain, want.log_gain, 4 * OUTPUT[F64])  # five layers, and a logarithm of each
    assert_close("direction", got.direction, want.direction, 4 * OUTPUT[F64])
    torch.testing.assert_close(got.output, want.output)
    lengths = torch.linalg.vector_norm(got.direction, dim=-1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


def test_D6_growth_in_single_precision():
    x, v = randn_(3, 5, dtype=F32), randn_(2, 3, 5, seed=1, dtype=F32)
    got = K.jacobian_growth(mixed_layers(F32), x, v)
    exact = [t.double() for t in (x, v)]
    want = K.jacobian_growth_plain(mixed_layers(), *exact)
    assert got.log_gain.dtype == got.direction.dtype == F32
    assert_close("log gain", got.log_gain, want.log_gain, 4 * OUTPUT[F32])


@given(n=st.integers(1, 8), d=st.integers(1, 6), seed=st.integers(0, 99), factor=st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None)
def test_growth_does_not_depend_on_the_length_of_the_perturbation(n, d, seed, factor):
    matrices = [randn_(d, d, seed=seed + k) for k in range(n)]
    layers = [lambda h, w=w: h + torch.tanh(h @ w) for w in matrices]
    x, v = randn_(d, seed=seed), randn_(d, seed=seed + 50)
    first, second = K.jacobian_growth(layers, x, v), K.jacobian_growth(layers, x, factor * v)
    torch.testing.assert_close(first.log_gain, second.log_gain, rtol=1e-9, atol=1e-9)


def test_growth_survives_where_the_bare_product_overflows():
    layers = [lambda h: h + 9 * h] * 60  # 10^60 is beyond float32
    found = K.jacobian_growth(layers, torch.zeros(2, device=DEVICE), torch.ones(2, device=DEVICE))
    assert found.log_gain[-1].item() == pytest.approx(60 * math.log(10), rel=1e-6)
    bare = K.jacobian_growth_plain(layers, torch.zeros(2, device=DEVICE), torch.ones(2, device=DEVICE))
    assert not bare.log_gain[-1].isfinite()


def test_a_perturbation_may_vanish():
    dead = [lambda h: 2 * h, torch.relu, lambda h: h + 1]
    found = K.jacobian_growth(dead, -torch.ones(3, device=DEVICE), torch.ones(3, device=DEVICE))
    assert found.log_gain[0].item() == pytest.approx(math.log(2))
    assert torch.isneginf(found.log_gain[1:]).all()
    assert not found.direction.any()
    constant = [lambda h: torch.ones_like(h)]
    assert torch.isneginf(K.jacobian_growth(constant, torch.ones(3), torch.ones(3)).log_gain).all()


def test_D6_the_mean_square_of_random_layers_is_exact_in_every_dimension():
    n, eps, draws = 8, 0.3, 40_000
    for d in (1, 3):
        j = randn_(n, draws, d, d, seed=d, dtype=F32) / math.sqrt(d)
        layers = [lambda h, m=m: h + eps * torch.einsum("bi,bij->bj", h, m) for m in j]
        x = torch.zeros(draws, d, device=DEVICE)
        gain = K.jacobian_growth(layers, x, torch.ones_like(x)).log_gain[-1]
        assert (2 * gain).exp().mean().sqrt().item() == pytest.approx(K.residual_growth(n, eps), rel=0.03)


def test_growth_is_the_derivative_and_leaves_inputs_alone():
    x, v = randn_(4, 5, grad=True), randn_(4, 5, seed=1, grad=True)
    copies = [t.detach().clone() for t in (x, v)]
    found = K.jacobian_growth(mixed_layers(), x, v)
    assert not found.log_gain.requires_grad
    assert not found.output.requires_grad
    assert torch.equal(x, copies[0])
    assert torch.equal(v, copies[1])

    layers = mixed_layers()

    def whole(h):
        for layer in layers:
            h = layer(h)
        return h

    _, moved = torch.func.jvp(whole, (copies[0],), (copies[1],))
    lengths = torch.linalg.vector_norm(moved, dim=-1) / torch.linalg.vector_norm(copies[1], dim=-1)
    torch.testing.assert_close(found.log_gain[-1].exp(), lengths)


def test_growth_under_autocast_stays_single_precision():
    x, v = randn_(3, 5, dtype=F32), randn_(3, 5, seed=1, dtype=F32)
    layers = mixed_layers(F32, 0.3)  # smaller: in bfloat16 a tanh of 3 is 1, and its derivative 0
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        found = K.jacobian_growth(layers, x, v)
    assert found.log_gain.dtype == F32
    want = K.jacobian_growth(layers, x, v)
    torch.testing.assert_close(found.log_gain, want.log_gain, rtol=0.05, atol=0.05)


def test_growth_and_bound_compile_in_one_graph():
    torch._dynamo.reset()
    x, v = randn_(3, 5, dtype=F32), randn_(3, 5, seed=1, dtype=F32)
    layers = mixed_layers(F32)

    def both(x, v):
        gain = K.jacobian_growth(layers, x, v).log_gain
        return gain, K.gradient_bound(gain[0], gain.exp().mT, redistributed=True)

    with torch.no_grad():
        got, want = torch.compile(both, fullgraph=True, backend="eager")(x, v), both(x, v)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f: f([torch.relu], torch.ones(3), torch.ones(4)), ValueError, r"\(4,\)"),
        (lambda f: f([torch.relu], torch.ones(3), torch.ones(2, 2, 3)), ValueError, r"\(2, 2, 3\)"),
        (lambda f: f([torch.relu], torch.tensor(1.0), torch.tensor(1.0)), ValueError, r"\(\)"),
        (
            lambda f: f([torch.relu], torch.ones(2, 3), torch.eye(2, 3).mul(torch.tensor([[1.0], [0.0]]))),
            ValueError,
            "zero",
        ),
        (lambda f: f([torch.relu], torch.ones(3), torch.full((3,), math.nan)), ValueError, "not finite"),
        (lambda f: f([], torch.ones(3), torch.ones(3)), ValueError, "empty"),
        (lambda f: f([torch.relu], torch.ones(3, dtype=torch.long), torch.ones(3)), TypeError, "int64"),
        (lambda f: f([torch.relu], torch.ones(3), [1.0, 2.0, 3.0]), TypeError, "list"),
    ],
)
@pytest.mark.parametrize("f", [K.jacobian_growth, K.jacobian_growth_plain])
def test_bad_perturbations_are_refused(f, call, error, words):
    with pytest.raises(error, match=words):
        call(f)


# --- the largest stable rate -----------------------------------------------------------------------------------------


def quadratic(curvatures, dtype=F64):
    w = torch.ones(len(curvatures), device=DEVICE, dtype=dtype, requires_grad=True)
    h = torch.tensor(curvatures, device=DEVICE, dtype=dtype)
    return w, lambda: (h * w.square()).sum() / 2


@given(curvature=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_a_parabola_is_stable_below_two_over_its_curvature(curvature):
    w, loss = quadratic([curvature])
    grid = [f * 2 / curvature for f in (0.2, 0.999, 1.001, 5.0)]
    for f in (K.max_stable_lr, K.max_stable_lr_plain):
        assert f(loss, [w], grid) == grid[1]
        assert f(loss, [w], grid[2:]) == 0.0


class TwoLayers(nn.Module):
    def __init__(self, seed=0, members=None):
        super().__init__()
        e = [] if members is None else [members]
        self.first = nn.Parameter(randn_(*e, 4, 6, seed=seed))
        self.second = nn.Parameter(randn_(*e, 6, 3, seed=seed + 1))
        self.unused = nn.Parameter(randn_(*e, 2, seed=seed + 2))

    def loss(self):
        out = torch.tanh(randn_(5, 4, seed=8) @ self.first) @ self.second
        axes = (-2, -1)
        return out.square().mean(axes) + out.sin().mean(axes)


@pytest.mark.parametrize("steps", [1, 2, 5, 30])
@pytest.mark.parametrize("seed", range(6))
def test_the_stable_rate_equals_its_plain_form_and_nothing_is_moved(seed, steps):
    net = TwoLayers(seed=10 * seed)
    before = [p.detach().clone() for p in net.parameters()]
    grid = [2.0**k for k in range(-8, 6)]
    got, want = (f(net.loss, net.parameters(), grid, steps) for f in (K.max_stable_lr, K.max_stable_lr_plain))
    assert got == want > 0
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(net.parameters(), before, strict=True))
    assert K.max_stable_lr(net.loss, net.parameters(), grid[::-1], steps) == got


def test_rates_of_members_are_those_of_each_alone():
    many = TwoLayers(members=5)
    before = [p.detach().clone() for p in many.parameters()]
    grid = [2.0**k for k in range(-8, 6)]
    got = K.member_stable_lrs(many.loss, many.parameters(), grid, 4)
    assert all(torch.equal(p, b) and p.grad is None for p, b in zip(many.parameters(), before, strict=True))
    assert len(set(got)) > 1  # or the members would not be told apart
    for e in range(5):
        one = TwoLayers()
        with torch.no_grad():
            for p, q in zip(one.parameters(), before, strict=True):
                p.copy_(q[e])
        assert K.max_stable_lr_plain(one.loss, one.parameters(), grid, 4) == got[e]


def test_a_member_without_any_stable_rate_does_not_disturb_the_others():
    w = torch.ones(4, 1, device=DEVICE, dtype=F64, requires_grad=True)
    h = torch.tensor([1.0, 1e9, 4.0, math.inf], device=DEVICE, dtype=F64)
    rates = K.member_stable_lrs(lambda: h * w[:, 0].square(), [w], [0.1, 0.2, 0.9])
    assert rates == [0.9, 0.0, 0.2, 0.0]
    assert torch.equal(w.detach(), torch.ones_like(w))


def test_a_loss_that_is_not_finite_is_no_descent():
    w = torch.ones(1, device=DEVICE, dtype=F64, requires_grad=True)

    def loss():  # a cliff below one half
        return torch.where(w < 0.5, -math.inf, w).sum()

    for f in (K.max_stable_lr, K.max_stable_lr_plain):
        assert f(loss, [w], [0.3, 0.6], 1) == 0.3
    assert K.max_stable_lr(lambda: w.sum() * math.nan, [w], [0.3]) == 0.0


def test_parameters_are_restored_when_the_loss_raises():
    w = torch.ones(2, device=DEVICE, requires_grad=True)
    calls = []

    def loss():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the third call")
        return w.square().sum()

    for f in (K.max_stable_lr, K.max_stable_lr_plain):
        calls.clear()
        with pytest.raises(RuntimeError, match="third"):
            f(loss, [w], [0.1])
        assert torch.equal(w.detach(), torch.ones_like(w))


def test_the_search_differentiates_under_no_grad_too():
    w, loss = quadratic([1.0])
    with torch.no_grad():
        assert K.max_stable_lr(loss, [w], [0.5, 3.0]) == K.max_stable_lr_plain(loss, [w], [0.5, 3.0]) == 0.5


def test_kept_gradients_stay():
    w, loss = quadratic([1.0, 2.0])
    loss().backward()
    kept = w.grad.clone()
    for f in (K.max_stable_lr, K.max_stable_lr_plain):
        f(loss, [w], [0.1])
        assert torch.equal(w.grad, kept)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": []}, "grid="),
        ({"grid": [0.1, 0.0]}, r"grid=\[0\.1, 0\.0\]"),
        ({"grid": [math.inf]}, "grid="),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.0}, r"steps=2\.0"),
        ({"steps": True}, "steps=True"),
        ({"params": []}, "params is empty"),
        ({"loss_fn": lambda: torch.ones(2, requires_grad=True)}, r"\(2,\)"),
        ({"loss_fn": lambda: 1.0}, "float"),
        ({"loss_fn": lambda: torch.tensor(1.0)}, "does not depend"),
    ],
)
@pytest.mark.parametrize("f", [K.max_stable_lr, K.max_stable_lr_plain])
def test_bad_searches_are_refused(f, options, words):
    w, loss = quadratic([1.0])
    with pytest.raises(ValueError, match=words):
        f(**({"loss_fn": loss, "params": [w], "grid": [0.1], "steps": 1} | options))


def test_members_without_a_common_axis_are_refused():
    with pytest.raises(ValueError, match="common first axis"):
        K.member_stable_lrs(lambda: torch.ones(2), [torch.ones(2, 3), torch.ones(3)], [0.1])
    with pytest.raises(ValueError, match="common first axis"):
        K.member_stable_lrs(lambda: torch.ones(2), [torch.tensor(1.0)], [0.1])
    with pytest.raises(ValueError, match="params is empty"):
        K.member_stable_lrs(lambda: torch.ones(2), [], [0.1])


def test_examples_in_the_docstrings():
    for module in (K.residual, K.stability):
        result = doctest.testmod(module)
        assert result.attempted > 4, module.__name__
        assert result.failed == 0

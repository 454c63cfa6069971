"""kexue_lib.depth: the constants, the initialisation, the magnitude of a matrix, and the probes of one step."""

from __future__ import annotations

import copy
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

pytestmark = pytest.mark.filterwarnings("error")
F64 = torch.float64


# --- constants -------------------------------------------------------------------------------------------------------


@given(n=st.integers(1, 10**6), m=st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_D7_the_papers_constants(n, m):
    encoder, none = K.deepnorm_constants(encoder_layers=n)
    assert none is None
    assert encoder.gain / encoder.alpha == pytest.approx((4 * n) ** -0.5)
    assert K.deepnorm_constants(decoder_layers=n) == (None, encoder)  # decoder alone: the same law
    both = K.deepnorm_constants(n, m)
    assert both.decoder.gain / both.decoder.alpha == pytest.approx((6 * m) ** -0.5)
    assert both.encoder.alpha * both.encoder.gain == pytest.approx(0.81 * 0.87)
    assert both.encoder.alpha == pytest.approx(0.81 * n**0.25 * m**0.0625)


def test_values_as_printed_in_the_paper():
    # 18 encoder and 18 decoder layers; 100 layers of an encoder alone
    encoder, decoder = K.deepnorm_constants(18, 18)
    assert encoder.alpha == pytest.approx(0.81 * (18**4 * 18) ** (1 / 16))
    assert decoder == pytest.approx((54**0.25, 216**-0.25))
    assert K.deepnorm_constants(100).encoder == pytest.approx((200**0.25, 800**-0.25))


@given(n=st.integers(1, 10**6))
@settings(max_examples=50, deadline=None)
def test_D7_and_D9_every_line_of_the_table_makes_the_change_one(n):
    m = 2 * n
    change = {
        "sgd": lambda a, g: m * (g / a) ** 2,
        "adam": lambda a, g: m * g / a,
        "lamb": lambda a, g: m * g**2 / a,
    }
    for optimizer, f in change.items():
        for norm in ("post", "pre"):
            assert f(*K.residual_scale(n, optimizer, norm)) == pytest.approx(1)
        assert K.residual_scale(n, optimizer, "pre").alpha == 1
    for optimizer in ("sgd", "adam"):  # the post's way to close the system
        scale = K.residual_scale(n, optimizer)
        assert scale.alpha * scale.gain == pytest.approx(1)
    weights = [K.residual_scale(n, o).branch_weight for o in ("sgd", "adam", "lamb")]
    assert weights == pytest.approx([m**-0.75, m**-1.5, 1 / m])
    assert K.residual_scale(n) == K.residual_scale(n, "adam", "post")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: K.deepnorm_constants(), "both None"),
        (lambda: K.deepnorm_constants(0), "encoder_layers=0"),
        (lambda: K.deepnorm_constants(2.0), r"encoder_layers=2\.0"),
        (lambda: K.deepnorm_constants(True), "encoder_layers=True"),
        (lambda: K.deepnorm_constants(4, -1), "decoder_layers=-1"),
        (lambda: K.residual_scale(0), "n_layers=0"),
        (lambda: K.residual_scale(4, "adamw"), "'adamw'.*'sgd'"),
        (lambda: K.residual_scale(4, norm="sandwich"), "'sandwich'.*'post'"),
    ],
)
def test_bad_settings_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- initialisation --------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(self, name, nn.Linear(d, d))
        self.ffn = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Linear(4 * d, d))
        self.embedding = nn.Embedding(10, d)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def changed(module, call):
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    result = call(module)
    return result, [name for name, p in module.named_parameters() if not torch.equal(p, before[name])]


def test_only_the_chosen_matrices_are_initialised():
    block = Block()
    names, moved = changed(block, lambda m: K.init_deepnorm_(m, 0.4, generator=generator()))
    assert names == moved == ["v_proj.weight", "out_proj.weight", "ffn.0.weight", "ffn.2.weight"]
    for name in names:
        weight = block.get_parameter(name)
        assert weight.std().item() == pytest.approx(0.4 * math.sqrt(2 / sum(weight.shape)), rel=0.05)
        assert abs(weight.mean().item()) < 5 * weight.std().item() / math.sqrt(weight.numel())


def test_it_is_xavier_normal_of_pytorch():
    linear = nn.Sequential(nn.Linear(5, 7))
    K.init_deepnorm_(linear, 0.3, include="0", generator=generator(7))
    want = nn.init.xavier_normal_(torch.empty(7, 5), gain=0.3, generator=generator(7))
    torch.testing.assert_close(linear[0].weight.detach(), want, rtol=1e-6, atol=0)


def test_of_a_fused_weight_only_the_values_are_initialised():
    attention = nn.MultiheadAttention(24, 2)
    before = attention.in_proj_weight.detach().clone()
    names = K.init_deepnorm_(attention, 0.2, include=("v_proj", "out_proj"), generator=generator())
    assert names == ["in_proj_weight[values]", "out_proj.weight"]
    assert torch.equal(attention.in_proj_weight[:48], before[:48])
    assert attention.in_proj_weight[48:].std().item() == pytest.approx(0.2 * math.sqrt(2 / 48), rel=0.1)

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(6, 18)

    assert K.init_deepnorm_(Fused(), 1.0, include=("v_proj",)) == ["qkv.weight[values]"]
    odd = nn.ModuleDict({"qkv": nn.Linear(4, 7)})
    with pytest.raises(ValueError, match="three equal parts"):
        K.init_deepnorm_(odd, 1.0, include=("v_proj",))


def test_pytorch_encoder_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    names, moved = changed(
        layer, lambda m: K.init_deepnorm_(m, 0.5, include=("linear1", "linear2", "v_proj", "out_proj"))
    )
    assert set(names) == {
        "self_attn.in_proj_weight[values]",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    }
    assert len(moved) == 4


def test_a_shared_weight_is_initialised_once():
    block = nn.ModuleDict({"ffn": nn.Linear(8, 8, bias=False), "v_proj": nn.Linear(8, 8, bias=False)})
    block["v_proj"].weight = block["ffn"].weight
    assert K.init_deepnorm_(block, 1.0, include=("ffn",)) == ["ffn.weight"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: K.init_deepnorm_(Block(), 0.0), r"gain=0\.0"),
        (lambda: K.init_deepnorm_(Block(), math.inf), "gain=inf"),
        (lambda: K.init_deepnorm_(Block(), 1.0, include=()), "empty"),
        (lambda: K.init_deepnorm_(Block(), 1.0, include=("ffn", "value_proj")), "value_proj.*q_proj.weight"),
        (lambda: K.init_deepnorm_(Block(), 1.0, include="ff"), "'ff'"),  # a part of a name, not of a word
        (lambda: K.init_deepnorm_(nn.ReLU(), 1.0), "there are none"),
    ],
)
def test_an_initialisation_that_does_nothing_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# --- magnitude -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5), (1, 1), (2, 3, 6, 5), (0, 3, 3)], ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_D2_magnitude_equals_its_plain_form(shape, dtype):
    w = randn_(*shape, dtype=dtype, grad=True)
    exact = w.detach().double().requires_grad_()
    (lam, u), (lam_ref, u_ref) = K.weight_magnitude(w), K.weight_magnitude_plain(exact)
    assert lam.shape == shape[:-2]
    assert u.shape == shape
    if not w.numel():
        return
    assert_close("λ", lam, lam_ref, OUTPUT[dtype])
    assert_close("U", u, u_ref, OUTPUT[dtype])
    assert_close("λU", lam[..., None, None] * u, exact, OUTPUT[dtype])
    weight, weight_u = randn_(*lam.shape, seed=1), randn_(*shape, seed=2)
    (got,) = torch.autograd.grad((lam.double() * weight).sum() + (u.double() * weight_u).sum(), w)
    (want,) = torch.autograd.grad((lam_ref * weight).sum() + (u_ref * weight_u).sum(), exact)
    assert_close("gradient", got, want, 4 * GRADIENT[dtype])  # the SVD's own gradient is the less exact one


def test_D2_magnitude_is_the_minimum():
    for shape in ((4, 4), (3, 6), (6, 3)):
        w = randn_(*shape, seed=5)
        best = float(K.weight_magnitude(w)[0])

        def distance(kappa, w=w, n=shape[0]):
            return float((w @ w.T / kappa**2 - torch.eye(n, dtype=F64, device=DEVICE)).norm())

        assert distance(best) < min(distance(best * 1.001), distance(best / 1.001))
        t1, t2 = torch.trace(w @ w.T), torch.trace(w @ w.T @ w @ w.T)
        assert distance(best) ** 2 == pytest.approx(float(shape[0] - t1**2 / t2))


@given(factor=st.floats(1e-15, 1e15), n=st.integers(1, 6), m=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_magnitude_scales_with_the_matrix_and_does_not_overflow(factor, n, m, seed):
    w = randn_(n, m, seed=seed, dtype=torch.float32)
    lam, u = K.weight_magnitude(w)
    lam2, u2 = K.weight_magnitude(w * factor)
    torch.testing.assert_close(lam2.double(), lam.double() * factor, rtol=1e-5, atol=0)
    torch.testing.assert_close(u2, u, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(K.weight_magnitude(w.T)[0], lam, rtol=1e-5, atol=0)


def test_D2_of_a_random_matrix_it_is_root_two_times_the_gain():
    for shape in ((400, 150), (150, 400), (256, 256)):
        w = torch.empty(shape).normal_(0, 0.3 * math.sqrt(2 / sum(shape)), generator=generator(1)).to(DEVICE)
        assert K.weight_magnitude(w)[0].item() == pytest.approx(0.3 * math.sqrt(2), rel=0.02)


def test_D3_the_probe_is_a_lower_bound_and_silent_before_a_norm():
    w = randn_(6, 5, grad=True)
    x, v = randn_(4, 6, seed=1), randn_(4, 5, seed=2)
    lam, u = K.weight_magnitude(w.detach())
    (g,) = torch.autograd.grad((torch.tanh(x @ w) * v).sum(), w)
    scale = lam.clone().requires_grad_()
    (probe,) = torch.autograd.grad((torch.tanh(x @ (scale * u)) * v).sum(), scale)
    torch.testing.assert_close(probe, (g * u).sum())
    assert probe.abs() <= u.norm() * g.norm()
    (g,) = torch.autograd.grad((F.layer_norm(x @ w, (5,), eps=0.0) * v).sum(), w)
    assert (g * u).sum().abs() < 1e-12
    assert g.norm() > 0.1


def test_gradcheck_of_the_magnitude():
    assert torch.autograd.gradcheck(lambda w: K.weight_magnitude(w), [randn_(2, 3, 4, grad=True)])


@pytest.mark.parametrize("f", [K.weight_magnitude, K.weight_magnitude_plain])
def test_magnitude_refuses_what_is_no_matrix(f):
    with pytest.raises(ValueError, match=r"\(3,\)"):
        f(torch.ones(3))
    with pytest.raises(ValueError, match=r"\(2, 0\)"):
        f(torch.ones(2, 0))
    with pytest.raises(TypeError, match="int64"):
        f(torch.ones(2, 2, dtype=torch.long))
    with pytest.raises(TypeError, match="list"):
        f([[1.0]])
    if f is K.weight_magnitude:
        with pytest.raises(ValueError, match="zeros"):
            f(torch.stack([torch.eye(2), torch.zeros(2, 2)]))


# --- probes ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """Two layers; one parameter is zero and one does not take part in the loss."""

    def __init__(self, seed=0, dtype=F64):
        super().__init__()
        self.first = nn.Parameter(randn_(4, 6, seed=seed, dtype=dtype))
        self.second = nn.Parameter(randn_(6, 3, seed=seed + 1, dtype=dtype))
        self.zero = nn.Parameter(torch.zeros(3, device=DEVICE, dtype=dtype))
        self.unused = nn.Parameter(randn_(2, seed=seed + 2, dtype=dtype))

    def forward(self, x):
        return torch.tanh(x @ self.first) @ self.second + self.zero


def loss_of(net):
    x = randn_(5, 4, seed=8, dtype=net.first.dtype)
    out = net(x)
    return out.square().mean() + out[:, 0].sin().mean(), out


@pytest.mark.parametrize("optimizer", K.STEP_KINDS)
@pytest.mark.parametrize("lr", [1e-4, 0.3])
def test_D1_the_probe_equals_its_plain_form(optimizer, lr):
    net = Net()
    got, want = K.update_probe(net, loss_of, optimizer, lr), K.update_probe_plain(net, loss_of, optimizer, lr)
    for name in ("g2", "g1", "linear", "dL", "dF", "loss"):
        assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-9, abs=1e-14), name
    assert got.per_param.keys() == want.per_param.keys() == {"first", "second", "zero", "unused"}
    for name, pair in got.per_param.items():
        assert pair == pytest.approx(want.per_param[name], rel=1e-12)
    assert got.per_param["unused"] == (0, 0)


def test_D1_steps_by_hand():
    net, lr = Net(), 1e-6
    loss, _ = loss_of(net)
    grads = dict(
        zip(["first", "second", "zero"], torch.autograd.grad(loss, [net.first, net.second, net.zero]), strict=True)
    )
    g2 = sum(float(g.square().sum()) for g in grads.values())
    g1 = sum(float(g.abs().sum()) for g in grads.values())
    sizes = {name: net.get_parameter(name).detach().square().mean().sqrt() for name in ("first", "second")} | {
        "zero": 1.0
    }
    lamb = sum(float(sizes[name] * g.abs().sum()) for name, g in grads.items())
    for optimizer, want in (("sgd", g2), ("sign", g1), ("lamb", lamb)):
        effect = K.update_probe(net, loss_of, optimizer, lr)
        assert (effect.g2, effect.g1) == pytest.approx((g2, g1))
        assert effect.linear == pytest.approx(-lr * want)
        assert effect.dL == pytest.approx(-lr * want, rel=1e-3)


def test_the_sign_step_is_the_first_step_of_adam():
    net, lr = Net(), 1e-3
    other = copy.deepcopy(net)
    optimizer = torch.optim.Adam(other.parameters(), lr=lr, eps=1e-30)
    loss, out = loss_of(other)
    loss.backward()
    optimizer.step()
    effect = K.update_probe(net, loss_of, "sign", lr)
    after, moved = loss_of(other)
    assert effect.dL == pytest.approx(float((after - loss).detach()), rel=1e-9)
    assert effect.dF == pytest.approx(float((moved - out).detach().square().mean().sqrt()), rel=1e-9)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
def test_parameters_are_restored_bit_by_bit_and_grad_is_not_touched(dtype):
    net = Net(dtype=dtype)
    net.first.grad = torch.full_like(net.first, 7.0)
    before = {name: (p, p.detach().clone()) for name, p in net.named_parameters()}
    for optimizer in K.STEP_KINDS:
        K.update_probe(net, loss_of, optimizer, 0.37)
    for name, p in net.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1]), name
    assert torch.equal(net.first.grad, torch.full_like(net.first, 7.0))
    assert net.second.grad is None


def test_parameters_are_restored_when_the_second_pass_fails():
    net = Net()
    before = net.first.detach().clone()
    calls = []

    def fragile(model):
        calls.append(model.first.detach().clone())
        if len(calls) > 1:
            raise RuntimeError("boom")
        return loss_of(model)

    with pytest.raises(RuntimeError, match="boom"):
        K.update_probe(net, fragile)
    assert not torch.equal(calls[1], before)  # the step had been taken
    assert torch.equal(net.first, before)


def test_one_backward_pass_for_several_steps():
    net, passes = Net(), []

    def counted(model):
        loss, out = loss_of(model)
        loss.register_hook(lambda g: passes.append(1)) if loss.requires_grad else None
        return loss, out

    effects = K.update_probes(net, counted, {"sgd": 1e-2, "sign": 1e-3, "lamb": 1e-3})
    assert len(passes) == 1
    for optimizer, lr in (("sgd", 1e-2), ("sign", 1e-3), ("lamb", 1e-3)):
        assert effects[optimizer] == K.update_probe(net, loss_of, optimizer, lr)


def test_a_probe_needs_no_gradient_mode_around_it():
    with torch.no_grad():
        got, plain = (f(Net(), loss_of, "sgd", 1e-3) for f in (K.update_probe, K.update_probe_plain))
    assert got.dL == pytest.approx(plain.dL)
    assert got.g2 == K.update_probe(Net(), loss_of, "sgd", 1e-3).g2 > 0


def test_chosen_parameters_only():
    net = Net()
    effect = K.update_probe(net, loss_of, "sgd", 1e-2, parameters=lambda name: name == "second")
    full = K.update_probe(net, loss_of, "sgd", 1e-2)
    assert list(effect.per_param) == ["second"]
    assert effect.g2 == pytest.approx(full.per_param["second"][0])
    net.second.requires_grad_(False)
    assert "second" not in K.update_probe(net, loss_of, "sgd", 1e-2).per_param


def test_without_features_there_is_no_dF():
    assert K.update_probe(Net(), lambda net: loss_of(net)[0]).dF is None
    assert K.update_probe_plain(Net(), lambda net: loss_of(net)[0]).dF is None


class Members(nn.Module):
    def __init__(self, nets):
        super().__init__()
        for name, _ in nets[0].named_parameters():
            self.register_parameter(
                name,
                nn.Parameter(torch.stack([n.get_parameter(name).detach() for n in nets])),
            )


def members_loss(model):
    x = randn_(5, 4, seed=8)
    out = torch.tanh(x @ model.first) @ model.second + model.zero[:, None]
    return out.square().mean((1, 2)) + out[:, :, 0].sin().mean(1), out


def test_members_are_probed_as_if_each_were_alone():
    nets = [Net(seed) for seed in (0, 10, 20)]
    model = Members(nets)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    rates = {"sgd": 1e-2, "sign": 1e-3, "lamb": 1e-3}
    effects = K.member_probes(model, members_loss, rates)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    for optimizer, lr in rates.items():
        for effect, net in zip(effects[optimizer], nets, strict=True):
            want = K.update_probe(net, loss_of, optimizer, lr)
            for name in ("g2", "g1", "linear", "dL", "dF", "loss"):
                assert getattr(effect, name) == pytest.approx(getattr(want, name), rel=1e-9, abs=1e-14), name
            for name, pair in effect.per_param.items():
                assert pair == pytest.approx(want.per_param[name], rel=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: K.update_probe(Net(), loss_of, "adam"), "'adam'.*'sign'"),
        (lambda: K.update_probe(Net(), loss_of, lr=0.0), r"lr=0\.0"),
        (lambda: K.update_probe(Net(), loss_of, lr=math.nan), "lr=nan"),
        (lambda: K.update_probes(Net(), loss_of, {}), "empty"),
        (lambda: K.update_probe(Net(), loss_of, parameters=lambda name: False), "no parameter"),
        (lambda: K.update_probe(nn.ReLU(), loss_of), "no parameter"),
        (lambda: K.update_probe(Net(), lambda net: torch.tensor(1.0)), "does not depend"),
        (lambda: K.update_probe(Net(), lambda net: net.first), r"\(4, 6\)"),
        (lambda: K.update_probe(Net(), lambda net: 1.0), "float"),
        (lambda: K.member_probes(Net(), members_loss, {"sgd": 1.0}), "common first axis"),
        (lambda: K.member_probes(Members([Net(), Net(1)]), lambda m: m.first.sum(), {"sgd": 1.0}), r"\(2,\)"),
        (lambda: K.update_probe_plain(Net(), loss_of, "adam"), "'adam'"),
    ],
)
def test_bad_probes_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_examples_in_the_docstrings():
    for module in (K.magnitude, K.probes, K.scales):
        result = doctest.testmod(module)
        assert result.attempted > 1, module.__name__
        assert result.failed == 0

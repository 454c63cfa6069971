"""lab.chains: the plain and the residual chain are what their tables say, alone and with many members."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torch.nn.functional as F
from tensors import DEVICE, randn_
from tolerances import GRADIENT, OUTPUT, assert_close

from kexue_lib import depth
from kexue_lib.lab import chains
from kexue_lib.lab.chains import PlainMLP, ResidualMLP

# forward-mode differentiation loads PyTorch's decompositions, which still use torch.jit.script
pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]
F64 = torch.float64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def plain(depth=4, width=5, seed=0, dtype=F64, **options):
    return PlainMLP(depth, width, generator=generator(seed), dtype=dtype, **options).to(DEVICE)


def residual(depth=4, width=5, seed=0, dtype=F64, **options):
    return ResidualMLP(depth, width, generator=generator(seed), dtype=dtype, **options).to(DEVICE)


def by_hand(model, x):
    """One network, layer by layer, as its docstring writes it."""
    for k in range(model.depth):
        if isinstance(model, ResidualMLP):
            q = 0 if model.tied else k
            x = x + model.eps * torch.clamp(x @ model.up[q], min=0) @ model.down[q]
        else:
            x = x @ model.weight[k]
            x = {"none": lambda h: h, "relu": lambda h: h.clamp(min=0), "tanh": torch.tanh}[model.activation](x)
            if model.norm:
                centred = x - x.mean(-1, keepdim=True)
                x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x


KINDS = {
    "orthogonal": plain,
    "he": lambda **o: plain(init="he", activation="relu", **o),
    "tanh": lambda **o: plain(init="normal", activation="tanh", **o),
    "norm": lambda **o: plain(init="normal", activation="tanh", norm="layer", **o),
    "residual": residual,
    "wide": lambda **o: residual(hidden=9, eps=0.7, **o),
    "tied": lambda **o: residual(tied=True, eps="inv", **o),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)
def test_outputs_and_gradients_are_those_of_the_loop(kind, shape):
    model, x, weight = KINDS[kind](), randn_(*shape, grad=True), randn_(*shape, seed=3)
    got, want = model(x), by_hand(model, x)
    assert_close(kind, got, want, OUTPUT[F64])
    inputs = [x, *model.parameters()]
    for g, w in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want)), strict=True):
        assert_close("gradient", g, w, GRADIENT[F64])
    h = x
    for k in range(model.depth):
        h = model.layer(h, k)
    torch.testing.assert_close(h, got)


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_networks_of_their_own(kind):
    many, x = KINDS[kind](members=3), randn_(3, 6, 5)
    out, common = many(x), many(x[0])
    assert out.shape == common.shape == (3, 6, 5)
    h = x
    for k in range(many.depth):
        h = many.layer(h, k)
    torch.testing.assert_close(h, out)
    for e in range(3):
        one = KINDS[kind]()
        one.load_state_dict({name: value[e] for name, value in many.state_dict().items()})
        torch.testing.assert_close(one(x[e]), out[e])
        torch.testing.assert_close(one(x[0]), common[e])
    grads = torch.autograd.grad(out[1].square().mul(randn_(6, 5)).sum(), list(many.parameters()))
    assert all(g[0].abs().sum() == 0 and g[2].abs().sum() == 0 and g[1].abs().sum() > 0 for g in grads)


def test_orthogonal_weights_are_those_of_pytorch_and_keep_every_length():
    model = plain(depth=1, width=6, seed=5)
    want = torch.nn.init.orthogonal_(torch.empty(6, 6, dtype=F64), generator=generator(5))
    torch.testing.assert_close(model.weight[0].detach(), want.to(DEVICE))
    deep, x = plain(depth=300, members=2), randn_(2, 4, 5)
    torch.testing.assert_close(deep(x).norm(dim=-1), x.norm(dim=-1))
    eye = torch.eye(5, dtype=F64, device=DEVICE).expand(2, 300, 5, 5)
    torch.testing.assert_close(deep.weight @ deep.weight.mT, eye)


def test_he_weights_are_those_of_pytorch():
    model = plain(depth=1, width=6, init="he", seed=5)
    want = torch.nn.init.kaiming_normal_(torch.empty(6, 6, dtype=F64), nonlinearity="relu", generator=generator(5))
    torch.testing.assert_close(model.weight[0].detach(), want.to(DEVICE))


def test_initial_entries_have_the_variance_of_the_table():
    for init, variance in (("normal", 1 / 96), ("he", 2 / 96)):
        weight = plain(depth=3, width=96, init=init).weight
        assert weight.var().item() == pytest.approx(variance, rel=0.05)
    model = residual(depth=3, width=96, hidden=48)
    assert model.up.var().item() == pytest.approx(2 / 96, rel=0.05)
    assert model.down.var().item() == pytest.approx(1 / 48, rel=0.05)


def test_a_branch_keeps_the_mean_square_in_the_mean():
    model, x = residual(depth=1, width=32, members=400, eps=1.0), randn_(8, 32)
    branch = model(x) - x
    assert (branch.square().mean() / x.square().mean()).item() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("rule", "eps"), [("inv_sqrt", 0.5), ("inv", 0.25), ("one", 1.0), (0.3, 0.3)])
def test_eps_is_a_rule_or_a_number(rule, eps):
    assert residual(depth=4, eps=rule).eps == eps
    assert depth.residual_weight(4, rule) == eps


def test_tied_layers_share_one_pair():
    model = residual(depth=7, tied=True, members=2)
    assert model.up.shape == (2, 1, 5, 5)
    assert torch.equal(model.layer(randn_(2, 3, 5), 0), model.layer(randn_(2, 3, 5), 6))


def test_one_seed_gives_one_network():
    x = randn_(3, 5)
    for make in KINDS.values():
        assert torch.equal(make(seed=3)(x), make(seed=3)(x))
        assert not torch.equal(make(seed=3)(x), make(seed=4)(x))


@pytest.mark.parametrize("kind", ["he", "residual"])
def test_gradcheck(kind):
    model, x = KINDS[kind](depth=3, width=3), randn_(2, 3, grad=True)
    names = [name for name, _ in model.named_parameters()]

    def run(x, *weights):
        return torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, [x, *(p.detach().clone().requires_grad_() for p in model.parameters())])


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_agrees_with_backward_mode(kind):
    model, x, v, weight = KINDS[kind](), randn_(3, 5), randn_(3, 5, seed=1), randn_(3, 5, seed=2)
    with torch.no_grad():
        _, moved = torch.func.jvp(model, (x,), (v,))
    y = model(x.requires_grad_())
    (g,) = torch.autograd.grad((y * weight).sum(), x)
    torch.testing.assert_close((moved * weight).sum(), (g * v).sum())


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_in_one_graph_and_runs_under_autocast(kind, members):
    model = KINDS[kind](members=members, dtype=torch.float32)
    x = randn_(3, 5, dtype=torch.float32)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), model(x))
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        out = model(x)
        out.float().square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in model.parameters())
    torch.testing.assert_close(out.float(), model(x), rtol=0.1, atol=0.1)
    if kind == "residual":
        assert out.dtype == torch.float32  # the stream keeps its precision, only the branch is rounded


def test_an_input_is_not_changed():
    x = randn_(3, 5)
    before = x.clone()
    for make in KINDS.values():
        make()(x)
        make(members=2)(x)
    assert torch.equal(x, before)


def test_layer_norm_is_that_of_pytorch():
    model, x = plain(depth=1, init="normal", norm="layer"), randn_(3, 5)
    torch.testing.assert_close(model(x), F.layer_norm(x @ model.weight[0], (5,)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PlainMLP(0, 4), "depth=0"),
        (lambda: PlainMLP(2, 4.0), r"width=4\.0"),
        (lambda: PlainMLP(2, 4, members=True), "members=True"),
        (lambda: PlainMLP(2, 4, init="xavier"), "init='xavier'.*'orthogonal'"),
        (lambda: PlainMLP(2, 4, activation="gelu"), "activation='gelu'"),
        (lambda: PlainMLP(2, 4, norm="batch"), "norm='batch'"),
        (lambda: ResidualMLP(2, 4, eps=0.0), r"0\.0"),
        (lambda: ResidualMLP(2, 4, eps="sqrt"), "'sqrt'"),
        (lambda: ResidualMLP(2, 4, eps=math.nan), "nan"),
        (lambda: ResidualMLP(2, 4, hidden=0), "hidden=0"),
        (lambda: ResidualMLP(-1, 4), "depth=-1"),
        (lambda: plain()(randn_(3, 4)), r"\(3, 4\)"),
        (lambda: plain()(torch.tensor(1.0)), r"\(\)"),
        (lambda: plain(members=2)(randn_(3, 4, 5)), r"\(3, 4, 5\)"),
        (lambda: residual(members=2)(randn_(5)), r"\(5,\)"),
    ],
)
def test_bad_settings_and_inputs_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_examples_in_the_docstrings():
    result = doctest.testmod(chains)
    assert result.attempted > 4
    assert result.failed == 0

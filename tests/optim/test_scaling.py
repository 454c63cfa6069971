"""kexue_lib.optim.scaling: a scale in front of a parameter is a learning rate (step D7)."""

from __future__ import annotations

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import DEVICE, randn_
from torch import nn
from torch.nn.utils import parametrize

import kexue_lib.optim.scaling as S
from kexue_lib.crf import LinearChainCRF

pytestmark = pytest.mark.filterwarnings("error")


def path(make, scale, steps=25):
    """The values that A takes under an optimizer of theta = A / scale, for a loss that is no quadratic."""
    theta = (randn_(3, 4, seed=1) / scale).requires_grad_()
    optimizer, aim, values = make([theta]), randn_(3, 4, seed=2), []
    for _ in range(steps):
        A = scale * theta
        loss = (torch.cosh(A - aim) * (1 + A.sin() ** 2)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append((scale * theta).detach())
    return torch.stack(values)


PAIRS = {
    "SGD": (lambda s: lambda p: torch.optim.SGD(p, 1e-3), lambda s: lambda p: torch.optim.SGD(p, s**2 * 1e-3)),
    "SGD with momentum": (
        lambda s: lambda p: torch.optim.SGD(p, 1e-4, momentum=0.9),
        lambda s: lambda p: torch.optim.SGD(p, s**2 * 1e-4, momentum=0.9),
    ),
    "Adam": (
        lambda s: lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3),
        lambda s: lambda p: torch.optim.Adam(p, s * 1e-2, eps=1e-3 / s),
    ),
    "AdamW: the decay factor stays": (
        lambda s: lambda p: torch.optim.AdamW(p, 1e-2, eps=1e-3, weight_decay=0.1),
        lambda s: lambda p: torch.optim.AdamW(p, s * 1e-2, eps=1e-3 / s, weight_decay=0.1 / s),
    ),
}


@pytest.mark.parametrize("scale", [0.25, 3.0, 7.0])
@pytest.mark.parametrize("name", PAIRS)
def test_a_scale_is_a_learning_rate(name, scale):
    of_theta, of_A = PAIRS[name]
    torch.testing.assert_close(path(of_theta(scale), scale), path(of_A(scale), 1.0), rtol=1e-11, atol=1e-12)


def test_the_wrong_rate_gives_another_path():
    """SGD needs s², Adam s: the other power differs, so that the test above can fail."""
    for made, wrong in (
        (lambda p: torch.optim.SGD(p, 1e-3), lambda p: torch.optim.SGD(p, 3e-3)),
        (lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3), lambda p: torch.optim.Adam(p, 9e-2, eps=1e-3)),
        (lambda p: torch.optim.Adam(p, 1e-2, eps=1e-3), lambda p: torch.optim.Adam(p, 3e-2, eps=1e-3)),
    ):
        assert (path(made, 3.0) - path(wrong, 1.0)).abs().max() > 1e-4


def test_decay_of_the_scaled_parameter_is_that_of_the_plain_one():
    """With zero gradient decoupled decay multiplies A by 1 - lr · wd, whatever the scale."""
    for scale in (1.0, 100.0):
        layer = nn.Linear(3, 2, bias=False, device=DEVICE, dtype=torch.float64)
        S.scaled_parameter(layer, "weight", scale)
        before = layer.weight.detach().clone()
        layer.parametrizations.weight.original.grad = torch.zeros_like(before)
        torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5).step()
        torch.testing.assert_close(layer.weight.detach(), 0.95 * before, rtol=1e-14, atol=0)


@given(st.floats(1e-3, 1e4))
@settings(max_examples=25, deadline=None)
def test_the_value_stays_and_can_be_assigned(scale):
    layer = nn.Linear(3, 2, device=DEVICE, dtype=torch.float64)
    before = layer.weight.detach().clone()
    assert S.scaled_parameter(layer, "weight", scale) is layer
    torch.testing.assert_close(layer.weight.detach(), before, rtol=1e-15, atol=0)
    layer.weight = 2 * before
    torch.testing.assert_close(layer.weight.detach(), 2 * before, rtol=1e-15, atol=0)
    parametrize.remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer.weight.detach(), 2 * before, rtol=1e-15, atol=0)


def test_groups_of_a_model():
    model = nn.ModuleDict(
        {
            "body": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            "body2": nn.Linear(1, 1),
            "crf": LinearChainCRF(4, start_end=True),
        }
    )
    model["body2"].bias.requires_grad_(False)
    groups = S.scaled_param_groups(model, {"body": 0.1, "body.1": 0.5, "crf": 100.0, "crf.theta_end": 0.5}, lr=2.0)
    found = {g["lr"]: set(g["names"]) for g in groups}
    assert found == {
        0.2: {"body.0.weight", "body.0.bias"},
        1.0: {"body.1.weight", "body.1.bias", "crf.theta_end"},
        2.0: {"body2.weight"},
        200.0: {"crf.theta", "crf.theta_start"},
    }
    names = [n for g in groups for n in g["names"]]
    assert len(names) == len(set(names))
    assert [g["lr"] / g["lr_scale"] for g in groups] == [2.0] * len(groups)
    torch.optim.Adam(groups)
    assert len(S.scaled_param_groups(model, {}, lr=1.0)) == 1


def test_a_shared_parameter_stands_in_one_group():
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    groups = S.scaled_param_groups(model, {"a": 3.0}, lr=1.0)
    assert sum(len(g["params"]) for g in groups) == 1


def test_a_scale_and_a_group_do_the_same_for_adam():
    """But for epsilon: with eps = 0 the two ways of a CRF's rate agree."""

    def trained(crf, multiplier):
        crf = crf.double().to(DEVICE)
        optimizer = torch.optim.Adam(
            S.scaled_param_groups(nn.ModuleDict({"crf": crf}), {"crf": multiplier}, 1e-3), eps=0
        )
        h, y = randn_(4, 7, 4, seed=3), torch.arange(28, device=DEVICE).view(4, 7) % 4
        for _ in range(20):
            optimizer.zero_grad()
            crf(h, y).backward()
            optimizer.step()
        return crf.transitions.detach()

    make = lambda scale: LinearChainCRF(4, scale=scale, init="zeros")  # noqa: E731
    torch.testing.assert_close(trained(make(100.0), 1.0), trained(make(1.0), 100.0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: S.ScaledParameter(0.0), ValueError, r"scale=0\.0"),
        (lambda: S.ScaledParameter(float("nan")), ValueError, "scale=nan"),
        (lambda: S.ScaledParameter(True), ValueError, "scale=True"),
        (lambda: S.scaled_parameter(nn.Linear(2, 2), "gain", 2.0), ValueError, "'gain'.*'weight', 'bias'"),
        (lambda: S.scaled_param_groups(nn.Linear(2, 2), {"crf": 2.0}, 1.0), ValueError, "'crf'.*weight, bias"),
        (lambda: S.scaled_param_groups(nn.Linear(2, 2), {"weight": -1.0}, 1.0), ValueError, r"scales\['weight'\]=-1"),
        (lambda: S.scaled_param_groups(nn.Linear(2, 2), {}, 0.0), ValueError, r"lr=0\.0"),
        (lambda: S.scaled_param_groups([nn.Linear(2, 2)], {}, 1.0), TypeError, "list"),
        (lambda: S.scaled_param_groups(nn.Linear(2, 2), {"wei": 2.0}, 1.0), ValueError, "'wei'"),
    ],
)
def test_refuses(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_compiles():
    layer = S.scaled_parameter(nn.Linear(3, 2, device=DEVICE), "weight", 10.0)
    x = torch.ones(1, 3, device=DEVICE)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x))


def test_examples_in_the_docstrings():
    result = doctest.testmod(S)
    assert result.attempted > 6
    assert result.failed == 0

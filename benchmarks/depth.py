"""Benchmarks of kexue_lib.norm and kexue_lib.depth.

    python -m benchmarks.depth --list
    python -m benchmarks.depth deepnorm --case "n=512"

DeepNorm is bound by memory: the sum αx + f takes one pass where the usual code takes two. The magnitude of a matrix
needs a Gram matrix instead of a decomposition. The probe of one step keeps copies of the parameters, not of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import depth, norm

_CHAPTER = "depth/deepnet-1000-layers"
_ALPHA = 3.2


# --- DeepNorm --------------------------------------------------------------------------------------------------------


def _rows(b: int, n: int, d: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def tensor(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

        return tensor(b, n, d), tensor(b, n, d), tensor(d), tensor(d)

    return Case(f"b={b} n={n} d={d}", inputs, devices=devices)


def _as_usual(x: Tensor, f: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """What model code has: multiply, add, normalise."""
    return F.layer_norm(_ALPHA * x + f, x.shape[-1:], w, b)


register(
    Operation(
        name="deepnorm",
        tests=("tests/test_norm.py",),
        cases=(
            _rows(4, 8, 32, ("cpu",)),
            _rows(8, 128, 256, ("cpu",)),
            _rows(8, 512, 512, ("cpu", "cuda")),
            _rows(16, 2048, 1024, ("cuda",)),
        ),
        contestants=(
            Contestant(
                "kexue_lib", "ours", lambda case: lambda x, f, w, b: norm.deepnorm(x, f, _ALPHA, weight=w, bias=b)
            ),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                lambda case: lambda x, f, w, b: norm.deepnorm_plain(x, f, _ALPHA, weight=w, bias=b),
            ),
            Contestant("layer_norm(α·x + f)", "peer", lambda case: _as_usual),
        ),
        chapter=_CHAPTER,
        about="LayerNorm of αx + f",
    )
)


# --- the magnitude of a matrix ---------------------------------------------------------------------------------------


def _matrices(n: int, m: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.randn(8, n, m, device=device, dtype=dtype, requires_grad=True),)

    return Case(f"8 matrices {n}x{m}", inputs, devices=devices)


register(
    Operation(
        name="weight_magnitude",
        tests=("tests/test_depth.py",),
        cases=(_matrices(64, 64, ("cpu",)), _matrices(256, 64, ("cpu", "cuda")), _matrices(512, 512, ("cuda",))),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: lambda w: depth.weight_magnitude(w)[0]),
            Contestant(
                "kexue_lib, singular values", "plain", lambda case: lambda w: depth.weight_magnitude_plain(w)[0]
            ),
        ),
        chapter=_CHAPTER,
        about="the size λ of a matrix W = λU",
    )
)


# --- what one step does ----------------------------------------------------------------------------------------------


class _Net(nn.Module):
    def __init__(self, first: Tensor, last: Tensor) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(first.detach().clone()), nn.Parameter(last.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.first) @ self.last


class _Deep(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(w.clone() for w in weights.detach())

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = x + torch.tanh(x @ w)
        return x


def _network(layers: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def tensor(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype) / width**0.5

        return tensor(32, width), tensor(layers, width, width) / layers**0.5

    return Case(f"layers={layers} width={width}", inputs, devices=devices)


def _probe(f: Callable[..., depth.StepEffect]) -> Callable[[Case], Callable[..., Tensor]]:
    def make(case: Case) -> Callable[..., Tensor]:
        made: list[_Deep] = []

        def loss(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            features = model(x)
            return features.square().mean(), features

        def run(x: Tensor, weights: Tensor) -> Tensor:
            if not made:
                made.append(_Deep(weights))
            effect = f(made[0], lambda model: loss(model, x), "lamb", 1e-3)
            return torch.tensor([effect.g2, effect.g1, effect.dL, effect.dF or 0.0])

        return run

    return make


register(
    Operation(
        name="update_probe",
        tests=("tests/test_depth.py",),
        cases=(_network(16, 64, ("cpu",)), _network(256, 64, ("cpu", "cuda"))),
        contestants=(
            Contestant("kexue_lib", "ours", _probe(depth.update_probe)),
            Contestant("kexue_lib, a copy of the model", "plain", _probe(depth.update_probe_plain)),
        ),
        tolerance=1e-3,
        differentiable=False,
        chapter=_CHAPTER,
        about="gradient, one step of LAMB, what it changed, and back",
    )
)


class _Members(nn.Module):
    def __init__(self, first: Tensor, last: Tensor) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(first.detach().clone()), nn.Parameter(last.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(torch.tanh(torch.bmm(x, self.first)), self.last)


def _crowd(members: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        shapes = ((members, 32, width), (members, width, 2 * width), (members, 2 * width, width))
        return tuple(torch.randn(s, device=device, dtype=dtype) / width**0.5 for s in shapes)

    return Case(f"members={members} width={width}", inputs, devices=devices)


def _together(case: Case) -> Callable[..., Tensor]:
    def run(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
        net = _Members(first, last)
        found = depth.member_probes(net, lambda model: model(x).square().mean((1, 2)), {"sgd": 1e-3})["sgd"]
        return torch.tensor([[e.g2, e.g1, e.dL] for e in found])

    return run


def _one_by_one(case: Case) -> Callable[..., Tensor]:
    def run(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
        found = []
        for row, a, b in zip(x, first, last, strict=True):
            effect = depth.update_probe(_Net(a, b), lambda model, row=row: model(row).square().mean(), "sgd", 1e-3)
            found.append([effect.g2, effect.g1, effect.dL])
        return torch.tensor(found)

    return run


register(
    Operation(
        name="member_probes",
        tests=("tests/test_depth.py",),
        cases=(_crowd(9, 32, ("cpu",)), _crowd(27, 32, ("cpu", "cuda"))),
        contestants=(
            Contestant("kexue_lib, all members in one pass", "ours", _together),
            Contestant("kexue_lib, one by one", "plain", _one_by_one),
        ),
        tolerance=1e-3,
        differentiable=False,
        chapter=_CHAPTER,
        about="what one step does to each of many small networks",
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

"""Benchmarks of kexue_lib.depth: Euler's products, the growth of a perturbation, the largest stable rate.

    python -m benchmarks.residual --list
    python -m benchmarks.residual jacobian_growth --case "layers=64"

Euler's products need one backward pass where their meaning needs a forward-mode pass for each matrix. A perturbation is
carried through the layers instead of multiplying whole Jacobians. The search for the stable rate shares the first
gradient between the candidates, and can serve many networks in one call.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import depth

_CHAPTER = "depth/why-residual"
_TESTS = ("tests/test_residual.py",)


def _case(batch: int, layers: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def tensor(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype)

        return tensor(batch, width), tensor(batch, width), tensor(layers, width, width) / width**0.5

    return Case(f"layers={layers} width={width} batch={batch}", inputs, devices=devices)


# --- Euler's products ------------------------------------------------------------------------------------------------


class _Chain(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights.unbind():
            x = F.leaky_relu(x @ w, 0.2)
        return x


def _products(f: Callable[..., dict[str, depth.EulerProduct]]) -> Callable[[Case], Callable[..., Tensor]]:
    def make(case: Case) -> Callable[..., Tensor]:
        def run(x: Tensor, target: Tensor, weights: Tensor) -> Tensor:
            found = f(_Chain(weights), lambda m: (m(x) * target).mean())["weights"]
            return torch.stack([found.product, found.g2])

        return run

    return make


register(
    Operation(
        name="euler_products",
        tests=_TESTS,
        cases=(_case(32, 16, 64, ("cpu",)), _case(32, 64, 64, ("cpu", "cuda"))),
        contestants=(
            Contestant("kexue_lib", "ours", _products(depth.euler_products)),
            Contestant(
                "kexue_lib, a forward-mode pass for each matrix", "plain", _products(depth.euler_products_plain)
            ),
        ),
        tolerance=1e-3,
        differentiable=False,
        chapter=_CHAPTER,
        about="⟨W, ∂L/∂W⟩ of every matrix of a chain",
    )
)


# --- the growth of a perturbation ------------------------------------------------------------------------------------


def _layers(weights: Tensor) -> list[Callable[[Tensor], Tensor]]:
    eps = len(weights) ** -0.5
    return [lambda h, w=w: torch.addmm(h, torch.tanh(h), w, alpha=eps) for w in weights]  # type: ignore[misc]


def _growth(f: Callable[..., depth.JacobianGrowth]) -> Callable[[Case], Callable[..., Tensor]]:
    def make(case: Case) -> Callable[..., Tensor]:
        return lambda x, v, weights: f(_layers(weights), x, v).log_gain[-1]

    return make


def _single_growth(case: Case) -> Callable[..., Tensor]:
    def run(x: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        found = [
            depth.jacobian_growth_plain(_row_layers(weights), a, b).log_gain[-1] for a, b in zip(x, v, strict=True)
        ]
        return torch.stack(found)

    return run


def _row_layers(weights: Tensor) -> list[Callable[[Tensor], Tensor]]:
    eps = len(weights) ** -0.5
    return [lambda h, w=w: h + eps * (torch.tanh(h) @ w) for w in weights]  # type: ignore[misc]


def _through(weights: Tensor) -> Callable[[Tensor], Tensor]:
    def whole(h: Tensor) -> Tensor:
        for layer in _layers(weights):
            h = layer(h)
        return h

    return whole


def _one_jvp(case: Case) -> Callable[..., Tensor]:
    """All layers at once, not renormalised, and only the last length: all that a call of PyTorch's gives."""

    def run(x: Tensor, v: Tensor, weights: Tensor) -> Tensor:
        moved: Any = torch.func.jvp(_through(weights), (x,), (v,))[1]
        return (moved.norm(dim=-1) / v.norm(dim=-1)).log()

    return run


def _layerwise(jvp: Any) -> Callable[[Case], Callable[..., Tensor]]:
    def make(case: Case) -> Callable[..., Tensor]:
        def run(x: Tensor, v: Tensor, weights: Tensor) -> Tensor:
            v, gains = F.normalize(v, dim=-1), []
            for layer in _layers(weights):
                x, v = jvp(layer, (x,), (v,))
                gains.append(v.norm(dim=-1))
                v = v / gains[-1][:, None]
            return torch.stack(gains).log().cumsum(0)[-1]

        return run

    return make


register(
    Operation(
        name="jacobian_growth",
        tests=_TESTS,
        cases=(_case(8, 16, 32, ("cpu",)), _case(32, 64, 64, ("cpu", "cuda")), _case(256, 64, 256, ("cuda",))),
        contestants=(
            Contestant("kexue_lib", "ours", _growth(depth.jacobian_growth)),
            Contestant(
                "kexue_lib, whole Jacobians",
                "plain",
                _single_growth,
                applies=lambda case: case.name.startswith("layers=16"),
            ),
            Contestant("torch.func.jvp, layer by layer", "peer", _layerwise(torch.func.jvp)),
            Contestant(
                "torch.autograd.functional.jvp, layer by layer", "peer", _layerwise(torch.autograd.functional.jvp)
            ),
            Contestant("torch.func.jvp of all layers", "limit", _one_jvp),
        ),
        tolerance=1e-3,
        differentiable=False,
        chapter=_CHAPTER,
        about="length of a perturbation after each layer, renormalised (the limit: after the last one only, bare)",
    )
)


# --- the largest stable rate -----------------------------------------------------------------------------------------


class _Crowd(nn.Module):
    """E chains in one stack; the member e can be taken out."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.detach().clone())

    def losses(self, x: Tensor) -> Tensor:
        h = x.expand(*self.weights.shape[:-3], *x.shape)
        for w in self.weights.unbind(-3):
            h = h @ w
        return F.softplus(h).mean((-2, -1))


def _crowd(members: int, layers: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        weights = torch.randn(members, layers, width, width, device=device, dtype=torch.float64) / width**0.5
        return torch.randn(32, width, device=device, dtype=torch.float64), weights

    return Case(f"members={members} layers={layers} width={width}", inputs, {"members": members}, devices=devices)


_GRID = [2.0**k for k in range(-6, 7)]


def _together(case: Case) -> Callable[..., Tensor]:
    def run(x: Tensor, weights: Tensor) -> Tensor:
        net = _Crowd(weights)
        return torch.tensor(depth.member_stable_lrs(lambda: net.losses(x), net.parameters(), _GRID))

    return run


def _apart(case: Case) -> Callable[..., Tensor]:
    def run(x: Tensor, weights: Tensor) -> Tensor:
        found = []
        for w in weights:
            net = _Crowd(w)
            found.append(depth.max_stable_lr_plain(lambda net=net: net.losses(x), net.parameters(), _GRID))
        return torch.tensor(found)

    return run


register(
    Operation(
        name="max_stable_lr",
        tests=_TESTS,
        cases=(_crowd(1, 16, 32, ("cpu",)), _crowd(5, 16, 32, ("cpu", "cuda"))),
        contestants=(
            Contestant("kexue_lib, all members in one pass", "ours", _together),
            Contestant("kexue_lib, one by one with torch.optim.SGD", "plain", _apart),
        ),
        tolerance=1e-6,
        differentiable=False,
        chapter=_CHAPTER,
        about="largest of 13 rates for which five steps each lower the loss",
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

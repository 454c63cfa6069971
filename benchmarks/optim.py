"""Benchmarks of kexue_lib.optim: one step of Tiger and of Lion.

    python -m benchmarks.optim --list
    python -m benchmarks.optim tiger_step --case many

A step without relative rates and without the test for bad gradients is what the peers do. The relative and tested step,
which is the default, has no peer: it is compared with its plain form. torch's SGD and AdamW are shown for scale; they
compute something else.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import optim

_TESTS = ("tests/optim/test_optim.py",)
_CHAPTER = "optimization/tiger-optimizer"
Shapes = list[tuple[int, ...]]


def _encoder(depth: int, dim: int, vocabulary: int) -> Shapes:
    """The tensors of an encoder."""
    layer: Shapes = [(dim, dim)] * 4 + [(4 * dim, dim), (dim, 4 * dim)] + [(dim,)] * 8 + [(4 * dim,)]
    return [(vocabulary, dim), *layer * depth]


def _case(name: str, shapes: Shapes, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        parameters = [(0.05 * torch.randn(s, device=device, dtype=dtype)).requires_grad_() for s in shapes]
        return (*parameters, *(torch.randn(s, device=device, dtype=dtype) for s in shapes))

    return Case(
        f"{name}: {len(shapes)} tensors, {sum(torch.Size(s).numel() for s in shapes) / 1e6:.1f} M",
        inputs,
        devices=devices,
    )


_CASES = (
    _case("many small", _encoder(12, 32, 95), ("cpu", "cuda")),
    _case("medium", _encoder(6, 256, 1000), ("cpu",)),
    _case("few large", [(1024, 1024)] * 4 + [(4096, 1024)], ("cpu",)),
    _case("encoder", _encoder(12, 768, 30000), ("cuda",)),
)


def _stepper(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> Callable[..., Callable[[], list[Tensor]]]:
    """The step of an optimizer on copies of the parameters, with their gradients in place."""

    def start(case: Case, *inputs: Tensor) -> Callable[[], list[Tensor]]:
        parameters, gradients = list(inputs[: len(inputs) // 2]), inputs[len(inputs) // 2 :]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.detach()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step = make(parameters).step

        def run() -> list[Tensor]:
            step()
            return parameters

        return run

    return start


def _peer(module: str, name: str, **options: Any) -> Callable[..., Callable[[], list[Tensor]]]:
    def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
        import importlib

        made: torch.optim.Optimizer = getattr(importlib.import_module(module), name)(parameters, **options)
        return made

    return _stepper(make)


_OPTIONS: dict[str, Any] = {"lr": 1e-3, "weight_decay": 0.01}
_BARE: dict[str, Any] = {**_OPTIONS, "scale": None, "shrink_ratio": None}
_SGD: dict[str, Any] = {**_OPTIONS, "momentum": 0.9}


def _others(case: Case) -> bool:
    """Optimizers that are shown for scale compute something else."""
    return False


_FOR_SCALE = tuple(
    Contestant(
        f"torch {name}, {way} (other work)",
        "limit",
        _peer("torch.optim", name, **options, **{way: True}),
        agrees=_others,
    )
    for name, options in (("SGD", _SGD), ("AdamW", _OPTIONS))
    for way in ("foreach", "fused")
)


def _ours(kind: type[optim.Tiger] | type[optim.Lion], **options: Any) -> tuple[Contestant, Contestant]:
    """An optimizer of the library, and its plain loop."""
    return (
        Contestant("kexue_lib", "ours", _stepper(lambda p: kind(p, **options))),
        Contestant("kexue_lib, plain form", "plain", _stepper(lambda p: kind(p, foreach=False, **options))),
    )


def _lions(which: str = "", **options: Any) -> tuple[Contestant, ...]:
    """The peers' Lions."""
    return tuple(
        Contestant(f"{label}{which}", "peer", _peer(module, "Lion", **options, **_OPTIONS), module.partition(".")[0])
        for label, module in (
            ("pytorch-optimizer Lion", "pytorch_optimizer"),
            ("lion-pytorch", "lion_pytorch"),
            ("lion-pytorch foreach", "lion_pytorch.foreach"),
        )
    )


def _register(name: str, about: str, *contestants: Contestant) -> None:
    register(
        Operation(
            name=name,
            about=about,
            tests=_TESTS,
            chapter=_CHAPTER,
            cases=_CASES,
            stateful=True,
            contestants=contestants,
        )
    )


_register(
    "tiger_step",
    "One step of Tiger with plain rates: what the peers' Tiger, and Lion with equal betas, do",
    *_ours(optim.Tiger, **_BARE),
    Contestant(
        "pytorch-optimizer Tiger",
        "peer",
        _peer("pytorch_optimizer", "Tiger", beta=0.965, **_OPTIONS),
        "pytorch_optimizer",
    ),
    *_lions(", equal betas", betas=(0.965, 0.965)),
    *_FOR_SCALE,
)

_register("lion_step", "One step of Lion, betas 0.9 and 0.99", *_ours(optim.Lion, **_OPTIONS), *_lions())

_register(
    "tiger_step_relative",
    "One step of Tiger as it is meant: relative rates, and the test for gradients that are not finite",
    *_ours(optim.Tiger, **_OPTIONS),
    Contestant("without both", "limit", _stepper(lambda p: optim.Tiger(p, **_BARE)), agrees=_others),
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

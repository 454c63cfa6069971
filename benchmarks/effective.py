"""Benchmarks of kexue_lib.depth.effective and kexue_lib.depth.merging.

    python -m benchmarks.effective --list

The law of the path lengths is a Poisson binomial law: SciPy has it too. All merges of a stack go along in one batch;
the plain form runs the stack once for each pair.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import depth

_CHAPTER = "depth/pre-norm-vs-post-norm"


# --- the law of the path lengths -------------------------------------------------------------------------------------


def _weights(rows: int, branches: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (torch.rand(rows, branches, device=device, dtype=dtype).add(0.01).requires_grad_(),)

    return Case(f"rows={rows} M={branches}", inputs, {"rows": rows}, devices=devices)


def _scipy(case: Case) -> Callable[[Tensor], Tensor]:
    from scipy.stats import poisson_binom

    def law(w: Tensor) -> Tensor:
        p = (w / (1 + w)).detach().double().cpu().numpy()
        k = range(p.shape[-1] + 1)
        return torch.stack([torch.from_numpy(poisson_binom.pmf(k, row)) for row in p]).to(w)

    return law


register(
    Operation(
        name="path_lengths",
        tests=("tests/test_effective_depth.py",),
        cases=(
            _weights(1, 96, ("cpu",)),
            _weights(8, 512, ("cpu", "cuda")),
            _weights(64, 512, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: depth.path_lengths),
            Contestant("kexue_lib, branch by branch", "plain", lambda case: depth.path_lengths_plain),
            Contestant("scipy.stats.poisson_binom", "peer", _scipy, needs="scipy", differentiable=False),
        ),
        chapter=_CHAPTER,
        about="how much of the output comes over paths of each length",
    )
)


# --- the stream ------------------------------------------------------------------------------------------------------


def _stream(places: int, tokens: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        steps = torch.randn(places, tokens, width, device=device, dtype=dtype)
        return (steps.cumsum(0).requires_grad_(),)

    return Case(f"M={places} tokens={tokens} d={width}", inputs, devices=devices)


def _all_four(f: Callable[[Tensor], depth.StreamStatistics]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def run(x: Tensor) -> tuple[Tensor, ...]:
        found = f(x)
        return found.mean_square, found.relative_change, found.cosine, found.input_change

    return run


def _as_usual(x: Tensor) -> tuple[Tensor, ...]:
    """What analysis code has: one expression for each statistic."""
    normed = F.layer_norm(x, x.shape[-1:])
    change = (x[1:] - x[:-1]).square().mean((1, 2))
    size = x.square().mean((1, 2))
    return (
        size,
        (change / size[:-1]).sqrt(),
        F.cosine_similarity(x[1:], x[:-1], dim=-1).mean(-1),
        (normed[1:] - normed[:-1]).square().mean((1, 2)).sqrt(),
    )


register(
    Operation(
        name="stream_statistics",
        tests=("tests/test_effective_depth.py",),
        cases=(
            _stream(16, 8, 32, ("cpu",)),
            _stream(64, 128, 64, ("cpu", "cuda")),
            _stream(96, 2048, 512, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: _all_four(depth.stream_statistics)),
            Contestant(
                "kexue_lib, vector by vector",
                "plain",
                lambda case: _all_four(depth.stream_statistics_plain),
                applies=lambda case: "tokens=8 " in case.name,
            ),
            Contestant("one torch expression each", "peer", lambda case: _as_usual),
        ),
        tolerance=1e-4,
        chapter=_CHAPTER,
        about="size, change and angle of a residual stream from sublayer to sublayer",
    )
)


# --- merging ---------------------------------------------------------------------------------------------------------


def _stack(branches: int, tokens: int, width: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def tensor(*shape: int) -> Tensor:
            return (torch.randn(shape, device=device, dtype=dtype) / shape[-2] ** 0.5).requires_grad_()

        return tensor(tokens, width), tensor(branches, width, 2 * width), tensor(branches, 2 * width, width)

    return Case(f"M={branches} tokens={tokens} d={width}", inputs, devices=devices)


def _branches(up: Tensor, down: Tensor) -> list[Callable[[Tensor], Tensor]]:
    return [lambda h, a=a, b=b: torch.relu(h @ a) @ b for a, b in zip(up, down, strict=True)]


def _merge(f: Callable[..., Tensor]) -> Callable[[Case], Callable[..., Tensor]]:
    return lambda case: lambda x, up, down: f(x, _branches(up, down))


class _Block(nn.Module):
    def __init__(self, branch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(F.layer_norm(x, x.shape[-1:]))


class _Pair(nn.Module):
    def __init__(self, first: _Block, second: _Block) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        h = F.layer_norm(x, x.shape[-1:])
        return x + self.first.branch(h) + self.second.branch(h)


def _rebuild(case: Case) -> Callable[..., Tensor]:
    """What people do: rebuild the list of blocks with one pair replaced, and run it."""

    def run(x: Tensor, up: Tensor, down: Tensor) -> Tensor:
        blocks: Sequence[_Block] = [_Block(f) for f in _branches(up, down)]
        ends = []
        for t in range(len(blocks) - 1):
            pair = _Pair(blocks[t], blocks[t + 1])
            ends.append(nn.Sequential(*blocks[:t], pair, *blocks[t + 2 :])(x))
        return torch.stack(ends)

    return run


register(
    Operation(
        name="merge_sublayers",
        tests=("tests/test_effective_depth.py", "tests/lab/test_stacks.py"),
        cases=(
            _stack(8, 32, 32, ("cpu",)),
            _stack(48, 64, 64, ("cpu", "cuda")),
            _stack(96, 256, 256, ("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib, all pairs in one pass", "ours", _merge(depth.merge_sublayers)),
            Contestant("kexue_lib, pair after pair", "plain", _merge(depth.merge_sublayers_plain)),
            Contestant("torch.nn.Sequential, rebuilt for each pair", "peer", _rebuild),
        ),
        tolerance=1e-3,
        chapter=_CHAPTER,
        about="the end of a Pre Norm stream with sublayers t and t + 1 side by side, for every t",
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

"""Benchmarks of kexue_lib.crf.

    python -m benchmarks.crf --list
    python -m benchmarks.crf crf_nll --case "n=256"

The sentences have different lengths, from half the longest on. The peers are pytorch-crf (a loop over time) and
torch-struct (a tree over time; it has no scores of the ends, so they are put into its first and last potentials).
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import crf

_TESTS = ("tests/test_crf.py",)
_CHAPTER = "optimization/crf-learning-rate"
# log Z of 1024 places is about 2000: in float32 the logarithms of the peers are good to 2e-4, and their marginals too.
_TOLERANCE = 2e-3


def _case(b: int, n: int, k: int, devices: tuple[str, ...]) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        def tensor(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, dtype=dtype, requires_grad=True)

        lengths = torch.linspace(n, max(1, n // 2), b, device=device).long()
        mask = torch.arange(n, device=device) < lengths[:, None]
        tags = torch.randint(k, (b, n), device=device)
        return tensor(b, n, k), tensor(k, k), tensor(k), tensor(k), tags, mask

    return Case(f"b={b} n={n} k={k}", inputs, devices=devices)


_CASES = (
    _case(32, 48, 4, ("cpu",)),
    _case(32, 256, 4, ("cpu", "cuda")),
    _case(4, 1024, 4, ("cpu", "cuda")),
    _case(32, 128, 20, ("cpu",)),
)
_SMALL = tuple(c for c in _CASES if "k=4" in c.name)


def _few_tags(case: Case) -> bool:
    """With 20 tags torch-struct takes a second a call; it is left out there."""
    return "k=4" in case.name


def _pytorch_crf(h: Tensor, A: Tensor, a: Tensor, z: Tensor) -> Any:
    import torchcrf  # type: ignore[import-not-found, unused-ignore]

    module = torchcrf.CRF(h.shape[2], batch_first=True)
    for name, value in (("transitions", A), ("start_transitions", a), ("end_transitions", z)):
        del module._parameters[name]
        setattr(module, name, value)
    return module


def _torch_struct(h: Tensor, A: Tensor, a: Tensor, z: Tensor, mask: Tensor) -> Any:
    import torch_struct  # type: ignore[import-not-found, unused-ignore]

    lengths = mask.sum(1)
    last = torch.nn.functional.one_hot(lengths - 2, h.shape[1] - 1).to(h.dtype)
    edges = A.T + h[:, 1:, :, None] + last[:, :, None, None] * z[:, None]  # [next, previous]
    first = torch.zeros_like(edges)
    first[:, 0] = (h[:, 0] + a)[:, None, :]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_struct.LinearChainCRF((edges + first).contiguous(), lengths=lengths)


def _pytorch_crf_peer(make: Callable[..., Callable[..., Any]], **more: Any) -> Contestant:
    return Contestant("pytorch-crf", "peer", make, needs="torchcrf", **more)


def _torch_struct_peer(make: Callable[..., Callable[..., Any]], **more: Any) -> Contestant:
    return Contestant("torch-struct", "peer", make, needs="torch_struct", applies=_few_tags, **more)


def _register(name: str, about: str, *contestants: Contestant, **more: Any) -> None:
    register(
        Operation(
            name=name,
            about=about,
            tests=_TESTS,
            chapter=_CHAPTER,
            contestants=contestants,
            **{"cases": _CASES, "tolerance": _TOLERANCE, **more},
        )
    )


# --- the loss -------------------------------------------------------------------------------------------------------


def _nll(method: str) -> Callable[[Case], Callable[..., Tensor]]:
    return lambda case: (
        lambda h, A, a, z, tags, mask: crf.crf_nll(h, A, tags, mask, a, z, reduction="none", method=method)
    )


def _nll_pytorch_crf(case: Case) -> Callable[..., Tensor]:
    return lambda h, A, a, z, tags, mask: -_pytorch_crf(h, A, a, z)(h, tags, mask, reduction="none")


def _nll_torch_struct(case: Case) -> Callable[..., Tensor]:
    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        k = h.shape[2]
        one_hot = torch.nn.functional.one_hot(tags, k)
        parts = (one_hot[:, 1:, :, None] & one_hot[:, :-1, None, :]) * mask[:, 1:, None, None]
        return -_torch_struct(h, A, a, z, mask).log_prob(parts.contiguous())

    return f


_register(
    "crf_nll",
    "the loss of a linear-chain CRF, with padding and scores of the ends",
    Contestant("kexue_lib", "ours", _nll("auto")),
    Contestant("kexue_lib, log-space scan", "plain", _nll("scan")),
    _pytorch_crf_peer(_nll_pytorch_crf),
    _torch_struct_peer(_nll_torch_struct),
)


# --- the sum over all paths -----------------------------------------------------------------------------------------


def _partition(method: str) -> Callable[[Case], Callable[..., Tensor]]:
    return lambda case: lambda h, A, a, z, tags, mask: crf.crf_log_partition(h, A, mask, a, z, method=method)


def _partition_pytorch_crf(case: Case) -> Callable[..., Tensor]:
    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = _pytorch_crf(h, A, a, z)._compute_normalizer(h.transpose(0, 1), mask.transpose(0, 1))
        return out

    return f


_register(
    "crf_log_partition",
    "log of the sum over all paths",
    Contestant("kexue_lib", "ours", _partition("auto")),
    Contestant("kexue_lib, log-space scan", "plain", _partition("scan")),
    Contestant("kexue_lib, log-space tree", "plain", _partition("tree"), applies=_few_tags),
    _pytorch_crf_peer(_partition_pytorch_crf),
    _torch_struct_peer(lambda case: lambda h, A, a, z, tags, mask: _torch_struct(h, A, a, z, mask).partition),
)


# --- marginals ------------------------------------------------------------------------------------------------------


def _marginals_by_autograd(case: Case) -> Callable[..., Tensor]:
    """The marginals of steps as the gradient of the scan's log Z by one score for each step."""

    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        with torch.enable_grad():
            h, A = h.detach(), A.detach()
            steps = A.expand(h.shape[0], h.shape[1] - 1, *A.shape).clone().requires_grad_()
            alpha = h[:, 0] + a.detach()
            for t in range(1, h.shape[1]):
                new = torch.logsumexp(alpha[:, :, None] + steps[:, t - 1], dim=1) + h[:, t]
                alpha = torch.where(mask[:, t, None], new, alpha)
            log_z = torch.logsumexp(alpha + z.detach(), dim=1)
            return torch.autograd.grad(log_z.sum(), steps)[0]

    return f


_register(
    "crf_marginals",
    "the probability of every step between neighbours",
    Contestant(
        "kexue_lib",
        "ours",
        lambda case: (
            lambda h, A, a, z, tags, mask: crf.crf_marginals(
                h.detach(), A.detach(), mask, a.detach(), z.detach(), pairwise=True
            )[1]
        ),
    ),
    Contestant("gradient of a log-space scan", "plain", _marginals_by_autograd),
    _torch_struct_peer(
        lambda case: (
            lambda h, A, a, z, tags, mask: _torch_struct(h.detach(), A.detach(), a.detach(), z.detach(), mask).marginals
        ),
        read=lambda found: found.transpose(2, 3),
    ),
    differentiable=False,
)


# --- the best path --------------------------------------------------------------------------------------------------


def _padded(found: list[list[int]]) -> Tensor:
    longest = max(map(len, found))
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in found])


def _viterbi_torch_struct(case: Case) -> Callable[..., Any]:
    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Any:
        steps = _torch_struct(h.detach(), A.detach(), a.detach(), z.detach(), mask).argmax
        found = torch.cat((steps[:, :1].sum(2), steps.sum(3)), 1).argmax(-1)
        return found.masked_fill(~mask, -1)

    return f


def _viterbi_by_hand(case: Case) -> Callable[..., Tensor]:
    """The textbook loop with back-pointers, on tensors."""

    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        best, pointers = h[:, 0] + a, []
        for t in range(1, h.shape[1]):
            top = (best[:, :, None] + A).max(1)
            best = torch.where(mask[:, t, None], top.values + h[:, t], best)
            pointers.append(torch.where(mask[:, t, None], top.indices, torch.arange(A.shape[0], device=h.device)))
        y = (best + z).argmax(-1)
        path = [y]
        for back in reversed(pointers):
            y = back.gather(1, y[:, None])[:, 0]
            path.append(y)
        return torch.stack(path[::-1], 1).masked_fill(~mask, -1)

    return f


_register(
    "crf_viterbi",
    "the path with the highest score",
    Contestant("kexue_lib", "ours", lambda case: lambda h, A, a, z, tags, mask: crf.crf_viterbi(h, A, mask, a, z)[0]),
    Contestant("loop with back-pointers", "plain", _viterbi_by_hand),
    _pytorch_crf_peer(
        lambda case: lambda h, A, a, z, tags, mask: _pytorch_crf(h, A, a, z).decode(h, mask), read=_padded
    ),
    _torch_struct_peer(_viterbi_torch_struct),
    differentiable=False,
)


# --- draws ----------------------------------------------------------------------------------------------------------


def _sample_torch_struct(case: Case) -> Callable[..., Tensor]:
    def f(h: Tensor, A: Tensor, a: Tensor, z: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        with torch.enable_grad():  # it samples by a backward pass
            edges = (h.detach().requires_grad_(), A.detach(), a.detach(), z.detach())
            found: Tensor = _torch_struct(*edges, mask).sample((8,))
        return found

    return f


_register(
    "crf_sample",
    "eight exact draws of paths for each sentence",
    Contestant(
        "kexue_lib", "ours", lambda case: lambda h, A, a, z, tags, mask: crf.crf_sample(h, A, mask, a, z, samples=8)
    ),
    _torch_struct_peer(_sample_torch_struct, agrees=lambda case: False),
    cases=_SMALL,
    differentiable=False,
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

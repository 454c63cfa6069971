"""Benchmarks of kexue_lib.argmax.

    python -m benchmarks.argmax --list
    python -m benchmarks.argmax argmaxable --case d=8

Every contestant decides every class. Ours alone gives a proof for each: a witness whose lead exceeds the rounding
errors, or a verified certificate of absence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import argmax

CHAPTER = "language/unargmaxable-words"


def _normal(n: int, d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    return lambda device, dtype: (torch.randn(n, d, device=device, dtype=dtype),)


def _spread(n: int, d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    """Lengths that differ as those of real word vectors do: few classes fail the quick test."""

    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        rows = torch.randn(n, d, device=device, dtype=dtype)
        length = torch.linspace(0.4, 1.4, n, device=device, dtype=dtype)
        return (length[:, None] * torch.nn.functional.normalize(rows, dim=1),)

    return make


# --- every class decided --------------------------------------------------------------------------------------------


def _qhull(case: Case) -> Callable[[Tensor], Tensor]:
    from scipy.spatial import ConvexHull

    def decide(weight: Tensor) -> Tensor:
        status = np.full(len(weight), -1, dtype=np.int8)
        status[ConvexHull(weight.double().cpu().numpy()).vertices] = 1
        return torch.from_numpy(status)

    return decide


def _programmes(case: Case) -> Callable[[Tensor], Tensor]:
    return lambda weight: torch.from_numpy(argmax.argmaxable_plain(weight))


def _note(case: Case) -> str:
    if case.options["d"] < 6:
        return (
            "Qhull is compiled code for low dimensions and gives no proofs; its time grows like n^(d/2), "
            "and from d = 7 on it is slower"
        )
    return ""


register(
    Operation(
        name="argmaxable",
        chapter=CHAPTER,
        about="which of n normal classes can be the argmax, decided for each",
        tests=("tests/test_argmax.py",),
        cases=tuple(Case(f"n={n} d={d}", _normal(n, d), {"n": n, "d": d}) for n, d in ((200, 3), (200, 7), (200, 16))),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: lambda weight: argmax.argmaxable(weight).status),
            Contestant("kexue_lib, a linear programme per class", "plain", _programmes),
            Contestant("scipy ConvexHull (Qhull)", "peer", _qhull, applies=lambda case: case.options["d"] <= 7),
        ),
        differentiable=False,
        factor=lambda case: 5.0 if case.options["d"] > 3 else None,
        note=_note,
        modules=("kexue_lib.argmax",),
    )
)


# --- the quick test -------------------------------------------------------------------------------------------------


def _whole_gram(case: Case) -> Callable[[Tensor], Tensor]:
    """What one would write by hand: blocks of rows against all rows, in the dtype of the input."""

    def test(weight: Tensor) -> Tensor:
        x = weight - weight.mean(0)
        own = x.square().sum(1)
        gaps = []
        for start in range(0, len(x), 1024):
            products = x[start : start + 1024] @ x.T
            products.diagonal(start).fill_(-torch.inf)
            gaps.append(own[start : start + 1024] - products.amax(1))
        return torch.cat(gaps)

    return test


register(
    Operation(
        name="argmax_self_test",
        chapter=CHAPTER,
        about="lead of every class at its own direction over all others",
        tests=("tests/test_argmax.py",),
        cases=(
            Case("n=4096 d=384", _spread(4096, 384), {"n": 4096}),
            Case("n=30522 d=384", _spread(30_522, 384), {"n": 30_522}, devices=("cuda",)),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: argmax.self_test),
            Contestant(
                "kexue_lib, plain form (float64, whole Gram matrix)",
                "plain",
                lambda case: argmax.self_test_plain,
                applies=lambda case: case.options["n"] <= 5000,
            ),
            Contestant("blocks of W Wᵀ by hand", "peer", _whole_gram),
        ),
        tolerance=1e-3,
        differentiable=False,
        modules=("kexue_lib.argmax",),
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

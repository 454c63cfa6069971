"""Benchmarks of kexue_lib.flows.

python -m benchmarks.flows --list
python -m benchmarks.flows kde_score --case 1000
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import flows

_TESTS = ("tests/test_flows.py",)
_CHAPTER = "optimization/gradient-flow"
_F64 = torch.float64


def _numpy(*tensors: Tensor) -> list[Any]:
    return [x.detach().cpu().double().numpy() for x in tensors]


# --- score of a kernel density estimate -----------------------------------------------------------------------------


def _particles(n: int, d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(torch.randn(n, d, device=device, dtype=dtype, requires_grad=True) for _ in range(2))

    return make


def _kde_by_hand(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """All distances by cdist, a softmax, a product of matrices."""
    b = case.options["bandwidth"]
    return lambda x, y: (torch.softmax(torch.cdist(x, y).square() / (-2 * b * b), dim=1) @ y - x) / (b * b)


def _kde_by_autograd(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    """The gradient of logsumexp, as the definition says."""
    b = case.options["bandwidth"]

    def f(x: Tensor, y: Tensor) -> Tensor:
        with torch.enable_grad():
            at = x.detach().requires_grad_()
            gap = (at.square().sum(1, keepdim=True) - 2 * at @ y.detach().T + y.detach().square().sum(1)) / (-2 * b * b)
            (slope,) = torch.autograd.grad(torch.logsumexp(gap, dim=1).sum(), at)
        return slope

    return f


register(
    Operation(
        name="kde_score",
        about="∇ log of a Gaussian kernel density estimate at n points, from n samples",
        chapter=_CHAPTER,
        tests=_TESTS,
        memory=True,
        cases=tuple(
            Case(f"n={n} d={d}", _particles(n, d), {"bandwidth": 1.0, "n": n}, devices)
            for devices, shapes in ((("cpu",), ((300, 1), (1000, 2), (4000, 8))), (("cuda",), ((20000, 2),)))
            for n, d in shapes
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: lambda x, y: flows.kde_score(x, y, case.options["bandwidth"])),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                lambda case: lambda x, y: flows.kde_score_plain(x, y, case.options["bandwidth"]),
                applies=lambda case: case.options["n"] <= 4000,
            ),
            Contestant("cdist, softmax, matmul", "peer", _kde_by_hand),
            Contestant("autograd of logsumexp", "peer", _kde_by_autograd, differentiable=False),
        ),
        tolerance=1e-3,
        note="ours is fused attention with a coordinate more, which a few points on a line do not repay",
    )
)

# --- distances of Gaussians and of samples ---------------------------------------------------------------------------


def _gaussians(d: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        found = []
        for _ in range(2):
            g = torch.randn(d, d, device=device, dtype=_F64)
            found += [torch.randn(d, device=device, dtype=_F64), g @ g.T / d]
            found[-1].diagonal().add_(0.1)
        return tuple(x.to(dtype).requires_grad_() for x in found)

    return make


def _pot_bures(case: Case) -> Callable[..., Tensor]:
    from ot.gaussian import bures_wasserstein_distance  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return lambda m1, s1, m2, s2: bures_wasserstein_distance(m1, m2, s1, s2).squeeze()  # type: ignore[no-any-return, unused-ignore]


register(
    Operation(
        name="gaussian_w2",
        about="W₂ of two Gaussians",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(Case(f"d={d}", _gaussians(d), {}) for d in (2, 32, 256)),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: flows.gaussian_w2),
            Contestant("kexue_lib, plain form", "plain", lambda case: flows.gaussian_w2_plain, differentiable=False),
            # its gradient comes through matrix square roots, and is not symmetric: another function of the entries
            Contestant("POT", "peer", _pot_bures, needs="ot", differentiable=False),
        ),
        tolerance=1e-3,
        note="one decomposition each; ours is of singular values, so that close Gaussians do not cancel",
    )
)


def _samples(k: int, n: int, m: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return tuple(torch.randn(k, size, device=device, dtype=dtype, requires_grad=True) for size in (n, m))

    return make


def _pot_line(case: Case) -> Callable[..., Tensor]:
    import ot  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return lambda x, y: ot.wasserstein_1d(x.T, y.T, p=2).sqrt()  # type: ignore[no-any-return, unused-ignore]


register(
    Operation(
        name="wasserstein2_1d",
        about="W₂ of k pairs of samples on the line, n and m points",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(
            Case(f"k={k} n={n} m={m}", _samples(k, n, m), {"n": n})
            for k, n, m in ((1, 1000, 1000), (64, 2000, 2000), (64, 2000, 1500))
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: flows.wasserstein2_1d),
            Contestant(
                "kexue_lib, plain form",
                "plain",
                lambda case: flows.wasserstein2_1d_plain,
                applies=lambda case: "k=1 " in case.name,
            ),
            Contestant("POT", "peer", _pot_line, needs="ot"),
        ),
        tolerance=1e-3,
    )
)

# --- tridiagonal systems and what they are for ----------------------------------------------------------------------


def _bands(k: int, n: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        shapes = ((k, n - 1), (k, n), (k, n - 1), (k, n))
        found = [torch.randn(s, device=device, dtype=dtype) for s in shapes]
        found[1] = found[1].abs() + 4
        return tuple(x.requires_grad_() for x in found)

    return make


def _scipy_banded(case: Case) -> Callable[..., Tensor]:
    import numpy as np
    from scipy.linalg import solve_banded  # type: ignore[import-untyped, unused-ignore]

    def f(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
        low, mid, up, b = (x.detach().numpy() for x in (lower, diag, upper, rhs))
        packed = np.zeros((3, *mid.shape), dtype=mid.dtype)
        packed[0, :, 1:], packed[1], packed[2, :, :-1] = up, mid, low
        return torch.from_numpy(np.stack([solve_banded((1, 1), packed[:, row], b[row]) for row in range(len(mid))]))

    return f


def _dense(case: Case) -> Callable[..., Tensor]:
    return lambda low, mid, up, b: torch.linalg.solve(flows.tridiagonal_dense(low, mid, up), b.unsqueeze(-1)).squeeze(
        -1
    )


register(
    Operation(
        name="solve_tridiagonal",
        about="k tridiagonal systems with n unknowns",
        chapter=_CHAPTER,
        tests=_TESTS,
        cases=tuple(
            Case(f"k={k} n={n}", _bands(k, n), {"n": n, "k": k}) for k, n in ((1, 400), (64, 400), (1, 100000))
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: flows.solve_tridiagonal),
            Contestant(
                "kexue_lib, row by row",
                "plain",
                lambda case: flows.solve_tridiagonal_plain,
                applies=lambda case: case.options["n"] <= 400,
            ),
            Contestant("SciPy solve_banded", "peer", _scipy_banded, needs="scipy", differentiable=False),
            Contestant("dense solve", "peer", _dense, applies=lambda case: case.options["n"] <= 400),
        ),
        note=lambda case: (
            ""
            if case.options["k"] > 1
            else "one system is a serial job, and LAPACK's compiled loop does not pay for calls"
        ),
    )
)


def _well(n: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = torch.linspace(-4, 4, n, device=device, dtype=_F64)
        q = torch.exp(-((x - 1.5) ** 2) / 0.08)
        return (q / (q.sum() * 8 / (n - 1))).to(dtype), (0.75 * (x**2 - 1) ** 2).to(dtype)

    return make


def _sparse_matrix(potential: Tensor, dx: float):  # type: ignore[no-untyped-def]
    from scipy.sparse import diags  # type: ignore[import-untyped, unused-ignore]

    lower, diag, upper = _numpy(*flows.fokker_planck_generator(potential.double(), dx))
    return diags([lower, diag, upper], [-1, 0, 1], format="csc")


def _evolve_densely(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    dx = 8 / (case.options["n"] - 1)
    return lambda q, v: flows.fokker_planck_evolve_plain(q.double(), v.double(), dx, 1.0).to(q)


def _expm_multiply(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    from scipy.sparse.linalg import expm_multiply  # type: ignore[import-untyped, unused-ignore]

    dx = 8 / (case.options["n"] - 1)
    return lambda q, v: torch.from_numpy(expm_multiply(_sparse_matrix(v, dx), _numpy(q)[0])).to(q)


def _expm(case: Case) -> Callable[[Tensor, Tensor], Tensor]:
    from scipy.linalg import expm  # type: ignore[import-untyped, unused-ignore]

    dx = 8 / (case.options["n"] - 1)
    return lambda q, v: torch.from_numpy(expm(_sparse_matrix(v, dx).toarray()) @ _numpy(q)[0]).to(q)


register(
    Operation(
        name="fokker_planck_evolve",
        about="density of a diffusion in a double well at t = 1, on a grid of n points",
        chapter=_CHAPTER,
        tests=_TESTS,
        differentiable=False,
        cases=tuple(Case(f"n={n}", _well(n), {"n": n}) for n in (201, 801)),
        contestants=(
            Contestant(
                "kexue_lib", "ours", lambda case: lambda q, v: flows.fokker_planck_evolve(q, v, 8 / (len(q) - 1), 1.0)
            ),
            Contestant(
                "kexue_lib, dense exponential",
                "plain",
                lambda case: (
                    lambda q, v: flows.fokker_planck_evolve_plain(q.double(), v.double(), 8 / (len(q) - 1), 1.0).to(q)
                ),
            ),
            Contestant("SciPy expm_multiply", "peer", _expm_multiply, needs="scipy"),
            Contestant("SciPy expm", "peer", _expm, needs="scipy", applies=lambda case: case.options["n"] <= 201),
        ),
        factor=lambda case: 10.0 if case.options["n"] >= 801 else None,
    )
)


def _quantiles(n: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        u = (torch.arange(n, device=device, dtype=_F64) + 0.5) / n
        return (1.5 + 0.2 * math.sqrt(2) * torch.erfinv(2 * u - 1),)

    return make


def _double_well(x: Tensor) -> Tensor:
    return 0.75 * (x**2 - 1) ** 2


def _scipy_newton(case: Case) -> Callable[[Tensor], Tensor]:
    """The same iteration for this one potential, with its derivatives written out and SciPy's solver."""
    import numpy as np
    from scipy.linalg import solveh_banded  # type: ignore[import-untyped, unused-ignore]

    h = 0.1

    def f(q0: Tensor) -> Tensor:
        start = q0.numpy()
        x, none = start.copy(), np.zeros(1)

        def energy(x):  # type: ignore[no-untyped-def]
            return ((x - start) ** 2 / (2 * h) + 0.75 * (x**2 - 1) ** 2).sum() - np.log(np.diff(x)).sum()

        now = energy(x)
        for _ in range(200):
            inverse = 1 / np.diff(x)
            slope = (x - start) / h + 3 * x * (x**2 - 1) + np.append(inverse, none) - np.append(none, inverse)
            stiff = inverse**2
            centre = np.maximum(1 / h + 9 * x**2 - 3, 0.1 / h) + np.append(stiff, none) + np.append(none, stiff)
            move = -solveh_banded(np.stack((np.append(none, -stiff), centre)), slope)
            shrink = (-np.diff(move) * inverse).max()
            size = min(1.0, 0.9 / shrink) if shrink > 0 else 1.0
            while energy(x + size * move) > now + 1e-4 * size * (slope * move).sum() + 1e-12 * (1 + abs(now)):
                size /= 2
            x = x + size * move
            now = energy(x)
            if size * np.abs(move).max() <= 1e-10 * (start[-1] - start[0]):
                break
        return torch.from_numpy(x)

    return f


register(
    Operation(
        name="jko_quantile",
        about="one JKO step on n quantiles in a double well",
        chapter=_CHAPTER,
        tests=_TESTS,
        differentiable=False,
        cases=tuple(Case(f"n={n}", _quantiles(n), {"n": n}, ("cpu",)) for n in (400, 2000)),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: lambda q: flows.jko_quantile(q, _double_well, 0.1)),
            Contestant(
                "kexue_lib, dense Newton",
                "plain",
                lambda case: lambda q: flows.jko_quantile_plain(q, _double_well, 0.1),
            ),
            Contestant("the same by hand with SciPy solveh_banded", "peer", _scipy_newton, needs="scipy"),
        ),
        factor=lambda case: 5.0 if case.options["n"] >= 2000 else None,
        note="the peer has this potential's derivatives written out; ours differentiates any potential",
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

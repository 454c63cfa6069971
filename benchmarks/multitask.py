"""Benchmarks of kexue_lib.min_norm and kexue_lib.multitask.

python -m benchmarks.multitask --list
python -m benchmarks.multitask min_norm_weights
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.registry import Case, Contestant, Operation, main, register
from kexue_lib import min_norm, multitask

_CHAPTER = "multitask/gradient-direction"

# --- the weights ------------------------------------------------------------------------------------------------------


def _gram(batch: tuple[int, ...], n: int, idle: int = 0) -> Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]:
    """Gram matrices of gradients that nearly all count; ``idle`` tasks are too long to get a weight."""

    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        g = torch.randn(*batch, n, 50 * n, dtype=torch.float64)
        if idle:
            g[..., -idle:, :] = 2 * g[..., -idle:, :] + g[..., :1, :]
        return ((g @ g.mT).to(device),)  # the dtype of all contestants: torchjd's loop stalls below float64

    return inputs


def _weights_case(n: int, *batch: int, idle: int = 0) -> Case:
    name = f"n={n}" + (f", batch {batch[0]}" if batch else "") + (f", {idle} idle" if idle else "")
    return Case(name, _gram(batch, n, idle), {"n": n, "idle": idle, "batch": batch}, ("cpu",))


def _each(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A peer that takes one matrix, for a batch."""
    return lambda gram: f(gram) if gram.dim() == 2 else torch.stack([f(k) for k in gram])


def _torchjd(**setting: Any) -> Callable[[Case], Callable[[Tensor], Tensor]]:
    def make(case: Case) -> Callable[[Tensor], Tensor]:
        from torchjd.aggregation import MGDAWeighting  # type: ignore[import-untyped, unused-ignore]

        return _each(MGDAWeighting(**setting))

    return make


def _nnls(case: Case) -> Callable[[Tensor], Tensor]:
    """Non-negative least squares with one more equation, sum = 1, is the same problem up to a factor."""
    from scipy.optimize import nnls

    def f(gram: Tensor) -> Tensor:
        c = gram.diagonal().min()
        factor = torch.linalg.cholesky(gram + c)
        right = torch.linalg.solve_triangular(factor, c.expand(len(gram), 1), upper=False)
        x = torch.from_numpy(nnls(factor.T.numpy(), right[:, 0].numpy())[0])
        return x / x.sum()

    return _each(f)


register(
    Operation(
        name="min_norm_weights",
        tests=("tests/test_min_norm.py",),
        chapter=_CHAPTER,
        about="weights of the shortest vector in a convex hull, from a Gram matrix in float64",
        cases=(
            *(_weights_case(n) for n in (2, 3, 4, 8, 16, 32)),
            _weights_case(8, idle=3),
            _weights_case(3, 64),
            _weights_case(8, 64),
        ),
        contestants=(
            Contestant("kexue_lib", "ours", lambda case: min_norm.min_norm_weights),
            Contestant(
                "kexue_lib, one face after the other",
                "plain",
                lambda case: min_norm.min_norm_weights_plain,
                applies=lambda case: case.options["n"] <= 8 and not case.options["batch"],
            ),
            Contestant("SciPy, nnls", "peer", _nnls, needs="scipy"),
            Contestant(
                "torchjd, tight",
                "peer",
                _torchjd(epsilon=1e-9, max_iters=20000),
                needs="torchjd",
                # with an idle task it takes half a second and is still 20000 steps away
                applies=lambda case: not case.options["batch"] and not case.options["idle"],
            ),
            Contestant(
                "torchjd, default (error to 4 %)", "limit", _torchjd(), needs="torchjd", agrees=lambda case: False
            ),
        ),
        tolerance=1e-5,
        differentiable=False,
        # A few systems of equations in place of 2^n - 1.
        factor=lambda case: {4: 5.0, 8: 50.0}.get(case.options["n"]) if not case.options["batch"] else None,
        note=lambda case: (
            "several rounds of NumPy calls against one call of compiled code" if case.options["idle"] else ""
        ),
    )
)

# --- the gradients ----------------------------------------------------------------------------------------------------


def _network(n: int, width: int, batch: int) -> tuple[nn.Module, nn.ModuleList, Tensor]:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Linear(144, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
    )
    heads = nn.ModuleList(nn.Linear(width, 10) for _ in range(n))
    return trunk, heads, torch.randn(batch, 144)


def _parts(case: Case) -> tuple[nn.Module, nn.ModuleList, list[Callable[[Tensor], Tensor]]]:
    trunk, heads, _ = _network(*(case.options[key] for key in ("n", "width", "batch")))
    return trunk, heads, [lambda h, head=head: head(h).square().mean() for head in heads]


def _gradients_case(n: int, width: int, batch: int) -> Case:
    def inputs(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        return (_network(n, width, batch)[2],)

    return Case(f"n={n} width={width} batch={batch}", inputs, {"n": n, "width": width, "batch": batch}, ("cpu",))


def _shared(case: Case) -> Callable[[Tensor], tuple[Tensor, ...]]:
    trunk, _, tasks = _parts(case)
    parameters = list(trunk.parameters())

    def f(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            found = multitask.shared_gradients(trunk(x), tasks, parameters)
        assert found.parameters is not None
        return found.parameters

    return f


def _one_by_one(case: Case) -> Callable[[Tensor], tuple[Tensor, ...]]:
    trunk, heads, tasks = _parts(case)
    parameters = [*trunk.parameters(), *heads.parameters()]

    def f(x: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            h = trunk(x)
            found = multitask.task_gradients_plain(torch.stack([task(h) for task in tasks]), parameters)
        return found[: len(list(trunk.parameters()))]

    return f


def _mtl_backward(case: Case) -> Callable[[Tensor], tuple[Tensor, ...]]:
    from torchjd.autojac import mtl_backward

    trunk, heads, tasks = _parts(case)
    parameters = list(trunk.parameters())

    def f(x: Tensor) -> tuple[Tensor, ...]:
        for p in parameters:
            if hasattr(p, "jac"):
                del p.jac
        with torch.enable_grad():
            h = trunk(x)
            losses = [task(h) for task in tasks]
            mtl_backward(
                losses,
                features=h,
                tasks_params=[list(head.parameters()) for head in heads],
                shared_params=parameters,
            )
        return tuple(p.jac for p in parameters)  # type: ignore[attr-defined]

    return f


register(
    Operation(
        name="shared_gradients",
        tests=("tests/test_multitask.py",),
        chapter=_CHAPTER,
        about="the gradients of n losses with respect to a shared trunk, and each head's own",
        cases=(_gradients_case(3, 100, 64), _gradients_case(8, 100, 64), _gradients_case(3, 512, 64)),
        contestants=(
            Contestant("kexue_lib, one batched pass", "ours", _shared),
            Contestant("kexue_lib, n passes", "plain", _one_by_one),
            Contestant("torchjd, mtl_backward", "peer", _mtl_backward, needs="torchjd"),
        ),
        differentiable=False,
    )
)

if __name__ == "__main__":
    sys.exit(main(description=__doc__))

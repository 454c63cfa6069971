"""The largest learning rate that some steps of gradient descent survive.

Sources: Su Jianlin, https://kexue.fm/archives/8994 (2022), claim C7 of the chapter *why-residual*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["max_stable_lr", "max_stable_lr_plain", "member_stable_lrs"]


def max_stable_lr(
    loss_fn: Callable[[], Tensor], params: Iterable[Tensor], grid: Sequence[float], steps: int = 5
) -> float:
    r"""The largest learning rate of a grid for which every one of some gradient-descent steps lowers the loss.

    The candidates are tried from the largest on. All start from the same point, so they share the first gradient, and
    one that is too large costs a single evaluation.

    Args:
        loss_fn: gives the loss, a 0-d tensor; deterministic: no dropout, one batch.
        params: what is moved. They are the same before and after, to the last bit; ``.grad`` is not touched.
        grid: candidates > 0, in any order.
        steps: how many steps, each θ ← θ − η ∂L/∂θ.

    Returns:
        The rate, or 0.0 if none will do. A loss that is not finite counts as no descent.

    Raises:
        ValueError: an empty grid, a rate that is not finite and positive, no step, no parameter, or a loss that does
            not depend on them.

    Hazards:
        "Every step lowers the loss" is stricter than "training converges", and not monotone in the rate: a rate above
        the result fails, one below it may fail too.

    Example:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> max_stable_lr(lambda: w.square().sum(), [w], [0.25, 0.5, 0.9, 1.1, 2.0])  # L = w²: stable below 1
        0.9
        >>> w
        tensor([1.], requires_grad=True)

    Source: https://kexue.fm/archives/8994; claim C7 of the chapter *why-residual*.
    """
    return _search(loss_fn, list(params), grid, steps, None)[0]


def member_stable_lrs(
    loss_fn: Callable[[], Tensor], params: Iterable[Tensor], grid: Sequence[float], steps: int = 5
) -> list[float]:
    """:func:`max_stable_lr` for many networks at once that share nothing but the calls.

    Each member is at its own candidate and its own step; a call evaluates all of them.

    Args:
        loss_fn: gives the losses ``(E,)``; the loss of member e may depend on the entries ``[e]`` of the parameters
            only.
        params: tensors ``(E, ...)``.
        grid, steps: as there.

    Example:
        >>> w = torch.ones(2, 1, requires_grad=True)
        >>> member_stable_lrs(lambda: (torch.tensor([1.0, 4.0]) * w[:, 0].square()), [w], [0.1, 0.2, 0.4, 0.8])
        [0.8, 0.2]

    Source: the chapter *why-residual*, experiment B.
    """
    params = list(params)
    members = params[0].shape[0] if params and params[0].dim() else 0
    if params and (members < 1 or any(p.dim() < 1 or p.shape[0] != members for p in params)):
        raise ValueError(f"the parameters have no common first axis: {[tuple(p.shape) for p in params][:4]} …")
    return _search(loss_fn, params, grid, steps, members)


def max_stable_lr_plain(
    loss_fn: Callable[[], Tensor], params: Iterable[Tensor], grid: Sequence[float], steps: int = 5
) -> float:
    """:func:`max_stable_lr`, candidate by candidate with PyTorch's optimizer: its specification.

    Example:
        >>> w = torch.tensor([1.0], requires_grad=True)
        >>> max_stable_lr_plain(lambda: w.square().sum(), [w], [0.25, 0.9, 1.1])
        0.9

    Source: https://kexue.fm/archives/8994.
    """
    params = list(params)
    rates = _rates(params, grid, steps)
    saved, grads = [p.detach().clone() for p in params], [p.grad for p in params]
    best = 0.0
    try:
        with torch.enable_grad():
            for rate in rates:
                optimizer = torch.optim.SGD(params, lr=rate)
                loss = _checked(loss_fn(), None)
                for _ in range(steps):
                    if not loss.requires_grad:
                        raise ValueError("the loss does not depend on any parameter")
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    before, loss = loss.detach(), _checked(loss_fn(), None)
                    if not (bool(loss < before) and math.isfinite(loss.item())):
                        break
                else:
                    best = rate
                    break
                _restore(params, saved)
    finally:
        _restore(params, saved)
        for p, g in zip(params, grads, strict=True):
            p.grad = g
    return best


def _search(
    loss_fn: Callable[[], Tensor], params: list[Tensor], grid: Sequence[float], steps: int, members: int | None
) -> list[float]:
    rates = [*_rates(params, grid, steps), 0.0]  # at the end of the grid a member stands still
    rows = members or 1

    def evaluate() -> tuple[list[float], Tensor]:
        with torch.enable_grad():
            loss = _checked(loss_fn(), members)
            if not loss.requires_grad:
                raise ValueError("the loss does not depend on any parameter")
            return loss.detach().reshape(rows).tolist(), loss.sum()

    def gradients(total: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(total, params, allow_unused=True, materialize_grads=True)

    def spread(values: Sequence[float], like: Tensor) -> Any:
        if members is None:
            return values[0]
        return torch.tensor(values, dtype=like.dtype, device=like.device).view(rows, *[1] * (like.dim() - 1))

    saved = [p.detach().clone() for p in params]
    start, total = evaluate()
    first = gradients(total)
    place = [0 if math.isfinite(value) else len(rates) - 1 for value in start]  # the candidate of each member
    taken, last = [0] * rows, list(start)
    again, grads = [True] * rows, first  # who leaves from the start
    try:
        while any(rates[place[e]] and taken[e] < steps for e in range(rows)):
            moves = [rates[place[e]] if taken[e] < steps else 0.0 for e in range(rows)]
            with torch.no_grad():
                for p, origin, g, g0 in zip(params, saved, grads, first, strict=True):
                    if all(again):
                        p.copy_(origin - spread(moves, p) * g0)
                    elif not any(again):
                        p.sub_(spread(moves, p) * g)
                    else:  # finished members move by nothing, whatever their gradient is
                        back = spread([float(flag) for flag in again], p) > 0
                        p.copy_(torch.where(back, origin, p) - spread(moves, p) * torch.where(back, g0, g))
            found, total = evaluate()
            for e in range(rows):
                again[e] = False
                if not moves[e]:
                    continue
                if found[e] < last[e] and math.isfinite(found[e]):
                    taken[e], last[e] = taken[e] + 1, found[e]
                else:
                    place[e], taken[e], last[e], again[e] = place[e] + 1, 0, start[e], True
            if any(moves[e] and not again[e] and taken[e] < steps for e in range(rows)):
                grads = gradients(total)  # who failed or has finished needs none
            del total
    finally:
        _restore(params, saved)
    return [rates[k] for k in place]


def _restore(params: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(params, saved, strict=True):
            p.copy_(value)


def _rates(params: Sequence[Tensor], grid: Sequence[float], steps: int) -> list[float]:
    rates = sorted({float(rate) for rate in grid}, reverse=True)
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"grid={list(grid)!r} must hold finite numbers > 0, at least one")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r} must be an integer >= 1")
    if not params:
        raise ValueError("params is empty; give the tensors that are moved")
    return rates


def _checked(loss: Any, members: int | None) -> Tensor:
    shape = () if members is None else (members,)
    if not isinstance(loss, Tensor) or loss.shape != shape:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn gave {found}; a tensor {shape} is needed")
    return loss

"""What one step of an optimizer changes: the loss, the output, and the gradient of each parameter.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["STEP_KINDS", "StepEffect", "member_probes", "update_probe", "update_probe_plain", "update_probes"]

STEP_KINDS = ("sgd", "sign", "lamb")
"""The steps that :func:`update_probe` knows."""


@dataclass(frozen=True)
class StepEffect:
    r"""What one step of size η along −d changes.

    Attributes:
        g2: ‖g‖₂², over all probed parameters.
        g1: ‖g‖₁.
        linear: ⟨g, Δθ⟩, the change of the loss to first order (step D1).
        dL: L(θ + Δθ) − L(θ).
        dF: root mean square of the change of the features; None if the loss function gives no features.
        loss: L(θ).
        per_param: ``name → (‖g‖₂², ‖g‖₁)`` of each parameter.
    """

    g2: float
    g1: float
    linear: float
    dL: float
    dF: float | None
    loss: float
    per_param: Mapping[str, tuple[float, float]]


LossFunction = Callable[[nn.Module], Any]


def update_probe(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: str = "sgd",
    lr: float = 1e-2,
    *,
    parameters: Callable[[str], bool] | None = None,
) -> StepEffect:
    r"""Take one step, look at what it changed, and put the parameters back, bit by bit.

    ========== =========================================================
    optimizer  Δθ, for each parameter tensor on its own
    ========== =========================================================
    ``"sgd"``  −η g
    ``"sign"`` −η sign g: the first step of Adam (its ε aside)
    ``"lamb"`` −η RMS(θ) sign g: the first step of LAMB; RMS(θ) = 0 → 1
    ========== =========================================================

    Args:
        model: its parameters are the same before and after, to the last bit; ``.grad`` is not touched.
        loss_fn: from the model to the loss (a 0-d tensor), or to a pair (loss, features) with a tensor of any shape. It
            is called twice and has to be deterministic: no dropout, one batch.
        optimizer: see the table.
        lr: η > 0, so small that the change is linear; compare ``linear`` with ``dL``.
        parameters: which parameters take part, from their names; default all that require gradients.

    Raises:
        ValueError: an unknown optimizer, η ≤ 0, no parameter, a loss that does not depend on them.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> x = torch.ones(1, 3)
        >>> step = update_probe(model, lambda m: m(x).sum(), lr=0.5)
        >>> round(step.g2, 5), round(step.linear, 5), round(step.dL, 5)  # linear in θ: nothing beyond the first order
        (4.0, -2.0, -2.0)

    Source: https://kexue.fm/archives/8978, step D1.
    """
    return update_probes(model, loss_fn, {optimizer: lr}, parameters=parameters)[optimizer]


def update_probes(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, StepEffect]:
    """:func:`update_probe` for several steps from the same point: one backward pass for all.

    Args:
        model, loss_fn, parameters: as there.
        steps: ``optimizer → lr``.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> effects = update_probes(model, lambda m: m(torch.ones(1, 3)).sum(), {"sgd": 0.1, "sign": 0.1})
        >>> round(effects["sgd"].dL, 4), round(effects["sign"].dL, 4)
        (-0.4, -0.4)

    Source: https://kexue.fm/archives/8978, step D1.
    """
    effects = _probe(model, loss_fn, steps, *_probed(model, steps, parameters), None)
    return {kind: found[0] for kind, found in effects.items()}


def member_probes(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, list[StepEffect]]:
    r""":func:`update_probes` for many networks at once that share nothing but the calls.

    Small networks spend their time on calls, not on arithmetic. If every probed parameter has a first axis of E members
    (as in :class:`kexue_lib.lab.stacks.DeepStack`), one backward pass gives the gradients of all members.

    Args:
        model, steps, parameters: as there; the probed parameters are ``(E, ...)``.
        loss_fn: gives the losses ``(E,)``, or a pair of them and the features ``(E, ...)``. What belongs to member e
            may depend on the entries ``[e]`` of the parameters only.

    Returns:
        ``optimizer → [effect of each member]``.

    Example:
        >>> class Two(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> effects = member_probes(Two(), lambda m: m.w.square().sum(1), {"sgd": 0.25})["sgd"]
        >>> [(round(e.g2, 4), round(e.dL, 4)) for e in effects]
        [(20.0, -3.75), (36.0, -6.75)]

    Source: the chapter *deepnet-1000-layers*, experiment A.
    """
    names, probed = _probed(model, steps, parameters)
    members = probed[0].shape[0] if probed[0].dim() else 0
    if members < 1 or any(p.dim() < 1 or p.shape[0] != members for p in probed):
        raise ValueError(f"the probed parameters have no common first axis: {[tuple(p.shape) for p in probed][:4]} …")
    return _probe(model, loss_fn, steps, names, probed, members)


def _probe(
    model: nn.Module,
    loss_fn: LossFunction,
    steps: Mapping[str, float],
    names: list[str],
    values: list[Tensor],
    members: int | None,
) -> dict[str, list[StepEffect]]:
    rows = members or 1
    with torch.enable_grad():
        loss, features = _loss(loss_fn(model), members)
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on any parameter")
        found = torch.autograd.grad(loss.sum(), values, allow_unused=True)
    before = None if features is None else features.detach().clone()
    start = loss.detach().double().reshape(rows)
    del loss, features
    # Parameters of one shape are handled together, (tensors, members, numbers): a thousand layers are few calls then.
    groups: dict[Any, list[int]] = {}
    for k, p in enumerate(values):
        groups.setdefault((p.shape, p.dtype, p.device), []).append(k)
    places = list(groups.values())
    saved = [torch.stack([values[k].detach() for k in group]) for group in places]
    grads = []
    for group, stack in zip(places, saved, strict=True):
        full = [torch.zeros_like(values[k]) if (g := found[k]) is None else g for k in group]
        grads.append(torch.stack(full).reshape(len(group), rows, stack[0].numel() // rows))
    del found

    def norms(tensors: list[Tensor], order: int) -> list[Tensor]:
        return [torch.linalg.vector_norm(t, order, dim=2).double() for t in tensors]

    squares, absolutes = [t.square() for t in norms(grads, 2)], norms(grads, 1)
    g2, g1 = (torch.stack([t.sum(0) for t in found]).sum(0) for found in (squares, absolutes))
    table: list[Any] = [None] * len(values)
    for group, two, one in zip(places, squares, absolutes, strict=True):
        for k, row in zip(group, torch.stack((two, one), dim=-1).tolist(), strict=True):
            table[k] = row
    per_param = [{name: (row[e][0], row[e][1]) for name, row in zip(names, table, strict=True)} for e in range(rows)]
    effects: dict[str, list[StepEffect]] = {}
    with torch.no_grad():
        for kind, lr in steps.items():
            if kind == "sgd":
                steps_of, linear = grads, -lr * g2
            elif kind == "sign":
                steps_of, linear = [g.sign() for g in grads], -lr * g1
            else:
                flat = [p.reshape(g.shape) for p, g in zip(saved, grads, strict=True)]
                sizes = [t / math.sqrt(max(1, g.shape[2])) for t, g in zip(norms(flat, 2), grads, strict=True)]
                sizes = [torch.where(t > 0, t, 1.0) for t in sizes]
                steps_of = [g.sign() * t[..., None].to(g.dtype) for t, g in zip(sizes, grads, strict=True)]
                linear = -lr * torch.stack([(t * a).sum(0) for t, a in zip(sizes, absolutes, strict=True)]).sum(0)
            try:
                for group, stack, move in zip(places, saved, steps_of, strict=True):
                    torch._foreach_add_([values[k] for k in group], list(move.view_as(stack).unbind()), alpha=-lr)
                after, moved = _loss(loss_fn(model), members)
            finally:
                for group, stack in zip(places, saved, strict=True):  # add and subtract would leave rounding errors
                    torch._foreach_copy_([values[k] for k in group], list(stack.unbind()))
            change: list[float | None] = [None] * rows
            if before is not None and moved is not None:
                change = (moved - before).reshape(rows, -1).double().square().mean(1).sqrt().tolist()
            numbers = torch.stack((g2, g1, linear, after.double().reshape(rows) - start, start), 1).tolist()
            effects[kind] = [
                StepEffect(g2=a, g1=b, linear=c, dL=d, dF=change[e], loss=f, per_param=per_param[e])
                for e, (a, b, c, d, f) in enumerate(numbers)
            ]
    return effects


def update_probe_plain(
    model: nn.Module,
    loss_fn: LossFunction,
    optimizer: str = "sgd",
    lr: float = 1e-2,
    *,
    parameters: Callable[[str], bool] | None = None,
) -> StepEffect:
    """:func:`update_probe` on a copy of the model, parameter by parameter: its specification.

    Example:
        >>> round(update_probe_plain(nn.Linear(2, 1), lambda m: m(torch.ones(1, 2)).sum(), "sign", 0.5).dL, 5)
        -1.5

    Source: https://kexue.fm/archives/8978, step D1.
    """
    _probed(model, {optimizer: lr}, parameters)
    other = copy.deepcopy(model)
    names, values = _probed(other, {optimizer: lr}, parameters)
    with torch.enable_grad():
        loss, features = _loss(loss_fn(other))
        grads = torch.autograd.grad(loss, values, allow_unused=True)
    per_param, linear = {}, 0.0
    with torch.no_grad():
        for name, p, found in zip(names, values, grads, strict=True):
            g = torch.zeros_like(p) if found is None else found
            per_param[name] = (float(g.double().square().sum()), float(g.double().abs().sum()))
            step = g if optimizer == "sgd" else g.sign()
            if optimizer == "lamb":
                rms = p.square().mean().sqrt()
                step = step * torch.where(rms > 0, rms, torch.ones_like(rms))
            p -= lr * step
            linear -= lr * float((g.double() * step.double()).sum())
        after, moved = _loss(loss_fn(other))
    return StepEffect(
        g2=sum(a for a, _ in per_param.values()),
        g1=sum(b for _, b in per_param.values()),
        linear=linear,
        dL=float(after.double() - loss.detach().double()),
        dF=None
        if features is None or moved is None
        else float((moved - features.detach()).double().square().mean().sqrt()),
        loss=float(loss.detach()),
        per_param=per_param,
    )


def _probed(
    model: nn.Module, steps: Mapping[str, float], parameters: Callable[[str], bool] | None
) -> tuple[list[str], list[Tensor]]:
    if not steps:
        raise ValueError("steps is empty; give at least one optimizer and its learning rate")
    for kind, lr in steps.items():
        if kind not in STEP_KINDS:
            raise ValueError(f"optimizer={kind!r} is not known; choose one of {', '.join(map(repr, STEP_KINDS))}")
        if isinstance(lr, Tensor) or not 0 < lr < math.inf:
            raise ValueError(f"lr={lr!r} must be a finite number > 0")
    pairs = [(k, p) for k, p in model.named_parameters() if p.requires_grad and (parameters is None or parameters(k))]
    if not pairs:
        raise ValueError("no parameter is probed: none requires gradients, or parameters= chooses none")
    return [k for k, _ in pairs], [p for _, p in pairs]


def _loss(result: Any, members: int | None = None) -> tuple[Tensor, Tensor | None]:
    loss, features = result if isinstance(result, tuple) else (result, None)
    shape = () if members is None else (members,)
    if not isinstance(loss, Tensor) or loss.shape != shape:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn gave {found}; a tensor {shape}, or a pair of it and the features, is needed")
    return loss, features

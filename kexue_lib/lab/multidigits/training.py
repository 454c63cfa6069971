"""The training: rules that turn the gradients of the tasks into one update, and what happens under each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kexue_lib.min_norm import min_norm_weights
from kexue_lib.multitask import SharedGradients, pcgrad_weights, shared_gradients

from ..checkpoints import Checkpoint, Record, Stateful, usual
from ..distributed import join, ranks, share
from ..progressbar import progress
from .network import TASKS, SharedTrunk
from .overlays import MultiDigits

__all__ = ["RULES", "Step", "TrainingRecord", "train"]


@dataclass(frozen=True)
class Step:
    """What a rule sees of one member at one step.

    Attributes:
        gram: of the gradients of the trunk, ``(n, n)`` float64.
        representation_gram: of the gradients with respect to the representation, ``(n, n)`` float64.
        losses: ``(n,)`` float64.
        generator: for rules that draw.
    """

    gram: Tensor
    representation_gram: Tensor
    losses: Tensor
    generator: torch.Generator


def _normalised(step: Step) -> Tensor:
    scale = step.gram.diagonal().clamp(min=1e-300).rsqrt()
    return min_norm_weights(scale[:, None] * step.gram * scale) * scale


Rule = Callable[[Step], Tensor]
RULES: Mapping[str, Rule] = {
    "equal": lambda step: torch.full_like(step.losses, 1 / len(step.losses)),
    "reciprocal loss": lambda step: 1 / step.losses,
    "reciprocal norm": lambda step: step.gram.diagonal().rsqrt(),
    "PCGrad": lambda step: pcgrad_weights(step.gram, generator=step.generator),
    "MGDA": lambda step: min_norm_weights(step.gram),
    "MGDA, normalised": _normalised,
    "MGDA-UB": lambda step: min_norm_weights(step.representation_gram),
}
"""From a :class:`Step` to the coefficients c of the update u = Σ c_i g_i of the trunk."""


@dataclass(frozen=True)
class TrainingRecord:
    """What happened in the training of several members; the first axis of all is the steps, the second the members.

    Attributes:
        losses: ``(steps, E, n)``.
        norms: ‖g_i‖, ``(steps, E, n)``.
        coefficients: c, ``(steps, E, n)``.
        descent: cosines of g_i and the update u, ``(steps, E, n)``.
        adam: cosines of g_i and what Adam subtracts, ``(steps, E, n)``.
        conflicts: pairs of gradients with a negative inner product, ``(steps, E)``.
    """

    losses: np.ndarray
    norms: np.ndarray
    coefficients: np.ndarray
    descent: np.ndarray
    adam: np.ndarray
    conflicts: np.ndarray


class _Sums:
    r"""What the processes add up in a step, in one buffer: one message, and no new memory.

    Part r of the batch has the share :math:`w_r` of the pairs. Every loss is a mean over pairs, so that the loss, the
    gradient of the trunk and those of the heads are :math:`\sum_r w_r(\cdot)_r`. The gradient with respect to the
    representation of a pair is :math:`w_r` times what part r finds. Each part has pairs of its own, so that the Gram
    matrix of these gradients is :math:`\sum_r w_r^2 K_r`.

    Attributes:
        matrix: the gradients of the trunk, ``(E, n, parameters)``.
        above: the Gram matrix of the gradients with respect to the representation, ``(E, n, n)``.
        losses: ``(E, n)``.
    """

    def __init__(self, model: SharedTrunk) -> None:
        trunk, n = list(model.trunk), len(TASKS)
        members, device = len(trunk[0]), trunk[0].device
        ends = np.cumsum([p[0].numel() for p in trunk]).tolist()
        self._places = [slice(end - p[0].numel(), end) for p, end in zip(trunk, ends, strict=True)]
        self._heads = list(model.heads.parameters())
        sizes = [members * n * ends[-1], members * n * n, members * n, *(p.numel() for p in self._heads)]
        self._all = torch.empty(sum(sizes), dtype=torch.float64, device=device)
        first, second, third, *self._of_heads = self._all.split(sizes)
        self.matrix, self.above = first.view(members, n, -1), second.view(members, n, n)
        self.losses = third.view(members, n)
        self._taken = torch.empty(members, ends[-1], dtype=torch.float64, device=device)
        self._trunk = trunk

    def fill(self, found: SharedGradients, losses: list[Tensor], share: float | None) -> None:
        """Write what this process has found; with a share, add up what all have found, and read it back."""
        assert found.parameters is not None  # they were asked for
        self.losses[:] = torch.stack(losses, dim=-1)
        for g, place in zip(found.parameters, self._places, strict=True):
            self.matrix[:, :, place] = g.detach().flatten(2).transpose(0, 1)
        cotangents = found.representation.transpose(0, 1).flatten(2).double()  # (E, n, pairs · width)
        self.above[:] = cotangents @ cotangents.mT
        if share is None:
            return
        self.above *= share
        for p, place in zip(self._heads, self._of_heads, strict=True):
            assert p.grad is not None
            place[:] = p.grad.flatten()
        self._all *= share
        dist.all_reduce(self._all)
        for g, place in zip(found.parameters, self._places, strict=True):
            g.copy_(self.matrix[:, :, place].transpose(0, 1).view_as(g))
        for p, place in zip(self._heads, self._of_heads, strict=True):
            assert p.grad is not None
            p.grad.copy_(place.view_as(p))

    def before_step(self) -> None:
        """Remember the weights of the trunk."""
        for p, place in zip(self._trunk, self._places, strict=True):
            self._taken[:, place] = p.detach().flatten(1)

    def taken(self) -> Tensor:
        """What the step has subtracted from the weights of the trunk since, ``(E, parameters)``."""
        for p, place in zip(self._trunk, self._places, strict=True):
            self._taken[:, place] -= p.detach().flatten(1)
        return self._taken


def train(
    model: SharedTrunk,
    pairs: MultiDigits,
    rules: list[str],
    *,
    steps: int,
    generator: torch.Generator,
    batch: int = 64,
    lr: float = 1e-3,
    desc: str = "training",
    checkpoint: Checkpoint | None = None,
) -> TrainingRecord:
    """Train every member by its rule, with Adam.

    The gradients of all tasks and members come from one pass through the heads and one batched pass through the trunk.
    A head follows the gradient of its own loss. Gram matrices and rules are computed in float64.

    Several processes, started by ``torchrun``, share every batch. They add up their gradients before a rule sees them,
    so that the steps are those of one process, up to rounding.

    Args:
        model: with a member for each entry of ``rules``.
        pairs: training data.
        rules: names from :data:`RULES`.
        steps: how many.
        generator: draws the batches, and the orders of PCGrad; on the CPU.
        batch: pairs in a batch.
        lr: of Adam.
        desc: text before the progress bar.
        checkpoint: where the state is kept, as for :func:`kexue_lib.lab.training.train`.

    Returns:
        :class:`TrainingRecord`, as NumPy arrays in float64.

    Raises:
        ValueError: an unknown rule, another number of rules than of members, or a checkpoint of another training.
    """
    members, n = len(model.trunk[0]), len(TASKS)
    if len(rules) != members:
        raise ValueError(f"there are {len(rules)} rules and {members} members; give one rule for each member")
    for name in rules:
        if name not in RULES:
            raise ValueError(f"rule {name!r} is not known; choose one of {', '.join(map(repr, RULES))}")
    trunk = list(model.trunk)
    device = trunk[0].device
    pairs = pairs.to(device)
    adam = torch.optim.Adam(model.parameters(), lr=lr)
    each, pair = (members, n), (members,)
    shapes = {name: pair if name == "conflicts" else each for name in TrainingRecord.__dataclass_fields__}
    kept = {name: Record(steps, *shape, device=device) for name, shape in shapes.items()}
    checkpoint = checkpoint or usual(desc)
    parts: dict[str, Stateful | torch.Generator] = {"model": model, "optimizer": adam, "generator": generator, **kept}
    facts = {"steps": steps, "lr": lr, "batch": batch, "pairs": len(pairs), "rules": list(rules)}
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    done = checkpoint.load(parts, facts, device=device) if checkpoint else 0
    process = ranks()
    if process.count > 1:
        join(device)
    # Large buffers are made once: to ask the system for new memory in every step costs as much as the arithmetic.
    sums = _Sums(model)
    upper = torch.triu(torch.ones(n, n, dtype=torch.bool, device=device), 1)
    for step in progress(range(done, steps), desc=desc):
        rows = torch.randint(len(pairs), (batch,), generator=generator)
        counts = None
        if process.count > 1:
            rows, weight = share(rows, process)
            counts = weight / process.count
        part = pairs.take(rows.to(device))
        adam.zero_grad(set_to_none=True)
        values: list[Tensor] = []

        def head(h: Tensor, task: str, part: MultiDigits, values: list[Tensor]) -> Tensor:
            each = model.loss(task, h, part)
            values.append(each.detach())
            return each.sum()  # members share nothing, so that their gradients stay apart

        heads = [partial(head, task=task, part=part, values=values) for task in TASKS]
        found = shared_gradients(model(part.images), heads, trunk)
        assert found.parameters is not None  # they were asked for
        sums.fill(found, values, counts)
        gram = sums.matrix @ sums.matrix.mT
        seen = gram.cpu(), sums.above.cpu(), sums.losses.cpu()  # rules are tiny: not for a GPU
        coefficients = torch.stack(
            [RULES[name](Step(a, b, c, generator)) for name, a, b, c in zip(rules, *seen, strict=True)]
        ).to(gram)
        for p, g in zip(trunk, found.parameters, strict=True):
            p.grad = torch.einsum("en,ne...->e...", coefficients.to(g), g)
        sums.before_step()
        adam.step()
        taken = sums.taken()
        with torch.no_grad():
            norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
            served = (gram @ coefficients[..., None])[..., 0]
            length = (coefficients * served).sum(-1, keepdim=True).clamp(min=1e-300).sqrt()
            by_adam = (sums.matrix @ taken[..., None])[..., 0]
            for name, value in (
                ("losses", sums.losses),
                ("norms", norms),
                ("coefficients", coefficients),
                ("descent", served / (norms * length)),
                ("adam", by_adam / (norms * taken.norm(dim=-1, keepdim=True))),
                ("conflicts", ((gram < 0) & upper).sum((-2, -1))),
            ):
                kept[name].append(value)
        if checkpoint:
            checkpoint.save(step + 1, parts, facts, device=device, now=step + 1 == steps)
    return TrainingRecord(**{name: record.numpy() for name, record in kept.items()})

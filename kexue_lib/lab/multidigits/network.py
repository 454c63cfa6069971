"""The network: a trunk that all tasks share and a head for each; several members side by side."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .overlays import SIDE, MultiDigits

__all__ = ["TASKS", "SharedTrunk", "held_out_scores"]

TASKS = ("left", "right", "difference")
"""The tasks, in the order of every axis of tasks."""


class SharedTrunk(nn.Module):
    """Two hidden layers that all tasks share, and a linear head for each task; E members side by side.

    Args:
        members: E.
        width: of both hidden layers.
        unit: the difference of the inks is measured in standard deviations / ``unit``: its squared error is multiplied
            by ``unit``². A number, or one for each member, ``(E,)``.
        generator: for the first weights, which all members share.

    ``model(images)`` gives the representation ``(E, batch, width)``; ``model.loss(task, h, batch)`` the loss of each
    member, ``(E,)``.

    >>> from kexue_lib.lab.multidigits import multidigits
    >>> model = SharedTrunk(2, width=16, generator=torch.Generator().manual_seed(0))
    >>> pairs = multidigits(5, part="train", rng=np.random.default_rng(0))
    >>> h = model(pairs.images)
    >>> h.shape, model.loss("left", h, pairs).shape
    (torch.Size([2, 5, 16]), torch.Size([2]))
    """

    def __init__(
        self,
        members: int,
        *,
        width: int = 100,
        unit: float | Tensor = 10.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        unit = torch.as_tensor(unit, dtype=torch.float32)
        self.register_buffer("unit", unit.expand(members).clone())
        self.unit: Tensor

        def layer(inputs: int, outputs: int) -> nn.Parameter:
            weights = torch.randn(inputs, outputs, generator=generator) * math.sqrt(2 / inputs)
            return nn.Parameter(weights.expand(members, inputs, outputs).clone())

        def zeros(outputs: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(members, 1, outputs))

        self.trunk = nn.ParameterList([layer(SIDE**2, width), zeros(width), layer(width, width), zeros(width)])
        self.heads = nn.ModuleDict(
            {
                task: nn.ParameterList([layer(width, size), zeros(size)])
                for task, size in zip(TASKS, (10, 10, 1), strict=True)
            }
        )

    def forward(self, images: Tensor) -> Tensor:
        """The representation, ``(E, batch, width)``."""
        w1, b1, w2, b2 = self.trunk
        h = torch.relu(torch.baddbmm(b1, images.expand(len(w1), *images.shape), w1))
        return torch.relu(torch.baddbmm(b2, h, w2))

    def scores(self, task: str, h: Tensor) -> Tensor:
        """The scores of the ten labels, or the predicted difference: ``(E, batch, 10)`` or ``(E, batch)``."""
        head = self.heads[task]
        weights, bias = head[0], head[1]  # type: ignore[index]
        found = torch.baddbmm(bias, h, weights)
        return found[..., 0] if task == "difference" else found

    def loss(self, task: str, h: Tensor, batch: MultiDigits) -> Tensor:
        """The loss of each member, ``(E,)``."""
        found = self.scores(task, h)
        if task == "difference":
            return self.unit**2 * (found - batch.difference).square().mean(-1)
        target = batch.left if task == "left" else batch.right
        picked = found.log_softmax(-1).gather(-1, target.expand(len(found), -1)[..., None])
        return -picked.mean((-2, -1))


@torch.inference_mode()
def held_out_scores(model: SharedTrunk, pairs: MultiDigits) -> np.ndarray:
    """Accuracy of both labels, and R² of the difference, for each member: ``(E, 3)``.

    >>> from kexue_lib.lab.multidigits import multidigits
    >>> model = SharedTrunk(2, width=16, generator=torch.Generator().manual_seed(0))
    >>> held_out_scores(model, multidigits(50, part="test", rng=np.random.default_rng(0))).shape
    (2, 3)
    """
    pairs = pairs.to(model.trunk[0].device)
    h = model(pairs.images)
    labels = [
        (model.scores(task, h).argmax(-1) == target).double().mean(-1)
        for task, target in (("left", pairs.left), ("right", pairs.right))
    ]
    wrong = (
        F.mse_loss(model.scores("difference", h), pairs.difference.expand(len(h), -1), reduction="none")
        .double()
        .mean(-1)
    )
    explained = 1 - wrong / pairs.difference.double().var(unbiased=False)
    return torch.stack([*labels, explained], dim=-1).cpu().numpy()

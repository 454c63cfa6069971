"""Two overlaid digits, three tasks on one trunk: the data, a small network, and its training by any rule of weights.

The tasks: the label of the upper left digit, the label of the lower right digit (cross-entropies), and the difference
of their inks (a squared error, whose unit can be chosen). All read one representation.

Several networks are trained side by side as *members* of one: every weight has a first axis. They share the first
weights and the batches, and differ in the rule that turns the gradients of the tasks into one update of the trunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.min_norm import min_norm_weights
from kexue_lib.multitask import pcgrad_weights, shared_gradients

from . import data
from .progressbar import progress

__all__ = ["RULES", "TASKS", "MultiDigits", "SharedTrunk", "TrainingRecord", "held_out_scores", "multidigits", "train"]

TASKS = ("left", "right", "difference")
"""The tasks, in the order of every axis of tasks."""

SIDE, OFFSET = 12, 4


@dataclass(frozen=True)
class MultiDigits:
    """Overlays of two digits.

    Attributes:
        images: ``(count, 144)`` float32 in [0, 1].
        left, right: the labels, ``(count,)`` int64.
        difference: ink of the left digit minus ink of the right one, in standard deviations of the ink of the
            training digits, ``(count,)`` float32.
    """

    images: Tensor
    left: Tensor
    right: Tensor
    difference: Tensor

    def __len__(self) -> int:
        """How many overlays."""
        return len(self.images)

    def to(self, device: torch.device | str) -> MultiDigits:
        """The same on a device."""
        return MultiDigits(*(x.to(device) for x in (self.images, self.left, self.right, self.difference)))

    def take(self, rows: Tensor) -> MultiDigits:
        """Some of them."""
        return MultiDigits(*(x[rows] for x in (self.images, self.left, self.right, self.difference)))


def multidigits(count: int, *, part: str, rng: np.random.Generator) -> MultiDigits:
    """Overlay random pairs of digits: the first at the upper left, the second 4 pixels lower and further right.

    Args:
        count: how many pairs.
        part: "train" (pairs of the first 1200 digits) or "test" (pairs of the other 597).
        rng: draws the pairs.

    >>> pairs = multidigits(5, part="train", rng=np.random.default_rng(0))
    >>> pairs.images.shape, pairs.left.shape, float(pairs.images.max()) <= 1
    (torch.Size([5, 144]), torch.Size([5]), True)
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count={count!r} is not allowed; allowed: an integer >= 1")
    if part not in ("train", "test"):
        raise ValueError(f"part={part!r} is not allowed; allowed: 'train', 'test'")
    images, labels = data.digits()
    ink = images.sum((1, 2))
    unit = ink[:1200].std()
    some = np.arange(1200) if part == "train" else np.arange(1200, len(images))
    first, second = rng.choice(some, size=(2, count))
    canvas = np.zeros((count, SIDE, SIDE), dtype=np.float32)
    canvas[:, :8, :8] = images[first]
    canvas[:, OFFSET:, OFFSET:] = np.maximum(canvas[:, OFFSET:, OFFSET:], images[second])
    return MultiDigits(
        torch.from_numpy(canvas.reshape(count, -1)),
        torch.from_numpy(labels[first]),
        torch.from_numpy(labels[second]),
        torch.from_numpy(((ink[first] - ink[second]) / unit).astype(np.float32)),
    )


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
) -> TrainingRecord:
    """Train every member by its rule, with Adam.

    The gradients of all tasks and members come from one pass through the heads and one batched pass through the trunk.
    A head follows the gradient of its own loss. Gram matrices and rules are computed in float64.

    Args:
        model: with a member for each entry of ``rules``.
        pairs: training data.
        rules: names from :data:`RULES`.
        steps: how many.
        generator: draws the batches, and the orders of PCGrad; on the CPU.
        batch: pairs in a batch.
        lr: of Adam.
        desc: text before the progress bar.

    Returns:
        :class:`TrainingRecord`, as NumPy arrays in float64.
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
    kept: dict[str, list[Tensor]] = {name: [] for name in TrainingRecord.__dataclass_fields__}
    # Large buffers are made once: to ask the system for new memory in every step costs as much as the arithmetic.
    ends = np.cumsum([p[0].numel() for p in trunk]).tolist()
    places = [slice(end - p[0].numel(), end) for p, end in zip(trunk, ends, strict=True)]
    matrix = torch.empty(members, n, ends[-1], dtype=torch.float64, device=device)
    taken = torch.empty(members, ends[-1], dtype=torch.float64, device=device)
    upper = torch.triu(torch.ones(n, n, dtype=torch.bool, device=device), 1)
    for _ in progress(range(steps), desc=desc):
        rows = torch.randint(len(pairs), (batch,), generator=generator).to(device)
        part = pairs.take(rows)
        adam.zero_grad(set_to_none=True)
        values: list[Tensor] = []

        def head(h: Tensor, task: str, part: MultiDigits, values: list[Tensor]) -> Tensor:
            each = model.loss(task, h, part)
            values.append(each.detach())
            return each.sum()  # members share nothing, so that their gradients stay apart

        heads = [partial(head, task=task, part=part, values=values) for task in TASKS]
        found = shared_gradients(model(part.images), heads, trunk)
        assert found.parameters is not None  # they were asked for
        losses = torch.stack(values, dim=-1).double()  # (E, n)
        for g, place in zip(found.parameters, places, strict=True):
            matrix[:, :, place] = g.detach().flatten(2).transpose(0, 1)
        gram = matrix @ matrix.mT
        above = found.representation.transpose(0, 1).flatten(2).double()  # (E, n, batch · width)
        seen = gram.cpu(), (above @ above.mT).cpu(), losses.cpu()  # rules are tiny: not for a GPU
        coefficients = torch.stack(
            [RULES[name](Step(a, b, c, generator)) for name, a, b, c in zip(rules, *seen, strict=True)]
        ).to(gram)
        for p, place in zip(trunk, places, strict=True):
            taken[:, place] = p.detach().flatten(1)
        for p, g in zip(trunk, found.parameters, strict=True):
            p.grad = torch.einsum("en,ne...->e...", coefficients.to(g), g)
        adam.step()
        with torch.no_grad():
            for p, place in zip(trunk, places, strict=True):
                taken[:, place] -= p.flatten(1)
            norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
            served = (gram @ coefficients[..., None])[..., 0]
            length = (coefficients * served).sum(-1, keepdim=True).clamp(min=1e-300).sqrt()
            by_adam = (matrix @ taken[..., None])[..., 0]
            for name, value in (
                ("losses", losses),
                ("norms", norms),
                ("coefficients", coefficients),
                ("descent", served / (norms * length)),
                ("adam", by_adam / (norms * taken.norm(dim=-1, keepdim=True))),
                ("conflicts", ((gram < 0) & upper).sum((-2, -1))),
            ):
                kept[name].append(value)
    return TrainingRecord(**{name: torch.stack(value).double().cpu().numpy() for name, value in kept.items()})


@torch.inference_mode()
def held_out_scores(model: SharedTrunk, pairs: MultiDigits) -> np.ndarray:
    """Accuracy of both labels, and R² of the difference, for each member: ``(E, 3)``.

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

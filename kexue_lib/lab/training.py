"""Train small models, and evaluate a masked language model on windows of any length."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .checkpoints import Checkpoint, Record, Stateful, usual
from .distributed import Objective, examples, mean_over_ranks, parallel, ranks, share
from .progressbar import progress
from .text import CausalBatch, MaskedBatch, MaskedText

__all__ = ["Evaluation", "Watch", "causal_loss", "evaluate", "masked_loss", "train"]

Schedule = Literal["linear", "cosine", "constant"]
Found = TypeVar("Found")


def masked_loss(model: nn.Module, batch: MaskedBatch) -> torch.Tensor:
    """Mean cross-entropy at the masked places, in nats."""
    hidden = model(batch.inputs)
    places = batch.places.unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
    logits = model.logits(hidden.gather(1, places))  # type: ignore[operator]
    return F.cross_entropy(logits.flatten(0, 1).float(), batch.targets.flatten())


def causal_loss(model: nn.Module, batch: CausalBatch) -> torch.Tensor:
    """Mean cross-entropy of the next character at every place, in nats.

    A model that has a loss of its own, such as the commitment loss of quantized keys, keeps it as ``extra_loss``: a
    number made by its last forward pass, which is added.
    """
    logits = model.logits(model(batch.inputs))  # type: ignore[operator]
    loss = F.cross_entropy(logits.flatten(0, -2).float(), batch.targets.flatten())
    extra = getattr(model, "extra_loss", None)
    return loss if extra is None else loss + extra


class Watch(Generic[Found]):
    """Measure a model while it trains; what was found is kept with the training's state, so that a crash loses none.

    Args:
        every: steps between two measurements; the first is made after so many steps.
        measure: of the model, which it may put into eval mode. It gives numbers, texts, or lists, tuples and dicts of
            them: what can be read back from a file. Several processes all measure, and find the same.

    Attributes:
        found: what was measured so far.

    Raises:
        TypeError: ``measure`` gives something else.
        ValueError: ``every`` is not an integer ≥ 1.

    >>> watch = Watch(every=2, measure=lambda model: model.weight.item())
    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> for step in range(1, 5):
    ...     watch.look(step, model)
    >>> watch.found
    [1.0, 1.0]
    """

    def __init__(self, every: int, measure: Callable[[Any], Found]) -> None:
        """Nothing is found yet; the arguments stand in the docstring of the class."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every={every!r} is not allowed; allowed: an integer >= 1")
        self.every, self.measure = every, measure
        self.found: list[Found] = []

    def look(self, step: int, model: nn.Module) -> None:
        """Measure, if it is time after so many steps; the model is left in the mode that it had."""
        if step % self.every:
            return
        mode = model.training
        value = self.measure(model)
        model.train(mode)
        _readable(value)
        self.found.append(value)

    def state_dict(self) -> dict[str, Any]:
        """What was found so far."""
        return {"found": list(self.found)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to what was kept."""
        self.found = list(state["found"])


def _readable(value: Any) -> None:
    if type(value) in (list, tuple):
        for each in value:
            _readable(each)
    elif type(value) is dict:
        _readable([*value.keys(), *value.values()])
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"measure gave a {type(value).__name__}, which cannot be read back from a file; allowed: numbers and texts "
            "of Python, and lists, tuples and dicts of them (of a NamedTuple: _asdict(), of an array: tolist())"
        )


def train(
    model: nn.Module,
    batches: Iterator[Any],
    *,
    steps: int,
    lr: float,
    warmup: int = 0,
    clip: float | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    desc: str = "training",
    loss: Callable[[nn.Module, Any], torch.Tensor] = masked_loss,
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] | None = None,
    schedule: Schedule | Callable[[int], float] = "linear",
    checkpoint: Checkpoint | None = None,
    weight: Callable[[Any], float] = examples,
    watch: Watch[Any] | None = None,
) -> np.ndarray:
    r"""Train a model; the learning rate rises linearly over ``warmup`` steps, then follows a schedule.

    .. math::
        \text{linear: } \eta_t = \eta\,\min\Bigl(\frac{t+1}{w},\; \frac{T-t}{T-w}\Bigr), \qquad
        \text{cosine: } \eta_t = \eta\,\min\Bigl(\frac{t+1}{w},\;
        0.05 + 0.95\cdot\tfrac12\bigl(1 + \cos\tfrac{\pi(t-w)}{T-w}\bigr)\Bigr), \qquad t = 0,\dots,T-1

    Args:
        model: on its device; it is left in training mode.
        batches: from :func:`kexue_lib.lab.text.masked_batches` or :func:`~kexue_lib.lab.text.causal_batches`, or any
            iterator of objects that have ``to(device)``; moved to the model's device.
        steps: T.
        lr: η.
        warmup: w.
        clip: largest norm of the gradient, or None.
        autocast: makes the context of the forward pass, such as ``run.autocast`` (bfloat16 in a full run on a GPU).
        desc: text before the progress bar.
        loss: of the model and a batch: a number to make small.
        optimizer: makes the optimizer from the model and η; by default Adam over all parameters.
        schedule: "linear" (falls to 0), "cosine" (falls to a twentieth), "constant", or the factor of η as a function
            of t (which has to hold its own warm-up).
        checkpoint: where the state is kept while it trains, and found by a run that goes on after a crash; by default
            in the folder that the environment variable ``KEXUE_CHECKPOINTS`` names, if there is one.
        weight: what a batch counts in the mean that its loss is: by default the number of its examples. A mean over
            masked characters gives their number. Only several processes look at it.
        watch: measures while it trains, and keeps what it finds with the state.

    Returns:
        the loss of every step, ``(steps,)`` float64, in nats.

    Raises:
        FloatingPointError: a loss is not finite; the message names the step.
        ValueError: a number is not allowed, or the checkpoint belongs to another training.

    Several processes, started by ``torchrun``, share every batch (:func:`kexue_lib.lab.distributed.share`) and average
    their gradients: the steps are those of one process, up to rounding, if the loss is a mean over what ``weight``
    counts. A module that sums over its examples, such as the codebook :class:`kexue_lib.vq.EMACodebook`, needs at least
    as many of them in each batch as there are processes.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r} is not allowed; allowed: an integer >= 1")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr={lr!r} is not allowed; allowed: a number > 0")
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup={warmup!r} is not allowed; allowed: 0 … steps - 1 = {steps - 1}")
    if callable(schedule) and warmup:
        raise ValueError(f"warmup={warmup!r} is not allowed beside a schedule of your own; put the warm-up into it")
    factor = schedule if callable(schedule) else _factor(schedule, steps, warmup)
    device = next(model.parameters()).device
    stepper = optimizer(model, lr) if optimizer else torch.optim.Adam(model.parameters(), lr=lr)
    rates = torch.optim.lr_scheduler.LambdaLR(stepper, factor)
    losses = Record(steps, device=device)
    checkpoint = checkpoint or usual(desc)
    parts: dict[str, Stateful] = {"model": model, "optimizer": stepper, "schedule": rates, "losses": losses}
    if watch:
        parts["watch"] = watch
    facts = {
        "steps": steps,
        "lr": lr,
        "warmup": warmup,
        "parameters": sum(p.numel() for p in model.parameters()),
        "rates": [float(rate) for rate in rates.base_lrs],
        "watched every": watch.every if watch else 0,
    }
    done = checkpoint.load(parts, facts, device=device) if checkpoint else 0
    for _ in range(done):
        next(batches)  # the batches that were seen before
    process = ranks()
    objective: nn.Module = Objective(model, loss)
    if process.count > 1:
        objective = parallel(objective, device)
    model.train()
    for step in progress(range(done, steps), desc=desc):
        batch, counts = next(batches), 1.0
        if process.count > 1:
            batch, counts = share(batch, process, weight)
        with autocast():
            value = objective(batch.to(device))
        if process.count > 1:
            value = counts * value
        stepper.zero_grad(set_to_none=True)
        value.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        stepper.step()
        rates.step()
        losses.append(mean_over_ranks(value.detach(), process))
        if watch:
            watch.look(step + 1, model)
        if checkpoint:
            checkpoint.save(step + 1, parts, facts, device=device, now=step + 1 == steps)
    values = losses.numpy()
    if not np.isfinite(values).all():
        raise FloatingPointError(f"the loss is not finite from step {int(np.argmin(np.isfinite(values)))} on")
    return values


def _factor(schedule: str, steps: int, warmup: int) -> Callable[[int], float]:
    falls: dict[str, Callable[[float], float]] = {
        "linear": lambda left: left,
        "cosine": lambda left: 0.05 + 0.95 * (1 - math.cos(math.pi * left)) / 2,
        "constant": lambda left: 1.0,
    }
    if schedule not in falls:
        raise ValueError(f"schedule={schedule!r} is not allowed; allowed: {', '.join(falls)}, or a function of t")

    def factor(t: int) -> float:
        after = falls[schedule]((steps - t) / (steps - warmup) if t >= warmup else 1.0)
        return min((t + 1) / warmup, after) if warmup else after

    return factor


@dataclass(frozen=True)
class Evaluation:
    """What a model does on a masked text cut into windows of n.

    Attributes:
        n: length of the windows.
        accuracy: share of masked characters that get the highest score, in [0, 1].
        cross_entropy: mean over the masked characters, in nats.
        entropy: mean entropy of the rows of attention weights, over layers, heads and rows, in nats.
        characters: number of masked characters.
    """

    n: int
    accuracy: float
    cross_entropy: float
    entropy: float
    characters: int


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    text: MaskedText,
    n: int,
    *,
    scale: str | float | None = None,
    train_len: float | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    tokens_at_once: int = 8192,
) -> Evaluation:
    """Evaluate a masked text cut into windows of n: for every n the same characters under the same mask.

    Args:
        model: an encoder of :mod:`kexue_lib.lab.models`; evaluated in eval mode, then left as it was.
        text: from :func:`kexue_lib.lab.text.masked_text`; n has to divide its length.
        n: length of the windows.
        scale, train_len: the scale λ of attention in place of the model's own: a kind of
            :func:`kexue_lib.attention.attention_scale`, or a number.
        autocast: makes the context of the forward pass.
        tokens_at_once: limits the memory; it changes no result beyond rounding.
    """
    windows = text.windows(n)
    device = next(model.parameters()).device
    rows = max(1, tokens_at_once // n)
    right = loss = entropy = 0.0
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(windows), rows):
            part = windows[first : first + rows]
            low, high = (torch.searchsorted(text.places, edge * n) for edge in (first, first + len(part)))
            places, targets = (text.places[low:high] - first * n).to(device), text.targets[low:high].to(device)
            with autocast():
                hidden, entropies = model(part.to(device), scale=scale, train_len=train_len, return_entropy=True)
                logits = model.logits(hidden.flatten(0, 1)[places]).float()  # type: ignore[operator]
            right += float((logits.argmax(-1) == targets).sum())
            loss += float(F.cross_entropy(logits.double(), targets, reduction="sum"))
            entropy += float(entropies.double().mean()) * len(part)
    finally:
        model.train(was_training)
    count = len(text.places)
    return Evaluation(n, right / count, loss / count, entropy / len(windows), count)

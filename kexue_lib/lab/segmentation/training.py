"""The training of taggers, and of an encoder that first learns to guess hidden characters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.optim.scaling import scaled_param_groups

from ..checkpoints import Checkpoint
from ..models import _at_least_one
from ..training import Watch, train
from .lines import TaggedLines
from .taggers import Tagger, _raised

__all__ = ["HiddenBatch", "TaggerTraining", "hidden_batches", "hidden_loss", "train_on_hidden", "train_tagger"]

Found = TypeVar("Found")


class TaggerTraining(NamedTuple, Generic[Found]):
    """What :func:`train_tagger` gives.

    Attributes:
        losses: of every step, in nats per sentence.
        found: what ``after_epoch`` gave after each epoch; empty without it.
    """

    losses: list[float]
    found: list[Found]


def train_tagger(
    tagger: Tagger,
    data: TaggedLines,
    *,
    epochs: int,
    lr: float,
    crf_scale: float = 1.0,
    batch: int = 32,
    generator: torch.Generator,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    after_epoch: Callable[[Tagger], Found] | None = None,
    checkpoint: Checkpoint | None = None,
    desc: str = "tagger",
) -> TaggerTraining[Found]:
    """Train with Adam at a constant rate, the CRF's transitions at ``crf_scale`` times that rate.

    It is :func:`kexue_lib.lab.training.train`: several processes share the lines of each batch, and the state is kept.

    Args:
        tagger: on its device.
        data: the training lines.
        epochs: how often all lines are seen.
        lr: the rate of encoder and dense layer.
        crf_scale: s, the multiplier of the CRF's rate.
        batch: lines per step; the last step of an epoch has what is left.
        generator: for the order of the lines.
        autocast: makes the context of the encoder's pass; the CRF computes in float32 in any case.
        after_epoch: measures the tagger after each epoch; see :class:`kexue_lib.lab.training.Watch` for what it may
            give.
        checkpoint, desc: as for :func:`kexue_lib.lab.training.train`.

    Returns:
        :class:`TaggerTraining`: the losses, and what was measured.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    scales = {} if tagger.crf is None else {"crf": crf_scale}
    in_epoch = _steps_of_an_epoch(data, batch)
    watch = None if after_epoch is None else Watch(in_epoch, after_epoch)
    losses = train(
        tagger,
        _epochs(data, batch, generator),
        steps=in_epoch * _at_least_one("epochs", epochs),
        lr=lr,
        autocast=autocast,
        desc=desc,
        loss=lambda model, part: model.loss(part),  # type: ignore[operator]
        optimizer=lambda model, lr: torch.optim.Adam(scaled_param_groups(model, scales, lr)),
        schedule="constant",
        checkpoint=checkpoint,
        watch=watch,
    )
    return TaggerTraining(losses.tolist(), watch.found if watch else [])


def _steps_of_an_epoch(data: TaggedLines, batch: int) -> int:
    return math.ceil(len(data) / _at_least_one("batch", batch))


def _epochs(data: TaggedLines, batch: int, generator: torch.Generator) -> Iterator[Any]:
    while True:
        yield from data.batches(batch, generator=generator)


# --- hidden characters ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HiddenBatch:
    """Lines, some of whose characters are to be guessed; each tensor ``(b, n)``, padding at the end.

    Attributes:
        characters: the true ones.
        hidden: where they are to be guessed.
        mask: where the line has a character.
    """

    characters: Tensor
    hidden: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> HiddenBatch:
        """The same on a device."""
        return HiddenBatch(self.characters.to(device), self.hidden.to(device), self.mask.to(device))


def hidden_batches(
    data: TaggedLines, size: int, *, rate: float = 0.15, generator: torch.Generator, order: torch.Generator
) -> Iterator[HiddenBatch]:
    """All lines in a random order, again and again, each character hidden with a probability; at least one in a batch.

    Args:
        data: the lines; their tags are not looked at.
        size: lines in a batch; the last one of an epoch has what is left.
        rate: the probability.
        generator: draws what is hidden.
        order: draws the order of the lines.

    Raises:
        ValueError: the rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate!r} is not allowed; allowed: a number between 0 and 1")
    return _hidden_batches(_epochs(data, size, order), rate, generator)


def _hidden_batches(batches: Iterator[Any], rate: float, generator: torch.Generator) -> Iterator[HiddenBatch]:
    for part in batches:
        hidden = (torch.rand(part.mask.shape, generator=generator) < rate) & part.mask
        if not hidden.any():  # a mean over nothing is not a number
            hidden[0, 0] = True
        yield HiddenBatch(part.characters, hidden, part.mask)


def hidden_loss(encoder: nn.Module, batch: HiddenBatch, *, symbol: int) -> Tensor:
    """Mean cross-entropy of the hidden characters, in nats, which the encoder sees as one and the same symbol."""
    state = encoder(batch.characters.masked_fill(batch.hidden, symbol), batch.mask)
    guess = encoder.logits(state[batch.hidden])  # type: ignore[operator]
    return F.cross_entropy(_raised(guess), batch.characters[batch.hidden])


def train_on_hidden(
    encoder: nn.Module,
    data: TaggedLines,
    *,
    symbol: int,
    epochs: int,
    lr: float,
    batch: int = 64,
    rate: float = 0.15,
    generator: torch.Generator,
    order: torch.Generator,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    checkpoint: Checkpoint | None = None,
    desc: str = "hidden characters",
) -> list[float]:
    """Train an encoder to guess hidden characters, as BERT was, with Adam at a constant rate.

    Several processes share the lines of a batch; each counts as much as the characters that it has to guess.

    Args:
        encoder: such as :class:`~kexue_lib.lab.segmentation.TransformerEncoder`, with ``logits``; on its device.
        data: the lines.
        symbol: the number that stands for a hidden character.
        epochs: how often all lines are seen.
        lr: the rate.
        batch: lines per step.
        rate: share of the characters that are hidden.
        generator: draws what is hidden.
        order: draws the order of the lines.
        autocast, checkpoint, desc: as for :func:`kexue_lib.lab.training.train`.

    Returns:
        the loss of every step.

    Raises:
        FloatingPointError: a loss is not finite.
        ValueError: a number is not allowed.
    """
    return train(
        encoder,
        hidden_batches(data, batch, rate=rate, generator=generator, order=order),
        steps=_steps_of_an_epoch(data, batch) * _at_least_one("epochs", epochs),
        lr=lr,
        autocast=autocast,
        desc=desc,
        loss=lambda model, part: hidden_loss(model, part, symbol=symbol),
        schedule="constant",
        checkpoint=checkpoint,
        weight=lambda part: int(part.hidden.sum()),
    ).tolist()

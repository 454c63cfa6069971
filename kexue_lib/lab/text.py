"""Characters as numbers, and batches made of them: masked ones, and ones to be continued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "CausalBatch",
    "MaskedBatch",
    "MaskedText",
    "Vocabulary",
    "causal_batches",
    "masked_batches",
    "masked_text",
    "split",
    "unigram_entropy",
]


class Vocabulary:
    """The most frequent characters of a text, one symbol for all others and one for a masked place.

    Ids: 0 … len(characters) − 1 for the characters by falling frequency (equal ones by code point), then ``unknown``,
    then ``mask``.

    Args:
        text: what the characters are counted in.
        size: how many characters are kept at most.

    Attributes:
        characters: the kept characters.
        unknown, mask: ids of the two special symbols.

    >>> vocabulary = Vocabulary("banana", size=2)
    >>> vocabulary.characters, vocabulary.unknown, vocabulary.mask, len(vocabulary)
    ('an', 2, 3, 4)
    >>> vocabulary.encode("nab").tolist(), vocabulary.decode([1, 0, 2, 3])
    ([1, 0, 2], 'na�▢')
    """

    def __init__(self, text: str, size: int) -> None:
        """Count the characters and keep the most frequent ones."""
        if not text:
            raise ValueError("text is empty: a vocabulary needs characters to count")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"size={size!r} is not allowed; allowed: an integer >= 1")
        ranked = sorted(Counter(text).items(), key=lambda item: (-item[1], item[0]))
        self.characters = "".join(character for character, _ in ranked[:size])
        self.unknown, self.mask = len(self.characters), len(self.characters) + 1
        self._ids = np.full(0x110000, self.unknown, dtype=np.int64)
        self._ids[_code_points(self.characters)] = np.arange(len(self.characters))

    def __len__(self) -> int:
        """Number of symbols, the two special ones among them."""
        return len(self.characters) + 2

    def encode(self, text: str) -> Tensor:
        """The ids of the characters of a text, ``(len(text),)`` int64."""
        return torch.from_numpy(self._ids[_code_points(text)])

    def decode(self, ids: Tensor | list[int]) -> str:
        """The text of some ids; ``�`` stands for unknown, ``▢`` for masked."""
        symbols = self.characters + "�▢"
        return "".join(symbols[i] for i in (ids.tolist() if isinstance(ids, Tensor) else ids))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def split(tokens: Tensor, fraction: float = 0.9) -> tuple[Tensor, Tensor]:
    """Cut a text in two: the first part to train on, the rest to test on. Nothing is shuffled, so nothing leaks.

    >>> split(torch.arange(5), 0.6)
    (tensor([0, 1, 2]), tensor([3, 4]))
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction!r} is not allowed; allowed: a number between 0 and 1")
    cut = round(len(tokens) * fraction)
    return tokens[:cut], tokens[cut:]


def unigram_entropy(tokens: Tensor) -> float:
    """Entropy of the frequencies of the symbols, in nats: the best cross-entropy of a guess that sees no context.

    >>> round(unigram_entropy(torch.tensor([0, 1, 0, 1])), 6)
    0.693147
    """
    p = torch.bincount(tokens).double() / len(tokens)
    return float(torch.special.entr(p).sum())


@dataclass(frozen=True)
class MaskedBatch:
    """Windows of a text with some places masked.

    Attributes:
        inputs: ``(batch, n)`` ids, masked where ``places`` says.
        places: ``(batch, k)`` the masked places of each window, rising.
        targets: ``(batch, k)`` the ids that stood there.
    """

    inputs: Tensor
    places: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> MaskedBatch:
        """The same batch on a device."""
        return MaskedBatch(*(x.to(device, non_blocking=True) for x in (self.inputs, self.places, self.targets)))


def masked_batches(
    tokens: Tensor, *, batch: int, n: int, mask: int, generator: torch.Generator, rate: float = 0.15
) -> Iterator[MaskedBatch]:
    """Random windows of a text with masked places, without end.

    Every window has the same number of masked places, round(rate · n) but at least one, so that shapes are fixed.

    Args:
        tokens: the text, ``(length,)``.
        batch, n: number and length of the windows.
        mask: the id that is put in the masked places.
        generator: where windows and places come from.
        rate: share of places that are masked.

    >>> batches = masked_batches(torch.arange(100), batch=2, n=8, mask=-1, generator=torch.Generator().manual_seed(0))
    >>> first = next(batches)
    >>> first.inputs.shape, first.places.shape, bool((first.inputs.gather(1, first.places) == -1).all())
    (torch.Size([2, 8]), torch.Size([2, 1]), True)
    """
    windows = _windows(tokens, batch, n, n)
    return _masked_batches(windows, batch, _count(rate, n), mask, generator)


def _windows(tokens: Tensor, batch: int, n: int, width: int) -> Tensor:
    """All windows of the width, ``(number of windows, width)``, without copying."""
    if tokens.dim() != 1 or n < 1 or len(tokens) < width:
        longest = len(tokens) - (width - n)
        raise ValueError(f"n={n!r} is not allowed; allowed: 1 … {longest}, for a text of {len(tokens)} characters")
    if batch < 1:
        raise ValueError(f"batch={batch!r} is not allowed; allowed: an integer >= 1")
    return tokens.unfold(0, width, 1)


def _masked_batches(
    windows: Tensor, batch: int, count: int, mask: int, generator: torch.Generator
) -> Iterator[MaskedBatch]:
    while True:
        starts = torch.randint(len(windows), (batch,), generator=generator)
        places = torch.rand(batch, windows.shape[1], generator=generator).argsort(1)[:, :count].sort(1).values
        inputs = windows[starts]
        targets = inputs.gather(1, places)
        yield MaskedBatch(inputs.scatter(1, places, mask), places, targets)


@dataclass(frozen=True)
class CausalBatch:
    """Windows of a text and the character that follows each place.

    Attributes:
        inputs: ``(batch, n)`` ids.
        targets: ``(batch, n)`` ids: ``targets[:, t]`` follows ``inputs[:, t]``.
    """

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device | str) -> CausalBatch:
        """The same batch on a device."""
        return CausalBatch(*(x.to(device, non_blocking=True) for x in (self.inputs, self.targets)))


def causal_batches(tokens: Tensor, *, batch: int, n: int, generator: torch.Generator) -> Iterator[CausalBatch]:
    """Random windows of a text, each with its next characters, without end.

    Args:
        tokens: the text, ``(length,)``, at least n + 1 long.
        batch, n: number and length of the windows.
        generator: where the windows come from.

    >>> first = next(causal_batches(torch.arange(100), batch=2, n=8, generator=torch.Generator().manual_seed(0)))
    >>> first.inputs.shape, bool((first.targets == first.inputs + 1).all())
    (torch.Size([2, 8]), True)
    """
    return _causal_batches(_windows(tokens, batch, n, n + 1), batch, generator)


def _causal_batches(windows: Tensor, batch: int, generator: torch.Generator) -> Iterator[CausalBatch]:
    while True:
        drawn = windows[torch.randint(len(windows), (batch,), generator=generator)]
        yield CausalBatch(drawn[:, :-1], drawn[:, 1:])


def _count(rate: float, n: int) -> int:
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate!r} is not allowed; allowed: a number between 0 and 1")
    return max(1, round(rate * n))


@dataclass(frozen=True)
class MaskedText:
    """A text with masked places, to be read in windows of any length: always the same characters, the same mask.

    Attributes:
        inputs: ``(length,)`` ids, masked where ``places`` says.
        places: ``(k,)`` the masked places, rising.
        targets: ``(k,)`` the ids that stood there.
    """

    inputs: Tensor
    places: Tensor
    targets: Tensor

    def windows(self, n: int) -> Tensor:
        """The inputs cut into windows of n, ``(length / n, n)``; nothing is left over."""
        if isinstance(n, bool) or not isinstance(n, int) or n < 1 or len(self.inputs) % n:
            raise ValueError(
                f"n={n!r} is not allowed; allowed: a divisor of the length of the text, {len(self.inputs)}"
            )
        return self.inputs.view(-1, n)


def masked_text(tokens: Tensor, *, mask: int, generator: torch.Generator, rate: float = 0.15) -> MaskedText:
    """Mask round(rate · length) random places of a text, once and for all.

    >>> text = masked_text(torch.arange(20), mask=-1, generator=torch.Generator().manual_seed(0))
    >>> text.places.tolist() == text.targets.tolist() and len(text.places) == 3
    True
    >>> text.windows(5).shape
    torch.Size([4, 5])
    """
    if tokens.dim() != 1 or not len(tokens):
        raise ValueError(f"tokens has the shape {tuple(tokens.shape)}; allowed: a vector that is not empty")
    places = torch.randperm(len(tokens), generator=generator)[: _count(rate, len(tokens))].sort().values
    return MaskedText(tokens.index_fill(0, places, mask), places, tokens[places])

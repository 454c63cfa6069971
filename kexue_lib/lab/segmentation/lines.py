"""Lines of real text, their characters as numbers, and batches of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ..data import peoples_daily
from ..models import _at_least_one
from .tags import Line, bmes

__all__ = ["CharacterTable", "TagBatch", "TaggedLines", "peoples_daily_lines", "split_lines"]


@cache
def peoples_daily_lines(max_chars: int = 48) -> tuple[Line, ...]:
    """The different lines of the People's Daily with at most ``max_chars`` characters, in the order of the paper.

    Lines that occur several times are kept once, so that no line of a test can stand in the training as well.

    >>> len(peoples_daily_lines(48))
    7096
    """
    lines: dict[str, Line] = {}
    for sentence in peoples_daily():
        line = bmes([word for word, _ in sentence])
        if len(line.text) <= _at_least_one("max_chars", max_chars):
            lines.setdefault(line.text, line)
    return tuple(lines.values())


def split_lines(
    lines: Sequence[Line], *, train: int, test: int, generator: torch.Generator
) -> tuple[list[Line], list[Line]]:
    """Two disjoint random samples of lines.

    Raises:
        ValueError: there are fewer lines than asked for.
    """
    if train < 1 or test < 1 or train + test > len(lines):
        raise ValueError(f"train={train} and test={test} have to be >= 1 and together at most {len(lines)} lines")
    order = torch.randperm(len(lines), generator=generator).tolist()
    return [lines[k] for k in order[:train]], [lines[k] for k in order[train : train + test]]


class CharacterTable:
    """Numbers for characters: 0 padding, 1 unknown, then those that occur at least ``at_least`` times.

    >>> table = CharacterTable([Line("banana", (1, 2, 2, 2, 2, 3))])
    >>> table.encode("nab"), len(table)
    ([3, 2, 1], 4)
    """

    def __init__(self, lines: Sequence[Line], *, at_least: int = 2) -> None:
        """Count the characters of the training lines."""
        counts = Counter(character for line in lines for character in line.text)
        kept = sorted((c for c in counts if counts[c] >= at_least), key=lambda c: (-counts[c], c))
        self._ids = {character: k + 2 for k, character in enumerate(kept)}

    def __len__(self) -> int:
        """Padding, unknown and the characters that were kept."""
        return len(self._ids) + 2

    def encode(self, text: str) -> list[int]:
        """The numbers of the characters of a text."""
        return [self._ids.get(character, 1) for character in text]


@dataclass(frozen=True)
class TagBatch:
    """Characters, tags and mask, each ``(b, n)``; padding at the end has the numbers 0, 0 and False."""

    characters: Tensor
    tags: Tensor
    mask: Tensor

    def to(self, device: torch.device | str) -> TagBatch:
        """The same on a device."""
        return TagBatch(self.characters.to(device), self.tags.to(device), self.mask.to(device))


class TaggedLines:
    """Lines as padded tensors, and batches of them.

    >>> lines = [bmes(["今天", "很", "好"]), bmes(["好"])]
    >>> data = TaggedLines(lines, CharacterTable(lines, at_least=1))
    >>> batch = next(data.batches(2, generator=torch.Generator().manual_seed(0)))
    >>> batch.mask.sum(1).tolist(), batch.tags.shape
    ([4, 1], torch.Size([2, 4]))
    """

    def __init__(self, lines: Sequence[Line], table: CharacterTable) -> None:
        """Encode the lines, padded to the longest."""
        longest = max(len(line.text) for line in lines)

        def padded(rows: Iterator[Sequence[int]]) -> Tensor:
            return torch.tensor([[*row, *([0] * (longest - len(row)))] for row in rows])

        self.characters = padded(iter(table.encode(line.text) for line in lines))
        self.tags = padded(iter(line.tags for line in lines))
        self.lengths = torch.tensor([len(line.text) for line in lines])

    def __len__(self) -> int:
        """The number of lines."""
        return len(self.lengths)

    def take(self, rows: Tensor) -> TagBatch:
        """Some lines, padded to the longest of them."""
        lengths = self.lengths[rows]
        n = int(lengths.max())
        return TagBatch(self.characters[rows, :n], self.tags[rows, :n], torch.arange(n) < lengths[:, None])

    def batches(self, size: int, *, generator: torch.Generator | None = None) -> Iterator[TagBatch]:
        """All lines once: in a random order if there is a generator, else in theirs."""
        if generator is None:
            order = torch.arange(len(self))
        else:
            order = torch.randperm(len(self), generator=generator)
        for rows in order.split(_at_least_one("size", size)):
            yield self.take(rows)

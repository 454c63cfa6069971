"""Words as tags of characters, and how a cut into words is scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kexue_lib.crf import legal_transitions

__all__ = ["TAGS", "Line", "Score", "bmes", "illegal_share", "segmentation_f1", "words"]

TAGS = "sbme"
"""The tags in the order of their numbers: single, begin, middle, end."""

_S, _B, _M, _E = range(4)


class Line(NamedTuple):
    """A line of characters and the tag of each."""

    text: str
    tags: tuple[int, ...]


def bmes(line: Sequence[str]) -> Line:
    """The characters of a line of words, with their tags.

    >>> bmes(["今天", "很", "好"])
    Line(text='今天很好', tags=(1, 3, 0, 0))
    """
    tags: list[int] = []
    for word in line:
        if not word:
            raise ValueError("the line has an empty word")
        tags += [_S] if len(word) == 1 else [_B, *([_M] * (len(word) - 2)), _E]
    return Line("".join(line), tuple(tags))


def words(text: str, tags: Sequence[int]) -> list[str]:
    """The words that tags cut a text into. Any tags will do: a word begins at s and b, and after s and e.

    >>> words("今天很好", [1, 3, 0, 0])
    ['今天', '很', '好']
    >>> words("今天很好", [2, 2, 3, 2])  # illegal tags
    ['今天很', '好']
    """
    if len(text) != len(tags):
        raise ValueError(f"{len(text)} characters and {len(tags)} tags: each character needs one tag")
    out: list[str] = []
    for k, character in enumerate(text):
        if not k or tags[k] in (_S, _B) or tags[k - 1] in (_S, _E):
            out.append("")
        out[-1] += character
    return out


def _begins(tags: Tensor, mask: Tensor) -> Tensor:
    """Where a word begins, by the rule of :func:`words`; and at the first place after a sentence (b, n + 1)."""
    cut = (tags == _S) | (tags == _B)
    cut[:, 1:] |= (tags[:, :-1] == _S) | (tags[:, :-1] == _E)
    cut[:, 0] = True
    inside = F.pad(mask, (0, 1), value=False)
    return (F.pad(cut, (0, 1), value=True) & inside) | (~inside & F.pad(mask, (1, 0), value=True))


class Score(NamedTuple):
    """Precision, recall and their harmonic mean, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


def segmentation_f1(predicted: Tensor, gold: Tensor, mask: Tensor) -> Score:
    """Precision, recall and F1 of words: a word counts if it begins and ends where a word of the gold line does.

    Over all lines together. Comparing sets of words, as some scripts do, is more lenient.

    Args:
        predicted, gold: tags ``(b, n)``; at padding any number.
        mask: ``(b, n)`` boolean, padding at the end.

    >>> gold, mask = torch.tensor([[1, 3, 0, 0]]), torch.ones(1, 4, dtype=torch.bool)
    >>> segmentation_f1(torch.tensor([[1, 3, 1, 3]]), gold, mask)  # one of two words, one of three
    Score(precision=0.5, recall=0.3333333333333333, f1=0.4)
    """
    if predicted.shape != gold.shape or gold.shape != mask.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"predicted {tuple(predicted.shape)}, gold {tuple(gold.shape)} and mask {tuple(mask.shape)} "
            f"({mask.dtype}) have to be two (batch, places) of tags and a boolean mask"
        )
    found, real = _begins(predicted, mask), _begins(gold, mask)
    both, differ = found & real, found ^ real
    # A word is right if both lines begin one here, and at the next place where either begins one, both do.
    at = torch.arange(both.shape[1], device=both.device)
    far = both.shape[1]
    next_both = torch.where(both, at, far).flip(1).cummin(1).values.flip(1)
    next_one = torch.where(differ, at, far).flip(1).cummin(1).values.flip(1)
    right = float((both[:, :-1] & mask & (next_both[:, 1:] < next_one[:, 1:])).sum())
    precision, recall = right / float((found[:, :-1] & mask).sum()), right / float((real[:, :-1] & mask).sum())
    return Score(precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0)


def illegal_share(tags: Tensor, mask: Tensor) -> float:
    """The share of neighbouring tags that no cut into words can have, such as s before e.

    >>> illegal_share(torch.tensor([[0, 3, 0]]), torch.ones(1, 3, dtype=torch.bool))
    0.5
    """
    legal = legal_transitions(TAGS).to(tags.device)
    pairs = mask[:, 1:]
    y = tags.masked_fill(~mask, 0)
    count = int(pairs.sum())
    return float((~legal[y[:, :-1], y[:, 1:]] & pairs).sum()) / count if count else 0.0

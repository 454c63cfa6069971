"""Chinese word segmentation as tagging: real lines, tags for words, small taggers, and how they are scored.

A word of one character gets the tag ``s``; a longer one ``b``, any number of ``m``, and ``e``. The lines are those of
:func:`kexue_lib.lab.data.peoples_daily`, which is read from an installed package and never passed on.

Source: https://kexue.fm/archives/7196 (the task); the chapter *crf-learning-rate* (these sizes).
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.crf import LinearChainCRF, legal_transitions
from kexue_lib.optim.scaling import scaled_param_groups

from .data import peoples_daily
from .models import _at_least_one, _embedding

__all__ = [
    "TAGS",
    "CharacterTable",
    "ConvEncoder",
    "LSTMEncoder",
    "Line",
    "Score",
    "TagBatch",
    "TaggedLines",
    "Tagger",
    "TaggerEvaluation",
    "TransformerEncoder",
    "bmes",
    "evaluate_tagger",
    "illegal_share",
    "peoples_daily_lines",
    "segmentation_f1",
    "split_lines",
    "train_tagger",
    "words",
]

TAGS = "sbme"
"""The tags in the order of their numbers: single, begin, middle, end."""

_S, _B, _M, _E = range(4)


class Line(NamedTuple):
    """A line of characters and the tag of each."""

    text: str
    tags: tuple[int, ...]


# --- words and tags -------------------------------------------------------------------------------------------------


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


# --- lines ----------------------------------------------------------------------------------------------------------


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


# --- taggers --------------------------------------------------------------------------------------------------------


class ConvEncoder(nn.Module):
    r"""A weak encoder: character vectors and one residual convolution, :math:`x + \mathrm{ReLU}(\mathrm{conv}(x))`.

    Args:
        vocabulary: number of characters with padding.
        dim: width.
        width: of the convolution, odd.
        generator: for the initial weights.

    >>> encoder = ConvEncoder(10, dim=8, generator=torch.Generator().manual_seed(0))
    >>> encoder(torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self, vocabulary: int, *, dim: int = 48, width: int = 5, generator: torch.Generator | None = None
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        if width % 2 != 1:
            raise ValueError(f"width={width!r} is not allowed; allowed: an odd number")
        self.dim = dim
        self.embedding = _embedding(vocabulary, dim, generator)
        self.conv = nn.Conv1d(dim, dim, width, padding=width // 2)
        _uniform(self.conv, dim * width, generator)

    def forward(self, characters: Tensor, mask: Tensor) -> Tensor:
        """Hidden vectors ``(b, n, dim)``."""
        x = self.embedding(characters) * mask[..., None]
        return x + F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)


class LSTMEncoder(nn.Module):
    """Character vectors and a bidirectional LSTM, as in the post's list of other encoders.

    >>> encoder = LSTMEncoder(10, dim=8, generator=torch.Generator().manual_seed(0))
    >>> encoder(torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]])).shape
    torch.Size([1, 3, 8])
    """

    def __init__(self, vocabulary: int, *, dim: int = 256, generator: torch.Generator | None = None) -> None:
        """Make the layers; ``dim`` is even, half of it for each direction."""
        super().__init__()
        self.dim = dim
        self.embedding = _embedding(vocabulary, dim, generator)
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        _uniform(self.lstm, dim // 2, generator)

    def forward(self, characters: Tensor, mask: Tensor) -> Tensor:
        """Hidden vectors ``(b, n, dim)``; the backward direction begins at each sentence's own end."""
        lengths = mask.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(characters), lengths, batch_first=True, enforce_sorted=False
        )
        out, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
        return out


class TransformerEncoder(nn.Module):
    """A strong encoder: PyTorch's pre-norm transformer layers with learned positions, without dropout.

    ``logits`` scores all characters, so that it can be trained to guess masked ones first, as BERT was.

    >>> encoder = TransformerEncoder(10, dim=8, depth=1, heads=2, generator=torch.Generator().manual_seed(0))
    >>> hidden = encoder(torch.tensor([[1, 2, 0]]), torch.tensor([[True, True, False]]))
    >>> hidden.shape, encoder.logits(hidden).shape
    (torch.Size([1, 3, 8]), torch.Size([1, 3, 10]))
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        longest: int = 256,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        self.dim = dim
        self.embedding = _embedding(vocabulary, dim, generator, sd=0.02)
        self.positions = _embedding(longest, dim, generator, sd=0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(_at_least_one("depth", depth))
        )
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, vocabulary)
        with torch.no_grad():
            for p in (*self.layers.parameters(), *self.head.parameters()):
                if p.dim() > 1:
                    p.normal_(0, 0.02, generator=generator)

    def forward(self, characters: Tensor, mask: Tensor) -> Tensor:
        """Hidden vectors ``(b, n, dim)``; no place looks at padding."""
        x = self.embedding(characters) + self.positions.weight[: characters.shape[1]]
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=~mask)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of all characters."""
        out: Tensor = self.head(hidden)
        return out


class Tagger(nn.Module):
    """An encoder, a dense layer that scores the tags, and either a softmax at each place or a CRF over the sentence.

    Both losses are summed over a sentence and averaged over the batch; with zero transitions they are equal.

    Args:
        encoder: ``encoder(characters, mask) -> (b, n, encoder.dim)``.
        crf: a :class:`kexue_lib.crf.LinearChainCRF` with four tags, or None for the softmax.
        generator: for the dense layer.
    """

    def __init__(
        self, encoder: Any, crf: LinearChainCRF | None = None, *, generator: torch.Generator | None = None
    ) -> None:
        """Put the parts together; the arguments stand in the docstring of the class."""
        super().__init__()
        self.encoder = encoder
        self.dense = nn.Linear(encoder.dim, len(TAGS))
        _uniform(self.dense, encoder.dim, generator)
        self.crf = crf

    def emissions(self, batch: TagBatch) -> Tensor:
        """The scores of the tags ``(b, n, 4)``."""
        out: Tensor = self.dense(self.encoder(batch.characters, batch.mask))
        return out

    def loss(self, batch: TagBatch) -> Tensor:
        """−log p of the tags, per sentence, in nats."""
        h = self.emissions(batch)
        if self.crf is not None:
            loss: Tensor = self.crf(h, batch.tags, batch.mask)
            return loss
        target = batch.tags.masked_fill(~batch.mask, -100)
        return F.cross_entropy(h.float().flatten(0, 1), target.flatten(), reduction="sum") / len(h)


def _uniform(module: nn.Module, fan_in: int, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-bound, bound, generator=generator)


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
    after_epoch: Callable[[int], None] | None = None,
) -> list[float]:
    """Train with Adam at a constant rate, the CRF's transitions at ``crf_scale`` times that rate.

    Args:
        tagger: on its device.
        data: the training lines.
        epochs: how often all lines are seen.
        lr: the rate of encoder and dense layer.
        crf_scale: s, the multiplier of the CRF's rate.
        batch: lines per step.
        generator: for the order of the lines.
        autocast: makes the context of the encoder's pass; the CRF computes in float32 in any case.
        after_epoch: called with 1, 2, … after each epoch.

    Returns:
        the loss of every step.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    scales = {} if tagger.crf is None else {"crf": crf_scale}
    optimizer = torch.optim.Adam(scaled_param_groups(tagger, scales, lr))
    device = next(tagger.parameters()).device
    losses: list[Tensor] = []
    for epoch in range(_at_least_one("epochs", epochs)):
        tagger.train()
        for part in data.batches(batch, generator=generator):
            with autocast():
                loss = tagger.loss(part.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        if after_epoch is not None:
            after_epoch(epoch + 1)
    values = [float(x) for x in torch.stack(losses).cpu()]
    if not all(math.isfinite(x) for x in values):
        raise FloatingPointError(f"a loss is not finite, of {len(values)} steps at lr={lr:g}, crf_scale={crf_scale:g}")
    return values


class TaggerEvaluation(NamedTuple):
    """What a tagger does on lines that it has not seen.

    Attributes:
        f1: of words, in [0, 1].
        illegal: share of neighbouring tags that are illegal.
        margin: mean gap between the best and the second score of a place.
        agreement: share of places where the output is the tag with the best score of that place.
        frame_f1: F1 if each place gets the tag with its best score, whatever the transitions.
    """

    f1: float
    illegal: float
    margin: float
    agreement: float
    frame_f1: float


@torch.no_grad()
def evaluate_tagger(tagger: Tagger, data: TaggedLines, *, batch: int = 256) -> TaggerEvaluation:
    """Decode lines: the best path of the CRF, or the best tag of each place. See :class:`TaggerEvaluation`."""
    device = next(tagger.parameters()).device
    was_training = tagger.training
    tagger.eval()
    try:
        found, margin = data.tags.new_zeros(data.tags.shape), 0.0
        frame, first = found.clone(), 0
        for part in data.batches(batch):
            part = part.to(device)
            h = tagger.emissions(part).float()
            best = h.argmax(-1)
            path = best if tagger.crf is None else tagger.crf.decode(h, part.mask)[0]
            top = h.topk(2, dim=-1).values
            margin += float((top[..., 0] - top[..., 1])[part.mask].double().sum())
            rows, n = slice(first, first + len(h)), h.shape[1]
            found[rows, :n], frame[rows, :n] = path.cpu(), best.cpu()
            first += len(h)
    finally:
        tagger.train(was_training)
    mask = torch.arange(data.tags.shape[1]) < data.lengths[:, None]
    return TaggerEvaluation(
        f1=segmentation_f1(found, data.tags, mask).f1,
        illegal=illegal_share(found, mask),
        margin=margin / int(mask.sum()),
        agreement=float((found == frame)[mask].double().mean()),
        frame_f1=segmentation_f1(frame, data.tags, mask).f1,
    )

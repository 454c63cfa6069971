"""Small encoders of characters, and taggers made of them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.crf import LinearChainCRF

from ..models import _at_least_one, _embedding
from .lines import TagBatch, TaggedLines
from .tags import TAGS, illegal_share, segmentation_f1

__all__ = [
    "ConvEncoder",
    "LSTMEncoder",
    "Tagger",
    "TaggerEvaluation",
    "TransformerEncoder",
    "evaluate_tagger",
]


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
            for layer in self.modules():
                if isinstance(layer, nn.Linear):  # PyTorch has drawn them from a generator without our seed
                    layer.bias.zero_()

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
        return F.cross_entropy(_raised(h).flatten(0, 1), target.flatten(), reduction="sum") / len(h)


def _raised(scores: Tensor) -> Tensor:
    """Scores in float32 at least: a softmax does not survive in 8 bits."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _uniform(module: nn.Module, fan_in: int, generator: torch.Generator | None) -> None:
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        for p in module.parameters():
            p.uniform_(-bound, bound, generator=generator)


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

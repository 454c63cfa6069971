"""A small causal language model of characters, and its accuracy at lengths beyond those of the training.

The model takes its attention as a part that can be exchanged: chapters on length and on linear attention give it their
own. What rotary attention does with positions can be changed after the training, on the same weights
(:class:`PositionRule`); :func:`evaluate_lengths` is the one measurement for all of them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rotary import PositionRule, RotaryAttention, position_rule
from .text import CausalBatch

__all__ = [
    "CausalDecoder",
    "LengthEvaluation",
    "PositionRule",
    "RotaryAttention",
    "evaluate_lengths",
    "position_rule",
    "repeated_windows",
    "repeating_batches",
    "test_windows",
]


class CausalDecoder(nn.Module):
    r"""A pre-norm Transformer that predicts the next character: LayerNorm, no offsets, GELU, untied output layer.

    .. math::
        x \leftarrow x + W_o\,\mathrm{Attention}(\mathrm{LN}(x)), \qquad
        x \leftarrow x + \mathrm{FFN}(\mathrm{LN}(x))

    Args:
        vocabulary: number of symbols.
        dim, depth, heads: width, number of layers, heads per layer; heads divides dim.
        expansion: width of the feed-forward part over ``dim``.
        attention: makes a layer's attention from its number, the number of heads and their width; the module maps q, k
            and v, each ``(batch, heads, n, dim / heads)``, to the same shape, and is causal itself. Default:
            :class:`RotaryAttention`.
        generator: for the initial weights, N(0, 1/fan-in); those that write to the residual stream are divided by
            :math:`\sqrt{2\,\text{depth}}`.

    Attributes:
        attentions: the layers' attention modules.
        extra_loss: the sum of their ``extra_loss``, where they have one, made by the last forward pass; else None.

    >>> model = CausalDecoder(10, dim=16, heads=2, generator=torch.Generator().manual_seed(0))
    >>> hidden = model(torch.tensor([[1, 2, 3]]))
    >>> hidden.shape, model.logits(hidden).shape
    (torch.Size([1, 3, 16]), torch.Size([1, 3, 10]))

    Source: the shape of https://kexue.fm/archives/9431's models, at a size that a core trains in seconds.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        expansion: float = 4.0,
        attention: Callable[[int, int, int], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        for name, value in (("vocabulary", vocabulary), ("dim", dim), ("depth", depth), ("heads", heads)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer >= 1")
        if dim % heads:
            raise ValueError(f"heads={heads!r} is not allowed; allowed: a divisor of dim = {dim}")
        if attention is None:
            if dim // heads % 2:
                raise ValueError(f"heads={heads!r} is not allowed; allowed: rotary positions need an even dim / heads")
            attention = _rotary
        self.embedding = nn.Embedding.from_pretrained(
            torch.empty(vocabulary, dim).normal_(generator=generator), freeze=False
        )
        self.layers = nn.ModuleList(
            _Layer(dim, heads, int(expansion * dim), attention(index, heads, dim // heads)) for index in range(depth)
        )
        self.norm = nn.LayerNorm(dim, bias=False)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        for layer in self.layers:
            layer.init_weights(depth, generator)  # type: ignore[operator]
        _fan_in(self.head, generator)

    @property
    def attentions(self) -> list[nn.Module]:
        """The layers' attention modules."""
        return [layer.attention for layer in self.layers]  # type: ignore[misc]

    @property
    def extra_loss(self) -> Tensor | None:
        """What the attention modules add to the loss, or None."""
        parts = [m.extra_loss for m in self.attentions if getattr(m, "extra_loss", None) is not None]
        return torch.stack(parts).sum() if parts else None  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden vectors ``(batch, n, dim)`` of tokens ``(batch, n)``."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the symbols."""
        out: Tensor = self.head(hidden)
        return out


@torch.no_grad()
def _fan_in(linear: nn.Linear, generator: torch.Generator | None, gain: float = 1.0) -> None:
    linear.weight.normal_(0, gain / math.sqrt(linear.in_features), generator=generator)


def _rotary(layer: int, heads: int, head_dim: int) -> nn.Module:
    return RotaryAttention()


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int, inner: int, attention: nn.Module) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.norm1, self.norm2 = nn.LayerNorm(dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, inner, bias=False), nn.Linear(inner, dim, bias=False)

    def init_weights(self, depth: int, generator: torch.Generator | None) -> None:
        for linear in (self.qkv, self.up):
            _fan_in(linear, generator)
        for linear in (self.out, self.down):  # 2 depth branches add up in the residual stream
            _fan_in(linear, generator, 1 / math.sqrt(2 * depth))

    def forward(self, x: Tensor) -> Tensor:
        b, n, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attention(q, k, v).transpose(1, 2).reshape(b, n, dim))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def test_windows(tokens: Tensor, *, count: int, longest: int, generator: torch.Generator) -> Tensor:
    """Random windows of a text for :func:`evaluate_lengths`, ``(count, longest + 1)``.

    >>> test_windows(torch.arange(50), count=2, longest=8, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 9])
    """
    if count < 1:
        raise ValueError(f"count={count!r} is not allowed; allowed: an integer >= 1")
    if longest < 1 or len(tokens) < longest + 1:
        raise ValueError(
            f"longest={longest!r} is not allowed; allowed: 1 … {len(tokens) - 1}, the text's length less 1"
        )
    starts = torch.randint(len(tokens) - longest, (count,), generator=generator)
    return tokens.unfold(0, longest + 1, 1)[starts]


test_windows.__test__ = False  # type: ignore[attr-defined]  # the name of a thing, not of a test


def repeated_windows(tokens: Tensor, *, count: int, period: int, longest: int, generator: torch.Generator) -> Tensor:
    """Windows for :func:`evaluate_lengths` that repeat one passage: ``(count, longest + 1)``.

    Each row is a passage of ``period`` characters, over and over. Its end can be copied from what was read, if the
    model looks back ``period`` characters: they test recall over a distance.

    >>> repeated_windows(torch.arange(50), count=1, period=3, longest=7, generator=torch.Generator().manual_seed(1))
    tensor([[37, 38, 39, 37, 38, 39, 37, 38]])
    """
    if period < 2 or period > longest:
        raise ValueError(f"period={period!r} is not allowed; allowed: 2 … {longest}, the length of a window")
    passages = test_windows(tokens, count=count, longest=period - 1, generator=generator)
    return passages[:, torch.arange(longest + 1) % period]


def repeating_batches(
    batches: Iterator[CausalBatch], *, share: float, generator: torch.Generator
) -> Iterator[CausalBatch]:
    """Batches of which a share of the rows repeats its own beginning, so that a model learns to copy.

    The period of such a row is drawn from n/8 … n/2.

    Args:
        batches: from :func:`kexue_lib.lab.text.causal_batches`.
        share: of the rows that are changed, in [0, 1]: as many of the first rows of each batch, rounded.
        generator: of the periods.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share!r} is not allowed; allowed: 0 … 1")
    return _repeating(batches, share, generator)


def _repeating(batches: Iterator[CausalBatch], share: float, generator: torch.Generator) -> Iterator[CausalBatch]:
    for batch in batches:
        whole = torch.cat((batch.inputs[:, :1], batch.targets), 1)
        rows, n = round(share * len(whole)), batch.inputs.shape[1]
        period = torch.randint(max(2, n // 8), max(3, n // 2 + 1), (rows, 1), generator=generator)
        whole[:rows] = whole[:rows].gather(1, torch.arange(n + 1) % period)
        yield CausalBatch(whole[:, :-1], whole[:, 1:])


@dataclass(frozen=True)
class LengthEvaluation:
    """What a model predicts when it reads n characters.

    Attributes:
        n: how many characters are read.
        accuracy: share of the targets that get the highest score, in [0, 1].
        cross_entropy: mean over the targets, in nats.
        targets: number of targets.
    """

    n: int
    accuracy: float
    cross_entropy: float
    targets: int


@torch.inference_mode()
def evaluate_lengths(
    model: nn.Module,
    windows: Tensor,
    *,
    train_len: int,
    multiples: Sequence[int] = (1, 2, 4, 8),
    rule: PositionRule | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
    tokens_at_once: int = 8192,
) -> list[LengthEvaluation]:
    """Predict the same characters from contexts of several lengths.

    For the multiple k the model reads the last k·N characters before each window's end; scored are the last N/2 of
    them, for every k the same ones. A model that uses a longer context well gets a rising row, one that cannot stand
    it a falling row.

    Args:
        model: such as :class:`CausalDecoder`; evaluated in eval mode, then left as it was.
        windows: from :func:`test_windows`, ``(count, longest + 1)`` with longest ≥ N · max(multiples).
        train_len: N, the length of the windows that the model was trained on; even.
        multiples: the k.
        rule: what rotary attention does with positions meanwhile; None: what it does anyway.
        autocast: makes the context of the forward pass.
        tokens_at_once: limits the memory; it changes no result beyond rounding.

    Source: https://kexue.fm/archives/9431.
    """
    if train_len < 2 or train_len % 2:
        raise ValueError(f"train_len={train_len!r} is not allowed; allowed: an even integer >= 2")
    longest = windows.shape[1] - 1
    wrong = [k for k in multiples if isinstance(k, bool) or k < 1 or k * train_len > longest]
    if wrong or not multiples:
        raise ValueError(
            f"multiples={tuple(multiples)!r} is not allowed; allowed: integers from 1 to {longest // train_len} "
            f"(windows of {longest} characters, train_len = {train_len})"
        )
    device = next(model.parameters()).device
    scored = train_len // 2
    targets = windows[:, -scored:]
    was_training = model.training
    model.eval()
    results = []
    override = contextlib.nullcontext() if rule is None else position_rule(model, rule)
    with contextlib.ExitStack() as after:
        after.callback(model.train, was_training)
        after.enter_context(override)
        for k in multiples:
            n = k * train_len
            rows = max(1, tokens_at_once // n)
            right = loss = 0.0
            for first in range(0, len(windows), rows):
                read = windows[first : first + rows, -n - 1 : -1].to(device)
                wanted = targets[first : first + rows].to(device).flatten()
                with autocast():
                    logits = model.logits(model(read)[:, -scored:]).flatten(0, 1).float()  # type: ignore[operator]
                right += float((logits.argmax(-1) == wanted).sum())
                loss += float(F.cross_entropy(logits.double(), wanted, reduction="sum"))
            count = targets.numel()
            results.append(LengthEvaluation(n, right / count, loss / count, count))
    return results

"""The causal decoder, and its evaluation on the same targets from contexts of several lengths."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib import lab
from kexue_lib.lab import language
from kexue_lib.lab.language import CausalDecoder, RotaryAttention, evaluate_lengths
from kexue_lib.lab.text import CausalBatch, Vocabulary, causal_batches, split, unigram_entropy

TEXT = "".join("abcdefgh"[(i * i + i // 3) % 8] + "xyz"[i % 3] for i in range(6000))
VOCABULARY = Vocabulary(TEXT, 20)
TRAIN, TEST = split(VOCABULARY.encode(TEXT))


def decoder(seed: int = 0, **more: Any) -> CausalDecoder:
    return CausalDecoder(len(VOCABULARY), dim=32, generator=torch.Generator().manual_seed(seed), **more)


def test_no_place_sees_what_follows() -> None:
    model = decoder().double()
    tokens = TEST[:40].view(2, 20)
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 5
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.allclose(before[:, 12:], after[:, 12:])


def test_rotary_attention_depends_on_differences_of_positions_only() -> None:
    g = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1, 2, 9, 8, generator=g, dtype=torch.float64)
    whole = RotaryAttention()(q, k, v)
    # The last query, on the last five keys alone, has the same scores: softmax over a subset renormalises them.
    scores = torch.einsum("bhid,bhjd->bhij", *(language.apply_rope(x) for x in (q, k))) / math.sqrt(8)
    shifted = torch.einsum("bhid,bhjd->bhij", *(language.apply_rope(x[:, :, 4:]) for x in (q, k))) / math.sqrt(8)
    torch.testing.assert_close(scores[:, :, 4:, 4:], shifted)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    torch.testing.assert_close(whole, scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)


def test_every_parameter_is_trained_and_comes_from_the_generator() -> None:
    model = decoder(3)
    batch = next(causal_batches(TRAIN, batch=4, n=16, generator=torch.Generator().manual_seed(0)))
    lab.training.causal_loss(model, batch).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    vector = nn.utils.parameters_to_vector
    torch.manual_seed(torch.seed())
    assert torch.equal(vector(decoder(3).parameters()), vector(decoder(3).parameters()))
    assert not torch.equal(vector(decoder(3).parameters()), vector(decoder(4).parameters()))


class _Mean(nn.Module):
    """Attention that takes the mean of what came before, with a loss of its own."""

    extra_loss: Tensor | None = None

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.extra_loss = torch.tensor(float(self.layer + 1))
        return v.cumsum(2) / torch.arange(1, v.shape[2] + 1).view(1, 1, -1, 1)


def test_attention_can_be_exchanged_and_its_loss_is_added() -> None:
    asked: list[tuple[int, int, int]] = []

    def attention(layer: int, heads: int, head_dim: int) -> nn.Module:
        asked.append((layer, heads, head_dim))
        return _Mean(layer)

    model = decoder(depth=3, heads=4, attention=attention)
    assert asked == [(0, 4, 8), (1, 4, 8), (2, 4, 8)]
    assert model.extra_loss is None  # nothing was read yet
    batch = CausalBatch(TEST[:20].view(2, 10), TEST[1:21].view(2, 10))
    loss = lab.training.causal_loss(model, batch)
    bare = F.cross_entropy(model.logits(model(batch.inputs)).flatten(0, 1), batch.targets.flatten())
    assert model.extra_loss is not None
    assert float(model.extra_loss) == 6
    torch.testing.assert_close(loss, bare + 6)
    assert decoder().extra_loss is None


def test_training_beats_the_best_guess_without_context() -> None:
    model = decoder()
    batches = causal_batches(TRAIN, batch=8, n=32, generator=torch.Generator().manual_seed(0))
    losses = lab.training.train(
        model, batches, steps=120, lr=3e-3, warmup=10, schedule="cosine", clip=1.0, loss=lab.training.causal_loss
    )
    assert losses[-20:].mean() < 0.7 * unigram_entropy(TRAIN)


class _Copy(nn.Module):
    """Predicts the character that stood `period` places before the next one, and nothing where there was none."""

    def __init__(self, period: int, symbols: int) -> None:
        super().__init__()
        self.period, self.symbols = period, symbols
        self.unused = nn.Parameter(torch.zeros(1))
        self.lengths: list[int] = []

    def forward(self, tokens: Tensor) -> Tensor:
        self.lengths.append(tokens.shape[1])
        past = torch.full_like(tokens, -1)
        past[:, self.period - 1 :] = tokens[:, : max(0, tokens.shape[1] - self.period + 1)]
        return F.one_hot(past + 1, self.symbols + 1)[..., 1:].float() * 50

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden


def test_all_lengths_are_scored_on_the_same_targets_and_see_only_their_context() -> None:
    symbols, period, train_len = 97, 24, 16
    text = torch.arange(2000) * 31 % 24 + 3  # repeats after 24, longer than the training, shorter than twice of it
    windows = language.test_windows(text, count=6, longest=64, generator=torch.Generator().manual_seed(0))
    assert windows.shape == (6, 65)
    model = _Copy(period, symbols)
    short, double, fourfold = evaluate_lengths(model, windows, train_len=train_len, multiples=(1, 2, 4))
    assert [r.n for r in (short, double, fourfold)] == [16, 32, 64]
    assert {r.targets for r in (short, double, fourfold)} == {6 * train_len // 2}
    assert set(model.lengths) == {16, 32, 64}
    assert short.accuracy == 0  # the copy lies before the window
    assert short.cross_entropy == pytest.approx(math.log(symbols))
    assert double.accuracy == fourfold.accuracy == 1
    assert double.cross_entropy == pytest.approx(math.log1p((symbols - 1) * math.exp(-50)), abs=1e-12)


def test_evaluation_does_not_depend_on_how_much_is_read_at_once_and_leaves_the_mode() -> None:
    model = decoder()
    windows = language.test_windows(TEST, count=9, longest=64, generator=torch.Generator().manual_seed(0))
    model.train()
    small = evaluate_lengths(model, windows, train_len=16, multiples=(1, 4), tokens_at_once=64)
    large = evaluate_lengths(model, windows, train_len=16, multiples=(1, 4))
    assert model.training
    for a, b in zip(small, large, strict=True):
        assert a.accuracy == b.accuracy
        assert a.cross_entropy == pytest.approx(b.cross_entropy, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocabulary": 0}, "vocabulary=0 is not allowed"),
        ({"heads": 3}, "heads=3 is not allowed; allowed: a divisor of dim = 32"),
        ({"heads": 32}, "heads=32 is not allowed; allowed: rotary positions need an even dim / heads"),
        ({"depth": True}, "depth=True is not allowed"),
    ],
)
def test_wrong_decoders(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CausalDecoder(**{"vocabulary": 10, "dim": 32, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multiples": (1, 5)}, "multiples=.1, 5. is not allowed; allowed: integers from 1 to 4"),
        ({"multiples": ()}, r"multiples=\(\) is not allowed"),
        ({"train_len": 15}, "train_len=15 is not allowed; allowed: an even integer"),
    ],
)
def test_wrong_evaluations(change: dict[str, Any], message: str) -> None:
    windows = language.test_windows(TEST, count=2, longest=64, generator=torch.Generator())
    with pytest.raises(ValueError, match=message):
        evaluate_lengths(decoder(), windows, **{"train_len": 16, **change})


def test_wrong_windows() -> None:
    with pytest.raises(ValueError, match="longest=10 is not allowed; allowed: 1 … 9"):
        language.test_windows(torch.arange(10), count=1, longest=10, generator=torch.Generator())
    with pytest.raises(ValueError, match="count=0 is not allowed"):
        language.test_windows(torch.arange(10), count=0, longest=5, generator=torch.Generator())

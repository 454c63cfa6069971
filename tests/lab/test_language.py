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
from kexue_lib.lab.language import CausalDecoder, PositionRule, RotaryAttention, evaluate_lengths, position_rule
from kexue_lib.lab.text import CausalBatch, Vocabulary, causal_batches, split, unigram_entropy
from kexue_lib.positions import apply_rope, rope_inv_freq, scale_rope

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
    scores = torch.einsum("bhid,bhjd->bhij", *(apply_rope(x) for x in (q, k))) / math.sqrt(8)
    shifted = torch.einsum("bhid,bhjd->bhij", *(apply_rope(x[:, :, 4:]) for x in (q, k))) / math.sqrt(8)
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


# --- rules of positions --------------------------------------------------------------------------------------------
THETA = scale_rope(rope_inv_freq(8, dtype=torch.float64), 4.0, "ntk_fixed")
RULES = {
    "other frequencies": PositionRule(inv_freq=THETA),
    "some pairs only": PositionRule(inv_freq=THETA[:2]),
    "clipped": PositionRule(rerope=4),
    "leaky": PositionRule(rerope=4, leak=3.0),
    "clipped, other frequencies": PositionRule(inv_freq=THETA, rerope=2.5),
    "log n": PositionRule(logn=6),
    "log n, also below": PositionRule(logn=6, clip=False),
    "window": PositionRule(window=5),
    "sharper": PositionRule(scale=1.7),
    "everything": PositionRule(THETA, rerope=3, leak=2.0, logn=5, window=9, scale=0.7),
}


def some(n: int = 13, d: int = 8) -> Tensor:
    return torch.randn(3, 2, 2, n, d, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def written_out(rule: PositionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula of PositionRule, one score at a time."""
    n, d = q.shape[-2:]
    theta = rope_inv_freq(d, dtype=q.dtype) if rule.inv_freq is None else rule.inv_freq
    scores = torch.full((*q.shape[:-1], n), -math.inf, dtype=q.dtype)
    for i in range(n):
        f = 1.0 if rule.logn is None else math.log(i + 1) / math.log(rule.logn)
        f = max(f, 1.0) if rule.clip else f
        for j in range(i + 1):
            t = float(i - j)
            if rule.window is not None and t >= rule.window:
                continue
            if rule.rerope is not None and t >= rule.rerope:
                t = rule.rerope + (0 if rule.leak is None else (t - rule.rerope) / rule.leak)
            turned = apply_rope(k[..., j : j + 1, :], torch.tensor([-t], dtype=q.dtype), theta)[..., 0, :]
            scores[..., i, j] = rule.scale * f * (q[..., i, :] * turned).sum(-1) / math.sqrt(d)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_its_formula(name: str) -> None:
    q, k, v = some()
    kept = q.clone()
    torch.testing.assert_close(RotaryAttention(RULES[name])(q, k, v), written_out(RULES[name], q, k, v))
    assert torch.equal(q, kept)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_passes_gradients_and_keeps_half_precision(name: str) -> None:
    leaves = [x.clone().requires_grad_() for x in some(5)]
    torch.autograd.gradcheck(RotaryAttention(RULES[name]), leaves)
    single = [x.float() for x in some(7)]
    halves = RotaryAttention(RULES[name])(*(x.bfloat16() for x in single))
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(halves.float(), RotaryAttention(RULES[name])(*single), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", ["log n", "leaky", "everything"])
def test_a_rule_compiles_to_one_graph(name: str) -> None:
    torch.compiler.reset()
    single = [x.float() for x in some(7)]
    compiled = torch.compile(RotaryAttention(RULES[name]), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*single), RotaryAttention(RULES[name])(*single), rtol=1e-5, atol=1e-5)


def test_without_a_rule_nothing_has_changed() -> None:
    q, k, v = (x.float() for x in some())
    plain = F.scaled_dot_product_attention(apply_rope(q), apply_rope(k), v, is_causal=True)
    assert torch.equal(RotaryAttention()(q, k, v), plain)
    assert torch.equal(RotaryAttention(PositionRule(inv_freq=rope_inv_freq(8)))(q, k, v), plain)
    assert not RotaryAttention(RULES["everything"]).state_dict()  # no weight, no buffer: old checkpoints load


@pytest.mark.parametrize("rule", [PositionRule(rerope=13), PositionRule(window=13), PositionRule(rerope=2, leak=1.0)])
def test_a_window_that_holds_the_whole_text_changes_nothing(rule: PositionRule) -> None:
    q, k, v = some()
    torch.testing.assert_close(RotaryAttention(rule)(q, k, v), RotaryAttention()(q, k, v))


def test_clipped_log_n_changes_nothing_up_to_the_trained_length_and_something_beyond() -> None:
    q, k, v = (x.float() for x in some())
    out = RotaryAttention(PositionRule(logn=9))(q, k, v)
    plain = RotaryAttention()(q, k, v)
    assert torch.equal(out[:, :, :9], plain[:, :, :9])
    assert all((out[:, :, i] - plain[:, :, i]).abs().max() > 1e-4 for i in range(9, 13))


def test_one_layer_with_a_window_reads_its_last_tokens_as_a_text_of_their_own() -> None:
    model = decoder(depth=1).double()
    tokens = TEST[:50].view(1, 50)
    with position_rule(model, PositionRule(window=16)):
        whole = model(tokens)
    for end in (16, 23, 50):
        torch.testing.assert_close(whole[:, end - 1], model(tokens[:, end - 16 : end])[:, -1])
    deep = decoder(depth=2).double()  # the keys of the second layer have read further back
    with position_rule(deep, PositionRule(window=16)):
        assert not torch.allclose(deep(tokens)[:, -1], deep(tokens[:, -16:])[:, -1])


def test_a_rule_holds_within_its_block_only() -> None:
    model, rule = decoder(), PositionRule(window=3)
    before = [layer.rule for layer in model.attentions]
    with position_rule(model, rule):
        assert all(layer.rule is rule for layer in model.attentions)
    assert [layer.rule for layer in model.attentions] == before

    def fails() -> None:
        with position_rule(model, rule):
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [layer.rule for layer in model.attentions] == before
    with (
        pytest.raises(ValueError, match="CausalDecoder has no RotaryAttention"),
        position_rule(decoder(attention=lambda *_: _Mean(0)), rule),
    ):
        pass


def test_a_rule_of_an_evaluation_is_the_rule_of_a_model() -> None:
    windows = language.test_windows(TEST, count=5, longest=64, generator=torch.Generator().manual_seed(0))
    rule = PositionRule(inv_freq=scale_rope(rope_inv_freq(8), 4, "pi"), logn=16)
    model = decoder()
    overridden = evaluate_lengths(model, windows, train_len=16, multiples=(1, 4), rule=rule)
    own = decoder(attention=lambda *_: RotaryAttention(rule))
    assert overridden == evaluate_lengths(own, windows, train_len=16, multiples=(1, 4))
    assert overridden != evaluate_lengths(model, windows, train_len=16, multiples=(1, 4))  # and it is gone


def test_a_rule_names_what_it_changes() -> None:
    assert repr(PositionRule()) == "PositionRule()"
    assert repr(RULES["everything"]) == "PositionRule(inv_freq=…, rerope=3, leak=2.0, logn=5, window=9, scale=0.7)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inv_freq": torch.ones(2, 2)}, r"inv_freq=.2, 2. is not allowed; allowed: None, or a tensor"),
        ({"inv_freq": 10000}, "inv_freq=10000 is not allowed"),
        ({"rerope": 0}, "rerope=0 is not allowed; allowed: a number > 0"),
        ({"logn": 1}, "logn=1 is not allowed; allowed: a number > 1"),
        ({"scale": math.nan}, "scale=nan is not allowed"),
        ({"leak": 2.0}, "leak=2.0 is not allowed; allowed: a number >= 1, together with rerope"),
        ({"leak": 0.5, "rerope": 4}, "leak=0.5 is not allowed"),
        ({"window": 0}, "window=0 is not allowed; allowed: None, or an integer >= 1"),
        ({"window": 2.5}, "window=2.5 is not allowed"),
    ],
)
def test_wrong_rules(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PositionRule(**change)


# --- texts that repeat themselves ----------------------------------------------------------------------------------
def test_repeated_windows_hold_a_passage_of_the_text_over_and_over() -> None:
    text = torch.arange(1000)
    rows = language.repeated_windows(text, count=20, period=24, longest=64, generator=torch.Generator().manual_seed(0))
    assert rows.shape == (20, 65)
    assert torch.equal(rows[:, 24:], rows[:, :-24])
    assert bool((rows[:, 1:24] == rows[:, :23] + 1).all())
    assert len(rows[:, 0].unique()) > 10
    for period in (1, 65):
        with pytest.raises(ValueError, match=f"period={period} is not allowed; allowed: 2 … 64"):
            language.repeated_windows(text, count=2, period=period, longest=64, generator=torch.Generator())


def test_repeating_batches_repeat_a_share_of_the_rows() -> None:
    plain = causal_batches(TRAIN, batch=12, n=32, generator=torch.Generator().manual_seed(0))
    same = causal_batches(TRAIN, batch=12, n=32, generator=torch.Generator().manual_seed(0))
    changed = language.repeating_batches(same, share=0.5, generator=torch.Generator().manual_seed(1))
    periods = set()
    for _ in range(5):
        before, after = next(plain), next(changed)
        assert torch.equal(after.inputs[:, 1:], after.targets[:, :-1])
        assert torch.equal(before.inputs[6:], after.inputs[6:])
        assert torch.equal(before.targets[6:], after.targets[6:])
        for row, old in zip(after.inputs[:6], before.inputs[:6], strict=True):
            fits = [p for p in range(4, 17) if torch.equal(row[p:], row[:-p])]
            assert fits
            assert torch.equal(row[: fits[0]], old[: fits[0]])
            periods.add(fits[0])
    assert len(periods) > 4
    with pytest.raises(ValueError, match=r"share=1\.5 is not allowed"):
        language.repeating_batches(plain, share=1.5, generator=torch.Generator())


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

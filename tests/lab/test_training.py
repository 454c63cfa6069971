"""The encoders, their training and their evaluation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kexue_lib import lab
from kexue_lib.lab.text import MaskedBatch, MaskedText, Vocabulary, masked_batches, masked_text, split, unigram_entropy

TEXT = "".join("abcdefgh"[(i * i + i // 3) % 8] + "xyz"[i % 3] for i in range(6000))
VOCABULARY = Vocabulary(TEXT, 20)
TRAIN, TEST = split(VOCABULARY.encode(TEXT))


def gau(run: lab.Run, **more: Any) -> nn.Module:
    settings = {"dim": 32, "key_dim": 16, "generator": run.generator("weights"), **more}
    return lab.models.GAUEncoder(len(VOCABULARY), **settings)


def roformer(run: lab.Run, **more: Any) -> nn.Module:
    settings = {"dim": 32, "depth": 2, "heads": 2, "generator": run.generator("weights"), **more}
    return lab.models.RoFormerEncoder(len(VOCABULARY), **settings)


def batches(run: lab.Run) -> Iterator[MaskedBatch]:
    return masked_batches(TRAIN, batch=8, n=32, mask=VOCABULARY.mask, generator=run.generator("batches"))


def held_out(run: lab.Run) -> MaskedText:
    return masked_text(TEST[:1024], mask=VOCABULARY.mask, generator=run.generator("mask"))


both = pytest.mark.parametrize("make", [gau, roformer])


# Models --------------------------------------------------------------------------------


@both
def test_hidden_entropy_and_logits_have_their_shapes(make: Any) -> None:
    model = make(lab.Run())
    tokens = TEST[:30].view(2, 15)
    hidden, entropy = model(tokens, return_entropy=True)
    assert hidden.shape == (2, 15, 32)
    assert entropy.shape[:2] == (2, 2)
    assert entropy.shape[3] == 15
    assert model.logits(hidden).shape == (2, 15, len(VOCABULARY))
    assert torch.equal(hidden, model(tokens))
    assert ((entropy >= 0) & (entropy <= math.log(15) + 1e-5)).all()


@both
def test_scale_can_be_set_for_one_call(make: Any) -> None:
    model = make(lab.Run(), train_len=15).eval()
    tokens = TEST[:30].view(2, 15)
    own = model(tokens)
    # At the training length the law of log n is the standard scale; so is the number it stands for.
    for same in ({"scale": "logn"}, {"scale": "sqrt_d"}, {"scale": 1 / math.sqrt(model.key_dim)}):
        torch.testing.assert_close(model(tokens, **same), own)
    for other in ({"scale": "logn", "train_len": 512}, {"scale": 0.9}):
        assert not torch.allclose(model(tokens, **other), own, atol=1e-4)
    assert torch.equal(model(tokens), own)
    built = make(lab.Run(), scale="logn", train_len=512)
    torch.testing.assert_close(built(tokens), model(tokens, scale="logn", train_len=512))


@both
def test_scale_zero_spreads_attention_evenly(make: Any) -> None:
    _, entropy = make(lab.Run())(TEST[:30].view(2, 15), scale=0.0, return_entropy=True)
    torch.testing.assert_close(entropy, torch.full_like(entropy, math.log(15)))


@both
def test_order_of_the_characters_matters(make: Any) -> None:
    model = make(lab.Run()).double()
    tokens = torch.tensor([[1, 2, 3, 4]])
    swapped = model(tokens.flip(1)).flip(1)
    assert not torch.allclose(model(tokens), swapped, atol=1e-9)


@both
def test_every_parameter_is_trained(make: Any) -> None:
    run = lab.Run()
    model = make(run)
    lab.training.masked_loss(model, next(batches(run))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert lab.models.parameter_count(model) == sum(p.numel() for p in model.parameters())


@both
def test_weights_come_from_the_generator_alone(make: Any) -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(torch.seed())
        return nn.utils.parameters_to_vector(make(lab.Run(seed=seed)).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (gau, {"dim": 0}, "dim=0 is not allowed"),
        (gau, {"depth": 0}, "depth=0 is not allowed"),
        (gau, {"scale": "log"}, "scale='log' is not a known scale"),
        (roformer, {"heads": 3}, "heads=3 is not allowed; allowed: dim = 32 has to be a multiple of 2 · heads"),
        (roformer, {"heads": 0}, "heads=0 is not allowed"),
        (roformer, {"scale": "log"}, "kind='log' is not a known scale"),
    ],
)
def test_wrong_models(make: Any, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(lab.Run(), **change)


# Training --------------------------------------------------------------------------------


@both
def test_training_beats_the_best_guess_without_context(make: Any) -> None:
    run = lab.Run()
    losses = lab.training.train(make(run), batches(run), steps=150, lr=3e-3)
    assert losses.shape == (150,)
    assert losses[-20:].mean() < 0.9 * unigram_entropy(TRAIN)
    assert losses[0] > losses[-1]


def test_same_seed_gives_identical_numbers() -> None:
    def results(seed: int) -> tuple[list[float], lab.training.Evaluation]:
        run = lab.Run(seed=seed)
        model = gau(run)
        losses = lab.training.train(model, batches(run), steps=12, lr=3e-3)
        return losses.tolist(), lab.training.evaluate(model, held_out(run), 64, scale="logn", train_len=32)

    assert results(0) == results(0)
    assert results(0)[0] != results(1)[0]


class _Line(nn.Module):
    """A model of one number whose loss is that number times `slope`: Adam moves it by the learning rate each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 2))
        self.seen: list[float] = []

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(float(self.weight[0, 0].detach()))
        return self.weight.expand(*tokens.shape, 2)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def _constant() -> Iterator[MaskedBatch]:
    zero = torch.zeros(1, 1, dtype=torch.int64)
    return repeat(MaskedBatch(zero, zero, zero))


@pytest.mark.parametrize("warmup", [0, 4])
def test_learning_rate_rises_and_falls_linearly(warmup: int) -> None:
    model, steps = _Line(), 10
    lab.training.train(model, _constant(), steps=steps, lr=1e-3, warmup=warmup)
    moved = np.diff([*model.seen, float(model.weight[0, 0].detach())])
    expected = [min((t + 1) / warmup if warmup else 1, (steps - t) / (steps - warmup)) for t in range(steps)]
    # With a gradient of constant sign and size Adam's step is the learning rate itself.
    np.testing.assert_allclose(moved, np.array(expected) * 1e-3, rtol=2e-3)


def test_clip_bounds_the_gradient() -> None:
    model = _Line()
    lab.training.train(model, _constant(), steps=1, lr=1e-3, clip=1e-3)
    assert model.weight.grad is not None
    assert float(model.weight.grad.norm()) == pytest.approx(1e-3, rel=1e-3)


@both
def test_forward_runs_under_autocast_and_losses_stay_float64(make: Any) -> None:
    entered = []

    @contextlib.contextmanager
    def autocast() -> Iterator[None]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            entered.append(1)
            yield

    run = lab.Run()
    model = make(run)
    losses = lab.training.train(model, batches(run), steps=3, lr=3e-3, autocast=autocast)
    assert len(entered) == 3
    assert losses.dtype == np.float64
    plain = lab.training.train(make(run), batches(run), steps=3, lr=3e-3)
    assert 0 < np.abs(losses - plain).max() < 0.1
    exact, rounded = (
        lab.training.evaluate(model, held_out(run), 64, autocast=a) for a in (contextlib.nullcontext, autocast)
    )
    assert rounded.cross_entropy == pytest.approx(exact.cross_entropy, abs=0.05)
    assert rounded.entropy == pytest.approx(exact.entropy, abs=0.05)


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    run = lab.Run()
    model = gau(run)
    with torch.no_grad():
        model.head.bias.fill_(math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(FloatingPointError, match="not finite from step 0 on"):
        lab.training.train(model, batches(run), steps=2, lr=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps=0 is not allowed"),
        ({"lr": 0.0}, "lr=0.0 is not allowed"),
        ({"lr": math.inf}, "lr=inf is not allowed"),
        ({"warmup": 5}, "warmup=5 is not allowed; allowed: 0 … steps - 1 = 4"),
        ({"warmup": -1}, "warmup=-1 is not allowed"),
    ],
)
def test_wrong_training(change: dict, message: str) -> None:
    run = lab.Run()
    with pytest.raises(ValueError, match=message):
        lab.training.train(gau(run), batches(run), **{"steps": 5, "lr": 1e-3, **change})


# Watching ------------------------------------------------------------------------------------------------


def test_a_watch_sees_the_model_after_every_so_many_steps_and_changes_nothing() -> None:
    def seen(model: nn.Module) -> tuple[float, bool]:
        return float(model.eval().weight[0, 0].detach()), model.training  # type: ignore[index,operator]

    watched, alone, watch = _Line(), _Line(), lab.training.Watch(3, seen)
    losses = lab.training.train(watched, _constant(), steps=10, lr=1e-3, watch=watch)
    assert watch.found == [(watched.seen[step], False) for step in (3, 6, 9)]
    assert watched.training  # what it measures in eval mode does not stop the training mode
    assert losses.tolist() == lab.training.train(alone, _constant(), steps=10, lr=1e-3).tolist()


def test_what_no_file_gives_back_is_refused_when_it_is_measured() -> None:
    for value in (np.float64(1), [torch.zeros(1)], {"a": (1, {2})}, lab.training.Evaluation(1, 1.0, 1.0, 1.0, 1)):
        watch = lab.training.Watch(1, lambda model, value=value: value)
        with pytest.raises(TypeError, match="cannot be read back from a file"):
            lab.training.train(_Line(), _constant(), steps=1, lr=1e-3, watch=watch)
    with pytest.raises(ValueError, match="every=0 is not allowed"):
        lab.training.Watch(0, lambda model: 1)


# Evaluation --------------------------------------------------------------------------------


class _Spy(nn.Module):
    """Knows every answer but those at places whose id is odd; notes what it is shown and asked."""

    def __init__(self, answers: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answers = answers
        self.shown: list[torch.Tensor] = []
        self.asked: list[torch.Tensor] = []
        self.lengths: set[int] = set()

    def forward(self, tokens: torch.Tensor, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        at = sum(len(x) for x in self.shown)
        self.shown.append(tokens.flatten())
        self.lengths.add(tokens.shape[1])
        places = torch.arange(at, at + tokens.numel(), dtype=torch.float32)
        rows = places.view(1, len(tokens), 1, -1)
        return places.view(*tokens.shape, 1), rows

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        places = hidden.flatten().long()
        self.asked.append(places)
        guess = torch.where(places % 2 == 0, self.answers[places], (self.answers[places] + 1) % 10)
        return nn.functional.one_hot(guess, 10) * 4.0


@pytest.mark.parametrize("tokens_at_once", [1, 100, 8192])
def test_every_window_length_is_asked_for_the_same_characters_under_the_same_mask(tokens_at_once: int) -> None:
    tokens = torch.randint(10, (512,), generator=torch.Generator().manual_seed(0))
    text = masked_text(tokens, mask=99, generator=torch.Generator().manual_seed(1))
    even = float((text.places % 2 == 0).double().mean())
    right, wrong = math.log(math.e**4 + 9) - 4, math.log(math.e**4 + 9)
    for n in (1, 8, 64, 512):
        spy = _Spy(tokens)
        result = lab.training.evaluate(spy, text, n, tokens_at_once=tokens_at_once)
        assert spy.lengths == {n}
        assert torch.equal(torch.cat(spy.shown), text.inputs)
        assert torch.equal(torch.cat(spy.asked), text.places)
        assert result.characters == len(text.places) == 77
        assert result.accuracy == pytest.approx(even)
        assert result.cross_entropy == pytest.approx(even * right + (1 - even) * wrong)
        assert result.entropy == pytest.approx(511 / 2)  # mean of 0 … 511: every row counts once
        assert spy.training


@both
def test_evaluation_does_not_depend_on_the_memory_limit(make: Any) -> None:
    run = lab.Run()
    model, text = make(run).double(), held_out(run)
    results = [lab.training.evaluate(model, text, 64, tokens_at_once=k) for k in (1, 192, 10_000)]
    for other in results[1:]:
        assert other.accuracy == results[0].accuracy
        assert other.cross_entropy == pytest.approx(results[0].cross_entropy, abs=1e-6)
        assert other.entropy == pytest.approx(results[0].entropy, abs=1e-9)


@both
def test_at_the_training_length_both_laws_are_one_network(make: Any) -> None:
    run = lab.Run()
    model, text = make(run), held_out(run)
    plain, log_n = (lab.training.evaluate(model, text, 64, scale=s, train_len=64) for s in ("sqrt_d", "logn"))
    assert log_n.accuracy == plain.accuracy
    assert log_n.cross_entropy == pytest.approx(plain.cross_entropy, abs=1e-5)
    assert lab.training.evaluate(model, text, 512, scale="logn", train_len=64).entropy < (
        lab.training.evaluate(model, text, 512, scale="sqrt_d").entropy
    )


def test_evaluation_leaves_mode_gradients_and_generators_alone() -> None:
    run = lab.Run()
    model = gau(run).eval()
    state = torch.get_rng_state()
    lab.training.evaluate(model, held_out(run), 64)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.get_rng_state())
    model.train()
    with pytest.raises(ValueError, match="n=100 is not allowed"):
        lab.training.evaluate(model, held_out(run), 100)
    assert model.training


def test_evaluation_restores_the_mode_after_an_error() -> None:
    run = lab.Run()
    model = gau(run)
    with pytest.raises(ValueError, match="scale='log'"):
        lab.training.evaluate(model, held_out(run), 64, scale="log")
    assert model.training


# Schedules, losses, optimizers ------------------------------------------------------------------------


def _rates(**options: Any) -> list[float]:
    """The learning rates of ten steps: SGD on a loss of slope 1 moves the parameter by the rate."""
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    where: list[float] = []

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        where.append(model.weight.item())
        return model.weight.sum()

    def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=lr)

    options = {"steps": 10, "lr": 0.5, **options}
    lab.training.train(model, repeat(torch.zeros(1)), loss=loss, optimizer=sgd, **options)
    where.append(model.weight.item())
    return [(a - b) / options["lr"] for a, b in pairwise(where)]


def test_schedules_are_the_documented_ones() -> None:
    assert _rates(schedule="constant") == pytest.approx([1.0] * 10)
    assert _rates(schedule="linear") == pytest.approx([(10 - t) / 10 for t in range(10)])
    cosine = [0.05 + 0.95 * (1 + math.cos(math.pi * (t - 4) / 6)) / 2 for t in range(4, 10)]
    assert _rates(schedule="cosine", warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1.0, *cosine])
    assert _rates(schedule=lambda t: 1 / (t + 1)) == pytest.approx([1 / (t + 1) for t in range(10)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "square"}, "schedule='square' is not allowed; allowed: linear, cosine, constant, or a function"),
        ({"schedule": lambda t: 1.0, "warmup": 2}, "warmup=2 is not allowed beside a schedule of your own"),
    ],
)
def test_wrong_schedules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _rates(**options)

"""Vocabularies and masked texts."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kexue_lib.lab.text import (
    MaskedBatch,
    Vocabulary,
    causal_batches,
    masked_batches,
    masked_text,
    split,
    unigram_entropy,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(st.text(min_size=1), st.integers(1, 8))
def test_vocabulary_keeps_the_most_frequent_and_marks_the_rest(text: str, size: int) -> None:
    vocabulary = Vocabulary(text, size)
    assert len(vocabulary) == len(vocabulary.characters) + 2 <= size + 2
    ids = vocabulary.encode(text)
    assert ids.shape == (len(text),)
    kept = set(vocabulary.characters)
    for character, i in zip(text, ids.tolist(), strict=True):
        assert i == (vocabulary.characters.index(character) if character in kept else vocabulary.unknown)
        assert i != vocabulary.mask
    least = min(map(text.count, kept))
    assert all(text.count(character) <= least for character in set(text) - kept)


def test_equal_counts_are_ordered_by_code_point() -> None:
    assert Vocabulary("cbaabc𝔸", 3).characters == "abc"
    assert Vocabulary("cbaabc𝔸", 9).encode("𝔸").tolist() == [3]


def test_decode_inverts_encode_for_known_characters() -> None:
    vocabulary = Vocabulary("熵不变性Softmax", 99)
    assert vocabulary.decode(vocabulary.encode("不变性")) == "不变性"
    assert vocabulary.decode([vocabulary.unknown, vocabulary.mask]) == "�▢"


def test_wrong_vocabularies() -> None:
    with pytest.raises(ValueError, match="text is empty"):
        Vocabulary("", 3)
    for size in (0, 2.0, True):
        with pytest.raises(ValueError, match=f"size={size} is not allowed"):
            Vocabulary("a", size)  # type: ignore[arg-type]


def test_split_keeps_order_and_loses_nothing() -> None:
    tokens = torch.arange(101)
    first, rest = split(tokens)
    assert torch.equal(torch.cat([first, rest]), tokens)
    assert len(first) == 91
    with pytest.raises(ValueError, match="fraction=1 is not allowed"):
        split(tokens, 1)


def test_unigram_entropy_of_equal_and_of_single_symbols() -> None:
    assert unigram_entropy(torch.arange(8)) == pytest.approx(math.log(8))
    assert unigram_entropy(torch.full((5,), 3)) == 0


def test_batches_are_windows_of_the_text_with_masked_places() -> None:
    tokens = torch.arange(500)
    for b in islice(masked_batches(tokens, batch=4, n=20, mask=999, generator=generator()), 5):
        assert b.inputs.shape == (4, 20)
        assert b.places.shape == b.targets.shape == (4, 3)  # 15 % of 20
        assert (b.places.diff(dim=1) > 0).all()
        restored = b.inputs.scatter(1, b.places, b.targets)
        assert (restored.diff(dim=1) == 1).all()  # a window of consecutive characters
        assert ((b.inputs == 999).sum(1) == 3).all()


def test_batches_come_from_the_generator_alone() -> None:
    tokens = torch.arange(500)

    def first(seed: int) -> MaskedBatch:
        torch.manual_seed(torch.seed())  # the global generator must not matter
        return next(masked_batches(tokens, batch=4, n=20, mask=999, generator=generator(seed)))

    assert torch.equal(first(1).inputs, first(1).inputs)
    assert not torch.equal(first(1).inputs, first(2).inputs)


def test_batches_reach_both_ends_of_the_text_and_every_place() -> None:
    tokens = torch.arange(12)
    batches = list(islice(masked_batches(tokens, batch=8, n=10, mask=99, generator=generator()), 40))
    starts = {int(row[0]) for b in batches for row in b.inputs.scatter(1, b.places, b.targets)}
    assert starts == {0, 1, 2}
    assert set(torch.cat([b.places.flatten() for b in batches]).tolist()) == set(range(10))


def test_batches_do_not_change_the_text() -> None:
    tokens = torch.arange(50)
    next(masked_batches(tokens, batch=4, n=20, mask=999, generator=generator()))
    masked_text(tokens, mask=999, generator=generator())
    assert torch.equal(tokens, torch.arange(50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 101}, "n=101 is not allowed; allowed: 1 … 100, for a text of 100 characters"),
        ({"n": 0}, "n=0 is not allowed"),
        ({"batch": 0}, "batch=0 is not allowed"),
        ({"rate": 0.0}, "rate=0.0 is not allowed"),
        ({"rate": 1.0}, "rate=1.0 is not allowed"),
    ],
)
def test_wrong_batches_are_refused_when_they_are_asked_for(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        masked_batches(torch.arange(100), **{"batch": 2, "n": 10, "mask": 0, "generator": generator(), **change})


def test_masked_text_is_one_mask_for_all_windows() -> None:
    tokens = torch.arange(64)
    text = masked_text(tokens, mask=999, generator=generator(), rate=0.25)
    assert len(text.places) == 16
    assert torch.equal(text.places, text.targets)  # the token at place i is i
    assert torch.equal(text.inputs.index_put((text.places,), text.targets), tokens)
    for n in (1, 4, 64):
        assert torch.equal(text.windows(n).flatten(), text.inputs)


def test_windows_have_to_fit() -> None:
    text = masked_text(torch.arange(64), mask=999, generator=generator())
    for n in (0, 3, 128, 4.0, True):
        with pytest.raises(ValueError, match=f"n={n} is not allowed; allowed: a divisor of the length of the text, 64"):
            text.windows(n)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \(0,\)"):
        masked_text(torch.arange(0), mask=0, generator=generator())


# Texts to be continued --------------------------------------------------------------------------------


def test_a_causal_batch_holds_windows_and_the_characters_that_follow() -> None:
    tokens = torch.arange(200)
    draws = causal_batches(tokens, batch=5, n=7, generator=torch.Generator().manual_seed(3))
    first, second = next(draws), next(draws)
    for batch in (first, second):
        assert batch.inputs.shape == batch.targets.shape == (5, 7)
        assert torch.equal(batch.targets, batch.inputs + 1)  # the text counts, so the next character is one more
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert not torch.equal(first.inputs, second.inputs)


def test_causal_windows_reach_both_ends_of_the_text() -> None:
    draws = causal_batches(torch.arange(6), batch=200, n=4, generator=torch.Generator().manual_seed(0))
    batch = next(draws)
    assert set(batch.inputs[:, 0].tolist()) == {0, 1}
    assert int(batch.targets.max()) == 5


@pytest.mark.parametrize(("n", "batch", "message"), [(10, 1, "n=10 is not allowed; allowed: 1 … 9"), (3, 0, "batch=0")])
def test_wrong_causal_batches_are_refused_when_they_are_asked_for(n: int, batch: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        causal_batches(torch.arange(10), batch=batch, n=n, generator=torch.Generator())

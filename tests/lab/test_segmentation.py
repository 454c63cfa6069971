"""kexue_lib.lab.segmentation: words and tags, scores of words, batches, and small taggers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kexue_lib.lab.segmentation as S
from kexue_lib.crf import LinearChainCRF, legal_transitions

TEXT = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=12)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def toy(count=24, seed=0):
    """Lines of a small language: words ab, cde, f in random order."""
    order = torch.randint(3, (count, 5), generator=rng(seed)).tolist()
    return [S.bmes([("ab", "cde", "f")[k] for k in row]) for row in order]


@given(TEXT)
@settings(max_examples=80, deadline=None)
def test_tags_and_words_are_inverse(line):
    text, tags = S.bmes(line)
    assert S.words(text, tags) == line
    legal = legal_transitions(S.TAGS)
    assert all(legal[i, j] for i, j in pairwise(tags))
    assert S.TAGS[tags[0]] in "sb"
    assert S.TAGS[tags[-1]] in "se"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 2**30)), min_size=1, max_size=4))
@settings(max_examples=120, deadline=None)
def test_f1_counts_words_that_begin_and_end_alike(rows):
    """Against the count by sets of spans, for any tags, legal or not."""
    n = max(length for length, _ in rows)
    mask = torch.arange(n) < torch.tensor([length for length, _ in rows])[:, None]
    gold, predicted = (
        torch.stack([torch.randint(4, (n,), generator=rng(seed + k)) for _, seed in rows]) for k in (0, 1)
    )
    right = found = real = 0
    for row, (length, _) in enumerate(rows):

        def spans(tags, row=row, length=length):
            out, at = set(), 0
            for word in S.words("x" * length, tags[row, :length].tolist()):
                out.add((at, at + len(word)))
                at += len(word)
            return out

        a, b = spans(predicted), spans(gold)
        right, found, real = right + len(a & b), found + len(a), real + len(b)
    score = S.segmentation_f1(predicted.masked_fill(~mask, -1), gold.masked_fill(~mask, 0), mask)
    assert score.precision == pytest.approx(right / found)
    assert score.recall == pytest.approx(right / real)
    assert score.f1 == pytest.approx(2 * right / (found + real))
    assert S.segmentation_f1(gold, gold, mask).f1 == 1


def test_f1_leaves_its_input_alone():
    tags, mask = torch.tensor([[1, 3, 0]]), torch.ones(1, 3, dtype=torch.bool)
    before = tags.clone()
    S.segmentation_f1(tags, tags, mask)
    assert torch.equal(tags, before)
    with pytest.raises(ValueError, match="boolean mask"):
        S.segmentation_f1(tags, tags, mask.int())


def test_illegal_share():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    assert S.illegal_share(torch.tensor([[0, 3, 2, 3], [1, 0, -1, -1]]), mask) == pytest.approx(3 / 4)
    assert S.illegal_share(torch.tensor([[0]]), torch.tensor([[True]])) == 0


def test_lines_of_the_paper_are_different_and_fit():
    lines = S.peoples_daily_lines(48)
    assert len({line.text for line in lines}) == len(lines)
    assert max(len(line.text) for line in lines) == 48
    assert all(len(line.text) == len(line.tags) for line in lines)
    seen = torch.zeros(4, 4, dtype=torch.bool)
    for line in lines:
        for i, j in pairwise(line.tags):
            seen[i, j] = True
    assert torch.equal(seen, legal_transitions(S.TAGS))  # exactly the eight legal steps occur
    train, test = S.split_lines(lines, train=300, test=200, generator=rng())
    assert (len(train), len(test)) == (300, 200)
    assert not {line.text for line in train} & {line.text for line in test}
    again, _ = S.split_lines(lines, train=300, test=200, generator=rng())
    assert again == train


def test_the_table_knows_the_training_only():
    table = S.CharacterTable([S.Line("aab", (0, 0, 0)), S.Line("bc", (0, 0))])
    assert len(table) == 4
    assert table.encode("abcd") == [2, 3, 1, 1]
    assert 0 not in table.encode("abcd")


def test_batches_cover_all_lines_once():
    lines = toy(23)
    data = S.TaggedLines(lines, S.CharacterTable(lines, at_least=1))
    seen = []
    for batch in data.batches(5, generator=rng()):
        assert batch.characters.shape == batch.tags.shape == batch.mask.shape
        assert batch.mask.any(0).all()  # trimmed to the longest
        assert not batch.characters[~batch.mask].any()
        seen += [tuple(row[keep].tolist()) for row, keep in zip(batch.tags, batch.mask, strict=True)]
    assert sorted(seen) == sorted(line.tags for line in lines)
    assert [b.characters.tolist() for b in data.batches(5, generator=rng())] == [
        b.characters.tolist() for b in data.batches(5, generator=rng())
    ]


ENCODERS = {
    "conv": lambda v: S.ConvEncoder(v, dim=16, generator=rng()),
    "lstm": lambda v: S.LSTMEncoder(v, dim=16, generator=rng()),
    "transformer": lambda v: S.TransformerEncoder(v, dim=16, depth=1, heads=2, generator=rng()),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_do_not_see_padding(name):
    encoder = ENCODERS[name](9).eval()
    x = torch.tensor([[2, 3, 4, 0, 0], [5, 6, 7, 8, 2]])
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    with torch.no_grad():
        together, alone = encoder(x, mask), encoder(x[:1, :3], mask[:1, :3])
        other = encoder(torch.where(mask, x, 1), mask)
    torch.testing.assert_close(together[0, :3], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[mask], other[mask])


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_come_from_the_generator_alone(name):
    first = ENCODERS[name](9).state_dict()
    torch.manual_seed(torch.seed())
    second = ENCODERS[name](9).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_hidden_batches_hide_a_share_of_the_characters_and_never_none():
    lines = toy(40)
    data = S.TaggedLines(lines, S.CharacterTable(lines, at_least=1))
    batches = S.hidden_batches(data, 7, rate=0.15, generator=rng(1), order=rng(2))
    epoch = [next(batches) for _ in range(6)]
    assert [len(batch.mask) for batch in epoch] == [7, 7, 7, 7, 7, 5]
    assert not any((batch.hidden & ~batch.mask).any() for batch in epoch)
    share = sum(int(batch.hidden.sum()) for batch in epoch) / sum(int(batch.mask.sum()) for batch in epoch)
    assert 0.1 < share < 0.2
    rare = S.hidden_batches(data, 7, rate=1e-9, generator=rng(1), order=rng(2))
    assert int(next(rare).hidden.sum()) == 1


def test_an_encoder_guesses_hidden_characters_better_than_their_frequencies_do():
    lines = toy(64)
    data = S.TaggedLines(lines, S.CharacterTable(lines, at_least=1))
    encoder = S.TransformerEncoder(9, dim=16, depth=1, heads=2, generator=rng())  # 8 is the symbol
    losses = S.train_on_hidden(encoder, data, symbol=8, epochs=40, lr=1e-2, batch=16, generator=rng(1), order=rng(2))
    assert len(losses) == 160
    frequencies = data.characters[data.characters > 0].bincount() / data.lengths.sum()
    assert sum(losses[-20:]) / 20 < 0.85 * torch.special.entr(frequencies).sum()


def test_softmax_and_zero_crf_are_one_loss():  # D8
    lines = toy()
    data = S.TaggedLines(lines, S.CharacterTable(lines, at_least=1))
    batch = data.take(torch.arange(6))
    plain = S.Tagger(ENCODERS["conv"](12), generator=rng(1))
    crf = S.Tagger(ENCODERS["conv"](12), LinearChainCRF(4, init="zeros"), generator=rng(1))
    torch.testing.assert_close(plain.loss(batch), crf.loss(batch))
    a, b = S.evaluate_tagger(plain, data), S.evaluate_tagger(crf, data)
    assert a == b
    assert a.agreement == 1
    assert a.f1 == a.frame_f1


@pytest.mark.parametrize("name", ENCODERS)
def test_taggers_learn_a_small_language(name):
    lines = toy(64)
    data = S.TaggedLines(lines, S.CharacterTable(lines, at_least=1))
    tagger = S.Tagger(ENCODERS[name](12), LinearChainCRF(4, generator=rng(2)), generator=rng(1))
    before = tagger.crf.theta.detach().clone()
    losses, after_epoch = S.train_tagger(
        tagger,
        data,
        epochs=8,
        lr=1e-2,
        crf_scale=0.5,
        batch=8,
        generator=rng(),
        after_epoch=lambda tagger: S.evaluate_tagger(tagger, data).margin,
    )
    assert len(losses) == 64
    assert losses[-1] < losses[0] / 5
    assert len(after_epoch) == 8
    assert after_epoch[-1] == S.evaluate_tagger(tagger, data).margin > after_epoch[0]
    # Adam moves an entry by lr a step in the long run: the CRF's rate is half the body's
    assert (tagger.crf.theta.detach() - before).abs().max() <= 0.5e-2 * 64 * 1.2
    found = S.evaluate_tagger(tagger, data, batch=7)
    assert found.f1 > 0.95
    assert found.illegal < 0.05
    assert found == S.evaluate_tagger(tagger, data, batch=50) or found.f1 == pytest.approx(
        S.evaluate_tagger(tagger, data, batch=50).f1, abs=0.01
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: S.bmes(["a", ""]), "empty word"),
        (lambda: S.words("ab", [0]), "2 characters and 1 tags"),
        (lambda: S.split_lines(toy(3), train=3, test=1, generator=rng()), "at most 3 lines"),
        (lambda: S.ConvEncoder(3, width=4), "width=4"),
        (lambda: S.peoples_daily_lines(0), "max_chars=0"),
        (lambda: S.hidden_batches(None, 3, rate=0.0, generator=rng(), order=rng()), r"rate=0\.0"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=words):
        call()

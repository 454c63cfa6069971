"""kexue_lib.lab.multidigits: the overlays, the members, and that training records what the rules promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kexue_lib.lab import data, multidigits
from kexue_lib.multitask import task_gradients_plain

RULES = list(multidigits.RULES)


def pairs(count=40, part="train", seed=0):
    return multidigits.multidigits(count, part=part, rng=np.random.default_rng(seed))


def model(members=1, seed=0, **options):
    return multidigits.SharedTrunk(members, width=12, generator=torch.Generator().manual_seed(seed), **options)


def record(rules, steps=12, seed=0, **options):
    network = model(len(rules), **options)
    generator = torch.Generator().manual_seed(seed)
    return network, multidigits.train(network, pairs(200), rules, steps=steps, generator=generator, batch=16)


def test_overlays_hold_two_digits_with_their_labels():
    images, labels = data.digits()
    some = pairs(30)
    rng = np.random.default_rng(0)
    first, second = rng.choice(np.arange(1200), size=(2, 30))
    assert some.left.tolist() == labels[first].tolist()
    assert some.right.tolist() == labels[second].tolist()
    canvas = some.images.reshape(30, 12, 12).numpy()
    np.testing.assert_array_equal(canvas[:, :4, :8], images[first][:, :4])
    np.testing.assert_array_equal(canvas[:, 8:, 4:], images[second][:, 4:])
    overlap = np.maximum(images[first][:, 4:, 4:], images[second][:, :4, :4])
    np.testing.assert_array_equal(canvas[:, 4:8, 4:8], overlap)
    ink = images.sum((1, 2))
    np.testing.assert_allclose(some.difference.numpy(), (ink[first] - ink[second]) / ink[:1200].std(), rtol=1e-5)


def test_test_digits_are_not_training_digits():
    train, test = pairs(400), pairs(400, part="test")
    corner = {tuple(x) for x in train.images[:, :8].tolist()}
    assert len(test) == 400
    images, _ = data.digits()
    own = {tuple(image.flatten()[:8].tolist()) for image in images[1200:]}
    assert all(tuple(x) in own for x in test.images[:, :8].tolist())
    assert corner


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: multidigits.multidigits(0, part="train", rng=np.random.default_rng(0)), "count=0"),
        (lambda: multidigits.multidigits(3, part="all", rng=np.random.default_rng(0)), "part='all'"),
        (lambda: record(["equal", "best"]), "'best'"),
        (
            lambda: multidigits.train(model(2), pairs(), ["equal"], steps=1, generator=torch.Generator()),
            "1 rules and 2 members",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_members_learn_as_if_each_were_alone():
    rules = ["equal", "MGDA", "MGDA-UB"]
    together, side = record(rules)
    for k, rule in enumerate(rules):
        alone, own = record([rule])
        np.testing.assert_allclose(side.losses[:, k], own.losses[:, 0], rtol=1e-4)
        np.testing.assert_allclose(side.coefficients[:, k], own.coefficients[:, 0], rtol=1e-2, atol=1e-3)
        scores = [multidigits.held_out_scores(m, pairs(part="test"))[j] for m, j in ((together, k), (alone, 0))]
        np.testing.assert_allclose(*scores, atol=0.06)


def test_the_record_is_that_of_gradients_taken_one_by_one():
    network = model(1)
    part = pairs(16)
    h = network(part.images)
    losses = torch.stack([network.loss(task, h, part)[0] for task in multidigits.TASKS])
    g = torch.cat([x.flatten(1) for x in task_gradients_plain(losses, list(network.trunk))], dim=1).double()
    every = multidigits.train(network, part, ["equal"], steps=1, generator=_InOrder(), batch=16)
    np.testing.assert_allclose(every.losses[0, 0], losses.detach().double(), rtol=1e-5)
    np.testing.assert_allclose(every.norms[0, 0], g.norm(dim=1), rtol=1e-4)
    u = g.mean(0)
    np.testing.assert_allclose(every.descent[0, 0], (g @ u) / g.norm(dim=1) / u.norm(), rtol=1e-3, atol=1e-5)
    assert every.conflicts[0, 0] == int(((g @ g.T).triu(1) < 0).sum())


class _InOrder(torch.Generator):
    """Any generator: the batch has every pair, in some order with repetition, unless randint is patched."""


@pytest.fixture(autouse=True)
def _in_order(monkeypatch):
    randint = torch.randint

    def ordered(high, size, *, generator=None, **options):
        if isinstance(generator, _InOrder):
            return torch.arange(high)
        return randint(high, size, generator=generator, **options)

    monkeypatch.setattr(torch, "randint", ordered)


def test_min_norm_rules_never_increase_a_loss_and_the_upper_bound_does():
    _, found = record(["MGDA", "MGDA, normalised", "MGDA-UB"], steps=60)
    assert found.descent[:, :2].min() > -1e-7
    assert found.descent[:, 2].min() < -1e-3
    assert found.descent.shape == found.adam.shape == found.norms.shape == (60, 3, 3)
    np.testing.assert_allclose(found.coefficients[:, 0].sum(-1), 1)


def test_the_unit_of_a_loss_changes_its_gradients_only():
    generator = torch.Generator().manual_seed(0)
    network = model(2, unit=torch.tensor([1.0, 10.0]))
    found = multidigits.train(network, pairs(), ["equal", "equal"], steps=1, generator=generator)
    np.testing.assert_allclose(found.losses[0, 1] / found.losses[0, 0], [1, 1, 100], rtol=1e-5)
    np.testing.assert_allclose(found.norms[0, 1] / found.norms[0, 0], [1, 1, 100], rtol=1e-5)


def test_scores_of_perfect_answers_are_one():
    some = pairs(20, part="test")

    class Oracle(multidigits.SharedTrunk):
        def scores(self, task, h):
            if task == "difference":
                return some.difference[None]
            return torch.nn.functional.one_hot(some.left if task == "left" else some.right, 10)[None].float()

    np.testing.assert_allclose(multidigits.held_out_scores(Oracle(1, width=4), some), 1)


def test_every_rule_learns():
    network, found = record(RULES, steps=40, unit=1.0)
    assert (found.losses[-5:].mean(0)[:, :2] < found.losses[:5].mean(0)[:, :2]).all()
    assert multidigits.held_out_scores(network, pairs(part="test")).shape == (len(RULES), 3)

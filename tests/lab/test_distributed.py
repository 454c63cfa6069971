"""Several processes that train together take the steps of one, and a training goes on after a crash."""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from together import STEPS, STOP, TRAININGS, Stopping, Stops, decoder, hidden_options, lines

from kexue_lib.lab.checkpoints import FOLDER, Checkpoint, usual
from kexue_lib.lab.distributed import Ranks, ranks, share
from kexue_lib.lab.segmentation import hidden_batches
from kexue_lib.lab.text import CausalBatch

HERE = Path(__file__).resolve().parent

every_training = pytest.mark.parametrize("name", list(TRAININGS))


def same(a, b, tolerance=0.0):
    for part in a.keys() - {"state"}:
        torch.testing.assert_close(a[part], b[part], rtol=tolerance, atol=tolerance)
    assert a["state"].keys() == b["state"].keys()
    for name, value in a["state"].items():
        torch.testing.assert_close(value, b["state"][name], rtol=tolerance, atol=tolerance, msg=name)


def torchrun(folder, name, processes=2):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        *(str(HERE / "together.py"), str(folder), name),
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def alone():
    """What each training gives in one process."""
    return functools.cache(lambda name: TRAININGS[name]())


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each training gives in two processes: in one go, and after a crash of both."""
    folder = tmp_path_factory.mktemp("together")
    straight = torchrun(folder, "straight")
    crashed = torchrun(folder, "crash")
    assert crashed == [{}, {}]
    steps = [torch.load(folder / f"{number}.pt")["step"] for number in range(len(TRAININGS))]
    assert steps == [STOP - 1] * len(TRAININGS)
    return straight, torchrun(folder, "resumed")


@pytest.mark.slow
@every_training
def test_two_processes_give_the_curve_and_the_weights_of_one_also_across_a_crash(alone, together, name):
    (first, second), (resumed, _) = together
    same(first[name], second[name])  # to the last bit: the processes do not drift apart
    same(first[name], alone(name), 1e-9)
    same(resumed[name], first[name], 1e-12)


@every_training
def test_a_training_that_crashed_goes_on_and_ends_as_if_nothing_had_happened(alone, tmp_path, name):
    path = tmp_path / "state.pt"
    with pytest.raises(Stops):
        TRAININGS[name](Stopping(path))
    assert torch.load(path)["step"] == STOP - 1
    same(TRAININGS[name](Checkpoint(path)), alone(name))
    same(TRAININGS[name](Checkpoint(path)), alone(name))  # nothing is left to do, and nothing is done
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_waits_its_time_but_keeps_the_last_step(tmp_path):
    path = tmp_path / "state.pt"
    with pytest.raises(Stops):
        decoder(Stopping(path, every=3600))
    assert not path.exists()
    decoder(Checkpoint(path, every=3600))
    assert torch.load(path)["step"] == STEPS


def test_a_checkpoint_of_another_training_is_refused_and_says_what_differs(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", every=0.0)
    decoder(checkpoint)
    state = torch.load(tmp_path / "state.pt")
    state["facts"]["lr"] = 0.5
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"'lr': 0\.5.*'lr': 0\.003.*Remove"):
        decoder(checkpoint)


def test_a_checkpoint_with_other_parts_is_refused(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt")
    checkpoint.save(3, {"draws": torch.Generator()}, {}, now=True)
    assert checkpoint.load({"draws": torch.Generator()}, {}) == 3
    with pytest.raises(ValueError, match=r"'parts': \['draws'\].*'parts': \['draws', 'model'\]"):
        checkpoint.load({"draws": torch.Generator(), "model": torch.nn.Linear(1, 1)}, {})


def test_the_usual_checkpoint_is_numbered_in_the_folder_that_the_environment_names(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    assert usual("a") is None
    monkeypatch.setenv(FOLDER, str(tmp_path))
    first, second = usual("post, 8 layers"), usual("post, 8 layers")
    assert first is not None
    assert second is not None
    assert first.path.parent == tmp_path
    assert first.path.name.endswith("-post-8-layers.pt")
    assert int(second.path.name[:3]) == int(first.path.name[:3]) + 1


def test_ranks_come_from_torchrun_and_nonsense_is_refused(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks() == Ranks(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="RANK=None"):
        ranks()
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert ranks() == Ranks(2, 4, 0)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ValueError, match="RANK='4'"):
        ranks()


def shares(batch, count, **options):
    return [share(batch, Ranks(rank, count, rank), **options) for rank in range(count)]


def test_the_shares_of_a_batch_are_the_batch():
    batch = CausalBatch(torch.arange(28).view(7, 4), torch.arange(28).view(7, 4) + 1)
    parts, weights = zip(*shares(batch, 3), strict=True)
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert [len(part.inputs) for part in parts] == [3, 2, 2]
    assert weights == pytest.approx([9 / 7, 6 / 7, 6 / 7])


def test_a_process_without_rows_does_those_of_another_for_nothing():
    (first, a), (second, b), (third, c) = shares(torch.tensor([5.0, 7.0]), 3)
    assert [first.item(), second.item(), third.item()] == [5, 7, 5]
    assert (a, b, c) == (1.5, 1.5, 0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9).filter(any), st.integers(1, 5))
def test_the_mean_over_processes_is_the_mean_over_what_counts(counts, processes):
    """Rows of so many places each; the loss is a mean over places, and none of no place."""
    batch = torch.tensor([[2.0**k * (j < count) for j in range(3)] for k, count in enumerate(counts)])

    def places(rows):
        return int((rows > 0).sum())

    def mean(rows):
        return float(rows.sum()) / places(rows)

    parts = shares(batch, processes, weight=places)
    assert sum(weight * mean(rows) for rows, weight in parts) / processes == pytest.approx(mean(batch))
    assert sum(weight for _, weight in parts) == pytest.approx(processes)


def test_the_parts_of_the_batches_with_hidden_characters_are_unequal_and_some_have_none():
    """The trainings above would not show that parts are weighed right if all were alike."""
    batches = itertools.islice(hidden_batches(lines(), 5, **hidden_options()), STEPS)
    parts = [part for batch in batches for part in shares(batch, 2, weight=lambda part: int(part.hidden.sum()))]
    weights = {weight for _, weight in parts}
    assert 0 in weights
    assert len(weights - {0, 1, 2}) > 3
    assert all(part.hidden.any() for part, _ in parts)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(TypeError, match="list"):
        share([1, 2], Ranks(0, 2, 0))
    with pytest.raises(ValueError, match=r"'inputs': 6, 'targets': 5"):
        share(CausalBatch(torch.zeros(6, 2), torch.zeros(5, 2)), Ranks(0, 2, 0))
    with pytest.raises(ValueError, match="a batch of 2 examples counts 0"):
        share(torch.zeros(2), Ranks(0, 2, 0), lambda rows: 0)

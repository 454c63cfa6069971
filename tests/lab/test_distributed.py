"""Several processes that train together take the steps of one, and a training goes on after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from together import STEPS, Stops, training

from kexue_lib.lab.checkpoints import FOLDER, Checkpoint, usual
from kexue_lib.lab.distributed import Ranks, ranks, share
from kexue_lib.lab.text import CausalBatch

HERE = Path(__file__).resolve().parent


def same(a, b, tolerance=0.0):
    torch.testing.assert_close(a["losses"], b["losses"], rtol=tolerance, atol=tolerance)
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


@pytest.fixture(scope="module")
def alone():
    return training()


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_and_the_weights_of_one_also_across_a_crash(alone, tmp_path):
    torchrun(tmp_path, "straight")
    first, second = (torch.load(tmp_path / f"straight-{rank}.pt") for rank in (0, 1))
    same(first, second)  # to the last bit: the processes do not drift apart
    same(first, alone, 1e-9)
    torchrun(tmp_path, "crash")
    assert (tmp_path / "state.pt").is_file()
    assert not (tmp_path / "crash-0.pt").exists()
    torchrun(tmp_path, "resumed")
    same(torch.load(tmp_path / "resumed-0.pt"), first, 1e-12)


def test_a_training_that_crashed_goes_on_and_ends_as_if_nothing_had_happened(alone, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", every=0.0)
    with pytest.raises(Stops):
        training(checkpoint, stop_at=7)
    seen = torch.load(tmp_path / "state.pt")["step"]
    assert seen == 7
    same(training(checkpoint), alone)
    same(training(checkpoint), alone)  # nothing is left to do, and nothing is done
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_waits_its_time_but_keeps_the_last_step(alone, tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", every=3600)
    with pytest.raises(Stops):
        training(checkpoint, stop_at=7)
    assert not (tmp_path / "state.pt").exists()
    training(checkpoint)
    assert torch.load(tmp_path / "state.pt")["step"] == STEPS


def test_a_checkpoint_of_another_training_is_refused_and_says_what_differs(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.pt", every=0.0)
    training(checkpoint)
    state = torch.load(tmp_path / "state.pt")
    state["facts"]["lr"] = 0.5
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"'lr': 0\.5.*'lr': 0\.003.*Remove"):
        training(checkpoint)


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


def test_the_shares_of_a_batch_are_the_batch():
    batch = CausalBatch(torch.arange(24).view(6, 4), torch.arange(24).view(6, 4) + 1)
    parts = [share(batch, Ranks(rank, 3, rank)) for rank in range(3)]
    assert torch.equal(torch.cat([part.inputs for part in parts]), batch.inputs)
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    with pytest.raises(ValueError, match="a batch of 6 cannot be shared equally by 4"):
        share(batch, Ranks(0, 4, 0))
    with pytest.raises(TypeError, match="list"):
        share([1, 2], Ranks(0, 2, 0))

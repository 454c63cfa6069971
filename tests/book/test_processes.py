"""`kexue run --processes`: several processes run a chapter together; a run that crashed goes on from its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkouts import Checkout
from regressions import lab_checkout

TRAINING = """
import torch
from kexue_lib.lab.training import train

generator = torch.Generator().manual_seed(0)
x = torch.randn(64, 5, generator=generator, dtype=torch.float64)
model = torch.nn.Linear(5, 1, dtype=torch.float64)
torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
rows = (torch.randint(64, (8,), generator=generator) for _ in range(100))


def loss(model, rows):
    taken = x[rows]
    return (model(taken)[:, 0] - taken.square().sum(-1)).square().mean()


losses = train(model, rows, steps=20, lr=0.1, loss=loss)
print("loss", " ".join(f"{value:.12f}" for value in losses))
"""


@pytest.fixture
def with_lab(tmp_path: Path) -> Checkout:
    return lab_checkout(tmp_path)


def printed(notebook: Path) -> list[float]:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("text", []))
            if text.startswith("loss"):
                return [float(word) for word in text.split()[1:]]
    raise AssertionError("the chapter printed no losses")


@pytest.mark.slow
def test_two_processes_give_the_notebook_of_one(with_lab: Checkout) -> None:
    with_lab.chapter(TRAINING)
    alone, together = with_lab.root / "alone.ipynb", with_lab.root / "together.ipynb"
    done = with_lab.kexue("run", "entropy-invariant-softmax", "-o", str(alone))
    assert done.returncode == 0, done.stdout + done.stderr
    done = with_lab.kexue("run", "entropy-invariant-softmax", "-o", str(together), "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert printed(together) == pytest.approx(printed(alone), abs=1e-10)
    assert printed(alone)[-1] < printed(alone)[0]


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all_and_names_process_and_cell(with_lab: Checkout) -> None:
    with_lab.chapter("import os\nif os.environ['RANK'] == '1':\n    1 / 0", TRAINING)
    done = with_lab.kexue("run", "entropy-invariant-softmax", "--processes", "2")
    assert done.returncode == 1
    assert "in process 1: ZeroDivisionError" in done.stdout


@pytest.mark.slow
def test_a_run_that_died_goes_on_from_its_checkpoint_and_removes_it_in_the_end(with_lab: Checkout) -> None:
    died = with_lab.root / "died"
    dying = f"""
    import os, pathlib
    from kexue_lib.lab import checkpoints
    checkpoints.Checkpoint.__init__.__kwdefaults__["every"] = 0.0
    died = pathlib.Path({str(died)!r})


    def mortal(rows):
        for count, row in enumerate(rows):
            if count == 12 and not died.exists():
                died.touch()
                os._exit(9)
            yield row
    """
    with_lab.chapter(dying, TRAINING.replace("train(model, rows", "train(model, mortal(rows)"))
    target = with_lab.root / "full.ipynb"
    run = ("run", "entropy-invariant-softmax", "-p", "scale", "full", "-o", str(target))
    first = with_lab.kexue(*run)
    assert first.returncode == 1, first.stdout
    (kept,) = (with_lab.root / "_build" / "checkpoints").rglob("*.pt")
    second = with_lab.kexue(*run)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "Going on with the trainings" in second.stdout
    assert not kept.exists()
    resumed = printed(target)
    space: dict[str, object] = {}
    exec(TRAINING, space)  # without a crash
    assert resumed == pytest.approx([float(f"{value:.12f}") for value in space["losses"]], abs=1e-10)

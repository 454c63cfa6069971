"""Nothing but size differs between the scales: every full run, shrunk, goes the committed quick run's way on the CPU.

The miniature runs with a pretended GPU (``pretending/pretend_gpu.py``): tensors that a GPU would refuse to combine stop
it. By default one chapter is run; with ``--thorough`` all are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import gather

PROJECT = Project(Path(__file__).resolve().parents[2])
PRETENDING = Path(__file__).parent / "pretending"

#: The chapter that is cheapest in miniature, run by default.
CHEAPEST = "beta-base-positions"
#: What the sizes are divided by.
SHRINK = 256

# x lies on the CPU, y on the pretended GPU; draw is a generator on the CPU.
FAULTS = (
    "x + y",
    "y @ x.T",
    "torch.cat([x, y])",
    "torch.stack([x.sum(), y.sum()])",
    "x * y.sum()",
    "x[torch.arange(2, device=y.device)]",
    "torch.zeros(4).index_add(0, torch.arange(4).to(y.device), y[0])",
    "torch.from_numpy(np.ones(4)) * y",
    "nn.Linear(4, 2)(y)",
    "F.cross_entropy(y, torch.tensor([0, 1, 2]))",
    "F.one_hot(torch.tensor([1, 2, 0]), 4) * y",
    "copy.deepcopy(x) + y",
    "y.cpu() + y",
    "y.to(x) + y",
    "y.numpy()",
    "np.asarray(y.detach())",
    "torch.randn(3, generator=draw, device=y.device)",
    "y.clone().uniform_(generator=draw)",
    "torch.func.vmap(lambda row: row * torch.ones(4))(y)",
    "Late.apply(y.clone().requires_grad_()).sum().backward()",
)
FINE = (
    "y * x.sum()",
    "y[torch.arange(2)]",
    "y.cpu() + x",
    "x.to(y) + y",
    "copy.deepcopy(y) + y",
    "torch.ones_like(y) + y.new_ones(4) + torch.ones(4, device=y.device)",
    "torch.tensor([1.0, 2, 3, 4], device=y.device) * y",
    "np.asarray(y.cpu())",
    "y.tolist(), y.sum().item(), float(y[0, 0])",
    "torch.randn(3, generator=run.generator('there', device=y.device), device=y.device) + y[:, 0]",
    "torch.func.vmap(torch.func.grad(lambda row: row.square().sum()))(y) + y",
    "torch.linalg.svd(y), y.median(), torch.quantile(y, 0.5), y.cumsum(0), F.pad(y, (1, 1)), y.std()",
    "F.scaled_dot_product_attention(y[None], y[None], y[None], is_causal=True) + y",
    "trained(nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 5)).to(y.device), y, torch.arange(3).to(y.device))",
)
TRIED = """
import copy, json, sys
import numpy as np, torch
import torch.nn as nn, torch.nn.functional as F
from kexue_lib.lab import Run

class Late(torch.autograd.Function):
    forward = staticmethod(lambda ctx, x: 2 * x)
    backward = staticmethod(lambda ctx, g: g * torch.full((3, 4), 2.0))

def trained(model, x, labels):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        F.cross_entropy(model(x), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

run = Run(scale="full", device="cpu")
draw = run.generator("x")
x = torch.randn(3, 4, generator=draw)
y = x.to(run.device)
found = {}
for line in json.load(sys.stdin):
    try:
        eval(line)
        found[line] = "fine"
    except Exception as error:
        found[line] = type(error).__name__
print(json.dumps(found))
"""


def pretending(used: Path) -> dict[str, str]:
    """The environment of a process that makes the file ``used`` when it puts something on its pretended GPU."""
    path = os.pathsep.join([str(PRETENDING), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PRETENDED_GPU": str(used)}


def run(chapter: Chapter, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Run a chapter in full, in miniature; gives its notebook, or None and what was said."""
    output, used = folder / f"{chapter.slug}.ipynb", folder / "used"
    parameters = {"scale": "full", "device": "cpu", "shrink": str(SHRINK)}
    command = [
        *(sys.executable, "-m", "kexue_lib.book.cli", "--root", str(PROJECT.root), "run", chapter.name),
        *(part for name, value in parameters.items() for part in ("-p", name, value)),
        *("-o", str(output)),
    ]
    done = subprocess.run(command, cwd=folder, env=pretending(used), capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    if done.returncode:
        return None, said
    assert used.exists(), "the run put nothing on the pretended GPU"
    return json.loads(output.read_text(encoding="utf-8")), said


def executed(notebook: dict[str, Any]) -> list[str]:
    """The code cells, in the order in which they were executed."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code" and cell["id"] != "injected-parameters"]
    return [cell["id"] for cell in sorted(cells, key=lambda cell: cell["execution_count"])]


def rules(claim: dict[str, Any]) -> list[str]:
    """The names of a claim's criteria."""
    return [criterion["name"] for criterion in claim["criteria"]]


def gaps(measured: Any) -> int:
    """How many numbers of a series are missing."""
    return sum(map(gaps, measured)) if isinstance(measured, list) else measured is None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The cheapest chapter, or all of them."""
    if "chapter" in metafunc.fixturenames:
        thorough = metafunc.config.getoption("--thorough")
        chapters = [c for c in PROJECT.chapters if thorough or c.slug == CHEAPEST]
        metafunc.parametrize("chapter", chapters, ids=[c.slug for c in chapters])


def test_the_pretended_gpu_refuses_what_a_gpu_refuses_and_nothing_else(tmp_path: Path) -> None:
    path = os.pathsep.join(filter(None, [str(PRETENDING), str(PROJECT.root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", TRIED],
        input=json.dumps(FAULTS + FINE),
        cwd=tmp_path,
        env={**pretending(tmp_path / "used"), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {**dict.fromkeys(FAULTS, "DeviceFault"), **dict.fromkeys(FINE, "fine")}
    assert (tmp_path / "used").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_full_run_in_miniature_makes_the_steps_the_claims_and_the_figures_of_the_quick_one(
    chapter: Chapter, tmp_path: Path
) -> None:
    before = read_executed(chapter)
    notebook, said = run(chapter, tmp_path)
    assert notebook is not None, said
    assert executed(notebook) == executed(before)
    full, quick = gather(notebook), gather(before)
    assert full.steps == quick.steps, "derivations do not depend on the scale"

    keys = ("id", "claim", "kind", "evidence")
    assert [[c[key] for key in keys] for c in full.claims] == [[c[key] for key in keys] for c in quick.claims]
    for small, committed in zip(full.claims, quick.claims, strict=True):
        name = f"{chapter.name}, {small['id']}"
        # A full run may measure more, never less.
        assert rules(small)[: len(rules(committed))] == rules(committed), name
        assert set(small["measured"]) >= set(committed["measured"]), name
        assert small["verdict"] != "open" or (committed["verdict"] == "open" and small["open_because"]), name

    kept = [figure for figure in full.figures if figure["name"] in {f["name"] for f in quick.figures}]
    assert [(f["name"], f["title"]) for f in kept] == [(f["name"], f["title"]) for f in quick.figures]
    for small, committed in zip(kept, quick.figures, strict=True):
        if not any(map(gaps, committed["measured"].values())):
            missing = {series: gaps(values) for series, values in small["measured"].items() if gaps(values)}
            assert not missing, f"figure {small['name']}: numbers that are none"

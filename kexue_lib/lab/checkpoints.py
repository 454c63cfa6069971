"""Keep the state of a long training on disk, and go on from there after a crash."""

from __future__ import annotations

import itertools
import os
import re
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .distributed import ranks

__all__ = ["FOLDER", "Checkpoint", "usual"]

FOLDER = "KEXUE_CHECKPOINTS"
"""The environment variable that names the folder; ``kexue run`` sets it in runs that are not quick."""

_trainings = itertools.count(1)


def usual(desc: str) -> Checkpoint | None:
    """The checkpoint of the process's next training, in the folder that ``KEXUE_CHECKPOINTS`` names; None without it.

    Trainings are told apart by their order, so that a run that is started again has to train in the same order.

    Args:
        desc: what is trained; for the file's name only.
    """
    folder = os.environ.get(FOLDER)
    if not folder:
        return None
    name = re.sub(r"[^A-Za-z0-9]+", "-", desc).strip("-")
    return Checkpoint(Path(folder) / f"{next(_trainings):03d}-{name}.pt")


class Checkpoint:
    """One training's state: weights, optimizer, schedule, losses, and the state of PyTorch's own generators.

    Args:
        path: the file. It is replaced in one go, so that a crash while writing loses nothing.
        every: seconds between two savings.
    """

    def __init__(self, path: Path, *, every: float = 60.0) -> None:
        self.path, self.every = Path(path), every
        self._last = time.monotonic()

    def load(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        losses: Tensor,
        facts: dict[str, Any],
    ) -> int:
        """Restore what was saved; gives the number of steps that are done (0 if nothing was saved).

        Args:
            model, optimizer, schedule, losses: are set to what was saved.
            facts: what has to be the same as when it was saved.

        Raises:
            ValueError: the file belongs to another training.
        """
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if state["facts"] != facts:
            there, here = (
                {k: f.get(k) for k in facts if f.get(k) != g.get(k)}
                for f, g in ((state["facts"], facts), (facts, state["facts"]))
            )
            raise ValueError(f"{self.path} keeps another training: {there}, and this one has {here}. Remove the file.")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step = int(state["step"])
        losses[:step] = state["losses"].to(losses.device)
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and losses.is_cuda:
            torch.cuda.set_rng_state(state["cuda_rng"], losses.device)
        return step

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        losses: Tensor,
        facts: dict[str, Any],
        *,
        now: bool = False,
    ) -> bool:
        """Save, if it is time (or ``now``); only process 0 does. Gives whether it was saved.

        Args:
            step: how many steps are done.
            model, optimizer, schedule, losses, facts: as for :meth:`load`.
            now: do not wait for the time.
        """
        if ranks().rank or not (now or time.monotonic() - self._last >= self.every):
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        state = {
            "facts": facts,
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
            "losses": losses[:step].cpu(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(losses.device) if losses.is_cuda else None,
        }
        torch.save(state, partial)
        os.replace(partial, self.path)
        self._last = time.monotonic()
        return True

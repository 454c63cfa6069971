"""Keep the state of a long training on disk, and go on from there after a crash."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .distributed import ranks

__all__ = ["FOLDER", "Checkpoint", "Record", "Stateful", "usual"]

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


class Stateful(Protocol):
    """What can be kept: a module, an optimizer, a schedule, a :class:`Record`.

    The state is made of tensors, numbers and texts, and of lists, tuples and dicts of them.
    """

    def state_dict(self) -> dict[str, Any]:
        """The state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Go back to a state."""


class Record:
    """Numbers of the steps that are done, kept on the device until somebody reads them: no waiting for the GPU.

    Args:
        steps: how many there will be.
        shape: of the numbers of one step.
        device: where they are kept.

    >>> losses = Record(3)
    >>> losses.append(torch.tensor(0.5))
    >>> losses.numpy()
    array([0.5])
    """

    def __init__(self, steps: int, *shape: int, device: torch.device | str = "cpu") -> None:
        """Make room; the arguments stand in the docstring of the class."""
        self._values = torch.empty(steps, *shape, dtype=torch.float64, device=device)
        self._done = 0

    def append(self, value: Tensor) -> None:
        """The numbers of the next step."""
        self._values[self._done] = value
        self._done += 1

    def numpy(self) -> np.ndarray:
        """All numbers so far, ``(done, *shape)`` float64."""
        return self._values[: self._done].cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """The numbers so far."""
        return {"values": self._values[: self._done].cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to the numbers that were kept."""
        self._done = len(state["values"])
        self._values[: self._done] = state["values"].to(self._values.device)


class Checkpoint:
    """One training's state on disk: its parts, such as weights and optimizer, and PyTorch's own random numbers.

    Args:
        path: the file. It is replaced in one go, so that a crash while writing loses nothing.
        every: seconds between two savings.
    """

    def __init__(self, path: Path, *, every: float = 60.0) -> None:
        self.path, self.every = Path(path), every
        self._last = time.monotonic()

    def load(
        self,
        parts: Mapping[str, Stateful | torch.Generator],
        facts: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
    ) -> int:
        """Restore what was saved; gives the number of steps that are done (0 if nothing was saved).

        Args:
            parts: are set to what was saved, each under its name.
            facts: what has to be the same as when it was saved; numbers, texts, and lists and dicts of them.
            device: where the training draws random numbers, if it does.

        Raises:
            ValueError: the file belongs to another training.
        """
        if not self.path.is_file():
            return 0
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        saved = {**state["facts"], "parts": sorted(state.get("parts", ()))}
        wanted = {**facts, "parts": sorted(parts)}
        if saved != wanted:
            names = [k for k in {**wanted, **saved} if saved.get(k) != wanted.get(k)]
            there, here = ({k: f.get(k) for k in names} for f in (saved, wanted))
            raise ValueError(f"{self.path} keeps another training: {there}, and this one has {here}. Remove the file.")
        for name, part in parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(state["parts"][name])
            else:
                part.load_state_dict(state["parts"][name])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and torch.device(device).type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], torch.device(device))
        return int(state["step"])

    def save(
        self,
        step: int,
        parts: Mapping[str, Stateful | torch.Generator],
        facts: dict[str, Any],
        *,
        device: torch.device | str = "cpu",
        now: bool = False,
    ) -> bool:
        """Save, if it is time (or ``now``); only process 0 does. Gives whether it was saved.

        Args:
            step: how many steps are done.
            parts, facts, device: as for :meth:`load`.
            now: do not wait for the time.
        """
        if ranks().rank or not (now or time.monotonic() - self._last >= self.every):
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        state = {
            "facts": facts,
            "step": step,
            "parts": {
                name: part.get_state() if isinstance(part, torch.Generator) else part.state_dict()
                for name, part in parts.items()
            },
            "rng": torch.get_rng_state(),
            "cuda_rng": (
                torch.cuda.get_rng_state(torch.device(device)) if torch.device(device).type == "cuda" else None
            ),
        }
        torch.save(state, partial)
        os.replace(partial, self.path)
        self._last = time.monotonic()
        return True

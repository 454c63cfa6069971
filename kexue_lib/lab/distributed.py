"""Training by several processes: each has a share of every batch, and all take the same steps.

``torchrun`` starts the processes and tells each its number; each runs the same code, and
:func:`kexue_lib.lab.training.train` shares the work. What a chapter does outside of it, every process does alone, with
the same numbers.

``kexue run CHAPTER -p scale full --processes 4`` does this for a chapter.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["Ranks", "join", "mean_over_ranks", "parallel", "ranks", "share"]

Batch = TypeVar("Batch")


@dataclasses.dataclass(frozen=True)
class Ranks:
    """Which process this is.

    Attributes:
        rank: its number, 0 … count - 1.
        count: how many there are.
        local: its number on this machine, which is the number of its GPU.
    """

    rank: int
    count: int
    local: int


def ranks() -> Ranks:
    """This process as ``torchrun`` numbered it; alone, it is number 0 of 1.

    Raises:
        ValueError: the environment variables contradict one another.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name) for name in names]
    if values[1] is None:
        return Ranks(rank=0, count=1, local=0)
    try:
        rank, count, local = (int(value) for value in values if value is not None)
        if not (0 <= rank < count and local >= 0):
            raise ValueError
    except ValueError:
        said = ", ".join(f"{name}={value!r}" for name, value in zip(names, values, strict=True))
        raise ValueError(f"the environment says {said}; torchrun sets all three: 0 <= RANK < WORLD_SIZE") from None
    return Ranks(rank=rank, count=count, local=local)


def join(device: torch.device) -> None:
    """Meet the other processes, by NCCL on GPUs and by Gloo on CPUs; nothing if they met before."""
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def parallel(objective: nn.Module, device: torch.device) -> nn.Module:
    """The module with its gradients averaged over all processes (``DistributedDataParallel``)."""
    join(device)
    # static_graph: parameters without a gradient are allowed, as long as they are the same ones in every step.
    ids = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(objective, device_ids=ids, static_graph=True)


def share(batch: Batch, of: Ranks) -> Batch:
    """The rows of a batch that a process has to do: equal parts, so that the mean of means is the mean.

    Args:
        batch: a tensor, or a dataclass of tensors; the first axis of each counts the examples.
        of: the process.

    Raises:
        ValueError: the number of examples is no multiple of the number of processes.
        TypeError: something else than tensors.

    >>> share(torch.arange(6), Ranks(rank=1, count=3, local=1))
    tensor([2, 3])
    """
    if isinstance(batch, Tensor):
        if len(batch) % of.count:
            raise ValueError(
                f"a batch of {len(batch)} cannot be shared equally by {of.count} processes; choose another number"
            )
        part = len(batch) // of.count
        return batch[of.rank * part : (of.rank + 1) * part]  # type: ignore[return-value]
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        fields = {f.name: share(getattr(batch, f.name), of) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **fields)
    raise TypeError(f"a batch of type {type(batch).__name__} cannot be shared; a tensor or a dataclass of tensors can")


def mean_over_ranks(value: Tensor, of: Ranks) -> Tensor:
    """The mean of a number over the processes."""
    if of.count > 1:
        value = value / of.count
        dist.all_reduce(value)
    return value


class Objective(nn.Module):
    """A loss as a module, because ``DistributedDataParallel`` looks only at what goes through ``forward``."""

    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        return self.loss(self.model, batch)

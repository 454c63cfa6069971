"""Training by several processes: each has a share of every batch, and all take the same steps.

``torchrun`` starts the processes and tells each its number; each runs the same code, and the trainings of the bench
(:func:`kexue_lib.lab.training.train`, :func:`kexue_lib.lab.multidigits.train` and what is made of them) share the work.
What a chapter does outside of them, every process does alone, with the same numbers.

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

__all__ = ["Ranks", "examples", "join", "mean_over_ranks", "parallel", "ranks", "share"]

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


def examples(batch: Any) -> int:
    """How many examples a batch has: the length of the first axis, which all its tensors share.

    Raises:
        ValueError: the lengths differ.
        TypeError: the batch is neither a tensor nor a dataclass of tensors.

    >>> examples(torch.zeros(6, 2))
    6
    """
    if isinstance(batch, Tensor):
        return len(batch)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        found = {f.name: examples(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
        if len(set(found.values())) == 1:
            return next(iter(found.values()))
        raise ValueError(f"a batch has one first axis, that of the examples; its tensors have the lengths {found}")
    raise TypeError(f"a batch of type {type(batch).__name__} cannot be shared; a tensor or a dataclass of tensors can")


def share(batch: Batch, of: Ranks, weight: Callable[[Any], float] = examples) -> tuple[Batch, float]:
    r"""The rows of a batch that a process has to do, and how much their mean counts.

    The rows are cut into as many parts as there are processes, whose lengths differ by one at most. A loss that is a
    mean over C things in the whole batch, :math:`c_r` of them in part r, is the mean over the P processes of

    .. math:: w_r\,\ell_r, \qquad w_r = P\,c_r / C,

    and so is its gradient. A process whose rows count nothing, or that has none, does the rows of another one with the
    weight 0: no process may miss when they all add up their gradients.

    Args:
        batch: the whole batch, which every process has drawn: a tensor, or a dataclass of tensors; the first axis of
            each counts the examples.
        of: the process.
        weight: the C of a batch; it has to add up over the examples. By default their number.

    Returns:
        the rows and w.

    Raises:
        ValueError: the batch counts nothing; its tensors do not fit.
        TypeError: something else than tensors.

    >>> [share(torch.arange(5), Ranks(rank=r, count=3, local=r)) for r in range(3)]
    [(tensor([0, 1]), 1.2), (tensor([2, 3]), 1.2), (tensor([4]), 0.6)]
    """
    length, whole = examples(batch), float(weight(batch))
    if not whole > 0:
        raise ValueError(f"a batch of {length} examples counts {whole:g} in its mean; allowed: more than nothing")

    def counts(rank: int) -> float:
        mine = _rows(length, rank, of.count)
        return float(weight(_part(batch, mine))) if mine.stop > mine.start else 0.0

    own = counts(of.rank)
    # Nothing of one's own: the rows that count most, so that a mean over them is a number.
    rank = of.rank if own else max(range(of.count), key=counts)
    return _part(batch, _rows(length, rank, of.count)), of.count * own / whole


def _rows(length: int, rank: int, count: int) -> slice:
    part, more = divmod(length, count)
    first = rank * part + min(rank, more)
    return slice(first, first + part + (rank < more))


def _part(batch: Any, rows: slice) -> Any:
    if isinstance(batch, Tensor):
        return batch[rows]
    return dataclasses.replace(
        batch, **{f.name: _part(getattr(batch, f.name), rows) for f in dataclasses.fields(batch)}
    )


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

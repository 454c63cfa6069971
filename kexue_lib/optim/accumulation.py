"""Gradient accumulation in the momentum: gradients that live only for a moment, and momenta that are averaged."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .tiger import Tiger

__all__ = ["AccumulationHooks", "attach_accumulation_hooks", "average_momentum_"]


class AccumulationHooks:
    """The hooks of :func:`attach_accumulation_hooks`; ``remove()``, or the end of a ``with`` block, takes them off."""

    def __init__(self, handles: list[Any]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """Take the hooks off; gradients stay in ``.grad`` again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> AccumulationHooks:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def attach_accumulation_hooks(optimizer: Tiger) -> AccumulationHooks:
    """Fold each gradient into the momentum as soon as the backward pass has it, and free it.

    Without hooks all gradients live at the end of a backward pass: as many bytes as the parameters have. With hooks one
    gradient lives at a time. The training loop stays the same, with ``optimizer.step()`` after *every* backward pass
    (``zero_grad`` has nothing to do); parameters move in the last ``step()`` of a block only, as without hooks. The
    results are bitwise those of a loop that calls ``step()`` and drops ``.grad`` after each micro-batch.

    Args:
        optimizer: a :class:`~kexue_lib.optim.Tiger`. Parameters that are added later get no hook.

    Returns:
        An object with ``remove()``, which is also a context manager.

    Raises:
        TypeError: another optimizer.

    Hazards:
        What needs all gradients at once cannot work: clipping by the global norm, ``GradScaler`` (its test for
        infinities; use ``shrink_ratio``), a second look at ``.grad``. Calling ``backward`` twice before a ``step`` is
        an error. Under ``DistributedDataParallel`` the hook would see gradients that are not yet averaged: there, run
        without that wrapper and call :func:`average_momentum_` before the last ``step()`` of a block.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = Tiger(layer.parameters(), grad_accum_steps=2)
        >>> hooks = attach_accumulation_hooks(optimizer)
        >>> layer(torch.ones(1, 3)).sum().backward()
        >>> layer.weight.grad is None, optimizer.state[layer.weight]["exp_avg"][0, 0].item() > 0
        (True, True)
        >>> optimizer.step()  # the end of the first micro-step: nothing moves yet
        >>> hooks.remove()

    Source: chapter *tiger-optimizer*, section "Memory"; the idea of freeing gradients early is that of LOMO, arXiv
    2306.09782.
    """
    if not isinstance(optimizer, Tiger):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; only Tiger can take gradients one by one into its momentum"
        )
    handles = [
        p.register_post_accumulate_grad_hook(partial(_fold, optimizer, group))
        for group in optimizer.param_groups
        for p in group["params"]
        if p.requires_grad
    ]
    return AccumulationHooks(handles)


@torch.no_grad()
def _fold(optimizer: Tiger, group: dict[str, Any], p: Tensor) -> None:
    optimizer._fold_into(group, p)


@torch.no_grad()
def average_momentum_(optimizer: Tiger, process_group: Any = None) -> None:
    """Average the momenta over processes that have folded in gradients of their own.

    A momentum is linear in its gradients and starts each block equal on all processes. So the mean over processes is
    the momentum of the joint batch: exact, as long as it is taken before the parameters move.

    Args:
        optimizer: a :class:`~kexue_lib.optim.Tiger`. All processes must have the same momenta, in the same order.
        process_group: of ``torch.distributed``; default all processes.

    Raises:
        RuntimeError: no process group was started.

    Hazards:
        With gradients that stay in ``.grad`` call it before the ``step()`` that ends a block, and let the gradients of
        that last micro-batch be averaged by ``DistributedDataParallel``. With hooks call it between the last
        ``backward()`` and the last ``step()``. A process that finds a gradient that is not finite shrinks its own
        parameters, the others do not.

    Example:
        >>> import tempfile
        >>> w = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = Tiger([w], grad_accum_steps=2)
        >>> w.grad = torch.ones(2)
        >>> optimizer.step()
        >>> with tempfile.TemporaryDirectory() as folder:  # one process: the mean changes nothing
        ...     torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=0, world_size=1)
        ...     average_momentum_(optimizer)
        ...     torch.distributed.destroy_process_group()
        >>> optimizer.state[w]["exp_avg"]
        tensor([0.0175, 0.0175])

    Source: chapter *tiger-optimizer*, step D2: the momentum is linear in the gradients.
    """
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("torch.distributed is not initialized; call torch.distributed.init_process_group first")
    momenta = [
        optimizer.state[p]["exp_avg"] for g in optimizer.param_groups for p in g["params"] if p in optimizer.state
    ]
    if not momenta:
        return
    for m in momenta:
        dist.all_reduce(m, group=process_group)
    torch._foreach_div_(momenta, float(dist.get_world_size(process_group)))

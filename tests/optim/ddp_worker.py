"""One of two processes that train together; started by test_optim.py as ``ddp_worker.py FOLDER WAY RANK``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from kexue_lib.optim import Tiger, attach_accumulation_hooks, average_momentum_, tiger_param_groups

K, BLOCKS, BATCH = 3, 3, 6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)).double()


def batch(t):
    return torch.randn(BATCH, 5, generator=torch.Generator().manual_seed(t), dtype=torch.float64)


def train_alone():
    """One process, the joint batches."""
    model = network()
    optimizer = Tiger(tiger_param_groups(model), lr=0.05, grad_accum_steps=K)
    for t in range(K * BLOCKS):
        optimizer.zero_grad()
        model(batch(t)).square().mean().backward()
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


def train_together(way, rank):
    """Each process has every other example."""
    model = network()
    optimizer = Tiger(tiger_param_groups(model), lr=0.05, grad_accum_steps=K)
    if way == "hooks":
        attach_accumulation_hooks(optimizer)
        wrapped, quiet = model, nullcontext
    else:
        wrapped = nn.parallel.DistributedDataParallel(model)
        quiet = wrapped.no_sync
    for t in range(K * BLOCKS):
        last = t % K == K - 1
        optimizer.zero_grad()
        with quiet() if way == "no_sync" and not last else nullcontext():
            wrapped(batch(t)[rank::2]).square().mean().backward()
        if last and way != "every micro-step":
            average_momentum_(optimizer)
        optimizer.step()
    return {name: p.detach() for name, p in model.named_parameters()}


if __name__ == "__main__":
    folder, way, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=2)
    torch.save(train_together(way, rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()

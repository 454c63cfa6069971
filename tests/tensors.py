"""Constructors of test tensors: no test names a device; ``KEXUE_TEST_DEVICE=cuda`` runs the same tests on a GPU."""

from __future__ import annotations

import os

import torch

DEVICE = torch.device(os.environ.get("KEXUE_TEST_DEVICE", "cpu"))
HALF_AND_UP = (torch.float64, torch.float32, torch.bfloat16)


def randn_(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, grad: bool = False) -> torch.Tensor:
    """Standard normal numbers that depend on ``seed`` and shape only, drawn on the CPU."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(DEVICE, dtype).requires_grad_(grad)


def mask_(*shape: int, seed: int = 0, keep: float = 0.6) -> torch.Tensor:
    """Random boolean numbers, True with probability ``keep``."""
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < keep).to(DEVICE)

"""Rounding that keeps small changes, on average."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["stochastic_round_"]


@torch.no_grad()
def stochastic_round_(dst: Tensor, src: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Write float32 numbers into a bfloat16 tensor, up or down at random, so that the mean is right.

    A number between two neighbours a < b of bfloat16 becomes b with probability (x - a)/(b - a), else a. Its
    expectation is x: a step of a tenth of the spacing is taken one time in ten, where rounding to nearest never takes
    it (step D6 of the chapter *tiger-optimizer*).

    Args:
        dst: bfloat16, any shape; overwritten.
        src: float32, the same shape. It stays as it is.
        generator: where the random bits come from (on the device of ``src``).

    Returns:
        ``dst``.

    Raises:
        TypeError: another dtype.
        ValueError: shapes differ.

    Hazards:
        Numbers within one spacing of the largest bfloat16 may become infinite. Infinities stay, and so do NaNs.

    Example:
        >>> x = torch.full((100_000,), 1 + 1 / 1024)
        >>> y = torch.empty_like(x, dtype=torch.bfloat16)
        >>> y = stochastic_round_(y, x, generator=torch.Generator().manual_seed(0))
        >>> y.unique().tolist(), abs(y.float().mean().item() - 1 - 1 / 1024) < 1e-4
        ([1.0, 1.0078125], True)

    Source: chapter *tiger-optimizer*, section 6; for mixed precision in general see https://kexue.fm/archives/9059.
    """
    if dst.dtype != torch.bfloat16 or src.dtype != torch.float32:
        raise TypeError(f"dst has dtype {dst.dtype} and src {src.dtype}; bfloat16 and float32 are needed")
    if dst.shape != src.shape:
        raise ValueError(f"dst {tuple(dst.shape)} and src {tuple(src.shape)} must have the same shape")
    # A bfloat16 is the upper half of a float32: add random lower bits, and cut them off. A carry is a step upwards in
    # magnitude, with the probability that the lower bits say.
    bits = src.contiguous().view(torch.int32)
    noise = torch.randint(0, 1 << 16, src.shape, dtype=torch.int32, device=src.device, generator=generator)
    rounded = (bits + noise).bitwise_and_(-(1 << 16)).view(torch.float32)
    dst.copy_(torch.where(src.isfinite(), rounded, src))
    return dst

"""How far a fast routine may be from its plain form: one table for all tests.

The measure is the relative RMS error of a whole tensor, ``rms(x - reference) / rms(reference)``, with the reference in
float64. The bounds follow from the machine epsilon of the dtype and are not tuned: 16 eps for an output that is
accumulated in its own precision and 32 eps for a gradient (two such passes); 2 eps and 4 eps for half precision, whose
kernels accumulate in float32 and round inputs, weights and result.
"""

from __future__ import annotations

import torch

OUTPUT = {
    torch.float64: 16 * torch.finfo(torch.float64).eps,
    torch.float32: 16 * torch.finfo(torch.float32).eps,
    torch.float16: 2 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 2 * torch.finfo(torch.bfloat16).eps,
}
GRADIENT = {dtype: 2 * bound for dtype, bound in OUTPUT.items()}


def relative_rms(x: torch.Tensor, reference: torch.Tensor) -> float:
    """rms(x - reference) / rms(reference); absolute where the reference is zero."""
    x, reference = x.detach().double(), reference.detach().double()
    scale = reference.square().mean().sqrt()
    return float((x - reference).square().mean().sqrt() / (scale if scale > 0 else 1))


def assert_close(name: str, x: torch.Tensor, reference: torch.Tensor, bound: float) -> None:
    """The error of ``x`` stays within ``bound``; NaN never does."""
    assert x.shape == reference.shape, f"{name}: shape {tuple(x.shape)}, expected {tuple(reference.shape)}"
    error = relative_rms(x, reference)
    assert error <= bound, f"{name}: relative RMS error {error:.2e} > {bound:.2e}"

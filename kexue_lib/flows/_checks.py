"""Checks of arguments that several files share."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def positive(name: str, value: Any, *, zero: bool = False, why: str = "") -> float:
    """A finite number > 0 (or >= 0); a tensor is refused, because looking at its value would stop a GPU."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}={value!r} ({type(value).__name__}) must be a number{why}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise ValueError(f"{name}={value!r} must be a finite number {'>= 0' if zero else '> 0'}{why}")
    return float(value)


def floating(name: str, x: Any, dims: str = "") -> Tensor:
    """A tensor of floating-point numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}, not a tensor{dims and ' of shape ' + dims}")
    if not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    return x


def points(name: str, x: Any) -> Tensor:
    """``(n, d)``."""
    floating(name, x, "(n, d)")
    if x.dim() != 2 or x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, not (n, d); a single coordinate needs unsqueeze(-1)")
    return x


def grid(name: str, x: Any, least: int = 2) -> Tensor:
    """``(n,)`` with n at least ``least``."""
    floating(name, x, "(n,)")
    if x.dim() != 1 or x.shape[0] < least:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, not (n,) with n >= {least}")
    return x

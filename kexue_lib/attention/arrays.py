"""Numbers and arrays of float64, and bisection, for the laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Array = npt.NDArray[np.float64]


def to_array(name: str, x: npt.ArrayLike | Tensor) -> Array:
    """A float64 array of x, or an error that says ``name``."""
    if isinstance(x, Tensor):
        x = x.detach().cpu().numpy()
    try:
        return np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or an array of numbers, not {type(x).__name__}") from None


def require(good: npt.NDArray[np.bool_] | np.bool_, name: str, values: Array, expected: str) -> None:
    """Raises ValueError with the first of ``values`` that is not ``good``."""
    if not np.all(good):
        first = np.broadcast_to(values, np.shape(good))[~np.asarray(good)].flat[0] if np.ndim(good) else values
        raise ValueError(f"{name}={float(first):g} must be {expected}")


def plain_float(x: Array) -> Any:
    """A Python float for a 0-d result, so that doctests and tables print a number."""
    return float(x) if np.ndim(x) == 0 else x


def bisect(f: Callable[[Array], Array], target: Array, lo: Array, hi: Array) -> Array:
    """Where the decreasing f passes target, elementwise, to the last bit of [lo, hi]."""
    for _ in range(200):
        mid = 0.5 * (lo + hi)
        if np.all((mid <= lo) | (mid >= hi)):
            break
        above = f(mid) > target
        lo, hi = np.where(above, mid, lo), np.where(above, hi, mid)
    return 0.5 * (lo + hi)

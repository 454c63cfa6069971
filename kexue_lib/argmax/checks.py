"""What a linear layer has to be, and the way to SciPy."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = []

Array = npt.NDArray[np.float64]


def _scipy(what: str, part: str = "optimize") -> Any:
    try:
        import scipy
        import scipy.optimize
        import scipy.special
    except ImportError as error:
        raise ImportError(
            f"{what} needs SciPy ({error}); it comes with the extra 'lp': pip install \"kexue-lib[lp]\""
        ) from error
    return getattr(scipy, part)


def _check_layer(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    for name, x, axes in (("weight", weight, "(n, d)"), ("bias", bias, "(n,)")):
        if x is None and name == "bias":
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape {axes}")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    if weight.dim() != 2 or weight.shape[0] < 2 or weight.shape[1] < 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, not (n, d) with n >= 2 classes and d >= 1")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be {tuple(weight.shape[:1])}, one per class")
    for name, x in (("weight", weight), ("bias", bias)):
        if x is not None and not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name} has NaN or infinite entries; finite ones are needed")
    return weight.detach(), None if bias is None else bias.detach().double()


def _check_class(k: int, n: int) -> int:
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k={k!r} ({type(k).__name__}) must be an integer: the number of a class") from None
    if not 0 <= k < n:
        raise ValueError(f"k={k} is not a class; allowed: 0 … {n - 1}")
    return k


def _check_index(index: Tensor | Sequence[int] | None, n: int, device: torch.device) -> Tensor:
    if index is None:
        return torch.arange(n, device=device)
    chosen = torch.as_tensor(index, device=device)
    if chosen.dim() != 1 or chosen.is_floating_point() or chosen.is_complex() or chosen.dtype == torch.bool:
        raise TypeError(f"index has shape {tuple(chosen.shape)} and dtype {chosen.dtype}; (m,) integers are needed")
    if chosen.numel() and not bool(((chosen >= 0) & (chosen < n)).all()):
        raise ValueError(f"index holds {int(chosen.min())} … {int(chosen.max())}; allowed: 0 … {n - 1}")
    return chosen.long()


def _numpy_layer(weight: Any, bias: Any) -> tuple[Array, Array | None]:
    weight, bias = (x if x is None or isinstance(x, Tensor) else torch.as_tensor(x) for x in (weight, bias))
    w, b = _check_layer(weight, bias)
    return w.double().cpu().numpy(), None if b is None else b.cpu().numpy()

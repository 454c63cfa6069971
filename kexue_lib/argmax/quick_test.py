"""The quick test: a class whose own weight is the best query for it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import _check_layer

__all__ = ["self_test", "self_test_plain"]

_TILE = 1024  # rows and columns of a block of the Gram matrix


_SMALL = 2**30  # n²d up to which float64 costs nothing


def _unit_roundoff(dtype: torch.dtype) -> float:
    """Half an ulp of what a matrix product of this dtype multiplies and adds in."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return 2.0**-8  # TF32 or bfloat16 passes may be in use
    return torch.finfo(dtype).eps / 2


def _centred(weight: Tensor) -> Tensor:
    """Rows minus their mean, float64: shifting all rows changes all scores by the same amount (D7)."""
    x = weight.double()
    return x - x.mean(0)


def _rounding(x: Tensor, dtype: torch.dtype, length: Tensor | float) -> Any:
    """Bound of the error of <x_i, z> for all i and |z| <= length, in any order of summation, inputs rounded too."""
    d = x.shape[1]
    return 1.01 * (d + 6) * _unit_roundoff(dtype) * x.norm(dim=1).max() * length


def _largest_product(x: Tensor) -> Tensor:
    """max over i ≠ k of <x_i, x_k> for every k, from the half of the Gram matrix on and above the diagonal."""
    n = len(x)
    top = x.new_full((n,), -math.inf)
    space = x.new_empty(min(_TILE, n) ** 2)
    for i in range(0, n, _TILE):
        a = x[i : i + _TILE]
        for j in range(i, n, _TILE):
            c = x[j : j + _TILE]
            block = torch.mm(a, c.T, out=space[: len(a) * len(c)].view(len(a), len(c)))
            if i == j:
                block.fill_diagonal_(-math.inf)
            else:
                torch.maximum(top[j : j + _TILE], block.amax(0), out=top[j : j + _TILE])
            torch.maximum(top[i : i + _TILE], block.amax(1), out=top[i : i + _TILE])
    return top


@torch.no_grad()
def self_test(weight: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""How far each class leads at its own direction: a sufficient test for all classes at once (step D7).

    With :math:`x_i = w_i - \mu` and μ the mean row,

    .. math:: g_k = \|x_k\|^2 - \max_{i\ne k}\langle x_i, x_k\rangle .

    Where :math:`g_k > 0`, class k wins at :math:`z = x_k` without bias, and with any bias at a multiple of it.
    The products are symmetric, so half of the Gram matrix is enough: n²d flops instead of 2n²d, and O(n) memory.

    Args:
        weight: ``(n, d)``, any floating dtype and device.
        dtype: of the products; default float64 for small problems, float32 for large ones. The result is *less the
            bound of all rounding errors*: a positive number is a proof.

    Returns:
        ``(n,)`` float64, a lower bound of :math:`g_k`.

    Hazards:
        It is sufficient, not necessary. A negative entry says nothing.
        With ``torch.set_float32_matmul_precision`` below "highest" the rounding bound grows 65 000-fold.

    Example:
        >>> w = torch.tensor([[1., 0.], [0., 1.], [-1., 0.], [0., -1.], [0., 0.5]], dtype=torch.float64)
        >>> (self_test(w) > 0).tolist()             # the last row lies behind the second one
        [True, True, True, True, False]

    Source: https://kexue.fm/archives/9046, the argument for equal norms; arXiv 2203.06462; step D7.
    """
    weight, _ = _check_layer(weight, None)
    return _self_test(_centred(weight), dtype)


def _self_test(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None:
        dtype = torch.float64 if len(x) ** 2 * x.shape[1] <= _SMALL else torch.float32
    scale = x.norm(dim=1).max()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # float32 has a narrow range
    x = x / scale
    with torch.autocast(x.device.type, enabled=False):
        top = _largest_product(x.to(dtype)).double()
    length = x.norm(dim=1)
    return (length.square() - top - 2 * _rounding(x, dtype, length)) * scale**2


@torch.no_grad()
def self_test_plain(weight: Tensor) -> Tensor:
    """:func:`self_test` as its formula says, with the whole Gram matrix, and without the rounding bound."""
    weight, _ = _check_layer(weight, None)
    x = _centred(weight)
    gram = x @ x.T
    own = gram.diagonal().clone()
    return own - gram.fill_diagonal_(-math.inf).amax(1)

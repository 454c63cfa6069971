"""Tridiagonal systems by cyclic reduction: O(n) work in O(log n) steps, in batches, on any device, differentiable."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def solve_tridiagonal(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    r"""Solve A x = b for a tridiagonal matrix, without pivoting.

    Row i reads :math:`l_{i-1} x_{i-1} + d_i x_i + u_i x_{i+1} = b_i`. Cyclic reduction eliminates every other unknown,
    again and again: about 2 log₂ n vector operations for all systems of a batch together, where elimination row by row
    (:func:`solve_tridiagonal_plain`) needs 2 n.

    Args:
        lower: ``(..., n - 1)``, below the diagonal.
        diag: ``(..., n)``.
        upper: ``(..., n - 1)``, above it.
        rhs: ``(..., n)``. The leading axes of all four are broadcast. Real or complex.

    Returns:
        ``(..., n)``. Differentiable in all arguments, any number of times; the gradient costs one more solve.

    Raises:
        ValueError: shapes do not fit.

    Hazards:
        There is no pivoting. That is safe for diagonally dominant matrices, for symmetric positive definite ones, and
        for z − L with a symmetrizable L and a z off the real axis. A vanishing pivot gives inf or nan.

    Example:
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> x = solve_tridiagonal(-one, 2 * torch.ones(3, dtype=torch.float64), -one, torch.tensor([1.0, 0.0, 1.0]))
        >>> x.round(decimals=9)
        tensor([1., 1., 1.], dtype=torch.float64)

    Source: R. W. Hockney 1965 (cyclic reduction); used by the chapter *gradient-flow* for steps D7 and D8.
    """
    n = diag.shape[-1] if diag.dim() else 0
    if n < 1 or rhs.shape[-1:] != (n,) or lower.shape[-1:] != (n - 1,) or upper.shape[-1:] != (n - 1,):
        shapes = ", ".join(str(tuple(x.shape)) for x in (lower, diag, upper, rhs))
        raise ValueError(f"lower, diag, upper, rhs have shapes {shapes}; the last axes must be n - 1, n, n - 1, n")
    dtype = torch.promote_types(
        torch.promote_types(lower.dtype, diag.dtype), torch.promote_types(upper.dtype, rhs.dtype)
    )
    batch = torch.broadcast_shapes(lower.shape[:-1], diag.shape[:-1], upper.shape[:-1], rhs.shape[:-1])
    full = [x.to(dtype).expand(*batch, x.shape[-1]) for x in (lower, diag, upper, rhs)]
    if torch.compiler.is_compiling():  # the compiler makes the backward pass itself
        return _reduce(_rows(*full))
    result: Tensor = _Solve.apply(*full)
    return result


def solve_tridiagonal_plain(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Plain form of :func:`solve_tridiagonal`: elimination row by row (Thomas), differentiable by itself."""
    n = diag.shape[-1]
    pivot, right = [diag[..., 0]], [rhs[..., 0]]
    for i in range(1, n):
        factor = lower[..., i - 1] / pivot[-1]
        pivot.append(diag[..., i] - factor * upper[..., i - 1])
        right.append(rhs[..., i] - factor * right[-1])
    x = [right[-1] / pivot[-1]]
    for i in range(n - 2, -1, -1):
        x.append((right[i] - upper[..., i] * x[-1]) / pivot[i])
    return torch.stack(x[::-1], dim=-1)


_DENSE = 64


def _rows(lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    return torch.stack((F.pad(lower, (1, 0)), diag, F.pad(upper, (0, 1)), rhs))


def _reduce(rows: Tensor) -> Tensor:
    """Cyclic reduction of rows ``(4, ..., n)`` = (left, centre, right, b); the left of row 0 and the right of the last
    row do not count."""
    n = rows.shape[-1]
    if n == 1:
        return rows[3] / rows[1]
    if (
        n <= _DENSE and rows[3].numel() <= _DENSE
    ):  # what is left of a single system: one call instead of many small ones
        matrix = (
            torch.diag_embed(rows[0, ..., 1:], -1) + torch.diag_embed(rows[1]) + torch.diag_embed(rows[2, ..., :-1], 1)
        )
        dense: Tensor = torch.linalg.solve(matrix, rows[3].unsqueeze(-1)).squeeze(-1)
        return dense
    if n == 2:
        (_, a), (d1, d2), (u, _), (b1, b2) = (x.unbind(-1) for x in rows.unbind(0))
        det = d1 * d2 - u * a
        return torch.stack(((d2 * b1 - u * b2) / det, (d1 * b2 - a * b1) / det), dim=-1)
    even, odd = rows[..., ::2], rows[..., 1::2]
    m = odd.shape[-1]
    inner, outer = even[..., :m], even[..., 1:]
    left = odd[0] / inner[1]
    right = odd[2, ..., : outer.shape[-1]] / outer[1]
    reduced = odd.clone()
    reduced[0] = -left * inner[0]
    reduced[1] -= left * inner[2]
    reduced[3] -= left * inner[3]
    k = outer.shape[-1]  # m, or m - 1 where the last odd row has no right neighbour
    reduced[1, ..., :k] -= right * outer[0]
    reduced[2, ..., :k] = -right * outer[2]
    reduced[3, ..., :k] -= right * outer[3]
    solved = _reduce(reduced)
    x = torch.empty_like(rows[3])
    x[..., 1::2] = solved
    rest = even[3].clone()
    rest[..., 1:] -= even[0, ..., 1:] * solved[..., : even.shape[-1] - 1]
    rest[..., :m] -= inner[2] * solved
    x[..., ::2] = rest / even[1]
    return x


class _Solve(torch.autograd.Function):
    """A solve whose backward pass is a solve with the transposed matrix."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, diag: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
        x = _reduce(_rows(lower, diag, upper, rhs))
        ctx.save_for_backward(lower, diag, upper, x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        lower, diag, upper, x = ctx.saved_tensors
        back = solve_tridiagonal(upper.conj(), diag.conj(), lower.conj(), grad)
        conj = x.conj()
        return -back[..., 1:] * conj[..., :-1], -back * conj, -back[..., :-1] * conj[..., 1:], back

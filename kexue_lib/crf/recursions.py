"""The sums over all paths, place by place (scan) or by halves (tree)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import _NEVER

__all__ = []


def _forward_scores(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None) -> list[Tensor]:
    """log of the sum over all beginnings that stand at tag j at place t, a (b, k) for each t; padding repeats it."""
    alpha = h[:, 0] if start is None else h[:, 0] + start
    out = [alpha]
    for t in range(1, h.shape[1]):
        new = torch.logsumexp(alpha[:, :, None] + A, dim=1) + h[:, t]
        alpha = new if mask is None else torch.where(mask[:, t, None], new, alpha)
        out.append(alpha)
    return out


def _backward_scores(h: Tensor, A: Tensor, mask: Tensor | None, end: Tensor | None) -> list[Tensor]:
    """log of the sum over all continuations after tag i at place t."""
    beta = torch.zeros_like(h[:, 0]) if end is None else end.expand_as(h[:, 0])
    out = [beta]
    for t in range(h.shape[1] - 1, 0, -1):
        new = torch.logsumexp(A + (h[:, t] + beta)[:, None, :], dim=2)
        beta = new if mask is None else torch.where(mask[:, t, None], new, beta)
        out.append(beta)
    return out[::-1]


def _scan(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> Tensor:
    last = _forward_scores(h, A, mask, start)[-1]
    return torch.logsumexp(last if end is None else last + end, dim=1)


def _bit_reversed(size: int, device: torch.device) -> Tensor:
    """0 … size − 1 (a power of two) in the order of the reversed bits: neighbours 2r, 2r + 1 come to lie half apart."""
    order = torch.zeros(1, dtype=torch.long, device=device)
    while len(order) < size:
        order = torch.cat((2 * order, 2 * order + 1))
    return order


def _steps(h: Tensor, A: Tensor, mask: Tensor | None, log: bool) -> tuple[Tensor, Tensor]:
    """The matrices of all steps (k, k, N·b) and their order; N is the next power of two, what is missing is a unit.

    ``h`` and ``A`` hold scores (``log``) or weights. The steps stand in the order of the reversed bits and the batch
    runs fastest, so that every level of the tree works on two halves of contiguous memory.
    """
    b, n, k = h.shape
    size = 1 << max(0, n - 2).bit_length()
    order = _bit_reversed(size, h.device)
    here = (order + 1).clamp(max=n - 1)
    zero, one = (_NEVER, 0.0) if log else (0.0, 1.0)
    x = h.permute(2, 1, 0)[:, here].flatten(1)  # (k, N·b)
    steps = A[:, :, None] + x if log else A[:, :, None] * x
    if mask is None and size == n - 1:
        return steps, order
    real = (order < n - 1)[:, None]
    real = real.expand(size, b) if mask is None else real & mask.T[here]
    unit = torch.full((k, k), zero, dtype=h.dtype, device=h.device).fill_diagonal_(one)
    return torch.where(real.flatten(), steps, unit[:, :, None]), order


def _log_product(left: Tensor, right: Tensor) -> Tensor:
    return torch.logsumexp(left[:, :, None] + right[None], dim=1)


def _max_product(left: Tensor, right: Tensor) -> Tensor:
    return (left[:, :, None] + right[None]).amax(1)


def _levels(steps: Tensor, b: int, product: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """All levels of the tree of products, from the steps to the root (k, k, b) (step D9)."""
    levels = [steps]
    while levels[-1].shape[2] > b:
        left, right = levels[-1].chunk(2, dim=2)
        levels.append(product(left, right))
    return levels


def _tree(h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None) -> Tensor:
    """Step D9: the matrices of the steps are multiplied pair by pair, about log₂ n levels of batched products."""
    first = h[:, 0] if start is None else h[:, 0] + start
    root = _levels(_steps(h, A, mask, log=True)[0], h.shape[0], _log_product)[-1]
    total = first.T[:, None] + root
    return torch.logsumexp((total if end is None else total + end[:, None]).flatten(0, 1), dim=0)


def _log_marginals(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None
) -> tuple[Tensor, Tensor]:
    """log P(y_t = j) and log P(y_t = i, y_{t+1} = j), not masked; differentiable."""
    alpha = torch.stack(_forward_scores(h, A, mask, start), 1)
    beta = torch.stack(_backward_scores(h, A, mask, end), 1)
    log_z = torch.logsumexp(alpha[:, -1] if end is None else alpha[:, -1] + end, dim=1)[:, None, None]
    pairs = alpha[:, :-1, :, None] + A + (h[:, 1:] + beta[:, 1:])[:, :, None, :] - log_z[..., None]
    return alpha + beta - log_z, pairs

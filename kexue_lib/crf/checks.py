"""What the functions of a linear chain refuse, and the facts of padded batches that they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["FORBIDDEN", "METHODS"]

METHODS = ("auto", "scan", "tree", "scaled")
"""The ways in which :func:`crf_log_partition` computes the sum."""


FORBIDDEN = -1e30
"""The score of a forbidden step: below every real score, and 10⁸ of them still add up to a float32."""


# Padding is a step that changes nothing: 0 on the diagonal, this elsewhere (in the log semiring).
_NEVER = FORBIDDEN


def _check(
    emissions: Tensor, transitions: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None
) -> None:
    for name, x, dims, shape in (
        ("emissions", emissions, 3, "(batch, places, tags)"),
        ("transitions", transitions, 2, "(tags, tags)"),
    ):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape {shape}")
        if x.dim() != dims:
            raise ValueError(f"{name} has shape {tuple(x.shape)}, not {shape}")
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    b, n, k = emissions.shape
    if n < 1 or k < 1:
        raise ValueError(f"emissions has shape {tuple(emissions.shape)}; at least one place and one tag are needed")
    if transitions.shape != (k, k):
        raise ValueError(f"transitions has shape {tuple(transitions.shape)}, not (tags, tags) = {(k, k)}")
    for name, at_end in (("start", start), ("end", end)):
        if at_end is not None and (not isinstance(at_end, Tensor) or at_end.shape != (k,)):
            found = tuple(at_end.shape) if isinstance(at_end, Tensor) else type(at_end).__name__
            raise ValueError(f"{name} has shape {found}, not (tags,) = {(k,)}")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"mask has type {kind}; a boolean tensor is needed (True = a place of the sentence)")
        if mask.shape != (b, n):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, not (batch, places) = {(b, n)}")


def _check_values(mask: Tensor | None, tags: Tensor | None, k: int) -> None:
    """What can be seen only by looking at the data (which stops a GPU): asked for with ``validate=True``."""
    if mask is not None:
        if not bool(mask[:, 0].all()):
            row = int((~mask[:, 0]).nonzero()[0])
            raise ValueError(f"mask[{row}, 0] is False: every sentence needs its first place")
        holes = mask[:, 1:] & ~mask[:, :-1]
        if bool(holes.any()):
            row = int(holes.any(1).nonzero()[0])
            raise ValueError(f"mask[{row}] has a place after padding; padding has to stand at the end")
    if tags is not None:
        wrong = (tags < 0) | (tags >= k)
        wrong = wrong if mask is None else wrong & mask
        if bool(wrong.any()):
            raise ValueError(f"tags has the value {int(tags[wrong][0])}; allowed: 0 … {k - 1} where the mask is True")


def _check_tags(tags: Tensor, emissions: Tensor) -> None:
    if not isinstance(tags, Tensor) or tags.is_floating_point() or tags.is_complex() or tags.dtype == torch.bool:
        kind = tags.dtype if isinstance(tags, Tensor) else type(tags).__name__
        raise TypeError(f"tags has type {kind}; an integer tensor of shape (batch, places) is needed")
    if tags.shape != emissions.shape[:2]:
        raise ValueError(f"tags has shape {tuple(tags.shape)}, not (batch, places) = {tuple(emissions.shape[:2])}")


def _no_autocast(x: Tensor) -> Any:
    return torch.autocast(x.device.type, enabled=False)


def _raised(emissions: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """All tensors in one type: that of the widest, at least float32. A missing one stays None."""
    dtype = torch.float32
    for x in (emissions, *others):
        if x is not None:
            dtype = torch.promote_types(dtype, x.dtype)
    return tuple(None if x is None else x.to(dtype) for x in (emissions, *others))


def _prepared(
    emissions: Tensor, transitions: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None
) -> tuple[Any, ...]:
    """Emissions, transitions and scores of the ends in one type; padding, which may hold anything (NaN), becomes 0."""
    h, A, a, z = _raised(emissions, transitions, start, end)
    return (h if mask is None else h.masked_fill(~mask[..., None], 0.0)), A, a, z


def _lengths(mask: Tensor | None, b: int, n: int, device: torch.device) -> Tensor:
    return torch.full((b,), n, device=device) if mask is None else mask.sum(1)


def _reversal(mask: Tensor | None, b: int, n: int, device: torch.device) -> Tensor:
    """Indices (b, n) that turn each sentence round and leave its padding where it is; their own inverse."""
    t, length = torch.arange(n, device=device), _lengths(mask, b, n, device)[:, None]
    return torch.where(t < length, length - 1 - t, t)


def _turned(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand_as(x))

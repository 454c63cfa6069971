"""What the functions of queries, keys and values refuse, and the words in which they say so."""

from __future__ import annotations

import torch
from torch import Tensor


def check_qk(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> None:
    """Of queries, keys and a mask."""
    for name, x in (("q", q), ("k", k)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is a {type(x).__name__}, not a tensor of shape (batch, heads, length, width)")
        if x.dim() != 4:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, not (batch, heads, length, width); "
                "add the missing axes with unsqueeze"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")
    if q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q {tuple(q.shape)} and k {tuple(k.shape)} must agree in batch, heads and width; "
            "expand the keys and values if several heads share them"
        )
    if is_causal and q.shape[2] > k.shape[2]:
        raise ValueError(
            f"is_causal with {q.shape[2]} queries and {k.shape[2]} keys: the last query is aligned with the last key, "
            f"so that the first {q.shape[2] - k.shape[2]} queries would see no key; are q and k swapped? "
            "If this is meant, give a mask"
        )
    if mask is not None:
        _check_mask(mask, (*q.shape[:3], k.shape[2]))


def _check_mask(mask: Tensor, full: tuple[int, ...]) -> None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask has type {kind}; a boolean tensor is needed (True = visible), because visible keys are counted; "
            "turn an additive mask into (mask == 0)"
        )
    shape = tuple(mask.shape)
    padded = (1,) * (len(full) - len(shape)) + shape
    if len(shape) > len(full) or any(have != want and have != 1 for have, want in zip(padded, full, strict=True)):
        raise ValueError(
            f"mask of shape {shape} cannot be broadcast to (batch, heads, queries, keys) = {full}; "
            "a padding mask (batch, keys) becomes mask[:, None, None, :]"
        )


def check_qkv(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout_p: float) -> None:
    """Of an attention."""
    check_qk(q, k, mask, is_causal)
    if not isinstance(v, Tensor) or v.dim() != 4 or v.shape[:3] != k.shape[:3]:
        shape = tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__
        raise ValueError(
            f"v {shape} must be (batch, heads, keys, dv) with the batch, heads and keys of k {tuple(k.shape)}"
        )
    if not 0 <= dropout_p < 1:
        raise ValueError(f"dropout_p={dropout_p!r} must lie in [0, 1)")

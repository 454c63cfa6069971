"""What the functions of kexue_lib.vq refuse, and the words in which they say so."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def _tensor(name: str, x: Any, dims: str, *, floating: bool = True) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}, not a tensor ({dims})")
    if x.dim() != dims.count(",") + 1:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, not ({dims})")
    if floating and not x.is_floating_point():
        raise TypeError(f"{name} has dtype {x.dtype}; a floating-point tensor is needed")


def _codebook(codebook: Any, heads: int, width: int, other: str) -> None:
    if not isinstance(codebook, Tensor):
        raise TypeError(f"codebook is a {type(codebook).__name__}, not a tensor (h, c, d)")
    if codebook.dim() != 3 or codebook.shape[1] < 1:
        raise ValueError(f"codebook has shape {tuple(codebook.shape)}, not (h, c, d) with c >= 1")
    if codebook.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"codebook has dtype {codebook.dtype}; keep it in float32 or float64: averages need the digits"
        )
    if codebook.shape[0] != heads or codebook.shape[2] != width:
        raise ValueError(
            f"codebook {tuple(codebook.shape)} must have the heads and the width of {other}: ({heads}, c, {width})"
        )


def check_assign(k: Any, codebook: Any) -> None:
    """Of an assignment."""
    _tensor("k", k, "b, h, n, d")
    _codebook(codebook, k.shape[1], k.shape[3], f"k {tuple(k.shape)}")


def check_codebook_options(heads: int, num_codes: int, dim: int, decay: float, eps: float) -> None:
    """Of a codebook."""
    for name, value in (("heads", heads), ("num_codes", num_codes), ("dim", dim)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer >= 1")
    if not 0 <= decay < 1:
        raise ValueError(f"decay={decay!r} must lie in [0, 1)")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps={eps!r} must be a positive number")


def check_attention(
    q: Any,
    codebook: Any,
    codes: Any,
    v: Any,
    k_hat: Any,
    causal: bool,
    block_size: int,
    bias: Any,
    scale: float | None,
    cache_grad: Any,
    state: Any,
    return_state: bool,
) -> None:
    """Of an attention."""
    _tensor("q", q, "b, h, n, dk")
    _tensor("v", v, "b, h, n, dv")
    _tensor("codes", codes, "b, h, n", floating=False)
    _codebook(codebook, q.shape[1], q.shape[3], f"q {tuple(q.shape)}")
    if codes.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"codes has dtype {codes.dtype}; an int64 or int32 tensor is needed")
    if v.shape[:3] != q.shape[:3] or codes.shape != q.shape[:3]:
        raise ValueError(
            f"v {tuple(v.shape)} and codes {tuple(codes.shape)} must agree with q {tuple(q.shape)} in (b, h, n)"
        )
    if k_hat is not None:
        _tensor("k_hat", k_hat, "b, h, n, dk")
        if k_hat.shape != q.shape:
            raise ValueError(f"k_hat {tuple(k_hat.shape)} must have the shape of q {tuple(q.shape)}")
    if isinstance(block_size, bool) or not isinstance(block_size, int) or block_size < 1:
        raise ValueError(f"block_size={block_size!r} must be an integer >= 1")
    if bias is not None:
        _tensor("bias", bias, "h, block_size")
        if tuple(bias.shape) != (q.shape[1], block_size):
            raise ValueError(
                f"bias {tuple(bias.shape)} must be (heads, block_size) = {(q.shape[1], block_size)}: "
                "one number for each distance 0 … block_size - 1"
            )
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale={scale!r} must be a finite number, or None for dk ** -0.5")
    if not (cache_grad is True or cache_grad is False or cache_grad == "exact"):
        raise ValueError(f"cache_grad={cache_grad!r} must be False, True or 'exact'")
    if not causal:
        for name, given in (("bias", bias is not None), ("state", state is not None), ("return_state", return_state)):
            if given:
                raise ValueError(f"{name} needs causal=True: without order there is no window and no stream")
    if state is not None:
        _check_state(state, q, codebook, v, block_size)
    # One look at the codes; other devices would have to be stopped for it, and compiled code cannot look.
    if q.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
        low, high = (int(x) for x in torch.aminmax(codes))
        if low < 0 or high >= codebook.shape[1]:
            raise IndexError(f"codes from {low} to {high} do not fit a codebook of {codebook.shape[1]} codes")


def _check_state(state: Any, q: Tensor, codebook: Tensor, v: Tensor, block_size: int) -> None:
    if state.block_size != block_size:
        raise ValueError(f"the state was made with block_size={state.block_size}, not {block_size}")
    want = (*q.shape[:2], codebook.shape[1], v.shape[3])
    if tuple(state.means.shape) != want:
        raise ValueError(f"the state holds means of shape {tuple(state.means.shape)}; (b, h, c, dv) = {want} is needed")

"""Positions by rotation (RoPE): frequencies, tables and their application.

Rotary position encoding turns the pair of coordinates i of a query or key at position t by the angle t θ_i. Since
rotations compose, a query at m and a key at n see only the difference: (R_m q)·(R_n k) = q·(R_{n−m} k).

Source: RoFormer, https://arxiv.org/abs/2104.09864; Su Jianlin, https://kexue.fm/archives/8265.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["apply_rope", "apply_rope_plain", "apply_rotary", "rope_inv_freq", "rope_tables"]


def rope_inv_freq(
    dim: int, base: float = 10000.0, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    r"""The angular frequencies of RoPE, in radians per position: θ_i = base^{−2i/dim} for i = 0, …, dim/2 − 1.

    Args:
        dim: number of rotated coordinates, even, ≥ 2.
        base: > 0, usually 10000: the slowest pair needs about 2π·base positions for a turn.
        device, dtype: of the result; dtype float32 or float64, default ``torch.get_default_dtype()``.

    Returns:
        ``(dim / 2,)``, falling from 1.

    Raises:
        ValueError: dim odd or < 2, base ≤ 0, a half precision dtype.

    Hazards:
        Make it where it is used instead of keeping it in a buffer: ``module.half()`` or ``.bfloat16()`` would round the
        buffer.

    Example:
        >>> rope_inv_freq(8)
        tensor([1.0000, 0.1000, 0.0100, 0.0010])

    Source: https://arxiv.org/abs/2104.09864, eq. 15.
    """
    if isinstance(dim, bool) or dim != int(dim) or dim < 2 or dim % 2:
        raise ValueError(f"dim={dim!r} must be an even number >= 2: coordinates are rotated in pairs")
    if not base > 0:
        raise ValueError(f"base={base!r} must be > 0")
    dtype = dtype or torch.get_default_dtype()
    if torch.finfo(dtype).bits < 32:
        raise ValueError(f"dtype={dtype} cannot hold the angles of distant positions; use float32 or float64")
    exponent = torch.arange(0, dim, 2, device=device, dtype=dtype) / dim
    return base**-exponent


def rope_tables(positions: Tensor, inv_freq: Tensor) -> tuple[Tensor, Tensor]:
    r"""cos and sin of the angles t θ_i.

    Args:
        positions: t, ``(..., n)``; integers or fractions, any start and order.
        inv_freq: θ, ``(r / 2,)``, float32 or float64 (:func:`rope_inv_freq`).

    Returns:
        Two tensors ``(..., n, r / 2)`` of the dtype of ``inv_freq`` (float32 at least; float64 if the positions are).

    Hazards:
        An angle t θ in float32 is off by up to t θ · 6e-8 rad: 6e-3 at a distance of 100 000. Give a float64
        ``inv_freq`` there.

    Example:
        >>> cos, sin = rope_tables(torch.arange(3), rope_inv_freq(4))
        >>> cos
        tensor([[ 1.0000,  1.0000],
                [ 0.5403,  0.9999],
                [-0.4161,  0.9998]])

    Source: https://arxiv.org/abs/2104.09864, eq. 34.
    """
    if inv_freq.dim() != 1:
        raise ValueError(f"inv_freq has shape {tuple(inv_freq.shape)}, not (dim / 2,)")
    dtype = torch.promote_types(inv_freq.dtype, torch.float32)
    if positions.is_floating_point():
        dtype = torch.promote_types(dtype, positions.dtype)
    angles = positions.to(dtype)[..., None] * inv_freq.to(dtype)
    return angles.cos(), angles.sin()


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool = True) -> Tensor:
    r"""Rotates the pairs of coordinates of x by given angles.

    .. math:: (x_a, x_b) \mapsto (x_a\cos\varphi - x_b\sin\varphi,\; x_a\sin\varphi + x_b\cos\varphi)

    Use it to share the tables of :func:`rope_tables` between q and k, layers and steps.

    Args:
        x: ``(..., n, d)``.
        cos, sin: ``(..., n, r/2)``, broadcastable to the pairs of x; r ≤ d. Coordinates from r on pass unchanged.
        interleaved: which coordinates form a pair, see the head of :mod:`kexue_lib.positions`.

    Returns:
        The shape and dtype of x; the arithmetic is that of the tables (float32 at least), rounded once.

    Hazards:
        In eager mode interleaved pairs are multiplied as complex numbers, several times faster than slices; inside
        ``torch.compile``, which has no complex kernels, the real formula is used. They differ by rounding only.

    Example:
        >>> quarter = torch.tensor([0.0]), torch.tensor([1.0])                 # cos and sin of 90°
        >>> apply_rotary(torch.tensor([[1.0, 2.0, 7.0]]), *quarter)            # r = 2: the third coordinate stays
        tensor([[-2.,  1.,  7.]])

    Source: https://arxiv.org/abs/2104.09864, eq. 34.
    """
    r, d = 2 * cos.shape[-1], x.shape[-1]
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; a floating-point tensor is needed")
    if cos.shape != sin.shape:
        raise ValueError(f"cos {tuple(cos.shape)} and sin {tuple(sin.shape)} must have one shape")
    if r > d:
        raise ValueError(
            f"the tables rotate {r} coordinates, but x {tuple(x.shape)} has {d}; make them with dim <= {d}"
        )
    head = x if r == d else x[..., :r]
    if not x.dtype == cos.dtype == sin.dtype or x.dtype.itemsize < 4:
        dtype = torch.promote_types(torch.promote_types(x.dtype, cos.dtype), torch.float32)
        head, cos, sin = head.to(dtype), cos.to(dtype), sin.to(dtype)
    if not interleaved:
        a, b = head.chunk(2, dim=-1)
        turned = torch.cat((torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)), dim=-1)
    else:
        pairs = head.unflatten(-1, (-1, 2))
        if torch.compiler.is_compiling():
            a, b = pairs.unbind(-1)
            turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
        else:
            turned = torch.view_as_real(_as_complex(pairs) * torch.complex(cos, sin)).flatten(-2)
    if turned.dtype != x.dtype:
        turned = turned.to(x.dtype)
    return turned if r == d else torch.cat((turned, x[..., r:]), dim=-1)


def _as_complex(pairs: Tensor) -> Tensor:
    """view_as_complex, with a copy where the strides do not allow the view (slices of odd width)."""
    strides, offset = pairs.stride(), pairs.storage_offset()
    if strides[-1] != 1 or offset % 2 or any(s % 2 for s in strides[:-1]):
        pairs = pairs.contiguous().clone() if offset % 2 else pairs.contiguous()
    return torch.view_as_complex(pairs)


def apply_rope(
    x: Tensor,
    positions: Tensor | None = None,
    inv_freq: Tensor | None = None,
    *,
    interleaved: bool = True,
) -> Tensor:
    r"""Rotary position encoding: the pair i of coordinates at position t turns by the angle t θ_i.

    The defining property: the product of a query at m and a key at n depends on n − m only,

    .. math:: (R_m q)\cdot(R_n k) = q\cdot(R_{n-m}\,k), \qquad R_t^{-1} = R_t^\top = R_{-t}.

    Args:
        x: queries or keys ``(..., n, d)``.
        positions: t, broadcastable to ``(..., n)``; default 0, 1, …, n − 1. Any order, repeated, fractional or
            negative; for keys ``(b, h, n, d)`` with positions of their own per sample give ``(b, 1, n)``.
        inv_freq: θ ``(r / 2,)``, default ``rope_inv_freq(d)``. With r < d only the first r coordinates turn (partial
            rotary).
        interleaved: pairs (x₀, x₁), (x₂, x₃), … (default) or (x_i, x_{i+r/2}).

    Returns:
        The shape and dtype of x. Angles are computed in the dtype of ``inv_freq``, float32 at least, whatever x is:
        positions above 256 do not exist in bfloat16.

    Raises:
        ValueError: an odd d without ``inv_freq``, r > d, positions that do not fit.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> q, k = torch.randn(2, 1, 8, generator=rng, dtype=torch.float64).unbind(0)
        >>> score = lambda m, n: (apply_rope(q, torch.tensor([m])) * apply_rope(k, torch.tensor([n]))).sum()
        >>> torch.allclose(score(3, 7), score(103, 107), atol=1e-5)
        True

    Source: https://arxiv.org/abs/2104.09864, sections 3.2 and 3.4.
    """
    if not isinstance(x, Tensor) or x.dim() < 2:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x {shape} must be a tensor (..., n, d)")
    n, d = x.shape[-2:]
    if inv_freq is None:
        inv_freq = rope_inv_freq(d, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    if positions is None:
        positions = torch.arange(n, device=x.device)
    elif positions.dim() == 0 or positions.shape[-1] not in (1, n) or positions.dim() >= x.dim():
        raise ValueError(
            f"positions {tuple(positions.shape)} do not fit x {tuple(x.shape)}: one position per row is needed, "
            f"({n},) or any shape that broadcasts to {tuple(x.shape[:-1])}"
        )
    return apply_rotary(x, *rope_tables(positions, inv_freq), interleaved=interleaved)


def apply_rope_plain(
    x: Tensor,
    positions: Tensor | None = None,
    inv_freq: Tensor | None = None,
    *,
    interleaved: bool = True,
) -> Tensor:
    """The specification of :func:`apply_rope`: x times explicit d×d rotation matrices R_t, in the dtype of x.

    Example:
        >>> torch.allclose(apply_rope_plain(torch.ones(5, 6)), apply_rope(torch.ones(5, 6)))
        True

    Source: https://arxiv.org/abs/2104.09864, eq. 15.
    """
    n, d = x.shape[-2:]
    inv_freq = rope_inv_freq(d, device=x.device, dtype=x.dtype) if inv_freq is None else inv_freq.to(x.dtype)
    positions = torch.arange(n, device=x.device) if positions is None else positions
    half = len(inv_freq)
    rotation = torch.eye(d, dtype=x.dtype, device=x.device).repeat(*positions.shape, 1, 1)
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + half)
        angle = positions.to(x.dtype) * inv_freq[i]
        rotation[..., a, a] = rotation[..., b, b] = angle.cos()
        rotation[..., a, b], rotation[..., b, a] = -angle.sin(), angle.sin()
    return (rotation @ x[..., None])[..., 0]

"""Normalised residual connections: DeepNorm and the three places where a Transformer can put its LayerNorm.

Shapes: ``(..., d)``, the last axis is normalised. :func:`deepnorm` and :class:`DeepNorm` compute LN(αx + branch);
:func:`residual` joins a stream and a branch in any of the usual ways; :func:`deepnorm_plain` is the readable form.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
The steps D1–D9 are those of the chapter *deepnet-1000-layers*.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RESIDUAL_MODES", "DeepNorm", "deepnorm", "deepnorm_plain", "residual"]

RESIDUAL_MODES = ("post", "pre", "none")
"""The ways to join that :func:`residual` knows."""

_HALF = (torch.float16, torch.bfloat16)


def _check(alpha: float, eps: float) -> None:
    if isinstance(alpha, Tensor) or not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha!r} must be a finite number > 0: it weighs the stream")
    if isinstance(eps, Tensor) or not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps!r} must be a finite number >= 0")


def _check_pair(x: Tensor, branch: Tensor) -> None:
    for name, value in (("x", x), ("branch", branch)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} is {kind}; a floating-point tensor is needed")
    if x.shape != branch.shape or x.dim() == 0:
        raise ValueError(f"x {tuple(x.shape)} and branch {tuple(branch.shape)} must have one shape (..., d)")


def deepnorm(
    x: Tensor,
    branch: Tensor,
    alpha: float = 1.0,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    r"""LayerNorm of αx + branch, with the sum and the statistics in float32 or better.

    .. math:: z = \alpha x + f, \qquad
              \mathrm{LN}_\varepsilon(z) = \frac{z - \bar z}{\sqrt{\overline{(z-\bar z)^2} + \varepsilon}}\odot w + b

    α = 1 is the usual post-norm residual. The weighted sum takes one pass over memory, not two.

    Args:
        x: the stream, ``(..., d)``.
        branch: F(x), of the same shape.
        alpha: α > 0.
        weight, bias: ``(d,)`` or None.
        eps: ε ≥ 0.

    Returns:
        ``(..., d)``. Outside autocast the type that x + branch would have: half-precision inputs are summed in float32
        and the result is rounded once. Under autocast float32, so that the stream from layer to layer stays float32.

    Raises:
        ValueError: α ≤ 0, ε < 0, shapes that differ.
        TypeError: not floating-point tensors.

    Hazards:
        ``LN(αx + f)`` and ``LN(x + f/α)`` are equal only for ε = 0 or with ε/α² in the second (step D4). With a branch
        below 2⁻⁸ of the stream, as in the Adam line of :func:`kexue_lib.depth.residual_scale` from about 20 layers on,
        a *bfloat16 stream* loses the branch altogether: keep x in float32.

    Example:
        >>> x, f = torch.tensor([[1.0, 2.0, 3.0, 6.0]]), torch.tensor([[1.0, -1.0, 0.0, 0.0]])
        >>> y = deepnorm(x, f, 2.0, eps=0.0)
        >>> bool(torch.allclose(y, deepnorm(x, f / 2, eps=0.0)))
        True

    Source: https://kexue.fm/archives/8978; https://arxiv.org/abs/2203.00555; step D4.
    """
    _check(alpha, eps)
    _check_pair(x, branch)
    if x.dtype in _HALF:
        half = branch.dtype in _HALF and not torch.is_autocast_enabled(x.device.type)
        out_dtype = torch.promote_types(x.dtype, branch.dtype) if half else None
        x = x.float()
    else:
        out_dtype = None
    z = torch.add(branch, x, alpha=alpha)  # one fused pass; a branch in half precision is promoted
    y = _layer_norm(z, weight, bias, eps)
    return y if out_dtype is None else y.to(out_dtype)


def deepnorm_plain(
    x: Tensor,
    branch: Tensor,
    alpha: float = 1.0,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    """:func:`deepnorm` by its formula: the specification of the fast form, in the type of its inputs.

    Example:
        >>> deepnorm_plain(torch.tensor([1.0, 3.0]), torch.zeros(2), eps=0.0)
        tensor([-1.,  1.])

    Source: https://kexue.fm/archives/8978, step D4.
    """
    z = alpha * x + branch
    centred = z - z.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class DeepNorm(nn.Module):
    r"""The residual connection of DeepNet: x ← LN(αx + F(x)).

    Args:
        dim: d, the width.
        alpha: α > 0; :func:`kexue_lib.depth.deepnorm_constants` and :func:`kexue_lib.depth.residual_scale` give it.
        eps: ε ≥ 0.
        affine: whether the norm has a weight (ones) and a bias (zeros).

    ``forward(x, branch)`` takes and gives ``(..., d)``; types as in :func:`deepnorm`.

    Hazards:
        α alone is half of the method: the branches have to start small as well
        (:func:`kexue_lib.depth.init_deepnorm_`).

    Example:
        >>> norm = DeepNorm(4, alpha=2.0)
        >>> norm(torch.ones(3, 4), torch.randn(3, 4)).shape
        torch.Size([3, 4])

    Source: https://kexue.fm/archives/8978; https://arxiv.org/abs/2203.00555.
    """

    def __init__(self, dim: int, alpha: float, eps: float = 1e-5, *, affine: bool = True) -> None:
        """Make the norm; the arguments stand in the docstring of the class."""
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim={dim!r} must be an integer >= 1")
        _check(alpha, eps)
        self.dim, self.alpha, self.eps = dim, float(alpha), float(eps)
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """LN(αx + branch) for ``(..., d)``."""
        if x.shape[-1] != self.dim:
            raise ValueError(f"x {tuple(x.shape)} must end in dim = {self.dim}")
        return deepnorm(x, branch, self.alpha, self.weight, self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        """What print(module) shows."""
        return f"{self.dim}, alpha={self.alpha:g}, eps={self.eps:g}, affine={self.weight is not None}"


def residual(
    x: Tensor,
    branch: Callable[[Tensor], Tensor],
    alpha: float = 1.0,
    mode: str = "post",
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
) -> Tensor:
    r"""One residual block: the stream, the branch and the place of the norm.

    ========== ===================================================
    mode       result
    ========== ===================================================
    ``"post"`` LN(αx + F(x)): Post-LN for α = 1, DeepNorm for α > 1
    ``"pre"``  αx + F(LN(x)): Pre-LN for α = 1
    ``"none"`` αx + F(x): no norm
    ========== ===================================================

    Args:
        x: the stream, ``(..., d)``.
        branch: F, a function or a module; its result has the shape of x.
        alpha: α > 0.
        mode: see the table.
        weight, bias: ``(d,)`` or None, of the norm.
        eps: ε ≥ 0, of the norm.

    Raises:
        ValueError: an unknown mode, α ≤ 0, ε < 0, a branch that changes the shape.
        TypeError: x or F(x) is no floating-point tensor.

    Hazards:
        A Pre-LN stack needs one more norm at its end. Under autocast the stream stays in float32, as in
        :func:`deepnorm`.

    Example:
        >>> x = torch.tensor([[1.0, 3.0]])
        >>> residual(x, torch.relu, eps=0.0), residual(x, torch.relu, mode="pre", eps=0.0)
        (tensor([[-1.,  1.]]), tensor([[1., 4.]]))

    Source: https://kexue.fm/archives/8978; step D9 (Pre-LN).
    """
    if mode not in RESIDUAL_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(map(repr, RESIDUAL_MODES))}")
    if mode == "post":
        return deepnorm(x, branch(x), alpha, weight, bias, eps=eps)
    _check(alpha, eps)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x is {x.dtype if isinstance(x, Tensor) else type(x).__name__}; floating point is needed")
    if torch.is_autocast_enabled(x.device.type) and x.dtype in _HALF:
        x = x.float()
    out = branch(x if mode == "none" else _layer_norm(x, weight, bias, eps))
    _check_pair(x, out)
    return torch.add(out, x, alpha=alpha)


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm with statistics in float32 or better; the type of x comes back, under autocast at least float32."""
    autocast = torch.is_autocast_enabled(x.device.type)
    if not autocast and x.dtype not in _HALF and (weight is None or weight.dtype == x.dtype):
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    dtype = torch.float32 if x.dtype in _HALF else x.dtype
    weight, bias = (None if p is None else p.to(dtype) for p in (weight, bias))
    with torch.autocast(x.device.type, enabled=False):
        y = F.layer_norm(x.to(dtype), x.shape[-1:], weight, bias, eps)
    return y if autocast else y.to(x.dtype)

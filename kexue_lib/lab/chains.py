"""Chains of equal blocks, with and without a residual connection, to try out what depth does to a gradient.

The simplest networks that show it: no biases, one width, one stacked weight, so that a thousand layers are one tensor,
and many members in one call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.depth import residual_weight

__all__ = ["ACTIVATIONS", "INITS", "PlainMLP", "ResidualMLP"]

ACTIVATIONS = ("none", "relu", "tanh")
"""The activations of :class:`PlainMLP`."""

INITS = ("orthogonal", "normal", "he")
"""The initial matrices of :class:`PlainMLP`."""


class _Chain(nn.Module):
    """What both chains share: the checks, and rows of inputs for one network or for each of E members."""

    def __init__(self, depth: int, width: int, members: int, **sizes: int) -> None:
        super().__init__()
        for name, value in {"depth": depth, "width": width, "members": members, **sizes}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer >= 1")
        self.depth, self.width, self.members = depth, width, members
        self.stack = (members, depth) if members > 1 else (depth,)

    def layer(self, h: Tensor, index: int) -> Tensor:
        """What layer ``index`` makes of h; its weights are cut out of the stack, which a loop should not do."""
        raise NotImplementedError

    def _rows(self, x: Tensor) -> Tensor:
        if self.members == 1:
            if x.dim() < 1 or x.shape[-1] != self.width:
                raise ValueError(f"x {tuple(x.shape)} must be (..., {self.width})")
            return x.reshape(-1, self.width)
        if x.dim() not in (2, 3) or x.shape[-1] != self.width or (x.dim() == 3 and x.shape[0] != self.members):
            raise ValueError(
                f"x {tuple(x.shape)} must be (batch, {self.width}) or ({self.members}, batch, {self.width})"
            )
        return x.expand(self.members, *x.shape[-2:])

    def _shaped(self, h: Tensor, x: Tensor) -> Tensor:
        return h.view(x.shape) if self.members == 1 else h


class PlainMLP(_Chain):
    r"""The chain :math:`h \leftarrow \varphi(hW_l)`, with no way around its layers.

    ================ ===================================== ==========================================
    init             W                                     keeps the mean square of h
    ================ ===================================== ==========================================
    ``"orthogonal"`` uniform among orthogonal matrices     exactly, without activation
    ``"normal"``     entries N(0, 1/width)                 in the mean, without activation
    ``"he"``         entries N(0, 2/width)                 in the mean, with ``activation="relu"``
    ================ ===================================== ==========================================

    Args:
        depth, width: N layers of width d.
        init: see the table.
        activation: φ: ``"none"``, ``"relu"`` or ``"tanh"``.
        norm: None, or ``"layer"`` for a LayerNorm without weights after each φ.
        members: E > 1 makes E networks that share nothing but the calls.
        generator: for the weights.
        dtype: of the weights.

    ``model(x)`` maps ``(..., width)`` to ``(..., width)``; with members ``(batch, width)`` (the same for all) or
    ``(E, batch, width)`` to ``(E, batch, width)``. ``model.weight`` is ``(depth, width, width)`` or
    ``(E, depth, width, width)``.

    >>> chain = PlainMLP(100, 8, generator=torch.Generator().manual_seed(0))
    >>> x = torch.ones(8)
    >>> round(chain(x).square().mean().item(), 4)
    1.0

    Source: https://kexue.fm/archives/8994; the chapter *why-residual*.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        init: str = "orthogonal",
        activation: str = "none",
        norm: str | None = None,
        members: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Draw the weights; the arguments stand in the docstring of the class."""
        super().__init__(depth, width, members)
        for name, value, allowed in (
            ("init", init, INITS),
            ("activation", activation, ACTIVATIONS),
            ("norm", norm, (None, "layer")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} is not allowed; allowed: {', '.join(map(repr, allowed))}")
        self.activation, self.norm = activation, norm
        if init == "orthogonal":
            self.weight = nn.Parameter(_orthogonal((*self.stack, width, width), generator, dtype))
        else:
            sd = ((2 if init == "he" else 1) / width) ** 0.5
            self.weight = nn.Parameter(_normal((*self.stack, width, width), sd, generator, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The output of the last layer."""
        h = self._rows(x)
        for w in self.weight.unbind(-3):  # the backward of unbind is one stack; that of indexing is N full tensors
            h = self._apply_layer(h, w)
        return self._shaped(h, x)

    def layer(self, h: Tensor, index: int) -> Tensor:
        """What layer ``index`` makes of h ``(..., width)`` or ``(E, batch, width)``."""
        return self._apply_layer(h, self.weight[..., index, :, :])

    def _apply_layer(self, h: Tensor, w: Tensor) -> Tensor:
        h = h @ w
        if self.activation != "none":
            h = torch.relu(h) if self.activation == "relu" else torch.tanh(h)
        return F.layer_norm(h, h.shape[-1:]) if self.norm else h


class ResidualMLP(_Chain):
    r"""The chain :math:`h \leftarrow h + \varepsilon\,\mathrm{relu}(hU_l)V_l`.

    U has entries N(0, 2/width) and V entries N(0, 1/hidden), so that a branch keeps the mean square of h in the mean.

    Args:
        depth, width: N layers of width d.
        eps: a rule of :func:`kexue_lib.depth.residual_weight` (``"inv_sqrt"``, ``"inv"``, ``"one"``) or a number > 0.
        hidden: width inside a branch; default the same.
        tied: one pair of matrices for all layers.
        members: E > 1 makes E networks that share nothing but the calls.
        generator: for the weights.
        dtype: of the weights.

    ``model(x)`` as in :class:`PlainMLP`. ``model.up`` is ``(depth, width, hidden)``, ``model.down`` ``(depth, hidden,
    width)``, both after an axis of members if there are some; tied, their depth is 1.

    >>> chain = ResidualMLP(64, 8, generator=torch.Generator().manual_seed(0))
    >>> chain.eps, chain(torch.ones(3, 8)).shape
    (0.125, torch.Size([3, 8]))

    Source: https://kexue.fm/archives/8994, step D4; the chapter *why-residual*.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        *,
        eps: str | float = "inv_sqrt",
        hidden: int | None = None,
        tied: bool = False,
        members: int = 1,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Draw the weights; the arguments stand in the docstring of the class."""
        inner = width if hidden is None else hidden
        super().__init__(depth, width, members, hidden=inner)
        self.eps, self.tied = residual_weight(depth, eps), tied
        stack = (*self.stack[:-1], 1 if tied else depth)
        self.up = nn.Parameter(_normal((*stack, width, inner), (2 / width) ** 0.5, generator, dtype))
        self.down = nn.Parameter(_normal((*stack, inner, width), (1 / inner) ** 0.5, generator, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The stream after the last layer."""
        h, times = self._rows(x), self.depth if self.tied else 1
        for up, down in zip(self.up.unbind(-3) * times, self.down.unbind(-3) * times, strict=True):
            h = self._apply_layer(h, up, down)
        return self._shaped(h, x)

    def layer(self, h: Tensor, index: int) -> Tensor:
        """What layer ``index`` makes of h ``(..., width)`` or ``(E, batch, width)``."""
        k = 0 if self.tied else index
        return self._apply_layer(h, self.up[..., k, :, :], self.down[..., k, :, :])

    def _apply_layer(self, h: Tensor, up: Tensor, down: Tensor) -> Tensor:
        a = torch.relu(h @ up)
        if h.dim() == 2 and up.dim() == 2 and a.dtype == h.dtype:  # the product and the sum in one call
            return torch.addmm(h, a, down, alpha=self.eps)
        if h.dim() == 3 and up.dim() == 3 and a.dtype == h.dtype:
            return torch.baddbmm(h, a, down, alpha=self.eps)
        return h + self.eps * (a @ down)


def _normal(shape: tuple[int, ...], sd: float, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype).normal_(0, sd, generator=generator)


def _orthogonal(shape: tuple[int, ...], generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
    """Haar-distributed: the Q of a normal matrix, with the signs that make its R positive on the diagonal."""
    q, r = torch.linalg.qr(_normal(shape, 1.0, generator, dtype))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)

"""A deep and narrow Transformer, to try out what depth does: Post-LN, Pre-LN and DeepNorm.

It has as little as possible beside what the analysis speaks of: no dropout, no biases, norms without weights. The same
model reads random tokens as an encoder, or a text as a causal language model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kexue_lib.depth import deepnorm_constants, grouped_stack
from kexue_lib.norm import residual

__all__ = ["NORMS", "DeepStack"]

NORMS = ("post", "pre", "deepnorm")
"""The kinds of :class:`DeepStack`."""


class DeepStack(nn.Module):
    r"""N layers of attention and feed-forward sublayers around a residual stream.

    ============== ================================== ==========================================
    norm           a sublayer                         α and gain unless given
    ============== ================================== ==========================================
    ``"post"``     x ← LN(x + F(x))                   1, 1
    ``"pre"``      x ← x + F(LN(x)), LN at the end    1, 1
    ``"deepnorm"`` x ← LN(αx + F(x))                  :func:`kexue_lib.depth.deepnorm_constants`
    ============== ================================== ==========================================

    Queries and keys start as Xavier-normal matrices; values, output projections and both feed-forward matrices as
    ``gain`` times that. The feed-forward part is W₂ relu(W₁ x). The first hidden vectors are LN(token + position), so
    that the stream starts at RMS 1 for every kind.

    Args:
        vocabulary: number of tokens; also the number of scores.
        n_layers: N; the number of sublayers is 2N.
        dim, heads, ffn_dim: width, heads per layer, width of the feed-forward part (default 2 · dim).
        norm: see the table.
        alpha, gain: weight of the stream, factor on the initial matrices.
        causal: whether a token sees only itself and what stands before it.
        max_len: longest input.
        members: E > 1 makes E networks that share nothing but the calls: every weight has a first axis of E, and tokens
            and hidden vectors have it too. A narrow network spends its time on calls, not on arithmetic, so that nine
            members cost about as much as two or three.
        checkpoint: keep only the stream between layers for the backward pass and compute the rest again: memory falls,
            time grows by about a third.
        generator: for the initial weights.

    ``model(tokens)`` gives hidden vectors ``(batch, n, dim)`` of tokens ``(batch, n)``; ``model.logits(hidden)`` scores
    ``(..., vocabulary)``. With members: ``(E, batch, n)`` and ``(E, batch, n, dim)``. ``model.stream(tokens)`` gives
    the stream after every sublayer. ``model.embed``, ``model.branches`` and ``model.finish`` are the parts, to run the
    branches in another way (:mod:`kexue_lib.depth.merging`).

    >>> model = DeepStack(10, n_layers=3, norm="deepnorm", causal=True, generator=torch.Generator().manual_seed(0))
    >>> hidden = model(torch.tensor([[1, 2, 3]]))
    >>> hidden.shape, model.logits(hidden).shape, round(model.alpha, 4), round(model.gain, 4)
    (torch.Size([1, 3, 32]), torch.Size([1, 3, 10]), 1.5651, 0.4518)

    Source: https://kexue.fm/archives/8978; the chapter *deepnet-1000-layers*.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        n_layers: int,
        dim: int = 32,
        heads: int = 4,
        ffn_dim: int | None = None,
        norm: str = "post",
        alpha: float | None = None,
        gain: float | None = None,
        causal: bool = False,
        max_len: int = 512,
        members: int = 1,
        checkpoint: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is not allowed; allowed: {', '.join(map(repr, NORMS))}")
        sizes = {"vocabulary": vocabulary, "n_layers": n_layers, "dim": dim, "heads": heads, "max_len": max_len}
        sizes |= {"members": members} | ({} if ffn_dim is None else {"ffn_dim": ffn_dim})
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer >= 1")
        if dim % heads:
            raise ValueError(f"heads={heads!r} is not allowed; allowed: a divisor of dim = {dim}")
        constants = deepnorm_constants(encoder_layers=n_layers).encoder if norm == "deepnorm" else None
        self.alpha = float(alpha if alpha is not None else constants.alpha if constants else 1.0)
        self.gain = float(gain if gain is not None else constants.gain if constants else 1.0)
        for name, number in (("alpha", self.alpha), ("gain", self.gain)):
            if not 0 < number < math.inf:
                raise ValueError(f"{name}={number!r} is not allowed; allowed: a finite number > 0")
        self.norm, self.checkpoint, self.max_len, self.members = norm, checkpoint, max_len, members
        stack = (members,) if members > 1 else ()
        self.embedding = nn.Parameter(torch.empty(*stack, vocabulary, dim).normal_(0, 1, generator=generator))
        self.positions = nn.Parameter(torch.empty(*stack, max_len, dim).normal_(0, 1, generator=generator))
        self.head = _matrix(stack, dim, vocabulary, 1 / math.sqrt(dim), generator)
        mode, inner = "pre" if norm == "pre" else "post", ffn_dim or 2 * dim
        self.layers = nn.ModuleList(
            _Layer(stack, dim, heads, inner, mode, self.alpha, self.gain, causal, generator) for _ in range(n_layers)
        )

    @property
    def mode(self) -> str:
        """The place of the norm, ``"pre"`` or ``"post"``, as :mod:`kexue_lib.depth.merging` calls it."""
        return "pre" if self.norm == "pre" else "post"

    def embed(self, tokens: Tensor) -> Tensor:
        """The start of the stream, as the branches take it: ``(batch, n, dim)``; with members ``(E, batch·n, dim)``."""
        axes, n, width = 2 if self.members == 1 else 3, tokens.shape[-1], self.positions.shape[-1:]
        if tokens.dim() != axes or (axes == 3 and tokens.shape[0] != self.members) or n > self.max_len:
            shape = "(batch, n)" if axes == 2 else f"({self.members}, batch, n)"
            raise ValueError(f"tokens {tuple(tokens.shape)} must be {shape} with n <= {self.max_len}")
        positions = self.positions[..., :n, :]
        if axes == 2:
            return F.layer_norm(F.embedding(tokens, self.embedding) + positions, width)
        member = torch.arange(self.members, device=tokens.device)[:, None, None]
        return F.layer_norm(self.embedding[member, tokens] + positions[:, None], width).flatten(1, 2)

    def branches(self, n: int) -> list[Callable[[Tensor], Tensor]]:
        """The 2N branches F, attention and feed-forward in turn, for texts of n tokens.

        They map what :meth:`embed` gives to its shape, and take any number of texts: on the first axis, with members on
        the second.
        """
        parts: list[Callable[[Tensor], Tensor]] = []
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            parts += [partial(layer._attention, n), layer._feed_forward]
        return parts

    def stream(self, tokens: Tensor) -> Tensor:
        """The stream after each sublayer, ``(2N + 1, batch, n, dim)``; with members ``(2N + 1, E, batch, n, dim)``.

        For ``"pre"`` without the final norm.

        >>> model = DeepStack(10, n_layers=3, norm="pre", generator=torch.Generator().manual_seed(0))
        >>> model.stream(torch.tensor([[1, 2, 3]])).shape
        torch.Size([7, 1, 3, 32])
        """
        stream = grouped_stack(self.embed(tokens), self.branches(tokens.shape[-1]), alpha=self.alpha, mode=self.mode)
        return stream.view(len(stream), *tokens.shape, -1)

    def finish(self, x: Tensor) -> Tensor:
        """The end of the stream as the head takes it: with the final norm for ``"pre"``."""
        return F.layer_norm(x, x.shape[-1:]) if self.norm == "pre" else x

    def forward(self, tokens: Tensor) -> Tensor:
        """Hidden vectors ``(batch, n, dim)`` of tokens ``(batch, n)``; with members ``(E, batch, …)``."""
        x, n = self.embed(tokens), tokens.shape[-1]
        for layer in self.layers:
            if self.checkpoint and torch.is_grad_enabled():
                x = checkpoint(layer, x, n, use_reentrant=False)
            else:
                x = layer(x, n)
        x = self.finish(x)
        return x.unflatten(1, tokens.shape[1:]) if tokens.dim() == 3 else x

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores ``(..., vocabulary)`` of hidden vectors ``(..., dim)``; with members ``(E, ..., dim)``."""
        rows = hidden if self.members == 1 else hidden.flatten(1, -2)
        return _apply(self.head, rows).view(*hidden.shape[:-1], -1)


def _matrix(
    stack: tuple[int, ...], inputs: int, outputs: int, sd: float, generator: torch.Generator | None
) -> nn.Parameter:
    return nn.Parameter(torch.empty(*stack, outputs, inputs).normal_(0, sd, generator=generator))


def _apply(weight: Tensor, x: Tensor) -> Tensor:
    """A linear map, or one for each member."""
    return F.linear(x, weight) if weight.dim() == 2 else torch.bmm(x, weight.mT)


class _Layer(nn.Module):
    """Attention and feed-forward part. One module, not eight: a thousand layers are made and called fast enough."""

    def __init__(
        self,
        stack: tuple[int, ...],
        dim: int,
        heads: int,
        inner: int,
        mode: str,
        alpha: float,
        gain: float,
        causal: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.heads, self.causal, self.mode, self.alpha = heads, causal, mode, alpha
        square, wide = math.sqrt(2 / (dim + dim)), math.sqrt(2 / (dim + inner))  # Xavier
        self.q_proj = _matrix(stack, dim, dim, square, generator)
        self.k_proj = _matrix(stack, dim, dim, square, generator)
        self.v_proj = _matrix(stack, dim, dim, gain * square, generator)
        self.out_proj = _matrix(stack, dim, dim, gain * square, generator)
        self.ffn_up = _matrix(stack, dim, inner, gain * wide, generator)
        self.ffn_down = _matrix(stack, inner, dim, gain * wide, generator)

    def forward(self, x: Tensor, n: int) -> Tensor:
        x = residual(x, partial(self._attention, n), self.alpha, self.mode)
        return residual(x, self._feed_forward, self.alpha, self.mode)

    def _attention(self, n: int, x: Tensor) -> Tensor:
        # x is (batch, n, dim), or (members, batch · n, dim): both are rows of texts of n tokens
        rows = (-1, n, self.heads, x.shape[-1] // self.heads)
        q, k, v = (_apply(w, x).view(rows).transpose(1, 2) for w in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return _apply(self.out_proj, mixed.transpose(1, 2).reshape(x.shape))

    def _feed_forward(self, x: Tensor) -> Tensor:
        return _apply(self.ffn_down, torch.relu(_apply(self.ffn_up, x)))

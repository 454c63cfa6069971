"""Small encoders that chapters share: tokens in, a hidden vector per token, scores of symbols out.

Every model here has

* ``model(tokens)``: hidden vectors ``(batch, n, dim)``; with ``return_entropy=True`` also the entropy of each row of
  attention weights, ``(depth, batch, heads, n)``;
* ``model.logits(hidden)``: scores ``(..., vocabulary)``;
* ``scale=`` and ``train_len=``, which take the place of the model's own for one call: a network that is trained with
  one scale is evaluated with another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib.attention import attention_scale, query_key_entropy
from kexue_lib.gau import GatedAttentionUnit
from kexue_lib.positions import apply_rope

__all__ = ["GAUEncoder", "RoFormerEncoder", "parameter_count"]

Scale = str | float


class _Encoder(nn.Module):
    """What the encoders share: from hidden vectors to scores."""

    head: nn.Linear

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the symbols."""
        out: Tensor = self.head(hidden)
        return out


class GAUEncoder(_Encoder):
    r"""Gated attention units with post-norm, :math:`x \leftarrow \mathrm{RMSNorm}(x + \mathrm{GAU}(x))`.

    Args:
        vocabulary: number of symbols.
        dim, depth, expansion, key_dim: width, number of layers, e/d and s of each
            :class:`kexue_lib.gau.GatedAttentionUnit`.
        scale, train_len: the scale λ of attention: a kind of :func:`kexue_lib.attention.attention_scale` or a number.
        bias, offset_std, init_gain, rope_base: of each unit, with its defaults.
        generator: for the initial weights.

    >>> model = GAUEncoder(10, dim=16, key_dim=8, generator=torch.Generator().manual_seed(0))
    >>> hidden, entropy = model(torch.tensor([[1, 2, 3]]), return_entropy=True)
    >>> hidden.shape, entropy.shape, model.logits(hidden).shape
    (torch.Size([1, 3, 16]), torch.Size([2, 1, 1, 3]), torch.Size([1, 3, 10]))

    Source: https://kexue.fm/archives/8934 (the unit); the chapter *entropy-invariant-softmax* (this size).
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 64,
        depth: int = 2,
        expansion: float = 2.0,
        key_dim: int = 32,
        scale: Scale = "sqrt_d",
        train_len: float = 64,
        bias: bool = False,
        offset_std: float = 0.0,
        init_gain: float = 1.0,
        rope_base: float = 10000.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        self.key_dim = key_dim
        self.embedding = _embedding(vocabulary, dim, generator)
        self.layers = nn.ModuleList(
            GatedAttentionUnit(
                dim,
                expansion=expansion,
                key_dim=key_dim,
                scale=scale,
                train_len=train_len,
                bias=bias,
                offset_std=offset_std,
                init_gain=init_gain,
                rope_base=rope_base,
                generator=generator,
            )
            for _ in range(_at_least_one("depth", depth))
        )
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=1e-6) for _ in range(depth))
        self.head = nn.Linear(dim, vocabulary)
        _normal(self.head, 1 / math.sqrt(dim), generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        scale: Scale | None = None,
        train_len: float | None = None,
        return_entropy: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Hidden vectors of tokens ``(batch, n)``; see the module's head for the options."""
        x = self.embedding(tokens)
        entropies = []
        for layer, norm in zip(self.layers, self.norms, strict=True):
            out = layer(x, scale=scale, train_len=train_len, return_entropy=return_entropy)
            if return_entropy:
                out, entropy = out
                entropies.append(entropy.unsqueeze(1))
            x = norm(x + out)
        return (x, torch.stack(entropies)) if return_entropy else x


class RoFormerEncoder(_Encoder):
    r"""A RoFormer: BERT's layers (post-norm, offsets, GELU) with rotary positions in place of position vectors.

    .. math:: x \leftarrow \mathrm{LN}(x + \mathrm{Attention}(x)), \qquad x \leftarrow \mathrm{LN}(x + \mathrm{FFN}(x))

    Args:
        vocabulary: number of symbols.
        dim, depth, heads: width, number of layers, heads per layer; ``dim / heads`` has to be even.
        expansion: width of the feed-forward part over ``dim``.
        scale, train_len: the scale λ of attention: a kind of :func:`kexue_lib.attention.attention_scale` or a number.
        generator: for the initial weights, N(0, 0.02²).

    >>> model = RoFormerEncoder(10, dim=16, depth=2, heads=2, generator=torch.Generator().manual_seed(0))
    >>> hidden, entropy = model(torch.tensor([[1, 2, 3]]), return_entropy=True)
    >>> hidden.shape, entropy.shape
    (torch.Size([1, 3, 16]), torch.Size([2, 1, 2, 3]))

    Source: Su et al., *RoFormer*, https://arxiv.org/abs/2104.09864; https://kexue.fm/archives/8823 (the experiment).
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        dim: int = 384,
        depth: int = 6,
        heads: int = 6,
        expansion: float = 4.0,
        scale: Scale = "sqrt_d",
        train_len: float = 512,
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the layers; the arguments stand in the docstring of the class."""
        super().__init__()
        if heads < 1 or dim % (2 * heads):
            raise ValueError(f"heads={heads!r} is not allowed; allowed: dim = {dim} has to be a multiple of 2 · heads")
        self.key_dim = dim // heads
        self.embedding = _embedding(vocabulary, dim, generator, sd=0.02)
        self.first_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            _RoFormerLayer(dim, heads, expansion, scale, train_len, generator)
            for _ in range(_at_least_one("depth", depth))
        )
        self.head = nn.Linear(dim, vocabulary)
        _normal(self.head, 0.02, generator)

    def forward(
        self,
        tokens: Tensor,
        *,
        scale: Scale | None = None,
        train_len: float | None = None,
        return_entropy: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Hidden vectors of tokens ``(batch, n)``; see the module's head for the options."""
        x = self.first_norm(self.embedding(tokens))
        entropies = []
        for layer in self.layers:
            x, entropy = layer(x, scale, train_len, return_entropy)
            entropies.append(entropy)
        return (x, torch.stack(entropies)) if return_entropy else x


class _RoFormerLayer(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        expansion: float,
        scale: Scale,
        train_len: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        inner = int(expansion * dim)
        self.heads, self.scale, self.train_len = heads, scale, train_len
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, inner), nn.Linear(inner, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for linear in (self.qkv, self.out, self.up, self.down):
            _normal(linear, 0.02, generator)
        self._lambda(2, scale, train_len)  # an unknown scale is an error now, not at the first batch

    def _lambda(self, n: int, scale: Scale, train_len: float) -> float:
        width = self.qkv.in_features // self.heads
        if isinstance(scale, str):
            return float(attention_scale(n, width, kind=scale, train_len=train_len))
        return float(scale)

    def forward(
        self, x: Tensor, scale: Scale | None, train_len: float | None, return_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        b, n, dim = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = apply_rope(q), apply_rope(k)
        lam = self._lambda(
            n, self.scale if scale is None else scale, self.train_len if train_len is None else train_len
        )
        mixed = F.scaled_dot_product_attention(q, k, v, scale=lam)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(b, n, dim)))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return x, query_key_entropy(q, k, scale=lam) if return_entropy else None


def parameter_count(model: nn.Module) -> int:
    """Number of trained numbers of a model.

    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _at_least_one(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} is not allowed; allowed: an integer >= 1")
    return value


def _embedding(vocabulary: int, dim: int, generator: torch.Generator | None, sd: float = 1.0) -> nn.Embedding:
    table = torch.empty(_at_least_one("vocabulary", vocabulary), _at_least_one("dim", dim))
    return nn.Embedding.from_pretrained(table.normal_(0, sd, generator=generator), freeze=False)


@torch.no_grad()
def _normal(linear: nn.Linear, sd: float, generator: torch.Generator | None) -> None:
    linear.weight.normal_(0, sd, generator=generator)
    linear.bias.zero_()

"""The gated attention unit (GAU): a gated feed-forward layer whose values are mixed by a single attention head.

Here: softmax attention, with an optional scale that knows the number of keys (:mod:`kexue_lib.attention`), RoPE,
padding and causal masks. Shapes: ``b`` batch, ``n`` tokens, ``d`` model width (``dim``), ``e`` inner width (``expansion
* dim``), ``s`` width of queries and keys (``key_dim``).

Source: Hua, Dai, Liu, Le: *Transformer Quality in Linear Time*, https://arxiv.org/abs/2202.10447; Su Jianlin,
https://kexue.fm/archives/8934.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kexue_lib import attention as _attention
from kexue_lib.attention import kernels as _kernels
from kexue_lib.attention.checks import check_qkv
from kexue_lib.attention.scale import check_scale
from kexue_lib.positions import apply_rope_plain, apply_rotary, rope_inv_freq, rope_tables

__all__ = ["GatedAttentionUnit", "gau_attention", "gau_attention_plain"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "identity": lambda x: x,
}

# The name of a scale (attention.SCALE_KINDS), or a number, which is λ itself.
Scale = str | float


def _check_scale(scale: Scale) -> None:
    if isinstance(scale, str):
        if scale not in _attention.SCALE_KINDS:
            raise ValueError(
                f"scale={scale!r} is not a known scale; choose one of "
                f"{', '.join(map(repr, _attention.SCALE_KINDS))}, or a number λ"
            )
    elif isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise ValueError(f"scale={scale!r} must be the name of a scale or a finite number λ that multiplies q·k")


def gau_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: Scale = "sqrt_d",
    train_len: float = 512,
    min_len: int = 1,
    dropout_p: float = 0.0,
) -> Tensor:
    r"""The attention of a GAU: one softmax head with narrow keys and wide values.

    .. math:: O = \mathrm{softmax}(\lambda\,QK^\top)\,V

    Args:
        q: ``(b, n, s)``.
        k: ``(b, m, s)``.
        v: ``(b, m, e)``.
        mask: boolean, broadcastable to ``(b, n, m)``, ``True`` = visible. Padding of keys: ``mask[:, None, :]``.
        is_causal: query i sees the keys j ≤ i + m − n.
        scale: a kind of :func:`kexue_lib.attention.attention_scale` (default ``"sqrt_d"``, λ = 1/√s), or a number, λ
            itself.
        train_len, min_len: as there; used by ``"logn"`` and ``"sqrt_logn"`` only.
        dropout_p: probability with which a weight is dropped.

    Returns:
        ``(b, n, e)``.

    Hazards:
        As in :func:`kexue_lib.attention.entropy_invariant_attention`: a query that sees no key gives 0. With e ≠ s
        PyTorch's flash kernels do not apply: on a CPU its plain kernel keeps the n×m weights.

    Example:
        >>> q = torch.zeros(1, 2, 4)
        >>> gau_attention(q, q, torch.tensor([[[1.0], [3.0]]]), is_causal=True)
        tensor([[[1.],
                 [2.]]])

    Source: https://kexue.fm/archives/8934, step D1 of the chapter *flash-gated-attention-unit*.
    """
    _check_scale(scale)
    if mask is None and dropout_p == 0 and _fit(q, k, v, is_causal) and _kernels.in_parts(q, k, v, 0.0):
        # The common case without fused kernel, without an axis of heads: short texts feel each view.
        if not isinstance(scale, str):
            return _kernels.by_parts(q, k, v, None, is_causal, 0.0, float(scale))
        check_scale(scale, train_len, min_len)
        q, lam = _kernels.scaled_queries(q, k.shape[1], None, is_causal, scale, train_len, min_len)
        return _kernels.by_parts(q, k, v, None, is_causal, 0.0, lam)
    q, k, v, mask = _single_head(q, k, v, mask)
    if isinstance(scale, str):
        out = _attention.entropy_invariant_attention(
            q,
            k,
            v,
            mask=mask,
            is_causal=is_causal,
            kind=scale,
            train_len=train_len,
            min_len=min_len,
            dropout_p=dropout_p,
        )
    else:
        check_qkv(q, k, v, mask, is_causal, dropout_p)
        out = _kernels.attend(q, k, v, mask, is_causal, dropout_p, float(scale))
    return out.squeeze(1)


def _fit(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> bool:
    """Whether the shapes are as they have to be, with as many queries as keys if causal."""
    return (
        all(isinstance(x, Tensor) and x.dim() == 3 for x in (q, k, v))
        and q.shape[::2] == k.shape[::2]
        and k.shape[:2] == v.shape[:2]
        and (not is_causal or q.shape[1] == k.shape[1])
    )


def _single_head(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, Tensor) or x.dim() != 3:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} {shape} must be a tensor (batch, length, width)")
    if isinstance(mask, Tensor):
        if mask.dim() > 3:
            raise ValueError(f"mask {tuple(mask.shape)} must be broadcastable to (batch, queries, keys)")
        if mask.dim() == 3:
            mask = mask.unsqueeze(1)
    return q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), mask


def gau_attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: Scale = "sqrt_d",
    train_len: float = 512,
    min_len: int = 1,
) -> Tensor:
    """The specification of :func:`gau_attention`, with the n×m weights written out.

    Example:
        >>> q = torch.zeros(1, 2, 4)
        >>> gau_attention_plain(q, q, torch.tensor([[[1.0], [3.0]]]))
        tensor([[[2.],
                 [2.]]])

    Source: as :func:`gau_attention`.
    """
    _check_scale(scale)
    if not isinstance(scale, str):  # λ itself: undo the 1/√s of the plain form
        q, scale = q * (scale * math.sqrt(q.shape[-1])), "sqrt_d"
    q, k, v, mask = _single_head(q, k, v, mask)
    return _attention.entropy_invariant_attention_plain(
        q, k, v, mask=mask, is_causal=is_causal, kind=scale, train_len=train_len, min_len=min_len
    ).squeeze(1)


class _Linear(nn.Linear):
    """A dense map whose weights the owner sets: no draw from the global generator."""

    def reset_parameters(self) -> None:
        """Leaves the weights to the owner."""


class GatedAttentionUnit(nn.Module):
    r"""A gated attention unit with softmax attention: :math:`O = (U \odot AV)\,W_o`.

    .. math:: U = \varphi(XW_u),\quad V = \varphi(XW_v),\quad Z = \varphi(XW_z),\quad
              Q = \gamma_q\odot Z + \beta_q,\quad K = \gamma_k\odot Z + \beta_k,\quad
              A = \mathrm{softmax}(\lambda\,\mathrm{rope}(Q)\,\mathrm{rope}(K)^\top)

    with φ = ``activation``. Norm and residual belong to the caller. The three input maps are one fused matrix of width
    2e + s.

    Args:
        dim: d, width of input and output.
        expansion: e/d, default 2 (two such layers have about the parameters of attention plus feed-forward).
        key_dim: s, even if ``rope``; default 128.
        scale: λ, see :func:`gau_attention`; default ``"sqrt_d"``.
        train_len, min_len: for the scales that know n.
        causal: whether token i sees only the tokens j ≤ i.
        rope: whether queries and keys are rotated by position, interleaved pairs.
        rope_base: base of the frequencies, default 10000.
        bias: whether the dense maps and Q, K have offsets; ``False`` (default) drops β too, as the author's code does.
        activation: ``"silu"`` (default), ``"relu"``, ``"gelu"`` or ``"identity"``.
        dropout: of the attention weights while training.
        init_gain: weights start as N(0, init_gain²/fan_in), γ at 1, biases at 0.
        offset_std: the offsets β of Q and K start as N(0, offset_std²), default 0; needs ``bias``. With RoPE the
            product of the offsets is a function of the distance alone: a head that starts with them looks at certain
            distances, and learns local patterns much sooner.
        generator: for the initial weights; default: PyTorch's global generator.

    Raises:
        ValueError: sizes < 1, an odd key_dim with RoPE, unknown names, dropout outside [0, 1).

    Example:
        >>> gau = GatedAttentionUnit(16, key_dim=8, train_len=64, generator=torch.Generator().manual_seed(0))
        >>> x = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
        >>> gau(x).shape
        torch.Size([2, 5, 16])
        >>> out, entropy = gau(x, return_entropy=True)     # the output is the same, to the bit
        >>> entropy.shape, bool((entropy <= math.log(5)).all()), bool((out == gau(x)).all())
        (torch.Size([2, 5]), True, True)
        >>> out = gau(x, scale="logn")                     # evaluate with another scale than the one of training

    Source: https://arxiv.org/abs/2202.10447, figure 2; https://kexue.fm/archives/8934, step D1.
    """

    def __init__(
        self,
        dim: int,
        *,
        expansion: float = 2.0,
        key_dim: int = 128,
        scale: Scale = "sqrt_d",
        train_len: float = 512,
        min_len: int = 1,
        causal: bool = False,
        rope: bool = True,
        rope_base: float = 10000.0,
        bias: bool = False,
        activation: str = "silu",
        dropout: float = 0.0,
        init_gain: float = 1.0,
        offset_std: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Makes the layer; the arguments stand in the docstring of the class."""
        super().__init__()
        inner = int(expansion * dim)
        for name, size in (("dim", dim), ("key_dim", key_dim), ("expansion * dim", inner)):
            if size != int(size) or size < 1:
                raise ValueError(f"{name}={size!r} must be a whole number >= 1")
        if rope and key_dim % 2:
            raise ValueError(f"key_dim={key_dim} must be even: RoPE rotates pairs; use rope=False or another width")
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"activation={activation!r} is unknown; choose one of {', '.join(map(repr, _ACTIVATIONS))}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout!r} must lie in [0, 1)")
        if not rope_base > 0:
            raise ValueError(f"rope_base={rope_base!r} must be > 0")
        if offset_std < 0 or (offset_std > 0 and not bias):
            raise ValueError(f"offset_std={offset_std!r} must be >= 0, and 0 without bias: there is no offset to draw")
        _check_scale(scale)
        check_scale("logn", train_len, min_len)
        self.dim, self.inner_dim, self.key_dim = dim, inner, key_dim
        self.scale, self.train_len, self.min_len = scale, train_len, min_len
        self.causal, self.rope, self.rope_base = causal, rope, rope_base
        self.activation, self.dropout = activation, dropout
        self.init_gain, self.offset_std = init_gain, offset_std
        self.in_proj = _Linear(dim, 2 * inner + key_dim, bias=bias)
        self.out_proj = _Linear(inner, dim, bias=bias)
        self.gamma = nn.Parameter(torch.ones(2, key_dim))
        self.beta = nn.Parameter(torch.zeros(2, key_dim)) if bias else None
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws weights N(0, init_gain²/fan_in) and offsets β N(0, offset_std²); sets γ = 1, biases = 0."""
        for layer in (self.in_proj, self.out_proj):
            layer.weight.normal_(0, self.init_gain / math.sqrt(layer.in_features), generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
        self.gamma.fill_(1)
        if self.beta is not None:
            self.beta.normal_(0, self.offset_std, generator=generator)

    def extra_repr(self) -> str:
        """The arguments that the submodules do not show."""
        return (
            f"dim={self.dim}, inner_dim={self.inner_dim}, key_dim={self.key_dim}, scale={self.scale!r}, "
            f"train_len={self.train_len}, causal={self.causal}, rope={self.rope}, activation={self.activation!r}"
        )

    def _positions(self, x: Tensor, positions: Tensor | None) -> Tensor:
        if positions is None:
            return torch.arange(x.shape[1], device=x.device)
        if positions.dim() not in (1, 2) or positions.shape[-1] != x.shape[1]:
            raise ValueError(f"positions {tuple(positions.shape)} must be (n,) or (batch, n) for x {tuple(x.shape)}")
        return positions

    def _check(self, x: Tensor, mask: Tensor | None) -> None:
        if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[-1] != self.dim:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x {shape} must be a tensor (batch, n, {self.dim})")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != x.shape[:2]):
            raise ValueError(
                f"mask {tuple(mask.shape)} of {mask.dtype} must be a boolean padding mask (batch, n) = "
                f"{tuple(x.shape[:2])}, True = visible"
            )

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor | None = None,
        scale: Scale | None = None,
        train_len: float | None = None,
        min_len: int | None = None,
        return_entropy: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Mixes the tokens of x.

        Args:
            x: ``(b, n, d)``.
            mask: boolean ``(b, n)``, ``True`` = a token, ``False`` = padding, which no token sees. (Rows of padding are
                computed like others; leave them out of the loss.)
            positions: ``(n,)`` or ``(b, n)`` for RoPE, default 0, …, n − 1.
            scale, train_len, min_len: take the place of the module's own for this call.
            return_entropy: also give the entropy of each row of weights ``(b, n)``, in nats. It is computed beside
                the attention, which does not change.

        Returns:
            ``(b, n, d)``, or a pair with the entropies.
        """
        self._check(x, mask)
        scale = self.scale if scale is None else scale
        _check_scale(scale)
        train_len = self.train_len if train_len is None else train_len
        min_len = self.min_len if min_len is None else min_len
        act = _ACTIVATIONS[self.activation]
        u, v, z = act(self.in_proj(x)).split((self.inner_dim, self.inner_dim, self.key_dim), dim=-1)
        # Queries and keys side by side, (b, 2, n, s), so that one pass rotates both.
        qk = z.unsqueeze(1) * self.gamma[:, None, :]
        if self.beta is not None:
            qk = qk + self.beta[:, None, :]
        if self.rope:
            dtype = torch.promote_types(qk.dtype, torch.float32)
            cos, sin = rope_tables(
                self._positions(x, positions), rope_inv_freq(self.key_dim, self.rope_base, device=x.device, dtype=dtype)
            )
            if cos.dim() == 3:  # positions of their own per sample
                cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
            qk = apply_rotary(qk, cos, sin)
        q, k = qk.unbind(1)
        visible = None if mask is None else mask[:, None, :]
        out = gau_attention(
            q,
            k,
            v,
            mask=visible,
            is_causal=self.causal,
            scale=scale,
            train_len=train_len,
            min_len=min_len,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out = self.out_proj(u * out)
        if not return_entropy:
            return out
        named = isinstance(scale, str)
        entropy = _attention.query_key_entropy(
            q.unsqueeze(1),
            k.unsqueeze(1),
            mask=None if visible is None else visible.unsqueeze(1),
            is_causal=self.causal,
            kind=scale if isinstance(scale, str) else "sqrt_d",
            train_len=train_len,
            min_len=min_len,
            scale=None if named else float(scale),
        )
        return out, entropy.squeeze(1)

    def forward_plain(
        self, x: Tensor, mask: Tensor | None = None, *, scale: Scale | None = None, train_len: float | None = None
    ) -> Tensor:
        """The specification of :meth:`forward`: the formulas of the class, one by one, without dropout."""
        self._check(x, mask)
        scale = self.scale if scale is None else scale
        phi = _ACTIVATIONS[self.activation]
        e, s = self.inner_dim, self.key_dim
        zero = x.new_zeros(2 * e + s)
        weight, offset = self.in_proj.weight, self.in_proj.bias if self.in_proj.bias is not None else zero
        W_u, W_v, W_z = weight[:e], weight[e : 2 * e], weight[2 * e :]
        b_u, b_v, b_z = offset[:e], offset[e : 2 * e], offset[2 * e :]
        U, V, Z = phi(x @ W_u.T + b_u), phi(x @ W_v.T + b_v), phi(x @ W_z.T + b_z)
        Q, K = self.gamma[0] * Z, self.gamma[1] * Z
        if self.beta is not None:
            Q, K = Q + self.beta[0], K + self.beta[1]
        if self.rope:
            inv_freq = rope_inv_freq(s, self.rope_base, device=x.device, dtype=x.dtype)
            Q, K = apply_rope_plain(Q, None, inv_freq), apply_rope_plain(K, None, inv_freq)
        AV = gau_attention_plain(
            Q,
            K,
            V,
            mask=None if mask is None else mask[:, None, :],
            is_causal=self.causal,
            scale=scale,
            train_len=self.train_len if train_len is None else train_len,
            min_len=self.min_len,
        )
        out = (U * AV) @ self.out_proj.weight.T
        return out if self.out_proj.bias is None else out + self.out_proj.bias

"""Softmax attention whose scale grows with the number of keys that each query sees."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_qkv
from .kernels import attend, scaled_queries
from .scale import attention_scale, check_scale

__all__ = ["entropy_invariant_attention", "entropy_invariant_attention_plain"]


def entropy_invariant_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
    dropout_p: float = 0.0,
) -> Tensor:
    r"""Softmax attention whose scale grows with the number of keys that each query sees.

    For query i with the visible keys J(i),

    .. math:: o_i = \sum_{j\in J(i)} p_{ij} v_j, \qquad
              p_i = \mathrm{softmax}_{j\in J(i)}\bigl(\lambda_i\, q_i\cdot k_j\bigr), \qquad
              \lambda_i = \frac{\log\max(|J(i)|, \mathrm{min\_len})}{\log \mathrm{train\_len}}\,\frac1{\sqrt d}

    for ``kind="logn"``; :func:`attention_scale` lists the other kinds. The work is done by
    ``torch.nn.functional.scaled_dot_product_attention`` and its fused kernels (on a CPU, which has none for dv ≠ d and
    for dropout, there by two products and a softmax). If all queries see the same number of keys, the factor becomes
    the kernel's own ``scale`` and costs nothing; otherwise it multiplies the rows of q, once.

    Args:
        q: ``(b, h, n, d)``.
        k: ``(b, h, m, d)``.
        v: ``(b, h, m, dv)``.
        mask: boolean, broadcastable to ``(b, h, n, m)``, ``True`` = visible; default: everything is visible. Padding of
            keys: ``mask[:, None, None, :]``.
        is_causal: query i sees the keys j ≤ i + m − n: the *last* query is aligned with the last key, so that a text
            that is continued from a cache gets the same rows (PyTorch's own ``is_causal`` aligns the *first* ones).
            Together with ``mask``, both must allow the key.
        kind, train_len, min_len: as in :func:`attention_scale`.
        dropout_p: probability with which a weight is dropped, default 0. Set it to 0 for evaluation.

    Returns:
        ``(b, h, n, dv)``, the dtype of q (under autocast that of the fused kernel).

    Raises:
        ValueError: shapes that do not fit, more queries than keys with ``is_causal``, bad scale parameters.
        TypeError: a mask that is not boolean.

    Hazards:
        * A query without any visible key gives a zero row and zero gradients.
        * Row factors are computed in float32 at least; q times its factor is rounded once to the dtype of q.
        * No n×m tensor is made here for ``mask=None`` (for ``is_causal`` with n ≠ m: not on a CPU and not on CUDA, but
          inside ``torch.compile`` a boolean one). Where no fused kernel fits, the n×m weights are kept, e.g. on a CPU
          if dv ≠ d.

    Example:
        >>> rng = torch.Generator().manual_seed(0)
        >>> q, k, v = (torch.randn(1, 2, 6, 8, generator=rng) for _ in range(3))
        >>> out = entropy_invariant_attention(q, k, v, train_len=4)
        >>> same = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=attention_scale(6, 8, train_len=4))
        >>> bool((out == same).all())
        True
        >>> causal = entropy_invariant_attention(q, k, v, is_causal=True, train_len=4)
        >>> continued = entropy_invariant_attention(q[:, :, 4:], k, v, is_causal=True, train_len=4)
        >>> torch.allclose(causal[:, :, 4:], continued)
        True

    Source: https://kexue.fm/archives/8823, https://kexue.fm/archives/9034; chapter *entropy-invariant-softmax*, steps
    D5–D9.
    """
    check_scale(kind, train_len, min_len)
    check_qkv(q, k, v, mask, is_causal, dropout_p)
    q, scale = scaled_queries(q, k.shape[2], mask, is_causal, kind, train_len, min_len)
    return attend(q, k, v, mask, is_causal, dropout_p, scale)


def entropy_invariant_attention_plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None = None,
    is_causal: bool = False,
    kind: str = "logn",
    train_len: float = 512,
    min_len: int = 1,
) -> Tensor:
    """The specification of :func:`entropy_invariant_attention`: the same formula with the n×m weights written out.

    Readable, differentiable and exact to the dtype of its input; O(n·m) memory. Arguments and result as there, without
    dropout.

    Example:
        >>> q = k = v = torch.eye(2, dtype=torch.float64)[None, None]
        >>> entropy_invariant_attention_plain(q, k, v, train_len=2)[0, 0]   # e^(1/√2) : 1
        tensor([[0.6698, 0.3302],
                [0.3302, 0.6698]], dtype=torch.float64)

    Source: as :func:`entropy_invariant_attention`.
    """
    check_scale(kind, train_len, min_len)
    check_qkv(q, k, v, mask, is_causal, 0.0)
    (b, h, n, d), m = q.shape, k.shape[2]
    visible = torch.ones(b, h, n, m, dtype=torch.bool, device=q.device)
    if mask is not None:
        visible = visible & mask
    if is_causal:
        visible = visible & (torch.arange(m)[None, :] <= torch.arange(n)[:, None] + (m - n)).to(q.device)
    lam = attention_scale(visible.sum(-1), d, train_len=train_len, min_len=min_len, kind=kind, dtype=q.dtype)
    scores = lam[..., None] * (q @ k.transpose(-1, -2))
    top = scores.masked_fill(~visible, -math.inf).amax(-1, keepdim=True).clamp(min=torch.finfo(q.dtype).min)
    weights = torch.where(visible, (scores - top.detach()).masked_fill(~visible, 0).exp(), 0)
    total = weights.sum(-1, keepdim=True)
    return (weights / torch.where(total == 0, 1, total)) @ v

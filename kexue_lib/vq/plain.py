"""The specification of VQ attention: dense attention over the quantized keys, and the recursion token by token."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .attention import CacheGrad
from .checks import check_attention
from .codebook import gather_codes


def vq_attention_plain(
    q: Tensor,
    codebook: Tensor,
    codes: Tensor,
    v: Tensor,
    *,
    k_hat: Tensor | None = None,
    causal: bool = True,
    block_size: int = 512,
    bias: Tensor | None = None,
    scale: float | None = None,
    cache_grad: CacheGrad = False,
) -> Tensor:
    """The specification of :func:`vq_attention`: dense attention over the quantized keys, its n×n weights written out.

    Readable, exact to the dtype of its input, O(n²) memory; autograd gives the gradients that ``cache_grad`` asks for.
    Arguments and result as there, without a state.

    Example:
        >>> q = torch.zeros(1, 1, 3, 1)
        >>> v = torch.tensor([[[[0.0], [2.0], [4.0]]]])
        >>> vq_attention_plain(q, torch.zeros(1, 2, 1), torch.tensor([[[0, 1, 0]]]), v).flatten()   # equal weights
        tensor([0., 1., 2.])

    Source: https://kexue.fm/archives/9844; chapter *vq-key-linear-attention*, steps D1, D5 and D7.
    """
    check_attention(q, codebook, codes, v, k_hat, causal, block_size, bias, scale, cache_grad, None, False)
    n = q.shape[2]
    lam = q.shape[3] ** -0.5 if scale is None else scale
    position = torch.arange(n, device=q.device)
    distance = position[:, None] - position
    block = position // block_size
    # The keys of a query's own block and of the one before are local; all others are cache. All are, if not causal.
    local = (block[:, None] - block <= 1) if causal else torch.zeros_like(distance, dtype=torch.bool)
    cached_keys = gather_codes(codebook if cache_grad is True else codebook.detach(), codes)
    keys = gather_codes(codebook, codes) if k_hat is None else k_hat
    if cache_grad == "exact":
        cached_keys = keys
    cached_v = v if cache_grad else v.detach()
    scores = lam * torch.where(local, q @ keys.transpose(-1, -2), q @ cached_keys.transpose(-1, -2))
    if bias is not None:
        inside = (distance >= 0) & (distance < block_size)
        scores = scores + torch.where(inside, bias[:, distance.clamp(0, block_size - 1)], 0)
    if causal:
        scores = scores.masked_fill(distance < 0, -math.inf)
    weights = torch.softmax(scores, dim=-1)
    return torch.where(local, weights, 0) @ v + torch.where(local, 0, weights) @ cached_v


def vq_attention_recurrent_plain(
    q: Tensor, codebook: Tensor, codes: Tensor, v: Tensor, *, scale: float | None = None
) -> Tensor:
    r"""The recursion of step D4, one token after the other: counts and mean values per code, then c scores.

    .. math:: N \leftarrow N + \Delta_i,\qquad
              \bar V_{z_i} \leftarrow \bar V_{z_i} + (v_i - \bar V_{z_i})/N_{z_i},\qquad
              o_i = \sum_s \mathrm{softmax}_s(\lambda q_i\cdot C_s + \ln N_s)\,\bar V_s

    Causal, without bias. Arguments as :func:`vq_attention`.

    Example:
        >>> q = torch.zeros(1, 1, 3, 1)
        >>> v = torch.tensor([[[[0.0], [2.0], [4.0]]]])
        >>> vq_attention_recurrent_plain(q, torch.zeros(1, 2, 1), torch.tensor([[[0, 1, 0]]]), v).flatten()
        tensor([0., 1., 2.])

    Source: https://kexue.fm/archives/9844; chapter *vq-key-linear-attention*, steps D3 and D4.
    """
    check_attention(q, codebook, codes, v, None, True, 1, None, scale, False, None, False)
    (b, h, n, d), c = q.shape, codebook.shape[1]
    lam = d**-0.5 if scale is None else scale
    counts, means = v.new_zeros(b, h, c), v.new_zeros(b, h, c, v.shape[3])
    rows = []
    for i in range(n):
        one_hot = torch.nn.functional.one_hot(codes[:, :, i].long(), c).to(v.dtype)
        counts = counts + one_hot
        step = (v[:, :, i, None] - means) / counts.clamp(min=1).unsqueeze(-1)
        means = means + one_hot.unsqueeze(-1) * step
        scores = lam * (codebook @ q[:, :, i].unsqueeze(-1)).squeeze(-1) + counts.log()
        rows.append((torch.softmax(scores, dim=-1).unsqueeze(-2) @ means).squeeze(-2))
    return torch.stack(rows, dim=2)

"""Codebooks: the code of each key, the straight-through estimator, and a codebook kept by moving averages."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .blocks import aggregate
from .checks import check_assign, check_codebook_options

# Numbers in the buffer of scores of an assignment.
_BUDGET = {"cpu": 2**18}
_BUDGET_ELSEWHERE = 2**27


def gather_codes(codebook: Tensor, codes: Tensor) -> Tensor:
    """codebook[codes] per head: (h, c, d), (b, h, n) -> (b, h, n, d)."""
    h, c, d = codebook.shape
    place = codes + c * torch.arange(h, device=codes.device)[:, None]
    return codebook.reshape(h * c, d).index_select(0, place.flatten()).view(*codes.shape, d)


def vq_assign(k: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    r"""The nearest code of each key, and that code's vector.

    .. math:: z_j = \arg\min_s \|k_j - C_s\|^2 = \arg\max_s \bigl(k_j\cdot C_s - \tfrac12\|C_s\|^2\bigr), \qquad
              \hat k_j = C_{z_j}

    Args:
        k: keys, ``(b, h, n, d)``.
        codebook: C, ``(h, c, d)``, float32 or float64.

    Returns:
        ``codes`` ``(b, h, n)``, int64; among equally near codes the lowest; and ``k_hat`` ``(b, h, n, d)`` in the dtype
        of the codebook, differentiable by the codebook. The codes have no gradient: see :func:`straight_through`.

    Raises:
        ValueError: shapes that do not fit, a codebook of half precision or of integers.

    Hazards:
        Distances are computed in the dtype of the codebook, by matrix products: near a tie another order of summation
        may choose the other code. Memory is O(n), the n×c distances are made by parts.

    Example:
        >>> codebook = torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])
        >>> codes, k_hat = vq_assign(torch.tensor([[[[0.2, 0.1], [0.9, -0.3], [0.5, 7.0]]]]), codebook)
        >>> codes, k_hat[0, 0, 1]
        (tensor([[[0, 1, 0]]]), tensor([1., 0.]))

    Source: https://kexue.fm/archives/9844; chapter *vq-key-linear-attention*, step D1.
    """
    check_assign(k, codebook)
    with torch.no_grad(), torch.autocast(k.device.type, enabled=False):
        (b, h, n, _), c = k.shape, codebook.shape[1]
        centres = codebook.transpose(1, 2)  # (h, d, c)
        offset = -0.5 * codebook.square().sum(-1).unsqueeze(1)  # (h, 1, c)
        if torch.compiler.is_compiling():
            step = n
        else:
            step = max(1, min(n, _BUDGET.get(k.device.type, _BUDGET_ELSEWHERE) // max(1, h * c)))
        codes = torch.empty(b, h, n, dtype=torch.long, device=k.device)
        buffer = torch.empty(h * step * c if n else 0, dtype=codebook.dtype, device=k.device)
        for i in range(b):
            for start in range(0, n, max(1, step)):
                stop = min(n, start + step)
                part = k[i, :, start:stop].to(codebook.dtype)
                scores = buffer[: h * (stop - start) * c].view(h, stop - start, c)
                torch.baddbmm(offset, part, centres, out=scores)
                codes[i, :, start:stop] = scores.argmax(-1)
    return codes, gather_codes(codebook, codes)


def vq_assign_plain(k: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The specification of :func:`vq_assign`: all squared distances, by their definition.

    Example:
        >>> vq_assign_plain(torch.tensor([[[[0.9]]]]), torch.tensor([[[0.0], [1.0]]]))[0]
        tensor([[[1]]])

    Source: as :func:`vq_assign`.
    """
    check_assign(k, codebook)
    differences = k.to(codebook.dtype).unsqueeze(-2) - codebook.unsqueeze(1)
    codes = differences.square().sum(-1).argmin(-1)
    return codes, gather_codes(codebook, codes)


def straight_through(k: Tensor, k_hat: Tensor) -> Tensor:
    r"""The value of k̂ with the gradient of k: k̂ + (k − sg k).

    The usual form k + sg(k̂ − k) rounds; here k − sg(k) is exactly zero, so the value is k̂ to the last bit.

    Args:
        k: keys, any shape.
        k_hat: quantized keys of the same shape; gets no gradient.

    Example:
        >>> k = torch.tensor([0.3, 0.7], requires_grad=True)
        >>> hat = straight_through(k, k.detach().round())
        >>> (hat * torch.tensor([2.0, 3.0])).sum().backward()
        >>> hat.tolist(), k.grad.tolist()
        ([0.0, 1.0], [2.0, 3.0])

    Source: https://kexue.fm/archives/9844; step D7.
    """
    if k.shape != k_hat.shape:
        raise ValueError(f"k {tuple(k.shape)} and k_hat {tuple(k_hat.shape)} must have the same shape")
    return k_hat.detach() + (k - k.detach()).to(k_hat.dtype)


class Quantized(NamedTuple):
    """What :class:`EMACodebook` makes of keys.

    ``k_hat`` has the value of the nearest codes and passes its gradient to the keys. ``codebook`` is the codebook that
    was used: it may have moved since, and attention needs the one that ``k_hat`` comes from.
    """

    k_hat: Tensor
    codes: Tensor
    commit_loss: Tensor
    codebook: Tensor


class EMACodebook(nn.Module):
    r"""A codebook for each head that follows the mean of its keys.

    In training, after the keys have been assigned,

    .. math:: m_s \leftarrow \gamma m_s + (1-\gamma)\sum_{j: z_j=s} k_j,\qquad
              N_s \leftarrow \gamma N_s + (1-\gamma)\,\#\{j: z_j=s\},\qquad C_s = m_s/\max(N_s, \epsilon)

    and the keys are drawn to their codes by the loss ‖k − sg(k̂)‖² (mean over tokens), to be added to the loss of the
    model with a small factor.

    Args:
        heads: h.
        num_codes: c.
        dim: d, the width of a key.
        decay: γ, default 0.99.
        eps: ε, the smallest count that is divided by, default 0.01.
        generator: of the first codebook, which is drawn from N(0, 1); see :meth:`init_kmeans` for a better one.

    Hazards:
        * The averages are float32 (or float64 after ``.double()``): do not turn the module into half precision.
        * With ``torch.distributed`` initialised the sums of all processes are added, so that their codebooks agree.
        * A code that is never used keeps its place while its count fades; below ε it shrinks towards zero. Give it a
          new place with :meth:`reset_unused`.

    Example:
        >>> book = EMACodebook(2, 8, 4, generator=torch.Generator().manual_seed(0))
        >>> k = torch.randn(1, 2, 50, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
        >>> k_hat, codes, loss, codebook = book(k)
        >>> bool((k_hat == vq_assign(k, codebook)[1]).all()), codes.shape
        (True, torch.Size([1, 2, 50]))

    Source: https://kexue.fm/archives/9844; Transformer-VQ, arXiv 2309.16354; chapter *vq-key-linear-attention*, D8.
    """

    codebook: Tensor
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        heads: int,
        num_codes: int,
        dim: int,
        decay: float = 0.99,
        eps: float = 0.01,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_codebook_options(heads, num_codes, dim, decay, eps)
        self.decay, self.eps = decay, eps
        start = torch.randn(heads, num_codes, dim, generator=generator)
        self.register_buffer("codebook", start)
        self.register_buffer("sums", start.clone())
        self.register_buffer("counts", torch.ones(heads, num_codes))

    def forward(self, k: Tensor) -> Quantized:
        """Quantize keys ``(b, h, n, d)``; in training the averages move afterwards."""
        codebook = self.codebook.clone() if self.training else self.codebook
        codes, k_hat = vq_assign(k, codebook)
        loss = (k.to(codebook.dtype) - k_hat).square().sum(-1).mean()
        if self.training:
            self._move(k.detach(), codes)
        return Quantized(straight_through(k, k_hat), codes, loss, codebook)

    @torch.no_grad()
    def _move(self, k: Tensor, codes: Tensor) -> None:
        counts, sums = aggregate(codes, k, self.counts.shape[1], self.sums.dtype)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts.clamp(min=self.eps).unsqueeze(-1))

    @torch.no_grad()
    def init_kmeans(self, k: Tensor, *, iterations: int = 10, generator: torch.Generator | None = None) -> None:
        """Start from k-means of keys ``(b, h, n, d)``: drawn keys first, then Lloyd's iterations.

        A code that loses all its keys stays where it was. Counts become the cluster sizes, scaled to a mean of 1.
        """
        check_assign(k, self.codebook)
        h, c, d = self.codebook.shape
        points = k.detach().transpose(0, 1).reshape(1, h, -1, d).to(self.codebook.dtype)
        for head in range(h):
            order = torch.randperm(points.shape[2], generator=generator)
            chosen = order[torch.arange(c) % len(order)].to(k.device)
            self.codebook[head] = points[0, head, chosen]
        counts = torch.ones_like(self.counts)
        for _ in range(iterations):
            codes, _ = vq_assign(points, self.codebook)
            counts, sums = aggregate(codes, points, c, self.codebook.dtype)
            used = (counts > 0).unsqueeze(-1)
            self.codebook.copy_(torch.where(used, sums / counts.clamp(min=1).unsqueeze(-1), self.codebook))
        self.counts.copy_((counts / counts.mean(-1, keepdim=True)).clamp(min=self.eps))
        self.sums.copy_(self.codebook * self.counts.unsqueeze(-1))

    @torch.no_grad()
    def reset_unused(self, k: Tensor, threshold: float = 0.01, *, generator: torch.Generator | None = None) -> Tensor:
        """Put codes whose average count is below ``threshold`` on keys drawn from ``k`` ``(b, h, n, d)``.

        Returns:
            Which codes were moved, boolean ``(h, c)``.
        """
        check_assign(k, self.codebook)
        h, c, d = self.codebook.shape
        points = k.detach().transpose(0, 1).reshape(h, -1, d).to(self.codebook.dtype)
        dead = self.counts < threshold
        drawn = torch.randint(points.shape[1], (h, c), generator=generator).to(k.device)
        fresh = points.gather(1, drawn.unsqueeze(-1).expand(-1, -1, d))
        self.codebook.copy_(torch.where(dead.unsqueeze(-1), fresh, self.codebook))
        self.counts.masked_fill_(dead, 1.0)
        self.sums.copy_(torch.where(dead.unsqueeze(-1), fresh, self.sums))
        return dead

    def perplexity(self) -> Tensor:
        """e^H of the averaged use of the codes, ``(h,)``: c if all are used alike, 1 if only one is."""
        share = self.counts / self.counts.sum(-1, keepdim=True)
        return torch.special.entr(share).sum(-1).exp()

    def extra_repr(self) -> str:
        """What ``print(module)`` shows."""
        h, c, d = self.codebook.shape
        return f"heads={h}, num_codes={c}, dim={d}, decay={self.decay:g}, eps={self.eps:g}"

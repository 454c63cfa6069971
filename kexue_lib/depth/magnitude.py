"""The magnitude of a matrix: the factor that leaves it as close to orthogonal as a factor can.

Sources: Su Jianlin, https://kexue.fm/archives/8978 (2022); Wang et al., *DeepNet*, https://arxiv.org/abs/2203.00555.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["weight_magnitude", "weight_magnitude_plain"]


def weight_magnitude(w: Tensor) -> tuple[Tensor, Tensor]:
    r"""The best λ in W = λU with U as close to orthogonal as a factor can make it, and that U.

    λ minimises :math:`\lVert WW^\top/\kappa^2 - I\rVert_F` over κ:

    .. math:: \lambda^2 = \frac{\mathrm{tr}\,[(WW^\top)^2]}{\mathrm{tr}\,WW^\top}
              = \frac{\sum_i\sigma_i^4}{\sum_i\sigma_i^2}

    with the singular values σ of W. No decomposition is computed: tr[(WWᵀ)²] is the squared norm of the smaller of the
    Gram matrices WWᵀ and WᵀW.

    Args:
        w: ``(..., n, m)``, each matrix different from zero.

    Returns:
        λ ``(...)`` and U ``(..., n, m)``, differentiable in w.

    Raises:
        ValueError: fewer than two axes, or a matrix of zeros.
        TypeError: not a floating-point tensor.

    Hazards:
        For a random matrix λ is √2 times the Xavier gain, for every shape, and U is far from orthogonal (for a square
        one, half of the squared norm of UUᵀ − I remains): steps D2.

    Example:
        >>> q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
        >>> round(weight_magnitude(3 * q)[0].item(), 12)
        3.0

    Source: https://kexue.fm/archives/8978, steps D2 and D3.
    """
    _check_matrix(w)
    # Scaled first: fourth powers leave the range of float32 below 1e-10 and above 1e9.
    largest = w.detach().abs().amax((-2, -1), keepdim=True)
    if bool((largest == 0).any()):
        raise ValueError(f"w {tuple(w.shape)} has a matrix of zeros, which has no magnitude")
    v = w / largest
    gram = v @ v.mT if v.shape[-2] <= v.shape[-1] else v.mT @ v
    second, fourth = v.square().sum((-2, -1)), gram.square().sum((-2, -1))
    lam = (fourth / second).sqrt() * largest[..., 0, 0]
    return lam, w / lam[..., None, None]


def weight_magnitude_plain(w: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`weight_magnitude` by the singular values: its specification.

    Example:
        >>> weight_magnitude_plain(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))[0]  # √((81 + 1)/(9 + 1))
        tensor(2.8636)

    Source: https://kexue.fm/archives/8978, step D2.
    """
    _check_matrix(w)
    sigma = torch.linalg.svdvals(w)
    lam = (sigma.pow(4).sum(-1) / sigma.pow(2).sum(-1)).sqrt()
    return lam, w / lam[..., None, None]


def _check_matrix(w: Tensor) -> None:
    if not isinstance(w, Tensor) or not w.is_floating_point():
        raise TypeError(f"w is {w.dtype if isinstance(w, Tensor) else type(w).__name__}; floating point is needed")
    if w.dim() < 2 or 0 in w.shape[-2:]:
        raise ValueError(f"w has shape {tuple(w.shape)}; matrices (..., n, m) are needed")

"""Flows of particles: velocities from scores, noise, and distances between samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import floating, points, positive

DIVERGENCES = ("reverse_kl", "kl", "chi2", "hellinger", "js")
"""The f-divergences ∫ q f(p/q) that :func:`wasserstein_velocity` and :func:`f_divergence` know."""


def langevin_step(
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    step: float,
    *,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""One step of unadjusted Langevin sampling.

    .. math:: x' = x + h\,\nabla\log p(x) + \sqrt{2h}\,\xi, \qquad \xi\sim N(0, I)

    Args:
        x: particles ``(n, d)`` or any other shape; not changed.
        score: ∇ log p, of the shape of x.
        step: h > 0. For a Gaussian target the walk is stable for h < 2/λ with the largest eigenvalue λ of the
            precision matrix.
        noise: ξ, of the shape of x; makes the step deterministic.
        generator: draws ξ if no noise is given; it lives on the device of x.

    Returns:
        The shape of x.

    Raises:
        ValueError: step <= 0, a score or noise of another shape.
        TypeError: x is no floating-point tensor, or step no number.

    Hazards:
        With a finite step p is not the stationary law: for N(0, 1/λ) the variance is 1/(λ(1 − λh/2)) (step D12).

    Example:
        >>> langevin_step(torch.ones(1, 2), lambda x: -x, 0.5, noise=torch.tensor([[0.0, 1.0]]))
        tensor([[0.5000, 1.5000]])

    Source: https://kexue.fm/archives/9660, steps D8 and D12.
    """
    floating("x", x)
    h = positive("step", step)
    pull = score(x)
    if pull.shape != x.shape:
        raise ValueError(f"score gives the shape {tuple(pull.shape)} for particles of shape {tuple(x.shape)}")
    if noise is None:
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    elif noise.shape != x.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, the particles {tuple(x.shape)}")
    return torch.add(x, pull, alpha=h).add(noise, alpha=(2 * h) ** 0.5)


def _divergence(name: str) -> str:
    if name not in DIVERGENCES:
        raise ValueError(f"divergence={name!r} is not known; choose one of {', '.join(map(repr, DIVERGENCES))}")
    return name


def wasserstein_velocity(divergence: str, log_ratio: Tensor, score_diff: Tensor) -> Tensor:
    r"""The velocity that moves q towards p along the Wasserstein gradient of an f-divergence.

    .. math:: v = r^2 f''(r)\,(\nabla\log p - \nabla\log q), \qquad r = p/q

    ============== ================= ==================== ===============
    divergence     f(r)              ∫ q f(p/q)           mobility r² f''
    ============== ================= ==================== ===============
    "reverse_kl"   −log r            KL(q‖p)              1
    "kl"           r log r           KL(p‖q)              r
    "chi2"         (r − 1)²          χ²                   2 r²
    "hellinger"    (√r − 1)²         squared Hellinger    √r / 2
    "js"           see source        Jensen–Shannon       r / (2(r + 1))
    ============== ================= ==================== ===============

    Args:
        divergence: a name of the table.
        log_ratio: log p − log q at the particles, ``(n,)``.
        score_diff: ∇ log p − ∇ log q there, ``(n, d)``.

    Returns:
        ``(n, d)``, differentiable.

    Raises:
        ValueError: an unknown divergence, or shapes that do not fit.
        TypeError: an argument is no floating-point tensor.

    Hazards:
        The mobility is computed from log r and not clamped: that of ``"chi2"`` is inf in float32 beyond log r = 44.
        Large mobilities make explicit steps unstable.

    Example:
        >>> wasserstein_velocity("chi2", torch.zeros(1), torch.tensor([[1.0, -3.0]]))
        tensor([[ 2., -6.]])

    Source: https://kexue.fm/archives/9660, steps D7.21 and D11.
    """
    _divergence(divergence)
    floating("log_ratio", log_ratio, "(n,)")
    floating("score_diff", score_diff, "(n, d)")
    if log_ratio.shape != score_diff.shape[:-1] or score_diff.dim() < 1:
        raise ValueError(
            f"log_ratio has shape {tuple(log_ratio.shape)}; for score_diff {tuple(score_diff.shape)} it must be "
            f"{tuple(score_diff.shape[:-1])}"
        )
    if divergence == "reverse_kl":
        return score_diff
    mobility = {
        "kl": lambda s: s.exp(),
        "chi2": lambda s: 2 * (2 * s).exp(),
        "hellinger": lambda s: (s / 2).exp() / 2,
        "js": lambda s: torch.sigmoid(s) / 2,
    }[divergence](log_ratio)
    return mobility.unsqueeze(-1) * score_diff


def f_divergence(divergence: str, log_ratio: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""The divergence :math:`\sum_i w_i\,f(r_i)` with r = p/q, from log r.

    Args:
        divergence: a name of the table of :func:`wasserstein_velocity`.
        log_ratio: log p − log q at n points, ``(..., n)``.
        weight: the mass of q at the points, ``(..., n)``; default 1/n each, for points that were drawn from q.

    Returns:
        ``(...)``, differentiable.

    Raises:
        ValueError: an unknown divergence, or shapes that do not fit.
        TypeError: an argument is no floating-point tensor.

    Hazards:
        The estimate from drawn points is good only where they cover p.

    Example:
        >>> q, p = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        >>> f_divergence("chi2", (p / q).log(), q)
        tensor(0.2500)

    Source: https://kexue.fm/archives/9660, steps D6 and D11.
    """
    _divergence(divergence)
    s = floating("log_ratio", log_ratio, "(..., n)")
    if weight is not None and floating("weight", weight, "(..., n)").shape != s.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, log_ratio {tuple(s.shape)}")
    value = {
        "reverse_kl": lambda: -s,
        "kl": lambda: s.exp() * s,
        "chi2": lambda: torch.expm1(s).square(),
        "hellinger": lambda: torch.expm1(s / 2).square(),
        "js": lambda: (s.exp() * (_LOG2 - F.softplus(-s)) + _LOG2 - F.softplus(s)) / 2,
    }[divergence]()
    return value.mean(-1) if weight is None else (weight * value).sum(-1)


_LOG2 = 0.6931471805599453


def kde_score(x: Tensor, samples: Tensor, bandwidth: float, chunk: int | None = None) -> Tensor:
    r"""The score ∇ log q of a Gaussian kernel density estimate. It is a softmax attention.

    .. math:: \nabla\log q(x) = \frac1{b^2}\Bigl(\sum_j w_j\,y_j - x\Bigr), \qquad
              w = \mathrm{softmax}_j\Bigl(-\frac{|x - y_j|^2}{2b^2}\Bigr)

    The weights are those of an attention with queries x, keys y and a bias −\|y\|²/2; one more coordinate carries the
    bias, so that the fused kernels of ``scaled_dot_product_attention`` do the work: O(n m) time, O(n + m) memory where
    such a kernel exists (CPU; GPU in float32 and below).

    Args:
        x: where the score is wanted, ``(n, d)``.
        samples: y, ``(m, d)``.
        bandwidth: b > 0, the standard deviation of the kernel.
        chunk: handle so many rows of x at once (for float64 on a GPU, where there is no fused kernel).

    Returns:
        ``(n, d)``. Differentiable in x and samples. Plain form: :func:`kde_score_plain`.

    Raises:
        ValueError: shapes do not fit, bandwidth <= 0, chunk < 1.
        TypeError: x or samples is no floating-point tensor, or bandwidth no number.

    Hazards:
        The estimate is that of a smoothed law: its bias grows like b², its noise falls with m b^d: it is for low
        dimensions. Squared distances are multiplied out: digits are lost where the spread of the data is many
        thousand bandwidths.

    Example:
        >>> kde_score(torch.tensor([[0.0], [2.0]]), torch.tensor([[-1.0], [1.0]]), 1.0).squeeze(-1).round(decimals=4)
        tensor([ 0.0000, -1.0360])

    Source: https://kexue.fm/archives/9660, claim C11.
    """
    points("x", x)
    points("samples", samples)
    b = positive("bandwidth", bandwidth)
    if x.shape[1] != samples.shape[1]:
        raise ValueError(f"x has {x.shape[1]} coordinates, samples have {samples.shape[1]}")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk={chunk!r} must be an integer >= 1")
    d = x.shape[1]
    centre = samples.detach().mean(0)  # small numbers: the products below lose fewer digits
    q, k = (x - centre) / b, (samples - centre) / b
    pad = -(d + 1) % 8 if x.is_cuda else 0  # kernels on a GPU want a multiple of eight
    keys = F.pad(torch.cat((k, -k.square().sum(-1, keepdim=True) / 2), dim=-1), (0, pad))
    values = F.pad(k, (0, pad + 1))
    queries = F.pad(F.pad(q, (0, 1), value=1.0), (0, pad))
    parts = queries.split(chunk) if chunk is not None else (queries,)
    means = [
        F.scaled_dot_product_attention(part[None, None], keys[None, None], values[None, None], scale=1.0)[0, 0, :, :d]
        for part in parts
    ]
    return ((means[0] if len(means) == 1 else torch.cat(means)) - q) / b


def kde_score_plain(x: Tensor, samples: Tensor, bandwidth: float, chunk: int | None = None) -> Tensor:
    """Plain form of :func:`kde_score`: the softmax of all squared distances, with O(n m d) memory."""
    gap = samples.unsqueeze(0) - x.unsqueeze(1)
    weights = torch.softmax(-gap.square().sum(-1) / (2 * bandwidth**2), dim=-1)
    return (weights.unsqueeze(-1) * gap).sum(1) / bandwidth**2


def wasserstein2_1d(x: Tensor, y: Tensor, *, squared: bool = False) -> Tensor:
    r"""W₂ of two samples on the line: the distance of their quantile functions.

    .. math:: W_2^2 = \int_0^1 |Q_x(u) - Q_y(u)|^2\,du

    Args:
        x: ``(..., n)``, in any order.
        y: ``(..., m)``.
        squared: give W₂² instead, whose gradient exists at distance 0 as well.

    Returns:
        ``(...)``, exact for any n and m, differentiable. Plain form: :func:`wasserstein2_1d_plain`.

    Raises:
        ValueError: an empty sample, or leading axes that do not fit.
        TypeError: an argument is no floating-point tensor.

    Example:
        >>> wasserstein2_1d(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 4.0, 3.0, 4.0]))
        tensor(3.)

    Source: https://kexue.fm/archives/9660, step D7.
    """
    for name, sample in (("x", x), ("y", y)):
        floating(name, sample, "(..., n)")
        if sample.dim() < 1 or sample.shape[-1] < 1:
            raise ValueError(f"{name} has shape {tuple(sample.shape)}; a sample needs at least one point")
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(f"the leading axes of x {tuple(x.shape)} and y {tuple(y.shape)} must agree")
    n, m = x.shape[-1], y.shape[-1]
    x, y = x.sort(-1).values, y.sort(-1).values
    if n == m:
        result = (x - y).square().mean(-1)
    else:  # both quantile functions are steps; their joint steps end at the multiples of 1/n and 1/m, in units 1/(n m)
        ends = (
            torch.cat((torch.arange(1, n + 1, device=x.device) * m, torch.arange(1, m + 1, device=x.device) * n))
            .sort()
            .values
        )
        length = torch.diff(ends, prepend=ends.new_zeros(1))
        at_x, at_y = (ends - 1) // m, (ends - 1) // n
        gap = x.index_select(-1, at_x) - y.index_select(-1, at_y)
        result = (gap.square() * length.to(x.dtype)).sum(-1) / (n * m)
    return result if squared else result.sqrt()


def wasserstein2_1d_plain(x: Tensor, y: Tensor, *, squared: bool = False) -> Tensor:
    """Plain form of :func:`wasserstein2_1d`: every point is repeated until both samples have n·m points."""
    n, m = x.shape[-1], y.shape[-1]
    x, y = x.repeat_interleave(m, -1).sort(-1).values, y.repeat_interleave(n, -1).sort(-1).values
    result = (x - y).square().mean(-1)
    return result if squared else result.sqrt()


def sliced_wasserstein2(
    x: Tensor,
    y: Tensor,
    *,
    projections: Tensor | int = 64,
    generator: torch.Generator | None = None,
    squared: bool = False,
) -> Tensor:
    r"""The sliced W₂: the root mean square of W₂ over projections to lines.

    Args:
        x: ``(n, d)``.
        y: ``(m, d)``.
        projections: unit vectors ``(k, d)``, or how many to draw.
        generator: draws them.
        squared: give the square instead.

    Returns:
        A tensor with no axis, differentiable.

    Raises:
        ValueError: shapes do not fit, or projections < 1.
        TypeError: x or y is no floating-point tensor.

    Hazards:
        It is not larger than W₂, and in d dimensions smaller by about √d.

    Example:
        >>> x = torch.zeros(3, 2)
        >>> sliced_wasserstein2(x, x + torch.tensor([3.0, 0.0]), projections=torch.eye(2), squared=True)
        tensor(4.5000)

    Source: Rabin, Peyré, Delon and Bernot 2011; used by the full run of the chapter *gradient-flow*.
    """
    points("x", x)
    points("y", y)
    d = x.shape[1]
    if y.shape[1] != d:
        raise ValueError(f"x has {d} coordinates, y has {y.shape[1]}")
    directions: Any = projections
    if not isinstance(directions, Tensor):
        if isinstance(directions, bool) or not isinstance(directions, int) or directions < 1:
            raise ValueError(f"projections={projections!r} must be an integer >= 1 or a tensor (k, d)")
        directions = torch.randn(directions, d, dtype=x.dtype, device=x.device, generator=generator)
        directions = directions / directions.norm(dim=-1, keepdim=True)
    elif directions.dim() != 2 or directions.shape[1] != d:
        raise ValueError(f"projections have shape {tuple(directions.shape)}, not (k, {d})")
    result = wasserstein2_1d(directions @ x.mT, directions @ y.mT, squared=True).mean()
    return result if squared else result.sqrt()

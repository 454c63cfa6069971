r"""How deep a residual network really is: path lengths, the change along the stream, and sublayers side by side.

A stack of M branches is a sum over :math:`2^M` paths: each branch is either taken or passed by. How long the typical
path is, how much a branch changes what the next one sees, and what happens if two neighbours get the same input, are
three ways to ask how much of the depth is depth.

* the law of the paths: :func:`branch_weights`, :func:`path_lengths`, :func:`effective_depth` (and plain forms),
* the stream: :func:`stream_statistics` (and its plain form).

Neighbours side by side are in :mod:`kexue_lib.depth.merging`.

Sources: Su Jianlin, https://kexue.fm/archives/9009 (2022); Veit et al., https://arxiv.org/abs/1605.06431 (paths).
The steps D1–D5 are those of the chapter *pre-norm-vs-post-norm*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "STACK_MODES",
    "StreamStatistics",
    "branch_weights",
    "effective_depth",
    "effective_depth_plain",
    "path_lengths",
    "path_lengths_plain",
    "stream_statistics",
    "stream_statistics_plain",
]

STACK_MODES = ("pre", "post")
"""The places of the norm that this module knows; DeepNorm is ``"post"`` with its own α."""


# --- the law of the path lengths -------------------------------------------------------------------------------------


def branch_weights(
    n_branches: int, mode: str = "pre", *, alpha: float = 1.0, gain: float = 1.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Mean square of each branch over that of the stream it is added to, for random branches at the start of training.

    ========== ========================================================= ======================
    mode       :math:`w_t`, t = 1 … M, branches of RMS λ²                with α = λ = 1
    ========== ========================================================= ======================
    ``"pre"``  λ⁴/(α²R_t) with R_1 = 1 and R_{t+1} = α²R_t + λ⁴          1/t
    ``"post"`` λ⁴/α²: the norm starts every branch afresh                1
    ========== ========================================================= ======================

    Args:
        n_branches: M, two for each layer of a Transformer.
        mode: place of the norm.
        alpha: α, the weight of the stream.
        gain: λ, the factor on the two initial matrices of a branch.
        dtype: of the result.

    Returns:
        w, ``(M,)``, on the CPU.

    Raises:
        ValueError: M < 1, an unknown mode, α or λ not positive.

    Hazards:
        Branches are taken as independent, with mean zero and one size. A trained network has others: measure them.

    Example:
        >>> branch_weights(4), branch_weights(2, "post", alpha=2.0)
        (tensor([1.0000, 0.5000, 0.3333, 0.2500], dtype=torch.float64), tensor([0.2500, 0.2500], dtype=torch.float64))

    Source: the chapter *pre-norm-vs-post-norm*, step D4.
    """
    if isinstance(n_branches, bool) or not isinstance(n_branches, int) or n_branches < 1:
        raise ValueError(f"n_branches={n_branches!r} is not allowed; allowed: an integer >= 1")
    check_mode(mode)
    for name, value in (("alpha", alpha), ("gain", gain)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value!r} is not allowed; allowed: a finite number > 0")
    size = gain**4 / alpha**2
    if mode == "post":
        return torch.full((n_branches,), size, dtype=dtype)
    weights, stream = [], 1.0
    for _ in range(n_branches):  # α²R may reach infinity for α > 1: then w is 0, as it should be
        weights.append(size / stream)
        stream = alpha**2 * stream + gain**4
    return torch.tensor(weights, dtype=dtype)


def path_lengths(weights: Tensor) -> Tensor:
    r"""How much of the output's mean square comes over paths of each length.

    The generating function of the lengths is a product, one factor for each branch:

    .. math:: \sum_k P_k q^k = \prod_t \frac{1 + q\,w_t}{1 + w_t}

    The factors are multiplied in pairs, then the products in pairs: log₂ M steps. All terms are positive, so that even
    the smallest :math:`P_k` keeps its relative accuracy, which a Fourier transform would lose.

    Args:
        weights: w, ``(..., M)``, finite and ≥ 0.

    Returns:
        P, ``(..., M + 1)``, with the sum 1; differentiable in w. Memory: M²/2 numbers for each row.

    Raises:
        ValueError: no branch, or a weight that is negative or not finite.
        TypeError: not a floating-point tensor.

    Example:
        >>> path_lengths(torch.tensor([1.0, 1.0]))  # two Post Norm sublayers: 1, 2 and 1 paths
        tensor([0.2500, 0.5000, 0.2500])

    Source: the chapter *pre-norm-vs-post-norm*, step D4.
    """
    _check_weights(weights)
    count = weights.shape[-1]
    skip = 1 / (1 + weights)
    factors = torch.stack((skip, weights * skip), -1)
    while factors.shape[-2] > 1:
        if factors.shape[-2] % 2:  # a factor 1 makes the number even
            factors = F.pad(factors, (0, 0, 0, 1))
            one = torch.zeros_like(factors[..., -1:, :])
            one[..., 0] = 1
            factors = torch.cat((factors[..., :-1, :], one), -2)
        a, b = factors[..., 0::2, :], factors[..., 1::2, :]
        n = a.shape[-1]
        windows = F.pad(b, (n - 1, n - 1)).unfold(-1, n, 1)  # row k: b_{k-n+1} … b_k
        with torch.autocast(weights.device.type, enabled=False):
            factors = (windows @ a.flip(-1).unsqueeze(-1)).squeeze(-1)
    return factors[..., 0, : count + 1]


def path_lengths_plain(weights: Tensor) -> Tensor:
    """:func:`path_lengths`, one branch after the other: its specification.

    Example:
        >>> path_lengths_plain(torch.tensor([1.0, 0.5]))
        tensor([0.3333, 0.5000, 0.1667])

    Source: the chapter *pre-norm-vs-post-norm*, step D4.
    """
    _check_weights(weights)
    law = torch.ones_like(weights[..., :1])
    for w in weights.unbind(-1):
        w = w.unsqueeze(-1)
        law = (F.pad(law, (0, 1)) + w * F.pad(law, (1, 0))) / (1 + w)
    return law


def effective_depth(weights: Tensor) -> Tensor:
    r"""The mean path length, :math:`\sum_t \frac{w_t}{1 + w_t}`.

    Args:
        weights: w, ``(..., M)``, finite and ≥ 0, such as those of :func:`branch_weights` or measured ones.

    Returns:
        ``(...)``, between 0 and M; differentiable in w.

    Raises:
        ValueError, TypeError: as :func:`path_lengths`.

    Example:
        >>> pre, post = (float(effective_depth(branch_weights(96, mode))) for mode in ("pre", "post"))
        >>> round(pre, 2), round(post, 2)  # 48 layers
        (4.16, 48.0)

    Source: the chapter *pre-norm-vs-post-norm*, step D4.
    """
    _check_weights(weights)
    return (weights / (1 + weights)).sum(-1)


def effective_depth_plain(weights: Tensor) -> Tensor:
    """:func:`effective_depth` as the mean of :func:`path_lengths_plain`: its specification.

    Example:
        >>> effective_depth_plain(torch.tensor([1.0, 1.0, 1.0, 1.0]))
        tensor(2.)

    Source: the chapter *pre-norm-vs-post-norm*, step D4.
    """
    law = path_lengths_plain(weights)
    return (law * torch.arange(law.shape[-1], dtype=law.dtype, device=law.device)).sum(-1)


# --- the stream ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StreamStatistics:
    r"""What :func:`stream_statistics` finds, for a stream :math:`x_0, \dots, x_M`.

    Attributes:
        mean_square: of the entries of :math:`x_t`, ``(M + 1, ...)``.
        relative_change: :math:`\lVert x_{t+1} - x_t\rVert / \lVert x_t\rVert` over all vectors at once, ``(M, ...)``.
        cosine: mean over the vectors of the cosine between :math:`x_t` and :math:`x_{t+1}`, ``(M, ...)``.
        input_change: root mean square of :math:`\mathrm{LN}(x_{t+1}) - \mathrm{LN}(x_t)`, ``(M, ...)``: how differently
            two neighbouring branches of a Pre Norm stack are fed.
    """

    mean_square: Tensor
    relative_change: Tensor
    cosine: Tensor
    input_change: Tensor


def stream_statistics(stream: Tensor, *, keep: int = 0) -> StreamStatistics:
    """Size of a residual stream, and how it changes from one sublayer to the next.

    Args:
        stream: ``(M + 1, ..., d)`` with M ≥ 1, such as :meth:`kexue_lib.lab.stacks.DeepStack.stream` gives.
        keep: that many axes after the first are not averaged over: 1 for a stream of several networks.

    Returns:
        see :class:`StreamStatistics`; half precision is taken up to float32.

    Raises:
        ValueError: fewer than two axes or two places, or a ``keep`` that leaves no vectors.
        TypeError: not a floating-point tensor.

    Example:
        >>> found = stream_statistics(torch.tensor([[[3.0, 4.0]], [[6.0, 8.0]]]))
        >>> found.mean_square, found.relative_change, found.cosine
        (tensor([12.5000, 50.0000]), tensor([1.]), tensor([1.]))

    Source: https://kexue.fm/archives/9009; step D2.
    """
    x = check_stream(stream, keep)
    x = x.flatten(1 + keep, -2) if x.dim() > 2 + keep else x.unsqueeze(-2)
    normed = F.layer_norm(x, x.shape[-1:])
    count = x.shape[-2] * x.shape[-1]
    length = torch.linalg.vector_norm(x, dim=-1)
    size = torch.linalg.vector_norm(length, dim=-1)
    change = torch.linalg.vector_norm(x[1:] - x[:-1], dim=(-2, -1))
    seen = torch.linalg.vector_norm(normed[1:] - normed[:-1], dim=(-2, -1))
    cosine = torch.linalg.vecdot(x[1:], x[:-1]) / (length[1:] * length[:-1])
    return StreamStatistics(size.square() / count, change / size[:-1], cosine.mean(-1), seen / math.sqrt(count))


def stream_statistics_plain(stream: Tensor, *, keep: int = 0) -> StreamStatistics:
    """:func:`stream_statistics`, place by place and vector by vector: its specification.

    Example:
        >>> stream_statistics_plain(torch.tensor([[3.0, 4.0], [3.0, 4.0]])).relative_change
        tensor([0.])

    Source: https://kexue.fm/archives/9009; step D2.
    """
    x = check_stream(stream, keep)
    if keep:
        rows = [stream_statistics_plain(x[:, e], keep=keep - 1) for e in range(x.shape[1])]
        names = ("mean_square", "relative_change", "cosine", "input_change")
        return StreamStatistics(*(torch.stack([getattr(row, name) for row in rows], 1) for name in names))
    places = [list(here.reshape(-1, x.shape[-1])) for here in x]
    sizes = [torch.stack([v.square().mean() for v in here]).mean() for here in places]
    found: list[list[Tensor]] = [[], [], []]
    for t, (here, after) in enumerate(pairwise(places)):
        pairs = list(zip(here, after, strict=True))
        change = torch.stack([(b - a).square().mean() for a, b in pairs]).mean()
        seen = torch.stack([(_norm_plain(b) - _norm_plain(a)).square().mean() for a, b in pairs]).mean()
        found[0].append((change / sizes[t]).sqrt())
        found[1].append(torch.stack([(a * b).sum() / (a.norm() * b.norm()) for a, b in pairs]).mean())
        found[2].append(seen.sqrt())
    return StreamStatistics(torch.stack(sizes), *(torch.stack(part) for part in found))


def _norm_plain(v: Tensor) -> Tensor:
    centred = v - v.mean()
    return centred / (centred.square().mean() + 1e-5).sqrt()


# --- checks ----------------------------------------------------------------------------------------------------------


def check_mode(mode: str) -> None:
    if mode not in STACK_MODES:
        raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(map(repr, STACK_MODES))}")


def _check_weights(weights: Tensor) -> None:
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        kind = weights.dtype if isinstance(weights, Tensor) else type(weights).__name__
        raise TypeError(f"weights is {kind}; a floating-point tensor is needed")
    if weights.dim() == 0 or weights.shape[-1] == 0:
        raise ValueError(f"weights {tuple(weights.shape)} must be (..., M) with M >= 1")
    if not torch.compiler.is_compiling() and not bool(((weights >= 0) & (weights < math.inf)).all()):
        wrong = weights[~((weights >= 0) & (weights < math.inf))][0].item()
        raise ValueError(f"weights has the entry {wrong}; allowed: finite numbers >= 0")


def check_stream(stream: Tensor, keep: int) -> Tensor:
    if not isinstance(stream, Tensor) or not stream.is_floating_point():
        kind = stream.dtype if isinstance(stream, Tensor) else type(stream).__name__
        raise TypeError(f"stream is {kind}; a floating-point tensor is needed")
    if stream.dim() < 2 or len(stream) < 2 or 0 in stream.shape:
        raise ValueError(f"stream {tuple(stream.shape)} must be (M + 1, ..., d) with M >= 1")
    if isinstance(keep, bool) or not isinstance(keep, int) or not 0 <= keep <= stream.dim() - 2:
        raise ValueError(f"keep={keep!r} is not allowed; allowed: 0 … {stream.dim() - 2} for {tuple(stream.shape)}")
    return stream.float() if stream.dtype in (torch.float16, torch.bfloat16) else stream

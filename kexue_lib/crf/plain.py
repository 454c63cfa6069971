"""The plain forms: all k^n paths, one by one. They are the specification."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .checks import _check

__all__ = ["crf_log_partition_plain", "crf_marginals_plain", "crf_paths_plain", "crf_viterbi_plain"]


def crf_paths_plain(
    emissions: Tensor, transitions: Tensor, start: Tensor | None = None, end: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """All k^n paths ``(k^n, n)`` and their scores ``(b, k^n)``, for sentences without padding.

    Args:
        emissions, transitions, start, end: as in :func:`crf_log_partition`, k^n ≤ 2^20.

    Raises:
        ValueError: too many paths; wrong shapes.

    Example:
        >>> crf_paths_plain(torch.zeros(1, 2, 2), torch.tensor([[0.0, 1.0], [2.0, 3.0]]))
        (tensor([[0, 0],
                [0, 1],
                [1, 0],
                [1, 1]]), tensor([[0., 1., 2., 3.]]))
    """
    _check(emissions, transitions, None, start, end)
    _, n, k = emissions.shape
    if k**n > 2**20:
        raise ValueError(f"{k} tags at {n} places give {k}^{n} paths; the plain form looks at 2^20 at most")
    paths = torch.tensor(list(itertools.product(range(k), repeat=n)), device=emissions.device)
    places = torch.arange(n, device=emissions.device)
    scores = emissions[:, places, paths].sum(-1) + transitions[paths[:, :-1], paths[:, 1:]].sum(-1)
    if start is not None:
        scores = scores + start[paths[:, 0]]
    if end is not None:
        scores = scores + end[paths[:, -1]]
    return paths, scores


def _sentences(emissions: Tensor, mask: Tensor | None) -> list[Tensor]:
    if mask is None:
        return [h[None] for h in emissions]
    return [h[keep][None] for h, keep in zip(emissions, mask, strict=True)]


def crf_log_partition_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> Tensor:
    """:func:`crf_log_partition` by its definition: a logsumexp over all k^n paths.

    Example:
        >>> crf_log_partition_plain(torch.zeros(1, 3, 2), torch.zeros(2, 2)).exp()
        tensor([8.])
    """
    scores = [crf_paths_plain(h, transitions, start, end)[1] for h in _sentences(emissions, mask)]
    return torch.cat([torch.logsumexp(s, dim=1) for s in scores])


def crf_marginals_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`crf_marginals` with ``pairwise``, by adding up the probabilities of all paths.

    Example:
        >>> crf_marginals_plain(torch.zeros(1, 2, 2), torch.zeros(2, 2))[0]
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    b, n, k = emissions.shape
    unary, pairs = emissions.new_zeros(b, n, k), emissions.new_zeros(b, n - 1, k, k)
    for row, h in enumerate(_sentences(emissions, mask)):
        paths, scores = crf_paths_plain(h, transitions, start, end)
        weights = torch.softmax(scores[0], 0)
        for t in range(h.shape[1]):
            for i in range(k):
                unary[row, t, i] = weights[paths[:, t] == i].sum()
                for j in range(k if t else 0):
                    pairs[row, t - 1, i, j] = weights[(paths[:, t - 1] == i) & (paths[:, t] == j)].sum()
    return unary, pairs


def crf_viterbi_plain(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`crf_viterbi` by looking at all paths.

    Example:
        >>> crf_viterbi_plain(torch.tensor([[[0.0, 1.0], [0.0, 2.0]]]), torch.tensor([[0.0, 0.0], [0.0, -3.0]]))
        (tensor([[0, 1]]), tensor([2.]))
    """
    tags = torch.full(emissions.shape[:2], -1, device=emissions.device)
    best = []
    for row, h in enumerate(_sentences(emissions, mask)):
        paths, scores = crf_paths_plain(h, transitions, start, end)
        top = scores[0].max(0)
        tags[row, : h.shape[1]] = paths[top.indices]
        best.append(top.values)
    return tags, torch.stack(best)

"""The best path, and exact draws of paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import _check, _no_autocast, _prepared, _reversal, _turned
from .gradient import _SMALL
from .recursions import _forward_scores, _levels, _log_product, _max_product, _steps
from .scores import _score

__all__ = ["crf_sample", "crf_viterbi"]

_Noise = Callable[..., Tensor]


def _paths(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """The best path (no noise), or draws of paths: (s, b, n) with s = 1 or the number of draws, −1 at padding."""
    tree = h.shape[0] * h.shape[2] ** 3 <= _SMALL if h.device.type == "cpu" else h.shape[2] <= 16
    tags = (_paths_by_tree if tree else _paths_by_loop)(h, A, mask, start, end, noise)
    return tags if mask is None else tags.masked_fill(~mask, -1)


def _paths_by_tree(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """Both ends first, then the tag in the middle given its neighbours, level by level down the tree."""
    b, n, k = h.shape
    steps, order = _steps(h, A, mask, log=True)
    levels = _levels(steps, b, _max_product if noise is None else _log_product)
    first = h[:, 0] if start is None else h[:, 0] + start
    root = first.T[:, None] + levels[-1]
    root = (root if end is None else root + end[:, None]).flatten(0, 1).T  # (b, k·k)
    ends = (root[None] if noise is None else root + noise(b, k * k)).argmax(-1)
    left_tag, right_tag = ends // k, ends % k  # (s, nodes·b)
    tags = [left_tag]
    for level in levels[-2::-1]:
        left, right = level.chunk(2, dim=2)
        at = torch.arange(left.shape[2], device=h.device)
        scores = left[left_tag, :, at] + right.transpose(0, 1)[right_tag, :, at]
        middle = (scores if noise is None else scores + noise(len(at), k)).argmax(-1)
        left_tag, right_tag = torch.cat((left_tag, middle), 1), torch.cat((middle, right_tag), 1)
    by_time = right_tag.unflatten(1, (-1, b))[:, torch.argsort(order)[: n - 1]]
    return torch.cat((tags[0][:, None], by_time), 1).transpose(1, 2)


def _paths_by_loop(
    h: Tensor, A: Tensor, mask: Tensor | None, start: Tensor | None, end: Tensor | None, noise: _Noise | None
) -> Tensor:
    """From the last place to the first: y_t = argmax_i (value_t(i) + A[i, y_{t+1}] (+ noise))."""
    b, n, k = h.shape
    columns = A.T.contiguous()  # [to, from]
    if noise is None:
        places = h.unbind(1)
        best = places[0] if start is None else places[0] + start
        table = [best]
        for place in places[1:]:
            best = (best[:, None, :] + columns).amax(-1) + place
            table.append(best)
        values = torch.stack(table, 1)
    else:
        values = torch.stack(_forward_scores(h, A, None, start), 1)
    # Turned round, each sentence begins with its last place, and what stands after the end is never read.
    index = _reversal(mask, b, n, h.device)
    backwards = _turned(values, index).transpose(0, 1).unbind(0)
    scores = (backwards[0] if end is None else backwards[0] + end)[None]
    path: list[Tensor] = []
    for t in range(n):
        if t:
            scores = F.embedding(path[-1], columns) + backwards[t]
        path.append((scores if noise is None else scores + noise(b, k)).argmax(-1))
    tags = torch.stack(path, -1)
    return tags.gather(-1, index.expand_as(tags))


def crf_viterbi(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The path with the highest score: step D1 with (max, +) in place of (logsumexp, +) (step D3).

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.

    Returns:
        the tags ``(b, n)`` int64, −1 at padding, and their scores ``(b,)``. Of several best paths one is given. Tensors
        only, on the device; nothing is differentiated.

    Raises:
        ValueError, TypeError: as :func:`crf_log_partition`.

    Example:
        >>> h = torch.tensor([[[0.0, 1.0], [0.0, 2.0]]])
        >>> crf_viterbi(h, torch.tensor([[0.0, 0.0], [0.0, -3.0]]))  # 1 → 1 costs too much
        (tensor([[0, 1]]), tensor([2.]))

    Source: chapter *crf-learning-rate*, step D3.
    """
    _check(emissions, transitions, mask, start, end)
    with torch.no_grad(), _no_autocast(emissions):
        h, A, a, z = _prepared(emissions, transitions, mask, start, end)
        tags = _paths(h, A, mask, a, z, None)[0]
        return tags, _score(h, A, tags.clamp(min=0), mask, a, z)


def crf_sample(
    emissions: Tensor,
    transitions: Tensor,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Independent draws from p(y) = e^{S(y)}/Z, exact: no chain has to burn in.

    The sums over beginnings are computed once. Then the last tag is drawn, and from right to left each tag given its
    successor, :math:`p(y_t = i \mid y_{t+1} = j) \propto e^{\alpha_t(i) + A_{ij}}`. For few tags a tree does the same
    in about log₂ n steps: both ends first, then the tag in the middle given both, and so on. A draw is the argmax of
    the scores plus Gumbel noise, so the walk is that of Viterbi.

    Args:
        emissions, transitions, mask, start, end: as in :func:`crf_log_partition`.
        samples: number s of draws for each sentence, ≥ 1.
        generator: the source of randomness; its device may differ from that of the emissions.

    Returns:
        ``(s, b, n)`` int64, −1 at padding.

    Raises:
        ValueError: samples < 1; otherwise as :func:`crf_log_partition`.

    Example:
        >>> y = crf_sample(torch.zeros(1, 3, 2), torch.tensor([[9.0, 0.0], [0.0, 9.0]]), samples=4,
        ...                generator=torch.Generator().manual_seed(0))
        >>> y.shape, bool((y[..., 1:] == y[..., :-1]).all())
        (torch.Size([4, 1, 3]), True)

    Source: chapter *crf-learning-rate*, step D2 (the conditional probabilities).
    """
    _check(emissions, transitions, mask, start, end)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples={samples!r} must be an integer >= 1")
    with torch.no_grad(), _no_autocast(emissions):
        h, A, a, z = _prepared(emissions, transitions, mask, start, end)
        at = h.device if generator is None else generator.device

        def noise(*shape: int) -> Tensor:
            wait = torch.empty(samples, *shape, dtype=h.dtype, device=at).exponential_(generator=generator)
            return wait.to(h.device).log_().neg_()  # Gumbel

        return _paths(h, A, mask, a, z, noise)

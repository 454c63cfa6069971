"""Frequencies for texts k times as long as those of the training: the RoPE family.

Pair m = 1, …, L (L = dim / 2) turns by θ_m = base^{−2(m−1)/dim} per position. As digits of a position, m = 1 is the
lowest digit and the fastest pair. A method replaces θ_m by s_m θ_m; :func:`scale_rope` lists the s_m.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

__all__ = [
    "ROPE_METHODS",
    "PhaseCoverage",
    "dynamic_ntk_factor",
    "phase_coverage",
    "scale_rope",
    "scale_rope_plain",
    "yarn_temperature",
]

ROPE_METHODS = ("pi", "ntk", "ntk_aware", "ntk_fixed", "ntk_mixed", "yarn", "yarn_pairs", "llama3")
"""The methods that :func:`scale_rope` knows."""

_RAMPS = {"yarn": (1.0, 32.0), "yarn_pairs": (1.0, 32.0), "llama3": (1.0, 4.0)}
_Number = TypeVar("_Number", float, Tensor)


def _check_frequencies(name: str, inv_freq: Any) -> None:
    if not isinstance(inv_freq, Tensor):
        raise TypeError(f"{name} is a {type(inv_freq).__name__}, not a tensor (dim / 2,)")
    if inv_freq.dim() != 1 or inv_freq.shape[0] < 1:
        raise ValueError(f"{name} has shape {tuple(inv_freq.shape)}, not (dim / 2,)")
    if inv_freq.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} has dtype {inv_freq.dtype}; frequencies need float32 or float64")


def _check_length(name: str, value: Any) -> None:
    if value is None or isinstance(value, (bool, Tensor)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be a positive number of tokens")


def _check_factor(factor: Any) -> None:
    if isinstance(factor, Tensor):  # its value is not looked at: that would stop a GPU
        if factor.dim() or not factor.is_floating_point():
            raise ValueError(f"factor {tuple(factor.shape)} {factor.dtype} must be a number or a floating () tensor")
    elif isinstance(factor, bool) or not 1 <= factor < math.inf:
        raise ValueError(f"factor={factor!r} must be a number >= 1: how many times longer the texts become")


def _check_method(
    inv_freq: Any, factor: Any, method: Any, b: Any, train_len: Any, low: Any, high: Any
) -> tuple[float, float]:
    """Refuses what scale_rope refuses; returns the ends of the ramp."""
    _check_frequencies("inv_freq", inv_freq)
    _check_factor(factor)
    if method not in ROPE_METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(map(repr, ROPE_METHODS))}")
    if method == "ntk_mixed" and (isinstance(b, bool) or not 0 <= b <= 1):
        raise ValueError(f"b={b!r} must lie in [0, 1]: outside, some digits would shrink instead of grow")
    if method in ("ntk_aware", "yarn_pairs") and inv_freq.shape[0] < 2:
        raise ValueError(f"method={method!r} needs dim > 2: it compares the slowest pair with the fastest")
    if method not in _RAMPS:
        return 0.0, 0.0
    if train_len is None:
        raise ValueError(f"method={method!r} needs train_len: it asks which pairs finish a turn within it")
    _check_length("train_len", train_len)
    low = _RAMPS[method][0] if low is None else low
    high = _RAMPS[method][1] if high is None else high
    if not 0 < low < high < math.inf:
        raise ValueError(f"low={low!r}, high={high!r} must be numbers of turns with 0 < low < high")
    return float(low), float(high)


def scale_rope(
    inv_freq: Tensor,
    factor: float | Tensor,
    method: str,
    *,
    b: float = 0.625,
    train_len: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    r"""The frequencies s_m θ_m with which a model that was trained at length N reads k N tokens.

    With k = ``factor``, N = ``train_len``, L = len(inv_freq) = dim/2 and m = 1, …, L (m = 1 the fastest pair):

    ============== =========================== ========================================================================
    method         s_m                         what it is
    ============== =========================== ========================================================================
    ``pi``         1/k                         position interpolation: all positions divided by k
    ``ntk``        k^{−(m−1)/L}                base → base·k ("NTK-RoPE-old" in the post)
    ``ntk_aware``  k^{−(m−1)/(L−1)}            base → base·k^{dim/(dim−2)}: the slowest pair as with ``pi``
    ``ntk_fixed``  k^{−m/L}                    each of the L digits has a radix k^{1/L} times larger
    ``ntk_mixed``  k^{−(m/L)^b}                mixed radix: the low digits grow more; b = 1 is ``ntk_fixed``, b = 0
                                               is ``pi``
    ``yarn``       γ_m + (1 − γ_m)/k           γ = clip((r_m − low)/(high − low), 0, 1) of the turns r_m = N θ_m/2π;
                                               low = 1, high = 32 (YaRN's paper)
    ``llama3``     as ``yarn``                 the same formula with high = 4 (Llama 3.1)
    ``yarn_pairs`` γ_m + (1 − γ_m)/k           γ falls linearly in m, from 1 at the pair that makes ``high`` turns
                                               (rounded down) to 0 at the one that makes ``low`` (rounded up): the
                                               ramp of YaRN's published code
    ============== =========================== ========================================================================

    ``ntk`` and ``ntk_aware`` leave the fastest pair alone. ``ntk_fixed`` has m where ``ntk`` has m − 1: a factor of
    k^{−1/L} for every pair.

    Args:
        inv_freq: θ ``(dim/2,)``, float32 or float64, falling (:func:`rope_inv_freq`).
        factor: k ≥ 1, a number, or a ``()`` tensor (its value is not checked; gradients reach it).
        method: one of :data:`ROPE_METHODS`.
        b: of ``ntk_mixed``, in [0, 1]; the post's 0.625 was found by bisection on one model.
        train_len: N, needed by ``yarn``, ``yarn_pairs`` and ``llama3``, ignored by the others.
        low, high: ends of the ramp in turns, 0 < low < high; defaults in the table. For N of some hundreds few pairs
            make 32 turns and ``yarn`` is nearly ``pi``: choose a smaller ``high``.

    Returns:
        ``(dim/2,)``, the dtype and device of ``inv_freq``. factor = 1 returns its values unchanged.

    Raises:
        ValueError: an unknown method, factor < 1, b outside [0, 1], a ramp without ``train_len``, ``ntk_aware`` and
            ``yarn_pairs`` with dim = 2, low ≥ high.

    Hazards:
        * "NTK" is used for ``ntk`` and for ``ntk_aware`` in the wild.
        * If k changes while a text is generated (:func:`dynamic_ntk_factor`), keys that were cached after rotation no
          longer fit: cache them before rotation or keep k.
        * The ramps of YaRN's paper (``yarn``) and of its code (``yarn_pairs``, which is ``rope_type="yarn"`` of
          ``transformers``) agree outside only: with dim = 128, base = 10000, N = 4096, k = 16 the frequencies of the
          code are up to 3 times those of the paper; 24 of 64 pairs differ by more than 1 %.
        * YaRN also multiplies q and k by :func:`yarn_temperature`; ``llama3`` does not.

    Example:
        >>> theta = torch.tensor([1.0, 0.1, 0.01, 0.001])                # dim = 8, base 10000
        >>> for method in ("pi", "ntk", "ntk_aware", "ntk_fixed"):
        ...     print(method, scale_rope(theta, 16, method) / theta)
        pi tensor([0.0625, 0.0625, 0.0625, 0.0625])
        ntk tensor([1.0000, 0.5000, 0.2500, 0.1250])
        ntk_aware tensor([1.0000, 0.3969, 0.1575, 0.0625])
        ntk_fixed tensor([0.5000, 0.2500, 0.1250, 0.0625])

    Source: https://kexue.fm/archives/9706 (``ntk`` to ``ntk_mixed``), steps D4–D8; PI,
    https://arxiv.org/abs/2306.15595; YaRN, https://arxiv.org/abs/2309.00071, section 3.2.
    """
    low, high = _check_method(inv_freq, factor, method, b, train_len, low, high)
    pairs = inv_freq.shape[0]
    if isinstance(factor, Tensor):
        factor = factor.to(inv_freq.device, inv_freq.dtype)
    if method == "pi":
        return inv_freq / factor
    if method in _RAMPS:
        assert train_len is not None  # checked
        ramp = _pair_ramp if method == "yarn_pairs" else _turn_ramp
        kept = ramp(inv_freq, train_len, low, high)
        # Not kept + (1 - kept)/k: at k = 1 that may be 1 + 1 ulp.
        return inv_freq * (1 / factor + kept * (1 - 1 / factor))
    m = torch.arange(1, pairs + 1, device=inv_freq.device, dtype=inv_freq.dtype)
    if method == "ntk":
        exponent = (m - 1) / pairs
    elif method == "ntk_aware":
        exponent = (m - 1) / (pairs - 1)
    elif method == "ntk_fixed":
        exponent = m / pairs
    else:
        exponent = (m / pairs) ** b
    return inv_freq * factor**-exponent


def _turn_ramp(inv_freq: Tensor, train_len: float, low: float, high: float) -> Tensor:
    """γ of YaRN's paper: linear in the number of turns within the trained length."""
    turns = inv_freq * (train_len / (2 * math.pi))
    return ((turns - low) / (high - low)).clamp(0, 1)


def _pair_ramp(inv_freq: Tensor, train_len: float, low: float, high: float) -> Tensor:
    """γ of YaRN's code: linear in the index of the pair, between whole indices. Frequencies have to be geometric."""
    pairs = inv_freq.shape[0]
    theta = inv_freq.double()  # a rounding error must not carry an index over a whole number
    log_ratio = (theta[0] / theta[-1]).log() / (pairs - 1)

    def index(turns: float) -> Tensor:
        return (theta[0] * (train_len / (2 * math.pi * turns))).log() / log_ratio

    first = index(high).floor().clamp(min=0)
    # The code bounds the last index by dim − 1, though there are dim / 2 pairs.
    last = index(low).ceil().clamp(max=2 * pairs - 1)
    width = last - first
    width = torch.where(width == 0, 0.001, width)
    i = torch.arange(pairs, device=inv_freq.device)
    return (1 - ((i - first) / width).clamp(0, 1)).to(inv_freq.dtype)


def scale_rope_plain(
    inv_freq: Tensor,
    factor: float | Tensor,
    method: str,
    *,
    b: float = 0.625,
    train_len: float | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    r"""The specification of :func:`scale_rope`, digit by digit: θ_m is divided by the λ_1, λ_2, … of its radices.

    The number system of the post: digit m has the radix β λ_m and the phase n / (β^{m−1} λ_1⋯λ_m) (``ntk`` and
    ``ntk_aware`` forget the last factor), with Π λ_m = k. The ramps go by cases.

    Example:
        >>> theta = torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64)
        >>> torch.allclose(scale_rope_plain(theta, 8.0, "ntk_mixed"), scale_rope(theta, 8.0, "ntk_mixed"))
        True

    Source: https://kexue.fm/archives/9706; step D7.
    """
    low, high = _check_method(inv_freq, factor, method, b, train_len, low, high)
    pairs = inv_freq.shape[0]
    scaled = []
    if method in _RAMPS:
        assert train_len is not None  # checked
        if method == "yarn_pairs":
            fastest, slowest = float(inv_freq[0].detach()), float(inv_freq[-1].detach())
            step = math.log(fastest / slowest) / (pairs - 1)
            reach = train_len * fastest / (2 * math.pi)
            first = max(math.floor(math.log(reach / high) / step), 0)
            last = min(math.ceil(math.log(reach / low) / step), 2 * pairs - 1)
            share = [(i - first) / (last - first or 0.001) for i in range(pairs)]  # how much is interpolated
        else:
            share = [(high - train_len * theta / (2 * math.pi)) / (high - low) for theta in inv_freq]
        for theta, x in zip(inv_freq, share, strict=True):
            if x <= 0:
                scaled.append(theta)
            elif x >= 1:
                scaled.append(theta / factor)
            else:
                scaled.append((1 - x) * theta + x * theta / factor)
        return torch.stack(scaled)
    for m in range(1, pairs + 1):
        theta = inv_freq[m - 1]
        for j in range(1, m + 1):
            if method == "pi":
                theta = theta / factor if j == 1 else theta
            elif method == "ntk":
                theta = theta / factor ** (1 / pairs) if j < m else theta
            elif method == "ntk_aware":
                theta = theta / factor ** (1 / (pairs - 1)) if j < m else theta
            elif method == "ntk_fixed":
                theta = theta / factor ** (1 / pairs)
            else:
                before = ((j - 1) / pairs) ** b if j > 1 else 0.0  # the empty product is 1, for b = 0 as well
                theta = theta / factor ** ((j / pairs) ** b - before)
        scaled.append(theta)
    return torch.stack(scaled)


def dynamic_ntk_factor(length: _Number, train_len: float, factor: float = 1.0) -> _Number:
    r"""The factor of "dynamic NTK": it grows with the length n of the text at hand, and is 1 up to N.

    .. math:: k(n) = 1 + \text{factor}\,\frac{\max(n - N, 0)}N

    ``scale_rope(inv_freq, dynamic_ntk_factor(n, N, factor), "ntk_aware")`` is ``rope_type="dynamic"`` of
    ``transformers``. At n = N it is 1, whatever the factor: nothing changes inside the trained length.

    Args:
        length: n, a number or a tensor (then nothing is looked at, and ``torch.compile`` keeps one graph for all n).
        train_len: N > 0.
        factor: slope in n/N, ≥ 1; with 1 it is n/N beyond N.

    Returns:
        A float, or a tensor of the shape of ``length`` (float32 at least).

    Raises:
        ValueError: train_len ≤ 0, factor < 1, length ≤ 0.

    Hazards:
        * Beyond N every new token changes all frequencies: keys that were cached after rotation do not fit.
        * The modules of ``transformers`` have a memory: they keep the factor of the longest text that they have read,
          until one shorter than N comes.

    Example:
        >>> [dynamic_ntk_factor(n, 512, 2.0) for n in (100, 512, 1024, 4096)]
        [1.0, 1.0, 3.0, 15.0]

    Source: YaRN, https://arxiv.org/abs/2309.00071, section 3.3.
    """
    _check_length("train_len", train_len)
    if isinstance(factor, Tensor):
        raise ValueError("factor is a tensor; give a number >= 1")
    _check_factor(factor)
    if isinstance(length, Tensor):
        n = length.to(torch.promote_types(length.dtype, torch.float32))
        return 1 + (n - train_len).clamp(min=0) * (factor / train_len)
    _check_length("length", length)
    return 1.0 + max(0.0, length - train_len) * (factor / train_len)


def yarn_temperature(factor: float) -> float:
    r"""YaRN's factor of q and of k: 0.1 ln k + 1. Scores grow by its square.

    Args:
        factor: k; up to 1 nothing happens.

    Returns:
        A number ≥ 1. Multiply q and k each by it, or the scale of the attention by its square; ``transformers``
        multiplies the tables cos and sin.

    Raises:
        ValueError: k ≤ 0 or not a number.

    Example:
        >>> yarn_temperature(1.0), round(yarn_temperature(8.0), 4)
        (1.0, 1.2079)

    Source: YaRN, https://arxiv.org/abs/2309.00071, eq. 22: √(1/t) = 0.1 ln k + 1.
    """
    if isinstance(factor, (bool, Tensor)) or not 0 < factor < math.inf:
        raise ValueError(f"factor={factor!r} must be a positive number: how many times longer the texts become")
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


class PhaseCoverage(NamedTuple):
    """What a change of frequencies asks of each pair, see :func:`phase_coverage`; all ``(dim/2,)``."""

    turns: Tensor
    """The turns that a pair made within the trained length, N θ / 2π."""
    ratio: Tensor
    """The largest phase at length k N over the largest one of the training, k s."""
    new: Tensor
    """Whether the pair meets phases that it never saw, which is turns < 1 and ratio > 1."""


def phase_coverage(inv_freq: Tensor, train_len: float, factor: float, scaled: Tensor) -> PhaseCoverage:
    r"""Which pairs meet new phases at length k N, and how far they go (step D8).

    Distances below N put pair m on phases [0, N θ_m). At k N with frequencies θ'_m it reaches k N θ'_m. A pair that
    finished a turn (N θ_m ≥ 2π) has seen its whole circle, and nothing is new for it alone. One that did not meets new
    phases exactly if k θ'_m > θ_m.

    Args:
        inv_freq: θ ``(dim/2,)``, those of the training.
        train_len: N, the trained length, > 0.
        factor: k ≥ 1, how many times longer the texts are.
        scaled: θ' ``(dim/2,)``, those used at k N (:func:`scale_rope`).

    Returns:
        :class:`PhaseCoverage`. ``ratio`` counts as 1 within 64 machine epsilons, so that rounding makes nothing new.

    Raises:
        ValueError: shapes or dtypes that do not fit, train_len ≤ 0, factor < 1.

    Example:
        >>> theta = torch.tensor([1.0, 0.1, 0.01, 0.001])
        >>> phase_coverage(theta, 128, 16, scale_rope(theta, 16, "ntk_fixed")).new
        tensor([False, False,  True, False])

    Source: chapter *beta-base-positions*, step D8.
    """
    _check_frequencies("inv_freq", inv_freq)
    _check_frequencies("scaled", scaled)
    if inv_freq.shape != scaled.shape or inv_freq.dtype != scaled.dtype:
        raise ValueError(
            f"inv_freq {tuple(inv_freq.shape)} {inv_freq.dtype} and scaled {tuple(scaled.shape)} {scaled.dtype} "
            "must have one shape and dtype"
        )
    _check_length("train_len", train_len)
    if isinstance(factor, Tensor):
        raise ValueError("factor is a tensor; give a number >= 1")
    _check_factor(factor)
    turns = inv_freq * (train_len / (2 * math.pi))
    ratio = factor * (scaled / inv_freq)
    slack = 64 * torch.finfo(inv_freq.dtype).eps
    return PhaseCoverage(turns, ratio, (turns < 1) & (ratio > 1 + slack))

"""The laws of entropy for given scores and for one leading key, in float64 NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .arrays import Array, bisect, plain_float, require, to_array

__all__ = ["invariant_lambda", "leader_entropy", "leader_lambda", "softmax_entropy_lower_bound"]


def softmax_entropy_lower_bound(s: npt.ArrayLike | Tensor, lam: npt.ArrayLike = 1.0) -> Any:
    r"""The lower bound log n − λ (max s − mean s) of the entropy of softmax(λ s) (step D4).

    .. math:: H(\lambda) \ge \log n - \lambda\,(s_{\max} - \bar s), \qquad \lambda \ge 0,

    with equality exactly if λ = 0 or all scores are equal: Jensen's inequality bounds log Z from below, and
    Σ p s ≤ max s. It is a bound and no estimate: it goes to −∞ as λ grows, which an entropy cannot.

    Args:
        s: scores ``(..., n)``; −∞ = a key that is not there, it counts neither in n nor in the mean.
        lam: λ ≥ 0, a number or an array that broadcasts with ``(...)``.

    Returns:
        float64 of the broadcast shape of ``(...)`` and ``lam``; a float if that is ().

    Raises:
        ValueError: λ < 0, or a row without any key.

    Example:
        >>> import torch
        >>> from kexue_lib.attention import attention_entropy
        >>> s = np.array([1.0, 0.0, 0.0, -1.0])
        >>> bound, exact = softmax_entropy_lower_bound(s, 0.5), attention_entropy(0.5 * torch.tensor(s)).item()
        >>> print(f"{bound:.4f} <= {exact:.4f}")
        0.8863 <= 1.3257

    Source: https://kexue.fm/archives/9034 (there as an approximation), step D4.
    """
    s, lam = to_array("s", s), to_array("lam", lam)
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ValueError(f"s has shape {s.shape}; a last axis of scores is needed")
    require(lam >= 0, "lam", lam, ">= 0 (the bound is turned around for a negative λ: negate the scores)")
    present = s > -np.inf
    n = present.sum(-1)
    if not n.all():
        raise ValueError("s has a row of -inf only: softmax of no key has no entropy")
    mean = np.where(present, s, 0.0).sum(-1) / n
    return plain_float(np.log(n) - lam * (s.max(-1) - mean))


def leader_entropy(n: npt.ArrayLike, lead: npt.ArrayLike) -> Any:
    r"""Entropy of softmax(L, 0, …, 0): one key leads the n − 1 others by L = λΔ (step D6).

    .. math:: p_1 = \frac1{1+(n-1)e^{-L}}, \qquad H(n, L) = \log\bigl(1+(n-1)e^{-L}\bigr) + (1-p_1)\,L

    Args:
        n: number of keys, ≥ 1; may be huge (1e30) and need not be whole.
        lead: L, any real number.

    Returns:
        float64 of the broadcast shape; a float if both are numbers.

    Hazards:
        For n ≥ 2 the entropy falls from log n to 0 as L grows from 0; for −L it is another function (the leader
        trails).

    Example:
        >>> n = np.array([1e2, 1e4, 1e8])
        >>> for kappa in (0.5, 1, 2):                  # L = κ log n keeps H at no constant: κ = 1 is a transition
        ...     print(kappa, np.round(leader_entropy(n, kappa * np.log(n)), 2))
        0.5 [ 4.48  9.17 18.42]
        1 [2.98 5.3  9.9 ]
        2 [0.1 0.  0. ]

    Source: chapter *entropy-invariant-softmax*, step D6.
    """
    n, lead = to_array("n", n), to_array("lead", lead)
    require(n >= 1, "n", n, ">= 1: it counts keys")
    with np.errstate(divide="ignore"):
        odds = np.log(n - 1) - lead  # log((1 - p1)/p1)
    log_z = np.logaddexp(0.0, odds)
    return plain_float(log_z + np.exp(odds - log_z) * lead)


def leader_lambda(n: npt.ArrayLike, h0: npt.ArrayLike) -> Any:
    r"""The lead L = λΔ ≥ 0 with which one leader among n keys has the entropy H₀ (step D6).

    Solves H(n, L) = H₀ of :func:`leader_entropy` by bisection to the last bit. As n → ∞

    .. math:: L = \log n + \log\log n - \log H_0 + o(1),

    so that L/log n → 1: the provable form of "λ must grow like log n".

    Args:
        n: number of keys, > 1; may be huge.
        h0: the entropy, 0 < H₀ < log n, in nats.

    Returns:
        float64 of the broadcast shape; a float if both are numbers.

    Raises:
        ValueError: H₀ outside (0, log n).

    Example:
        >>> np.round(leader_lambda([2**6, 1e6, 1e30], 1.0) / np.log([2**6, 1e6, 1e30]), 3)
        array([1.428, 1.204, 1.062])

    Source: chapter *entropy-invariant-softmax*, step D6.
    """
    n, h0 = np.broadcast_arrays(to_array("n", n), to_array("h0", h0))
    require(n > 1, "n", n, "> 1")
    require((h0 > 0) & (h0 < np.log(n)), "h0", h0, "between 0 and log(n), without the ends")
    hi = np.log(n) + 1.0
    for _ in range(64):
        hi = np.where(to_array("", leader_entropy(n, hi)) > h0, 2 * hi, hi)
    return plain_float(bisect(lambda lead: to_array("", leader_entropy(n, lead)), h0, np.zeros_like(hi), hi))


def invariant_lambda(scores: npt.ArrayLike | Tensor, h0: float, *, per_row: bool = False) -> Any:
    r"""The λ > 0 with which softmax(λ s) has the entropy H₀, for given scores.

    Solves mean over rows of H(λ) = H₀, or H(λ) = H₀ for each row, by Newton's method in log λ, kept inside a bracket.
    It uses dH/d log λ = −Var_p(λ s) ≤ 0 (step D3): H falls monotonically, so that the solution is unique.

    Args:
        scores: ``(..., n)`` float64; −∞ = a key that is not there. Rows are all axes but the last.
        h0: the entropy in nats; between the logarithm of the number of keys that share the maximum (usually log 1 = 0)
            and log n.
        per_row: whether each row gets its own λ; default one λ for the mean entropy over rows.

    Returns:
        A float, or with ``per_row`` float64 of the shape of the rows. H(λ) equals H₀ to about 1e-12.

    Raises:
        ValueError: no such λ exists: H₀ ≥ log n, or ties at the top keep the entropy above H₀.

    Example:
        >>> import torch
        >>> from kexue_lib.attention import attention_entropy
        >>> s = np.random.default_rng(0).normal(size=(64, 512))
        >>> lam = invariant_lambda(s, 2.0)
        >>> round(attention_entropy(lam * torch.tensor(s)).mean().item(), 10)
        2.0

    Source: chapter *entropy-invariant-softmax*, steps D3 and D7, quick experiment A.
    """
    s = to_array("scores", scores)
    if s.ndim == 0 or s.size == 0:
        raise ValueError(f"scores has shape {s.shape}; at least one row of scores is needed")
    shape, s = s.shape[:-1], s.reshape(-1, s.shape[-1])
    present = s > -np.inf
    count = present.sum(-1)
    if np.isnan(s).any() or (s == np.inf).any() or not count.all():
        raise ValueError("scores has NaN, +inf or a row of -inf only")
    top = np.log(count) if per_row else np.log(count).mean(keepdims=True)
    h0 = float(h0)
    if not 0 < h0 < top.min():
        raise ValueError(f"h0={h0:g} must lie between 0 and log(n) = {top.min():.4g}, without the ends")
    gap = np.where(present, s - s.max(-1, keepdims=True), 0.0)
    all_present = bool(present.all())
    ties = np.log(((gap == 0) & present).sum(-1))  # H as λ → ∞
    ties = ties if per_row else ties.mean(keepdims=True)
    z, w = np.empty_like(gap), np.empty_like(gap)  # reused: the arrays are large and there are a dozen rounds

    def moments(log_lam: Array) -> tuple[Array, Array]:
        """Entropy and Var_p(λ s), a row each, or their means over the rows."""
        np.multiply(gap, np.exp(log_lam)[:, None], out=z)
        np.maximum(z, -1e4, out=z)  # exp gives 0 from −746 on; keeps z² finite
        np.exp(z, out=w)
        if not all_present:
            np.multiply(w, present, out=w)
        total = w.sum(-1)
        first = np.einsum("ij,ij->i", w, z) / total
        np.multiply(z, z, out=z)
        second = np.einsum("ij,ij->i", w, z) / total
        entropy, variance = np.log(total) - first, second - first**2
        return (entropy, variance) if per_row else (entropy.mean(keepdims=True), variance.mean(keepdims=True))

    # H = log n - λ²σ²/2 + … for small λ gives the start; then widen until the bracket holds.
    spread = np.sqrt((gap**2).sum(-1) / count - (gap.sum(-1) / count) ** 2)
    spread = spread if per_row else spread.mean(keepdims=True)
    if not np.all(spread > 0):
        raise ValueError(f"scores are all equal: their entropy is log(n) for every λ, never {h0:g}")
    if not np.all(ties < h0):
        raise ValueError(
            f"no λ gives the entropy h0={h0:g}: ties among the largest scores keep it above {ties.max():.4g}"
        )
    x = np.log(np.sqrt(2 * (top - h0)) / spread)
    lo, hi = np.full_like(x, -np.inf), np.full_like(x, np.inf)
    for _ in range(200):
        entropy, variance = moments(x)
        lo, hi = np.where(entropy >= h0, x, lo), np.where(entropy >= h0, hi, x)
        done = np.abs(entropy - h0) <= 1e-13 * max(1.0, h0)
        if np.all(done | (hi - lo <= 4e-16 * np.maximum(1.0, np.abs(x)))):
            return plain_float(np.exp(x).reshape(shape if per_row else ()))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = np.clip((entropy - h0) / variance, -2.0, 2.0)
        guess = x + np.where(np.isnan(step), 2.0, step)
        inside = (guess > lo) & (guess < hi)
        x = np.where(done, x, np.where(inside, guess, 0.5 * (np.maximum(lo, x - 2) + np.minimum(hi, x + 2))))
    raise ArithmeticError(f"invariant_lambda did not converge for h0={h0:g}; scale the scores to the order of 1")

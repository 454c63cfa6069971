"""Positional number systems, in integers: the digits of a number, with one radix or with one for each place."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["digits", "mixed_radix_digits", "number_from_digits"]

_LARGEST = torch.iinfo(torch.int64).max


def _index(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value) if not isinstance(value, bool) else -1
    except TypeError:
        number = -1
    if not least <= number <= _LARGEST:
        raise ValueError(f"{name}={value!r} must be an integer >= {least} (and below 2^63)")
    return number


def _radices(radices: Iterable[int]) -> list[int]:
    checked = [_index(f"radices[{i}]", radix, 2) for i, radix in enumerate(radices)]
    if not checked:
        raise ValueError("radices is empty: at least one digit is needed")
    return checked


def digits(n: int | Tensor, base: int, count: int) -> Tensor:
    r"""The ``count`` lowest digits of n in base β, lowest first: digit m = 1, …, count is ⌊n / β^{m−1}⌋ mod β.

    Args:
        n: an integer ≥ 0 of any size, or an integer tensor of any shape.
        base: β ≥ 2.
        count: number of digits, ≥ 1.

    Returns:
        int64, ``(*n.shape, count)`` (``(count,)`` for a number), on the device of n.

    Raises:
        TypeError: n is not made of integers.
        ValueError: n < 0, n ≥ β^count (more digits are needed), base < 2, count < 1. The values of a tensor are looked
            at on a CPU only, outside ``torch.compile``; elsewhere digits above the last are dropped.

    Example:
        >>> digits(1749, 10, 4)
        tensor([9, 4, 7, 1])
        >>> digits(torch.tensor([1749, 1750]), 16, 3)
        tensor([[ 5, 13,  6],
                [ 6, 13,  6]])

    Source: https://kexue.fm/archives/9675; steps D1 and D11.
    """
    return mixed_radix_digits(n, [_index("base", base, 2)] * _index("count", count, 1))


def mixed_radix_digits(n: int | Tensor, radices: Sequence[int]) -> Tensor:
    r"""The digits of n where place m has a radix β_m of its own, lowest first.

    .. math:: n = \sum_m x_m \prod_{j<m}\beta_j, \qquad
              x_m = \Bigl\lfloor\frac n{\beta_1\cdots\beta_{m-1}}\Bigr\rfloor \bmod \beta_m

    Args:
        n: an integer ≥ 0 of any size, or an integer tensor of any shape.
        radices: β_1, β_2, …, integers ≥ 2, the lowest place first. Their product may exceed 2^63.

    Returns:
        int64, ``(*n.shape, len(radices))``, on the device of n. All in integers: exact.

    Raises:
        TypeError, ValueError: as :func:`digits`.

    Example:
        >>> mixed_radix_digits(3 * 3600 + 25 * 60 + 45, [60, 60, 24])      # 3 h 25 min 45 s
        tensor([45, 25,  3])

    Source: https://kexue.fm/archives/9706; step D7.
    """
    places = _radices(radices)
    if not isinstance(n, Tensor):
        try:
            rest = operator.index(n)
        except TypeError:
            raise TypeError(f"n={n!r} ({type(n).__name__}) must be an integer or an integer tensor") from None
        found = []
        if rest >= 0:
            for radix in places:
                rest, digit = divmod(rest, radix)
                found.append(digit)
        if rest:
            raise _too_few(n, n, places)
        return torch.tensor(found)
    if n.dtype == torch.bool or n.is_floating_point() or n.is_complex():
        raise TypeError(f"n has dtype {n.dtype}; digits are those of integers")
    left = n.to(torch.int64)
    columns = []
    for radix in places:
        quotient = torch.div(left, radix, rounding_mode="floor")
        columns.append(left - quotient * radix)
        left = quotient
    if n.device.type == "cpu" and n.numel() and not torch.compiler.is_compiling() and bool(left.any()):
        raise _too_few(int(n.min()), int(n.max()), places)
    return torch.stack(columns, dim=-1)


def _too_few(low: int, high: int, places: list[int]) -> ValueError:
    if low < 0:
        return ValueError(f"n={low} is negative; digits are those of integers >= 0")
    return ValueError(f"n={high} does not fit into {len(places)} digits of radices {places}; give more, or larger ones")


def number_from_digits(digits: Tensor, radices: int | Sequence[int]) -> Tensor:
    r"""The number with given digits: Σ_m x_m β_1⋯β_{m−1}, the inverse of :func:`mixed_radix_digits`.

    Args:
        digits: integer tensor ``(..., count)``, lowest digit first.
        radices: β_1, …, β_count, or one β for all.

    Returns:
        int64, ``(...)``. Numbers of 2^63 and above do not fit.

    Raises:
        TypeError: digits are not integers.
        ValueError: another number of radices than of digits.

    Example:
        >>> number_from_digits(torch.tensor([9, 4, 7, 1]), 10)
        tensor(1749)

    Source: https://kexue.fm/archives/9675; step D1.
    """
    if not isinstance(digits, Tensor) or digits.dtype == torch.bool or digits.is_floating_point():
        kind = digits.dtype if isinstance(digits, Tensor) else type(digits).__name__
        raise TypeError(f"digits has type {kind}; an integer tensor (..., count) is needed")
    if digits.dim() == 0:
        raise ValueError("digits has no axis; an integer tensor (..., count) is needed")
    count = digits.shape[-1]
    places = [_index("radices", radices, 2)] * count if isinstance(radices, int) else _radices(radices)
    if len(places) != count:
        raise ValueError(f"radices has {len(places)} places, but there are {count} digits")
    number = torch.zeros(digits.shape[:-1], dtype=torch.int64, device=digits.device)
    for m in reversed(range(count)):  # Horner
        number = number * places[m] + digits[..., m]
    return number

# ruff: noqa: D102 (the protocol Domain says once what corners and draw do)
"""Where the symbols of a relation live, and how to draw points from there.

Every domain draws *corners* first (zero, one, the ends of an interval, equal entries, a one-hot vector) and then random
points over several scales. A relation that fails only in a corner is refused more often for it; a proof it is not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import mpmath
import sympy as sp

from .errors import DerivationError

Size: TypeAlias = int | sp.Expr


class Domain(Protocol):
    """Anything that can draw values: scalars as mpmath numbers, vectors and matrices as nested lists of them."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        """Return the values that are tried first."""

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        """Draw one random value."""


def resolve(size: Size, sizes: dict[sp.Symbol, int]) -> int:
    """Turn a symbolic size into a number."""
    value = sp.sympify(size).subs(sizes)
    if not value.is_Integer or value < 1:
        raise DerivationError(
            f"the size {size} is not known here (got {value}); give it with dims, e.g. dims={{{size}: 3}}"
        )
    return int(value)


# --- scalars -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Interval:
    """Real numbers from ``low`` to ``high``, both ends included unless ``open``."""

    low: Any
    high: Any
    open: bool = False

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        low, high = mpmath.mpf(self.low), mpmath.mpf(self.high)
        near = (high - low) * mpmath.mpf(10) ** -6
        return [low + near, high - near] if self.open else [low, high]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        low, high = float(self.low), float(self.high)
        if low > 0 and high / low > 100:  # several decades: every one gets its share
            return mpmath.mpf(math.exp(rng.uniform(math.log(low), math.log(high))))
        return mpmath.mpf(rng.uniform(low, high))


@dataclass(frozen=True)
class Real:
    """All real numbers: corners 0, ±1, 1/2, -3; then normal draws at scales 0.1, 1 and 5."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [mpmath.mpf(x) for x in (0, 1, -1, 0.5, -3)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return mpmath.mpf(rng.gauss(0, rng.choice((0.1, 1, 5))))


@dataclass(frozen=True)
class Positive:
    """Positive real numbers: corners 1, 1/2, 2, 10⁻⁴, 30; then log-normal draws."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [mpmath.mpf(x) for x in (1, 0.5, 2, 1e-4, 30)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return mpmath.mpf(math.exp(rng.gauss(0, 1.5)))


@dataclass(frozen=True)
class Nonnegative(Positive):
    """Zero and the positive real numbers."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [mpmath.mpf(0), *super().corners(sizes)]


@dataclass(frozen=True)
class Negative(Positive):
    """Negative real numbers."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [-x for x in super().corners(sizes)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return -super().draw(rng, sizes)


@dataclass(frozen=True)
class Integer:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int = -12
    high: int = 12

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        inside = [x for x in (self.low, self.low + 1, 0, 1, 2, self.high) if self.low <= x <= self.high]
        return [mpmath.mpf(x) for x in dict.fromkeys(inside)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return mpmath.mpf(rng.randint(self.low, self.high))


@dataclass(frozen=True)
class Complex:
    """Complex numbers, as symbols without assumptions are; the corners lie on several branches of log and root."""

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [mpmath.mpc(x) for x in (0, 1, -1, 1j, -2 - 1j, 1 + 7j)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        scale = rng.choice((0.3, 1, 6))
        return mpmath.mpc(rng.gauss(0, scale), rng.gauss(0, scale))


@dataclass(frozen=True)
class OneOf:
    """One of the given values."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any) -> None:
        object.__setattr__(self, "values", tuple(values))

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return [mpmath.mpmathify(sp.sympify(v).evalf(50)) for v in self.values]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return rng.choice(self.corners(sizes))


# --- vectors and matrices ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Vector:
    """Vectors of ``size`` entries from ``entry``; corners: all equal, one-hot, increasing."""

    size: Size
    entry: Domain = Real()

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        n, values = resolve(self.size, sizes), self.entry.corners(sizes)
        equal = [[v] * n for v in values[:2]]
        mixed = [[values[(k + shift) % len(values)] for k in range(n)] for shift in (0, 1)]
        one_hot = [[values[1 % len(values)]] + [values[0]] * (n - 1)]
        return equal + mixed + one_hot

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        return [self.entry.draw(rng, sizes) for _ in range(resolve(self.size, sizes))]


@dataclass(frozen=True)
class Simplex:
    """Probability vectors with positive entries; corners: uniform, and nearly one-hot."""

    size: Size

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        n, small = resolve(self.size, sizes), mpmath.mpf(10) ** -9
        peaked = [[1 - (n - 1) * small if k == j else small for k in range(n)] for j in range(min(n, 2))]
        return [[mpmath.mpf(1) / n] * n, *(peaked if n > 1 else [])]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        concentration = rng.choice((0.1, 1, 10))
        weights = [mpmath.mpf(rng.gammavariate(concentration, 1) + 1e-30) for _ in range(resolve(self.size, sizes))]
        total = mpmath.fsum(weights)
        return [w / total for w in weights]


@dataclass(frozen=True)
class UnitVector:
    """Vectors of Euclidean norm one."""

    size: Size

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        n = resolve(self.size, sizes)
        return [[mpmath.mpf(int(k == j)) for k in range(n)] for j in range(min(n, 2))] + [[1 / mpmath.sqrt(n)] * n]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        values = [mpmath.mpf(rng.gauss(0, 1)) for _ in range(resolve(self.size, sizes))]
        norm = mpmath.sqrt(mpmath.fsum(v * v for v in values))
        return [v / norm for v in values]


@dataclass(frozen=True)
class Matrix:
    """Matrices with independent entries; corners: all entries the first corner of ``entry`` (zero for real ones), all
    the second (one), and the second on the diagonal, the first elsewhere (the identity).
    """

    rows: Size
    columns: Size
    entry: Domain = Real()

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        m, n = resolve(self.rows, sizes), resolve(self.columns, sizes)
        values = self.entry.corners(sizes)
        low, high = values[0], values[1 % len(values)]
        pictures = (lambda i, j: low, lambda i, j: high, lambda i, j: high if i == j else low)
        return [[[p(i, j) for j in range(n)] for i in range(m)] for p in pictures]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        m, n = resolve(self.rows, sizes), resolve(self.columns, sizes)
        return [[self.entry.draw(rng, sizes) for _ in range(n)] for _ in range(m)]


@dataclass(frozen=True)
class Symmetric:
    """Symmetric matrices."""

    size: Size

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        return Matrix(self.size, self.size).corners(sizes)

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        a = Matrix(self.size, self.size).draw(rng, sizes)
        n = len(a)
        return [[(a[i][j] + a[j][i]) / 2 for j in range(n)] for i in range(n)]


@dataclass(frozen=True)
class PositiveDefinite:
    """Symmetric positive definite matrices: G Gᵀ plus a small multiple of the identity."""

    size: Size

    def corners(self, sizes: dict[sp.Symbol, int]) -> list[Any]:
        n = resolve(self.size, sizes)
        return [[[mpmath.mpf(c * (i == j)) for j in range(n)] for i in range(n)] for c in (1, 0.01)]

    def draw(self, rng: random.Random, sizes: dict[sp.Symbol, int]) -> Any:
        g = Matrix(self.size, self.size).draw(rng, sizes)
        n = len(g)
        gram = [[mpmath.fsum(g[i][k] * g[j][k] for k in range(n)) for j in range(n)] for i in range(n)]
        return [[gram[i][j] + (mpmath.mpf("0.05") if i == j else 0) for j in range(n)] for i in range(n)]


def default_domain(symbol: sp.Basic) -> Domain:
    """Return the widest domain that the assumptions of a symbol allow."""
    if isinstance(symbol, sp.IndexedBase):
        if symbol.shape is None or len(symbol.shape) not in (1, 2):
            raise DerivationError(
                f"{symbol} has no length: declare IndexedBase('{symbol}', shape=(n,), real=True) for a vector or "
                f"shape=(m, n) for a matrix, or give its domain"
            )
        entry = default_domain(symbol[tuple(sp.Dummy(integer=True) for _ in symbol.shape)])
        length, *width = symbol.shape
        return Matrix(length, width[0], entry) if width else Vector(length, entry)
    if isinstance(symbol, sp.MatrixSymbol):
        return Matrix(symbol.rows, symbol.cols)
    if symbol.is_integer:
        low = 1 if symbol.is_positive else 0 if symbol.is_nonnegative else -12
        return Integer(low, 12)
    for test, domain in (
        (symbol.is_positive, Positive()),
        (symbol.is_negative, Negative()),
        (symbol.is_nonnegative, Nonnegative()),
        (symbol.is_extended_real, Real()),
    ):
        if test:
            return domain
    return Complex()


def choices(size: int | Sequence[int]) -> tuple[int, ...]:
    """Read an entry of ``dims``: one size, or several that are all tried."""
    sizes = tuple(size) if isinstance(size, Sequence) else (size,)
    if not sizes or any(not isinstance(k, int) or k < 1 for k in sizes):
        raise DerivationError(f"a dimension must be a positive integer or several of them, not {size!r}")
    return sizes

"""The few words that SymPy lacks for this book: a maximum over an index, and a mean."""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.concrete.expr_with_limits import AddWithLimits


class MaxOver(AddWithLimits):
    r"""The largest value of ``expr`` while an index runs: :math:`\max_{1\le i\le n} s_i`.

    >>> n, i = sp.symbols("n i", integer=True, positive=True)
    >>> s = sp.IndexedBase("s", shape=(n,), real=True)
    >>> MaxOver(s[i], (i, 1, 3)).doit()
    Max(s[1], s[2], s[3])
    """

    __slots__ = ()

    def __new__(cls, function: sp.Expr, *symbols: Any, **assumptions: Any) -> MaxOver:
        """Refuse more than one index and an index without limits."""
        obj = AddWithLimits.__new__(cls, function, *symbols, **assumptions)
        if len(getattr(obj, "limits", ())) != 1 or len(obj.limits[0]) != 3:
            raise ValueError("MaxOver needs exactly one index with both limits, e.g. (i, 1, n)")
        return obj

    def _eval_is_extended_real(self) -> bool | None:
        return self.function.is_extended_real

    def _eval_is_finite(self) -> bool | None:
        return self.function.is_finite

    def doit(self, **hints: Any) -> sp.Expr:
        """Write the maximum out when both limits are numbers."""
        (index, low, high) = self.limits[0]
        if not (low.is_Integer and high.is_Integer):
            return self
        return sp.Max(*(self.function.subs(index, k) for k in range(int(low), int(high) + 1)))

    def _latex(self, printer: Any) -> str:
        (index, low, high) = (printer._print(part) for part in self.limits[0])
        return rf"\max_{{{low} \le {index} \le {high}}} {printer.parenthesize(self.function, 50)}"

    def _sympystr(self, printer: Any) -> str:
        (index, low, high) = (printer._print(part) for part in self.limits[0])
        return f"max[{index}={low}..{high}]({printer._print(self.function)})"


def mean(expr: sp.Expr, index: sp.Symbol, size: sp.Expr) -> sp.Expr:
    r"""The mean :math:`\frac1n\sum_{i=1}^n` of ``expr`` over ``index``.

    >>> n, i = sp.symbols("n i", integer=True, positive=True)
    >>> mean(sp.Integer(2) * i, i, n).doit().simplify()
    n + 1
    """
    return sp.Sum(expr, (index, 1, size)) / size

"""Relations that keep both of their sides.

SymPy's ``Eq(x, x)`` evaluates itself to ``True``; a step has to show, record and mutate both sides, so it holds them
here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom

from .binding import check_ranges
from .errors import DerivationError
from .operations import Operations

FLIP = {"=": "=", "~": "~", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_SYMPY = {"=": sp.Eq, "<=": sp.Le, ">=": sp.Ge, "<": sp.Lt, ">": sp.Gt}
_TEXT = {"=": "=", "~": "~", "<=": "≤", ">=": "≥", "<": "<", ">": ">"}
_LATEX = {"=": "=", "~": r"\sim", "<=": r"\le", ">=": r"\ge", "<": "<", ">": ">"}


@dataclass(frozen=True)
class Origin:
    """How a relation was made from earlier ones: the operations in words and the steps that they started from.

    A source is the step itself, not its id: a step of another derivation may have the same id.
    """

    operations: tuple[str, ...] = ()
    sources: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Relation(Operations):
    """``lhs op rhs`` with ``op`` one of ``=``, ``<=``, ``>=``, ``<``, ``>`` and ``~`` (asymptotically equal).

    >>> x = sp.Symbol("x", real=True)
    >>> str(eq(x, x))
    'x = x'
    >>> str(eq((x + 1) ** 2, x**2 + 2 * x + 1).differentiate(x))
    '2*x + 2 = 2*x + 2'
    """

    lhs: sp.Expr
    op: str
    rhs: sp.Expr
    towards: tuple[sp.Symbol, sp.Expr] | None = None  # for "~": the variable and where it goes
    origin: Origin = field(default_factory=Origin, compare=False)

    def __post_init__(self) -> None:
        if self.op not in FLIP:
            raise DerivationError(f"unknown relation sign {self.op!r}; use one of {', '.join(FLIP)}")
        for name in ("lhs", "rhs"):
            side = sp.sympify(getattr(self, name))
            if isinstance(side, (Relational, BooleanAtom)):
                raise DerivationError(f"a side of a relation must be an expression, not {side}")
            if not isinstance(side, sp.Expr) or isinstance(side, sp.MatrixExpr):
                raise DerivationError(f"a side of a relation is a number, not {side} ({type(side).__name__})")
            for derivative in side.atoms(sp.Derivative):
                if any(isinstance(x, sp.MatrixExpr) for x in derivative.variables):
                    raise DerivationError(
                        f"{derivative} is a derivative by a matrix: SymPy returns wrong zeros for these; "
                        "differentiate A + ε H with respect to ε at ε = 0, on explicit matrices"
                    )
            check_ranges(side)
            object.__setattr__(self, name, side)
        if (self.op == "~") != (self.towards is not None):
            raise DerivationError("the sign ~ needs a variable and its limit, and no other sign takes them")

    def __str__(self) -> str:
        tail = f"  ({self.towards[0]} -> {self.towards[1]})" if self.towards else ""
        return f"{self.lhs} {_TEXT[self.op]} {self.rhs}{tail}"

    @property
    def sides(self) -> tuple[sp.Expr, sp.Expr]:
        """Both sides."""
        return self.lhs, self.rhs

    @property
    def sympy(self) -> Relational:
        """The same as a SymPy relation that is not evaluated."""
        if self.op not in _SYMPY:
            raise DerivationError("an asymptotic relation has no SymPy counterpart")
        return _SYMPY[self.op](self.lhs, self.rhs, evaluate=False)

    def with_sides(self, lhs: sp.Expr, rhs: sp.Expr) -> Relation:
        """The same sign between other sides: another statement, which no operation has made."""
        return replace(self, lhs=lhs, rhs=rhs, origin=Origin())

    def reversed_sign(self) -> Relation:
        """The same sides with the inequality turned round: a different statement."""
        return replace(self, op=FLIP[self.op], origin=Origin())

    def free_symbols(self) -> set[sp.Basic]:
        """Free symbols of both sides."""
        return set(self.lhs.free_symbols | self.rhs.free_symbols)

    def latex_sign(self) -> str:
        """The sign in LaTeX."""
        return _LATEX[self.op]


def _relation(lhs: Any, op: str, rhs: Any) -> Relation:
    return Relation(sp.sympify(lhs), op, sp.sympify(rhs))


def eq(lhs: Any, rhs: Any) -> Relation:
    """``lhs = rhs``, not evaluated."""
    return _relation(lhs, "=", rhs)


def le(lhs: Any, rhs: Any) -> Relation:
    """``lhs ≤ rhs``, not evaluated."""
    return _relation(lhs, "<=", rhs)


def ge(lhs: Any, rhs: Any) -> Relation:
    """``lhs ≥ rhs``, not evaluated."""
    return _relation(lhs, ">=", rhs)


def lt(lhs: Any, rhs: Any) -> Relation:
    """``lhs < rhs``, not evaluated."""
    return _relation(lhs, "<", rhs)


def gt(lhs: Any, rhs: Any) -> Relation:
    """``lhs > rhs``, not evaluated."""
    return _relation(lhs, ">", rhs)


def tends(expr: Any, variable: sp.Symbol, to: Any, value: Any, side: str = "+-") -> Relation:
    """``lim expr = value`` as ``variable`` goes ``to``; ``side`` is "+", "-" or both.

    A variable that is declared positive comes to 0 from above.
    """
    to = sp.sympify(to)
    if to.is_zero and side == "+-" and (variable.is_nonnegative or variable.is_nonpositive):
        side = "+" if variable.is_nonnegative else "-"  # the domain lies on one side
    direction = "-" if to is sp.oo else "+" if to is -sp.oo else side
    return _relation(sp.Limit(sp.sympify(expr), variable, to, direction), "=", value)


def similar(lhs: Any, rhs: Any, variable: sp.Symbol, to: Any) -> Relation:
    """``lhs ~ rhs``: the quotient tends to one as ``variable`` goes ``to``."""
    return Relation(sp.sympify(lhs), "~", sp.sympify(rhs), (variable, sp.sympify(to)))


def as_relation(value: Any) -> Relation:
    """Accept a :class:`Relation`, a step, or a SymPy relation that SymPy has not evaluated away."""
    if isinstance(value, Relation):
        return value
    if isinstance(getattr(value, "relation", None), Relation):
        relation: Relation = value.relation
        return relation
    if isinstance(value, (BooleanAtom, bool)):
        raise DerivationError(
            f"SymPy evaluated this relation to {value} before the step saw it, so neither side can be shown or checked;"
            " write it with eq, le, ge, lt or gt from kexue_lib.derive"
        )
    if isinstance(value, Relational):
        signs = {sp.Eq: "=", sp.Le: "<=", sp.Ge: ">=", sp.Lt: "<", sp.Gt: ">"}
        for kind, sign in signs.items():
            if isinstance(value, kind):
                return Relation(value.lhs, sign, value.rhs)
    raise DerivationError(f"a step needs a relation (eq, le, ge, lt, gt, tends, similar), not {type(value).__name__}")

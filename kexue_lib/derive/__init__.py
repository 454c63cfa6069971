r"""Derivations that the machine checks while they are written.

A :class:`Derivation` holds numbered steps. A step is a relation with evidence; the evidence runs when the step is
written, and a step that does not hold raises an error with a counterexample.

>>> import sympy as sp
>>> x = sp.Symbol("x", positive=True)
>>> d = Derivation("example")
>>> step = d.exact("D1", le(sp.log(x), x - 1), by="the logarithm lies below its tangent at 1")
>>> step.status, step.finding.method
('proved', 'convex in x, smallest at x = 1')

Needs SymPy and mpmath; torch only where a step asks for autograd evidence.
"""

from .asymptotic import Expansion, LimitBySymPy, Rate
from .autograd import Autograd
from .derivation import Derivation
from .domains import (
    Complex,
    Integer,
    Interval,
    Matrix,
    Negative,
    Nonnegative,
    OneOf,
    Positive,
    PositiveDefinite,
    Real,
    Simplex,
    Symmetric,
    UnitVector,
    Vector,
)
from .errors import Counterexample, DerivationError, StepFailed, StepRefuted, StepUndecided
from .evidence import Evidence, Finding, Setting
from .exact import Exact
from .numeric import Numeric
from .relations import Relation, eq, ge, gt, le, lt, similar, tends
from .steps import Step
from .timelimit import TimeLimitReached, time_limit
from .vocabulary import MaxOver, mean

__all__ = [
    "Autograd",
    "Complex",
    "Counterexample",
    "Derivation",
    "DerivationError",
    "Evidence",
    "Exact",
    "Expansion",
    "Finding",
    "Integer",
    "Interval",
    "LimitBySymPy",
    "Matrix",
    "MaxOver",
    "Negative",
    "Nonnegative",
    "Numeric",
    "OneOf",
    "Positive",
    "PositiveDefinite",
    "Rate",
    "Real",
    "Relation",
    "Setting",
    "Simplex",
    "Step",
    "StepFailed",
    "StepRefuted",
    "StepUndecided",
    "Symmetric",
    "TimeLimitReached",
    "UnitVector",
    "Vector",
    "eq",
    "ge",
    "gt",
    "le",
    "lt",
    "mean",
    "similar",
    "tends",
    "time_limit",
]

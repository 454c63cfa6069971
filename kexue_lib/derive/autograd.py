"""Evidence ``numeric`` by automatic differentiation: float64 gradients of torch against the claimed derivative."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from .domains import Domain, default_domain
from .errors import Counterexample, DerivationError, Refusal
from .evaluate import sizes_from
from .evidence import Finding, Setting
from .relations import Relation
from .rewriting import explicit

# functions whose name in SymPy is their name in torch
_SAME_NAME = ("acos", "asin", "atan", "cos", "cosh", "erf", "erfc", "exp", "log", "sin", "sinh", "sqrt", "tan", "tanh")


@dataclass(frozen=True)
class Autograd:
    """Compute every ``Derivative`` in a relation with torch.autograd and compare the sides in float64.

    Args:
        points: how many random points.
        domain: where symbols live; by default what their assumptions allow.
        dims: sizes at which sums and vectors are written out.
        tolerance: largest relative error.
    """

    points: int = 50
    domain: Mapping[sp.Basic, Domain] = field(default_factory=dict)
    dims: Mapping[sp.Symbol, int] = field(default_factory=dict)
    tolerance: float = 1e-9

    kind = "numeric"

    def check(self, relation: Relation, setting: Setting) -> Finding:
        """Differentiate and compare, or refuse."""
        if relation.op != "=":
            raise Refusal("autograd evidence compares the sides of an equation")
        relation = setting.unfold(relation)
        if not any(s.has(sp.Derivative) for s in relation.sides):
            raise Refusal("there is no Derivative in the relation that autograd could compute")
        setting = replace(setting, domain={**setting.domain, **self.domain}, dims={**setting.dims, **self.dims})
        rng, worst, used = random.Random(setting.step), 0.0, 0
        for sizes in sizes_from(setting.dims):
            sides = [_explicit_keeping_derivatives(s, sizes) for s in relation.sides]
            symbols = sorted(set().union(*(s.free_symbols for s in sides)), key=str)
            for _ in range(self.points):
                values = {s: float(_domain_of(s, setting).draw(rng, sizes)) for s in symbols}
                left, right = (_evaluate(s, values) for s in sides)
                undefined = [math.isnan(left), math.isnan(right)]
                if all(undefined):
                    continue
                scale = max(abs(left), abs(right), 1e-300)
                error = abs(left - right) / scale
                if any(undefined) or (not error <= self.tolerance and not abs(left - right) <= 1e-12):
                    shown = {str(k): f"{v:.6g}" for k, v in values.items()}
                    raise Refusal(
                        "autograd gives another value",
                        counterexample=Counterexample(shown, f"{left:.12g}", f"{right:.12g}", f"{left - right:.4g}"),
                    )
                used, worst = used + 1, max(worst, error if error <= self.tolerance else 0.0)
        if not used:
            raise Refusal("both sides are undefined at every point", advice="give a domain in which they have values")
        return Finding(
            "sampled",
            f"float64 autograd at {used} points, tolerance {self.tolerance:.0e}",
            {"points": used, "tolerance": f"{self.tolerance:.0e}"},
            {"worst relative error": worst},
        )


def _domain_of(symbol: sp.Symbol, setting: Setting) -> Domain:
    """The domain of a symbol; an entry ``s_2`` of a vector s takes the entry domain of s."""
    for known, domain in setting.domain.items():
        if known == symbol:
            return domain
        if isinstance(known, sp.IndexedBase) and str(symbol).startswith(f"{known.label}_") and hasattr(domain, "entry"):
            entry: Domain = domain.entry
            return entry
    return default_domain(symbol)


def _explicit_keeping_derivatives(expr: sp.Expr, sizes: Mapping[sp.Symbol, int]) -> sp.Expr:
    """Write vectors out, but leave derivatives for autograd: SymPy must not do the work that is being checked."""
    kept: dict[sp.Symbol, tuple[sp.Expr, tuple[sp.Expr, ...]]] = {}

    def hide(d: sp.Derivative) -> sp.Symbol:
        name = sp.Dummy("derivative")
        kept[name] = (d.expr, tuple(x for x, k in d.variable_count for _ in range(int(k))))
        return name

    hidden = explicit(expr.replace(lambda e: isinstance(e, sp.Derivative), hide), sizes)
    restored = {
        name: sp.Derivative(explicit(f, sizes), *(explicit(x, sizes) for x in xs), evaluate=False)
        for name, (f, xs) in kept.items()
    }
    return hidden.xreplace(restored)


def _of_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of torch that takes plain numbers too: the root of π is a constant."""
    import torch

    return lambda value: function(torch.as_tensor(value, dtype=torch.float64))


def _evaluate(expr: sp.Expr, values: Mapping[sp.Symbol, float]) -> float:
    try:
        import torch
    except ImportError as error:
        raise DerivationError("autograd evidence needs torch: pip install torch") from error

    functions: dict[str, Callable[..., Any]] = {
        "Max": lambda *a: torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in a]).max(),
        "Min": lambda *a: torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in a]).min(),
        "loggamma": _of_numbers(torch.lgamma),
        "Abs": _of_numbers(torch.abs),
        "sign": _of_numbers(torch.sign),
    }
    functions |= {name: _of_numbers(getattr(torch, name)) for name in _SAME_NAME}
    leaves = {s: torch.tensor(v, dtype=torch.float64, requires_grad=True) for s, v in values.items()}

    def compute(e: sp.Expr) -> Any:
        table: dict[sp.Symbol, Any] = {}

        def differentiate(d: sp.Derivative) -> sp.Symbol:
            y = compute(d.expr)
            for x, count in d.variable_count:
                for _ in range(int(count)):
                    if not torch.as_tensor(y).requires_grad:  # a constant
                        y = torch.zeros((), dtype=torch.float64)
                        continue
                    (y,) = torch.autograd.grad(y, leaves[x], create_graph=True, materialize_grads=True)
            name = sp.Dummy("value")
            table[name] = y
            return name

        body = e.replace(lambda x: isinstance(x, sp.Derivative), differentiate)
        symbols = sorted(body.free_symbols, key=str)
        f = sp.lambdify(symbols, body, modules=[functions, "math"])
        return torch.as_tensor(f(*(table.get(s, leaves.get(s)) for s in symbols)), dtype=torch.float64)

    return float(compute(expr).detach())

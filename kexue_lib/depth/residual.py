"""Residual weights by depth, Euler's products of a chain, and the growth of a perturbation through layers.

Sources: Su Jianlin, https://kexue.fm/archives/8994 (2022). The steps D1–D6 are those of the chapter *why-residual*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from .scales import _layers

__all__ = [
    "RESIDUAL_RULES",
    "EulerProduct",
    "JacobianGrowth",
    "euler_products",
    "euler_products_plain",
    "gradient_bound",
    "jacobian_growth",
    "jacobian_growth_plain",
    "residual_growth",
    "residual_weight",
]

RESIDUAL_RULES = ("inv_sqrt", "inv", "one")
"""The rules that :func:`residual_weight` knows."""


_TINY = torch.finfo(torch.float32).tiny


# --- the weight of a branch ------------------------------------------------------------------------------------------


def residual_weight(depth: int, rule: str | float = "inv_sqrt") -> float:
    r"""The weight ε of the branch in x + ε f(x), for a network of N such layers.

    ============== ============ ===========================================================
    rule           ε            what it does (steps D4–D6)
    ============== ============ ===========================================================
    ``"inv_sqrt"`` N^(−1/2)     ‖∇L‖² does not depend on N; stable if the layers' Jacobians
                                are unrelated
    ``"inv"``      1/N          stable for any Jacobians of size one; ‖∇L‖² falls like 1/N
    ``"one"``      1            the usual residual connection: activations grow like 2^(N/2)
    a number > 0   that number
    ============== ============ ===========================================================

    Args:
        depth: N ≥ 1.
        rule: see the table.

    Raises:
        ValueError: depth is no integer ≥ 1, an unknown rule, or a number that is not finite and positive.

    Example:
        >>> residual_weight(64), residual_weight(64, "inv"), residual_weight(64, 0.1)
        (0.125, 0.015625, 0.1)

    Source: https://kexue.fm/archives/8994, steps D4 and D5.
    """
    n = _layers("depth", depth)
    if isinstance(rule, str):
        if rule not in RESIDUAL_RULES:
            raise ValueError(f"rule={rule!r} is not known; choose one of {', '.join(map(repr, RESIDUAL_RULES))}")
        return {"inv_sqrt": n**-0.5, "inv": 1 / n, "one": 1.0}[rule]
    if isinstance(rule, bool) or not isinstance(rule, (int, float)) or not 0 < rule < math.inf:
        raise ValueError(f"rule={rule!r} must be one of {', '.join(map(repr, RESIDUAL_RULES))} or a finite number > 0")
    return float(rule)


def residual_growth(depth: int, eps: float, *, coherent: bool = False) -> float:
    r"""Factor by which N layers x + ε f(x) enlarge a perturbation, in the two extreme cases.

    .. math:: \text{coherent: } (1+\varepsilon)^{N}, \qquad
              \text{unrelated Jacobians, root mean square: } (1+\varepsilon^2)^{N/2}

    Coherent means ∂f/∂x = 1 in every layer. Unrelated means that the Jacobians are independent with mean zero and
    mean squared length 1 of every image of a unit vector; then the second formula is exact in every dimension.

    Raises:
        ValueError: depth is no integer ≥ 1, or ε is not finite and positive.

    Example:
        >>> round(residual_growth(256, 1 / 16), 3), round(residual_growth(256, 1 / 256, coherent=True), 3)
        (1.647, 2.713)

    Source: https://kexue.fm/archives/8994, steps D5 and D6.
    """
    n, e = _layers("depth", depth), residual_weight(depth, eps)
    exponent = n * (math.log1p(e) if coherent else 0.5 * math.log1p(e * e))
    return math.exp(exponent) if exponent < 709.78 else math.inf


# --- Euler's products ------------------------------------------------------------------------------------------------


class EulerProduct(NamedTuple):
    """What :func:`euler_products` says of a parameter ``(..., n, m)``; each field has the shape ``(...)``.

    Attributes:
        product: ⟨W, ∂L/∂W⟩.
        norm: ‖W‖, Frobenius' norm.
        g2: ‖∂L/∂W‖².
    """

    product: Tensor
    norm: Tensor
    g2: Tensor


def euler_products(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, EulerProduct]:
    r"""The product ⟨W, ∂L/∂W⟩ of every weight matrix, by one backward pass.

    In a chain :math:`f = \varphi(\dots\varphi(xW_1)\dots)W_N` with positively homogeneous φ (none, ReLU, leaky ReLU)
    and no biases, Euler's theorem gives the *same* number for every matrix:

    .. math:: \langle W_l, \partial L/\partial W_l\rangle = \langle f, \partial L/\partial f\rangle
              \qquad\text{for every } l

    Products that differ thus show that a network is no such chain: a residual connection, another activation, a norm.

    Args:
        model: ``.grad`` of its parameters is not touched.
        loss_fn: from the model to the loss: a 0-d tensor, or ``(E,)`` of E members that share nothing but the call.
        parameters: which parameters take part, from their names; default all of two axes or more that require
            gradients. Axes before the last two count matrices: a stack ``(N, n, m)`` gives N products.

    Returns:
        name → :class:`EulerProduct`. They carry no graph.

    Raises:
        ValueError: a parameter called bias is not zero (the identity would fail), no matrix takes part, or the loss
            does not depend on them.

    Example:
        >>> chain = nn.Sequential(*(nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(3)))
        >>> found = euler_products(chain, lambda m: m(torch.ones(4, dtype=torch.float64)).sin().sum())
        >>> all(torch.isclose(e.product, found["0.weight"].product) for e in found.values())
        True

    Source: https://kexue.fm/archives/8994, step D3 (the theorem is not in the post).
    """
    names, weights = _matrices(model, parameters)
    with torch.enable_grad():
        loss = _losses(loss_fn(model))
        if not loss.requires_grad:
            raise ValueError("the loss does not depend on any of the matrices")
        grads = torch.autograd.grad(loss.sum(), weights, allow_unused=True, materialize_grads=True)
    found = {}
    for name, weight, g in zip(names, weights, grads, strict=True):
        w, g = weight.detach().flatten(-2), g.detach().flatten(-2)
        dot = torch.linalg.vecdot
        found[name] = EulerProduct(dot(w, g), dot(w, w).sqrt(), dot(g, g))
    return found


def euler_products_plain(
    model: nn.Module,
    loss_fn: Callable[[nn.Module], Tensor],
    *,
    parameters: Callable[[str], bool] | None = None,
) -> dict[str, EulerProduct]:
    r""":func:`euler_products` by its meaning: the derivative of the loss when one matrix alone is scaled.

    :math:`\langle W, \partial L/\partial W\rangle = \frac{d}{ds} L(sW)` at s = 1: one forward-mode derivative for each
    matrix, and the gradient norm from a backward pass for each parameter.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.tensor([[3.0, 1.0]]))
        >>> found = euler_products_plain(layer, lambda m: m(torch.ones(2)).square().sum())["weight"]
        >>> found.product.item(), found.g2.item()  # L = (w₁ + w₂)²
        (32.0, 128.0)

    Source: https://kexue.fm/archives/8994, step D3.
    """
    names, weights = _matrices(model, parameters)
    found, caller = {}, _Caller(model, loss_fn)
    for name, weight in zip(names, weights, strict=True):
        start, stack = weight.detach(), weight.shape[:-2]

        def total(w: Tensor, name: str = name) -> Tensor:
            return _losses(torch.func.functional_call(caller, {f"model.{name}": w}, ())).sum()

        products = []
        for k in range(math.prod(stack)):
            along = torch.zeros_like(start).reshape(-1, *start.shape[-2:])
            along[k] = start.reshape(-1, *start.shape[-2:])[k]
            products.append(torch.func.jvp(total, (start,), (along.view_as(start),))[1].detach())
        g = torch.func.grad(total)(start)
        norm, g2 = start.square().sum((-2, -1)).sqrt(), g.square().sum((-2, -1))
        found[name] = EulerProduct(torch.stack(products).reshape(stack), norm, g2)
    return found


class _Caller(nn.Module):
    """The loss as a module, so that its parameters can be replaced from outside."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self) -> Tensor:
        return self.loss_fn(self.model)


def gradient_bound(product: Tensor, norms: Tensor, *, redistributed: bool = False) -> Tensor:
    r"""The smallest ‖∇L‖² that Euler's products allow a homogeneous chain of N matrices.

    .. math:: \lVert\nabla L\rVert^2 \ge \sum_l \frac{c^2}{\lVert W_l\rVert^2}
              \ge N\,c^2 \Bigl(\prod_l\lVert W_l\rVert\Bigr)^{-2/N}, \qquad c = \langle f, \partial L/\partial f\rangle

    Args:
        product: c, ``(...)``.
        norms: ‖W_l‖ > 0, ``(..., N)``.
        redistributed: the second bound, which no redistribution of scale between the matrices can get below.

    Returns:
        ``(...)``, differentiable.

    Raises:
        ValueError: there is no matrix.

    Example:
        >>> norms = torch.tensor([1.0, 4.0])
        >>> gradient_bound(torch.tensor(2.0), norms), gradient_bound(torch.tensor(2.0), norms, redistributed=True)
        (tensor(4.2500), tensor(2.))

    Source: step D3 of the chapter *why-residual*.
    """
    if norms.dim() < 1 or norms.shape[-1] < 1:
        raise ValueError(f"norms has shape {tuple(norms.shape)}; (..., N) with N >= 1 is needed")
    if redistributed:
        # in logarithms: the product of a thousand norms overflows
        return norms.shape[-1] * product.square() * (-2 * norms.log().mean(-1)).exp()
    return product.square() * norms.square().reciprocal().sum(-1)


def _matrices(model: nn.Module, parameters: Callable[[str], bool] | None) -> tuple[list[str], list[Tensor]]:
    for name, p in model.named_parameters():
        if "bias" in name.rsplit(".", 1)[-1] and bool(p.detach().any()):
            raise ValueError(f"{name} is not zero: a chain with biases is not homogeneous, so its products differ")
    pairs = [
        (name, p)
        for name, p in model.named_parameters()
        if p.requires_grad and p.dim() >= 2 and (parameters is None or parameters(name))
    ]
    if not pairs:
        raise ValueError("no matrix takes part: none requires gradients, or parameters= chooses none")
    return [name for name, _ in pairs], [p for _, p in pairs]


def _losses(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.dim() > 1:
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn gave {found}; a loss () or losses (E,) are needed")
    return loss


# --- the growth of a perturbation ------------------------------------------------------------------------------------


class JacobianGrowth(NamedTuple):
    """What :func:`jacobian_growth` finds.

    Attributes:
        log_gain: ``(N, ...)``: logarithm of the length of the perturbation after each layer, over its length before
            the first; −inf where it has vanished.
        direction: the perturbation after the last layer, scaled to length one (zero where it has vanished).
        output: what the layers make of x.
    """

    log_gain: Tensor
    direction: Tensor
    output: Tensor


def jacobian_growth(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor, v: Tensor) -> JacobianGrowth:
    r"""How N layers stretch a small perturbation v of their input x: the lengths of :math:`v J_1 J_2 \cdots J_l`.

    The perturbation is carried along with x by forward-mode differentiation, one pass for all layers. It is scaled to
    length one after each layer and its logarithm is kept: with ε = 1 the bare product leaves the range of float32
    after some 250 layers.

    Args:
        layers: functions of one tensor that act on the last axis; the width may change.
        x: ``(..., d)``.
        v: perturbations, of x's shape, or ``(P, ..., d)`` for P of them at each point.

    Returns:
        :class:`JacobianGrowth`; without a graph.

    Raises:
        ValueError: v fits neither way, a perturbation is zero or not finite, or there is no layer.
        TypeError: x or v is not floating point.

    Example:
        >>> layers = [lambda h: 3 * h, lambda h: h.square()]
        >>> x, v = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
        >>> jacobian_growth(layers, x, v).log_gain.exp()  # 3, then times 2 · 6
        tensor([ 3., 36.])

    Source: https://kexue.fm/archives/8994, step D6.
    """
    v = _perturbation(x, v)
    with torch.no_grad():
        v, x = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True), x.detach()
        if v.dim() > x.dim():  # x is computed once, not once for each perturbation
            return _carried(layers, x, v, _jvp_of_many)
        if torch.compiler.is_compiling():
            return _carried(layers, x, v, lambda layer, x, v: torch.func.jvp(layer, (x,), (v,))[:2])
        with forward_ad.dual_level():  # the same with less around it
            return _carried(layers, x, v, _jvp_of_one)


_Layer = Callable[[Tensor], Tensor]
_Jvp = Callable[[_Layer, Tensor, Tensor], tuple[Tensor, Tensor]]


def _carried(layers: Iterable[_Layer], x: Tensor, v: Tensor, jvp: _Jvp) -> JacobianGrowth:
    lengths = []
    for layer in layers:
        x, v = jvp(layer, x, v)
        # half precision would cut the logarithm to three digits
        length = torch.linalg.vector_norm(v, dim=-1, keepdim=True, dtype=_at_least_single(v.dtype))
        v = (v / length.clamp_min(_TINY)).to(v.dtype)
        lengths.append(length[..., 0])
    if not lengths:
        raise ValueError("layers is empty; at least one layer is needed")
    return JacobianGrowth(torch.stack(lengths).log().cumsum(0), v, x)


def _jvp_of_one(layer: _Layer, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    y, moved = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, v)))
    return y, torch.zeros_like(y) if moved is None else moved


def _jvp_of_many(layer: _Layer, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    def one(t: Tensor) -> Any:
        return torch.func.jvp(layer, (x,), (t,))[:2]

    y, moved = torch.func.vmap(one, out_dims=(None, 0))(v)  # type: ignore[arg-type]
    return y, moved


def jacobian_growth_plain(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor, v: Tensor) -> JacobianGrowth:
    """:func:`jacobian_growth` by whole Jacobians and their bare products, row by row: its specification.

    Example:
        >>> stretch = torch.tensor([2.0, 5.0])
        >>> jacobian_growth_plain([lambda h: h * stretch], torch.ones(2), torch.eye(2)).log_gain.exp()
        tensor([[2., 5.]])

    Source: https://kexue.fm/archives/8994, step D6.
    """
    v = _perturbation(x, v).detach()
    rows, width = x.detach().reshape(-1, x.shape[-1]), x.shape[:-1]
    moved = v.reshape(-1, len(rows), v.shape[-1])  # (probes, rows, d)
    start = moved.square().sum(-1).sqrt()
    gains = []
    for layer in layers:
        jacobians = torch.stack([torch.autograd.functional.jacobian(layer, row) for row in rows])
        moved = torch.einsum("rij,prj->pri", jacobians, moved)
        rows = torch.stack([layer(row) for row in rows]).detach()
        gains.append((moved.square().sum(-1).sqrt() / start).log().reshape(v.shape[:-1]))
    if not gains:
        raise ValueError("layers is empty; at least one layer is needed")
    length = moved.square().sum(-1, keepdim=True).sqrt()
    direction = torch.where(length > 0, moved / length, 0.0).reshape(*v.shape[:-1], -1)
    return JacobianGrowth(torch.stack(gains), direction, rows.reshape(*width, -1))


def _perturbation(x: Tensor, v: Tensor) -> Tensor:
    for name, t in (("x", x), ("v", v)):
        if not isinstance(t, Tensor) or not t.is_floating_point():
            raise TypeError(
                f"{name} is {t.dtype if isinstance(t, Tensor) else type(t).__name__}; floating point is needed"
            )
    if x.dim() < 1 or v.shape not in (x.shape, (*v.shape[:1], *x.shape)):
        raise ValueError(f"v {tuple(v.shape)} must have the shape of x {tuple(x.shape)}, or that after one more axis")
    if not torch.compiler.is_compiling():  # a look at values would break the graph
        length = torch.linalg.vector_norm(v.detach(), dim=-1)
        if not bool(((length > 0) & length.isfinite()).all()):
            raise ValueError("v has a perturbation that is zero or not finite: its growth is not defined")
    return v.detach().to(x.dtype)


def _at_least_single(dtype: torch.dtype) -> torch.dtype | None:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else None

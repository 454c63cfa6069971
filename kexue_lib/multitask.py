r"""Update directions for several losses: one that lets no loss increase, what it costs, and how losses conflict.

Let :math:`g_i=\nabla_\theta L_i`. A step :math:`-\eta u` changes the loss i by :math:`-\eta\langle g_i,u\rangle` to
first order. The shortest vector u of the convex hull of the gradients serves all of them: :math:`\langle
g_i,u\rangle\ge\|u\|^2`. It is zero exactly where no common descent exists.

* the direction: :func:`common_descent`, from gradients, by way of their :func:`gramian`;
* the gradients: :func:`task_gradients` of any losses, :func:`shared_gradients` where the losses meet in one
  representation (heads on a shared trunk);
* shortcuts and peers: :func:`mgda_ub_weights`, :func:`pcgrad_weights`;
* measures: :func:`conflicts`, :func:`conflicting_pairs`.

The weights come from :mod:`kexue_lib.min_norm`.

Source: Su Jianlin, https://kexue.fm/archives/8896 (2022); the steps are those of the chapter *gradient-direction*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kexue_lib.min_norm import min_norm_weights

__all__ = [
    "NORMALIZATIONS",
    "CommonDescent",
    "SharedGradients",
    "common_descent",
    "conflicting_pairs",
    "conflicts",
    "gramian",
    "gramian_plain",
    "mgda_ub_weights",
    "pcgrad_weights",
    "shared_gradients",
    "task_gradients",
    "task_gradients_plain",
]

NORMALIZATIONS = (None, "l2", "loss")
"""What :func:`common_descent` may divide the gradients by."""

# Columns that are converted and multiplied at once where gradients are in half precision.
_COLUMNS = 2**20

Grads = Tensor | Sequence[Sequence[Tensor | None]]
"""Gradients of n tasks: a tensor (n, p), or for each task one tensor per parameter (None: the task does not use it)."""


class CommonDescent(NamedTuple):
    """The result of :func:`common_descent`.

    Attributes:
        direction: u, to be subtracted: a tensor ``(p,)``, or a tuple of one tensor per parameter.
        weights: α on the simplex, of the normalised gradients, ``(n,)``.
        coefficients: c with u = Σ c_i g_i in terms of the gradients as given, ``(n,)``.
    """

    direction: Any
    weights: Tensor
    coefficients: Tensor


class SharedGradients(NamedTuple):
    """The result of :func:`shared_gradients`.

    Attributes:
        losses: ``(n,)``, detached.
        representation: ∇_H L_i for each task, ``(n, *H.shape)``.
        parameters: for each parameter of the trunk the n gradients, ``(n, *shape)`` each; None where not asked for.
    """

    losses: Tensor
    representation: Tensor
    parameters: tuple[Tensor, ...] | None

    def _of_trunk(self) -> tuple[Tensor, ...]:
        if self.parameters is None:
            raise ValueError("the gradients of the trunk were not computed: give parameters= to shared_gradients")
        return self.parameters

    def matrix(self) -> Tensor:
        """The gradients of the trunk as one matrix ``(n, p)``; this copies them."""
        return torch.cat([g.reshape(len(g), -1) for g in self._of_trunk()], dim=1)

    def gramian(self, *, dtype: torch.dtype | None = None) -> Tensor:
        """The inner products of the trunk's gradients, ``(n, n)``; see :func:`gramian`. Nothing is copied."""
        return torch.stack([gramian(g.reshape(len(g), -1), dtype=dtype) for g in self._of_trunk()]).sum(0)

    def combined(self, coefficients: Tensor) -> tuple[Tensor, ...]:
        """The update Σ c_i g_i of the trunk, one tensor per parameter, for ``coefficients (n,)``."""
        return tuple(_combined(g.reshape(len(g), -1), coefficients).reshape(g.shape[1:]) for g in self._of_trunk())


# ----------------------------------------------------------------------------------------------------------------------
# Checks
# ----------------------------------------------------------------------------------------------------------------------


def _check_matrix(name: str, grads: Tensor) -> None:
    if not grads.is_floating_point():
        raise TypeError(f"{name} has dtype {grads.dtype}; a floating-point tensor is needed")
    if grads.dim() != 2 or grads.shape[0] == 0:
        raise ValueError(f"{name} has shape {tuple(grads.shape)}, not (tasks, parameters)")


def _columns(grads: Sequence[Sequence[Tensor | None]]) -> list[list[Tensor | None]]:
    """The gradients by parameter: for each parameter those of all tasks."""
    if not isinstance(grads, Sequence) or not grads:
        raise TypeError(f"grads is {type(grads).__name__}; give a tensor (n, p) or a list of one tuple for each task")
    tasks = [list(task) for task in grads]
    counts = [len(task) for task in tasks]
    if len(set(counts)) > 1:
        raise ValueError(f"the tasks have gradients of {counts} parameters; the same parameters are needed for all")
    columns = [list(column) for column in zip(*tasks, strict=True)]
    for k, column in enumerate(columns):
        shapes = {tuple(g.shape) for g in column if g is not None}
        if len(shapes) > 1:
            raise ValueError(f"the gradients of parameter {k} have the shapes {sorted(shapes)}; they have to agree")
    if not any(g is not None for column in columns for g in column):
        raise ValueError("every gradient is None: no task uses any of the parameters")
    return columns


def _accumulator(dtypes: Sequence[torch.dtype], dtype: torch.dtype | None) -> torch.dtype:
    return dtype or (torch.float64 if torch.float64 in dtypes else torch.float32)


# ----------------------------------------------------------------------------------------------------------------------
# The Gram matrix
# ----------------------------------------------------------------------------------------------------------------------


def gramian(grads: Grads, *, dtype: torch.dtype | None = None) -> Tensor:
    r"""The inner products of the gradients, :math:`K_{ij}=\langle g_i,g_j\rangle`: all that the weights depend on.

    One pass over the gradients, O(n² p). Gradients in half precision are converted by blocks of columns, so that no
    second copy of all of them is made.

    Args:
        grads: ``(n, p)``, or for each task one tensor per parameter (None counts as zero).
        dtype: of the accumulation and the result; by default float64 for float64 gradients, else float32.

    Returns:
        ``(n, n)``, exactly symmetric.

    Raises:
        ValueError, TypeError: shapes that do not fit, no gradient at all, integers.

    Example:
        >>> gramian(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        tensor([[5., 3.],
                [3., 9.]])
        >>> gramian([(torch.tensor([1.0]), torch.tensor([2.0])), (torch.tensor([3.0]), None)])
        tensor([[5., 3.],
                [3., 9.]])

    Source: https://kexue.fm/archives/8896, step D9.
    """
    if isinstance(grads, Tensor):
        _check_matrix("grads", grads)
        made = _accumulator([grads.dtype], dtype)
        with torch.autocast(grads.device.type, enabled=False):  # it would round the products to half precision
            if grads.dtype == made or grads.shape[1] <= _COLUMNS:
                wide = grads.to(made)
                return _symmetric(wide @ wide.T)
            total = torch.zeros(grads.shape[0], grads.shape[0], dtype=made, device=grads.device)
            for block in grads.split(_COLUMNS, dim=1):
                wide = block.to(made)
                total = total + wide @ wide.T
            return _symmetric(total)
    columns = _columns(grads)
    some = [next((g for g in column if g is not None), None) for column in columns]
    made = _accumulator([g.dtype for g in some if g is not None], dtype)
    sums: Tensor | None = None
    for column, like in zip(columns, some, strict=True):
        if like is None:
            continue
        flat = torch.stack([torch.zeros_like(like) if g is None else g for g in column]).reshape(len(column), -1)
        part = gramian(flat, dtype=made)
        sums = part if sums is None else sums + part
    assert sums is not None  # _columns has refused that
    return sums


def _symmetric(k: Tensor) -> Tensor:
    return (k + k.T) / 2


def gramian_plain(grads: Grads) -> Tensor:
    """The plain form of :func:`gramian`: n² inner products, each summed over the parameters, in float64.

    >>> gramian_plain(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    tensor([[5., 3.],
            [3., 9.]], dtype=torch.float64)

    Source: https://kexue.fm/archives/8896, step D9.
    """
    rows: Sequence[Sequence[Tensor | None]] = [[row] for row in grads] if isinstance(grads, Tensor) else grads

    def product(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> Tensor:
        parts = [(x.double() * y.double()).sum() for x, y in zip(a, b, strict=True) if x is not None and y is not None]
        return torch.stack(parts).sum() if parts else torch.zeros((), dtype=torch.float64)

    return torch.stack([torch.stack([product(a, b) for b in rows]) for a in rows])


# ----------------------------------------------------------------------------------------------------------------------
# The direction
# ----------------------------------------------------------------------------------------------------------------------


def _combined(grads: Grads, coefficients: Tensor) -> Any:
    if isinstance(grads, Tensor):
        with torch.autocast(grads.device.type, enabled=False):
            return coefficients.to(grads.dtype) @ grads
    result: list[Tensor | None] = []
    for column in _columns(grads):
        like = next((g for g in column if g is not None), None)
        if like is None:
            result.append(None)
            continue
        used = [(c, g) for c, g in zip(coefficients.unbind(), column, strict=True) if g is not None]
        total = used[0][0].to(like.dtype) * used[0][1]
        for c, g in used[1:]:
            total = total + c.to(like.dtype) * g
        result.append(total)
    return tuple(result)


def common_descent(
    grads: Grads,
    *,
    normalize: str | None = "l2",
    losses: Tensor | None = None,
    gram: Tensor | None = None,
) -> CommonDescent:
    r"""A direction that increases no loss to first order: the shortest vector in the hull of the (scaled) gradients.

    .. math:: u=\sum_i\alpha_i\,s_i g_i,\qquad \alpha=\arg\min_{\alpha\in\Delta}\Bigl\|\sum_i\alpha_i s_i g_i\Bigr\|^2,
              \qquad \langle s_i g_i,u\rangle\ge\|u\|^2 \text{ for all } i

    ============ ================== ==================================================================================
    normalize    :math:`s_i`        what it means
    ============ ================== ==================================================================================
    ``"l2"``     1/‖g_i‖            losses may be shifted and multiplied by constants: u does not change. Recommended
    ``"loss"``   1/L_i              gradients of log L_i: multiplied, not shifted; needs positive losses
    ``None``     1                  MGDA: shifted, not multiplied. A task with large gradients gets little weight: all
                                    active losses fall by the same amount, each in its own unit
    ============ ================== ==================================================================================

    Args:
        grads: ``(n, p)``, or for each task one tensor per parameter (None where it does not use it).
        normalize: see the table.
        losses: ``(n,)``, positive; for ``"loss"``.
        gram: the :func:`gramian` of ``grads`` (not normalised), if it is known already.

    Returns:
        :class:`CommonDescent`: subtract a multiple of ``direction`` from the parameters. It is zero if and only if the
        point is Pareto stationary (to rounding: see :func:`kexue_lib.min_norm.min_norm_weights`).

    Raises:
        ValueError: an unknown normalisation, losses that are missing, not positive or not n, shapes that do not fit.

    Hazards:
        The guarantee is for a small plain gradient step. Adam and momentum change the direction: check
        :func:`conflicts` of what is really subtracted. If *one* gradient is zero, u is zero, however large the others
        are. The length of u depends on the normalisation: for ``"l2"`` it is at most 1. With mini-batches the weights
        depend on the same noise as the gradients.

    Example:
        >>> found = common_descent(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), normalize=None)
        >>> found.direction, found.weights
        (tensor([0.4000, 0.8000]), tensor([0.2000, 0.8000]))
        >>> common_descent(torch.tensor([[2.0, 0.0], [0.0, 1.0]])).direction
        tensor([0.5000, 0.5000])

    Source: https://kexue.fm/archives/8896, step D4; Désidéri (2012); for ``"l2"`` https://kexue.fm/archives/8870.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize={normalize!r} is not known; choose one of {', '.join(map(repr, NORMALIZATIONS))}")
    k = gramian(grads) if gram is None else gram
    n = k.shape[0]
    if len(grads) != n:
        raise ValueError(f"gram has shape {tuple(k.shape)}, but there are {len(grads)} tasks")
    if normalize == "l2":
        lengths = k.diagonal().clamp(min=0).sqrt()
        scale = torch.where(lengths > 0, 1 / torch.where(lengths > 0, lengths, 1.0), 0.0)
    elif normalize == "loss":
        scale = 1 / _positive_losses(losses, n).to(k)
    else:
        scale = torch.ones_like(k[0])
    weights = min_norm_weights(scale[:, None] * k * scale)
    coefficients = weights * scale
    return CommonDescent(_combined(grads, coefficients), weights, coefficients)


def _positive_losses(losses: Tensor | None, n: int) -> Tensor:
    if losses is None:
        raise ValueError("normalize='loss' needs losses, a tensor of the n losses")
    if losses.shape != (n,):
        raise ValueError(f"losses has shape {tuple(losses.shape)}, not ({n},)")
    if not torch.compiler.is_compiling() and losses.device.type == "cpu" and not bool((losses > 0).all()):
        raise ValueError(f"losses = {losses.tolist()} are not all positive; normalize='l2' needs no sign")
    return losses.detach()


def mgda_ub_weights(representation_grads: Tensor) -> Tensor:
    r"""MGDA-UB: the min-norm weights of the gradients with respect to a shared representation.

    .. math:: \alpha=\arg\min_{\alpha\in\Delta}\Bigl\|\sum_i\alpha_i\nabla_H L_i\Bigr\|^2,
              \qquad u=\sum_i\alpha_i\nabla_\theta L_i

    One backward pass through the trunk is enough, with the cotangent :math:`\sum_i\alpha_i\nabla_HL_i`.

    **Descent is not guaranteed**, not even if :math:`\nabla_\theta H` has full rank: a loss may increase (step D11 has
    an example with two tasks and two parameters). What holds: the weighted loss :math:`\sum_i\alpha_iL_i` decreases,
    and for a full-rank trunk u is zero exactly at Pareto stationary points.

    Where every sample carries the label of one task only, the gradients with respect to H are orthogonal, and the
    weights are :math:`\alpha_i\propto1/\|\nabla_HL_i\|^2`: no interaction is left (step D10).

    Args:
        representation_grads: :math:`\nabla_HL_i`, ``(n, ...)``: :func:`shared_gradients` gives them.

    Returns:
        ``(n,)`` on the simplex, in the dtype of the Gram matrix (float32, or float64 for float64).

    Example:
        >>> mgda_ub_weights(torch.tensor([[1.0, 1.0], [-1.0, 4.0]]))
        tensor([1., 0.])

    Source: https://kexue.fm/archives/8896, steps D10 and D11; arXiv 1810.04650.
    """
    if not isinstance(representation_grads, Tensor) or representation_grads.dim() < 2:
        shape = getattr(representation_grads, "shape", type(representation_grads).__name__)
        raise ValueError(f"representation_grads is {shape}, not a tensor (tasks, ...)")
    return min_norm_weights(gramian(representation_grads.flatten(1)))


def pcgrad_weights(gram: Tensor, *, generator: torch.Generator | None = None, order: Tensor | None = None) -> Tensor:
    r"""PCGrad: the coefficients of the sum of gradients, each freed from what conflicts with the others.

    For each i, start with :math:`g_i`; for all j ≠ i in random order, if the inner product with :math:`g_j` is
    negative, remove the component along :math:`g_j`. The update is the sum over i. All of it happens in the span of the
    gradients, so that the Gram matrix is enough: O(n³), and the n loops run side by side.

    For n = 2 nothing is random, and the result increases no loss. For n ≥ 3 a later projection may undo an earlier one.

    Args:
        gram: ``(n, n)``.
        generator: for the orders, on the CPU.
        order: ``(n, n)`` integers instead: row i is the order for task i (a permutation of all tasks; i is skipped).

    Returns:
        c with u = Σ c_i g_i, ``(n,)``. They are no convex weights: they add up to n or more.

    Example:
        >>> pcgrad_weights(torch.tensor([[1.0, -0.5], [-0.5, 1.0]]))
        tensor([1.5000, 1.5000])

    Source: arXiv 2001.06782; it is not in the post.
    """
    if not isinstance(gram, Tensor) or gram.dim() != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise ValueError(f"gram is {getattr(gram, 'shape', type(gram).__name__)}, not a tensor (n, n)")
    n = len(gram)
    if order is None:
        keys = torch.rand(n, n, generator=generator, device=generator.device if generator is not None else "cpu")
        order = keys.argsort(-1)
    elif order.shape != (n, n):
        raise ValueError(f"order has shape {tuple(order.shape)}, not ({n}, {n})")
    order = order.to(gram.device)
    rows = torch.arange(n, device=gram.device)
    c = torch.eye(n, dtype=gram.dtype, device=gram.device)
    squares = gram.diagonal()
    for j in order.unbind(-1):
        product = (c * gram[j]).sum(-1)
        remove = (product < 0) & (j != rows) & (squares[j] > 0)
        amount = torch.where(remove, product / torch.where(remove, squares[j], 1.0), 0.0)
        c = c.scatter_add(-1, j[:, None], -amount[:, None])
    return c.sum(0)


# ----------------------------------------------------------------------------------------------------------------------
# The gradients
# ----------------------------------------------------------------------------------------------------------------------


def task_gradients(losses: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of n losses in one backward pass, batched over one-hot cotangents.

    The whole graph is walked once, with an extra axis of n. Memory for the gradients grows with n. If the losses meet
    in a shared representation, :func:`shared_gradients` is cheaper: there the heads are not walked n times.

    Args:
        losses: ``(n,)``, such as ``torch.stack([loss_1, loss_2])``.
        parameters: tensors that require gradients.

    Returns:
        for each parameter ``(n, *shape)``; zero where a loss does not depend on it. The graph is freed.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> task_gradients(torch.stack([x.sum(), (x**2).sum()]), [x])[0]
        tensor([[1., 1.],
                [2., 4.]])

    Source: https://kexue.fm/archives/8896, step D9.
    """
    if losses.dim() != 1:
        raise ValueError(f"losses has shape {tuple(losses.shape)}, not (n,); use torch.stack")
    eye = torch.eye(len(losses), dtype=losses.dtype, device=losses.device)
    found = torch.autograd.grad(losses, list(parameters), eye, is_grads_batched=True, allow_unused=True)
    return tuple(
        p.new_zeros((len(losses), *p.shape)) if g is None else g for g, p in zip(found, parameters, strict=True)
    )


def task_gradients_plain(losses: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The plain form of :func:`task_gradients`: n backward passes, one after the other.

    >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> task_gradients_plain(torch.stack([x.sum(), (x**2).sum()]), [x])[0]
    tensor([[1., 1.],
            [2., 4.]])
    """
    rows = [
        torch.autograd.grad(loss, list(parameters), retain_graph=k < len(losses) - 1, allow_unused=True)
        for k, loss in enumerate(losses.unbind())
    ]
    return tuple(
        torch.stack([torch.zeros_like(p) if row[k] is None else row[k] for row in rows])
        for k, p in enumerate(parameters)
    )


def shared_gradients(
    representation: Tensor,
    heads: Sequence[Callable[[Tensor], Tensor]],
    parameters: Sequence[Tensor] | None = None,
    *,
    retain_graph: bool = False,
) -> SharedGradients:
    r"""The gradients of n losses that meet in a shared representation H, in one batched backward pass.

    With a single H one backward pass would give the *sum* of the gradients. So every head gets its own copy of H, cut
    off from the trunk. One backward pass of the sum of all losses then leaves :math:`\nabla_HL_i` in copy i, and the
    gradients of the heads (each of its own loss) in their ``.grad``, added to what was there. The trunk is walked once
    more, with the n cotangents as a batch: :math:`g_i=\nabla_HL_i\,\nabla_\theta H`.

    Args:
        representation: H, any shape, made by the trunk. If ``parameters`` is None it need not have a graph.
        heads: n functions of H that give a loss each (a tensor without axes).
        parameters: of the trunk. None: stop at H, which is all that :func:`mgda_ub_weights` needs.
        retain_graph: keep the graph of the trunk, for another backward pass.

    Returns:
        :class:`SharedGradients`.

    Raises:
        ValueError: no head; a head that gives more than one number; a trunk without graph.

    Example:
        >>> theta = torch.tensor([[2.0, 1.0]], requires_grad=True)
        >>> h = theta * torch.tensor([[10.0, 1.0]])
        >>> found = shared_gradients(h, [lambda h: h.sum(), lambda h: (h**2).sum() / 2], [theta])
        >>> found.representation.tolist()
        [[[1.0, 1.0]], [[20.0, 1.0]]]
        >>> found.matrix()
        tensor([[ 10.,   1.],
                [200.,   1.]])

    Source: https://kexue.fm/archives/8896, step D10.
    """
    if not heads:
        raise ValueError("heads is empty; give one function of the representation for each task")
    if parameters is not None and not representation.requires_grad:
        raise ValueError("the representation has no graph; make it by the trunk, without torch.no_grad()")
    copies = [representation.detach().requires_grad_() for _ in heads]
    with torch.enable_grad():
        losses = [head(copy) for head, copy in zip(heads, copies, strict=True)]
    for k, loss in enumerate(losses):
        if loss.numel() != 1:
            raise ValueError(f"head {k} gives a tensor of shape {tuple(loss.shape)}, not one number")
    torch.autograd.backward(losses)
    cotangents = torch.stack([torch.zeros_like(c) if c.grad is None else c.grad for c in copies])
    values = torch.stack([loss.detach().reshape(()) for loss in losses])
    if parameters is None:
        return SharedGradients(values, cotangents, None)
    found = torch.autograd.grad(
        representation,
        list(parameters),
        cotangents,
        is_grads_batched=True,
        allow_unused=True,
        retain_graph=retain_graph,
    )
    made = tuple(
        p.new_zeros((len(heads), *p.shape)) if g is None else g for g, p in zip(found, parameters, strict=True)
    )
    return SharedGradients(values, cotangents, made)


# ----------------------------------------------------------------------------------------------------------------------
# Measures
# ----------------------------------------------------------------------------------------------------------------------


def conflicts(grads: Tensor, u: Tensor, *, tol: float = 1e-9) -> Tensor:
    r"""Which losses a step along −u increases: :math:`\langle g_i,u\rangle<-\mathrm{tol}\,\|g_i\|\,\|u\|`.

    Args:
        grads: ``(..., n, p)``.
        u: ``(..., p)``: what is subtracted. For an optimizer that changes the direction, what it subtracts.
        tol: how negative the cosine may be by rounding; use about 1e-5 for float32.

    Returns:
        ``(..., n)`` boolean; ``.any(-1)`` says whether some loss increases, ``.float().mean()`` is a rate.

    Example:
        >>> conflicts(torch.tensor([[1.0, 0.0], [-1.0, 0.1]]), torch.tensor([1.0, 0.0]))
        tensor([False,  True])

    Source: https://kexue.fm/archives/8896, step D1.
    """
    if grads.dim() < 2 or u.shape[-1:] != grads.shape[-1:]:
        raise ValueError(f"grads {tuple(grads.shape)} and u {tuple(u.shape)} must be (..., n, p) and (..., p)")
    products = (grads @ u[..., None])[..., 0]
    bound = tol * torch.linalg.vector_norm(grads, dim=-1) * torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    return products < -bound


def conflicting_pairs(gram: Tensor) -> Tensor:
    """How many pairs of gradients have a negative inner product, from the Gram matrix ``(..., n, n)``.

    >>> conflicting_pairs(torch.tensor([[1.0, -1.0, 2.0], [-1.0, 5.0, 0.0], [2.0, 0.0, 4.0]]))
    tensor(1)
    """
    if gram.dim() < 2 or gram.shape[-1] != gram.shape[-2]:
        raise ValueError(f"gram has shape {tuple(gram.shape)}, not (..., n, n)")
    return (gram.triu(1) < 0).sum((-2, -1))

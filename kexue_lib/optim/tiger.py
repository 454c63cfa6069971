"""Tiger: the sign of a momentum, one buffer, and gradient accumulation inside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .signs import SignMomentum, check_number, chosen, guarded, relative_size

__all__ = ["Tiger", "tiger_step_plain"]


def tiger_step_plain(
    theta: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    *,
    lr: float | Tensor,
    beta: float = 0.965,
    weight_decay: float = 0.01,
    scale: str | None = "auto",
    min_rms: float = 0.0,
    shrink_ratio: float | None = 0.99,
    center: float = 0.0,
    grad_accum_steps: int = 1,
    micro_step: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""One micro-step of Tiger as its formulas say (plain form).

    .. math::
        m \leftarrow \beta_t\, m + \tfrac{1-\beta}{k}\, g, \qquad
        \theta \leftarrow \theta - \eta\,(\operatorname{sign} m + \lambda\theta)

    with :math:`\beta_t = \beta` on the first micro-step of a block and 1 on the others; :math:`\theta` moves on the
    last one only (step D2 of the chapter *tiger-optimizer*).

    Args:
        theta: the parameter, any shape.
        momentum: its buffer, the same shape.
        gradient: of this micro-batch, the same shape.
        lr, beta, weight_decay, scale, min_rms, shrink_ratio, center, grad_accum_steps: see :class:`Tiger`.
        micro_step: place in the block, from 0.

    Returns:
        New parameter and new momentum. The inputs are not changed.

    Example:
        >>> theta, m = torch.tensor([1.0, -2.0]), torch.zeros(2)
        >>> theta, m = tiger_step_plain(theta, m, torch.tensor([3.0, 0.0]), lr=0.1, scale=None, weight_decay=0.0)
        >>> theta
        tensor([ 0.9000, -2.0000])
        >>> tiger_step_plain(theta, m, torch.tensor([3.0, float("nan")]), lr=0.1)[0]  # a bad gradient: shrink
        tensor([ 0.8910, -1.9800])

    Source: https://kexue.fm/archives/9512, steps D1, D2 and D7.
    """
    first, last = micro_step == 0, micro_step == grad_accum_steps - 1
    new = (beta if first else 1.0) * momentum + (1.0 - beta) / grad_accum_steps * gradient
    eta = lr * relative_size(theta, scale, min_rms)
    moved = theta - eta * (new.sign() + weight_decay * theta) if last else theta
    if shrink_ratio is not None:
        ok = gradient.isfinite().all()
        new = torch.where(ok, new, momentum)
        moved = torch.where(ok, moved, (theta - center) * shrink_ratio + center)
    return moved, new


class Tiger(SignMomentum):
    r"""Tiger: SIGNUM with decoupled weight decay, relative step sizes and accumulation inside the momentum.

    .. math::
        m_t = \beta_t\, m_{t-1} + \tfrac{1-\beta}{k}\, g_t, \qquad
        \theta_t = \theta_{t-1} - \eta\,(\operatorname{sign} m_t + \lambda\theta_{t-1})

    A block has k micro-steps (calls of ``step()``). The momentum decays on the first one, :math:`\beta_t = \beta`, else
    :math:`\beta_t = 1`; parameters move on the last one. The result is that of one step with the mean gradient of the
    block (step D2). The step size is relative to the parameter:

    =============== =========================================================================================
    ``scale``       :math:`\eta`
    =============== =========================================================================================
    ``"rms"``       ``lr`` · root mean square of the tensor
    ``"rms_rows"``  ``lr`` · root mean square of each row (last axis): embeddings
    ``"half"``      ``lr`` / 2: biases, and weights of norms
    ``"auto"``      ``"half"`` for at most one axis, else ``"rms"``
    None            ``lr``: SIGNUM, or Lion with equal betas
    =============== =========================================================================================

    Args:
        params: parameters or groups; every option below may be an option of a group.
        lr: learning rate, >= 0; a number or a 0-d tensor (a compiled step is compiled anew for each other number). With
            a relative scale the author recommends 0.001 to 0.002 for long runs; a hundred steps need more.
        beta: decay of the momentum, in [0, 1); the author has 0.965 for language and 0.945 for images.
        weight_decay: :math:`\lambda \ge 0`, multiplied by :math:`\eta`.
        grad_accum_steps: k, micro-steps in a block, >= 1. Constant during a block.
        shrink_ratio: a tensor whose gradient has an entry that is not finite is not updated in that micro-step but
            shrunk, :math:`\theta \leftarrow (\theta - c)\, s + c`, and its momentum stays as it is (step D7). 1: only
            skip. None: no test, which saves one pass over the gradients.
        scale: see the table.
        min_rms: lower limit of the root mean square; for tensors that start at zero.
        center: c, the value that ``shrink_ratio`` shrinks to: 1 for the weight of a norm.
        state_dtype: dtype of the momentum, default that of the parameter; float32 for parameters in half precision.
        foreach: False for the plain loop, else the fast form.
        rounding: ``"nearest"``, or ``"stochastic"`` for bfloat16 parameters.
        generator: of the stochastic rounding.

    Raises:
        ValueError: an option is out of range, or ``scale`` or ``rounding`` is not known.
        TypeError: complex parameters, sparse gradients, an option of a wrong type.

    Hazards:
        A tensor of zeros with a relative scale never moves: set ``min_rms``, or use ``"half"``. ``lr`` is relative:
        the same number is about 30 times too large for ``scale=None``. With k > 1 a parameter that has a momentum and
        no gradient in a micro-step counts as having gradient 0 there. ``.grad`` itself is an accumulation buffer:
        memory is saved only if gradients are dropped after each micro-step, best by
        :func:`~kexue_lib.optim.attach_accumulation_hooks`. All entries of a tensor move by the same amount, so ``lr``
        has to go to 0 at the end. In half precision many steps are rounded away (step D6).

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([[0.3, -0.4]]))
        >>> optimizer = Tiger([w], lr=0.01, weight_decay=0.0)
        >>> w.grad = torch.tensor([[2.0, 5.0]])
        >>> optimizer.step()
        >>> w.data  # moved by 0.01 · RMS = 0.01 · 0.3536
        tensor([[ 0.2965, -0.4035]])
        >>> [tuple(state) for state in optimizer.state.values()]
        [('exp_avg',)]

    Source: https://kexue.fm/archives/9512; SIGNUM is arXiv 1802.04434, Lion arXiv 2302.06675. Plain form:
    :func:`tiger_step_plain`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        beta: float = 0.965,
        weight_decay: float = 0.01,
        grad_accum_steps: int = 1,
        shrink_ratio: float | None = 0.99,
        *,
        scale: str | None = "auto",
        min_rms: float = 0.0,
        center: float = 0.0,
        state_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        rounding: str = "nearest",
        generator: torch.Generator | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta": beta,
            "weight_decay": weight_decay,
            "grad_accum_steps": grad_accum_steps,
            "micro_step": 0,
            "shrink_ratio": shrink_ratio,
            "scale": scale,
            "min_rms": min_rms,
            "center": center,
            "state_dtype": state_dtype,
            "foreach": foreach,
            "rounding": rounding,
            "generator": generator,
        }
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        check_number("beta", group["beta"], lambda x: 0 <= x < 1, "in [0, 1)")
        k = group["grad_accum_steps"]
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"grad_accum_steps={k!r} ({type(k).__name__}) must be an integer >= 1")
        if k < 1:
            raise ValueError(f"grad_accum_steps={k} must be an integer >= 1")

    def _plain(
        self, group: dict[str, Any], theta: Tensor, m: Tensor, g: Tensor, scale: str | None
    ) -> tuple[Tensor, Tensor]:
        names = ("lr", "beta", "weight_decay", "min_rms", "shrink_ratio", "center", "grad_accum_steps", "micro_step")
        return tiger_step_plain(theta, m, g, scale=scale, **{name: group[name] for name in names})

    def _advance(
        self, group: dict[str, Any], momenta: list[Tensor], grads: list[Tensor], oks: list[Tensor] | None, last: bool
    ) -> list[Tensor]:
        self._fold(group, momenta, grads, oks, group["micro_step"] == 0)
        if not last:
            return []
        return [momenta[0].sign()] if len(momenta) == 1 else list(torch._foreach_sign(momenta))

    @staticmethod
    def _fold(
        group: dict[str, Any], momenta: list[Tensor], grads: list[Tensor], oks: list[Tensor] | None, first: bool
    ) -> None:
        """The momentum of one micro-step; a tensor with a bad gradient keeps its own."""
        beta, k = group["beta"], group["grad_accum_steps"]
        if k == 1 and len(momenta) == 1:
            momenta[0].lerp_(guarded(oks, grads, momenta)[0], 1.0 - beta)
            return
        if k == 1:
            torch._foreach_lerp_(momenta, guarded(oks, grads, momenta), 1.0 - beta)
            return
        if first and oks is None:
            torch._foreach_mul_(momenta, beta)
        elif first and oks is not None:
            torch._foreach_mul_(momenta, chosen(oks, beta, 1.0, momenta))
        torch._foreach_add_(momenta, guarded(oks, grads, None), alpha=(1.0 - beta) / k)

    @torch.no_grad()
    def fold(self, p: Tensor) -> None:
        """Fold ``p.grad`` into the momentum now and drop it; the next ``step()`` does the rest of the micro-step.

        The work of :func:`~kexue_lib.optim.attach_accumulation_hooks`. Calling it twice before a step is an error.
        """
        group = next((g for g in self.param_groups if any(p is q for q in g["params"])), None)
        if group is None or p.grad is None:
            raise ValueError("fold needs a parameter of this optimizer that has a gradient")
        self._fold_into(group, p)

    def _fold_into(self, group: dict[str, Any], p: Tensor) -> None:
        grad = p.grad
        if p in self._folded:
            raise RuntimeError("a gradient was folded already: call step() after every backward pass")
        if grad is None or grad.is_sparse:
            raise TypeError("a gradient is missing or sparse; use dense gradients (Embedding(sparse=False))")
        state = self.state[p]
        if not state:
            state["exp_avg"] = self._new_momentum(group, p)
        m = state["exp_avg"]
        oks = self._finite([grad]) if group["shrink_ratio"] is not None and grad.numel() else None
        self._fold(group, [m], [grad.to(m.dtype)], oks, group["micro_step"] == 0)
        self._folded[p] = None if oks is None else oks[0]
        p.grad = None

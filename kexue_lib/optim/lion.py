"""Lion: the sign of an interpolation between momentum and gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .signs import SignMomentum, check_number, guarded, relative_size

__all__ = ["Lion", "lion_step_plain"]


def lion_step_plain(
    theta: Tensor,
    momentum: Tensor,
    gradient: Tensor,
    *,
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    scale: str | None = None,
    min_rms: float = 0.0,
    shrink_ratio: float | None = None,
    center: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""One step of Lion as its formulas say (plain form).

    .. math::
        \theta \leftarrow \theta - \eta\,(\operatorname{sign}(\beta_1 m + (1-\beta_1) g) + \lambda\theta), \qquad
        m \leftarrow \beta_2 m + (1-\beta_2) g

    Args:
        theta: the parameter, any shape.
        momentum: its buffer, the same shape.
        gradient: the same shape.
        lr, betas, weight_decay, scale, min_rms, shrink_ratio, center: see :class:`Lion`.

    Returns:
        New parameter and new momentum. The inputs are not changed.

    Example:
        >>> theta, m = lion_step_plain(torch.ones(2), torch.zeros(2), torch.tensor([3.0, -1.0]), lr=0.1)
        >>> theta
        tensor([0.9000, 1.1000])

    Source: Lion, arXiv 2302.06675; https://kexue.fm/archives/9473. Step D3 of the chapter *tiger-optimizer*.
    """
    first, second = betas
    direction = (first * momentum + (1.0 - first) * gradient).sign()
    new = second * momentum + (1.0 - second) * gradient
    eta = lr * relative_size(theta, scale, min_rms)
    moved = theta - eta * (direction + weight_decay * theta)
    if shrink_ratio is not None:
        ok = gradient.isfinite().all()
        new = torch.where(ok, new, momentum)
        moved = torch.where(ok, moved, (theta - center) * shrink_ratio + center)
    return moved, new


class Lion(SignMomentum):
    r"""Lion: sign of an interpolated momentum, with decoupled weight decay.

    .. math::
        \theta_t = \theta_{t-1} - \eta\,(\operatorname{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t) + \lambda\theta_{t-1}),
        \qquad m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t

    For equal betas it is :class:`~kexue_lib.optim.Tiger` (step D1). For different ones gradients cannot be accumulated
    inside the momentum (step D3), so there is no such option.

    Args:
        params: parameters or groups; every option below may be an option of a group.
        lr: learning rate, >= 0; a number or a 0-d tensor.
        betas: :math:`(\beta_1, \beta_2)`, both in [0, 1).
        weight_decay: :math:`\lambda \ge 0`, multiplied by :math:`\eta`.
        scale, min_rms, shrink_ratio, center, state_dtype, foreach, rounding, generator: as for
            :class:`~kexue_lib.optim.Tiger`, but by default with plain learning rates and without the finite test.

    Raises:
        ValueError: an option is out of range, or ``scale`` or ``rounding`` is not known.
        TypeError: complex parameters, sparse gradients, an option of a wrong type.

    Hazards:
        With ``scale`` the learning rate is relative. An entry whose momentum keeps its sign goes on moving, however
        small the momentum is (step D5).

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = Lion([w], lr=0.1)
        >>> w.grad = torch.tensor([3.0, -1.0])
        >>> optimizer.step()
        >>> w.data
        tensor([-0.1000,  0.1000])

    Source: arXiv 2302.06675. Plain form: :func:`lion_step_plain`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        scale: str | None = None,
        min_rms: float = 0.0,
        shrink_ratio: float | None = None,
        center: float = 0.0,
        state_dtype: torch.dtype | None = None,
        foreach: bool | None = None,
        rounding: str = "nearest",
        generator: torch.Generator | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
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
        betas = group["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"betas={betas!r} must be two numbers (beta1, beta2)")
        for name, value in zip(("beta1", "beta2"), betas, strict=True):
            check_number(name, value, lambda x: 0 <= x < 1, "in [0, 1)")
        if group.get("grad_accum_steps", 1) != 1:
            raise ValueError(
                f"grad_accum_steps={group['grad_accum_steps']}: Lion with one buffer cannot accumulate inside its "
                "momentum; accumulate in .grad, or use Tiger"
            )

    def _plain(
        self, group: dict[str, Any], theta: Tensor, m: Tensor, g: Tensor, scale: str | None
    ) -> tuple[Tensor, Tensor]:
        names = ("lr", "betas", "weight_decay", "min_rms", "shrink_ratio", "center")
        return lion_step_plain(theta, m, g, scale=scale, **{name: group[name] for name in names})

    def _advance(
        self, group: dict[str, Any], momenta: list[Tensor], grads: list[Tensor], oks: list[Tensor] | None, last: bool
    ) -> list[Tensor]:
        first, second = group["betas"]
        grads = guarded(oks, grads, momenta)
        if len(momenta) == 1:  # the calls of one tensor cost less
            direction = momenta[0].lerp(grads[0], 1.0 - first).sign_()
            momenta[0].lerp_(grads[0], 1.0 - second)
            return [direction]
        directions = list(torch._foreach_lerp(momenta, grads, 1.0 - first))
        torch._foreach_sign_(directions)
        torch._foreach_lerp_(momenta, grads, 1.0 - second)
        return directions

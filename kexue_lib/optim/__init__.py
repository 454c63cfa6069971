"""Optimizers of the chapters, and what belongs to them: parameter groups, schedules, accumulation, rounding.

* :class:`Tiger` and :class:`Lion`, which follow the sign of a momentum, with learning rates relative to the size of the
  parameters; their plain forms :func:`tiger_step_plain` and :func:`lion_step_plain`,
* :func:`tiger_param_groups`: which parameter gets which scale, decay and centre,
* :func:`piecewise_linear_schedule` for ``torch.optim.lr_scheduler.LambdaLR``,
* :func:`attach_accumulation_hooks`, which frees each gradient during the backward pass, and :func:`average_momentum_`,
* :func:`stochastic_round_` for weights in bfloat16,
* :class:`ScaledParameter`, :func:`scaled_parameter` and :func:`scaled_param_groups`: a learning rate of its own for one
  tensor.

Nothing is imported before it is named.

Source: Su Jianlin, https://kexue.fm/archives/9512 (2023); the steps D1-D8 are those of the chapter *tiger-optimizer*.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accumulation import AccumulationHooks, attach_accumulation_hooks, average_momentum_
    from .groups import tiger_param_groups
    from .lion import Lion, lion_step_plain
    from .rounding import stochastic_round_
    from .scaling import ScaledParameter, scaled_param_groups, scaled_parameter
    from .schedules import piecewise_linear_schedule
    from .signs import SCALES
    from .tiger import Tiger, tiger_step_plain

_HOME = {
    "AccumulationHooks": "accumulation",
    "attach_accumulation_hooks": "accumulation",
    "average_momentum_": "accumulation",
    "tiger_param_groups": "groups",
    "Lion": "lion",
    "lion_step_plain": "lion",
    "stochastic_round_": "rounding",
    "ScaledParameter": "scaling",
    "scaled_parameter": "scaling",
    "scaled_param_groups": "scaling",
    "piecewise_linear_schedule": "schedules",
    "SCALES": "signs",
    "Tiger": "tiger",
    "tiger_step_plain": "tiger",
}

__all__ = [
    "SCALES",
    "AccumulationHooks",
    "Lion",
    "ScaledParameter",
    "Tiger",
    "attach_accumulation_hooks",
    "average_momentum_",
    "lion_step_plain",
    "piecewise_linear_schedule",
    "scaled_param_groups",
    "scaled_parameter",
    "stochastic_round_",
    "tiger_param_groups",
    "tiger_step_plain",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next look-up is direct
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)

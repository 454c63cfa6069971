r"""A learning rate of its own for one tensor: by a scale in front of it, or by a parameter group.

Sources: Su Jianlin, https://kexue.fm/archives/7196 (2020) and https://kexue.fm/archives/6418 (2019); step D7 of the
chapter *crf-learning-rate*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["ScaledParameter", "scaled_param_groups", "scaled_parameter"]


def _check_scale(name: str, value: float) -> float:
    if isinstance(value, (bool, Tensor)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be a number > 0")
    return float(value)


class ScaledParameter(nn.Module):
    r"""The parametrisation :math:`A = s\,\theta`: the optimizer sees θ, the model sees A (step D7).

    ============ ===============================================================================================
    optimizer    what A does
    ============ ===============================================================================================
    SGD          moves as with the learning rate s²·lr (with momentum too)
    Adam         moves as with the learning rate s·lr and the epsilon eps/s
    sign steps   (Lion, Tiger, signSGD) move as with the learning rate s·lr
    ============ ===============================================================================================

    Decoupled weight decay (AdamW, Lion) shrinks A by the same factor as before. A penalty in the loss, and the
    ``weight_decay`` of SGD or Adam, does not keep its strength. Clipping by the norm sees a gradient s times as large.

    Args:
        scale: s > 0.

    Raises:
        ValueError: ``scale`` is not a positive number.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> A = layer.weight.detach().clone()
        >>> parametrize.register_parametrization(layer, "weight", ScaledParameter(100.0))  # doctest: +ELLIPSIS
        ParametrizedLinear(...
        >>> theta = layer.parametrizations.weight.original
        >>> bool((100 * theta - A).abs().max() < 1e-6), bool((layer.weight - A).abs().max() < 1e-6)
        (True, True)

    Source: https://kexue.fm/archives/6418 and https://kexue.fm/archives/7196; step D7.
    """

    def __init__(self, scale: float) -> None:
        """Keep the scale."""
        super().__init__()
        self.scale = _check_scale("scale", scale)

    def forward(self, theta: Tensor) -> Tensor:
        """A = s θ."""
        return self.scale * theta

    def right_inverse(self, value: Tensor) -> Tensor:
        """θ = A / s, for initialisation and assignment."""
        return value / self.scale

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"scale={self.scale:g}"


def scaled_parameter(module: nn.Module, name: str, scale: float) -> nn.Module:
    """Read one parameter of a module as ``scale`` times a new one; its value stays as it is.

    Args:
        module: has the parameter.
        name: of the parameter, such as ``"weight"``.
        scale: see :class:`ScaledParameter`.

    Returns:
        the module; its parameter is now ``module.parametrizations.<name>.original``. Make the optimizer afterwards.
        ``torch.nn.utils.parametrize.remove_parametrizations(module, name)`` undoes it.

    Raises:
        ValueError: the module has no such parameter, or the scale is not positive.

    Example:
        >>> layer = scaled_parameter(nn.Linear(3, 1), "bias", 10.0)
        >>> [name for name, _ in layer.named_parameters()]
        ['weight', 'parametrizations.bias.original']

    Source: https://kexue.fm/archives/7196; step D7.
    """
    if not isinstance(getattr(module, name, None), nn.Parameter):
        has = ", ".join(repr(key) for key, _ in module.named_parameters(recurse=False)) or "none"
        raise ValueError(f"name={name!r} is no parameter of {type(module).__name__}; it has {has}")
    parametrize.register_parametrization(module, name, ScaledParameter(scale))
    return module


def scaled_param_groups(model: nn.Module, scales: Mapping[str, float], lr: float) -> list[dict[str, Any]]:
    """Parameter groups whose learning rates are multiples of ``lr``, chosen by the beginning of a parameter's name.

    With Adam a group with ``scale`` s does what :class:`ScaledParameter` does, except that epsilon stays what it is.

    Args:
        model: its parameters that require gradients are taken, each once.
        scales: from a prefix such as ``"crf"`` or ``"encoder.layers.0"`` (whole parts of the dotted name) to the
            factor; the longest prefix that fits decides, and 1 where none does.
        lr: the learning rate of the factor 1, > 0.

    Returns:
        one group for each factor, with ``"params"``, ``"lr"``, ``"lr_scale"`` and ``"names"``.

    Raises:
        ValueError: a prefix that fits no parameter, a factor or a learning rate that is not positive.

    Hazards:
        A scheduler of PyTorch multiplies each group's own ``lr``, so that the factors stay. Code that sets every group
        to one number undoes them: multiply by ``group["lr_scale"]``.

    Example:
        >>> model = nn.ModuleDict({"body": nn.Linear(2, 2), "crf": nn.Linear(2, 2, bias=False)})
        >>> for group in scaled_param_groups(model, {"crf": 100.0}, lr=1e-3):
        ...     print(group["lr"], group["names"])
        0.001 ['body.weight', 'body.bias']
        0.1 ['crf.weight']

    Source: https://kexue.fm/archives/7196; step D7.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module: the names of parameters are needed")
    _check_scale("lr", lr)
    factors = {prefix: _check_scale(f"scales[{prefix!r}]", value) for prefix, value in scales.items()}
    groups: dict[float, dict[str, Any]] = {}
    unused = set(factors)
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        fitting = [prefix for prefix in factors if f"{name}.".startswith(f"{prefix}.")]
        unused -= set(fitting)
        factor = factors[max(fitting, key=len)] if fitting else 1.0
        new = {"params": [], "lr": lr * factor, "lr_scale": factor, "names": []}
        group = groups.setdefault(factor, new)
        group["params"].append(p)
        group["names"].append(name)
    if unused:
        names = ", ".join(name for name, _ in model.named_parameters())
        raise ValueError(f"scales has the prefix {min(unused)!r}, which fits no trainable parameter of {names}")
    return list(groups.values())

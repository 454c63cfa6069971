"""Which parameter gets which step size, weight decay and centre."""

from __future__ import annotations

from typing import Any

from torch import nn

from .signs import check_number

__all__ = ["tiger_param_groups"]

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def tiger_param_groups(model: nn.Module, weight_decay: float = 0.01, *, rows: bool = True) -> list[dict[str, Any]]:
    """Parameter groups by the rules of the post, for Tiger or Lion.

    ==================== ============== ================ ==========
    parameter            ``scale``      ``weight_decay`` ``center``
    ==================== ============== ================ ==========
    weight of a norm     ``"half"``     0                1
    other, ndim <= 1     ``"half"``     0                0
    embedding            ``"rms_rows"`` ``weight_decay`` 0
    all others           ``"rms"``      ``weight_decay`` 0
    ==================== ============== ================ ==========

    Args:
        model: its parameters that require gradients are taken, each once. A tensor that an embedding shares with
            another module counts as the embedding's.
        weight_decay: for matrices and embeddings, >= 0.
        rows: True as in the author's code; False gives embeddings the scale ``"rms"``, as in the post's formula.

    Returns:
        Groups that are not empty, each with the names of its parameters under ``"names"``.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: ``weight_decay`` is negative or not finite.

    Hazards:
        A norm is recognised by the name of its class (it contains "norm", in any case) and by one axis. A norm that
        stores its weight minus 1 must get ``center`` 0: change its group. With ``rows=True`` rows that see the same
        sign again and again grow geometrically (step D5 of the chapter *tiger-optimizer*).

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Linear(4, 2))
        >>> for group in tiger_param_groups(model):
        ...     print(group["scale"], group["weight_decay"], group["center"], group["names"])
        rms_rows 0.01 0.0 ['0.weight']
        half 0.0 1.0 ['1.weight']
        half 0.0 0.0 ['1.bias', '2.bias']
        rms 0.01 0.0 ['2.weight']

    Source: https://kexue.fm/archives/9512 and the code beside it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not a torch.nn.Module: names and modules are needed")
    check_number("weight_decay", weight_decay, lambda x: 0 <= x < float("inf"), "finite and >= 0")
    embedded = {
        id(p) for module in model.modules() if isinstance(module, _EMBEDDINGS) for p in module.parameters(False)
    }
    groups: dict[tuple[str, float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False):
            if id(p) in seen or not p.requires_grad:
                continue
            seen.add(id(p))
            if id(p) in embedded:
                kind = ("rms_rows" if rows else "rms", weight_decay, 0.0)
            elif p.dim() > 1:
                kind = ("rms", weight_decay, 0.0)
            else:
                gain = "norm" in type(module).__name__.lower() and name not in ("bias", "beta")
                kind = ("half", 0.0, 1.0 if gain else 0.0)
            new = {"params": [], "names": [], "scale": kind[0], "weight_decay": kind[1], "center": kind[2]}
            group = groups.setdefault(kind, new)
            group["params"].append(p)
            group["names"].append(f"{prefix}.{name}" if prefix else name)
    return list(groups.values())

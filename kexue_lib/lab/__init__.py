"""The bench for experiments: parameters, claims, figures, progress, data, small models and their training.

A chapter writes ``from kexue_lib import lab`` and names what it needs; nothing is imported before it is named, so
``import kexue_lib.lab`` loads neither torch nor matplotlib.

>>> from kexue_lib import lab
>>> lab.approx(0.8421)
'≈ 0.842'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        chains,
        checkpoints,
        data,
        distributed,
        embeddings,
        figures,
        language,
        models,
        multidigits,
        numbers,
        segmentation,
        stacks,
        statistics,
        style,
        text,
        training,
    )
    from .announcing import announce
    from .claims import Claim, Claims, ClaimsTable, Criterion, settled
    from .errors import ClaimError, DataError, MissingPackageError
    from .figures import figure
    from .numbers import approx
    from .progressbar import progress
    from .run import Run
    from .statistics import mean_sd, slope, solve_monotone

_SUBMODULES = (
    "chains",
    "checkpoints",
    "data",
    "distributed",
    "embeddings",
    "figures",
    "language",
    "models",
    "multidigits",
    "numbers",
    "segmentation",
    "stacks",
    "statistics",
    "style",
    "text",
    "training",
)
_HOME = {
    "announce": "announcing",
    "Claim": "claims",
    "Claims": "claims",
    "ClaimsTable": "claims",
    "Criterion": "claims",
    "settled": "claims",
    "ClaimError": "errors",
    "DataError": "errors",
    "MissingPackageError": "errors",
    "figure": "figures",
    "approx": "numbers",
    "progress": "progressbar",
    "Run": "run",
    "mean_sd": "statistics",
    "slope": "statistics",
    "solve_monotone": "statistics",
}

__all__ = [
    "Claim",
    "ClaimError",
    "Claims",
    "ClaimsTable",
    "Criterion",
    "DataError",
    "MissingPackageError",
    "Run",
    "announce",
    "approx",
    "chains",
    "checkpoints",
    "data",
    "distributed",
    "embeddings",
    "figure",
    "figures",
    "language",
    "mean_sd",
    "models",
    "multidigits",
    "numbers",
    "progress",
    "segmentation",
    "settled",
    "slope",
    "solve_monotone",
    "stacks",
    "statistics",
    "style",
    "text",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in _HOME:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next look-up is direct
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return list(__all__)

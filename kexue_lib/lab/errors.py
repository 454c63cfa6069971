"""The errors of the bench, and the one way it asks for a package that may be missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["ClaimError", "DataError", "MissingPackageError", "require"]


class ClaimError(ValueError):
    """A claim is used against its rules: unknown or repeated id, registered too late, measured by what is no number."""


class DataError(RuntimeError):
    """A data set is there but is not the one that the book was made with."""


class MissingPackageError(ImportError):
    """A package of one of the extras is not installed."""


def require(module: str, *, package: str, extra: str = "lab") -> Any:
    """Import a module of an optional package, or say which extra brings it.

    Args:
        module: dotted name of the module.
        package: name of the distribution that holds it.
        extra: extra of kexue-lib that depends on it.

    >>> require("math", package="python").pi > 3
    True
    """
    try:
        return import_module(module)
    except ImportError as error:
        # An installed package whose own import fails is another trouble: its message has to stay visible.
        raise MissingPackageError(
            f"the package {package!r} cannot be imported ({error}); it comes with the extra {extra!r}: "
            f'pip install "kexue-lib[{extra}]"'
        ) from error

"""A progress bar for people, silence for machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import require

if TYPE_CHECKING:
    from tqdm.std import tqdm as Tqdm

__all__ = ["is_silent", "progress"]

T = TypeVar("T")


def is_silent() -> bool:
    """Whether nobody watches: papermill, nbval, CI, a pipe.

    ``KEXUE_PROGRESS=0`` silences, ``KEXUE_PROGRESS=1`` shows; without it a bar is shown in a notebook that a person
    runs and on a terminal. Papermill and nbval set no variable of their own; like every front end that runs
    notebooks without a person they tell the kernel that nobody can answer ``input()``, and that is looked at.
    """
    wish = os.environ.get("KEXUE_PROGRESS")
    if wish is not None:
        if wish not in ("0", "1"):
            raise ValueError(f"the environment variable KEXUE_PROGRESS={wish!r} is not allowed; allowed: '0', '1'")
        return wish == "0"
    if os.environ.get("CI", "").lower() not in ("", "0", "false") or "PYTEST_VERSION" in os.environ:
        return True
    attended = _attended_kernel()
    if attended is not None:
        return not attended
    return not sys.stderr.isatty()


def _attended_kernel() -> bool | None:
    """Whether the kernel's front end has a person to answer; None outside a kernel."""
    ipython = sys.modules.get("IPython")  # loaded already, if this is a kernel
    kernel = getattr(ipython.get_ipython(), "kernel", None) if ipython else None
    if kernel is None:
        return None
    try:
        return bool(kernel.get_parent("shell")["content"]["allow_stdin"])
    except (AttributeError, KeyError, TypeError):
        return True


def progress(iterable: Iterable[T] | None = None, desc: str = "", total: int | None = None) -> Tqdm[Any]:
    """Iterate with a tqdm progress bar, silent where nobody watches (:func:`is_silent`).

    Args:
        iterable: what to iterate over; None for a bar that is moved by hand with ``.update()``.
        desc: text before the bar.
        total: number of items, where the iterable does not know.

    >>> sum(progress(range(4), desc="adding"))
    6
    """
    silent = is_silent()
    # tqdm's notebook bar needs ipywidgets; without it tqdm would warn and fall back to text.
    notebook = not silent and _attended_kernel() is not None and find_spec("ipywidgets") is not None
    tqdm = require("tqdm.notebook" if notebook else "tqdm.std", package="tqdm").tqdm
    bar: Tqdm[Any] = tqdm(iterable, desc=desc or None, total=total, disable=silent, leave=False)
    return bar

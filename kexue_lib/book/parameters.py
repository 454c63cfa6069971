"""The parameters of a chapter: the literals in its cell tagged ``parameters``, and values given for a run."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from typing import Any

from kexue_lib.book.errors import BookError


def read_parameters(source: str, where: str) -> dict[str, Any]:
    """The names and default values in a parameters cell.

    >>> read_parameters('scale = "quick"\\nseed = 0', "cell 2")
    {'scale': 'quick', 'seed': 0}

    Raises:
        BookError: the cell holds something else than assignments of plain literals to names.
    """
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if isinstance(node, ast.AnnAssign):
            target = node.target
        try:
            if (
                not isinstance(target, ast.Name)
                or not isinstance(node, ast.Assign | ast.AnnAssign)
                or node.value is None
            ):
                raise ValueError
            found[target.id] = ast.literal_eval(node.value)
        except ValueError:
            raise BookError(
                f'{where}: the parameters cell may only set names to plain literals (scale = "quick"), '
                f"found: {ast.unparse(node)}"
            ) from None
    return found


def override(defaults: dict[str, Any], given: Iterable[tuple[str, str]], chapter: str) -> dict[str, Any]:
    """The given values, read as the type that each parameter's default has.

    >>> override({"seed": 0, "scale": "quick"}, [("seed", "3")], "attention/x")
    {'seed': 3}

    Raises:
        BookError: unknown name, or a value that does not read as the type of the default.
    """
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            known = ", ".join(f"{key} = {value!r}" for key, value in defaults.items())
            raise BookError(f"{chapter} has no parameter {name!r}.{hint} Its parameters are: {known}.")
        values[name] = _read_as(text, defaults[name], name, chapter)
    return values


def _read_as(text: str, default: Any, name: str, chapter: str) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if default is None or (type(value) is int and isinstance(default, float)):
        return value if default is None else float(value)
    if type(value) is not type(default):
        raise BookError(
            f"{chapter}: parameter {name!r} takes a value of type {type(default).__name__} like {default!r}, "
            f"got {text!r}."
        )
    return value

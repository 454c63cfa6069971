"""Markdown tables that look the same in Jupyter, in Colab and in the book."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["cell", "table"]

_MATH = re.compile(r"(?<!\\)(\$(?:\\.|[^$\\])+\$)")


def cell(text: str) -> str:
    r"""Markdown that may stand in a table's cell.

    A bar ends a cell, also inside ``$…$``, and its escape ``\|`` means a double bar there for some renderers and a
    single one for others. Inside mathematics bars become ``\vert`` and ``\Vert``, and angle brackets (which could
    open an HTML tag) ``\lt`` and ``\gt``; outside a bar is escaped. Line breaks become spaces.

    >>> print(cell(r"a|b and $|x| < \|y\|$"))
    a\|b and $\vert x\vert  \lt  \Vert y\Vert $
    """
    parts = _MATH.split(" ".join(text.split()))
    return "".join(_math(part) if index % 2 else _bars(part) for index, part in enumerate(parts))


def _math(text: str) -> str:
    for old, new in ((r"\|", r"\Vert "), ("|", r"\vert "), ("<", r"\lt "), (">", r"\gt ")):
        text = text.replace(old, new)
    return text


def _bars(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown already (see :func:`cell`).

    >>> print(table(["n", "H"], [["16", "2.36"]]))
    | n | H |
    |---|---|
    | 16 | 2.36 |
    """
    lines = [columns, *rows]
    for row in lines[1:]:
        if len(row) != len(columns):
            raise ValueError(f"a row has {len(row)} cells, the table {len(columns)} columns: {list(row)!r}")
    body = ["| " + " | ".join(row) + " |" for row in lines]
    return "\n".join([body[0], "|" + "---|" * len(columns), *body[1:]])

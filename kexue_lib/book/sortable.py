"""Tables that the script of a page makes sortable, and long ones filterable (``book/static/tables.js``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kexue_lib.lab.markdown import table

__all__ = ["sortable_table"]


def sortable_table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> list[str]:
    """The lines of a table, in MyST; its last ``numbers`` columns are numbers."""
    head, _, *body = table(columns, rows).split("\n")
    rule = "|" + "---|" * (len(columns) - numbers) + "--:|" * numbers
    return ["", ":::{div} kx-table", head, rule, *body, ":::"]

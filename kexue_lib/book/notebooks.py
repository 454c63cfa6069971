"""Reading executed notebooks as plain JSON, which is all that most of the pipeline needs."""

from __future__ import annotations

import json
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Chapter


def read_executed(chapter: Chapter) -> dict[str, Any]:
    """The executed notebook of a chapter, as the JSON object that it is.

    Raises:
        BookError: it is missing, no JSON, or no notebook; the message says how to make it anew.
    """
    remedy = f"Make it anew: kexue build {chapter.slug}"
    try:
        notebook = json.loads(chapter.executed.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BookError(f"{chapter.executed_name} is missing. {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BookError(f"{chapter.executed_name} is corrupt (no JSON: {error}). {remedy}") from None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list) or not isinstance(notebook.get("metadata"), dict) or not all(map(_is_cell, cells)):
        raise BookError(f"{chapter.executed_name} is corrupt (JSON, but no notebook). {remedy}")
    return notebook


def text(value: str | list[str]) -> str:
    """A notebook's string: written as one, or as a list of lines."""
    return value if isinstance(value, str) else "".join(value)


def _is_cell(cell: Any) -> bool:
    return isinstance(cell, dict) and {"cell_type", "metadata", "source"} <= cell.keys()

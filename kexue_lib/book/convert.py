"""From a chapter's source to a notebook without outputs: one way, the same bytes every time."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib.book.cards import read_card
from kexue_lib.book.config import Config
from kexue_lib.book.errors import BookError
from kexue_lib.book.parameters import read_parameters
from kexue_lib.book.place import digest
from kexue_lib.book.setup_cell import setup_source

if TYPE_CHECKING:
    from nbformat import NotebookNode

#: Tags that a chapter's cells may carry. A misspelt tag would silently do nothing.
TAGS = frozenset({"setup", "parameters", "experiment", "hide-input", "hide-output", "hide-cell", "nbval-ignore-output"})

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def to_notebook(path: Path, config: Config) -> NotebookNode:
    """The notebook of a source ``notebooks/<part>/<slug>.py``, with the setup cell that the pipeline writes.

    Cell ids are hashes of type, tags and source, so that the same source gives the same bytes, and a change in one
    cell leaves the ids of the others alone. Of the source's metadata only the card is kept.

    Args:
        path: the source.
        config: the configuration, for the address in the setup cell.

    Raises:
        BookError: wrong card, unknown tag, not exactly one setup and one parameters cell, an empty code cell.
    """
    import jupytext
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    card = read_card(path)
    where = f"notebooks/{card.part}/{path.name}"
    text = path.read_text(encoding="utf-8")
    raw = jupytext.reads(text, fmt="py:percent")
    lines = cell_lines(text)
    cells, seen = [], Counter[str]()
    for index, cell in enumerate(raw.cells):
        place = f"{where}:{lines[index]}" if index < len(lines) else where
        tags = [str(tag) for tag in cell.metadata.get("tags", [])]
        source = setup_source(card, config) if "setup" in tags else cell.source.strip("\n")
        _check_cell(cell.cell_type, tags, source, place)
        key = digest("\0".join([cell.cell_type, *tags, source]))[:12]
        seen[key] += 1
        make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        cells.append(
            make(
                source,
                id=key if seen[key] == 1 else f"{key}-{seen[key]}",
                metadata={"tags": tags} if tags else {},
            )
        )
    notebook = new_notebook(
        cells=cells,
        metadata={"kernelspec": dict(KERNELSPEC), "language_info": dict(LANGUAGE), "kexue": card.metadata()},
    )
    for tag in ("setup", "parameters"):
        found = len(tagged(notebook, tag))
        if found != 1:
            raise BookError(f"{where}: expected exactly one code cell tagged {tag!r}, found {found}.")
    parameters_of(notebook, where)
    return notebook


def tagged(notebook: dict[str, Any], tag: str) -> list[int]:
    """The indices of the code cells that carry a tag."""
    return [
        index
        for index, cell in enumerate(notebook["cells"])
        if cell["cell_type"] == "code" and tag in cell["metadata"].get("tags", [])
    ]


def parameters_of(notebook: dict[str, Any], where: str = "the notebook") -> dict[str, Any]:
    """The parameters of a converted notebook with their default values."""
    return read_parameters(notebook["cells"][tagged(notebook, "parameters")[0]]["source"], where)


def cell_lines(text: str) -> list[int]:
    """For each cell of a py:percent source, the line (from 1) on which its content starts."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines[1:], start=2) if line.strip() == "# ---"), 0)
    markers = [n for n, line in enumerate(lines, start=1) if n > start and re.match(r"# ?%%($|[ ])", line)]
    first = next((n for n, line in enumerate(lines, start=1) if n > start and line.strip()), None)
    if first is not None and (not markers or first < markers[0]):
        return [first, *(n + 1 for n in markers)]
    return [n + 1 for n in markers]


def _check_cell(kind: str, tags: list[str], source: str, where: str) -> None:
    if kind not in ("code", "markdown"):
        raise BookError(f"{where}: a chapter has code and Markdown cells only, this one is {kind!r}.")
    unknown = [tag for tag in tags if tag not in TAGS]
    if unknown:
        raise BookError(
            f"{where}: unknown tag {', '.join(unknown)}. The tags of the book are: {', '.join(sorted(TAGS))}."
        )
    if kind == "code" and not source.strip():
        raise BookError(f"{where}: an empty code cell. Delete it: a cell that is not executed fails the guard.")

"""What of an executed notebook is kept: the sources as converted, the outputs, the record of the run; no traces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

#: Metadata of outputs that the book or a front end reads.
_KEPT = ("alt", "height", "width", "needs_background")

_MACHINE = (
    (re.compile(r"/tmp/ipykernel_\d+"), "a path of the kernel that ran it"),
    (re.compile(r"\bat 0x[0-9a-fA-F]{6,}"), "a memory address"),
)


class UnsteadyOutput(Exception):
    """An output would differ on another machine or in the next run. ``cell`` is the id of the cell."""

    def __init__(self, cell: str, message: str) -> None:
        """Keep the cell's id beside the message."""
        super().__init__(message)
        self.cell = cell


def finish(executed: dict[str, Any], converted: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """The notebook to keep: ``converted`` with the outputs of ``executed`` and ``run`` as ``metadata.kexue.run``.

    The alternative text and the width of a figure are copied from the output (where :func:`kexue_lib.lab.figure` leaves
    them) to the cell, where MyST-NB looks for them.

    Raises:
        UnsteadyOutput: a path of this machine, a memory address, or two figures in one cell.
    """
    cells = []
    known = {cell["id"]: cell for cell in converted["cells"]}
    for cell in executed["cells"]:
        base = known.get(cell["id"])
        if base is None:  # papermill's cell with the values of this run
            base = {"cell_type": "code", "id": "injected-parameters", "source": cell["source"]}
            base["metadata"] = {"tags": ["injected-parameters"]}
        kept = json.loads(json.dumps(base))
        if kept["cell_type"] == "code":
            kept["execution_count"] = cell["execution_count"]
            kept["outputs"] = [_output(output) for output in cell["outputs"]]
            _describe_figures(kept)
        cells.append(kept)
    metadata = json.loads(json.dumps(converted["metadata"]))
    metadata["kexue"]["run"] = run
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def write(notebook: dict[str, Any]) -> str:
    """A notebook as text: sorted keys, long strings as lists of lines, one newline at the end."""
    import nbformat

    text = nbformat.writes(nbformat.from_dict(notebook), version=nbformat.NO_CONVERT)
    return text.rstrip("\n") + "\n"


def refuse_unsteady(notebook: dict[str, Any], folders: list[Path]) -> None:
    """Raise an error if an output holds a path of this machine or a memory address.

    Args:
        notebook: an executed notebook.
        folders: folders of this machine that no output may name.
    """
    patterns = [*_MACHINE, *((re.compile(re.escape(str(f))), "a path of this machine") for f in folders)]
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            text = _text(output)
            for pattern, what in patterns:
                found = pattern.search(text)
                if found:
                    excerpt = text[max(0, found.start() - 60) : found.end() + 60].strip()
                    raise UnsteadyOutput(
                        cell["id"],
                        f"the output holds {what}, so it would differ elsewhere: …{excerpt}… Print something else, or "
                        "cure the warning that it comes from.",
                    )


def _output(output: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(output))
    kept.pop("transient", None)
    if "metadata" in kept:
        kept["metadata"] = {
            mime: {key: value for key, value in fields.items() if key in _KEPT}
            for mime, fields in kept["metadata"].items()
            if isinstance(fields, dict) and mime in kept.get("data", {})
        }
        kept["metadata"] = {mime: fields for mime, fields in kept["metadata"].items() if fields}
    return kept


def _describe_figures(cell: dict[str, Any]) -> None:
    figures = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
    texts = [alt for figure in figures if (alt := figure.get("metadata", {}).get("image/png", {}).get("alt"))]
    if not texts:
        return
    if len(figures) > 1:
        raise UnsteadyOutput(
            cell["id"],
            f"the cell shows {len(figures)} figures, but alternative text belongs to a cell: show one in a cell.",
        )
    image = {"alt": texts[0]}
    if width := figures[0]["metadata"]["image/png"].get("width"):
        image["width"] = f"{width}px"
    cell["metadata"]["mystnb"] = {"image": image}


def _text(output: dict[str, Any]) -> str:
    pieces = [output.get("text", "")]
    pieces += [value for mime, value in output.get("data", {}).items() if not mime.startswith("image/png")]
    return "\n".join(
        "".join(p)
        if isinstance(p, list) and all(isinstance(x, str) for x in p)
        else p
        if isinstance(p, str)
        else json.dumps(p)
        for p in pieces
    )

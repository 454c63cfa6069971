"""The guard: was every executed notebook really executed, in order, from the source that lies beside it?

nbval passes a notebook that was never run. This does not.
"""

from __future__ import annotations

from typing import Any

from kexue_lib.book.config import Config
from kexue_lib.book.convert import cell_lines, to_notebook
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed, text
from kexue_lib.book.place import digest
from kexue_lib.book.project import Chapter


def guard(chapter: Chapter, config: Config) -> list[str]:
    """What is wrong with the executed notebook of a chapter; empty if nothing is.

    Looked at: it is a notebook; its cells are those that the source converts to; it records this source's hash; its
    code cells carry the counts 1, 2, 3, … in order; no output is an error; a cell that displays shows something.
    """
    try:
        notebook = read_executed(chapter)
        converted = to_notebook(chapter.source, config)
    except BookError as error:
        return [str(error)]
    source = chapter.source.read_text(encoding="utf-8")
    name, remedy = chapter.executed_name, f"Execute it: kexue build {chapter.slug}"
    found = [f"{name}: {line} {remedy}" for line in _differences(notebook, converted)]
    recorded = (notebook["metadata"].get("kexue", {}).get("run") or {}).get("source")
    if recorded != digest(source):
        found.append(f"{name}: it was not made from {chapter.source_name} as it is now. {remedy}")
    if found:
        return found
    lines = cell_lines(source)
    return [
        f"{name}: cell {index + 1} ({chapter.source_name}:{lines[index]}): {problem} {remedy}"
        for index, problem in _not_executed(notebook["cells"])
    ]


def _differences(notebook: dict[str, Any], converted: dict[str, Any]) -> list[str]:
    cells, expected = notebook["cells"], converted["cells"]
    if len(cells) != len(expected):
        return [f"it has {len(cells)} cells, and the source has {len(expected)}."]
    for number, (cell, other) in enumerate(zip(cells, expected, strict=True), start=1):
        kind = cell["cell_type"] == other["cell_type"]
        tags = cell["metadata"].get("tags", []) == other["metadata"].get("tags", [])
        if not (kind and tags and text(cell["source"]) == other["source"] and cell.get("id") == other["id"]):
            return [f"cell {number} is not the one that the source converts to."]
    card = {key: value for key, value in notebook["metadata"].get("kexue", {}).items() if key != "run"}
    return [] if card == converted["metadata"]["kexue"] else ["its card is not the one in the source."]


def _not_executed(cells: list[dict[str, Any]]) -> list[tuple[int, str]]:
    found = []
    expected = 0
    for index, cell in enumerate(cells):
        if cell["cell_type"] != "code":
            continue
        expected += 1
        count, outputs = cell.get("execution_count"), cell.get("outputs")
        if count is None:
            found.append((index, "it was never executed (it has no execution count)."))
        elif count != expected:
            found.append((index, f"it was executed out of order (its count is {count}, expected {expected})."))
        elif not isinstance(outputs, list):
            found.append((index, "it has no list of outputs."))
        elif any(output.get("output_type") == "error" for output in outputs):
            found.append((index, "its output is an error."))
        elif not outputs and _displays(text(cell["source"])):
            found.append((index, "it displays something, but has no output."))
        elif any(output.get("execution_count", count) not in (count, None) for output in outputs):
            found.append((index, "an output stems from another execution."))
    return found


def _displays(source: str) -> bool:
    """Whether a cell surely shows something.

    It prints or calls ``display`` at its top level, or it ends in an expression that is no call (``D1``).
    """
    import ast

    try:
        body = ast.parse(source).body
    except SyntaxError:  # a command of IPython
        return False
    last = body[-1] if body else None
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Constant | ast.Await):
        return not source.rstrip().endswith(";")
    return any(
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id in ("print", "display")
        and bool(node.value.args)
        for node in body
    )

r"""A Sphinx extension: outputs of a chapter as parts of a text instead of outputs of a notebook.

The cells of a chapter hold steps, claims and figures in the Markdown that Jupyter and Colab render as well. On a page
of the book each becomes what it is: a step a block of its equation and its reasons, a table of claims a list, a picture
and its caption a figure. Code that is folded away follows what it made, and its label says what that is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.transforms.post_transforms import SphinxPostTransform

from kexue_lib.book.markup import anchors
from kexue_lib.book.place import digest

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["CLAIM_COLUMNS", "ReadingOrder", "setup"]

#: The head of a table of claims (:class:`kexue_lib.lab.claims.ClaimsTable`).
CLAIM_COLUMNS = ("claim", "kind", "how tested", "measured", "verdict")

_BADGE = re.compile(r'class="kx-badge (kx-[a-z]+) (kx-[a-z]+)"')
_STEP_ID = re.compile(r"\bD\d+(?:\.\d+)*\b")
_SIGNS = {"✓": "kx-met", "✗": "kx-missed", "–": "kx-untested"}


class ReadingOrder(SphinxPostTransform):
    """Make blocks of the outputs of each code cell, and put folded code after them."""

    default_priority = 200  # after MyST-NB has chosen the outputs (4) and folded what is hidden (199)
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Go through the code cells of the page."""
        known = {name for node in self.document.findall(nodes.raw) for name in anchors(node.astext())}
        for cell in [node for node in self.document.findall(nodes.container) if _is(node, "cell_code")]:
            output = next((node for node in cell.findall(nodes.container) if _is(node, "cell_code_output")), None)
            label = "Code"
            if output is not None:
                label = _steps(output) or _claims(output, known) or _figure(output) or label
            _fold(cell, output, "Code that sets things up" if "tag_setup" in cell["classes"] else label)


def _is(node: nodes.Node, element: str) -> bool:
    return isinstance(node, nodes.Element) and node.get("nb_element") == element


# Steps ----------------------------------------------------------------------------------------------------------------


def _steps(output: nodes.Element) -> str | None:
    """Gather each step of an output in a block; what the folded code is called, if there is a step."""
    ids: list[str] = []
    children: list[nodes.Node] = []
    step: nodes.container | None = None
    for node in output.children:
        if names := _lone_anchors(node):
            ids.append(names[0])
            step = nodes.container(classes=["kx-step"])
            children.append(step)
        elif not isinstance(node, nodes.math_block | nodes.paragraph | nodes.bullet_list):
            step = None
        if step is None:
            children.append(node)
            continue
        step += node
        if isinstance(node, nodes.bullet_list):
            node["classes"].append("kx-reasons")
            step["classes"].append("kx-chain")
        elif badge := _BADGE.search("".join(raw.astext() for raw in node.findall(nodes.raw))):
            node["classes"].append("kx-reason")
            step["classes"] += badge.groups()
    if not ids:
        return None
    output.children = []
    output.extend(children)
    output["classes"].append("kx-steps")
    return f"Code of {ids[0]}" if len(ids) == 1 else f"Code of {ids[0]} to {ids[-1]}"


def _lone_anchors(node: nodes.Node) -> list[str]:
    """The anchors of a paragraph that holds nothing else."""
    if not isinstance(node, nodes.paragraph) or not all(isinstance(child, nodes.raw) for child in node.children):
        return []
    return anchors("".join(child.astext() for child in node.children))


# Claims ---------------------------------------------------------------------------------------------------------------


def _claims(output: nodes.Element, known: set[str]) -> str | None:
    """A table of claims as a list: five columns of prose are too narrow to read, on a desk and on a phone."""
    for table in list(output.findall(nodes.table)):
        head = [entry.astext().strip() for entry in next(table.findall(nodes.thead)).findall(nodes.entry)]
        if tuple(head) != CLAIM_COLUMNS:
            continue
        items = nodes.bullet_list(classes=["kx-claims"])
        for row in next(table.findall(nodes.tbody)).findall(nodes.row):
            items += _claim([_content(entry) for entry in row.findall(nodes.entry)], known)
        table.replace_self(items)
        return "Code of the claims"
    return None


def _claim(cells: list[list[nodes.Node]], known: set[str]) -> nodes.list_item:
    text, kind, how, measured, verdict = cells
    word = "".join(node.astext() for node in verdict).split()[-1]
    item = nodes.list_item(classes=["kx-claim", f"kx-{word}"])
    item += nodes.paragraph("", "", *text, classes=["kx-claim-text"])
    sort = nodes.inline("", "", *kind, classes=["kx-kind"])
    item += nodes.paragraph("", "", *verdict, nodes.Text(" "), sort, classes=["kx-verdict"])
    first, *criteria = _lines(how)
    item += nodes.paragraph("", "", *first, classes=["kx-how"])
    if criteria:
        rules = nodes.bullet_list(classes=["kx-criteria"])
        for line in criteria:
            sign = line[0].astext()[:1] if line else ""
            rules += nodes.list_item("", nodes.paragraph("", "", *line), classes=[_SIGNS.get(sign, "kx-note")])
        item += rules
    numbers, see = nodes.bullet_list(classes=["kx-measured"]), []
    for line in _lines(measured):
        said = "".join(node.astext() for node in line)
        if said.startswith("see "):
            see.append(nodes.paragraph("", "", *line, classes=["kx-see"]))
        elif said.strip() != "–":
            numbers += nodes.list_item("", nodes.paragraph("", "", *line))
    item += [numbers, *see] if numbers.children else see
    for node in list(item.findall(nodes.Text)):
        _link_steps(node, known)
    return item


def _content(entry: nodes.Element) -> list[nodes.Node]:
    paragraph = entry.next_node(nodes.paragraph)
    return [] if paragraph is None else list(paragraph.children)


def _lines(content: Sequence[nodes.Node]) -> Iterator[list[nodes.Node]]:
    """The lines of a cell, which Markdown separates by ``<br>``."""
    line: list[nodes.Node] = []
    for node in content:
        if isinstance(node, nodes.raw) and re.match(r"<br\b", node.astext()):
            yield line
            line = []
        else:
            line.append(node)
    yield line


def _link_steps(text: nodes.Text, known: set[str]) -> None:
    """Make links of the names of steps in a text, as far as the page has them."""
    parent = text.parent
    if parent is None or isinstance(parent, nodes.math | nodes.literal | nodes.reference | nodes.raw):
        return
    pieces: list[nodes.Node] = []
    at = 0
    for found in _STEP_ID.finditer(text.astext()):
        if found[0] in known:
            pieces.append(nodes.Text(text.astext()[at : found.start()]))
            pieces.append(nodes.reference("", found[0], refid=found[0], internal=True))
            at = found.end()
    if pieces:
        parent.replace(text, [*pieces, nodes.Text(text.astext()[at:])])


# Figures --------------------------------------------------------------------------------------------------------------


def _figure(output: nodes.Element) -> str | None:
    """A picture and the paragraph below it as a figure with a caption."""
    for picture, caption in zip(output.children, output.children[1:], strict=False):
        images = list(picture.findall(nodes.image))
        if len(images) == 1 and isinstance(caption, nodes.paragraph):
            figure = nodes.figure("", images[0].deepcopy(), nodes.caption("", "", *caption.children))
            figure["classes"].append("kx-figure")
            named = re.match(r"Figure (\d+)", caption.astext())
            figure["ids"] = [f"figure-{named[1]}" if named else f"figure-of-line-{caption.line or 0}"]
            place = output.index(picture)
            del output[place : place + 2]
            output.insert(place, figure)
            return f"Code of {named[0]}" if named else "Code of the figure"
    return None


# Folded code ----------------------------------------------------------------------------------------------------------


def _fold(cell: nodes.Element, output: nodes.Element | None, label: str) -> None:
    """Label the folded part of a cell, and put folded code after its output."""
    shows_claims = output is not None and any("kx-claims" in item["classes"] for item in output.findall(nodes.Element))
    if shows_claims and _is(cell.children[0], "cell_code_source"):  # one call, whose result is what matters
        code = cell.children[0]
        cell.replace(code, fold := HideCodeCellNode(prompt_show="", prompt_hide="", classes=["above-input"]))
        fold += code
    for fold in [node for node in cell.children if isinstance(node, HideCodeCellNode)]:
        holds_output = output is not None and output in list(fold.findall(nodes.container))
        if "above-input" in fold["classes"] and holds_output:  # all of the cell is hidden
            fold["prompt_show"] = label.replace("Code of", "Checked:")
            fold.children.sort(key=lambda node: _is(node, "cell_code_source"))
            cell["classes"].append("kx-aside")
        elif "above-input" in fold["classes"]:
            fold["prompt_show"] = label
            cell.remove(fold)
            cell.append(fold)
    cell["classes"].append("kx-cell")


def _open_fold(self: Any, node: HideCodeCellNode) -> None:
    self.body.append(f'<details class="kx-fold"><summary>{escape(node["prompt_show"])}</summary>\n')


def _close_fold(self: Any, node: HideCodeCellNode) -> None:
    self.body.append("</details>\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform and the look of a fold (called by Sphinx)."""
    app.setup_extension("myst_nb")
    app.add_node(HideCodeCellNode, override=True, html=(_open_fold, _close_fold))
    app.add_post_transform(ReadingOrder)
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

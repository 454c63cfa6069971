"""A Sphinx extension: every step and claim of a chapter has an address that is in sight, and that the search knows.

- A claim gets the anchor ``#C7a`` in the last table or list of the page that shows it (with the verdicts). Steps bring
  their own anchors in their outputs; see :mod:`kexue_lib.book.markup`.
- Beside each stands a permanent link, shown when the pointer or the focus is there.
- The search knows steps and claims by name: ``D4.2`` finds the equations, ``claim C3`` the claims of that number.
- In the card of a chapter stands a link to the map of its steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.transforms import Transform
from sphinx import addnodes
from sphinx.domains import Domain, ObjType
from sphinx.transforms.post_transforms import SphinxPostTransform

from kexue_lib.book.markup import anchors
from kexue_lib.book.place import digest

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["ChapterAnchors", "ClaimAnchors", "StepsAndClaims", "setup"]

_STEP = re.compile(r"D\d+(?:\.\d+)*")
_CLAIM = re.compile(r"C\d+(\.\d+|[a-z])?")
_CHAPTERS = "book/chapters/"
_MAPS = "book/steps/"


class StepsAndClaims(Domain):
    """Names of steps and claims, for the search."""

    name = "kx"
    label = "steps and claims"
    object_types = {"step": ObjType("step"), "claim": ObjType("claim")}  # noqa: RUF012 (so Sphinx wants it)
    initial_data: dict[str, Any] = {"objects": {}}  # noqa: RUF012
    data_version = 1

    def note(self, docname: str, kind: str, name: str) -> None:
        """Keep a step or a claim of a page."""
        self.data["objects"].setdefault(docname, {})[name] = kind

    def clear_doc(self, docname: str) -> None:
        """Forget a page that is read anew."""
        self.data["objects"].pop(docname, None)

    def merge_domaindata(self, docnames: Any, otherdata: dict[str, Any]) -> None:
        """Take over what another process has read."""
        for docname in docnames:
            if docname in otherdata["objects"]:
                self.data["objects"][docname] = otherdata["objects"][docname]

    def get_objects(self) -> Iterator[tuple[str, str, str, str, str, int]]:
        """All of them; the low priority (2) keeps them below pages that are about what was typed."""
        for docname, names in self.data["objects"].items():
            for name, kind in names.items():
                yield name, name, kind, docname, name, 2


class ChapterAnchors(Transform):
    """Anchors for claims, permanent links for both, and the link to the map of the steps."""

    # before kexue_lib.book.markup.RawAnchors, which tells MyST of the anchors
    default_priority = 868

    def apply(self, **kwargs: Any) -> None:
        """Change a chapter's page; other pages stay as they are."""
        env = self.document.settings.env
        if not env.docname.startswith(_CHAPTERS):
            return
        domain = env.get_domain(StepsAndClaims.name)
        for name, place in self._steps():
            domain.note(env.docname, "step", name)
            place.append(_permalink(name))
        for name, row in _claims(self.document).items():
            _first_paragraph(row).append(_permalink(name))
            domain.note(env.docname, "claim", name)
            self.document.myst_slugs = getattr(self.document, "myst_slugs", None) or {}
            self.document.myst_slugs.setdefault(name, (row.line or 0, name, name))
        page = _MAPS + env.docname.removeprefix(_CHAPTERS)
        if page in env.found_docs:
            self._link_to_map(page)

    def _steps(self) -> Iterator[tuple[str, nodes.Element]]:
        """Each step's name, and each of a chain's links, with the line below its equation that speaks of it."""
        for paragraph in list(self.document.findall(nodes.paragraph)):
            raw = "".join(child.astext() for child in paragraph if isinstance(child, nodes.raw))
            names = [name for name in anchors(raw) if _STEP.fullmatch(name)]
            if not names:
                continue
            following = paragraph.parent[paragraph.parent.index(paragraph) + 1 :]
            yield names[0], next((node for node in following[1:2] if isinstance(node, nodes.paragraph)), paragraph)
            items = [item for node in following[1:3] if isinstance(node, nodes.bullet_list) for item in node]
            for name in names[1:]:  # the links of a chain
                item = next((item for item in items if item.astext().startswith(f"{name} ")), None)
                if item is not None:
                    yield name, _first_paragraph(item)

    def _link_to_map(self, page: str) -> None:
        card = next(iter(self.document.findall(nodes.block_quote)), None)
        if card is None:
            return
        reference = addnodes.pending_xref(
            "", refdomain="std", reftype="doc", reftarget=f"/{page}", refexplicit=True, refwarn=True
        )
        reference["refdoc"] = self.document.settings.env.docname
        reference += nodes.inline("", "The map of its steps: what rests on what", classes=["doc"])
        card += nodes.paragraph("", "", reference, classes=["kx-to-map"])


class ClaimAnchors(SphinxPostTransform):
    """The anchors themselves; late, because :mod:`kexue_lib.book.reading` makes lists of the tables of claims."""

    default_priority = 210

    def run(self, **kwargs: Any) -> None:
        """Set them on a chapter's page."""
        if self.env.docname.startswith(_CHAPTERS):
            for name, place in _claims(self.document).items():
                place["ids"].append(name)


def _claims(document: nodes.document) -> dict[str, nodes.Element]:
    """The row, or the item of a list, of each claim; of several tables the last one counts."""
    found: dict[str, nodes.Element] = {}
    for table in document.findall(lambda node: isinstance(node, (nodes.table, nodes.bullet_list))):
        for row in table.findall(lambda node: isinstance(node, (nodes.row, nodes.list_item))):
            name = next((child for child in _first_paragraph(row) if child.astext()), None)
            if isinstance(name, nodes.strong) and _CLAIM.fullmatch(name.astext()):
                found[name.astext()] = row
    return found


def _first_paragraph(node: nodes.Element) -> nodes.Element:
    return next(iter(node.findall(nodes.paragraph)), node)


def _permalink(name: str) -> nodes.raw:
    what = "step" if name.startswith("D") else "claim"
    html = f' <a class="kx-permalink" href="#{name}" aria-label="Link to {what} {name}" title="Link to {name}">#</a>'
    return nodes.raw("", html, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the domain and the transform (called by Sphinx)."""
    app.add_domain(StepsAndClaims)
    app.add_transform(ChapterAnchors)
    app.add_post_transform(ClaimAnchors)
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

r"""A Sphinx extension: the chapters' portable markup, understood by the book as well.

Chapters use only what Jupyter, Colab and the book render alike. Two pieces of that need help in Sphinx:

- A step's output begins with ``<a id="D3"></a>``. MyST knows nothing of targets in raw HTML and would call every link
  ``[(D3)](#D3)`` dead. Here the anchors become known, for links in the page and from other pages
  (``[(D3)](../part/chapter.ipynb#D3)``). A link to a step that does not exist still gives a warning.
- Sphinx wraps displayed mathematics that contains ``\\`` into a ``split`` environment, in which ``\tag`` is an error.
  Here ``$$…$$`` reaches MathJax as it was written.

It also takes thebe out of the pages: jupyter-book loads it always, its code comes from another host, and declared twice
it is a script error on every page.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.transforms import Transform

from kexue_lib.book.place import digest

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["PlainDisplays", "RawAnchors", "anchors", "setup"]

_ANCHOR = re.compile(r"""<a\s[^>]*?\bid\s*=\s*["']([^"']+)["']""", re.IGNORECASE)


def anchors(html: str) -> list[str]:
    """Return the ids of the anchors in a piece of HTML, in order.

    >>> anchors('<a id="D3"></a> and <a class="x" id="D3.1"></a>')
    ['D3', 'D3.1']
    """
    return _ANCHOR.findall(html)


class RawAnchors(Transform):
    """Make the anchors in raw HTML known to MyST's resolution of links."""

    # before myst_parser's ResolveAnchorIds
    default_priority = 870

    def apply(self, **kwargs: Any) -> None:
        """Add each anchor to the document's slugs, for links in the page and, by Sphinx's environment, from others."""
        slugs = getattr(self.document, "myst_slugs", None)
        if slugs is None:  # not a Markdown page
            return
        for node in self.document.findall(nodes.raw):
            if "html" in node.get("format", "").split():
                for name in anchors(node.astext()):
                    slugs.setdefault(name, (node.line or 0, name, name))
        env = self.document.settings.env
        env.metadata[env.docname]["myst_slugs"] = slugs


class PlainDisplays(Transform):
    """Hand displayed mathematics to MathJax without Sphinx's ``split`` around it."""

    default_priority = 870

    def apply(self, **kwargs: Any) -> None:
        """Mark each display that holds a line break as finished, with its own delimiters."""
        for node in self.document.findall(nodes.math_block):
            text = node.astext()
            if not node.get("nowrap") and "\\\\" in text:
                node.children = [nodes.Text(f"\\[{text.strip()}\\]")]
                node["nowrap"] = True


def without_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave the scripts and the style sheet of sphinx-thebe out of a page."""
    context["script_files"] = [
        file
        for file in context["script_files"]
        if "THEBE_JS_URL" not in (file.attributes.get("body") or "") and "sphinx-thebe.js" not in str(file.filename)
    ]
    context["css_files"] = [file for file in context["css_files"] if "sphinx-thebe.css" not in str(file.filename)]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transforms (called by Sphinx).

    Sphinx keeps pages that it made before; the version given here changes with this file, so that all are made anew.
    """
    app.add_transform(RawAnchors)
    app.add_transform(PlainDisplays)
    app.connect("html-page-context", without_thebe, priority=900)
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

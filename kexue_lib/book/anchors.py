"""A Sphinx extension: steps are link targets.

A step's output begins with ``<a id="D3"></a>``, because that works in Jupyter and Colab as well. MyST knows nothing of
targets in raw HTML, so it would call every link ``[(D3)](#D3)`` dead. This extension tells it about them; a link to a
step that does not exist still gives a warning, and so fails the build. It serves links inside a page and links from
another page (``[(D3)](../part/chapter.ipynb#D3)``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.transforms import Transform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["RawAnchors", "setup"]

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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform (called by Sphinx)."""
    app.add_transform(RawAnchors)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

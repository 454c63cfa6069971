"""A Sphinx extension: what search engines and messengers read of a page.

Each page gets a description and the tags of a link preview (Open Graph); a published site gets ``sitemap.xml``. What
needs an absolute address (sitemap, preview picture, ``og:url``, the canonical link) is made only if the site's address
is known, see :attr:`kexue_lib.book.config.Config.site`; a relative one would be wrong there.

Own code, because the book is made incrementally and its figures come from notebooks: sphinx-sitemap lists the pages
that were written in this run only, and sphinxext-opengraph takes the first text of a page, TeX and all, for its
description and looks a figure up under a name that it has no more.
"""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from docutils import nodes

from kexue_lib.book.chapter_head import CHAPTERS
from kexue_lib.book.conditions import NOT_BUILT
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import text
from kexue_lib.book.place import digest
from kexue_lib.book.records import gather

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["chapter_description", "first_figure", "page_description", "robots", "setup", "sitemap", "tags"]

#: The icon for browsers that take no SVG, and the one for a phone's home screen (beside the theme's favicon.svg).
_ICONS = (
    ("favicon-32.png", 'rel="icon" type="image/png" sizes="32x32"'),
    ("apple-touch-icon.png", 'rel="apple-touch-icon" sizes="180x180"'),
)

#: Search engines show about this much of a description.
_LENGTH = 200


def chapter_description(notebook: dict[str, Any]) -> str:
    """What a chapter holds, in two sentences with its counts and the post's Chinese title, which people search for."""
    card = notebook["metadata"]["kexue"]
    records = gather(notebook)
    checked = sum(leaf["status"] != "unchecked" for leaf in records.leaves)
    return (
        f"{card['title_en'].rstrip('.')}. {checked} machine-checked steps and {len(records.claims)} tested claims, "
        f"after Su Jianlin's post {card['title_zh']} ({card['date']})."
    )


def page_description(doctree: Any) -> str:
    """The first paragraph of a page that is prose, cut at the end of a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section) and not any(paragraph.findall(nodes.math)):
            said = " ".join(paragraph.astext().split())
            if len(said.split()) > 8:
                return said if len(said) <= _LENGTH else said[:_LENGTH].rsplit(" ", 1)[0].rstrip(" ,;:") + " …"
    return ""


def first_figure(notebook: dict[str, Any]) -> tuple[bytes, str] | None:
    """The first picture among the outputs of a notebook and its alternative text."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                return base64.b64decode(text(picture)), alt
    return None


def tags(*, title: str, description: str, name: str, kind: str, url: str = "", image: str = "", alt: str = "") -> str:
    """The elements for the head of a page.

    Args:
        title: of the page, without markup.
        description: one or two sentences; left out if empty.
        name: of the book.
        kind: ``article`` or ``website``.
        url: the page's absolute address; without it there is no picture either.
        image: the picture's absolute address.
        alt: the picture's alternative text.

    >>> print(tags(title='A "b"', description="", name="Book", kind="website"))
    <meta property="og:title" content="A &quot;b&quot;"/>
    <meta property="og:type" content="website"/>
    <meta property="og:site_name" content="Book"/>
    """
    said = [("name", "description", description), ("property", "og:title", title)]
    said += [("property", "og:type", kind), ("property", "og:site_name", name)]
    said.append(("property", "og:description", description))
    if url:
        said.append(("property", "og:url", url))
        said += [("property", "og:image", image), ("property", "og:image:alt", alt)] if image else []
        said.append(("name", "twitter:card", "summary_large_image" if image else "summary"))
    return "\n".join(f'<meta {key}="{tag}" content="{html.escape(value)}"/>' for key, tag, value in said if value)


def sitemap(site: str, pages: list[str]) -> str:
    """``sitemap.xml`` for the pages (paths below the site's address)."""
    rows = "".join(f"  <url><loc>{escape(site + page)}</loc></url>\n" for page in pages)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{rows}</urlset>\n'
    )


def robots(site: str) -> str:
    """``robots.txt``: everything may be read; where the sitemap is, if there is one."""
    return "User-agent: *\nDisallow:\n" + (f"\nSitemap: {site}sitemap.xml\n" if site else "")


def on_page(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Add the icons to the head of a page and, if it has a source, what others read of it."""
    context["metatags"] = context.get("metatags", "") + "".join(
        f'\n<link {said} href="{context["pathto"](f"_static/{file}", 1)}"/>' for file, said in _ICONS
    )
    if doctree is None:
        return
    site = app.config.html_baseurl
    title = html.unescape(re.sub(r"<[^>]+>", "", context["title"]))
    notebook = _notebook(app, page)
    description = page_description(doctree)
    if notebook is not None:
        try:
            description = chapter_description(notebook)
        except (BookError, KeyError):  # `kexue check` says what is wrong with it
            notebook = None
    image, alt = "", ""
    if site:
        from kexue_lib.book.previews import write_preview

        figure = first_figure(notebook) if notebook else None
        file = write_preview(Path(app.outdir), page, title, app.config.html_title, figure[0] if figure else None)
        image, alt = site + file, (figure[1] if figure else "") or title
    context["metatags"] += "\n" + tags(
        title=title,
        description=description,
        name=app.config.html_title,
        kind="article" if notebook is not None else "website",
        url=site + app.builder.get_target_uri(page) if site else "",
        image=image,
        alt=alt,
    )


def on_finished(app: Sphinx, error: Exception | None) -> None:
    """Write ``robots.txt`` and, for a published site, ``sitemap.xml``: of all pages, also those from earlier runs."""
    if error is not None or app.builder.name != "html":
        return
    site, out = app.config.html_baseurl, Path(app.outdir)
    (out / "robots.txt").write_text(robots(site), encoding="utf-8")
    if site:
        pages = sorted(app.builder.get_target_uri(name) for name in app.env.found_docs)
        (out / "sitemap.xml").write_text(sitemap(site, pages), encoding="utf-8")


def _notebook(app: Sphinx, page: str) -> dict[str, Any] | None:
    """The executed notebook behind a chapter's page, if it is what the page shows."""
    if not page.startswith(CHAPTERS):
        return None
    condition = app.config.kexue_conditions.get(page.removeprefix(CHAPTERS))
    if condition and condition["state"] == NOT_BUILT:
        return None
    notebook: dict[str, Any] = json.loads(Path(app.env.doc2path(page)).read_text(encoding="utf-8"))
    return notebook


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers (called by Sphinx)."""
    app.setup_extension("kexue_lib.book.chapter_head")
    app.connect("html-page-context", on_page)
    app.connect("build-finished", on_finished)
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

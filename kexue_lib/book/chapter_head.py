"""A Sphinx extension: what a chapter's page says at its head that its notebook cannot say.

- **Run it yourself**: expected minutes by scale and device, the notebook to download, the button for Colab.
- **Stale**: the page shows an earlier run; since when, and what has changed meanwhile.
- **Not built**: the chapter could not be executed; which cell stopped, and the error, in place of old results.

The executed notebooks are left alone: the cells are put in while Sphinx reads them.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib.book.conditions import NOT_BUILT, STALE
from kexue_lib.book.notebooks import text
from kexue_lib.book.place import digest

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["not_built_notebook", "run_banner", "setup", "with_head"]

#: Where the pages of chapters lie.
CHAPTERS = "book/chapters/"


def run_banner(page: str, card: dict[str, Any], run: dict[str, Any], colab: str = "") -> str:
    """The strip "Run it yourself" as HTML.

    Args:
        page: the page's name, ``book/chapters/part/slug``.
        card: ``metadata.kexue`` of the notebook; its ``minutes`` are shown.
        run: the record of the run that the page shows.
        colab: what comes before the notebook's path in Colab's address; empty while the book is not published.
    """
    up = "../" * page.count("/")
    minutes = card["minutes"]
    shown = run.get("parameters", {})
    parts = [
        "<strong>Run it yourself.</strong>",
        f"<code>quick</code>: {_minutes(minutes['quick'])} on one CPU core;"
        f" <code>full</code>: {_minutes(minutes['full'])} on one GPU.",
    ]
    if shown:
        parts.append(f"This page shows <code>{html.escape(str(shown.get('scale', '?')))}</code>.")
    links = [f'<a href="{up}_sources/{page}.ipynb" download>Download the notebook</a>']
    if colab:
        links.append(f'<a href="{html.escape(colab)}{page}.ipynb">Open in Colab</a>')
    links.append(f'<a href="{up}book/run-it-yourself.html">How to run it</a>')
    return (
        f'<div class="kexue-run" role="note" aria-label="Run it yourself">\n<p>{" ".join(parts)}</p>\n'
        f"<p>{' · '.join(links)}</p>\n</div>"
    )


def with_head(notebook: dict[str, Any], banner: str, condition: dict[str, Any] | None = None) -> dict[str, Any]:
    """The notebook with the banner after the note on the post, and a notice below the title if it is stale.

    Args:
        notebook: an executed notebook; its first cell is Markdown and begins with the title.
        banner: HTML.
        condition: a stale chapter's condition as plain data.
    """
    first = notebook["cells"][0]
    title, _, rest = text(first["source"]).partition("\n")
    quote = re.match(r"(?:(?!>).*\n)*?((?:^>.*(?:\n|$))+)", rest, re.MULTILINE)
    cut = quote.end() if quote else 0
    notice = f"\n\n{_stale_notice(condition)}" if condition else ""
    before = rest[:cut].strip("\n")
    source = "\n\n".join(filter(None, [f"{title}{notice}", before, banner, rest[cut:].strip("\n")]))
    return {**notebook, "cells": [{**first, "source": source}, *notebook["cells"][1:]]}


def not_built_notebook(notebook: dict[str, Any], title: str, condition: dict[str, Any], slug: str) -> dict[str, Any]:
    """A notebook without results that says why there are none.

    Args:
        notebook: the previous or empty one; its metadata are kept.
        title: of the page.
        condition: the chapter's condition as plain data.
        slug: the chapter, for the command that tries again.
    """
    lines = [f"# {title}", "", ":::{admonition} Not built", ":class: danger kexue-not-built", ""]
    if condition["failed"]:
        where = f" in {condition['place']}" if condition["place"] else ""
        lines.append(f"The last attempt to execute this chapter stopped{where}. So there are no results to show:")
        lines += ["", *_fenced("\n".join(condition["why"]))]
        if condition["traceback"]:
            lines += ["", "The end of the traceback:", "", *_fenced(condition["traceback"])]
        lines += ["", f"Once the cause is mended, `kexue build {slug}` makes the page."]
    else:
        why = "; ".join(condition["why"])
        lines.append(f"There are no results to show: {why}. `kexue build {slug}` makes the page.")
    card = notebook["metadata"].get("kexue", {})
    if "archive" in card:
        post = f'[<span lang="zh">{card["title_zh"]}</span>](https://kexue.fm/archives/{card["archive"]})'
        lines += ["", f"The chapter is about the post {post} of {card['date']}."]
    lines += [":::", ""]
    cell = {"cell_type": "markdown", "id": "not-built", "metadata": {}, "source": "\n".join(lines)}
    return {"cells": [cell], "metadata": notebook["metadata"], "nbformat": 4, "nbformat_minor": 5}


def _stale_notice(condition: dict[str, Any]) -> str:
    why = "".join(f"\n- {_as_it_is(line)}" for line in condition["why"])
    return (
        ":::{admonition} Stale\n:class: warning kexue-stale\n\n"
        f"This page shows the results of an earlier run (notebook of {condition['since']}). Since then:\n{why}\n\n"
        "So numbers, verdicts and proofs below may no longer be those of the code.\n:::"
    )


def _as_it_is(line: str) -> str:
    """A line in which Markdown finds no markup (``__init__`` is not bold)."""
    return re.sub(r"([\\`*_{}\[\]<>#$|~:])", r"\\\1", line)


def _fenced(content: str) -> list[str]:
    """Lines of a code block that ends where it should, whatever it holds."""
    longest = max((len(run) for run in re.findall(r"`{3,}", content)), default=2)
    fence = "`" * (longest + 1)
    return [f"{fence}text", content, fence]


def _minutes(value: float) -> str:
    return "about 1 minute" if value == 1 else f"about {value:g} minutes"


def on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the head into a chapter's notebook as Sphinx has read it."""
    if not docname.startswith(CHAPTERS):
        return
    name = docname.removeprefix(CHAPTERS)
    condition = app.config.kexue_conditions.get(name)
    notebook = json.loads(source[0])
    if condition and condition["state"] == NOT_BUILT:
        notebook = not_built_notebook(notebook, condition["title"], condition, name.rpartition("/")[2])
    else:
        card = notebook["metadata"]["kexue"]
        banner = run_banner(docname, card, card.get("run", {}), app.config.kexue_colab)
        notebook = with_head(notebook, banner, condition if condition and condition["state"] == STALE else None)
    source[0] = json.dumps(notebook)


def without_old_notebook(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """A page that is not built offers no notebook: there may be an old one, which would look like its own."""
    condition = app.config.kexue_conditions.get(page.removeprefix(CHAPTERS))
    if condition and condition["state"] == NOT_BUILT:
        context["sourcename"] = ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers (called by Sphinx)."""
    app.add_config_value("kexue_conditions", {}, "env")
    app.add_config_value("kexue_colab", "", "env")
    app.connect("source-read", on_source_read)
    app.connect("html-page-context", without_old_notebook, priority=100)  # before the theme makes its buttons
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

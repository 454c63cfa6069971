"""A Sphinx extension: each chapter's page says when and on what it was last run in full, and what came of it.

What it says comes from the committed ledger. The executed notebooks are left alone: the note is put in while Sphinx
reads them.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib.book.notebooks import text
from kexue_lib.book.place import digest
from kexue_lib.book.project import Project
from kexue_lib.book.records import VERDICTS, gather
from kexue_lib.book.regress.baseline import committed_rows
from kexue_lib.book.regress.identity import combined
from kexue_lib.book.regress.report import span
from kexue_lib.book.regress.row import processes_of
from kexue_lib.book.regress.summary import Row, middle, number
from kexue_lib.book.staleness import library_hashes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["from_other_library", "full_note", "newest_full", "setup", "with_note"]

#: Where the pages of chapters lie.
CHAPTERS = "book/chapters/"

#: The packages whose versions a note names.
_NAMED = ("torch", "numpy")


def newest_full(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """For each chapter the rows of its newest full runs: those of one source and device that ended well, by seed."""
    found: dict[str, dict[int, Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["started"])):
        if row["scale"] != "full" or row["status"] != "done":
            continue
        runs = found.setdefault(row["chapter"], {})
        if any((run["source"], run["device"]) != (row["source"], row["device"]) for run in runs.values()):
            runs.clear()
        runs[row["seed"]] = row
    return {chapter: [runs[seed] for seed in sorted(runs)] for chapter, runs in found.items()}


def full_note(rows: Sequence[Row], shown: Mapping[str, str], source: str, *, other_library: bool = False) -> str:
    """What a page says of its chapter's full runs, as HTML.

    Args:
        rows: the newest full runs; none if there was no full run.
        shown: the verdict on each claim that the page shows, by the claim's id.
        source: the hash of the chapter's source that the page was made from.
        other_library: whether files of the library that the newest run loaded have changed since.
    """
    if not rows:
        said = ["Not yet run in full: what this page shows is the scale <code>quick</code>."]
        return _note(said)
    last = rows[-1]
    versions = [f"{name} {last['versions'][name]}" for name in _NAMED if name in last["versions"]]
    many = processes_of(last)
    minutes = (middle([row["seconds"] for row in rows if processes_of(row) == many]) or 0.0) / 60
    by = [f"{many} processes"] if many > 1 else []
    where = [max(row["started"] for row in rows)[:10], f"on {last['machine']}", *by, *versions]
    where += [f"commit {last['commit']}"] if last["commit"] else []
    where += [f"seed{'s' if len(rows) > 1 else ''} {span([row['seed'] for row in rows])}", f"{number(minutes)} minutes"]
    said = [f"{html.escape(', '.join(where))}: {_verdicts(rows)}."]
    if last["source"] != source:
        said.append("It was made with an earlier version of this chapter.")
    if other_library:
        said.append("Files of the library that it loaded have changed since.")
    other = _other(rows, shown)
    if other:
        said.append(f"Other verdicts than on this page: {'; '.join(other)}.")
    elif shown:
        said.append("The verdicts are those of this page.")
    return _note(said)


def from_other_library(row: Row, hashes: Mapping[str, str]) -> bool:
    """Whether files of the library that a run loaded are not those of now.

    Args:
        row: of a run that ended well.
        hashes: the hash of each file of the library.
    """
    return row["library"] is None or combined(dict(hashes), row["library"]["files"]) != row["library"]["hash"]


def with_note(notebook: dict[str, Any], note: str) -> dict[str, Any]:
    """The notebook with the note after the quotation that names the post, or after the title."""
    first = notebook["cells"][0]
    title, _, rest = text(first["source"]).partition("\n")
    quote = re.match(r"(?:(?!>).*\n)*?((?:^>.*(?:\n|$))+)", rest, re.MULTILINE)
    cut = quote.end() if quote else 0
    pieces = [title, rest[:cut].strip("\n"), note, rest[cut:].strip("\n")]
    source = "\n\n".join(filter(None, pieces))
    return {**notebook, "cells": [{**first, "source": source}, *notebook["cells"][1:]]}


def _note(said: Sequence[str]) -> str:
    return (
        '<div class="kexue-full" role="note" aria-label="Full run">\n'
        f"<p><strong>Full run.</strong> {' '.join(said)}</p>\n</div>"
    )


def _verdicts(rows: Sequence[Row]) -> str:
    counts = Counter(verdict for verdicts in _by_claim(rows).values() for verdict in [" or ".join(verdicts)])
    order = sorted(
        counts, key=lambda verdict: (verdict not in VERDICTS, verdict not in VERDICTS or VERDICTS.index(verdict))
    )
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in order) or "no claims"


def _other(rows: Sequence[Row], shown: Mapping[str, str]) -> list[str]:
    """The claims on which full and quick disagree."""
    found = []
    for id, verdicts in _by_claim(rows).items():
        if verdicts != [shown.get(id)]:
            found.append(f"{html.escape(id)} {' or '.join(verdicts)} (here: {html.escape(shown.get(id, 'not there'))})")
    return found


def _by_claim(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The verdicts on each claim over the seeds, each once, in the order of the verdicts."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for claim in row["claims"]:
            verdicts = found.setdefault(claim["id"], [])
            if claim["verdict"] not in verdicts:
                verdicts.append(claim["verdict"])
    return {id: sorted(verdicts, key=VERDICTS.index) for id, verdicts in found.items()}


def on_source_read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the note into a chapter's notebook as Sphinx has read it."""
    if not docname.startswith(CHAPTERS):
        return
    notebook = json.loads(source[0])
    records = gather(notebook)
    shown = {claim["id"]: claim["verdict"] for claim in records.claims}
    chapter = docname.removeprefix(CHAPTERS)
    rows, other = app.config.kexue_full.get(chapter, []), chapter in app.config.kexue_full_other_library
    note = full_note(rows, shown, records.run.get("source", ""), other_library=other)
    source[0] = json.dumps(with_note(notebook, note))


def on_config(app: Sphinx, config: Any) -> None:
    """Read the committed ledger; Sphinx reads the pages anew when it has changed."""
    project = Project(Path(app.srcdir))
    config.kexue_full = newest_full(committed_rows(project))
    hashes = library_hashes(project)
    config.kexue_full_other_library = [
        chapter for chapter, rows in config.kexue_full.items() if from_other_library(rows[-1], hashes)
    ]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the handlers (called by Sphinx)."""
    app.add_config_value("kexue_full", {}, "env")
    app.add_config_value("kexue_full_other_library", [], "env")
    app.connect("config-inited", on_config)
    app.connect("source-read", on_source_read, priority=400)  # before what others put at the head
    version = int(digest(Path(__file__).read_bytes())[:8], 16)
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}

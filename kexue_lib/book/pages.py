"""The generated pages of the book: the ledger, the map and the benchmarks."""

from __future__ import annotations

from kexue_lib.book.benchmarks_page import benchmarks_page
from kexue_lib.book.ledger import ledger
from kexue_lib.book.map import chapter_map
from kexue_lib.book.place import place
from kexue_lib.book.project import Project


def write_pages(project: Project) -> None:
    """Write ``ledger.md``, ``benchmarks.md`` and ``_generated/map.md`` in ``book/``; unchanged ones are left alone."""
    scratch = project.build / "tmp"
    place(project.root / "book" / "benchmarks.md", benchmarks_page(project), scratch)
    place(project.root / "book" / "ledger.md", ledger(project), scratch)
    place(project.root / "book" / "_generated" / "map.md", chapter_map(project), scratch)

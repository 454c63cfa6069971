"""The generated pages of the book: the ledger, the claims over seeds, the maps and the benchmarks."""

from __future__ import annotations

from kexue_lib.book.benchmarks_page import benchmarks_page
from kexue_lib.book.ledger import ledger
from kexue_lib.book.map import chapter_map
from kexue_lib.book.map_page import map_page
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.place import place
from kexue_lib.book.project import Project
from kexue_lib.book.seeds_page import seeds_page
from kexue_lib.book.states import states
from kexue_lib.book.steps_page import steps_page


def write_pages(project: Project) -> None:
    """Write ``ledger.md``, ``seeds.md``, ``map.md``, ``steps/…``, ``benchmarks.md`` and the cover's list in ``book/``.

    Unchanged pages are left alone; the page of steps of a chapter that is no more goes.
    """
    scratch = project.build / "tmp"
    book = project.root / "book"
    place(book / "benchmarks.md", benchmarks_page(project), scratch)
    place(book / "ledger.md", ledger(project), scratch)
    place(book / "seeds.md", seeds_page(project), scratch)
    place(book / "map.md", map_page(project), scratch)
    place(book / "_generated" / "map.md", chapter_map(project), scratch)
    written = set()
    for state in states(project):
        if state.chapter is not None and state.records is not None:
            page = book / "steps" / state.planned.part / f"{state.planned.slug}.md"
            place(page, steps_page(state, read_executed(state.chapter)), scratch)
            written.add(page)
    for page in sorted((book / "steps").glob("*/*.md")):
        if page not in written:
            page.unlink()

"""``kexue new``: the source of a planned chapter with the whole anatomy, ready to run and to be filled."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from kexue_lib.book.build import say
from kexue_lib.book.errors import BookError
from kexue_lib.book.place import place
from kexue_lib.book.plan import Planned, read_plan
from kexue_lib.book.project import Project
from kexue_lib.book.scaffold_text import TEMPLATE

if TYPE_CHECKING:
    from rich.console import Console


def new_chapter(project: Project, name: str, console: Console) -> int:
    """Write the source of a chapter of the plan; returns 0.

    Args:
        project: the checkout.
        name: the chapter's slug, or ``part/slug``.
        console: where to say what to do next.

    Raises:
        BookError: the plan has no such chapter, or its source is there already.
    """
    planned = find(project, name)
    target = project.root / "notebooks" / planned.part / f"{planned.slug}.py"
    if target.exists():
        raise BookError(f"notebooks/{planned.name}.py is there already; it is left as it is.")
    place(target, chapter_text(planned), project.build / "tmp")
    say(console, f"Written: notebooks/{planned.name}.py. It runs as it is; replace its examples.")
    say(console, f"List it in _toc.yml, in the plan's order: - file: book/chapters/{planned.name}")
    say(console, f"Then: kexue build {planned.slug}")
    return 0


def find(project: Project, name: str) -> Planned:
    """The planned chapter of this name.

    Raises:
        BookError: there is none; the message has the closest names.
    """
    plan = read_plan(project)
    for planned in plan:
        if name in (planned.slug, planned.name):
            return planned
    close = difflib.get_close_matches(name.rpartition("/")[2], [p.slug for p in plan], n=3, cutoff=0.4)
    hint = f" Did you mean {' or '.join(p.name for p in plan if p.slug in close)}?" if close else ""
    raise BookError(f"book/plan.yml has no chapter {name!r}.{hint} A chapter outside the plan is first added there.")


def chapter_text(planned: Planned) -> str:
    """The source: the card of the plan, and the anatomy with small examples."""
    text = TEMPLATE.lstrip()
    values = {
        "ARCHIVE": str(planned.archive),
        "SLUG": planned.slug,
        "TITLE_ZH": planned.title_zh,
        "TITLE_EN": planned.title_en,
        "YAML_ZH": _quoted(planned.title_zh),
        "YAML_EN": _quoted(planned.title_en),
        "DATE": planned.date,
        "URL": planned.url,
    }
    for key, value in values.items():
        text = text.replace(f"«{key}»", value)
    return text


def _quoted(text: str) -> str:
    """A text as a YAML string in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

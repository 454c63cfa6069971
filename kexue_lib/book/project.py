"""Where things lie in a checkout, and which chapters it has."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kexue_lib.book.errors import BookError

#: The parts of the book, in reading order; a folder of this name under ``notebooks/`` holds the part's chapters.
PARTS = ("attention", "gated", "depth", "optimization", "length", "multitask", "generative", "language")


@dataclass(frozen=True)
class Chapter:
    """One chapter of a checkout: its part and slug, and where its files lie."""

    root: Path
    part: str
    slug: str

    @property
    def name(self) -> str:
        """``part/slug``, as the command line and the reports write it."""
        return f"{self.part}/{self.slug}"

    @property
    def source(self) -> Path:
        """The py:percent source."""
        return self.root / "notebooks" / self.part / f"{self.slug}.py"

    @property
    def source_name(self) -> str:
        """The source's path inside the checkout, for messages."""
        return f"notebooks/{self.name}.py"

    @property
    def executed(self) -> Path:
        """The executed notebook that the book renders."""
        return self.root / "book" / "chapters" / self.part / f"{self.slug}.ipynb"

    @property
    def executed_name(self) -> str:
        """The executed notebook's path inside the checkout, for messages."""
        return f"book/chapters/{self.name}.ipynb"

    @property
    def audit(self) -> Path:
        """The record of the last mutation audit."""
        return self.root / "book" / "records" / self.part / f"{self.slug}.audit.json"

    @property
    def page(self) -> str:
        """The entry of ``_toc.yml``: the executed notebook without its suffix."""
        return f"book/chapters/{self.name}"


@dataclass(frozen=True)
class Project:
    """A checkout of the book."""

    root: Path

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """The checkout that holds ``start`` (default: the current folder).

        Raises:
            BookError: no folder upwards has both ``_config.yml`` and ``notebooks/``.
        """
        start = (start or Path.cwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
                return cls(folder)
        raise BookError(
            f"{start} lies in no checkout of the book: no folder upwards has both _config.yml and notebooks/. "
            "Change into a checkout, or name one with --root."
        )

    @property
    def config(self) -> Path:
        """jupyter-book's configuration, which also holds the repository's URL."""
        return self.root / "_config.yml"

    @property
    def toc(self) -> Path:
        """jupyter-book's table of contents."""
        return self.root / "_toc.yml"

    @property
    def plan(self) -> Path:
        """The list of planned chapters."""
        return self.root / "book" / "plan.yml"

    @property
    def pins(self) -> Path:
        """The exact versions that the committed notebooks are made with."""
        return self.root / "requirements.txt"

    @property
    def build(self) -> Path:
        """Everything that git does not track."""
        return self.root / "_build"

    @property
    def library(self) -> Path:
        """The folder that holds the package ``kexue_lib``: the checkout, else where the running package lies."""
        if (self.root / "kexue_lib" / "__init__.py").is_file():
            return self.root
        import kexue_lib

        return Path(kexue_lib.__file__).resolve().parent.parent

    @cached_property
    def chapters(self) -> tuple[Chapter, ...]:
        """All chapters that have a source, by part and then in the plan's order (chapters off the plan last).

        Raises:
            BookError: a source lies in no known part.
        """
        from kexue_lib.book.plan import read_plan

        order = {entry.name: entry.order for entry in read_plan(self)} if self.plan.is_file() else {}
        found = []
        for source in sorted((self.root / "notebooks").rglob("*.py")):
            relative = source.relative_to(self.root / "notebooks")
            if any(piece.startswith((".", "_")) for piece in relative.parts):
                continue
            if len(relative.parts) != 2 or relative.parts[0] not in PARTS:
                raise BookError(
                    f"notebooks/{relative} lies in no part of the book. A chapter is notebooks/<part>/<slug>.py, "
                    f"and the parts are: {', '.join(PARTS)}."
                )
            found.append(Chapter(self.root, relative.parts[0], source.stem))
        found.sort(key=lambda c: (PARTS.index(c.part), order.get(c.name, len(order) + 1), c.slug))
        return tuple(found)

    def chapter(self, name: str) -> Chapter:
        """The chapter that ``name`` means: a slug, ``part/slug``, or a path to its source or executed notebook.

        Raises:
            BookError: there is no such chapter; the message has the closest names.
        """
        wanted = name.removesuffix("/").removesuffix(".py").removesuffix(".ipynb")
        wanted = "/".join(Path(wanted).parts[-2:])
        for chapter in self.chapters:
            if wanted in (chapter.slug, chapter.name):
                return chapter
        raise BookError(f"There is no chapter {name!r}. {self._hint(wanted)}")

    def select(self, names: Iterable[str]) -> tuple[Chapter, ...]:
        """The chapters of these names, in the book's order; all of them if no name is given."""
        wanted = {self.chapter(name) for name in names}
        return tuple(c for c in self.chapters if c in wanted) if wanted else self.chapters

    def _hint(self, wanted: str) -> str:
        names = [c.name for c in self.chapters]
        if not names:
            return "This checkout has no chapter yet; `kexue new` makes one."
        by_slug = {c.slug: c.name for c in self.chapters}
        close = difflib.get_close_matches(wanted.rpartition("/")[2], by_slug, n=3, cutoff=0.4)
        if close:
            return f"Did you mean {' or '.join(by_slug[slug] for slug in close)}?"
        return f"The chapters are: {', '.join(names)}."

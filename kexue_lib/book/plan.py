"""The plan of the book, ``book/plan.yml``: 36 chapters in eight parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from kexue_lib.book.cards import Card
from kexue_lib.book.errors import BookError
from kexue_lib.book.project import PARTS, Project


@dataclass(frozen=True)
class Planned:
    """A planned chapter; ``order`` counts through the whole book from 1, ``after`` names chapters that it builds on."""

    part: str
    slug: str
    order: int
    archive: int
    title_zh: str
    title_en: str
    date: str
    after: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``part/slug``."""
        return f"{self.part}/{self.slug}"

    @property
    def url(self) -> str:
        """The post."""
        return f"https://kexue.fm/archives/{self.archive}"


@dataclass(frozen=True)
class Part:
    """A part of the book: its folder, its title, a sentence about it."""

    part: str
    title: str
    about: str


def read_parts(project: Project) -> tuple[Part, ...]:
    """The parts, in reading order."""
    return tuple(Part(p["part"], p["title"], p["about"]) for p in _read(project))


def read_plan(project: Project) -> tuple[Planned, ...]:
    """The planned chapters, in reading order.

    Raises:
        BookError: the file is missing or no YAML, an entry lacks a field, a slug or an archive id stands twice, or
            ``after`` names a chapter that is not planned.
    """
    entries: list[Planned] = []
    for part in _read(project):
        for fields in part["chapters"]:
            try:
                entry = Planned(
                    part=part["part"],
                    order=len(entries) + 1,
                    **{**fields, "date": str(fields["date"]), "after": tuple(fields.get("after", ()))},
                )
            except (KeyError, TypeError) as error:
                raise BookError(
                    f"book/plan.yml: chapter {fields!r} of part {part['part']!r} is wrong: {error}"
                ) from None
            for other in entries:
                if entry.slug == other.slug or entry.archive == other.archive:
                    raise BookError(f"book/plan.yml: {entry.name} and {other.name} have the same slug or archive id.")
            entries.append(entry)
    slugs = {entry.slug for entry in entries}
    for entry in entries:
        if unknown := [slug for slug in entry.after if slug not in slugs]:
            raise BookError(f"book/plan.yml: {entry.name} comes after {', '.join(unknown)}, which is not in the plan.")
    return tuple(entries)


def disagreements(card: Card, plan: tuple[Planned, ...]) -> list[str]:
    """What a chapter's card says otherwise than the plan; empty if they agree."""
    planned = next((p for p in plan if p.slug == card.slug), None)
    if planned is None:
        return [f"{card.part}/{card.slug} is not in book/plan.yml: add it there, or correct the slug."]
    return [
        f"{card.part}/{card.slug}: {field} is {ours!r} in the card and {theirs!r} in book/plan.yml."
        for field in ("part", "archive", "title_zh", "title_en", "date")
        if (ours := getattr(card, field)) != (theirs := getattr(planned, field))
    ]


def _read(project: Project) -> list[dict[str, Any]]:
    try:
        parts = yaml.safe_load(project.plan.read_text(encoding="utf-8"))["parts"]
        names = tuple(p["part"] for p in parts)
        for part in parts:
            part["title"], part["about"], part["chapters"]  # a missing one is a KeyError
    except FileNotFoundError:
        raise BookError(f"{project.plan} is missing: it lists the planned chapters.") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BookError(
            f"book/plan.yml has not the expected form (parts: part, title, about, chapters): {error}"
        ) from None
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise BookError(f"book/plan.yml: unknown part {', '.join(unknown)}. The parts are: {', '.join(PARTS)}.")
    return list(parts)

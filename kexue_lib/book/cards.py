"""The card of a chapter: what the head of its source says about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kexue_lib.book.errors import BookError

_SLUG = "^[a-z0-9]+(-[a-z0-9]+)*$"
_TEXT = {"type": "string", "minLength": 1, "pattern": r"^\S(.*\S)?$"}
_MINUTES = {"type": "number", "exclusiveMinimum": 0}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["archive", "title_zh", "title_en", "date", "prerequisites", "minutes"],
    "properties": {
        "archive": {"type": "integer", "minimum": 1},
        "title_zh": _TEXT,
        "title_en": _TEXT,
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "prerequisites": {"type": "array", "items": {"type": "string", "pattern": _SLUG}, "uniqueItems": True},
        "minutes": {
            "type": "object",
            "additionalProperties": False,
            "required": ["quick", "full"],
            "properties": {"quick": _MINUTES, "full": _MINUTES},
        },
    },
}


@dataclass(frozen=True)
class Card:
    """What a chapter's head says, checked.

    Args:
        part: the part of the book, from the path.
        slug: the chapter's name, from the path.
        archive: the post's number on kexue.fm.
        title_zh: the post's title.
        title_en: the chapter's title.
        date: the post's date, ``YYYY-MM-DD``.
        prerequisites: slugs of the chapters to read before.
        minutes: expected minutes of a run by scale.
    """

    part: str
    slug: str
    archive: int
    title_zh: str
    title_en: str
    date: str
    prerequisites: tuple[str, ...]
    minutes: dict[str, float]

    @property
    def url(self) -> str:
        """The post."""
        return f"https://kexue.fm/archives/{self.archive}"

    def metadata(self) -> dict[str, Any]:
        """The card as the notebook's metadata hold it."""
        return {
            "archive": self.archive,
            "title_zh": self.title_zh,
            "title_en": self.title_en,
            "date": self.date,
            "prerequisites": list(self.prerequisites),
            "minutes": dict(self.minutes),
            "part": self.part,
            "slug": self.slug,
        }


def read_card(path: Path) -> Card:
    """The card in the head of a chapter's source.

    Raises:
        BookError: no head, no YAML, or a field that is missing, unknown or of the wrong form.
    """
    where = f"notebooks/{path.parent.name}/{path.name}"
    head = _head(path.read_text(encoding="utf-8"), where)
    try:
        content = yaml.safe_load(head)
    except yaml.YAMLError as error:
        raise BookError(f"{where}: the head between the two `# ---` lines is no YAML: {error}") from None
    jupyter = content.get("jupyter") if isinstance(content, dict) else None
    fields = jupyter.get("kexue") if isinstance(jupyter, dict) else None
    if not isinstance(fields, dict):
        raise BookError(
            f"{where}: the head has no card. Expected a mapping `kexue:` under `jupyter:` (see `kexue new`)."
        )
    fields = {**fields, "date": str(fields["date"])} if "date" in fields else fields
    _validate(fields, where)
    return Card(
        part=path.parent.name,
        slug=path.stem,
        **{**fields, "prerequisites": tuple(fields["prerequisites"])},
    )


def _head(text: str, where: str) -> str:
    lines = text.splitlines()
    if not lines or lines[0].strip() != "# ---":
        raise BookError(f"{where}: a chapter starts with its card between two `# ---` lines; line 1 is none.")
    for end, line in enumerate(lines[1:], start=1):
        if line.strip() == "# ---":
            return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[1:end])
        if not line.startswith("#"):
            break
    raise BookError(f"{where}: the head that starts in line 1 is not closed by a second `# ---` line.")


def _validate(fields: dict[str, Any], where: str) -> None:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

    problems = sorted(
        Draft202012Validator(SCHEMA).iter_errors(fields), key=lambda e: (list(map(str, e.path)), e.message)
    )
    if problems:
        said = "; ".join(f"{'.'.join(['kexue', *map(str, p.path)])}: {p.message}" for p in problems)
        raise BookError(f"{where}: the card is wrong: {said}.")

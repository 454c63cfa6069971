"""The exact versions in ``requirements.txt``, and what is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project


def canonical(name: str) -> str:
    """A distribution's name as pip compares it.

    >>> canonical("Jinja2"), canonical("ruamel_yaml.clib")
    ('jinja2', 'ruamel-yaml-clib')
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def public(version: str) -> str:
    """A version without its local part: ``2.13.0+cpu`` is a build of ``2.13.0``.

    >>> public("2.13.0+cpu")
    '2.13.0'
    """
    return version.partition("+")[0]


def read_pins(project: Project) -> dict[str, str]:
    """The pinned version of each distribution; empty if the checkout has no ``requirements.txt``.

    Raises:
        BookError: a line is no exact pin.
    """
    if not project.pins.is_file():
        return {}
    pins = {}
    for number, line in enumerate(project.pins.read_text(encoding="utf-8").splitlines(), start=1):
        entry = line.partition("#")[0].partition(";")[0].strip()
        if not entry or entry.startswith("-"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[[^]]*\])?\s*==\s*([^\s*]+)", entry)
        if not match:
            raise BookError(f"requirements.txt:{number}: expected an exact pin (name==version), found {entry!r}.")
        pins[canonical(match[1])] = public(match[2])
    return pins


def refuse_other_versions(project: Project, extra: Iterable[str] = ()) -> None:
    """Raise an error if a distribution that chapters need is installed in another version than the pinned one.

    Chapters need what ``kexue-lib[lab]`` and the kernel require, directly or not, and the ``extra`` names (what earlier
    runs have loaded).

    Raises:
        BookError: names each such distribution, the installed version, and the pinned one.
    """
    pins = read_pins(project)
    needed = closure(["kexue-lib[lab]", "ipykernel"]) | {canonical(name) for name in extra}
    wrong = [
        f"{name}: installed {found or 'not at all'}, pinned {pins[name]}"
        for name in sorted(needed & pins.keys())
        if (found := installed(name)) != pins[name]
    ]
    if wrong:
        raise BookError(
            "The environment is not the one that the committed notebooks are made in: "
            + "; ".join(wrong)
            + ". Install the pins (pip install -r requirements.txt), or go on with --any-versions; "
            "the notebooks are then recorded as made with other versions and count as stale."
        )


def installed(name: str) -> str | None:
    """The public version of an installed distribution, None if there is none."""
    from importlib import metadata

    try:
        return public(metadata.version(name))
    except metadata.PackageNotFoundError:
        return None


def closure(roots: Iterable[str]) -> set[str]:
    """The names of all distributions that the roots (with their extras) require and that are installed."""
    from importlib import metadata

    from packaging.requirements import Requirement

    found: set[tuple[str, str]] = set()
    todo = []
    for root in roots:
        requirement = Requirement(root)
        todo += [(canonical(requirement.name), extra) for extra in ("", *requirement.extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonical(requirement.name), e) for e in ("", *requirement.extras)]
    return {name for name, _ in found}

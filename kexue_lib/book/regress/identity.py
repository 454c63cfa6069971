"""What a run rests on besides its chapter: the library's files and the installed versions.

A worker compares its own identity with that of the command before and after each run, so that no row can say that it
was made with something else than it was.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kexue_lib.book.pins import closure, installed
from kexue_lib.book.place import digest
from kexue_lib.book.project import Project
from kexue_lib.book.staleness import library_hashes

#: What chapters need, what runs them, and what carries the tasks: all of it has to be the same on every worker.
ROOTS = ("kexue-lib[lab]", "ipykernel", "papermill", "nbclient", "distributed")


@dataclass(frozen=True)
class Identity:
    """The library and the environment of one machine.

    Args:
        library: the hash of all files of ``kexue_lib``.
        python: its version.
        packages: the public version of each distribution that chapters or the pipeline need.
    """

    library: str
    python: str
    packages: dict[str, str]

    def differences(self, other: Identity) -> list[str]:
        """What is different on another machine, in words."""
        found = []
        if self.python != other.python:
            found.append(f"Python {other.python} instead of {self.python}")
        for name in sorted(self.packages.keys() | other.packages.keys()):
            here, there = self.packages.get(name), other.packages.get(name)
            if here != there:
                found.append(f"{name} {there or 'not installed'} instead of {here or 'none'}")
        if self.library != other.library:
            found.append("other files of kexue_lib")
        return found

    def data(self) -> dict[str, Any]:
        """Plain data that can go to a worker."""
        return asdict(self)


def identity_of(folder: Path) -> Identity:
    """The identity of this machine, with the ``kexue_lib`` that lies in ``folder``."""
    return Identity(combined(library_hashes_in(folder)), python_version(), dict(_packages()))


def library_hashes_in(folder: Path) -> dict[str, str]:
    """The hash of each file of the ``kexue_lib`` in a folder; empty if there is none."""
    if not (folder / "kexue_lib" / "__init__.py").is_file():
        return {}
    return library_hashes(Project(folder))


def worker_library(folder: Path, wanted: str) -> Path:
    """The folder from which a worker takes ``kexue_lib``: the command's own if it has the wanted files, else its own.

    On one machine, or with a shared disk, the command's folder is there. Elsewhere the worker's own installation has
    to hold the same files; whether it does is for the caller to compare.
    """
    import kexue_lib

    own = Path(kexue_lib.__file__).resolve().parent.parent
    return folder if combined(library_hashes_in(folder)) == wanted else own


def combined(hashes: dict[str, str], names: Iterable[str] | None = None) -> str:
    """One hash of several files by their names (all of them by default). A name that is not there counts as that.

    >>> combined({"a": "1", "b": "2"}, ["a"]) == combined({"a": "1"})
    True
    """
    return digest("".join(f"{name}\0{hashes.get(name, 'gone')}\n" for name in sorted(set(names or hashes))))


def python_version() -> str:
    """Such as 3.11.7."""
    return ".".join(str(part) for part in sys.version_info[:3])


@cache
def _packages() -> tuple[tuple[str, str], ...]:
    versions = {name: installed(name) for name in closure(ROOTS)}
    return tuple((name, version) for name, version in sorted(versions.items()) if version and name != "kexue-lib")

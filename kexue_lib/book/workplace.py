"""The folders under ``_build`` that a command works in, and the lock that keeps two builds apart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project


@dataclass(frozen=True)
class Workplace:
    """Folders of one command: ``scratch`` goes with it, ``cache`` stays."""

    scratch: Path
    cache: Path


@contextlib.contextmanager
def workplace(project: Project) -> Iterator[Workplace]:
    """A scratch folder for this process; what killed processes left is removed."""
    base = project.build / "tmp"
    base.mkdir(parents=True, exist_ok=True)
    for left in base.iterdir():
        if left.name.isdigit() and not _alive(int(left.name)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = base / str(os.getpid())
    scratch.mkdir(exist_ok=True)
    cache = project.build / "cache"
    cache.mkdir(exist_ok=True)
    try:
        yield Workplace(scratch, cache)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def lock(project: Project) -> Iterator[None]:
    """Only one build at a time; the lock goes with the process, however it ends.

    Raises:
        BookError: another build is running.
    """
    project.build.mkdir(exist_ok=True)
    with (project.build / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise BookError(
                f"Another `kexue build` or `kexue check` is running in this checkout (process {file.read().strip()}). "
                "Wait for it, or end it."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""Reading ledgers: a file, or the committed one as it was at a tag."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.regress.store import Ledger

Row = dict[str, Any]

#: The committed ledger, from which the book's page is made, inside the checkout.
COMMITTED = "book/records/ledger.jsonl"


def read_ledger(path: Path, project: Project, warn: Callable[[str], None]) -> list[Row]:
    """The rows of a ledger's file, in order; lines that cannot be read are told to ``warn`` and left out.

    Raises:
        BookError: there is no such file, or a newer version wrote it.
    """
    if not path.is_file():
        raise BookError(f"There is no ledger {path}. `kexue regress` makes one.")
    return Ledger(path, project.build / "regress", warn).new_rows()


def committed_rows(project: Project, warn: Callable[[str], None] = lambda text: None) -> list[Row]:
    """The rows of the committed ledger; none if there is none."""
    path = project.root / COMMITTED
    return read_ledger(path, project, warn) if path.is_file() else []


def read_baseline(name: str, project: Project, warn: Callable[[str], None]) -> list[Row]:
    """The rows of a baseline: a ledger's file, or a tag, branch or commit whose committed ledger is meant.

    Raises:
        BookError: neither a file nor a commit with a ledger.
    """
    if Path(name).is_file():
        return read_ledger(Path(name), project, warn)
    commit = f"{name}:{COMMITTED}"
    shown = subprocess.run(
        ["git", "-C", str(project.root), "show", "--end-of-options", commit], capture_output=True, check=False
    )
    if shown.returncode:
        raise BookError(
            f"--baseline {name!r} is neither a ledger's file nor a tag, branch or commit that has {COMMITTED}."
        )
    copy = project.build / "regress" / "baseline.jsonl"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(shown.stdout)
    return read_ledger(copy, project, warn)


def commit_of(project: Project) -> str | None:
    """The commit of the checkout, with ``+`` if a tracked file was changed since; None outside of git."""
    described = subprocess.run(
        ["git", "-C", str(project.root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None if described.returncode == 0 else None

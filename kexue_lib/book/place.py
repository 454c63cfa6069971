"""Writing files so that a reader sees the old or the new content, never half of it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path


def digest(content: str | bytes) -> str:
    """The SHA-256 of a text (in UTF-8) or of bytes, in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def place(path: Path, text: str, scratch: Path) -> bool:
    """Write ``text`` to ``path`` in one step, by way of a file in ``scratch`` (on the same disk).

    An unchanged file is left alone, with its time stamp. Returns whether something was written.
    """
    content = text.encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=scratch, prefix="place-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True

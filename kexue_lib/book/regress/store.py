"""The ledger: a file of JSON Lines to which rows are only ever appended.

Several processes may append at once: each write is made under a lock on the file and reaches the disk before the lock
goes. A line is whole or, after a crash in mid-write, torn at the file's end; the next to open the ledger cuts it off.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress.row import Key, NewerLedger, validate

Row = dict[str, Any]


class Ledger:
    """A ledger on disk, and the runs that this process has reserved in it.

    Args:
        path: the file; made when the first row is appended.
        locks: a folder for the file of reservations, the same for all processes that share the ledger.
        warn: told of each repair and each line that cannot be read.

    Reservations are locks on single bytes of one file, a byte for each run. The system drops them when their process
    ends, however it ends. One process must not hold two Ledger objects of the same file.
    """

    def __init__(self, path: Path, locks: Path, warn: Callable[[str], None]) -> None:
        """Nothing is read yet."""
        self.path, self._warn = path, warn
        self._locks = locks / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.reserved"
        self._reserved: IO[bytes] | None = None
        self._read = 0  # bytes
        self._lines = 0

    def new_rows(self) -> list[Row]:
        """The rows that were appended since the last call, by whomever; at first all of them.

        A line that is no valid row is told to ``warn`` and left out: its run then counts as not yet made.

        Raises:
            BookError: the ledger was written by a newer version, or has shrunk under our hands.
        """
        try:
            if self.path.stat().st_size == self._read:
                return []
        except FileNotFoundError:
            return []
        with self.path.open("rb") as file, _locked(file, fcntl.LOCK_SH):
            size = os.fstat(file.fileno()).st_size
            if size < self._read:
                raise BookError(f"{self.path} has become shorter while it was in use. A ledger is only appended to.")
            file.seek(self._read)
            content = file.read()
        whole, newline, torn = content.rpartition(b"\n")
        if torn:
            self._warn(f"{self.path}: the last line is torn (an interrupted write) and is left out")
        self._read += len(whole) + len(newline)
        rows = []
        for line in whole.split(b"\n") if newline else []:
            self._lines += 1
            row = self._row(line)
            if row is not None:
                rows.append(row)
        return rows

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows: all of them, or none and an error.

        Raises:
            BookError: the disk is full, or the file cannot be written.
        """
        for row in rows:
            validate(row)
        data = b"".join(
            json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n" for row in rows
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b", buffering=0) as file, _locked(file, fcntl.LOCK_EX):
                self._repair(file)
                size = os.fstat(file.fileno()).st_size
                try:
                    written = 0
                    while written < len(data):
                        written += os.write(file.fileno(), data[written:])
                    os.fsync(file.fileno())
                except BaseException:
                    os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise BookError(
                f"{self.path} could not be written: {error.strerror}. It is as it was before. Make room, and give the "
                "same command again: it goes on where it stopped."
            ) from None

    def repair(self) -> None:
        """Cut off a torn last line, with a warning, and complete a whole one that lacks its end."""
        if self.path.exists():
            with self.path.open("a+b", buffering=0) as file, _locked(file, fcntl.LOCK_EX):
                self._repair(file)

    def reserve(self, key: Key) -> bool:
        """Reserve a run for this process; False if another process is at it."""
        if self._reserved is None:
            self._locks.parent.mkdir(parents=True, exist_ok=True)
            self._reserved = self._locks.open("a+b")
        try:
            fcntl.lockf(self._reserved, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):
            return False
        return True

    def release(self, key: Key) -> None:
        """Give a reserved run back."""
        if self._reserved is not None:
            fcntl.lockf(self._reserved, fcntl.LOCK_UN, 1, _offset(key))

    def close(self) -> None:
        """Give all reserved runs back."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _row(self, line: bytes) -> Row | None:
        try:
            row: Row = json.loads(line)
            validate(row)
        except NewerLedger as error:
            raise BookError(f"{self.path}, line {self._lines}: {error}") from None
        except (ValueError, BookError) as error:
            self._warn(f"{self.path}, line {self._lines} is no valid row and is left out: {error}")
            return None
        return row

    def _repair(self, file: IO[bytes]) -> None:
        end = os.fstat(file.fileno()).st_size
        start = _last_line(file.fileno(), end)
        if start == end:
            return
        torn = os.pread(file.fileno(), end - start, start)
        try:
            json.loads(torn)
        except ValueError:
            os.ftruncate(file.fileno(), start)
            self._warn(
                f"{self.path}: the last line was torn (an interrupted write); its {end - start} bytes were cut off, "
                "and its run counts as not yet made"
            )
        else:  # only the end of the line was missing
            os.write(file.fileno(), b"\n")


def _last_line(handle: int, end: int) -> int:
    """Where the unfinished last line starts; ``end`` if the last line is finished."""
    start, step = end, 1 << 16
    while start > 0:
        low = max(0, start - step)
        found = os.pread(handle, start - low, low).rfind(b"\n")
        if found >= 0:
            return low + found + 1
        start = low
    return 0


def _offset(key: Key) -> int:
    """The byte that stands for a run; two runs share one with probability 2⁻⁶¹."""
    return int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") >> 3


@contextlib.contextmanager
def _locked(file: IO[bytes], how: int) -> Iterator[None]:
    fcntl.flock(file, how)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)

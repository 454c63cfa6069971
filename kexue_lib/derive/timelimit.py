"""Limits for SymPy's computations: their time, in any thread and on any system, and the depth of their recursion."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitReached(Exception):
    """The computation took longer than it was given."""


_DEPTH = 20_000
_PATIENCE = 1.0  # seconds until a thread that did not stop is told again


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Allow deep recursion for a while.

    SymPy walks expressions recursively, and Python's default of 1000 calls is near what a page-long sum needs: whether
    it is enough would depend on who calls, and on the order of a set.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


class _Limit:
    """One limit that is running: when it ends, in which thread, whether it is over, whether its time was up."""

    def __init__(self, seconds: float) -> None:
        # A class of its own for each use, so that nested limits do not catch each other. It derives from BaseException
        # because SymPy catches Exception in many places.
        self.stop = type("Stop", (BaseException,), {})
        self.end, self.thread = time.monotonic() + seconds, threading.get_ident()
        self.done = self.fired = False

    def again(self, now: float) -> None:
        """Its time was up; look again later.

        An exception that arrives inside a finalizer or a callback of the garbage collector is ignored there and lost.
        """
        self.fired, self.end = True, now + _PATIENCE


class _Watchdog:
    """One thread that ends limits when their time is up.

    A thread for each limit would be simpler, and wrong: while a thread is being born, CPython may deliver to it what is
    meant for the thread that starts it (the new state bears the old identity for a moment). Locks are plain ones, whose
    ``with`` cannot be torn apart by an exception that arrives at any moment.
    """

    def __init__(self) -> None:
        self.lock, self.wake = threading.Lock(), threading.Lock()
        self.limits: list[_Limit] = []
        self.thread: threading.Thread | None = None

    def start(self) -> None:
        """See that the thread runs; no limit is running when it is started first."""
        with self.lock:
            if self.thread is None:
                self.thread = threading.Thread(target=self._watch, name="time limits", daemon=True)
                self.thread.start()

    def add(self, limit: _Limit) -> None:
        """Watch a limit from now on."""
        with self.lock:
            self.limits.append(limit)
            if self.wake.locked():
                self.wake.release()

    def close(self, mine: _Limit) -> None:
        """End a limit, with those inside it whose own end an exception may have interrupted; harmless when repeated."""
        with self.lock:
            here = [limit for limit in self.limits if limit.thread == mine.thread]
            if mine in here:
                over, outside = here[here.index(mine) :], here[: here.index(mine)]
                self.limits = [limit for limit in self.limits if limit not in over]
                for limit in over:
                    limit.done = True
                if any(limit.fired for limit in over):  # withdraw it, but not that of a limit outside
                    self._post(mine.thread, next((limit.stop for limit in outside if limit.fired), None))

    @staticmethod
    def _post(thread: int, stop: type[BaseException] | None) -> None:
        """Have an exception raised in a thread, or withdraw it. A thread has room for one."""
        what = None if stop is None else ctypes.py_object(stop)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)

    def _watch(self) -> None:
        while True:
            with self.lock:
                now = time.monotonic()
                for limit in self.limits:
                    if limit.end <= now:
                        limit.again(now)
                        self._post(limit.thread, limit.stop)
                ends = [limit.end - now for limit in self.limits]
            self.wake.acquire(timeout=min(max(min(ends), 0), 3600) if ends else -1)


_WATCHDOG = _Watchdog()


def _after_fork() -> None:
    global _WATCHDOG
    _WATCHDOG = _Watchdog()  # the thread did not come along


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop the body after ``seconds`` and raise :class:`TimeLimitReached`.

    A watchdog thread raises an exception inside the running thread. That works outside the main thread and without
    signals, and nests. It cannot interrupt one long call into C (SymPy makes none that matters).

    >>> with time_limit(0.05):
    ...     while True:
    ...         pass
    Traceback (most recent call last):
        ...
    kexue_lib.derive.timelimit.TimeLimitReached: stopped after 0.05 s
    """
    _WATCHDOG.start()
    mine = _Limit(seconds)
    try:
        try:
            _WATCHDOG.add(mine)
            yield
        finally:
            _WATCHDOG.close(mine)
    except BaseException as error:
        _WATCHDOG.close(mine)  # once more: the exception may have come while the limit was closed
        if isinstance(error, mine.stop):
            raise TimeLimitReached(f"stopped after {seconds:g} s") from None
        raise
    if mine.fired:
        raise TimeLimitReached(f"stopped after {seconds:g} s")

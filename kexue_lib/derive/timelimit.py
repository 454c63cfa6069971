"""Limits for SymPy's computations: their time, in any thread and on any system, and the depth of their recursion."""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitReached(Exception):
    """The computation took longer than it was given."""


_DEPTH = 20_000


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Allow deep recursion for a while.

    SymPy walks expressions recursively, and Python's default of 1000 calls is near what a page-long sum needs: whether it
    is enough would depend on who calls, and on the order of a set.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEPTH))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


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

    # A class of its own for each use, so that nested limits do not catch each other. It derives from BaseException
    # because SymPy catches Exception in many places.
    class _Stop(BaseException):
        pass

    target = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    state = {"done": False, "fired": False}

    def fire() -> None:
        with lock:
            if not state["done"]:
                state["fired"] = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, ctypes.py_object(_Stop))

    timer = threading.Timer(seconds, fire)
    timer.daemon = True
    timer.start()
    try:
        try:
            yield
        finally:
            with lock:
                state["done"] = True
            timer.cancel()
            if state["fired"]:  # delivered or about to be: withdraw it in the second case
                ctypes.pythonapi.PyThreadState_SetAsyncExc(target, None)
    except _Stop:
        raise TimeLimitReached(f"stopped after {seconds:g} s") from None
    if state["fired"]:
        raise TimeLimitReached(f"stopped after {seconds:g} s")

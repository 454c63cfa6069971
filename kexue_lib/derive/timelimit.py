"""A time limit for computations in Python, usable in any thread and on any system."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeLimitReached(Exception):
    """The computation took longer than it was given."""


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

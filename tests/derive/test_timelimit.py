"""Time limits: in the main thread and in others, nested, and for the evidence of a step."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import sympy as sp

from kexue_lib.derive import Derivation, Exact, StepUndecided, TimeLimitReached, eq, time_limit
from kexue_lib.derive.timelimit import _WATCHDOG


def spin() -> None:
    while True:
        pass


def stopped_by(outer: float, inner: float) -> tuple[str, float]:
    """Run an endless loop inside two limits, another one after it, and say which limits were reached."""
    start, said = time.monotonic(), ""
    try:
        with time_limit(outer):
            try:
                with time_limit(inner):
                    spin()
            except TimeLimitReached:
                said += "inner "
            spin()
    except TimeLimitReached:
        said += "outer"
    return said, time.monotonic() - start


def test_a_loop_is_stopped() -> None:
    start = time.monotonic()
    with pytest.raises(TimeLimitReached, match=r"0\.1 s"), time_limit(0.1):
        spin()
    assert 0.09 < time.monotonic() - start < 2


def test_what_ends_in_time_is_left_alone() -> None:
    with time_limit(5):
        total = sum(range(1000))
    assert total == 499500
    assert not _WATCHDOG.limits


def test_an_exception_in_the_body_comes_through() -> None:
    with pytest.raises(KeyError), time_limit(5):
        raise KeyError
    assert not _WATCHDOG.limits


def test_nested_limits() -> None:
    said, seconds = stopped_by(0.3, 0.1)
    assert said == "inner outer"
    assert 0.25 < seconds < 3
    said, seconds = stopped_by(0.1, 5)
    assert said == "outer"
    assert seconds < 3


def test_equal_nested_limits_stop_the_outer_one_too() -> None:
    for _ in range(5):
        said, seconds = stopped_by(0.02, 0.02)
        assert said.endswith("outer")
        assert seconds < 3


def test_code_that_catches_exception_is_stopped_all_the_same() -> None:
    def stubborn() -> None:
        while True:
            try:
                spin()
            except Exception:  # noqa: PERF203 (what SymPy does in many places)
                continue

    with pytest.raises(TimeLimitReached), time_limit(0.1):
        stubborn()


def test_in_other_threads() -> None:
    results: list[str] = []

    def work() -> None:
        results.extend(stopped_by(0.05, 0.02)[0] for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(results) == 9
    assert all(said.endswith("outer") for said in results)


def briefly(seconds: float) -> None:
    with contextlib.suppress(TimeLimitReached), time_limit(seconds):
        sum(range(2000))


def test_many_short_limits_leave_nothing_behind() -> None:
    for _ in range(40):
        with contextlib.suppress(TimeLimitReached), time_limit(0.002):
            for _ in range(30):
                briefly(0.0005)
    assert not _WATCHDOG.limits
    end = time.monotonic() + 0.05
    while time.monotonic() < end:  # a stray exception would arrive here
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_exception_that_a_finalizer_swallows_comes_again() -> None:
    class Slow:
        def __del__(self) -> None:
            briefly(0.3)

    def work() -> None:
        slow = Slow()
        del slow  # Python ignores what is raised in here
        while True:
            pass

    start = time.monotonic()
    with pytest.raises(TimeLimitReached), time_limit(0.1):
        work()
    assert time.monotonic() - start < 5


def slow_relation() -> object:
    # true, of a kind that SymPy works on for minutes: 12 symbols, nested roots of a big polynomial
    xs = sp.symbols("x1:13", positive=True)
    big = sum(xs) ** 9
    return eq(
        sp.sqrt(big**2 + 1 + sp.sin(xs[0])) ** 3, (sp.sqrt(big**2 + sp.sin(xs[0]) + 1 + sp.Rational(1, 10**40))) ** 3
    )


def test_a_slow_relation_is_undecided_within_its_limit() -> None:
    start = time.monotonic()
    with pytest.raises(StepUndecided, match="SymPy did not reduce"):
        Derivation("slow").step("D1", slow_relation(), Exact(seconds=1))
    assert time.monotonic() - start < 8


def test_a_slow_relation_in_a_thread() -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            Derivation("slow").step("D1", slow_relation(), Exact(seconds=0.5))
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert [type(error) for error in caught] == [StepUndecided]

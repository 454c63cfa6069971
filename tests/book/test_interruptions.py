"""Chapters that hang, and builds that are killed: nothing is lost, nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from checkouts import Checkout

pytestmark = pytest.mark.slow

HANG = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session={session})
open({path!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(300)
"""


def wait_for(path: Path, seconds: float = 60) -> list[int]:
    """The process ids that a chapter has written to a file."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if path.is_file() and len(path.read_text().split()) == 2:
            return [int(pid) for pid in path.read_text().split()]
        time.sleep(0.1)
    raise AssertionError("the chapter did not start")


def all_gone(pids: list[int], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        alive = [p for p in pids if psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def test_a_hanging_chapter_is_ended_with_all_it_started(built: Checkout, tmp_path: Path) -> None:
    before = built.executed().read_bytes()
    mark = tmp_path / "pids"
    built.chapter("x = 1", HANG.format(path=str(mark), session=True))
    done = built.kexue("build", "--no-html", "--timeout", "20")
    assert done.returncode == 1
    assert "timeout in cell 5 (notebooks/attention/entropy-invariant-softmax.py:" in done.stdout
    assert "the time limit of 20 s passed" in done.stdout
    assert all_gone(wait_for(mark))
    assert built.executed().read_bytes() == before


def test_a_kernel_that_dies_is_reported_with_its_cell(built: Checkout) -> None:
    before = built.executed().read_bytes()
    built.chapter("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = built.kexue("build", "--no-html")
    assert done.returncode == 1
    assert "died in cell 4" in done.stdout
    assert built.executed().read_bytes() == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_killed_loses_nothing_and_the_next_one_finishes(
    built: Checkout, tmp_path: Path, how: signal.Signals
) -> None:
    before = built.executed().read_bytes()
    mark = tmp_path / "pids"
    good = built.project.chapters[0].source.read_bytes()
    built.chapter("x = 1", HANG.format(path=str(mark), session=False))
    build = subprocess.Popen(
        built.command("build", "--no-html"),
        env=built.environment(),
        cwd=built.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    pids = wait_for(mark)
    if how == signal.SIGINT:
        os.killpg(build.pid, how)  # as a terminal does it
    else:
        os.kill(build.pid, how)
    output = build.communicate(timeout=30)[0]
    assert build.returncode == {signal.SIGINT: 130}.get(how, -how)
    if how == signal.SIGINT:
        assert "interrupted; what was not finished is as it was before" in output
        assert "Traceback" not in output
    assert all_gone(pids)
    assert built.executed().read_bytes() == before
    built.project.chapters[0].source.write_bytes(good + b"\n# %%\nprint('more')\n")
    done = built.kexue("build", "--no-html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "more" in built.executed().read_text(encoding="utf-8")
    assert list((built.root / "_build" / "tmp").iterdir()) == []

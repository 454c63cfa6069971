"""What the tests of regressions share: checkouts with stub chapters, commands, and Dask clusters started by hand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from checkouts import REPOSITORY, Checkout, make_checkout

HERE = Path(__file__).resolve().parent

#: A chapter that notes its start and claims something that its seed decides.
STUB = """
import os, time
with open({starts!r}, "a") as file:
    file.write(f"{{seed}} {{os.getpid()}} {{os.environ.get('CUDA_VISIBLE_DEVICES')}}\\n")
time.sleep({sleep})
value = 0.5 + seed / 100
display({{"application/vnd.kexue.claims+json": {{"schema": 1, "chapter": "toy", "claims": [
    {{"id": "C1", "claim": "it holds", "kind": "exact", "how": "measured", "evidence": [],
     "criteria": [{{"name": "small", "text": "value below 0.53", "met": value < {bound}}}],
     "measured": {{"value": value}}, "verdict": "holds" if value < {bound} else "fails"}}]}},
    "text/plain": "C1"}}, raw=True)
"""


@dataclass
class Stub:
    """A checkout whose chapters take milliseconds."""

    checkout: Checkout
    starts: Path

    def chapter(
        self, *cells: str, slug: str = "entropy-invariant-softmax", sleep: float = 0.0, bound: float = 9.0
    ) -> None:
        """Write a chapter: a stub, and after it the cells."""
        self.checkout.chapter(STUB.format(starts=str(self.starts), sleep=sleep, bound=bound), *cells, slug=slug)

    def command(self, *arguments: str) -> list[str]:
        limit = [arguments[0]] if arguments[0].startswith("limit=") else []
        return [
            sys.executable, "-m", "stub_kexue", *limit, "--root", str(self.checkout.root), *arguments[len(limit) :]
        ]  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            self.command(*arguments),
            env=environment(),
            cwd=self.checkout.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kexue(self, *arguments: str, timeout: float = 60) -> tuple[int, str]:
        """Run a command to its end: its status, and what it printed."""
        process = self.start(*arguments)
        try:
            output = process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"it hangs: {process.communicate()[0]}") from None
        return process.returncode, output

    @property
    def ledger(self) -> Path:
        return self.checkout.root / "_build" / "regress" / "ledger.jsonl"

    @property
    def rows(self) -> list[dict[str, Any]]:
        if not self.ledger.is_file():
            return []
        return [json.loads(line) for line in self.ledger.read_text(encoding="utf-8").splitlines()]

    @property
    def started(self) -> list[tuple[int, int, str]]:
        """Seed, process and CUDA_VISIBLE_DEVICES of each start of a stub."""
        if not self.starts.is_file():
            return []
        lines = [line.split(" ") for line in self.starts.read_text(encoding="utf-8").splitlines()]
        return [(int(seed), int(pid), devices) for seed, pid, devices in lines]

    def wait(self, condition: Callable[[], bool], seconds: float = 40.0) -> None:
        """Wait until something is so."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "it did not come to that"
            time.sleep(0.02)


def inherited_stub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A checkout with stubs for regressions in this process: the runs inherit its environment."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    return Stub(make_checkout(folder / "checkout"), folder / "starts")


def lab_checkout(folder: Path) -> Checkout:
    """A small checkout whose bench is the real one."""
    checkout = make_checkout(folder)
    shutil.rmtree(checkout.root / "kexue_lib" / "lab")
    (checkout.root / "kexue_lib" / "lab").symlink_to(REPOSITORY / "kexue_lib" / "lab")
    return checkout


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(HERE)]), "COLUMNS": "200"}


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    """Whether processes end within a while."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
            return True
        time.sleep(0.05)
    return False


@dataclass
class Hand:
    """A Dask cluster started by hand: a scheduler and its workers, each a process."""

    folder: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def start(self, name: str, *command: str, env: dict[str, str] | None = None) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *command], env={**environment(), **(env or {})}, cwd=self.folder,
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def scheduler(self) -> None:
        arguments = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        self.start("scheduler", "distributed.cli.dask_scheduler", *arguments)

    def worker(self, name: str, *, resources: str = "CPU=1", env: dict[str, str] | None = None) -> None:
        arguments = [self.address, "--nthreads", "1", "--name", name, "--no-nanny", "--no-dashboard"]
        arguments += ["--resources", resources, "--local-directory", str(self.folder / name)]
        self.start(name, "distributed.cli.dask_worker", *arguments, env=env)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes.pop(name).wait()


@contextlib.contextmanager
def by_hand(folder: Path, workers: int = 2) -> Iterator[Hand]:
    """A scheduler and some workers."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hand = Hand(folder, port)
    try:
        hand.scheduler()
        for number in range(workers):
            hand.worker(f"worker-{number}")
        yield hand
    finally:
        for process in hand.processes.values():
            process.kill()
            process.wait()

"""Keeping a cluster busy: a bounded number of tasks in flight, the others wait here.

Dask gets no more tasks than its workers can be at work on, so that a queue of 10 000 costs it nothing, the order of
the runs stays ours, and an interrupt has little to take back.
"""

from __future__ import annotations

import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kexue_lib.book.regress.row import INFRASTRUCTURE

Decision = Literal["go", "later", "drop"]


class OnDevice(Protocol):
    """What the driver reads of a task: the device that it takes, and how many units of it."""

    @property
    def device(self) -> str:
        """Such as cpu."""
        ...

    @property
    def width(self) -> int:
        """At least 1; all of them on one worker."""
        ...


class Room(Protocol):
    """What the driver reads of the workers of one device."""

    @property
    def units(self) -> int:
        """How many units there are."""
        ...

    def fits(self, width: int) -> int:
        """How many tasks of a width can be at work if there are no others: a task does not span two workers."""
        ...


@dataclass
class Driver:
    """Runs tasks on a cluster.

    Args:
        client: Dask's client.
        execute: what a worker calls with what :attr:`load` makes of a task.
        load: the argument of ``execute`` for a task; made when the task is submitted.
        slots: the room for tasks, by device; asked about once a second.
        demands: the resources that a unit takes, by device.
        ready: whether a task may start now, has to wait for another process, or is not needed any more.
        retries: how often a task is tried again after a fault of the infrastructure.
        on_retry: told of each fault that is tried again.
    """

    client: Any
    execute: Callable[[Any], dict[str, Any]]
    load: Callable[[Any], Any]
    slots: Callable[[], Mapping[str, Room]]
    demands: Callable[[], Mapping[str, Mapping[str, int]]]
    ready: Callable[[Any], Decision] = lambda task: "go"
    retries: int = 2
    on_retry: Callable[[Any, dict[str, Any]], None] = lambda task, result: None
    _waiting: dict[str, deque[Any]] = field(default_factory=dict)
    _running: dict[Any, Any] = field(default_factory=dict)
    _busy: Counter[str] = field(default_factory=Counter)  # units by device
    _wide: Counter[tuple[str, int]] = field(default_factory=Counter)  # tasks by device and width
    _attempts: dict[Any, int] = field(default_factory=dict)
    _ended: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)

    @property
    def running(self) -> int:
        """How many tasks are in flight."""
        return len(self._running)

    def run(self, tasks: list[Any], tick: Callable[[], None]) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
        """Run tasks, the first ones first, and yield each with its result, in batches as they end.

        A result has ``attempts``. A task that was lost again and again has the status "lost" and a ``message``. A
        result with the status "refused" goes to the caller at once.

        Args:
            tasks: what to run.
            tick: called several times a second.

        Raises:
            SchedulerLost: the scheduler is gone.
        """
        for task in tasks:
            self._waiting.setdefault(task.device, deque()).append(task)
        room, demands, asked = self.slots(), self.demands(), time.monotonic()
        while self._running or any(self._waiting.values()):
            if self.client.status != "running":
                raise SchedulerLost
            if time.monotonic() - asked > 1:
                room, demands, asked = self.slots(), self.demands(), time.monotonic()
            for device, waiting in self._waiting.items():
                self._fill(device, waiting, room[device], demands[device])
            batch = self._collect()
            tick()
            if batch:
                yield batch

    def cancel(self, seconds: float = 5.0) -> None:
        """Give up what is in flight, and wait a little until the workers have ended it."""
        futures = list(self._running)
        self._running.clear()
        if futures and self.client.status == "running":
            self.client.cancel(futures, force=True)
            until = time.monotonic() + seconds
            while time.monotonic() < until and any(self.client.processing().values()):
                time.sleep(0.1)

    def _fill(self, device: str, waiting: deque[Any], room: Room, demands: Mapping[str, int]) -> None:
        passed = []
        for _ in range(len(waiting)):
            free = room.units - self._busy[device]
            if free <= 0:
                break
            width = waiting[0].width
            if self._wide[device, width] >= room.fits(width):
                passed.append(waiting.popleft())  # the workers have no place for it: others need not wait for that
                continue
            if free < width:
                break  # narrower ones behind it would keep it waiting for ever
            task = waiting.popleft()
            decision = self.ready(task)
            if decision == "later":
                waiting.append(task)
            elif decision == "go":
                self._submit(task, demands)
        waiting.extendleft(reversed(passed))

    def _submit(self, task: Any, demands: Mapping[str, int]) -> None:
        self._attempts[task] = self._attempts.get(task, 0) + 1
        self._count(task, 1)
        future = self.client.submit(
            self.execute,
            self.load(task),
            key=f"kexue-run-{id(self):x}-{id(task):x}-{self._attempts[task]}",
            resources={name: amount * task.width for name, amount in demands.items()},
            pure=False,
            retries=0,
        )
        self._running[future] = task
        future.add_done_callback(self._ended.put)

    def _count(self, task: Any, sign: int) -> None:
        self._busy[task.device] += sign * task.width
        self._wide[task.device, task.width] += sign

    def _collect(self) -> list[tuple[Any, dict[str, Any]]]:
        """The tasks that have ended; waits up to a fifth of a second for the first."""
        futures = []
        try:
            futures.append(self._ended.get(timeout=0.2))
            while True:
                futures.append(self._ended.get_nowait())
        except queue.Empty:
            pass
        batch = []
        for future in futures:
            if future not in self._running:
                continue
            result = self._result(future)
            if result is None:  # its worker was lost with the result: Dask computes it again
                future.add_done_callback(self._ended.put)
                continue
            task = self._running.pop(future)
            self._count(task, -1)
            if result["status"] in INFRASTRUCTURE and self._attempts[task] <= self.retries:
                self.on_retry(task, result)
                self._waiting[task.device].appendleft(task)
                continue
            batch.append((task, {**result, "attempts": self._attempts.pop(task)}))
        return batch

    def _result(self, future: Any) -> dict[str, Any] | None:
        if self.client.status != "running":
            raise SchedulerLost
        if future.status == "finished":
            try:
                result: dict[str, Any] = future.result(timeout=10)
            except (TimeoutError, OSError):
                return None
            return result
        if future.status == "error":
            # Dask's own words name the worker and the task: they go to the traceback, so that reports of the same runs
            # on other clusters say the same.
            error = future.exception()
            said = f"its worker was lost ({type(error).__name__})"
            return {"status": "lost", "message": said, "traceback": str(error), "seconds": 0.0}
        return {"status": "lost", "message": f"Dask gave the task up ({future.status})", "seconds": 0.0}


class SchedulerLost(Exception):
    """The connection to the scheduler is gone."""

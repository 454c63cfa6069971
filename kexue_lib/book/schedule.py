"""Jobs in parallel on Dask: one task per job, on a local cluster of single-threaded processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kexue_lib.book.execute import Job, run_job
from kexue_lib.book.processes import end_children


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    keep_going: bool,
    tick: Callable[[], None],
) -> Iterator[tuple[Job, dict[str, Any] | None]]:
    """Run jobs on a local Dask cluster, and yield each with its result as it ends.

    Args:
        jobs: what to run; the first ones start first.
        workers: how many run at a time.
        keep_going: run all jobs even if one does not end as ``done``. Otherwise those that run are waited for, and
            those that wait are given up: they are yielded with None.
        tick: called about five times a second while jobs run.
    """
    if not jobs:
        return
    from distributed import Client, LocalCluster, wait

    for name in ("distributed", "distributed.nanny", "distributed.worker", "distributed.scheduler", "distributed.core"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module="distributed")
    with contextlib.ExitStack() as stack:
        with _deaf_to_interrupts():
            cluster = LocalCluster(
                n_workers=min(workers, len(jobs)),
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        client = Client(cluster)
        stack.callback(_close, client, cluster)
        waiting = deque(jobs)
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[client.submit(run_job, job, pure=False, retries=0)] = job
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                wait(list(running), timeout=0.2, return_when="FIRST_COMPLETED")
            tick()
            for future in [f for f in running if f.done()]:
                job = running.pop(future)
                result = future.result() if future.status == "finished" else _lost(future)
                yield job, result
                if result["status"] != "done" and not keep_going:
                    yield from ((given_up, None) for given_up in waiting)
                    waiting.clear()


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in here do not react to Ctrl-C: the build does, and ends them."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _close(client: Any, cluster: Any) -> None:
    """End the runs that are still there, the cluster, and every process of it."""
    end_children(os.getpid(), leaders_only=True)  # first the runs: a worker that waits for one would not end
    for closable in (client, cluster):
        with contextlib.suppress(Exception):
            closable.close(timeout=3)
    end_children(os.getpid())


def _lost(future: Any) -> dict[str, Any]:
    """The result of a task whose worker was lost, or that could not be run at all."""
    return {"status": "died", "message": f"the worker failed: {future.exception()!r}", "seconds": 0.0, "at": 0}

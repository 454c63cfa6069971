"""Jobs in parallel on Dask: one task per job, on a local cluster of single-threaded processes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kexue_lib.book.execute import Job, run_job


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
        cluster = LocalCluster(
            n_workers=min(workers, len(jobs)),
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        stack.callback(lambda: cluster.close(timeout=2))
        client = Client(cluster)
        stack.callback(lambda: client.close(timeout=2))
        futures = {
            client.submit(run_job, job, pure=False, retries=0, priority=-rank): job for rank, job in enumerate(jobs)
        }
        waiting = set(futures)
        stop = False
        while waiting:
            with contextlib.suppress(TimeoutError):
                wait(waiting, timeout=0.2, return_when="FIRST_COMPLETED")
            tick()
            for future in [f for f in waiting if f.done()]:
                waiting.discard(future)
                job = futures[future]
                if future.cancelled():
                    yield job, None
                    continue
                if future.status == "error":
                    result: dict[str, Any] = {
                        "status": "died",
                        "message": f"{future.exception()!r}",
                        "seconds": 0.0,
                        "at": 0,
                    }
                else:
                    result = future.result()
                yield job, result
                if result["status"] != "done" and not keep_going and not stop:
                    stop = True
                    client.cancel([f for f in waiting if not futures[f].progress.exists()], force=True)

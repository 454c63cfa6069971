"""Where tasks run: in this process's own small cluster, or on a Dask cluster that is there already."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress.identity import Identity, identity_of, worker_library

#: The abstract resource that a run on each device takes.
RESOURCE = {"cpu": "CPU", "cuda": "GPU"}


@contextlib.contextmanager
def local_cluster(cpus: int, gpus: Sequence[str], folder: Path) -> Iterator[Any]:
    """A client of a cluster inside this process: nothing listens on the network.

    A run is a process of its own, or several, so its worker needs none: the CPUs are the threads of one worker, and
    each GPU, or group of GPUs, has a worker of one thread, named after it.

    Args:
        cpus: how many processes on the CPU at a time.
        gpus: the device or devices of each worker, as ``CUDA_VISIBLE_DEVICES`` names them: "0", or "0,1".
        folder: for the workers' scratch folders.
    """
    _quiet()
    from distributed import Client, Scheduler, SpecCluster, Worker

    common = {"memory_limit": 0, "dashboard": False, "local_directory": str(folder), "silence_logs": logging.CRITICAL}
    workers: dict[str, Any] = {
        f"cuda:{group}": {
            "cls": Worker,
            "options": {**common, "nthreads": 1, "resources": {"GPU": len(group.split(","))}},
        }
        for group in gpus
    }
    if cpus:
        workers["cpu"] = {"cls": Worker, "options": {**common, "nthreads": cpus, "resources": {"CPU": cpus}}}
    scheduler = {"cls": Scheduler, "options": {"protocol": "inproc://", "dashboard": False}}
    with contextlib.ExitStack() as stack:
        cluster = SpecCluster(workers, scheduler, silence_logs=logging.CRITICAL)
        stack.callback(_close, cluster)
        client = Client(cluster, set_as_default=False)
        stack.callback(_close, client)
        yield client


@contextlib.contextmanager
def running_cluster(address: str | None, file: Path | None) -> Iterator[Any]:
    """A client of a cluster that is there, by its scheduler's address or file.

    Raises:
        BookError: no scheduler answers.
    """
    _quiet()
    from distributed import Client

    where = address or str(file)
    if file is not None and not file.is_file():
        raise BookError(f"There is no scheduler file {file}. A scheduler writes it: dask scheduler --scheduler-file …")
    try:
        client = Client(address, scheduler_file=str(file) if file else None, set_as_default=False)
    except (OSError, ValueError) as error:
        raise BookError(
            f"No Dask scheduler answers at {where} ({type(error).__name__}: {error}). Start one (`dask scheduler`), "
            "or leave --scheduler out: then the runs stay on this machine."
        ) from None
    try:
        yield client
    finally:
        _close(client)


def local_gpus() -> list[str]:
    """The GPUs that torch can use on this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in given.split(",") if name.strip()] if given is not None else None
    if names == []:
        return []
    # In another process: this one needs no torch, and no memory on a GPU.
    asked = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"],
        capture_output=True,
        text=True,
        check=False,
    )
    count = int(asked.stdout.strip() or 0) if asked.returncode == 0 else 0
    return (names or [str(index) for index in range(count)])[:count]


@dataclass(frozen=True)
class Room:
    """The workers of a cluster that have one device.

    Args:
        workers: for each of them, the units of the device and the threads.
    """

    workers: tuple[tuple[int, int], ...] = ()

    @property
    def units(self) -> int:
        """How many units all workers have together."""
        return sum(units for units, _ in self.workers)

    def fits(self, width: int) -> int:
        """How many runs of a width can be at work, if there are no others.

        >>> Room(workers=((3, 3), (1, 1))).fits(2)
        1
        """
        return sum(min(units // width, threads) for units, threads in self.workers)


def slots(client: Any) -> dict[str, Room]:
    """The room for runs on each device, from the workers' resources.

    Where no worker declares a resource, each thread counts as a worker with a CPU.
    """
    workers = _workers(client)
    if not _declared(workers):
        return {"cpu": Room(((1, 1),) * sum(int(worker["nthreads"]) for worker in workers)), "cuda": Room()}
    found = {}
    for device, name in RESOURCE.items():
        units = [(int(worker.get("resources", {}).get(name, 0)), int(worker["nthreads"])) for worker in workers]
        found[device] = Room(tuple((many, threads) for many, threads in units if many))
    return found


def demands(client: Any) -> dict[str, dict[str, int]]:
    """The resources that each process of a run asks for, by device; none where no worker declares any."""
    declared = _declared(_workers(client))
    return {"cpu": {"CPU": 1} if declared else {}, "cuda": {"GPU": 1}}


def await_workers(client: Any, widths: Mapping[str, int], seconds: float, say: Callable[[str], None]) -> None:
    """Wait until the cluster has, for each device, a worker with as many units as the widest run takes.

    Raises:
        BookError: there is none after this many seconds.
    """
    until, told = time.monotonic() + seconds, False
    while True:
        there = slots(client)
        missing = [device for device, width in widths.items() if not there[device].fits(width)]
        if not missing:
            return
        if time.monotonic() > until:
            names = " or ".join(f"{RESOURCE[device]}={widths[device]}" for device in missing)
            many = max(widths[device] for device in missing)
            by = f" by {many} processes" if many > 1 else ""
            raise BookError(
                f"The cluster has no worker for runs on {' or '.join(missing)}{by} after {seconds:g} s. Start workers "
                f"with the resource: dask worker … --nthreads 1 --resources {names}"
            )
        if not told:
            say("waiting for workers …")
            told = True
        time.sleep(0.2)


def refuse_other_workers(client: Any, wanted: Identity, library: Path) -> None:
    """Raise an error if a worker has other versions, or another library, than this command.

    Raises:
        BookError: names each such worker and what differs.
    """
    answers = client.run(_ask_identity, str(library), wanted.library, on_error="return")
    wrong = []
    for address, answer in sorted(answers.items()):
        if isinstance(answer, BaseException):
            wrong.append(f"{address}: it cannot load kexue_lib.book.regress ({type(answer).__name__}: {answer})")
            continue
        differences = wanted.differences(Identity(**answer))
        if differences:
            wrong.append(f"{address}: {'; '.join(differences)}")
    if wrong:
        raise other_versions(wrong)


def other_versions(wrong: Sequence[str]) -> BookError:
    """The error for workers whose library or versions are not those of the command."""
    return BookError(
        "The cluster's workers have other versions than this command, so their runs would not count for this "
        f"checkout. {' | '.join(wrong)}. Install the same checkout and requirements.txt on every worker (a shared "
        "disk or the same image), restart the workers, and try again."
    )


def _ask_identity(library: str, wanted: str) -> dict[str, Any]:
    return identity_of(worker_library(Path(library), wanted)).data()


def _workers(client: Any) -> list[dict[str, Any]]:
    # Some versions tell of five workers only, unless they are asked for all.
    everyone = {"n_workers": -1} if "n_workers" in inspect.signature(client.scheduler_info).parameters else {}
    return list(client.scheduler_info(**everyone).get("workers", {}).values())


def _declared(workers: Sequence[dict[str, Any]]) -> bool:
    return any(worker.get("resources") for worker in workers)


def _close(closable: Any) -> None:
    with contextlib.suppress(Exception):
        closable.close(timeout=5)


def _quiet() -> None:
    """Lost connections and killed workers are told in our words; Dask's own go to nobody."""
    import distributed  # noqa: F401 - it sets levels of its own when it is imported

    for name in ("", ".nanny", ".worker", ".scheduler", ".core", ".client", ".comm", ".utils", ".batched"):
        logging.getLogger(f"distributed{name}").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=re.escape("distributed"))

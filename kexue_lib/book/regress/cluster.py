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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress.identity import Identity, identity_of, worker_library

#: The abstract resource that a run on each device takes.
RESOURCE = {"cpu": "CPU", "cuda": "GPU"}


@contextlib.contextmanager
def local_cluster(cpus: int, gpus: Sequence[str], folder: Path) -> Iterator[Any]:
    """A client of a cluster inside this process: nothing listens on the network.

    A run is a process of its own, so its worker needs none: the CPUs are the threads of one worker, and each GPU has
    a worker of one thread, named after it.

    Args:
        cpus: how many runs on the CPU at a time.
        gpus: the devices, as ``CUDA_VISIBLE_DEVICES`` names them.
        folder: for the workers' scratch folders.
    """
    _quiet()
    from distributed import Client, Scheduler, SpecCluster, Worker

    common = {"memory_limit": 0, "dashboard": False, "local_directory": str(folder), "silence_logs": logging.CRITICAL}
    workers: dict[str, Any] = {
        f"cuda:{gpu}": {"cls": Worker, "options": {**common, "nthreads": 1, "resources": {"GPU": 1}}} for gpu in gpus
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


def slots(client: Any) -> dict[str, int]:
    """How many runs can be at work on each device: the sum of the workers' resources.

    Where no worker declares a resource, the threads of all workers count as CPUs.
    """
    workers = _workers(client)
    if not _declared(workers):
        return {"cpu": sum(int(worker["nthreads"]) for worker in workers), "cuda": 0}
    return {
        device: sum(int(worker.get("resources", {}).get(name, 0)) for worker in workers)
        for device, name in RESOURCE.items()
    }


def demands(client: Any) -> dict[str, dict[str, int]]:
    """The resources that a run on each device asks for; none where no worker declares any."""
    declared = _declared(_workers(client))
    return {"cpu": {"CPU": 1} if declared else {}, "cuda": {"GPU": 1}}


def await_workers(client: Any, devices: Sequence[str], seconds: float, say: Callable[[str], None]) -> None:
    """Wait until the cluster has a worker for each device.

    Raises:
        BookError: there is none after this many seconds.
    """
    until, told = time.monotonic() + seconds, False
    while True:
        there = slots(client)
        missing = [device for device in devices if not there[device]]
        if not missing:
            return
        if time.monotonic() > until:
            names = " or ".join(f"{RESOURCE[device]}=1" for device in missing)
            raise BookError(
                f"The cluster has no worker for runs on {' or '.join(missing)} after {seconds:g} s. Start workers "
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

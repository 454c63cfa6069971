"""What a worker does: one run of one chapter, in a process of its own. Plain data in, plain data out."""

from __future__ import annotations

import json
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kexue_lib.book.execute import Job, run_job
from kexue_lib.book.records import gather
from kexue_lib.book.regress.identity import Identity, identity_of, worker_library
from kexue_lib.book.regress.row import FINAL, Key, claims_of, clocked_of

#: Dask's name for the messages in which runs say how far they are.
TOPIC = "kexue-regress"
#: Seconds between two such messages of a run.
_EVERY = 2.0


@dataclass(frozen=True)
class Task:
    """One run, as it goes to a worker.

    Args:
        key: which run.
        notebook: the converted notebook, as JSON.
        library: the folder of the command that holds ``kexue_lib``.
        identity: what the worker's library and versions have to be.
        timeout: seconds until the run is ended.
        parameters: values that replace the chapter's own.
        cache: a folder that stays, for matplotlib's list of fonts; the worker's own if it is not there.
        checkpoints: a folder in which trainings keep their state, so that a run that was cut off goes on; "" for none.
        keep: give the executed notebook back "never", if the run "failed", or "always".
        module: the module that runs the job.
        processes: how many run the chapter together.
    """

    key: Key
    notebook: str
    library: str
    identity: dict[str, Any]
    timeout: float
    parameters: dict[str, Any] = field(default_factory=dict)
    cache: str = ""
    checkpoints: str = ""
    keep: str = "failed"
    module: str = "kexue_lib.book.runner"
    processes: int = 1


class Cancelled(Exception):
    """The command has ended, or was interrupted: the run is given up."""


def execute(task: Task) -> dict[str, Any]:
    """Run a task on the worker that this is called on.

    Returns:
        ``status`` is done, failed, timeout or died as :func:`kexue_lib.book.execute.run_job` has it, or ``refused``
        if the worker has other versions than the command (``message`` says which).
    """
    from distributed import get_worker

    worker = get_worker()
    wanted = Identity(**task.identity)
    library = worker_library(Path(task.library), wanted.library)
    if refused := _differences(wanted, library):
        return {"status": "refused", "message": f"{_where(worker)}: {refused}"}
    base = Path(worker.local_directory) / "kexue"
    scratch = base / re.sub(r"[^a-z0-9]+", "-", str(task.key))
    job = Job(
        name=str(task.key),
        module=task.module,
        notebook=task.notebook,
        library=str(library),
        scratch=str(scratch),
        cache=task.cache if task.cache and Path(task.cache).is_dir() else str(base / "cache"),
        timeout=task.timeout,
        parameters=task.parameters,
        env=_devices(task.key.device, worker),
        processes=task.processes,
    )
    started = time.time()
    resumed = False
    if task.checkpoints:
        # The command's folder if its checkout is on this machine, or on a shared disk.
        folder = Path(task.checkpoints) if library == Path(task.library) else base / "checkpoints" / scratch.name
        resumed = folder.is_dir()
        job = replace(job, checkpoints=str(folder))
    try:
        result = run_job(job, _watch(worker, str(worker.get_current_task()), task.key, job.progress))
        if refused := _differences(wanted, library):
            return {"status": "refused", "message": f"{_where(worker)} (changed during the run): {refused}"}
        if job.checkpoints and result["status"] in FINAL:
            shutil.rmtree(job.checkpoints, ignore_errors=True)
        # The scratch folder has another name on each worker; reports of the same runs have to say the same.
        said = {key: str(result[key]).replace(str(scratch), "scratch") for key in ("message",) if key in result}
        return {**_facts({**result, **said}, task.keep), "started": started, "resumed": resumed}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _differences(wanted: Identity, library: Path) -> str:
    return "; ".join(wanted.differences(identity_of(library)))


def _where(worker: Any) -> str:
    return f"worker {worker.name} on {platform.node() or worker.address}"


def _devices(device: str, worker: Any) -> dict[str, str]:
    """Which GPUs a run sees: none on the CPU, else those that its worker is named after (``cuda:0,1``) or was given."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    found = re.fullmatch(r"cuda:(.+)", str(worker.name))
    return {"CUDA_VISIBLE_DEVICES": found[1]} if found else {}


def _watch(worker: Any, name: str, key: Key, progress: Path) -> Callable[[], None]:
    """A function that tells how far the run is, and ends it when nobody waits for it any more."""
    last: tuple[str, float] = ("", 0.0)

    def tell(cells: str) -> None:
        nonlocal last
        worker.log_event(TOPIC, {"run": str(key), "name": str(worker.name), "cells": cells})
        last = (cells, time.monotonic())

    def look() -> None:
        # An interrupted command cancels its tasks; the scheduler cancels those of a command that is gone; and a worker
        # that has lost the scheduler closes.
        state = worker.state.tasks.get(name)
        gone = state is None or state.state in ("cancelled", "released", "forgotten")
        if gone or worker.status.name not in ("running", "paused", "closing_gracefully"):
            raise Cancelled(str(key))
        cells = progress.read_text(encoding="utf-8") if progress.is_file() else ""
        if cells != last[0] and time.monotonic() - last[1] > _EVERY:
            tell(cells)

    tell("")
    return look


def _facts(result: dict[str, Any], keep: str) -> dict[str, Any]:
    """What goes back: the records in the notebook, and the notebook itself only if it is wanted."""
    notebook = result.pop("notebook", None)
    facts: dict[str, Any] = {
        key: result[key] for key in ("status", "seconds", "usage", "files", "distributions") if key in result
    }
    if result["status"] == "done":
        records = gather(json.loads(notebook))
        facts |= {"steps": records.by_status(), "claims": claims_of(records.claims)}
        facts["figures"] = {figure["name"]: figure["measured"] for figure in records.figures}
        facts["clocked"] = clocked_of(records.claims, records.figures)
    else:
        facts |= {key: result[key] for key in ("message", "cell", "line", "at", "traceback") if key in result}
        facts["log"] = result.get("log", "")[-4000:]
    if notebook is not None and (keep == "always" or (keep == "failed" and result["status"] != "done")):
        facts["notebook"] = notebook
    return {**facts, "machine": machine(result.get("usage"))}


def machine(usage: dict[str, Any] | None) -> str:
    """What a run ran on: its GPU, or the processor.

    >>> machine({"gpu": "NVIDIA H100"})
    'NVIDIA H100'
    """
    if usage and usage.get("gpu"):
        return str(usage["gpu"])
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return names[0] if names else platform.machine()

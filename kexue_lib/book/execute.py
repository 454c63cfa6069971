"""Running one chapter, as a task that can go to another process: plain data in, plain data out."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kexue_lib.book.processes import environment, run_module


@dataclass(frozen=True)
class Job:
    """One task of a build.

    Args:
        name: the chapter.
        module: the module that does the work (:mod:`~kexue_lib.book.runner` or :mod:`~kexue_lib.book.audit_child`).
        notebook: the converted notebook, as JSON.
        library: the folder that holds ``kexue_lib``.
        scratch: a folder of this job alone; made by the job, removed by the build.
        cache: a folder that stays from build to build (matplotlib's list of fonts).
        timeout: seconds until the run is ended.
        parameters: values that replace the chapter's own.
        options: what else the module needs.
        env: variables of the environment that the process gets besides the usual ones.
        processes: how many run the chapter together, each with a share of its trainings' batches.
        checkpoints: the folder in which the trainings keep their state, to go on after a crash.
    """

    name: str
    module: str
    notebook: str
    library: str
    scratch: str
    cache: str
    timeout: float
    parameters: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    processes: int = 1
    checkpoints: str | None = None

    @property
    def progress(self) -> Path:
        """The file in which the run notes the cell that it is at."""
        return Path(self.scratch) / "progress"


def run_job(job: Job, watch: Callable[[], None] | None = None) -> dict[str, Any]:
    """Run a job in its own process group. The result's ``status`` is done, failed, timeout or died.

    ``failed``: a cell raised an error (``cell``: its id, ``line``, ``message``, ``traceback``). ``timeout``: the limit
    was passed (``at``: number of the cell). ``died``: the process ended without a result (killed, out of memory).

    ``watch`` is called twice a second while the job runs; what it raises ends the job and goes to the caller.
    """
    began = time.monotonic()
    folder = Path(job.scratch)
    shutil.rmtree(folder, ignore_errors=True)  # Dask starts a task anew when its worker was lost
    folder.mkdir(parents=True)
    job.progress.write_text("0 0", encoding="utf-8")
    content = {**asdict(job), "progress": str(job.progress)}
    (folder / "job.json").write_text(json.dumps(content), encoding="utf-8")
    log, result_path = folder / "log.txt", folder / "result.json"
    env = environment(Path(job.library), folder, Path(job.cache))
    if job.checkpoints is not None:
        env["KEXUE_CHECKPOINTS"] = job.checkpoints
    code = run_module(
        job.module,
        [str(folder / "job.json"), str(result_path)],
        folder=folder,
        log=log,
        env={**env, **job.env},
        timeout=job.timeout,
        watch=watch,
        processes=job.processes,
    )
    result: dict[str, Any]
    if code is None:
        result = {"status": "timeout", "message": f"the time limit of {job.timeout:g} s passed"}
    elif result_path.is_file():
        result = json.loads(result_path.read_text(encoding="utf-8"))
    else:
        result = {
            "status": "died",
            "message": f"the process ended with status {code} and left no result (was it killed, or out of memory?)",
        }
    at = job.progress.read_text(encoding="utf-8").split()
    return {
        "at": int(at[0]) if at else 0,
        "log": log.read_text(encoding="utf-8", errors="replace"),
        **result,
        "seconds": time.monotonic() - began,
    }

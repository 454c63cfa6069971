"""Child processes that are ended with everything they started, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path


def end_children(pid: int, *, leaders_only: bool = False) -> None:
    """Kill all descendants of a process, with their process groups.

    A Jupyter kernel leads a session of its own, so that killing the group of its parent would leave it running.

    Args:
        pid: the process, which is left alone.
        leaders_only: kill only descendants that lead a process group (runs and kernels), with their groups.
    """
    import psutil  # type: ignore[import-untyped]

    own = os.getpgid(0)
    # Python's own helper process, which a second cluster of this build needs again; it ends with us by itself.
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            if child.pid == tracker:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
                leads = os.getpgid(child.pid) == child.pid != own
                if leads or not leaders_only:
                    child.kill()
                if leads:
                    os.killpg(child.pid, signal.SIGKILL)


def run_module(
    module: str,
    arguments: list[str],
    *,
    folder: Path,
    log: Path,
    env: dict[str, str],
    timeout: float,
    watch: Callable[[], None] | None = None,
    processes: int = 1,
) -> int | None:
    """Run ``python -m module`` in a process group of its own; its exit status, or None if it ran out of time.

    The child's standard input is a pipe that closes when this process ends: the child watches it (see
    :mod:`kexue_lib.book.runner`), so that no run outlives its build. When this function returns or raises, the child
    and all that it started are gone.

    Args:
        module: the module to run.
        arguments: its arguments.
        folder: its working folder.
        log: the file for what it prints.
        env: its environment.
        timeout: seconds until it is ended.
        watch: called twice a second while it runs; what it raises ends the run and goes to the caller.
        processes: how many ``torchrun`` starts, which tells each its number.
    """
    until = time.monotonic() + timeout
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *(torchrun if processes > 1 else []), module, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=env,
            start_new_session=True,
        )
        try:
            while (left := until - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(left, 0.5) if watch else left)
                if watch:
                    watch()
            return None
        finally:
            end_children(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def environment(library: Path, scratch: Path, cache: Path) -> dict[str, str]:
    """The environment of a chapter's process: this checkout's library, one thread, no settings of the user.

    Args:
        library: the folder that holds ``kexue_lib``.
        scratch: a folder for what kernels write about themselves.
        cache: a folder that stays, for matplotlib's list of fonts.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KEXUE_", "PYTEST_"))}
    path = [str(library), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        **inherited,
        **dict.fromkeys(threads, "1"),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
        "KEXUE_PROGRESS": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(scratch / "runtime"),
        "IPYTHONDIR": str(scratch / "ipython"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }

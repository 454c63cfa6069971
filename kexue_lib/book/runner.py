"""The process that runs one chapter: ``python -m kexue_lib.book.runner JOB RESULT``.

It leads a process group of its own, and ends itself and its kernel as soon as its standard input closes, that is,
when the process that started it is gone for whatever reason.

Several processes that ``torchrun`` started run the same notebook, each in a kernel of its own; the kernels find one
another by the environment that they inherit. The notebook of process 0 is the result.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from pathlib import Path
from typing import Any

from kexue_lib.book.processes import end_children


def main(job_path: str, result_path: str) -> None:
    """Run the job in a file, and leave its result in another."""
    rank = int(os.environ.get("RANK", "0"))
    threading.Thread(target=end_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    try:
        result = run(job, Path(job_path).parent / f"process-{rank}", leads=rank == 0)
    except Exception as error:
        import traceback

        result = {
            "status": "died",
            "message": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
        }
    if rank == 0:
        Path(result_path).write_text(json.dumps(result), encoding="utf-8")
    elif result["status"] != "done":  # process 0 would wait for this one; torchrun ends it when this one ends
        result["message"] = f"in process {rank}: {result['message']}"
        with contextlib.suppress(FileExistsError), open(result_path, "x", encoding="utf-8") as file:
            json.dump(result, file)
        sys.exit(1)


def run(job: dict[str, Any], folder: Path, *, leads: bool = True) -> dict[str, Any]:
    """Execute the job's notebook by papermill in an empty folder below ``folder``, and tell the cell if it leads."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from kexue_lib.book.engine import LOADED, register

    source, target, empty = folder / "source.ipynb", folder / "executed.ipynb", folder / "empty"
    empty.mkdir(parents=True)
    source.write_text(job["notebook"], encoding="utf-8")
    ids = [cell["id"] for cell in json.loads(job["notebook"])["cells"]]

    def on_cell(cell: str) -> None:
        if leads and cell in ids:  # not papermill's cell with the given parameters
            Path(job["progress"]).write_text(f"{ids.index(cell) + 1} {len(ids)}", encoding="utf-8")

    try:
        notebook = papermill.execute_notebook(
            str(source),
            str(target),
            parameters=job["parameters"] or None,
            engine_name=register(on_cell),
            request_save_on_cell_execute=False,
            kernel_name="python3",
            progress_bar=False,
            cwd=str(empty),
        )
    except PapermillExecutionError as error:
        content = json.loads(target.read_text(encoding="utf-8"))
        loaded = content["metadata"].pop(LOADED, {})
        return {
            "status": "failed",
            "cell": _index(content, error.exec_count),
            "line": _line(error.traceback),
            "message": f"{error.ename}: {error.evalue}",
            "traceback": "\n".join(error.traceback),
            "notebook": json.dumps(content),
            **{key: loaded[key] for key in ("files", "distributions", "usage") if key in loaded},
        }
    loaded = notebook.metadata.pop(LOADED)
    if loaded["prefix"] != sys.prefix:
        raise RuntimeError(f"the kernel python3 runs in {loaded['prefix']}, not in this environment ({sys.prefix})")
    if loaded["folder"] not in (None, job["library"]):
        raise RuntimeError(f"the kernel imported kexue_lib from {loaded['folder']}, not from {job['library']}")
    return {
        "status": "done",
        "notebook": json.dumps(notebook),
        "files": loaded["files"],
        "distributions": loaded["distributions"],
        "usage": loaded["usage"],
    }


def _index(notebook: dict[str, Any], count: int) -> str | None:
    """The id of the cell with an execution count."""
    for cell in notebook["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell.get("execution_count") == count and not any(tag.startswith("papermill-error") for tag in tags):
            return str(cell["id"])
    return None


def _line(traceback: list[str]) -> int | None:
    """The line inside the cell in which an error was raised."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback))
    found = re.search(r"(?:Cell In\[\d+\], line |<cell line: |<ipython-input-[^>]*> in .*?\n-+> )(\d+)", plain)
    return int(found.group(1)) if found else None


def end_with_parent() -> None:
    """Wait until the standard input closes, then end all children and this process."""
    while sys.stdin.buffer.read(1):
        pass
    end_children(os.getpid())
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

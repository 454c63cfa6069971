"""The process that audits one chapter: ``python -m kexue_lib.book.audit_child JOB RESULT``.

It runs the cells of the derivation one after the other in plain Python, and the mutation audit on every
:class:`kexue_lib.derive.Derivation` that they leave behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import linecache
import os
import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from kexue_lib.book.runner import end_with_parent


def main(job_path: str, result_path: str) -> None:
    """Run the job in a file, and leave its result in another."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    empty = Path(job_path).parent / "empty"
    empty.mkdir()
    os.chdir(empty)
    Path(result_path).write_text(json.dumps(run(job)), encoding="utf-8")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Execute the cells that the job names, then audit."""
    notebook = json.loads(job["notebook"])
    module = ModuleType("__main__")
    space = vars(module)
    sys.modules["__main__"] = module
    with contextlib.suppress(ImportError):
        from IPython.display import display

        space["display"] = display
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["id"] not in job["options"]["cells"]:
            continue
        Path(job["progress"]).write_text(f"{number} {len(notebook['cells'])}", encoding="utf-8")
        name, source = f"<cell {number}>", "".join(cell["source"])
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, name, "exec"), space)
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == name]
            return {
                "status": "failed",
                "cell": cell["id"],
                "line": frames[0].lineno if frames else 1,
                "message": f"{type(error).__name__}: {error}",
                "traceback": "".join(traceback.format_exception(error)),
            }
    return {"status": "done", **_audit(space, job["options"]["budget"])}


def _audit(space: dict[str, Any], budget: float) -> dict[str, Any]:
    from kexue_lib.derive import Derivation
    from kexue_lib.derive.audit import audit

    found: dict[int, Any] = {id(value): value for value in space.values() if isinstance(value, Derivation)}
    reports = [audit(derivation, budget=budget) for derivation in found.values()]
    import kexue_lib

    assert kexue_lib.__file__ is not None
    base = Path(os.path.abspath(kexue_lib.__file__)).parent.parent
    files = sorted(
        Path(os.path.abspath(path)).relative_to(base).as_posix()
        for name, loaded in list(sys.modules.items())
        if name.partition(".")[0] == "kexue_lib" and (path := getattr(loaded, "__file__", None))
        if not name.startswith("kexue_lib.book")
    )
    return {"records": [report.record() for report in reports], "text": "\n\n".join(map(str, reports)), "files": files}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""A papermill engine that runs a notebook and then asks the kernel what it had loaded and used.

The question is put by ``user_expressions`` without history, so that it is no cell, changes no count and leaves nothing
in the chapter's namespace. What was loaded before the first cell (the kernel's own machinery) is not counted.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Callable
from typing import Any, ClassVar

from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.log import logger

#: Where the engine leaves the kernel's answer in the notebook's metadata; the runner takes it out again.
LOADED = "kexue_loaded"

#: Distributions that the kernel consists of, but that decide what an output looks like.
ALWAYS = ("ipykernel", "ipython")

_ASK = """
import json, os, re, sys, time
from importlib import metadata

modules = [(name, getattr(module, "__dict__", {}).get("__file__")) for name, module in list(sys.modules.items())]
tops = sorted({name.partition(".")[0] for name, _ in modules})
package = getattr(sys.modules.get("kexue_lib"), "__file__", None)
folder = os.path.dirname(os.path.dirname(os.path.abspath(package))) if package else None
files = sorted(
    os.path.relpath(os.path.abspath(path), folder).replace(os.sep, "/")
    for name, path in modules
    if package and path and name.partition(".")[0] == "kexue_lib"
)
distributions = {}
if before is not None:
    owners = metadata.packages_distributions()
    names = {owner for top in tops if top not in before for owner in owners.get(top, ())} | set(always)
    for name in names:
        distributions[re.sub("[-_.]+", "-", name).lower()] = metadata.version(name)
answer = {"prefix": sys.prefix, "folder": folder, "files": files, "tops": tops, "distributions": distributions}
if before is not None:
    # The high-water mark of /proc, because getrusage's starts at what the process that started the kernel had used.
    usage = {"cpu_seconds": time.process_time(), "peak_bytes": None, "gpu": None, "gpu_peak_bytes": None}
    if os.path.exists("/proc/self/status"):
        marks = [line.split() for line in open("/proc/self/status") if line.startswith("VmHWM:")]
        usage["peak_bytes"] = int(marks[0][1]) * 1024 if marks else None
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        usage["gpu"] = torch.cuda.get_device_name()
        usage["gpu_peak_bytes"] = torch.cuda.max_memory_allocated()
    answer["usage"] = usage
answer = json.dumps(answer)
"""


class AskingClient(PapermillNotebookClient):
    """papermill's client, which puts a question to the kernel before the first and after the last cell."""

    def papermill_execute_cells(self) -> None:
        """Execute the cells as papermill does, and note in the metadata what they loaded and used.

        After an error in a cell the kernel is asked as well, but then its answer may be missing.
        """
        before = self.ask(None)
        super().papermill_execute_cells()
        failed = self.nb.metadata.papermill.get("exception")
        with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
            self.nb.metadata[LOADED] = self.ask(before["tops"])

    def ask(self, before: list[str] | None) -> dict[str, Any]:
        """What the kernel has loaded: files of kexue_lib and, other than at first, distributions, time and memory."""
        space = f"dict(before={before!r}, always={ALWAYS!r})"
        expression = f"(lambda space: (exec({_ASK!r}, space), space['answer'])[1])({space})"
        message = self.kc.execute("", silent=True, store_history=False, user_expressions={"loaded": expression})
        reply = self.wait_for_reply(message)
        if reply is None:
            raise RuntimeError("the kernel did not say what it had loaded")
        result = reply["content"]["user_expressions"]["loaded"]
        if result["status"] != "ok":
            raise RuntimeError(f"the kernel could not say what it had loaded: {result['ename']}: {result['evalue']}")
        answer: dict[str, Any] = json.loads(ast.literal_eval(result["data"]["text/plain"]))
        return answer


class KexueEngine(NBClientEngine):
    """papermill's standard engine with :class:`AskingClient` and a call at the start of each cell."""

    #: Called with the id of each cell when it starts.
    on_cell: ClassVar[Callable[[str], None]]

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, start_timeout: int = 300, **_: Any) -> Any:
        """Run the cells of ``nb_man.nb`` in a fresh kernel; no limit per cell (the process has one)."""
        start = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int | None = None, **kwargs: Any) -> None:
            cls.on_cell(cell.id)
            start(cell, cell_index, **kwargs)

        nb_man.cell_start = cell_start
        client = AskingClient(
            nb_man,
            timeout=None,
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log=logger,
            record_timing=False,
            coalesce_streams=True,
        )
        return client.execute()


def register(on_cell: Callable[[str], None]) -> str:
    """Make the engine known to papermill, and return its name."""
    KexueEngine.on_cell = staticmethod(on_cell)
    papermill_engines.register("kexue", KexueEngine)
    return "kexue"

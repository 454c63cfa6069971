"""One regression: tasks go to the cluster, rows come into the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kexue_lib.book.pins import public
from kexue_lib.book.place import digest, place
from kexue_lib.book.regress import cluster
from kexue_lib.book.regress.drive import Decision, Driver
from kexue_lib.book.regress.grid import Freshness, Item, made
from kexue_lib.book.regress.identity import Identity, combined
from kexue_lib.book.regress.row import SCHEMA_VERSION, Key
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.regress.task import TOPIC, Task, execute
from kexue_lib.book.regress.view import View
from kexue_lib.book.report import failure, plain

Row = dict[str, Any]


@dataclass
class Session:
    """What all runs of a regression share.

    Args:
        ledger: where the rows go.
        fresh: whether a row counts for this checkout.
        identity: the library and the versions of this checkout.
        hashes: the hash of each file of ``kexue_lib``.
        library: the folder that holds it.
        commit: the commit of the checkout, with ``+`` if it was changed since.
        limits: seconds for a run, by scale; "" for scales that are not named.
        scratch: a folder on the disk of ``failed``, for writing files in one step.
        failed: where the notebooks and reports of failed runs are left.
        cache: a folder that stays, for matplotlib's list of fonts.
        checkpoints: a folder for the state of trainings in runs that are not quick.
        retries: how often a run is tried again after a fault of the infrastructure.
        keep: the executed notebooks that workers give back ("failed", "always").
        on_result: called with each run that has ended and what its worker gave back, before its row is written.
        module: the module that runs a job.
        work: what a worker calls; another function in simulations.
    """

    ledger: Ledger
    fresh: Freshness
    identity: Identity
    hashes: Mapping[str, str]
    library: Path
    commit: str | None
    limits: Mapping[str, float]
    scratch: Path
    failed: Path
    cache: Path
    checkpoints: Path
    retries: int = 2
    keep: str = "failed"
    on_result: Callable[[Item, dict[str, Any]], None] | None = None
    module: str = "kexue_lib.book.runner"
    work: Callable[[Any], dict[str, Any]] = execute
    rows: dict[Key, Row] = field(default_factory=dict)

    def read(self) -> None:
        """Take notice of the rows that other processes have appended."""
        self.rows |= made(self.ledger.new_rows(), self.fresh)

    def run(self, client: Any, items: Sequence[Item], view: View) -> None:
        """Make the runs that the ledger does not have, and append a row for each.

        Raises:
            BookError: a worker has other versions, or the ledger cannot be written.
            SchedulerLost: the scheduler is gone; what was finished is in the ledger.
        """
        driver = Driver(
            client=client,
            execute=self.work,
            load=self._task,
            slots=lambda: cluster.slots(client),
            demands=lambda: cluster.demands(client),
            ready=lambda item: self._ready(item, view),
            retries=self.retries,
            on_retry=lambda item, result: view.retried(item.key, result["message"]),
        )
        client.subscribe_topic(TOPIC, lambda event: view.told(event[1]))
        try:
            for batch in driver.run(list(items), view.tick):
                self._store(batch, view)
        finally:
            driver.cancel()
            self.ledger.close()

    def _ready(self, item: Item, view: View) -> Decision:
        if item.key not in self.rows:
            if not self.ledger.reserve(item.key):
                return "later"
            self.read()  # another process may have made the run before it gave it back
        if item.key in self.rows:
            self.ledger.release(item.key)
            view.elsewhere(item.key)
            return "drop"
        view.started(item.key)
        return "go"

    def _task(self, item: Item) -> Task:
        return Task(
            key=item.key,
            notebook=item.source.content,
            library=str(self.library),
            identity=self.identity.data(),
            timeout=self.limits.get(item.key.scale, self.limits[""]),
            parameters={"scale": item.key.scale, "seed": item.key.seed, "device": item.key.device},
            cache=str(self.cache),
            checkpoints="" if item.key.scale == "quick" else str(self._checkpoints(item)),
            keep=self.keep,
            module=self.module,
            processes=item.processes,
        )

    def _checkpoints(self, item: Item) -> Path:
        """The folder for the trainings of a run: another one if the chapter or the library has changed."""
        library = {name: value for name, value in self.hashes.items() if not name.startswith("kexue_lib/book/")}
        known = digest(f"{item.key} {item.source.hash} {combined(library)}")
        return self.checkpoints / item.key.chapter / f"regress-{known[:16]}"

    def _store(self, batch: Sequence[tuple[Item, dict[str, Any]]], view: View) -> None:
        refused = [result["message"] for _, result in batch if result["status"] == "refused"]
        good = [(item, result) for item, result in batch if result["status"] != "refused"]
        for item, result in good:
            if self.on_result is not None:
                self.on_result(item, result)
        rows = [self._row(item, result) for item, result in good]
        if rows:
            self.ledger.append(rows)
            self.read()
        for (item, result), row in zip(good, rows, strict=True):
            self.ledger.release(item.key)
            self.rows[item.key] = row
            view.ended(item.key, row)
            if row["status"] != "done":
                with contextlib.suppress(OSError):  # a full disk is told when a row does not fit
                    self._leave(item, result, row)
        if refused:
            raise cluster.other_versions(refused)

    def _row(self, item: Item, result: dict[str, Any]) -> Row:
        usage = result.get("usage") or {}
        files = result.get("files")
        started = result.get("started", time.time() - result["seconds"])
        return {
            "schema": SCHEMA_VERSION,
            "chapter": item.key.chapter,
            "scale": item.key.scale,
            "device": item.key.device,
            "seed": item.key.seed,
            "source": item.source.hash,
            "library": None if files is None else {"hash": combined(dict(self.hashes), files), "files": files},
            "versions": {
                "python": self.identity.python,
                **{name: public(version) for name, version in sorted(result.get("distributions", {}).items())},
            },
            "commit": self.commit,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(result["seconds"], 2),
            "cpu_seconds": None if usage.get("cpu_seconds") is None else round(usage["cpu_seconds"], 2),
            "peak_bytes": usage.get("peak_bytes"),
            "gpu_peak_bytes": usage.get("gpu_peak_bytes"),
            "machine": result.get("machine", "unknown"),
            "attempts": result["attempts"],
            "resumed": result.get("resumed", False),
            "processes": item.processes,
            "status": result["status"],
            "steps": result.get("steps"),
            "claims": result.get("claims", []),
            "figures": result.get("figures", {}),
            "clocked": result.get("clocked", {}),
            "error": None if result["status"] == "done" else _error(item, result),
        }

    def _leave(self, item: Item, result: dict[str, Any], row: Row) -> None:
        """Leave the report and the notebook of a run that failed, for inspection."""
        key = item.key
        name = f"{key.chapter}.{key.scale}-{key.device}-seed-{key.seed}"
        error = row["error"]
        text = f"{key}: {row['status']}: {error['message']}\n{error.get('place') or ''}\n{error.get('traceback', '')}"
        place(self.failed / f"{name}.txt", f"{text}\n{plain(result.get('log', ''))}", self.scratch)
        if "notebook" in result:
            place(self.failed / f"{name}.ipynb", result["notebook"], self.scratch)


def _error(item: Item, result: dict[str, Any]) -> dict[str, Any]:
    """Message, place in the source and the end of the traceback."""
    failed = failure(item.source.chapter, item.source.text, item.source.notebook, result)
    place = failed.place or (f"cell {failed.cell}" if failed.cell else None)
    return {
        "message": plain(failed.message)[:1000],
        "place": place,
        "traceback": "\n".join(plain(failed.traceback).splitlines()[-20:])[-4000:],
    }

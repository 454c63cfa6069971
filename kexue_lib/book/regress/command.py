"""``kexue regress`` and ``kexue ledger``."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kexue_lib.book.build import say
from kexue_lib.book.config import read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.pins import installed, refuse_other_versions
from kexue_lib.book.place import digest, place
from kexue_lib.book.project import Project
from kexue_lib.book.regress import cluster
from kexue_lib.book.regress.baseline import COMMITTED, commit_of, committed_rows, read_baseline, read_ledger
from kexue_lib.book.regress.capacity import forecast
from kexue_lib.book.regress.compare import compare
from kexue_lib.book.regress.drive import SchedulerLost
from kexue_lib.book.regress.grid import Freshness, Item, made, plan, read_source
from kexue_lib.book.regress.identity import identity_of, python_version
from kexue_lib.book.regress.report import markdown, report, show
from kexue_lib.book.regress.row import key_of
from kexue_lib.book.regress.session import Session
from kexue_lib.book.regress.settings import Machine, Settings, this_machine
from kexue_lib.book.regress.store import Ledger
from kexue_lib.book.regress.summary import summarise
from kexue_lib.book.regress.view import View
from kexue_lib.book.staleness import library_hashes
from kexue_lib.book.workplace import workplace

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Settings", "default_ledger", "regress", "show_ledger"]

Row = dict[str, Any]


def default_ledger(project: Project) -> Path:
    """The ledger of a checkout that git does not track."""
    return project.build / "regress" / "ledger.jsonl"


def regress(project: Project, names: Sequence[str], settings: Settings, console: Console) -> int:
    """Make the runs of a grid that the ledger does not have, and report.

    Args:
        project: the checkout.
        names: the chapters; all if empty.
        settings: the rest.
        console: where to say what happens.

    Returns:
        0, or 1 if a run did not end well or a verdict fell against the baseline.

    Raises:
        BookError: wrong usage, configuration or environment; other versions on the cluster; a full disk.
    """
    config = read_config(project)
    sources = [read_source(chapter, config) for chapter in project.select(names)]
    if not sources:
        raise BookError("This checkout has no chapter to run.")
    if not settings.any_versions:
        refuse_other_versions(project)
    machine = None if settings.remote else this_machine(settings, lambda text: say(console, text))
    warn = _warner(console)
    path = settings.ledger or default_ledger(project)
    baseline = _baseline(settings.baseline, path, project, warn)
    hashes = library_hashes(project)
    fresh = Freshness({s.chapter.name: s.hash for s in sources}, hashes, python_version(), installed)
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(workplace(project))
        ledger = Ledger(path, project.build / "regress", warn)
        stack.callback(ledger.close)
        ledger.repair()
        past = ledger.new_rows()
        client = _client(settings, machine, work.scratch, stack)
        if settings.remote:
            cluster.await_workers(client, settings.widths, settings.wait, lambda text: say(console, text))
        known = [*past, *baseline]
        items = plan(
            sources, settings.seeds, settings.scales, settings.devices.__getitem__, known, settings.processes_at
        )
        session = Session(
            ledger=ledger,
            fresh=fresh,
            identity=identity_of(project.library),
            hashes=hashes,
            library=project.library,
            commit=commit_of(project),
            limits=settings.limits,
            scratch=work.scratch,
            failed=project.build / "regress" / "failed",
            cache=work.cache,
            checkpoints=project.build / "checkpoints",
            retries=settings.retries,
            module=settings.module,
        )
        session.rows = made(past, fresh)
        todo = [item for item in items if item.key not in session.rows]
        _announce(items, todo, path, console)
        if settings.dry:
            say(console, forecast(todo, machine.units if machine is not None else _units(client)))
            return 0
        if todo:
            assert client is not None
            _run(session, client, todo, len(items) - len(todo), settings, project, console)
    rows = [session.rows[item.key] for item in items if item.key in session.rows]
    good = _report(rows, baseline, settings.baseline or COMMITTED, project, console, strict=settings.strict)
    bad = [row for row in rows if row["status"] != "done"]
    if bad:
        say(console, f"{len(bad)} run{'s' if len(bad) > 1 else ''} did not end well; more under _build/regress/failed.")
    return 0 if good and not bad else 1


def show_ledger(
    project: Project,
    path: Path | None,
    console: Console,
    *,
    baseline: str | None = None,
    output: Path | None = None,
    times: bool = True,
    strict: bool = False,
    save: Path | None = None,
) -> int:
    """Report on a ledger, and write the report as a page.

    Args:
        project: the checkout.
        path: the ledger; by default the one below ``_build``, or else the committed one.
        console: where to print.
        baseline: a ledger's file or a tag to compare with.
        output: the page; by default ``_build/regress/report.md``.
        times: also time, memory and machines.
        strict: an unstable claim counts as a failure.
        save: a file for the newest row of each run alone: a ledger to commit.

    Returns:
        0, or 1 if a verdict fell against the baseline.

    Raises:
        BookError: no ledger, or no baseline.
    """
    warn = _warner(console)
    if path is None:
        path = default_ledger(project)
        path = path if path.is_file() else project.root / COMMITTED
    rows = read_ledger(path, project, warn)
    newest = list({key_of(row): row for row in rows}.values())
    if save is not None:
        _save(save, newest)
        say(console, f"Written: {save} ({len(newest)} rows)")
    before = _baseline(baseline, path, project, warn)
    name = baseline or COMMITTED
    return 0 if _report(newest, before, name, project, console, times=times, strict=strict, output=output) else 1


def _run(
    session: Session,
    client: Any,
    todo: Sequence[Item],
    there: int,
    settings: Settings,
    project: Project,
    console: Console,
) -> None:
    if settings.remote:
        cluster.refuse_other_workers(client, session.identity, project.library)
    try:
        with View(console, todo, there, _units(client)) as view, _graceful():
            session.run(client, todo, view)
    except SchedulerLost:
        left = sum(item.key not in session.rows for item in todo)
        raise BookError(
            f"The connection to the scheduler was lost. What was finished is in {session.ledger.path}; {left} of "
            f"{len(todo)} runs are left. Start the scheduler and its workers, and give the same command again: it goes "
            "on where it stopped."
        ) from None
    except KeyboardInterrupt:
        left = sum(item.key not in session.rows for item in todo)
        say(console, f"Interrupted: {len(todo) - left} of {len(todo)} runs are in {session.ledger.path}.")
        say(console, "The same command goes on with the others.")
        raise


def _units(client: Any) -> dict[str, int]:
    return {device: room.units for device, room in cluster.slots(client).items()}


@contextlib.contextmanager
def _graceful() -> Iterator[None]:
    """SIGTERM ends a regression as Ctrl-C does: batch systems send it before they kill."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _client(settings: Settings, machine: Machine | None, scratch: Path, stack: contextlib.ExitStack) -> Any:
    """A client of the cluster for the runs; None for a forecast for this machine."""
    if machine is None:
        return stack.enter_context(cluster.running_cluster(settings.scheduler, settings.scheduler_file))
    if settings.dry:
        return None
    folder = scratch / "dask"
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return stack.enter_context(cluster.local_cluster(machine.cpus, machine.gpus, folder))


def _announce(items: Sequence[Item], todo: Sequence[Item], path: Path, console: Console) -> None:
    chapters = len({item.key.chapter for item in items})
    said = f"{len(items)} runs of {chapters} chapter{'' if chapters == 1 else 's'}"
    there = len(items) - len(todo)
    said += f"; {there} of them are in {path} already and are not repeated" if there else f"; the ledger is {path}"
    say(console, said)


def _report(
    rows: Sequence[Row],
    baseline: Sequence[Row],
    name: str,
    project: Project,
    console: Console,
    *,
    times: bool = True,
    strict: bool = False,
    output: Path | None = None,
) -> bool:
    """Print and write the report; whether nothing fell."""
    summary = summarise(rows)
    comparison = compare(summarise(baseline), summary) if baseline else None
    tables = report(summary, comparison, baseline=name, times=times, stale=_stale(project))
    show(tables, console)
    target = output or project.build / "regress" / "report.md"
    try:
        place(target, "# Regression\n\n" + markdown(tables), target.parent)
        say(console, f"Written: {target}")
    except OSError as error:
        say(console, f"warning: {target} could not be written: {error.strerror}")
    if comparison is not None and comparison.fell:
        say(console, f"A verdict fell against {name}.")
        return False
    return not (strict and any(not c.stable for group in summary.values() for c in group.claims.values()))


def _stale(project: Project) -> Callable[[Row], bool]:
    hashes = {c.name: digest(c.source.read_text(encoding="utf-8")) for c in project.chapters}
    fresh = Freshness(hashes, library_hashes(project), python_version(), installed)
    return lambda row: row["status"] == "done" and not fresh(row)


def _baseline(name: str | None, ledger: Path, project: Project, warn: Callable[[str], None]) -> list[Row]:
    """The rows to compare with. A change of the committed ledger itself is compared with what was committed."""
    if name == "none":
        return []
    if name is not None:
        return read_baseline(name, project, warn)
    committed = project.root / COMMITTED
    if committed.resolve() != ledger.resolve():
        return committed_rows(project, warn)
    try:
        return read_baseline("HEAD", project, warn)
    except BookError:  # never committed, or no git
        return []


def _save(path: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    place(path, "".join(f"{line}\n" for line in lines), path.parent)


def _warner(console: Console) -> Callable[[str], None]:
    return lambda text: say(console, f"warning: {text}")

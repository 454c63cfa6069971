"""The command line of the benchmarks. Exit status: 0 well, 1 an operation was refused, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import records as _records
from benchmarks import registry
from benchmarks.measuring import keep_memory, machine, measure, modes, versions
from benchmarks.registry import Case, Operation, RedTestsError
from kexue_lib.book.place import digest

#: What is written when no other file is named; git ignores it.
LAST = _records.ROOT / "_build" / "benchmarks" / "last.json"
_GREEN = _records.ROOT / "_build" / "benchmarks" / "green.json"


def verify(operation: Operation) -> None:
    """Runs the operation's tests (without the slow ones); raises if one fails or if there are none."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *operation.tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=_records.ROOT, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
        raise RedTestsError(f"no speed is shown for {operation.name!r}: its tests are red\n{tail}")


def _fingerprint(operation: Operation) -> str:
    """Changes with every file that the outcome of an operation's tests depends on."""
    root = _records.ROOT
    tests = [root / name.split("::")[0] for name in operation.tests]
    files = [root / name for name in _records.library_files(operation)]
    for test in tests:
        files += sorted(test.rglob("*.py")) if test.is_dir() else [test]
    files += [root / "tests" / "tensors.py", root / "tests" / "tolerances.py", root / "pyproject.toml"]
    lines = [f"{path} {digest(path.read_bytes())}" for path in files if path.is_file()]
    return digest("\n".join([*operation.tests, sys.version, torch.__version__, *lines]))


class _Tests:
    """The tests of all chosen operations, each set once; what was green for exactly these files is not run again."""

    def __init__(self, operations: Sequence[Operation], jobs: int, fresh: bool) -> None:
        self.known: list[str] = []
        if not fresh and _GREEN.is_file():
            try:
                self.known = json.loads(_GREEN.read_text(encoding="utf-8"))
            except ValueError:
                self.known = []
        self.pool = ThreadPoolExecutor(max_workers=jobs)
        self.running: dict[tuple[str, ...], Future[None]] = {}
        for op in operations:
            if _fingerprint(op) not in self.known and op.tests not in self.running:
                self.running[op.tests] = self.pool.submit(verify, op)

    def finish(self, say: Callable[[str], None]) -> None:
        """Waits for all: they would disturb the measurements."""
        for tests, future in self.running.items():
            error = future.exception()
            say(f"tests {' '.join(tests)}: {'red' if error else 'green'}")
        self.pool.shutdown()

    def check(self, operation: Operation) -> None:
        """Raises RedTestsError if the operation's tests are red."""
        future = self.running.get(operation.tests)
        if future is None:
            return
        error = future.exception()
        if isinstance(error, RedTestsError):
            raise RedTestsError(f"no speed is shown for {operation.name!r}: " + str(error).split(": ", 1)[1])
        if error:
            raise error
        mark = _fingerprint(operation)
        if mark not in self.known:
            self.known = [*self.known, mark][-200:]
            _GREEN.parent.mkdir(parents=True, exist_ok=True)
            _GREEN.write_text(json.dumps(self.known), encoding="utf-8")


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=description or registry.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("operations", nargs="*", help="names of operations (default: all; see --list)")
    add("--list", action="store_true", help="list operations and cases, and stop")
    add("--chapter", action="append", default=[], help="only operations of chapters whose name contains this")
    add("--module", action="append", default=[], help="only operations of this file of benchmarks (crf, attention …)")
    add("--case", action="append", default=[], help="only cases whose name contains this (repeatable)")
    add("--mode", choices=("forward", "backward", "both"), default="both", help="default: both")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: a GPU if there is one")
    add("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--quick", action="store_true", help="a look: 9 rounds of 5 ms, 2 minutes in all (besides the tests)")
    add("--rounds", type=int, help="turns of each contestant (default 31)")
    add("--turn-ms", type=float, help="length of a turn in ms (default 20)")
    add("--minutes", type=float, help="for all measurements together, about (default 8)")
    add("--seconds", type=float, default=10.0, help="at most, for one measurement (default 10; 7 rounds at least)")
    add("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="tests run at a time, before measuring")
    add("--retest", action="store_true", help="run the tests even if they were green for exactly these files")
    add("--json", type=Path, help=f"the file to write (default {LAST.relative_to(_records.ROOT)})")
    add("--record", action="store_true", help="write the record that the book shows: book/records/benchmarks.json")
    add("--resume", action="store_true", help="leave out what the file to write has, from the same files and settings")
    return parser


def _chosen(parser: argparse.ArgumentParser, args: argparse.Namespace) -> list[Operation]:
    known = registry.OPERATIONS
    unknown = [name for name in args.operations if name not in known]
    if unknown:
        parser.error(f"unknown operation {unknown[0]!r}; known: {', '.join(known)}")
    chosen = [
        op
        for name, op in known.items()
        if (not args.operations or name in args.operations)
        and (not args.chapter or any(part in op.chapter for part in args.chapter))
        and (not args.module or _module(op) in args.module)
    ]
    if not chosen:
        broken = "".join(f"; benchmarks/{name}.py cannot be imported: {why}" for name, why in registry.BROKEN.items())
        parser.error(f"no operation fits; --list shows them all{broken}")
    return chosen


def _module(operation: Operation) -> str:
    source = registry.SOURCES.get(operation.name)
    return source.stem if source else ""


def _list(operations: Sequence[Operation]) -> None:
    for op in operations:
        where = f" · {op.chapter}" if op.chapter else ""
        print(f"{op.name}{where}  (tests: {' '.join(op.tests)})")
        if op.about:
            print(f"  {op.about}")
        for case in op.cases:
            print(f"  - {case.name}  [{', '.join(case.devices)}; {', '.join(modes(op, case))}]")
        print(f"  contestants: {'; '.join(c.name for c in op.contestants)}")


def main(argv: Sequence[str] | None = None, *, description: str = "") -> int:
    """Measures what is registered and chosen; a table on the terminal, a document in a file."""
    parser = _parser(description)
    args = parser.parse_args(argv)
    for name, length in (("rounds", 31), ("turn_ms", 20.0), ("minutes", 8.0)):
        if getattr(args, name) is None:
            setattr(args, name, _QUICK[name] if args.quick else length)
    if min(args.rounds, args.threads, args.jobs) < 1 or not min(args.turn_ms, args.minutes, args.seconds) > 0:
        parser.error("--rounds, --threads, --jobs, --turn-ms, --minutes and --seconds must be positive")
    if args.record and (args.case or args.mode != "both" or args.quick):
        parser.error("--record keeps whole operations at full length: no --case, --mode or --quick with it")
    chosen = _chosen(parser, args)
    if args.list:
        _list(chosen)
        return 0
    todo = {op.name: _measurements(op, args) for op in chosen}
    chosen = [op for op in chosen if todo[op.name]]
    if not chosen:
        parser.error(f"no case fits --case {args.case} --mode {args.mode} on {args.device}")
    torch.set_num_threads(args.threads)
    keep_memory()
    facts = machine(torch.device(args.device))
    print(" · ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    run = _Run(args, facts, whole=len(chosen) == len(registry.OPERATIONS))
    if args.resume:
        done = [op.name for op in chosen if run.has(op)]
        chosen = [op for op in chosen if op.name not in done]
        _say(f"already measured: {', '.join(done) or 'nothing'}")
    _say(f"testing {len(chosen)} operations …")
    tests = _Tests(chosen, args.jobs, args.retest)
    tests.finish(_say)
    run.left = sum(len(todo[op.name]) for op in chosen)
    run.total = run.left
    for op in chosen:
        run.measure(op, todo[op.name], tests)
    _say(f"written: {run.path}")
    refused = [*registry.BROKEN, *run.refused]
    for name, reason in registry.BROKEN.items():
        _say(f"benchmarks/{name}.py cannot be imported: {reason}")
    if refused:
        _say(f"refused, without a number: {', '.join(refused)}")
    return 1 if refused else 0


#: The lengths of --quick.
_QUICK = {"rounds": 9, "turn_ms": 5.0, "minutes": 2.0}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _measurements(operation: Operation, args: argparse.Namespace) -> list[tuple[Case, str]]:
    kind = torch.device(args.device).type
    return [
        (case, mode)
        for case in operation.cases
        if kind in case.devices and (not args.case or any(part in case.name for part in args.case))
        for mode in modes(operation, case)
        if args.mode == "both" or (mode == "forward+backward") == (args.mode == "backward")
    ]


class _Run:
    """The measurements of one command; the document is written after each operation."""

    def __init__(self, args: argparse.Namespace, facts: dict[str, Any], whole: bool) -> None:
        self.args, self.facts = args, facts
        self.path: Path = args.json or (_records.RECORD if args.record else LAST)
        keep = args.record or args.resume
        self.document = _records.read(self.path) if keep else _records.empty()
        if whole and keep:  # what is no more registered goes
            known = self.document["operations"]
            self.document["operations"] = {name: known[name] for name in known if name in registry.OPERATIONS}
        self.settings = {key: getattr(args, key) for key in ("rounds", "turn_ms", "dtype", "threads", "quick")}
        self.budget = 60 * args.minutes
        self.left = self.total = 0
        self.refused: list[str] = []
        self.said: set[str] = set()  # what red tests say, once

    def has(self, operation: Operation) -> bool:
        """Whether the operation was measured from the same files with the same settings on this machine."""
        found = self.document["operations"].get(operation.name)
        return (
            found is not None
            and not found["refused"]
            and found["settings"] == self.settings
            and found["files"] == _records.hashes(operation)
            and found["versions"] == versions([operation])
            and {**found["machine"], "load": None} == {**self.facts, "load": None}
        )

    def measure(self, operation: Operation, todo: Sequence[tuple[Case, str]], tests: _Tests) -> None:
        """Measures an operation, or says why there is no number, and writes the document."""
        found: list[dict[str, Any]] = []
        reason = ""
        left = self.left - len(todo)
        try:
            tests.check(operation)
            for case, mode in todo:
                found.append(self._one(operation, case, mode))
                print(_records.table(found[-1:]), flush=True)
        except RedTestsError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{operation.name}: {type(error).__name__}: {error}"
            if self.args.operations:  # its author wants to see where
                traceback.print_exc()
        self.left = left
        if reason:
            self.refused.append(operation.name)
            first, _, rest = reason.partition("\n")
            _say(f"refused: {first}" + (f"\n{rest}" if rest and rest not in self.said else ""))
            self.said.add(rest)
        self.document["operations"][operation.name] = _records.entry(
            operation,
            self.facts,
            versions([operation]),
            self.settings,
            found,
            next(iter(reason.splitlines()), ""),
        )
        _records.write(self.path, self.document)

    def _one(self, operation: Operation, case: Case, mode: str) -> dict[str, Any]:
        share = min(self.args.seconds, max(0.3, self.budget / self.left))
        number = self.total - self.left + 1
        _say(f"[{number}/{self.total}] {operation.name} · {case.name} · {mode} (about {share:.1f} s)")
        start = time.perf_counter()
        try:
            return measure(
                operation,
                case,
                device=torch.device(self.args.device),
                dtype=getattr(torch, self.args.dtype),
                backward=mode == "forward+backward",
                rounds=self.args.rounds,
                turn_ms=self.args.turn_ms,
                seconds=share,
            )
        finally:
            self.budget -= time.perf_counter() - start
            self.left -= 1

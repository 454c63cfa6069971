"""The command line of the benchmarks. Exit status: 0 well, 1 an operation was refused, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks import records as _records
from benchmarks import registry
from benchmarks.measuring import machine, measure, modes, versions
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
        parser.error("no operation fits; --list shows them all")
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
    rounds = args.rounds if args.rounds is not None else 9 if args.quick else 31
    turn_ms = args.turn_ms if args.turn_ms is not None else 5.0 if args.quick else 20.0
    minutes = args.minutes if args.minutes is not None else 2.0 if args.quick else 8.0
    if rounds < 1 or args.threads < 1 or args.jobs < 1 or not turn_ms > 0 or not minutes > 0 or not args.seconds > 0:
        parser.error("--rounds, --threads, --jobs, --turn-ms, --minutes and --seconds must be positive")
    chosen = _chosen(parser, args)
    if args.list:
        _list(chosen)
        return 0
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    todo: dict[str, list[tuple[Case, str]]] = {}
    for op in chosen:
        cases = [
            (case, mode)
            for case in op.cases
            if device.type in case.devices and (not args.case or any(part in case.name for part in args.case))
            for mode in modes(op, case)
            if args.mode == "both" or (mode == "forward+backward") == (args.mode == "backward")
        ]
        if cases:
            todo[op.name] = cases
    chosen = [op for op in chosen if op.name in todo]
    if not chosen:
        parser.error(f"no case fits --case {args.case} --mode {args.mode} on {device.type}")
    torch.set_num_threads(args.threads)
    settings = {"rounds": rounds, "turn_ms": turn_ms, "dtype": args.dtype, "threads": args.threads, "quick": args.quick}
    if args.record and (args.case or args.mode != "both" or args.quick):
        parser.error("--record keeps whole operations at full length: no --case, --mode or --quick with it")
    path = args.json or (_records.RECORD if args.record else LAST)
    keep = args.record or args.resume
    document = _records.read(path) if keep else {"schema": 2, "operations": {}}
    if args.record and not (args.operations or args.chapter or args.module):  # a record of all: nothing else stays
        known = registry.OPERATIONS
        document["operations"] = {name: e for name, e in document["operations"].items() if name in known}
    say = lambda text: print(text, file=sys.stderr, flush=True)  # noqa: E731
    facts = machine(device)
    print(" · ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    if args.resume:
        done = [op.name for op in chosen if _same(document["operations"].get(op.name), op, facts, settings)]
        chosen = [op for op in chosen if op.name not in done]
        if done:
            say(f"already measured: {', '.join(done)}")
    say(f"testing {len(chosen)} operations …")
    tests = _Tests(chosen, args.jobs, args.retest)
    tests.finish(say)
    total = sum(len(todo[op.name]) for op in chosen)
    budget, number, before, refused = 60 * minutes, 0, 0, []
    for op in chosen:
        found: list[dict[str, Any]] = []
        reason = ""
        number = before
        before += len(todo[op.name])
        try:
            tests.check(op)
            for case, mode in todo[op.name]:
                number += 1
                share = min(args.seconds, max(0.3, budget / max(1, total - number + 1)))
                say(f"[{number}/{total}] {op.name} · {case.name} · {mode} (about {share:.1f} s)")
                start = time.perf_counter()
                record = measure(
                    op,
                    case,
                    device=device,
                    dtype=dtype,
                    backward=mode == "forward+backward",
                    rounds=rounds,
                    turn_ms=turn_ms,
                    seconds=share,
                )
                budget -= time.perf_counter() - start
                found.append(record)
                print(_records.table([record]), flush=True)
        except RedTestsError as error:
            reason = str(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if args.operations:  # its author wants to see where
                import traceback

                traceback.print_exc()
        if reason:
            refused.append(op.name)
            say(f"refused: {op.name}: {reason}")
        document["operations"][op.name] = _records.entry(
            op, facts, versions([op]), settings, found, reason.splitlines()[0] if reason else ""
        )
        _records.write(path, document)
    say(f"written: {path}")
    if refused:
        say(f"refused, without a number: {', '.join(refused)}")
    return 1 if refused else 0


def _same(found: dict[str, Any] | None, operation: Operation, facts: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether an operation was measured from the same files with the same settings on this machine."""
    if found is None or found["refused"]:
        return False
    return (
        found["settings"] == settings
        and found["files"] == _records.hashes(operation)
        and found["versions"] == versions([operation])
        and {**found["machine"], "load": None} == {**facts, "load": None}
    )

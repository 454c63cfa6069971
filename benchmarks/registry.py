"""The registry of benchmarks and the way they are measured.

An :class:`Operation` says which inputs are valid, which contestants compute it (ours, plain, peers) and which tests
guard it. A chapter's file registers its operations and ends with ``main()``; nothing else is needed:

    register(Operation(name="…", tests=("tests/test_x.py",), cases=(Case(…), …), contestants=(Contestant("ours", …),
    …)))

How it is measured: all contestants of a case take turns in one process, in a new random order each round, so that a
change of the machine's load meets all of them. A turn repeats the call until it lasts ``--turn-ms``. On a CPU with
one thread the clock is the process's CPU time, which does not count the turns of other programs; otherwise it is the
wall clock. Reported are the median over the rounds, the quartiles, and the ratio ours : peer as the median of the
*paired* ratios (same round) with its 95 % interval, which holds for any distribution (order statistics). A bar is met
if the whole interval is below it, missed if the whole interval is above it, and open otherwise. No number is shown
unless the operation's tests pass in this run and the contestants agree on their results.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Contestant:
    """One way to compute an operation.

    ``role`` is "ours", "plain" or "peer"; ``needs`` names a module that may be missing; ``agrees`` says for which cases
    the result must be ours (a lower limit of the cost, such as attention without the factor, computes something else).
    """

    name: str
    role: str
    make: Callable[[Case], Callable[..., Tensor]]
    needs: str = ""
    agrees: Callable[[Case], bool] = lambda case: True


@dataclass(frozen=True)
class Case:
    """Valid inputs: ``inputs(device, dtype)`` makes the tensors; those that require gradients are differentiated."""

    name: str
    inputs: Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Operation:
    """What is measured. ``bar``: the largest ratio ours : best peer that was promised."""

    name: str
    tests: tuple[str, ...]
    cases: tuple[Case, ...]
    contestants: tuple[Contestant, ...]
    bar: float | None = None
    tolerance: float = 1e-4


OPERATIONS: dict[str, Operation] = {}


def register(operation: Operation) -> Operation:
    """Adds an operation; one contestant must be ours and at least one a peer or the plain form."""
    roles = [c.role for c in operation.contestants]
    if roles.count("ours") != 1 or len(roles) < 2 or set(roles) - {"ours", "plain", "peer"}:
        raise ValueError(
            f"operation {operation.name!r} has roles {roles}; one 'ours' and a 'peer' or 'plain' are needed"
        )
    if operation.name in OPERATIONS:
        raise ValueError(f"operation {operation.name!r} is registered twice")
    if not operation.tests:
        raise ValueError(f"operation {operation.name!r} names no tests; a speed without tests is not shown")
    OPERATIONS[operation.name] = operation
    return operation


class RedTestsError(RuntimeError):
    """The tests that guard an operation do not pass."""


def verify(operation: Operation) -> None:
    """Runs the operation's tests (without the slow ones); raises if one fails or if there are none."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider", *operation.tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-12:])
        raise RedTestsError(f"no speed is shown for {operation.name!r}: its tests are red\n{tail}")


def machine(device: torch.device) -> dict[str, Any]:
    """What a reader has to know about the machine."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    facts = {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """CPU time where one thread does all the work, the wall clock elsewhere."""
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return "cpu time", time.process_time
    return "wall clock", time.perf_counter


def _turn(f: Callable[[], Any], calls: int, device: torch.device) -> float:
    now = clock(device)[1]
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = now()
    for _ in range(calls):
        f()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (now() - start) / calls


def _job(contestant: Callable[..., Tensor], inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], Any]:
    if not backward:

        def forward() -> Any:
            with torch.no_grad():
                return (contestant(*inputs),)

        return forward
    wanted = [x for x in inputs if x.requires_grad]
    weight = torch.randn_like(contestant(*inputs))

    def forward_backward() -> Any:
        out = contestant(*inputs)
        return (out.detach(), *torch.autograd.grad(out, wanted, weight))

    return forward_backward


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Median of the ratios of the rounds and its distribution-free 95 % interval."""
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    n = len(ratios)
    tail, k = 0.5**n, 0  # the largest k with P(Binomial(n, 1/2) < k) <= 2.5 %
    while tail <= 0.025 and k < n // 2:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    low, high = max(k - 1, 0), n - 1 - max(k - 1, 0)
    return {"median": statistics.median(ratios), "low": ratios[low], "high": ratios[high]}


def measure(
    operation: Operation,
    case: Case,
    *,
    device: torch.device,
    dtype: torch.dtype,
    backward: bool,
    rounds: int,
    turn_ms: float,
    seconds: float = math.inf,
    seed: int = 0,
) -> dict[str, Any]:
    """Times all contestants of a case, interleaved, after checking that they agree.

    Stops after ``rounds``, or after ``seconds`` by the wall clock if at least seven rounds are done.
    """
    torch.manual_seed(seed)
    inputs = case.inputs(device, dtype)
    jobs, missing = {}, []
    for contestant in operation.contestants:
        if contestant.needs:
            try:
                import_module(contestant.needs)
            except ImportError:
                missing.append(contestant.name)
                continue
        torch.manual_seed(seed)
        jobs[contestant.name] = _job(contestant.make(case), inputs, backward)
    (ours,) = (c.name for c in operation.contestants if c.role == "ours")
    results = jobs[ours]()
    bound = max(operation.tolerance, 8 * torch.finfo(dtype).eps)
    for name in (c.name for c in operation.contestants if c.name in jobs and c.agrees(case)):
        for x, y in zip(results, jobs[name](), strict=True):
            error = float((x - y).float().norm() / y.float().norm().clamp(min=1e-30))
            if not error <= bound:
                raise RedTestsError(f"{operation.name}, {case.name}: {name} is off ours by {error:.1e} > {bound:.1e}")
    calls = {}
    for name, job in jobs.items():
        _turn(job, 2, device)
        calls[name] = max(1, round(turn_ms / 1e3 / max(_turn(job, 3, device), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in jobs}
    order, shuffle = list(jobs), random.Random(seed)
    deadline, done = time.perf_counter() + seconds, 0
    while done < rounds and (done < 7 or time.perf_counter() < deadline):
        done += 1
        shuffle.shuffle(order)
        for name in order:
            times[name].append(_turn(jobs[name], calls[name], device))
    rows = []
    for contestant in operation.contestants:
        if contestant.name in times:
            t = times[contestant.name]
            q1, median, q3 = statistics.quantiles(t, n=4) if len(t) > 1 else (t[0],) * 3
            row: dict[str, Any] = {
                "name": contestant.name,
                "role": contestant.role,
                "ms": 1e3 * median,
                "q1": 1e3 * q1,
                "q3": 1e3 * q3,
            }
            if contestant.role != "ours":
                row["ours_to_this"] = paired_ratio(times[ours], t)
            rows.append(row)
    record: dict[str, Any] = {
        "operation": operation.name,
        "case": case.name,
        "mode": "forward+backward" if backward else "forward",
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": done,
        "clock": clock(device)[0],
        "contestants": rows,
        "missing": missing,
    }
    peers = [r for r in rows if r["role"] == "peer"]
    if peers:
        best = min(peers, key=lambda r: r["ms"])
        record["best_peer"], record["ratio"] = best["name"], best["ours_to_this"]
        if operation.bar is not None:
            low, high = best["ours_to_this"]["low"], best["ours_to_this"]["high"]
            record["bar"] = operation.bar
            record["verdict"] = "met" if high <= operation.bar else "missed" if low > operation.bar else "open"
    return record


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for people."""
    lines = []
    for r in records:
        lines.append(
            f"\n{r['operation']} · {r['case']} · {r['mode']} · {r['dtype']} · {r['rounds']} rounds, {r['clock']}"
        )
        for row in r["contestants"]:
            ratio = row.get("ours_to_this")
            text = f"  ours : this = {ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]" if ratio else ""
            lines.append(f"  {row['name']:<34} {row['ms']:>9.3f} ms  ({row['q1']:.3f}–{row['q3']:.3f}){text}")
        lines.extend(f"  {name:<34} not installed" for name in r["missing"])
        if "bar" in r:
            at, low, high = (r["ratio"][key] for key in ("median", "low", "high"))
            lines.append(
                f"  bar {r['bar']:g} × {r['best_peer']}: {r['verdict']} ({at:.3f}, 95 % [{low:.3f}, {high:.3f}])"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None, *, description: str = "") -> int:
    """The command line of a file of benchmarks."""
    parser = argparse.ArgumentParser(
        description=description or __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    gpu = torch.cuda.is_available()
    add = parser.add_argument
    add("operations", nargs="*", help="names of operations (default: all; see --list)")
    add("--list", action="store_true", help="list operations and cases, and stop")
    add("--case", action="append", default=[], help="only cases whose name contains this (repeatable)")
    add("--mode", choices=("forward", "backward", "both"), default="both", help="default: both")
    add("--device", default="cuda" if gpu else "cpu", help="default: a GPU if there is one")
    add("--dtype", default="float32", choices=("float32", "float64", "bfloat16", "float16"))
    add("--threads", type=int, default=1, help="CPU threads (default 1)")
    add("--rounds", type=int, default=31, help="turns of each contestant (default 31)")
    add("--turn-ms", type=float, default=20.0, help="length of a turn in ms (default 20)")
    add(
        "--seconds", type=float, default=10.0, help="stop a measurement after this long (default 10; 7 rounds at least)"
    )
    add("--json", type=Path, help="also write the records to this file")
    args = parser.parse_args(argv)
    unknown = [name for name in args.operations if name not in OPERATIONS]
    if unknown:
        parser.error(f"unknown operation {unknown[0]!r}; known: {', '.join(OPERATIONS)}")
    if args.rounds < 1 or args.threads < 1 or not args.turn_ms > 0:
        parser.error("--rounds, --threads and --turn-ms must be positive")
    chosen = [op for name, op in OPERATIONS.items() if not args.operations or name in args.operations]
    if args.list:
        for op in chosen:
            print(f"{op.name}  (tests: {' '.join(op.tests)})")
            for case in op.cases:
                print(f"  {case.name}")
        return 0
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.set_num_threads(args.threads)
    modes = {"forward": (False,), "backward": (True,), "both": (False, True)}[args.mode]
    facts = machine(device)
    print(" · ".join(f"{key} {value}" for key, value in facts.items()))
    records: list[dict[str, Any]] = []
    try:
        for op in chosen:
            print(f"testing {op.name} …", file=sys.stderr)
            verify(op)
            for case in op.cases:
                if device.type not in case.devices or (args.case and not any(part in case.name for part in args.case)):
                    continue
                for backward in modes:
                    record = measure(
                        op,
                        case,
                        device=device,
                        dtype=dtype,
                        backward=backward,
                        rounds=args.rounds,
                        turn_ms=args.turn_ms,
                        seconds=args.seconds,
                    )
                    records.append(record)
                    print(table([record]), flush=True)
    except RedTestsError as error:
        print(error, file=sys.stderr)
        return 1
    if not records:
        parser.error(f"no case of {', '.join(op.name for op in chosen)} fits --case {args.case} on {device.type}")
    if args.json:
        args.json.write_text(json.dumps({"schema": 1, "machine": facts, "records": records}, indent=1) + "\n")
    return 0

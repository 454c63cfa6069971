"""How an operation is measured: first that its contestants agree, then their times, in turns, in one process.

All contestants of a case take turns, in a new random order each round, so that a change of the machine's load meets all
of them. A turn repeats the call until it lasts ``turn_ms``. On a CPU with one thread the clock is the process's CPU
time, which does not count the turns of other programs; otherwise it is the wall clock. Reported are the median over the
rounds, the quartiles, and the ratio ours : other as the median of the *paired* ratios (same round) with its 95 %
interval, which holds for any distribution (order statistics). A contestant whose single call is long gets fewer turns,
and its interval says what it covers. A bar is met if the whole interval is at or below it, missed if the whole interval
is above it, and open otherwise.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import Case, Contestant, Operation, RedTestsError

#: Fewest turns of ours and of the peers, unless a single round is longer than the time for all: then _FEWEST.
_LEAST, _FEWEST = 7, 3


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


def versions(operations: Iterable[Operation]) -> dict[str, str]:
    """The installed versions of the peers' distributions."""
    wanted = {c.needs.split(".")[0] for op in operations for c in op.contestants if c.needs}
    found = {name for module in wanted for name in _distributions().get(module, [])}
    return {name: metadata.version(name) for name in sorted(found, key=str.lower)}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


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


def keep_memory() -> None:
    """Lets glibc keep released memory, as in a process that holds other tensors above it.

    Otherwise it goes back to the system whenever a call happens to release the top of the heap, and the page faults of
    the next call are 10 % of a small operation, for one contestant and not for another that computes the same.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for trim_or_map_threshold in (-1, -3):
            mallopt(trim_or_map_threshold, 2**30)


@contextmanager
def _no_collection() -> Iterator[None]:
    """As timeit does: the garbage of one contestant is not collected in the turn of another."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --- what a contestant does in a turn ------------------------------------------------------------------------------


def tensors(result: Any) -> tuple[Tensor, ...]:
    """A result as a flat tuple of tensors: a tensor, None, a number, or any nesting of tuples, lists and dicts."""
    if result is None:
        return ()
    if isinstance(result, Tensor):
        return (result,)
    if isinstance(result, (bool, int, float)):
        return (torch.tensor(result),)
    if isinstance(result, dict):
        result = [result[key] for key in sorted(result)]
    if not isinstance(result, (tuple, list)):
        raise TypeError(f"a result is a {type(result).__name__}; give the contestant read=… that makes tensors of it")
    return tuple(t for part in result for t in tensors(part))


def _job(contestant: Callable[..., Any], inputs: tuple[Tensor, ...], backward: bool) -> Callable[[], Any]:
    """One call; with backward it gives (results, gradients)."""
    if not backward:

        def forward() -> Any:
            with torch.no_grad():
                return contestant(*inputs)

        return forward
    wanted = [x for x in inputs if x.requires_grad]
    if not wanted:
        raise ValueError("no input requires a gradient; give the operation or the case differentiable=False")
    first = [t for t in tensors(contestant(*inputs)) if t.requires_grad]
    torch.manual_seed(1)  # all contestants get the same weights of their results
    weights = [torch.randn_like(t) for t in first]

    def forward_backward() -> Any:
        out = contestant(*inputs)
        made = (out,) if isinstance(out, Tensor) else [t for t in tensors(out) if t.requires_grad]
        return out, torch.autograd.grad(made, wanted, weights, allow_unused=True)

    return forward_backward


@dataclass
class _Runner:
    """A contestant of a case, ready to be called."""

    contestant: Contestant
    job: Callable[[], Any]
    results: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        return self.contestant.name


def _copies(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs)


def _prepare(
    operation: Operation, case: Case, contestant: Contestant, inputs: tuple[Tensor, ...], backward: bool, seed: int
) -> _Runner:
    """The contestant's results, for the comparison, and its job."""
    read = contestant.read or (lambda result: result)
    if operation.stateful:

        def start() -> Callable[[], Any]:
            torch.manual_seed(seed)
            return contestant.make(case, *_copies(inputs))

        step, out = start(), None
        for _ in range(operation.calls):
            out = step()
        return _Runner(contestant, start(), tuple(t.detach().clone() for t in tensors(read(out))))
    torch.manual_seed(seed)
    made = contestant.make(case)
    before = [x._version for x in inputs]
    job = _job(made, inputs, backward)
    torch.manual_seed(seed)
    found = job()
    if [x._version for x in inputs] != before:
        raise RedTestsError(f"{operation.name}, {case.name}: {contestant.name} changes its inputs")
    results: tuple[Tensor, ...]
    if backward:
        zeros = [x for x in inputs if x.requires_grad]
        gradients = [torch.zeros_like(x) if g is None else g for g, x in zip(found[1], zeros, strict=True)]
        results = (*tensors(read(found[0])), *gradients)
    else:
        results = tensors(read(found))
    return _Runner(contestant, job, tuple(t.detach() for t in results))


def _distance(x: Tensor, y: Tensor) -> float:
    """Relative error of x in the 2-norm; infinite where integers differ; NaN where x or y has one."""
    if x.shape != y.shape:
        return math.inf
    if not (x.is_floating_point() or x.is_complex()):
        return 0.0 if bool((x == y).all()) else math.inf
    x, y = (t.to(torch.promote_types(t.dtype, torch.float64)) for t in (x, y))
    same = x == y  # infinities of one sign are equal
    x, y = torch.where(same, 0, x), torch.where(same, torch.where(y.isinf(), 0, y), y)
    error = (x - torch.where(same, 0, y)).norm()
    return float(error / y.norm().clamp(min=1e-30))


def _check_agreement(operation: Operation, case: Case, runners: list[_Runner], dtype: torch.dtype) -> None:
    ours = next(r for r in runners if r.contestant.role == "ours")
    bound = max(operation.tolerance, 8 * torch.finfo(dtype).eps)
    where = f"{operation.name}, {case.name}"
    for runner in runners:
        if not runner.contestant.agrees(case):
            continue
        if not runner.results:
            raise RedTestsError(f"{where}: {runner.name} returns nothing that could be compared")
        if len(runner.results) != len(ours.results):
            raise RedTestsError(f"{where}: {runner.name} has {len(runner.results)} results, ours {len(ours.results)}")
        for i, (x, y) in enumerate(zip(ours.results, runner.results, strict=True)):
            error = _distance(x, y)
            if not error <= bound:
                raise RedTestsError(f"{where}: {runner.name} is off ours by {error:.1e} > {bound:.1e} in result {i}")


# --- memory --------------------------------------------------------------------------------------------------------


def peak_bytes(f: Callable[[], Any], device: torch.device) -> int:
    """The peak of what PyTorch's allocator holds during one call, above what it held before."""
    if device.type == "cuda":
        f()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        f()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        kept = f()  # what it returns is released outside
    del kept
    held = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


# --- time ----------------------------------------------------------------------------------------------------------


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> dict[str, float]:
    """Median of the ratios of the rounds and its distribution-free 95 % interval.

    Fewer than six rounds cannot give 95 %: then the interval is that from the smallest to the largest, and ``coverage``
    says what it holds.
    """
    ratios = sorted(a / b for a, b in zip(ours, peer, strict=True))
    n = len(ratios)
    tail, k = 0.5**n, 0  # the largest k with P(Binomial(n, 1/2) < k) <= 2.5 %
    below = 0.5**n
    while tail <= 0.025 and k < n // 2:
        k += 1
        below = tail
        tail += math.comb(n, k) * 0.5**n
    low, high = max(k - 1, 0), n - 1 - max(k - 1, 0)
    return {
        "median": statistics.median(ratios),
        "low": ratios[low],
        "high": ratios[high],
        "coverage": round(max(0.0, 1 - 2 * below), 4),
    }


@dataclass
class _Plan:
    """How often a contestant calls in a turn; it takes part in the ``first`` rounds, then in every ``every``-th."""

    calls: int
    first: int
    every: int


def _plan(runners: list[_Runner], device: torch.device, rounds: int, turn_s: float, seconds: float) -> Any:
    length: dict[str, float] = {}  # of a turn
    calls: dict[str, int] = {}
    for r in runners:
        once = _turn(r.job, 1, device)
        if once < turn_s:
            _turn(r.job, max(1, min(20, int(turn_s / max(once, 1e-9)) // 4)), device)  # warm
            once = _turn(r.job, 3, device)
        calls[r.name] = max(1, round(turn_s / max(once, 1e-9)))
        length[r.name] = calls[r.name] * once
    # A contestant whose single call outlasts the turns of the others by far takes part in some rounds only.
    fair = max(3 * turn_s, 3 * min(length.values()))
    slow = [r.name for r in runners if length[r.name] > fair and r.contestant.role != "ours"]
    brisk = sum(length[r.name] for r in runners if r.name not in slow)
    rest = max(seconds / 2, seconds - 3 * sum(length[name] for name in slow))
    fit = rest / brisk if brisk else math.inf
    least = _LEAST if _LEAST * brisk <= 3 * seconds else _FEWEST
    rounds = min(rounds, max(least, int(min(fit, 1e9))))
    plans = {}
    for r in runners:
        if r.name in slow:
            share = seconds / 2 / len(slow)
            wanted = min(rounds, max(_FEWEST, int(min(share / length[r.name], 1e9))))
            first = least if r.contestant.role == "peer" and length[r.name] <= seconds else _FEWEST
            plans[r.name] = _Plan(calls[r.name], first, max(1, rounds // wanted))
        else:
            plans[r.name] = _Plan(calls[r.name], least, 1)
    return rounds, least, plans


def modes(operation: Operation, case: Case) -> tuple[str, ...]:
    """What is measured of a case: its step, its forward pass, or forward and forward+backward."""
    if operation.stateful:
        return ("step",)
    differentiable = operation.differentiable if case.differentiable is None else case.differentiable
    return ("forward", "forward+backward") if differentiable else ("forward",)


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

    Stops after ``rounds``, or after ``seconds`` by the wall clock if at least seven rounds are done (three, if seven
    would take more than three times ``seconds``).
    """
    torch.manual_seed(seed)
    inputs = case.inputs(device, dtype)
    dtype = next((x.dtype for x in inputs if x.is_floating_point()), dtype)  # a case may insist on one
    runners: list[_Runner] = []
    missing = []
    for contestant in operation.contestants:
        if not contestant.applies(case) or (backward and not contestant.differentiable):
            continue
        if contestant.needs:
            try:
                import_module(contestant.needs)
            except ImportError:
                missing.append(contestant.name)
                continue
        try:
            runners.append(_prepare(operation, case, contestant, inputs, backward, seed))
        except RedTestsError:
            raise
        except Exception as error:
            where = f"{operation.name}, {case.name}: {contestant.name}"
            raise RuntimeError(f"{where} failed: {type(error).__name__}: {error}") from error
    if not any(r.contestant.role == "ours" for r in runners):
        raise RedTestsError(f"{operation.name}, {case.name}: ours does not take part in {case.name}")
    _check_agreement(operation, case, runners, dtype)
    for r in runners:
        r.results = ()
    with _no_collection():
        done, times = _time(runners, device, rounds, turn_ms / 1e3, seconds, seed)
    wants_memory = operation.memory if case.memory is None else case.memory
    peaks = {r.name: peak_bytes(r.job, device) for r in runners} if wants_memory else {}
    mode = "step" if operation.stateful else "forward+backward" if backward else "forward"
    record = {
        "operation": operation.name,
        "case": case.name,
        "mode": mode,
        "dtype": str(dtype).removeprefix("torch."),
        "rounds": done,
        "clock": clock(device)[0],
        "contestants": _rows(runners, times, peaks),
        "missing": missing,
    }
    return _judge(operation, case, record)


def _time(
    runners: list[_Runner], device: torch.device, rounds: int, turn_s: float, seconds: float, seed: int
) -> tuple[int, dict[str, dict[int, float]]]:
    """For each contestant the seconds of a call, by round."""
    deadline = time.perf_counter() + seconds
    rounds, least, plans = _plan(runners, device, rounds, turn_s, seconds)
    times: dict[str, dict[int, float]] = {r.name: {} for r in runners}
    order, shuffle = list(runners), random.Random(seed)
    done = 0
    while done < rounds and (done < least or time.perf_counter() < deadline):
        shuffle.shuffle(order)
        for r in order:
            plan = plans[r.name]
            if done < plan.first or done % plan.every == 0:
                times[r.name][done] = _turn(r.job, plan.calls, device)
        done += 1
    return done, times


def _rows(runners: list[_Runner], times: dict[str, dict[int, float]], peaks: dict[str, int]) -> list[dict[str, Any]]:
    ours = next(times[r.name] for r in runners if r.contestant.role == "ours")
    rows = []
    for r in runners:
        mine = times[r.name]
        t = list(mine.values())
        q1, median, q3 = statistics.quantiles(t, n=4) if len(t) > 2 else (min(t), statistics.median(t), max(t))
        row: dict[str, Any] = {
            "name": r.name,
            "role": r.contestant.role,
            "ms": 1e3 * median,
            "q1": 1e3 * q1,
            "q3": 1e3 * q3,
            "turns": len(t),
        }
        if r.contestant.role != "ours":
            row["ours_to_this"] = paired_ratio([ours[i] for i in mine], t)
        if peaks:
            row["peak_bytes"] = peaks[r.name]
        rows.append(row)
    return rows


def _judge(operation: Operation, case: Case, record: dict[str, Any]) -> dict[str, Any]:
    """The ratio to the best peer, the factor over the plain form, and what was promised of both."""
    rows = record["contestants"]
    peers = [r for r in rows if r["role"] == "peer"]
    if peers:
        best = min(peers, key=lambda r: r["ms"])
        record["best_peer"], record["ratio"] = best["name"], best["ours_to_this"]
        record["bar"] = operation.bar
        record["verdict"] = _verdict(best["ours_to_this"], operation.bar)
    plain = [r for r in rows if r["role"] == "plain"]
    if plain:
        slowest = plain[0]["ours_to_this"]
        record["plain_factor"] = {
            "median": 1 / slowest["median"],
            "low": 1 / slowest["high"],
            "high": 1 / slowest["low"],
            "coverage": slowest["coverage"],
        }
        promised = operation.factor(case) if operation.factor else None
        if promised is not None:
            record["promised_factor"] = promised
            record["factor_verdict"] = _verdict(slowest, 1 / promised)
    note = operation.note(case) if callable(operation.note) else operation.note
    if note:
        record["note"] = note
    return record


def _verdict(ratio: dict[str, float], bar: float) -> str:
    return "met" if ratio["high"] <= bar else "missed" if ratio["low"] > bar else "open"

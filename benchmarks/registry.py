"""What is measured: operations, their valid inputs, the contestants, and the tests that guard them.

An :class:`Operation` says which inputs are valid, which contestants compute it (ours, plain, peers) and which tests
guard it. A chapter's file registers its operations and ends with ``main()``; the head of :mod:`benchmarks` shows how.
:mod:`benchmarks.measuring` says how they are measured. No number is shown unless the operation's tests pass and the
contestants agree on their results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def _always(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class Contestant:
    """One way to compute an operation.

    Args:
        name: as the table shows it.
        role: "ours", "plain", "peer", or "limit": a lower limit of the cost that does less work; shown, not a peer.
        make: ``make(case)`` gives the callable that gets the inputs; for a stateful operation ``make(case, *inputs)``
            gives the step, which gets nothing.
        needs: a module that may be missing.
        agrees: for which cases the result must be ours (samples are others each time).
        applies: which cases it takes part in.
        differentiable: whether it takes part where gradients are measured.
        read: turns what the callable returns into tensors, for the comparison; not timed.
    """

    name: str
    role: str
    make: Callable[..., Callable[..., Any]]
    needs: str = ""
    agrees: Callable[[Case], bool] = _always
    applies: Callable[[Case], bool] = _always
    differentiable: bool = True
    read: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Case:
    """Valid inputs: ``inputs(device, dtype)`` makes the tensors; those that require gradients are differentiated.

    ``differentiable`` and ``memory`` override the operation's where they are not None.
    """

    name: str
    inputs: Callable[[torch.device, torch.dtype], tuple[Tensor, ...]]
    options: dict[str, Any] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu", "cuda")
    differentiable: bool | None = None
    memory: bool | None = None


@dataclass(frozen=True)
class Operation:
    """What is measured.

    Args:
        name: unique among all files.
        tests: the test files (or pytest ids) that guard it; red tests forbid numbers.
        cases, contestants: exactly one contestant is ours, and at least one the plain form or a peer.
        bar: the largest ratio ours : best peer that was promised; default 1.
        tolerance: relative error, in the 2-norm, of each result and gradient against ours; integers must be equal.
        chapter: ``part/slug`` of the chapter that it belongs to.
        about: what it computes, in one line.
        differentiable: whether forward + backward is measured beside forward.
        stateful: whether the contestants are steps that change their own copies of the inputs.
        calls: after how many steps stateful contestants are compared.
        memory: whether the peak of the allocated memory is measured.
        factor: how many times faster than the plain form the algorithm has to be; None where nothing is promised.
        note: why ours is slower than the best peer, where it is; shown beside the numbers. A text, or one per case.
        modules: the modules of kexue_lib that are measured; default: those that the registering file imports.
    """

    name: str
    tests: tuple[str, ...]
    cases: tuple[Case, ...]
    contestants: tuple[Contestant, ...]
    bar: float = 1.0
    tolerance: float = 1e-4
    chapter: str = ""
    about: str = ""
    differentiable: bool = True
    stateful: bool = False
    calls: int = 3
    memory: bool = False
    factor: Callable[[Case], float | None] | None = None
    note: str | Callable[[Case], str] = ""
    modules: tuple[str, ...] = ()


OPERATIONS: dict[str, Operation] = {}
#: The file that registered each operation.
SOURCES: dict[str, Path] = {}


def register(operation: Operation) -> Operation:
    """Adds an operation; one contestant must be ours and at least one a peer or the plain form."""
    roles = [c.role for c in operation.contestants]
    if (
        roles.count("ours") != 1
        or not {"plain", "peer"} & set(roles)
        or set(roles) - {"ours", "plain", "peer", "limit"}
    ):
        raise ValueError(
            f"operation {operation.name!r} has roles {roles}; one 'ours' and a 'peer' or 'plain' are needed"
        )
    for what, names in (
        ("contestants", [c.name for c in operation.contestants]),
        ("cases", [c.name for c in operation.cases]),
    ):
        if len(set(names)) < len(names):
            raise ValueError(f"operation {operation.name!r} has two {what} of one name: {', '.join(names)}")
    source = Path(sys._getframe(1).f_code.co_filename)
    if operation.name in OPERATIONS:
        raise ValueError(f"operation {operation.name!r} is registered twice")
    if not operation.tests:
        raise ValueError(f"operation {operation.name!r} names no tests; a speed without tests is not shown")
    if not operation.cases:
        raise ValueError(f"operation {operation.name!r} has no cases")
    OPERATIONS[operation.name] = operation
    SOURCES[operation.name] = source
    return operation


class RedTestsError(RuntimeError):
    """The tests that guard an operation do not pass, or its contestants do not agree."""


#: Files of this folder that register nothing.
_MACHINERY = frozenset({"__init__", "__main__", "command", "measuring", "records", "registry"})


#: Files that could not be imported, and why.
BROKEN: dict[str, str] = {}


def discover() -> dict[str, Operation]:
    """Imports every file of this folder that may register operations, and returns all operations."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in _MACHINERY:
            try:
                import_module(f"benchmarks.{path.stem}")
            except Exception as error:  # the others can be measured
                BROKEN[path.stem] = f"{type(error).__name__}: {error}"
    return OPERATIONS


def main(argv: Sequence[str] | None = None, *, description: str = "") -> int:
    """The command line of a file of benchmarks: what was registered so far."""
    from benchmarks.command import main as command

    return command(argv, description=description)

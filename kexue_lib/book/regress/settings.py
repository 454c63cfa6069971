"""What ``kexue regress`` is asked for, and what of it this machine can give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kexue_lib.book.errors import BookError
from kexue_lib.book.regress import cluster

#: Seconds for a run, by scale, unless --timeout says otherwise; "" for other scales.
LIMITS = {"quick": 300.0, "full": 3600.0, "": 3600.0}


@dataclass(frozen=True)
class Settings:
    """What ``kexue regress`` is asked for.

    Args:
        seeds, scales: of the grid.
        device: "cpu", "cuda" or "auto": the CPU for quick runs, a GPU for others.
        ledger: the file to append to; by default below ``_build``.
        baseline: a ledger's file or a tag to compare with; by default the committed ledger, if there is one.
        scheduler, scheduler_file: a Dask cluster that is there; by default one inside this process.
        workers: processes on the CPU at a time, on this machine.
        processes: how many run a chapter together at scales that are not quick.
        timeout: seconds for a run; by default by its scale.
        retries: how often a run is tried again after a fault of the infrastructure.
        wait: seconds to wait for the cluster's workers.
        any_versions: accept other versions than the pinned ones.
        dry: only say what would be run.
        strict: an unstable claim counts as a failure.
        module: the module that runs a job.

    Raises:
        BookError: several processes, but no scale that they could share.
    """

    seeds: tuple[int, ...] = (0,)
    scales: tuple[str, ...] = ("quick",)
    device: str = "auto"
    ledger: Path | None = None
    baseline: str | None = None
    scheduler: str | None = None
    scheduler_file: Path | None = None
    workers: int = 1
    processes: int = 1
    timeout: float | None = None
    retries: int = 2
    wait: float = 300.0
    any_versions: bool = False
    dry: bool = False
    strict: bool = False
    module: str = "kexue_lib.book.runner"

    def __post_init__(self) -> None:
        """Refuse what would have no effect."""
        if self.processes > 1 and set(self.scales) == {"quick"}:
            raise BookError(
                f"--processes {self.processes} has nothing to share: runs of scale quick always use one process (they "
                "are made for one core). Add --scale full, or leave --processes out."
            )

    @property
    def remote(self) -> bool:
        """Whether the runs go to a cluster that is there already."""
        return self.scheduler is not None or self.scheduler_file is not None

    @property
    def devices(self) -> dict[str, tuple[str, ...]]:
        """The devices for each scale."""
        if self.device != "auto":
            return dict.fromkeys(self.scales, (self.device,))
        return {scale: ("cpu",) if scale == "quick" else ("cuda",) for scale in self.scales}

    @property
    def limits(self) -> dict[str, float]:
        """Seconds for a run, by scale; "" for other scales."""
        return {**LIMITS, **dict.fromkeys([*LIMITS, *self.scales], self.timeout)} if self.timeout else LIMITS

    @property
    def widths(self) -> dict[str, int]:
        """For each device that is wanted, the units that its widest run takes: one for each process."""
        wanted = [(device, self.processes_at(scale)) for scale, some in self.devices.items() for device in some]
        return {device: max(many for other, many in wanted if other == device) for device, _ in sorted(wanted)}

    def processes_at(self, scale: str) -> int:
        """How many processes run a chapter together at a scale."""
        return 1 if scale == "quick" else self.processes


@dataclass(frozen=True)
class Machine:
    """What this machine gives to a regression.

    Args:
        cpus: how many processes on the CPU at a time.
        gpus: the device or devices of each run on a GPU, as ``CUDA_VISIBLE_DEVICES`` names them.
    """

    cpus: int
    gpus: tuple[str, ...] = ()

    @property
    def units(self) -> dict[str, int]:
        """How many units of each device."""
        return {"cpu": self.cpus, "cuda": sum(len(group.split(",")) for group in self.gpus)}


def this_machine(settings: Settings, say: Callable[[str], None]) -> Machine:
    """What this machine gives to a regression; GPUs that are left over are told.

    Raises:
        BookError: it has fewer GPUs, or --workers allows fewer processes, than a run takes.
    """
    widths = settings.widths
    width = widths.get("cpu", 1)
    if width > settings.workers:
        raise BookError(
            f"A run by {width} processes takes {width} cores, and --workers allows {settings.workers} at a time. Give "
            f"--workers {width}, or fewer --processes."
        )
    if "cuda" not in widths:
        return Machine(settings.workers)
    gpus = cluster.local_gpus()
    if not gpus:
        raise BookError(
            "torch finds no GPU on this machine, and runs with --device cuda, or of a scale that is not quick, want "
            "one. Give --device cpu to have them on the CPU all the same, or a --scheduler whose workers have GPUs."
        )
    width = widths["cuda"]
    if width > len(gpus):
        raise BookError(
            f"A run by {width} processes takes {width} GPUs, and torch finds {len(gpus)} on this machine. Give fewer "
            "--processes, or a --scheduler whose workers have as many."
        )
    whole = len(gpus) - len(gpus) % width
    if left := gpus[whole:]:
        which = f"GPU {left[0]} is" if len(left) == 1 else f"GPUs {', '.join(left)} are"
        say(f"{which} left over: a run takes {width}.")
    return Machine(settings.workers, tuple(",".join(gpus[at : at + width]) for at in range(0, whole, width)))

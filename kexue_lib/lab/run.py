"""The parameters of a run, its device and its random generators."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["SCALES", "Run", "derived_seed"]

SCALES = ("quick", "full")
T = TypeVar("T")


def derived_seed(seed: int, name: str, offset: int = 0, *, bits: int = 63) -> int:
    """A seed for one purpose: the leading bits of SHA-256 over ``seed``, ``name`` and ``offset``.

    The same in every process, on every machine and Python version (Python's own ``hash`` is not).

    >>> derived_seed(0, "initialisation") == derived_seed(0, "initialisation")
    True
    >>> derived_seed(0, "initialisation") == derived_seed(0, "batches")
    False
    """
    digest = hashlib.sha256(f"kexue\x00{seed}\x00{name}\x00{offset}".encode()).digest()
    return int.from_bytes(digest, "big") >> (256 - bits)


class Run:
    """One run of a chapter: the checked parameters, the device they mean, and the generators they seed.

    ``scale="quick"`` is one CPU core and the same numbers every time: creating the run sets PyTorch to **one thread**
    and to **deterministic algorithms**, for the whole process. ``scale="full"`` is meant for one GPU; it asks for
    deterministic algorithms as well, but an operation that has none warns instead of raising, so that a long run is not
    lost. No global seed is ever set: randomness comes from :meth:`generator` and :meth:`rng`.

    Args:
        scale: ``"quick"`` or ``"full"``.
        seed: an integer ≥ 0.
        device: ``"auto"`` (the GPU if the scale is ``"full"`` and there is one, else the CPU), ``"cpu"``, ``"cuda"`` or
            ``"cuda:<index>"``. A process that ``torchrun`` started takes the GPU of its number.

    Attributes:
        scale, seed: as given.
        device: a ``torch.device``.
        dtype: ``torch.float32``, the type of parameters; see :meth:`autocast` for what a full run computes in.

    Raises:
        ValueError: a parameter is not allowed; the message names it, its value and what is allowed.

    >>> run = Run(scale="quick", seed=0, device="cpu")
    >>> run
    Run(scale='quick', seed=0, device='cpu')
    >>> run.pick(quick=600, full=8000)
    600
    >>> a, b = run.generator("batches"), run.generator("batches")
    >>> a.initial_seed() == b.initial_seed()
    True
    """

    def __init__(self, *, scale: str = "quick", seed: int = 0, device: str = "auto") -> None:
        """Check the parameters and set determinism."""
        if not isinstance(scale, str) or scale not in SCALES:
            raise ValueError(f"scale={scale!r} is not allowed; allowed: 'quick', 'full'")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed={seed!r} is not allowed; allowed: an integer >= 0")
        self.scale = scale
        self.seed = seed
        self.device = _resolve(device, scale)
        self._set_determinism()

    def _set_determinism(self) -> None:
        import torch

        quick = self.scale == "quick"
        if quick:
            torch.set_num_threads(1)
        if self.device.type == "cuda":
            # cuBLAS is deterministic only with a fixed workspace, chosen before its first call.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=not quick)

    @property
    def dtype(self) -> torch.dtype:
        """The type of parameters and losses: float32."""
        import torch

        return torch.float32

    @property
    def parameters(self) -> dict[str, Any]:
        """The three parameters, as plain values."""
        return {"scale": self.scale, "seed": self.seed, "device": str(self.device)}

    def generator(self, name: str, offset: int = 0, *, device: str | torch.device = "cpu") -> torch.Generator:
        """A fresh torch generator for one purpose, seeded by ``(seed, name, offset)``.

        Asking twice gives the same stream from its start. The generator lives on the CPU, also in a run on a GPU, so
        that the same seed draws the same batches on every device; move what it drew.

        Args:
            name: what it is for, such as ``"batches"``.
            offset: repetition, such as the number of the restart.
            device: where it lives.
        """
        import torch

        return torch.Generator(device).manual_seed(derived_seed(self.seed, _checked(name), offset))

    def rng(self, name: str, offset: int = 0) -> np.random.Generator:
        """A fresh NumPy generator for one purpose, seeded by ``(seed, name, offset)``.

        >>> run = Run(scale="quick", seed=0, device="cpu")
        >>> bool(run.rng("scores").random() == run.rng("scores").random())
        True
        """
        import numpy as np

        return np.random.default_rng(derived_seed(self.seed, _checked(name), offset, bits=128))

    def pick(self, *, quick: T, full: T) -> T:
        """The value that belongs to the run's scale."""
        return quick if self.scale == "quick" else full

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 autocast in a full run on a GPU; nothing otherwise."""
        import torch

        if self.scale == "full" and self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def __repr__(self) -> str:
        """The parameters, with the device that they mean."""
        return f"Run(scale={self.scale!r}, seed={self.seed!r}, device={str(self.device)!r})"


def _checked(name: str) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"name={name!r} is not allowed; allowed: a non-empty text that says what the generator is for")
    return name


def _resolve(device: str, scale: str) -> torch.device:
    import torch

    allowed = "'auto', 'cpu', 'cuda', 'cuda:<index>'"
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r} is not allowed; allowed: {allowed}")
    available = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if available and scale == "full" else "cpu"
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if available else 0
        if count == 0:
            raise ValueError(
                f"device={device!r} is not allowed: PyTorch sees no CUDA device here; allowed: 'auto', 'cpu'"
            )
        if ":" in device and int(device.split(":")[1]) >= count:
            raise ValueError(f"device={device!r} is not allowed; allowed: 'cuda:0' … 'cuda:{count - 1}'")
    return torch.device(device)

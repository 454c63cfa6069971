"""A pretended GPU: a full run on the CPU stops where the same run on a GPU would mix the two devices.

``Run.device`` becomes ``cuda``, and so does the device of every tensor that was made there or computed from one that
was. Behind it stands ``cpu:0``, which PyTorch computes on as on ``cpu`` and yet tells apart from it. An operation that
takes tensors of both kinds raises, as CUDA does; so does ``numpy()`` of a tensor of the GPU, and drawing for one device
by a generator of the other. What this cannot see: kernels that CUDA lacks, memory, autocast, and rounding.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU, BEHIND, HOST = torch.device("cuda", 0), torch.device("cpu", 0), torch.device("cpu")

# Operations whose first argument decides, and whose others may lie elsewhere.
COPIES = {"copy_", "_to_copy", "set_", "_has_compatible_shallow_copy_type"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_"}
JOINING = {"cat", "stack"}  # these take no number of the CPU among tensors of the GPU
PACKING = {"_pack_padded_sequence", "_pack_padded_sequence_backward", "_pad_packed_sequence", "lstm", "gru"}
FACTORIES = {
    *("empty", "empty_strided", "zeros", "ones", "full", "eye", "arange", "linspace", "logspace", "rand", "randn"),
    *("randint", "randperm", "tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "scalar_tensor", "Tensor"),
    *("tril_indices", "triu_indices", "hann_window", "range", "complex", "normal"),
}


class DeviceFault(RuntimeError):
    """What would be an error on a GPU."""


class Memory:
    """Which storages lie on the pretended GPU, and which are of either device (made inside PyTorch); others are not."""

    def __init__(self) -> None:
        self.places: dict[int, tuple[StorageWeakRef, str]] = {}
        self.limit, self.used = 10_000, False

    def put(self, tensor: torch.Tensor, place: str) -> None:
        # A weak reference keeps the address from being used again, so that no new storage inherits a place.
        storage = tensor.untyped_storage()
        if storage._cdata in self.places:
            self.places[storage._cdata] = (self.places[storage._cdata][0], place)
            return
        if place == "host":
            return
        if len(self.places) > self.limit:
            self.places = {key: value for key, value in self.places.items() if not value[0].expired()}
            self.limit = 2 * len(self.places) + 10_000
        if place == "gpu" and not self.used:
            self.used = True
            if "PRETENDED_GPU" in os.environ:  # a test wants to know
                Path(os.environ["PRETENDED_GPU"]).touch()
        reference = StorageWeakRef(storage)
        self.places[reference.cdata] = (reference, place)

    def of(self, tensor: torch.Tensor) -> str:
        """``"gpu"``, ``"host"`` or ``"any"``."""
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        found = self.places.get(tensor.untyped_storage()._cdata)
        return found[1] if found else "host"


MEMORY = Memory()
GENERATORS: dict[int, torch.Generator] = {}  # those of the pretended GPU, kept alive so that no other has their number


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments, also those in lists and dictionaries."""
    for value in values.values() if isinstance(values, dict) else values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from tensors(value)


def place_of(device: Any) -> str | None:
    """Where a device argument sends a tensor."""
    if device is None:
        return None
    device = torch.device(device)
    return "gpu" if device.type == "cuda" or device == BEHIND else "host"


def behind(value: Any) -> Any:
    """The real device in place of the pretended one."""
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith("cuda"))
    return BEHIND if named and place_of(value) == "gpu" else value


class Operations(TorchDispatchMode):
    """Sees every operation, also of backward passes: checks where its inputs are, notes where its outputs are."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        inputs = list(tensors((args, kwargs)))
        places = [MEMORY.of(x) for x in inputs]
        if name not in COPIES:
            self.check(func, name, inputs, places)
        known = {x.untyped_storage()._cdata for x in inputs}
        asked = place_of(kwargs.get("device"))
        if asked == "host" and not self.calls.makes_tensors:
            asked = None if inputs else "any"  # PyTorch itself asks for the device of what it works on
        out = func(*args, **kwargs)
        place = asked or ("gpu" if "gpu" in places else "any" if "any" in places and "host" not in places else "host")
        for x in tensors([out]):
            if name != "set_" and x.untyped_storage()._cdata not in known:
                MEMORY.put(x, "host" if name in PACKING and x.dtype == torch.int64 else place)
        return out

    def check(self, func: Any, name: str, inputs: list[torch.Tensor], places: list[str]) -> None:
        if "gpu" not in places:
            return
        looked = list(zip(inputs, places, strict=True))
        if name in INDEXING and places[0] == "gpu":  # the indices may come from the host; the new values may not
            looked = [(x, p) for x, p in looked if x.dtype not in (torch.int64, torch.int32, torch.bool, torch.uint8)]
        if name in PACKING:  # lengths and sizes of batches have to be on the host
            if any(p == "gpu" and x.dtype == torch.int64 and x.dim() == 1 for x, p in looked[1:]):
                raise DeviceFault(f"{func}: the lengths have to be on the CPU")
            looked = [(x, p) for x, p in looked if x.dtype != torch.int64]
        faults = [tuple(x.shape) for x, place in looked if place == "host" and (x.dim() > 0 or name in JOINING)]
        if faults:
            raise DeviceFault(f"{func}: tensors of the CPU, of shapes {faults}, meet tensors of the GPU")


GETTERS = {
    torch.Tensor.device.__get__: lambda on_gpu: GPU if on_gpu else HOST,
    torch.Tensor.is_cuda.__get__: lambda on_gpu: on_gpu,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda on_gpu: not on_gpu,  # type: ignore[attr-defined]
}


class Calls(TorchFunctionMode):
    """Sees the calls from Python: what a tensor's device is, and where it leaves the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.makes_tensors = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = [behind(x) for x in args], {key: behind(x) for key, x in (kwargs or {}).items()}
        name = getattr(func, "__name__", "")
        if name == "__get__" and func in GETTERS:
            return GETTERS[func](MEMORY.of(args[0]) == "gpu")
        if name in ("numpy", "__array__") and MEMORY.of(args[0]) == "gpu" and not kwargs.get("force"):
            raise DeviceFault("a tensor of the GPU cannot become a NumPy array; take .cpu() first")
        makes = name in FACTORIES or name.startswith(("new_", "to")) or name.endswith("_like")
        makes |= all(MEMORY.of(x) == "host" for x in tensors((args, kwargs)))
        before, self.makes_tensors = self.makes_tensors, makes
        try:
            out = func(*args, **kwargs)
        finally:
            self.makes_tensors = before
        generator = kwargs.get("generator")
        if generator is not None and isinstance(out, torch.Tensor):
            drawn = place_of(kwargs.get("device")) or MEMORY.of(out)
            if (id(generator) in GENERATORS) != (drawn == "gpu"):
                raise DeviceFault(f"{name}: the generator is not on the device of the numbers it draws ({drawn})")
        if name in ("tensor", "as_tensor", "asarray") and place_of(kwargs.get("device")) == "gpu":
            MEMORY.put(out, "gpu")
        goes = goal(name, args, kwargs)
        if goes and isinstance(out, torch.Tensor) and MEMORY.of(out) != goes:
            out = out.clone()  # PyTorch itself saw no reason to copy
            MEMORY.put(out, goes)
        return out


def goal(name: str, args: Any, kwargs: Any) -> str | None:
    """Where a method takes a tensor."""
    if name == "cpu":
        return "host"
    if name == "__deepcopy__":  # copies a storage without an operation
        return MEMORY.of(args[0])
    if name in ("to", "type_as"):
        for x in (*args[1:], *kwargs.values()):
            if isinstance(x, torch.Tensor):
                return MEMORY.of(x)
            if isinstance(x, torch.device | str):
                return place_of(x)
    return None


def install(run: ModuleType) -> None:
    """Pretend, from now on and until the process ends, in this thread.

    Args:
        run: the module ``kexue_lib.lab.run``.
    """
    resolve, generator = run._resolve, run.Run.generator

    def resolved(device: str, scale: str) -> torch.device:
        resolve(device, scale)
        return torch.device("cuda")

    def made(self: Any, name: str, offset: int = 0, *, device: Any = "cpu") -> torch.Generator:
        out = generator(self, name, offset, device="cpu")
        if place_of(device) == "gpu":
            GENERATORS[id(out)] = out
        return out

    run.__dict__["_resolve"], run.Run.generator = resolved, made
    torch.cuda.synchronize = lambda *_: None
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    calls, engine = Calls(), torch.autograd._engine_run_backward

    def backward(*args: Any, **kwargs: Any) -> Any:
        # Within `Tensor.backward` the mode is off, but a backward pass may be written in Python.
        before, calls.makes_tensors = calls.makes_tensors, False
        try:
            with calls:
                return engine(*args, **kwargs)
        finally:
            calls.makes_tensors = before

    torch.autograd._engine_run_backward = backward
    calls.__enter__()
    Operations(calls).__enter__()

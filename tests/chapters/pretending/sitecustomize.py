"""Python runs this first where this folder is on PYTHONPATH: a kernel that imports the lab then pretends to have a GPU.

Only if the environment has ``PRETENDED_GPU``, a file that is made when something is put on the GPU: importing this by
itself, as pytest does when it looks for examples, changes nothing.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class AfterTheLab:
    """Finds ``kexue_lib.lab.run`` as usual, and installs the pretended GPU once it is loaded."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The usual spec, with a loader that goes on to install."""
        spec = PathFinder.find_spec(name, path, target) if name == "kexue_lib.lab.run" else None
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            import pretend_gpu

            pretend_gpu.install(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "PRETENDED_GPU" in os.environ:
    sys.meta_path.insert(0, AfterTheLab())

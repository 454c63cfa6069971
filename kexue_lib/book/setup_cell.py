"""The setup cell, which the pipeline writes into every chapter."""

from __future__ import annotations

from kexue_lib.book.cards import Card
from kexue_lib.book.config import Config

_INSTALL = """\
# Installs kexue_lib where it is missing (Colab); the torch and numpy that are there stay as they are.
import importlib.util

if importlib.util.find_spec("kexue_lib") is None:
    import subprocess
    import sys
    from importlib import metadata
    from pathlib import Path

    there = {{d.metadata["Name"].lower(): d.version for d in metadata.distributions() if d.metadata["Name"]}}
    keep = Path("kexue-keep.txt")
    keep.write_text("".join(f"{{name}}=={{there[name]}}\\n" for name in ("torch", "numpy") if name in there))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(keep)]
    subprocess.run([*install, "kexue-lib[lab] @ git+{url}@{branch}"], check=True)
    importlib.invalidate_caches()
"""

_REFUSE = """\
# kexue_lib has to be installed: the address of the repository is not set yet in _config.yml.
import importlib.util

if importlib.util.find_spec("kexue_lib") is None:
    raise ModuleNotFoundError(
        "kexue_lib is not installed, and this notebook does not know an address to install it from. "
        "Get a checkout of the repository, run `pip install -e '.[lab]'` in it, and restart the kernel."
    )
"""


def setup_source(card: Card, config: Config) -> str:
    """The source of the setup cell: install if need be, then print the device and the expected minutes."""
    install = _INSTALL.format(url=config.url, branch=config.branch) if config.published else _REFUSE
    minutes = ", ".join(f'"{scale}": {value:g}' for scale, value in sorted(card.minutes.items(), reverse=True))
    return f"{install}\nfrom kexue_lib.lab import announce\n\nannounce(minutes={{{minutes}}})"

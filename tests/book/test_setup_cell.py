"""The setup cell where Colab would run it: newer torch and numpy than ours, no kexue_lib; and no network here.

Colab's packages are imitated by distributions of the same names that hold next to nothing. pip, git and the build of
kexue_lib are real: git is told to take the repository's address from a folder, pip to take packages from another.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tomllib
from checkouts import REPOSITORY
from packaging.requirements import Requirement

from kexue_lib.book.cards import read_card
from kexue_lib.book.config import PLACEHOLDER, read_config
from kexue_lib.book.project import Project
from kexue_lib.book.setup_cell import setup_source

PROJECT = Project(REPOSITORY)
URL = "https://github.com/someone/kexue"
COLAB = {"torch": "99.1.0+cu999", "numpy": "99.2.0"}
TORCH = """
class cuda:
    is_available = staticmethod(lambda: True)
    get_device_name = staticmethod(lambda: "Tesla T4")
"""
SETUP = setup_source(read_card(PROJECT.chapters[0].source), replace(read_config(PROJECT), url=URL))


def dist_info(name: str, version: str, *requires: str) -> dict[str, str]:
    """The files of a distribution that holds one module, which knows its version."""
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *(f"Requires-Dist: {r}" for r in requires)]
    module = name.replace("-", "_")
    folder = f"{module}-{version}.dist-info"
    return {
        f"{module}.py": f"__version__ = {version!r}\n",
        f"{folder}/METADATA": "\n".join(lines) + "\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/RECORD": f"{module}.py,,\n{folder}/METADATA,,\n{folder}/WHEEL,,\n{folder}/RECORD,,\n",
    }


def lab_requirements() -> list[Requirement]:
    """All that `kexue-lib[lab]` asks for, by the checkout's own pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    found = [Requirement(r) for r in [*project["dependencies"], *extras["lab"], *extras["derive"]]]
    return [r for r in found if r.name != "kexue-lib"]


def fitting(requirement: Requirement) -> str:
    exact = [s.version for s in requirement.specifier if s.operator == "=="]
    return COLAB.get(requirement.name) or (exact[0] if exact else "99.0")


@dataclass
class Colab:
    """A machine like Colab's: a Python with packages, a folder of wheels that pip finds, a repository."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "env" / "bin" / "python"

    @property
    def packages(self) -> Path:
        return next((self.folder / "env").glob("lib/python*/site-packages"))

    def has(self, name: str, version: str) -> None:
        for path, text in dist_info(name, version).items():
            (self.packages / path).parent.mkdir(exist_ok=True)
            (self.packages / path).write_text(text, encoding="utf-8")
        if name == "torch":
            (self.packages / "torch.py").write_text(TORCH, encoding="utf-8")

    def offers(self, name: str, version: str, *requires: str) -> None:
        wheel = self.folder / "wheels" / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in dist_info(name, version, *requires).items():
                archive.writestr(path, text)

    def run(self, source: str) -> subprocess.CompletedProcess[str]:
        """Run a cell in an empty folder."""
        (self.folder / "empty").mkdir(exist_ok=True)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON", "VIRTUAL_ENV", "GIT_"))}
        environment = kept | {
            "HOME": str(self.folder),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{self.folder}/repository.insteadOf",
            "GIT_CONFIG_VALUE_0": URL,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.folder / "wheels"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        return subprocess.run(
            [self.python, "-c", source],
            cwd=self.folder / "empty", env=environment, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def versions(self) -> dict[str, str]:
        found = importlib.metadata.distributions(path=[str(self.packages)])
        return {d.metadata["Name"].lower(): d.version for d in found}


@pytest.fixture
def colab(tmp_path: Path) -> Colab:
    """torch and numpy newer than any of ours, and whatever else `lab` asks for; kexue_lib only in the repository."""
    there = Colab(tmp_path)
    venv.create(tmp_path / "env", with_pip=True)
    for requirement in lab_requirements():
        there.has(requirement.name, fitting(requirement))
    (tmp_path / "wheels").mkdir()
    # What the build of kexue_lib needs: the setuptools of this environment, as a wheel.
    setuptools = importlib.metadata.distribution("setuptools")
    with zipfile.ZipFile(tmp_path / "wheels" / f"setuptools-{setuptools.version}-py3-none-any.whl", "w") as archive:
        for file in setuptools.files or []:
            if ".." not in file.parts and file.suffix != ".pyc" and Path(str(file.locate())).is_file():
                archive.write(str(file.locate()), str(file))
    source = tmp_path / "repository"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "kexue_lib", source / "kexue_lib", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "all"]):
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *who, *command], cwd=source, check=True, capture_output=True)
    return there


@pytest.mark.slow
def test_the_setup_cell_installs_kexue_lib_and_nothing_else_once(colab: Colab) -> None:
    for name in COLAB:  # newer ones are on offer; nobody asked for them
        colab.offers(name, "100.0")
    before = colab.versions()
    assert "kexue-lib" not in before
    done = colab.run(SETUP)
    assert done.returncode == 0, done.stdout + done.stderr
    after = colab.versions()
    assert after.pop("kexue-lib") == tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert after == before
    assert {name: after[name] for name in COLAB} == COLAB
    assert done.stdout.splitlines()[-1] == (
        'Device: GPU (Tesla T4). scale = "quick" takes about 1 minute; '
        'scale = "full" uses the GPU and takes about 30 minutes.'
    )

    shutil.rmtree(colab.folder / "repository")  # the second time there is nothing to install from, and no need to
    for left in (colab.folder / "empty").iterdir():
        left.unlink()
    again = colab.run(SETUP)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]
    assert list((colab.folder / "empty").iterdir()) == []  # pip was not asked


@pytest.mark.slow
def test_a_requirement_that_would_replace_torch_stops_the_setup_cell(colab: Colab) -> None:
    """Better no kexue_lib than another torch than the one that Colab's drivers fit."""
    shutil.rmtree(colab.packages / "tqdm-99.0.dist-info")
    colab.offers("tqdm", "99.5", "torch>=100")
    colab.offers("torch", "100.0")
    before = colab.versions()
    done = colab.run(SETUP)
    assert done.returncode != 0
    assert "CalledProcessError" in done.stderr
    assert colab.versions() == before
    assert "kexue-lib" not in before


def test_without_an_address_the_setup_cell_says_how_to_install(tmp_path: Path) -> None:
    source = setup_source(read_card(PROJECT.chapters[0].source), replace(read_config(PROJECT), url=PLACEHOLDER))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "ModuleNotFoundError: kexue_lib is not installed" in done.stderr
    assert "pip install -e '.[lab]'" in done.stderr

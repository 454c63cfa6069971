"""What Colab does: the wheel in an environment that has only torch, numpy, sympy, matplotlib and a kernel.

What the chapters import and load has to be there. One of them is run from an empty folder, without this checkout, and
has to come to the same verdicts.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import jupytext
import pytest

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import gather

PROJECT = Project(Path(__file__).resolve().parents[2])
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

# Run in the other environment: execute a notebook in its folder, and say where kexue_lib came from.
DRIVER = """
import json, sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
for cell in notebook.cells:
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
NotebookClient(notebook, kernel_name="python3", timeout=None).execute()
nbformat.write(notebook, sys.argv[2])
"""


def call(*command: str | Path, cwd: Path) -> str:
    """Run a command outside of this checkout; gives its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"OMP_NUM_THREADS": "1", "KEXUE_PROGRESS": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def versions(python: Path, cwd: Path) -> dict[str, str]:
    return {p["name"]: p["version"] for p in json.loads(call(python, "-m", "pip", "list", "--format=json", cwd=cwd))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what goes into it, so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT.root / name, source / name)
    shutil.copytree(PROJECT.root / "kexue_lib", source / "kexue_lib", ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, cwd=folder)
    (made,) = folder.glob("kexue_lib-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment like Colab's, with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    program = folder / "bin" / "python"
    there = ["torch==2.13.0", "numpy", "sympy", "matplotlib", "ipykernel", "nbclient"]
    call(program, "-m", "pip", "install", "--quiet", *there, cwd=folder)
    before = versions(program, folder)
    call(program, "-m", "pip", "install", "--quiet", f"{wheel}[lab]", cwd=folder)
    after = versions(program, folder)
    moved = {name: after[name] for name, version in before.items() if after[name] != version}
    assert not moved, f"installing the wheel changed what was there: {moved}"
    return program


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"kexue_lib", f"{wheel.name.partition('-py3')[0]}.dist-info"}
    assert "kexue_lib/py.typed" in names
    assert "kexue_lib/book/redirect.html" in names
    sources = {p.relative_to(PROJECT.root).as_posix() for p in (PROJECT.root / "kexue_lib").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources


def test_the_environment_has_no_part_of_the_pipeline(python: Path, tmp_path: Path) -> None:
    pipeline = ("papermill", "jupyter_book", "distributed", "jupytext")
    code = f"import importlib.util as u; print([name for name in {pipeline} if u.find_spec(name)])"
    assert call(python, "-c", code, cwd=tmp_path).strip() == "[]"


@pytest.mark.parametrize("chapter", PROJECT.chapters, ids=lambda chapter: chapter.slug)
def test_all_that_a_chapter_imports_and_loads_is_there(chapter: Chapter, python: Path, tmp_path: Path) -> None:
    """Its imports, each module of lab that it names, and its data: what a missing requirement would break."""
    source = ast.parse("\n".join(c.source for c in jupytext.read(chapter.source).cells if c.cell_type == "code"))
    nodes = list(ast.walk(source))
    lines = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
    dotted = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}
    named = sorted(name for name in dotted if re.fullmatch(r"lab\.\w+", name))
    loads = sorted(name for name in dotted if re.fullmatch(r"lab\.data\.\w+", name))
    assert named, "a chapter without lab"
    program = "\n".join(["from kexue_lib import lab", *lines, *named, *(f"{name}()" for name in loads)])
    call(python, "-c", program, cwd=tmp_path)


def test_a_chapter_comes_to_the_same_verdicts_there(python: Path, tmp_path: Path) -> None:
    """One whole chapter; the others run again in tests/chapters, and their imports above."""
    chapter = PROJECT.chapters[0]
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(chapter.executed, empty / "chapter.ipynb")
    (tmp_path / "drive.py").write_text(DRIVER, encoding="utf-8")
    call(python, tmp_path / "drive.py", empty / "chapter.ipynb", tmp_path / "done.ipynb", cwd=empty)
    assert [p.name for p in empty.iterdir()] == ["chapter.ipynb"], "a chapter leaves no files behind"
    committed = gather(read_executed(chapter))
    records = gather(json.loads((tmp_path / "done.ipynb").read_text(encoding="utf-8")))
    assert records.claims, "a chapter without claims"
    assert {c["id"]: c["verdict"] for c in records.claims} == {c["id"]: c["verdict"] for c in committed.claims}
    assert [(s["id"], s["status"]) for s in records.steps] == [(s["id"], s["status"]) for s in committed.steps]

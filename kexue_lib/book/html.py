"""The book as web pages: jupyter-book on what was executed before; it never executes anything itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kexue_lib.book.config import Config
from kexue_lib.book.finish import finish_pages
from kexue_lib.book.mathjax import DISTRIBUTION, copy_mathjax
from kexue_lib.book.place import digest, place
from kexue_lib.book.project import Project

if TYPE_CHECKING:
    from rich.console import Console

#: The distributions that decide what a page looks like.
_TOOLS = ("jupyter-book", "sphinx", "myst-nb", "myst-parser", "sphinx-book-theme", "pydata-sphinx-theme", DISTRIBUTION)


def make_html(project: Project, config: Config, console: Console) -> bool:
    """Make ``_build/html`` if anything that it is made of has changed; whether it is now up to date.

    The pages are made elsewhere and take the place of ``_build/html`` only when all went well: until then, and after a
    failure, the previous book stays.
    """
    # MathJax lies where _config.yml's html_static_path has it; git ignores the folder.
    copy_mathjax(project.root / "book" / "_generated" / "static" / "mathjax")
    stamp = project.build / "html.stamp"
    html = project.build / "html"
    inputs = inputs_hash(project)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == inputs and (html / "index.html").is_file():
        return True
    console.print("making the book …", highlight=False, markup=False)
    scratch = project.build / "tmp"
    derived = project.build / "jupyter-book" / "config.yml"
    place(derived, yaml.safe_dump(derived_config(config), allow_unicode=True, sort_keys=True), scratch)
    log = project.build / "jupyter-book" / "log.txt"
    made = project.build / "jupyter-book" / "_build" / "html"
    _drop_what_sphinx_would_not_renew(project, made.parent, derived)
    with log.open("w", encoding="utf-8") as output:
        code = subprocess.run(
            _command(project, derived),
            cwd=project.root,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(project),
            check=False,
        ).returncode
    if code != 0:
        # Sphinx keeps what it has read, and would not repeat these warnings: the next attempt starts afresh.
        shutil.rmtree(made.parent, ignore_errors=True)
        console.print(
            _what_went_wrong(log.read_text(encoding="utf-8"), log), highlight=False, markup=False, soft_wrap=True
        )
        return False
    _swap(made, html, project.build / "tmp")
    place(stamp, inputs, scratch)
    console.print(f"the book is made: {html / 'index.html'}", highlight=False, markup=False, soft_wrap=True)
    return True


def derived_config(config: Config) -> dict[str, Any]:
    """``_config.yml`` as jupyter-book gets it: without launch buttons while the URL is the placeholder.

    (A launch button without a repository would silently lead to jupyter-book's own repository.)
    """
    content: dict[str, Any] = json.loads(json.dumps(config.content))
    content.setdefault("execute", {})["execute_notebooks"] = "off"
    if not config.published:
        content.pop("repository", None)
        content["launch_buttons"] = dict.fromkeys(("colab_url", "binderhub_url", "jupyterhub_url"), "")
        content["launch_buttons"]["thebe"] = False
        content.setdefault("html", {}).update(
            use_repository_button=False, use_issues_button=False, use_edit_page_button=False
        )
    return content


def inputs_hash(project: Project) -> str:
    """A hash of all that the pages are made of: configuration, contents, pages, notebooks, library, tools."""
    files = [project.config, project.toc]
    for folder in (project.root / "book", project.library / "kexue_lib"):
        for where, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not name.startswith((".", "__pycache__", "mathjax"))]
            files += [Path(where) / name for name in names if not name.startswith(".")]
    lines = [f"{os.path.relpath(path, project.root)} {digest(path.read_bytes())}" for path in sorted(files)]
    return digest("\n".join(lines + _versions()))


def _command(project: Project, config: Path) -> list[str]:
    return [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(project.root)),
        *("--path-output", str(project.build / "jupyter-book")),
        *("--config", str(config), "--toc", str(project.toc)),
        *("-W", "-n", "--keep-going"),
    ]


def _environment(project: Project) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(project.library), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "NO_COLOR": "1"}


def _drop_what_sphinx_would_not_renew(project: Project, folder: Path, config: Path) -> None:
    """Start afresh when contents, configuration, an extension of ours or a tool has changed.

    Sphinx would leave pages behind that are no more, and would not read again what it has read with other tools.
    """
    mark = folder.parent / "read-with"
    extensions = [Path(__file__).with_name(f"{name}.py") for name in ("anchors", "markup", "reading", "search")]
    inputs = [digest(path.read_bytes()) for path in (project.toc, config, *extensions)] + _versions()
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest("\n".join(inputs)):
        shutil.rmtree(folder, ignore_errors=True)
        place(mark, digest("\n".join(inputs)), project.build / "tmp")


def _versions() -> list[str]:
    return [f"{tool} {metadata.version(tool)}" for tool in _TOOLS]


def _swap(made: Path, html: Path, scratch: Path) -> None:
    new, old = scratch / "html-new", scratch / "html-old"
    for left in (new, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(made, new)
    finish_pages(new)
    if html.exists():
        html.rename(old)
    new.rename(html)
    shutil.rmtree(old, ignore_errors=True)


def _what_went_wrong(log: str, path: Path) -> str:
    log = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line for line in log.splitlines() if re.search(r"\b(WARNING|ERROR|CRITICAL|Error)\b", line)]
    said = "\n".join(lines[:40] or log.splitlines()[-25:])
    return (
        "The book was not made: jupyter-book stopped with errors or warnings (both count). The previous one stays.\n"
        f"{said}\nAll of its output: {path}"
    )

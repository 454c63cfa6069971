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

from kexue_lib.book.conditions import NOT_BUILT, Condition, conditions
from kexue_lib.book.config import Config
from kexue_lib.book.finish import finish_pages
from kexue_lib.book.mathjax import DISTRIBUTION, copy_mathjax
from kexue_lib.book.place import digest, place
from kexue_lib.book.project import Project
from kexue_lib.book.redirects import sphinx_options
from kexue_lib.book.vacancies import filled_vacancies, page_title

if TYPE_CHECKING:
    from rich.console import Console

#: The distributions that decide what a page looks like.
_TOOLS = ("jupyter-book", "sphinx", "myst-nb", "myst-parser", "sphinx-book-theme", "pydata-sphinx-theme", DISTRIBUTION)

#: Extensions without which the pages would not say what they have to.
_ALWAYS_LOADED = ("kexue_lib.book.heads", "sphinx_reredirects")

#: Modules of ours that are extensions of Sphinx, or decide what one does.
_EXTENSIONS = ("anchors", "chapter_head", "full_record", "heads", "markup", "previews", "reading", "search")


def make_html(project: Project, config: Config, console: Console) -> bool:
    """Make ``_build/html`` if anything that it is made of has changed; whether it is now up to date.

    The pages are made elsewhere and take the place of ``_build/html`` only when all went well: until then, and after a
    failure, the previous book stays.
    """
    # MathJax lies where _config.yml's html_static_path has it; git ignores the folder.
    copy_mathjax(project.root / "book" / "_generated" / "static" / "mathjax")
    stamp = project.build / "html.stamp"
    html = project.build / "html"
    not_fresh = conditions(project, config)
    inputs = _inputs(project, config, not_fresh)
    if _is_made(project, inputs):
        return True
    console.print("making the book …", highlight=False, markup=False)
    scratch = project.build / "tmp"
    derived = project.build / "jupyter-book" / "config.yml"
    content = derived_config(config, {**sphinx_options(project), **_said_of(project, not_fresh)})
    place(derived, yaml.safe_dump(content, allow_unicode=True, sort_keys=True), scratch)
    log = project.build / "jupyter-book" / "log.txt"
    made = project.build / "jupyter-book" / "_build" / "html"
    _drop_what_sphinx_would_not_renew(project, made.parent, derived)
    # Pages that are not built lack the places that others link to. Such a book is for its makers, and the build has
    # failed already: warnings are printed, and do not stop it.
    vacant = [name for name, condition in not_fresh.items() if condition.state == NOT_BUILT]
    with filled_vacancies(project, vacant), log.open("w", encoding="utf-8") as output:
        code = subprocess.run(
            _command(project, derived, strict=not vacant),
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


def is_current(project: Project, config: Config) -> bool:
    """Whether ``_build/html`` is made of what is there now."""
    return _is_made(project, _inputs(project, config, conditions(project, config)))


def derived_config(config: Config, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """``_config.yml`` as jupyter-book gets it: without launch buttons while the URL is the placeholder.

    (A launch button without a repository would silently lead to jupyter-book's own repository.)

    Args:
        config: what ``_config.yml`` says.
        options: further options for Sphinx.
    """
    content: dict[str, Any] = json.loads(json.dumps(config.content))
    sphinx = content.setdefault("sphinx", {})
    extensions = sphinx.setdefault("extra_extensions", [])
    extensions += [name for name in _ALWAYS_LOADED if name not in extensions]
    sphinx.setdefault("config", {}).update(options or {}, kexue_colab=config.colab)
    content.setdefault("html", {})["baseurl"] = config.site
    content.setdefault("execute", {})["execute_notebooks"] = "off"
    if not config.published:
        content.pop("repository", None)
        content["launch_buttons"] = dict.fromkeys(("colab_url", "binderhub_url", "jupyterhub_url"), "")
        content["launch_buttons"]["thebe"] = False
        content["html"].update(use_repository_button=False, use_issues_button=False, use_edit_page_button=False)
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


def _inputs(project: Project, config: Config, not_fresh: dict[str, Condition]) -> str:
    return digest(f"{inputs_hash(project)} {config.url} {sorted(not_fresh.items())!r}")


def _is_made(project: Project, inputs: str) -> bool:
    stamp = project.build / "html.stamp"
    made = (project.build / "html" / "index.html").is_file()
    return made and stamp.is_file() and stamp.read_text(encoding="utf-8") == inputs


def _command(project: Project, config: Path, *, strict: bool) -> list[str]:
    return [
        *(sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(project.root)),
        *("--path-output", str(project.build / "jupyter-book")),
        *("--config", str(config), "--toc", str(project.toc)),
        *(["-W", "-n", "--keep-going"] if strict else ["-n"]),
    ]


def _environment(project: Project) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(project.library), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", "NO_COLOR": "1"}


def _drop_what_sphinx_would_not_renew(project: Project, folder: Path, config: Path) -> None:
    """Start afresh when contents, configuration, an extension of ours or a tool has changed.

    Sphinx would leave pages behind that are no more, and would not read again what it has read with other tools.
    """
    mark = folder.parent / "read-with"
    extensions = [Path(__file__).with_name(f"{name}.py") for name in _EXTENSIONS]
    inputs = [digest(path.read_bytes()) for path in (project.toc, config, *extensions)] + _versions()
    if not mark.is_file() or mark.read_text(encoding="utf-8") != digest("\n".join(inputs)):
        shutil.rmtree(folder, ignore_errors=True)
        place(mark, digest("\n".join(inputs)), project.build / "tmp")


def _said_of(project: Project, not_fresh: dict[str, Condition]) -> dict[str, Any]:
    """What the pages of chapters that are not fresh have to say, for the extension ``chapter_head``."""
    said = {name: {**c.as_data(), "title": page_title(project.chapter(name))} for name, c in not_fresh.items()}
    return {"kexue_conditions": said}


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

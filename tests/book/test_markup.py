"""The Sphinx extension: anchors in raw HTML are targets, displays keep their tags, thebe is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PAGE = r"""# A page

<a id="D1"></a>

$$ \begin{aligned} a &= b \\ &= c \end{aligned} \tag{D1} $$

Back to [(D1)](#D1).
"""

OTHER = "# Another page\n\nSee [(D1)](page.md#D1).\n"
CONF = (
    "extensions = ['myst_parser', 'sphinx_thebe', 'kexue_lib.book.markup']\nmyst_enable_extensions = ['dollarmath']\n"
)


def build(folder: Path, page: str = PAGE, other: str = OTHER) -> tuple[str, str, str]:
    """Make a site of two pages; gives their HTML and the warnings."""
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    (folder / "index.md").write_text("# Start\n\n```{toctree}\npage\nother\n```\n", encoding="utf-8")
    (folder / "page.md").write_text(page, encoding="utf-8")
    (folder / "other.md").write_text(other, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-n", "-q", "-b", "html", str(folder), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    pages = [(folder / "out" / f"{name}.html").read_text(encoding="utf-8") for name in ("page", "other")]
    return pages[0], pages[1], done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    return build(tmp_path_factory.mktemp("site"))


def test_links_to_a_step_resolve_in_its_page_and_from_another(made: tuple[str, str, str]) -> None:
    page, other, warnings = made
    assert warnings == ""
    assert 'href="#D1"' in page
    assert 'href="page.html#D1"' in other


def test_links_to_a_step_that_is_not_there_are_reported(tmp_path: Path) -> None:
    *_, warnings = build(tmp_path, PAGE + "\n[(D9)](#D9)\n", OTHER + "\n[(D8)](page.md#D8)\n")
    assert "target not found: 'D9'" in warnings
    assert "'D8'" in warnings
    assert "D1" not in warnings


def test_a_display_with_a_line_break_reaches_mathjax_as_it_was_written(made: tuple[str, str, str]) -> None:
    page, *_ = made
    assert r"\begin{split}" not in page  # in which MathJax refuses \tag
    assert r"\[\begin{aligned} a &amp;= b \\ &amp;= c \end{aligned} \tag{D1}\]" in page


def test_thebe_is_taken_out(made: tuple[str, str, str]) -> None:
    assert "THEBE_JS_URL" not in made[0]
    assert "sphinx-thebe" not in made[0]


def test_without_the_extension_all_of_this_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above see the extension's work, not what Sphinx does anyway."""
    monkeypatch.setitem(globals(), "CONF", CONF.replace(", 'kexue_lib.book.markup'", ""))
    page, _, warnings = build(tmp_path)
    assert "target not found: 'D1'" in warnings
    assert r"\begin{split}" in page
    assert "THEBE_JS_URL" in page

"""The making of the book: derived configuration, MathJax, warnings as errors, nothing done twice."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.config import PLACEHOLDER, read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.html import derived_config, inputs_hash
from kexue_lib.book.mathjax import copy_mathjax
from kexue_lib.book.project import Project


def test_launch_buttons_are_left_out_while_the_url_is_the_placeholder() -> None:
    config = read_config(Project(REPOSITORY))
    hidden = derived_config(replace(config, url=PLACEHOLDER))
    assert "repository" not in hidden
    assert not any(hidden["launch_buttons"].values())
    assert PLACEHOLDER not in str(hidden)
    shown = derived_config(replace(config, url="https://github.com/a/b"))
    assert shown["repository"] == config.content["repository"]
    assert shown["launch_buttons"] == config.content["launch_buttons"]
    assert hidden["execute"]["execute_notebooks"] == shown["execute"]["execute_notebooks"] == "off"
    assert config.content == read_config(Project(REPOSITORY)).content


@pytest.mark.parametrize("url", ["", "repository: {}", "repository: {url: http://a.b}", "repository: {url: [", "x"])
def test_a_wrong_repository_url_is_an_error(checkout: Checkout, url: str) -> None:
    checkout.project.config.write_text(f"title: x\n{url}\n", encoding="utf-8")
    with pytest.raises(BookError, match=r"_config\.yml"):
        read_config(checkout.project)


def test_mathjax_is_copied_once_and_without_what_no_page_needs(tmp_path: Path) -> None:
    copy_mathjax(tmp_path)
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert (tmp_path / "startup.js").is_file()
    assert any(f.suffix == ".woff" for f in files)
    assert 1e6 < sum(f.stat().st_size for f in files) < 2.5e6
    stamps = {f: f.stat().st_mtime_ns for f in files}
    copy_mathjax(tmp_path)
    assert {f: f.stat().st_mtime_ns for f in files} == stamps


def test_the_hash_of_the_inputs_sees_every_input(built: Checkout) -> None:
    seen = {inputs_hash(built.project)}
    for path in ("_config.yml", "_toc.yml", "book/index.md", "kexue_lib/beta.py",
                 "book/chapters/attention/entropy-invariant-softmax.ipynb"):  # fmt: skip
        target = built.root / path
        target.write_text(target.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        seen.add(inputs_hash(built.project))
    assert len(seen) == 6
    built.write("kexue_lib/__pycache__/x.py", "")
    built.write("README.md", "")
    assert inputs_hash(built.project) in seen


SPHINX = """
launch_buttons: {colab_url: "https://colab.research.google.com"}
sphinx:
  extra_extensions: [kexue_lib.book.markup]
  config:
    html_static_path: [book/_generated/static]
    mathjax_path: mathjax/startup.js
    myst_heading_anchors: 3
    suppress_warnings: [mystnb.unknown_mime_type]
"""


@pytest.mark.slow
def test_the_book_is_made_once_and_a_warning_keeps_the_previous_one(built: Checkout) -> None:
    config = built.project.config
    config.write_text(config.read_text(encoding="utf-8") + SPHINX, encoding="utf-8")
    done = built.kexue("build", timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    page = built.root / "_build/html/book/chapters/attention/entropy-invariant-softmax.html"
    text = page.read_text(encoding="utf-8")
    assert "executablebooks/jupyter-book" not in text
    assert "colab.research" not in text
    assert (built.root / "_build/html/_static/mathjax/startup.js").is_file()
    assert re.search(r'src="[^"]*_static/mathjax/startup\.js', text)

    began = time.monotonic()
    done = built.kexue("build")
    assert done.returncode == 0
    assert time.monotonic() - began < 3
    assert "making the book" not in done.stdout

    for _ in range(2):  # Sphinx would forget the warning the second time
        built.write("book/index.md", "# Test\n\n[gone](gone.md)\n")
        done = built.kexue("build")
        assert done.returncode == 1
        assert "The book was not made" in done.stdout
        assert "gone.md" in done.stdout
        assert page.read_text(encoding="utf-8") == text

    built.write("book/index.md", "# Test\n\n[all](ledger.md)\n")
    built.write("_toc.yml", "format: jb-book\nroot: book/index\nchapters:\n- file: book/ledger\n- file: book/map\n")
    built.project.chapters[0].source.unlink()
    built.executed().unlink()
    done = built.kexue("build")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not page.exists()
    assert (built.root / "_build/html/book/ledger.html").is_file()

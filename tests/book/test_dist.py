"""The zip file: the same bytes for the same book, and a book that works from the file system."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.dist import make_archive
from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.toc import listed_pages

PAGE = (
    '<html><head>\n<link rel="preload" as="font" crossorigin href="f.woff2">\n</head><img src="_images/a.png"></html>'
)
CHAPTER = Project(REPOSITORY).chapters[0]


def small_site(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PAGE if name.endswith(".html") else "SHOW_SEARCH_SUMMARY: true,", encoding="utf-8")
    return folder


NAMES = ["index.html", "_images/a.png", "_images/old.png", "_static/documentation_options.js", ".buildinfo", "b/c.html"]


def test_the_same_book_gives_the_same_bytes_whenever_and_by_whomever_it_is_packed(tmp_path: Path) -> None:
    first = make_archive(small_site(tmp_path / "a", NAMES), tmp_path / "x", title="My Book", version="1.2")
    other = small_site(tmp_path / "b", NAMES[::-1])
    for path in other.rglob("*.html"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o600)
    second = make_archive(other, tmp_path / "y", title="My Book", version="1.2")
    assert first.name == second.name == "my-book-1.2.zip"
    assert first.read_bytes() == second.read_bytes()
    assert [p.name for p in first.parent.iterdir()] == [first.name]


def test_the_archive_holds_what_pages_show_and_no_more(tmp_path: Path) -> None:
    made = make_archive(small_site(tmp_path / "a", NAMES), tmp_path, title="My Book", version="1.2")
    with zipfile.ZipFile(made) as archive:
        names = archive.namelist()
        page = archive.read("my-book-1.2/index.html").decode()
        options = archive.read("my-book-1.2/_static/documentation_options.js").decode()
        readme = archive.read("my-book-1.2/README.txt").decode()
    kept = {"index.html", "b/c.html", "_images/a.png", "_static/documentation_options.js", "README.txt"}
    assert set(names) == {f"my-book-1.2/{name}" for name in kept}
    assert "preload" not in page
    assert '<img src="_images/a.png">' in page
    assert options == "SHOW_SEARCH_SUMMARY: false,"
    assert "My Book, version 1.2" in readme


def test_nothing_is_handed_out_that_is_not_built_or_out_of_date(tmp_path: Path, built: Checkout) -> None:
    with pytest.raises(BookError, match="holds no built book"):
        make_archive(tmp_path, tmp_path, title="My Book", version="1.2")
    for command in ("dist", "pdf"):
        done = built.kexue(command)
        assert done.returncode == 2
        assert "The built book is missing or older than its sources" in done.stderr
    assert not (built.root / "dist").exists()


@pytest.fixture(scope="module")
def unpacked(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real book, packed and unpacked."""
    folder = tmp_path_factory.mktemp("dist")
    made = make_archive(site, folder, title="Executable Kexue", version="1.2")
    assert made.stat().st_size < 60e6
    with zipfile.ZipFile(made) as archive:
        archive.extractall(folder)
    return folder / "executable-kexue-1.2"


@pytest.fixture
def opened(unpacked: Path, browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """A page of a browser that opens files, and the list of what goes wrong in it."""
    found: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light", offline=True)
    page = context.new_page()
    page.on("console", lambda m: found.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: found.append(str(e)))
    left = "net::ERR_ABORTED"  # the reader was gone before it had come
    page.on("requestfailed", lambda r: None if r.failure == left else found.append(f"failed: {r.url}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else found.append(r.url))
    yield page, found
    context.close()


@pytest.mark.browser
def test_the_unpacked_book_works_from_the_file_system(unpacked: Path, opened: tuple[Any, list[str]]) -> None:
    page, found = opened
    page.goto((unpacked / "index.html").as_uri())
    page.wait_for_url("**/book/index.html")
    page.goto((unpacked / f"{CHAPTER.page}.html").as_uri())
    page.wait_for_load_state("networkidle")
    page.evaluate("() => MathJax.startup.promise")
    assert page.evaluate("() => document.querySelectorAll('mjx-container').length") > 50
    assert page.evaluate("() => document.querySelectorAll('mjx-merror').length") == 0
    families = page.evaluate("() => [...document.fonts].filter(f => f.status == 'loaded').map(f => f.family)")
    assert any(family.startswith("MJX") for family in families), "the fonts of the equations"

    dark = "() => document.documentElement.dataset.theme"
    background = "() => getComputedStyle(document.body).backgroundColor"
    light_ground = page.evaluate(background)
    for _ in range(3):
        page.click("button.theme-switch-button")
        if page.evaluate(dark) == "dark":
            break
    assert page.evaluate(dark) == "dark"
    assert page.evaluate(background) != light_ground
    page.click("a.right-next")
    page.wait_for_load_state("load")
    assert page.url.startswith("file:")
    assert page.evaluate(dark) == "dark", "the choice stays from page to page"
    assert found == []


@pytest.mark.browser
@pytest.mark.parametrize(("query", "wanted"), [("optimizer", "optimizer"), ("不变性", "attention")])
def test_the_search_works_from_the_file_system(
    query: str, wanted: str, unpacked: Path, opened: tuple[Any, list[str]]
) -> None:
    page, found = opened
    page.goto(f"{(unpacked / 'search.html').as_uri()}?q={query}")
    page.wait_for_selector("#search-results li a")
    page.wait_for_function(
        "() => document.querySelector('#search-results .search-summary').innerText.includes('found')"
    )
    results = page.query_selector_all("#search-results li a")
    assert any(wanted in result.inner_text().lower() for result in results)
    results[0].click()
    page.wait_for_load_state("load")
    assert page.query_selector("article h1")
    assert found == []


def test_the_notebooks_are_in_the_archive_as_they_were_executed(unpacked: Path) -> None:
    listed = set(listed_pages(Project(REPOSITORY)))
    chapters = [chapter for chapter in Project(REPOSITORY).chapters if chapter.page in listed]
    assert chapters
    for chapter in chapters:
        copy = unpacked / "_sources" / f"{chapter.page}.ipynb"
        assert copy.read_bytes() == chapter.executed.read_bytes()
        assert json.loads(copy.read_text(encoding="utf-8"))["cells"]

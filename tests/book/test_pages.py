"""The built book: its files, and its pages in a real browser, light and dark, at a desk's and a phone's width."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import book_pages
import pytest
import yaml

from kexue_lib.book.project import Project
from kexue_lib.book.redirects import read_redirects

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Project(ROOT)
TOC = yaml.safe_load(PROJECT.toc.read_text(encoding="utf-8"))
LISTED = [TOC["root"], *(chapter["file"] for part in TOC["parts"] for chapter in part["chapters"])]
STEPS = [f"book/steps/{chapter.name}" for chapter in PROJECT.chapters]


# ---------------------------------------------------------------------------------------------------------------------
# The files
# ---------------------------------------------------------------------------------------------------------------------


def test_every_chapter_is_listed_and_has_its_page(site: Path) -> None:
    for chapter in PROJECT.chapters:
        assert chapter.page in LISTED
    for name in (*LISTED, *STEPS):
        assert (site / f"{name}.html").is_file(), name
    made = {p.relative_to(site).as_posix() for p in book_pages.pages(site)}
    moved = {f"{old}.html" for old in read_redirects(PROJECT)}
    assert made == {f"{name}.html" for name in (*LISTED, *STEPS)} | book_pages.EXTRA | moved


def test_a_chapters_page_shows_its_steps_and_claims(site: Path) -> None:
    """What the executed notebook holds can be seen on the page: a build without outputs would give no warning."""
    from kexue_lib.book.notebooks import read_executed
    from kexue_lib.book.records import gather

    for chapter in PROJECT.chapters:
        records = gather(read_executed(chapter))
        assert records.steps, f"{chapter.name} has no step"
        assert records.claims, f"{chapter.name} has no claim"
        page = book_pages.parse(site / f"{chapter.page}.html")
        text = page.get_text(" ")
        for step in records.steps:
            assert page.find(id=step["id"]), f"{chapter.name}: no anchor for step {step['id']}"
            assert f"\\tag{{{step['id']}}}" in text or step.get("links"), f"{chapter.name}: {step['id']} is not shown"
        for link in records.leaves:  # the links of a chain have their ids beside their lines
            assert re.search(rf"(?<![\w.]){re.escape(link['id'])}(?![\w.])", text), f"{chapter.name}: {link['id']}"
        shown = [item.get_text(" ").split()[0] for item in page.select("li.kx-claim")]
        for claim in records.claims:
            assert claim["id"] in shown, f"{chapter.name}: claim {claim['id']} is in no list"


def test_the_step_that_how_to_read_explains_is_one_of_a_chapter() -> None:
    from kexue_lib.book.notebooks import read_executed

    page = (ROOT / "book" / "how-to-read.md").read_text(encoding="utf-8")
    shown = re.search(r":::\{container\} kx-step.*?\n\n(.*?)\n\n:::", page, re.DOTALL)
    assert shown is not None
    (chapter,) = [chapter for chapter in PROJECT.chapters if chapter.name == "attention/entropy-invariant-softmax"]
    outputs = [output for cell in read_executed(chapter)["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    assert any(text.endswith(shown[1]) for text in texts)


def test_a_chapters_page_names_its_post(site: Path) -> None:
    from kexue_lib.book.cards import read_card

    for chapter in PROJECT.chapters:
        card = read_card(chapter.source)
        page = book_pages.parse(site / f"{chapter.page}.html").find("article")
        assert page is not None
        links = [link["href"] for link in page.find_all("a", href=True)]
        assert f"https://kexue.fm/archives/{card.archive}" in links
        assert card.title_zh in page.get_text()


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    assert book_pages.foreign_loads(site) == []
    assert book_pages.foreign_scripts(site) == []


def test_no_page_links_to_the_repository_of_jupyter_book(site: Path) -> None:
    assert book_pages.wrong_repository_links(site) == []


def test_no_link_inside_the_book_is_dead(site: Path) -> None:
    assert book_pages.dead_links(site) == []


def test_every_image_has_a_text(site: Path) -> None:
    assert book_pages.images_without_text(site) == []


def test_images_of_the_text_wait_until_they_are_in_sight_and_state_their_size(site: Path) -> None:
    for chapter in PROJECT.chapters:
        images = book_pages.parse(site / f"{chapter.page}.html").select("figure.kx-figure img")
        assert images, f"{chapter.name} has no figure"
        for image in images:
            assert image["loading"] == "lazy"
            assert int(image["width"]) > 300
            assert int(image["height"]) > 100


def test_chinese_is_marked_as_chinese(site: Path) -> None:
    assert book_pages.unmarked_chinese(site) == []


# ---------------------------------------------------------------------------------------------------------------------
# The browser
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", [*LISTED, *STEPS, *(page.removesuffix(".html") for page in sorted(book_pages.EXTRA - {"index.html"}))]
)
def test_a_page_is_sound_light_and_open_to_all(
    name: str, address: str, browser: Any, record_property: Callable[[str, object], None]
) -> None:
    """Three widths, light and dark; its weight; what axe-core says. One visit, since typesetting takes seconds."""
    with book_pages.visited(browser, address, f"{name}.html") as visit:
        weight = visit.weight()
        record_property("weight", {"page": name, "cpu": round(visit.cpu, 2), **{k: round(weight[k]) for k in weight}})
        found = book_pages.look(visit) + book_pages.barriers(visit)
    assert found == []
    if name in {chapter.page for chapter in PROJECT.chapters}:
        assert sum(weight.values()) <= 500, weight
        assert visit.cpu <= 2, f"{visit.cpu:.1f} s of the processor until a reader can begin"


@pytest.mark.browser
def test_code_is_folded_away_and_opens_by_mouse_and_by_keyboard(address: str, browser: Any) -> None:
    with book_pages.visited(browser, address, f"{PROJECT.chapters[0].page}.html") as visit:
        page = visit.page
        folds = page.locator("details.kx-fold")
        assert folds.count() > 20
        assert page.locator("details[open]").count() == 0
        assert page.locator(".kx-steps").count() == page.locator(".kx-steps + details.kx-fold, .kx-aside").count()
        fold, code = folds.nth(2), folds.nth(2).locator("pre")
        assert not code.is_visible()
        fold.locator("summary").click()
        assert code.is_visible()
        for key, shown in (("Enter", False), ("Enter", True), ("Space", False)):
            fold.locator("summary").press(key)
            assert code.is_visible() == shown


@pytest.mark.browser
def test_the_root_leads_to_the_cover(address: str, browser: Any) -> None:
    page = browser.new_page()
    page.goto(address)
    page.wait_for_url("**/book/index.html")
    assert "Executable Kexue" in page.inner_text("h1")
    page.close()


@pytest.mark.browser
def test_a_long_equation_scrolls_inside_its_box_from_its_beginning_and_by_the_keyboard(
    address: str, browser: Any
) -> None:
    with book_pages.visited(browser, address, f"{PROJECT.chapters[0].page}.html", width=360) as visit:
        page = visit.page
        long = page.locator(".bd-article div.math[tabindex]:visible")
        assert long.count(), "no equation is wider than a phone: this test sees nothing"
        box = long.first
        assert box.evaluate("e => e.scrollLeft") == 0
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("e => e.scrollLeft > 0", arg=box.element_handle())


# ---------------------------------------------------------------------------------------------------------------------
# The tests above can fail
# ---------------------------------------------------------------------------------------------------------------------

BROKEN = """<!doctype html><html><head><link rel="stylesheet" href="https://fonts.example.org/a.css">
<style>body {{ background: white; color: black }}</style></head><body><article>
<p>苏剑林 <i lang="zh">科学</i></p><p>A text with $$ x^2 \\tag{{D1}} $$ left, and <code>$$ in code $$</code>.</p>
<a href="missing.html">gone</a> <a href="#nowhere">anchor</a> <a href="https://github.com/executablebooks/jupyter-book">x</a>
<img src="a.png"><img src="data:image/png;base64,AAAA" alt="fine">
<span class="math">\\(x\\)</span> <mjx-merror data-mjx-error="Undefined control sequence">x</mjx-merror>
<div style="width: 1000px">{wide}</div> <pre style="width: 99px; overflow: auto; font-size: 0.9em">{wide}</pre>
<p style="color: #aaa">faint</p>
<div class="math" style="overflow: auto; white-space: nowrap; width: 99px; direction: rtl">{wide}</div>
<script>console.error("a complaint"); fetch("https://elsewhere.example.org/data.json").catch(() => 0)</script>
</article></body></html>"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(BROKEN.format(wide="wide " * 100), encoding="utf-8")
    (tmp_path / "a.css").write_text("@font-face { src: url(//cdn.example.org/font.woff2) }", encoding="utf-8")
    return tmp_path


def test_the_faults_of_a_broken_site_are_found_in_its_files(broken: Path) -> None:
    assert len(book_pages.foreign_loads(broken)) == 2
    assert book_pages.foreign_scripts(broken) == ["page.html: https://elsewhere.example.org/data.json"]
    assert len(book_pages.wrong_repository_links(broken)) == 1
    assert book_pages.dead_links(broken) == [
        "page.html: #nowhere (no such anchor)",
        "page.html: a.png (no such file)",
        "page.html: missing.html (no such file)",
    ]
    assert len(book_pages.images_without_text(broken)) == 1
    assert book_pages.unmarked_chinese(broken) == ["page.html: 苏剑林"]


@pytest.mark.browser
def test_the_faults_of_a_broken_page_are_seen_in_the_browser(broken: Path, browser: Any) -> None:
    with (
        book_pages.served(broken) as base,
        book_pages.visited(browser, base, "page.html", width=360, scheme="dark") as visit,
    ):
        found = "\n".join(book_pages.look(visit, [(360, "dark")]) + book_pages.barriers(visit))
    for fault in (
        "asks for https://fonts.example.org",
        "asks for https://elsewhere.example.org",
        "console: a complaint",
        "status 404",
        "TeX in sight",
        "not typeset",
        "MathJax: Undefined control sequence",
        "overflow: ",
        "the background is light in dark mode",
        "scrolls, but not by the keyboard: <pre",
        "an equation cannot be seen to its end: 'wide",
        "color-contrast (serious), 1 times",
        "image-alt (critical), 1 times",
    ):
        assert fault in found, f"{fault!r} was not found in:\n{found}"
    assert "in code" not in found

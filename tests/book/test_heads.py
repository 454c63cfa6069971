"""What search engines and messengers read of a page, and the icons."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import book_pages
import pytest
from checkouts import REPOSITORY
from docutils.core import publish_doctree
from PIL import Image, ImageChops, ImageStat

from kexue_lib.book.config import PLACEHOLDER, Config
from kexue_lib.book.heads import chapter_description, first_figure, page_description, robots, sitemap, tags
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.previews import SIZE, preview
from kexue_lib.book.project import Project

CHAPTERS = [chapter for chapter in Project(REPOSITORY).chapters if chapter.executed.is_file()]


@pytest.mark.parametrize(
    ("url", "base", "site", "colab"),
    [
        (PLACEHOLDER, "", "", ""),
        (PLACEHOLDER, "https://book.example.org", "", ""),
        ("https://github.com/Some/kexue", "", "https://some.github.io/kexue/", "github/Some/kexue/blob/main/"),
        ("https://github.com/Some/some.github.io", "", "https://some.github.io/", "some.github.io/blob/main/"),
        ("https://github.com/a/b", "https://book.example.org", "https://book.example.org/", "github/a/b/blob/main/"),
        ("https://git.example.org/a/b", "", "", ""),
        ("https://git.example.org/a/b", "https://book.example.org/x/", "https://book.example.org/x/", ""),
    ],
)
def test_the_addresses_follow_from_the_repository(url: str, base: str, site: str, colab: str) -> None:
    config = Config(url=url, branch="main", content={"html": {"baseurl": base}})
    assert config.site == site
    assert config.colab.endswith(colab)
    assert config.colab.startswith("https://colab.research.google.com/github/" if colab else "")


def test_descriptions_of_chapters_differ_and_hold_the_chinese_title() -> None:
    said = [chapter_description(read_executed(chapter)) for chapter in CHAPTERS]
    assert len(set(said)) == len(said)
    for chapter, text in zip(CHAPTERS, said, strict=True):
        card = read_executed(chapter)["metadata"]["kexue"]
        assert card["title_zh"] in text
        assert "$" not in text
        assert 60 < len(text) < 250


def test_the_description_of_a_page_is_its_first_prose_cut_at_a_word() -> None:
    prose = "A sentence of prose that says what this page is about and why. " * 6
    item = "- an item of a list with quite a number of words"
    page = f"Title\n=====\n\n*A motto.*\n\n{item}\n\n{prose}\n\nNext\n====\n\nx\n"
    said = page_description(publish_doctree(page))
    assert said.startswith("A sentence of prose")
    assert said.endswith(" …")
    assert len(said) <= 202
    assert said[:-2].rsplit(" ", 1)[-1].rstrip(".") in prose.replace(".", "").split()


def test_tags_need_an_address_for_what_is_absolute() -> None:
    known: dict[str, Any] = {"title": "T<", "description": 'says "so"', "name": "Book", "kind": "article"}
    without = tags(**known, image="https://a.b/x.png")
    assert 'content="T&lt;"' in without
    assert "says &quot;so&quot;" in without
    assert "og:url" not in without
    assert "og:image" not in without
    with_it = tags(**known, url="https://a.b/p.html", image="https://a.b/x.png", alt="a line")
    for wanted in ("og:url", "https://a.b/p.html", "og:image:alt", "summary_large_image", 'name="description"'):
        assert wanted in with_it


def test_sitemap_and_robots_are_well_formed() -> None:
    from xml.etree import ElementTree

    root = ElementTree.fromstring(sitemap("https://a.b/", ["x.html", "y&z.html"]).encode())
    assert [e.text for e in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")] == [
        "https://a.b/x.html",
        "https://a.b/y&z.html",
    ]
    assert robots("https://a.b/").endswith("Sitemap: https://a.b/sitemap.xml\n")
    assert "Sitemap" not in robots("")


def test_the_preview_is_the_same_every_time_small_and_shows_the_figure() -> None:
    found = first_figure(read_executed(CHAPTERS[0]))
    assert found is not None
    figure, alt = found
    assert len(alt) > 20
    made = preview("How should the scale of attention grow with length?", "Executable Kexue", figure)
    import matplotlib

    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 10}):
        again = preview("How should the scale of attention grow with length?", "Executable Kexue", figure)
    assert made == again
    assert len(made) < 100_000
    picture = Image.open(io.BytesIO(made))
    assert picture.size == SIZE
    bare = Image.open(io.BytesIO(preview("How should the scale of attention grow with length?", "Executable Kexue")))
    assert ImageChops.difference(picture.convert("RGB"), bare.convert("RGB")).getbbox() is not None


@pytest.mark.parametrize(
    "title", ["What is hard about training a 1000-layer Transformer?", "An unbreakable" + "word" * 9]
)
def test_the_title_does_not_run_into_the_figure(title: str) -> None:
    found = first_figure(read_executed(CHAPTERS[0]))
    assert found is not None
    right = (530, 0, 1200, 540)
    with_title, without = (
        Image.open(io.BytesIO(preview(t, "Book", found[0]))).convert("RGB").crop(right) for t in (title, " ")
    )
    assert max(ImageStat.Stat(ImageChops.difference(with_title, without)).mean) < 0.5


def test_a_long_title_stays_inside_its_preview() -> None:
    made = preview("A very long title " * 12, "Executable Kexue")
    picture = Image.open(io.BytesIO(made)).convert("L")
    for edge in ((0, 0, 1200, 8), (0, 0, 8, 500), (1192, 0, 1200, 500)):
        assert ImageStat.Stat(picture.crop(edge)).extrema[0][0] > 240, edge


ICONS = REPOSITORY / "book" / "static"


@pytest.mark.parametrize(("name", "size"), [("favicon-32.png", 32), ("apple-touch-icon.png", 180)])
def test_the_icons_have_their_sizes(name: str, size: int) -> None:
    icon = Image.open(ICONS / name)
    assert icon.size == (size, size)
    assert (ICONS / name).stat().st_size < 6000
    # a phone puts a transparent icon on black
    assert name.startswith("favicon") or icon.convert("RGBA").getextrema()[3] == (255, 255)


@pytest.mark.browser
def test_the_icons_show_what_the_svg_shows(browser: Any) -> None:
    svg = (ICONS / "favicon.svg").read_text(encoding="utf-8")
    for name, size, ground in (("favicon-32.png", 32, "#fff"), ("apple-touch-icon.png", 180, "#1d4e89")):
        page = browser.new_page(viewport={"width": size, "height": size})
        style = f"*{{margin:0}}body{{background:{ground}}}svg{{display:block;width:{size}px;height:{size}px}}"
        page.set_content(f"<style>{style}</style>{svg}")
        drawn = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        page.close()
        icon = Image.open(ICONS / name).convert("RGBA")
        icon = Image.alpha_composite(Image.new("RGBA", icon.size, ground), icon).convert("RGB")
        assert max(ImageStat.Stat(ImageChops.difference(drawn, icon)).mean) < 3, name


def test_every_page_has_a_description_icons_and_no_relative_preview(site: Path) -> None:
    seen = {}
    for path in book_pages.pages(site):
        page = book_pages.parse(path)
        name = path.relative_to(site).as_posix()
        if not name.startswith("book/"):
            continue
        icons = {
            str(link["href"]).rsplit("/", 1)[-1]
            for link in page.select('link[rel~="icon"], link[rel~="apple-touch-icon"]')
        }
        assert icons == {"favicon.svg", "favicon-32.png", "apple-touch-icon.png"}, name
        described = page.select_one('meta[name="description"]')
        assert described is not None, f"{name} has no description"
        seen[name] = described["content"]
        title = page.select_one('meta[property="og:title"]')
        assert title is not None, name
        assert title["content"]
        for tag in page.select('meta[property="og:image"], meta[property="og:url"], link[rel="canonical"]'):
            assert str(tag.get("content") or tag.get("href")).startswith("https://"), name
    assert len(set(seen.values())) == len(seen), "two pages have the same description"
    assert (site / "robots.txt").is_file()

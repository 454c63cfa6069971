"""Addresses: every step and claim has one, exactly one, that links lead to and that a reader can see and copy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import book_pages
import pytest
from bs4 import Tag
from checkouts import REPOSITORY

from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.project import Chapter, Project
from kexue_lib.book.records import Records, gather

CHAPTERS = Project(REPOSITORY).chapters
NAMES = [chapter.slug for chapter in CHAPTERS]


def records_of(chapter: Chapter) -> Records:
    return gather(read_executed(chapter))


def ids_of(records: Records) -> tuple[list[str], list[str]]:
    steps = [leaf["id"] for step in records.steps for leaf in (step, *step.get("links", []))]
    return steps, [claim["id"] for claim in records.claims]


def article(site: Path, chapter: Chapter) -> Tag:
    found = book_pages.parse(site / f"{chapter.page}.html").find("article")
    assert isinstance(found, Tag)
    return found


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_every_step_and_claim_has_its_anchor_once(chapter: Chapter, site: Path) -> None:
    page = book_pages.parse(site / f"{chapter.page}.html")
    steps, claims = ids_of(records_of(chapter))
    found = Counter(str(tag["id"]) for tag in page.find_all(id=True))
    assert {name: found[name] for name in (*steps, *claims)} == dict.fromkeys((*steps, *claims), 1)
    for name in claims:
        row = page.find(id=name)
        assert isinstance(row, Tag)
        assert row.name in ("tr", "li")
        assert row.find("strong").get_text() == name  # type: ignore[union-attr]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_a_step_is_followed_by_its_own_equation_and_by_links_to_what_it_uses(chapter: Chapter, site: Path) -> None:
    """The anchor stands before the equation with that tag; "uses" and "rests on" lead to the steps that they name."""
    page = article(site, chapter)
    for step in records_of(chapter).steps:
        anchor = page.find(id=step["id"])
        assert isinstance(anchor, Tag)
        display = anchor.find_next("div", class_="math")
        assert isinstance(display, Tag)
        assert f"\\tag{{{step['id']}}}" in display.get_text()
        following = [sibling for sibling in display.find_next_siblings() if isinstance(sibling, Tag)][:2]
        links = {str(link["href"]): link.get_text() for tag in following for link in tag.find_all("a", href=True)}
        for one in step.get("links") or [step]:
            for name in {*one["uses"]} - {*one["unfolds"]} | {*one["rests_on"]}:
                assert links.get(f"#{name}") == name, f"{one['id']} uses {name} without a link"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_every_step_and_claim_has_one_permanent_link_beside_it(chapter: Chapter, site: Path) -> None:
    page = article(site, chapter)
    steps, claims = ids_of(records_of(chapter))
    found = [str(link["href"]) for link in page.find_all("a", class_="kx-permalink")]
    assert sorted(found) == sorted(f"#{name}" for name in (*steps, *claims))
    for name in claims:
        row = page.find(id=name)
        assert isinstance(row, Tag)
        assert row.find("a", class_="kx-permalink", href=f"#{name}")
    for link in (link for step in records_of(chapter).steps for link in step.get("links", [])):
        item = page.find("a", class_="kx-permalink", href=f"#{link['id']}").find_parent("li")  # type: ignore[union-attr]
        assert isinstance(item, Tag)
        assert item.get_text().startswith(f"{link['id']} ")


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_evidence_of_a_claim_is_linked(chapter: Chapter, site: Path) -> None:
    page = article(site, chapter)
    for claim in records_of(chapter).claims:
        row = page.find(id=claim["id"])
        assert isinstance(row, Tag)
        for step in claim.get("evidence", []):
            assert row.find("a", href=f"#{step}"), f"{claim['id']} names {step} without a link"


@pytest.mark.parametrize("chapter", CHAPTERS, ids=NAMES)
def test_the_chapter_leads_to_the_map_of_its_steps_and_back(chapter: Chapter, site: Path) -> None:
    there = article(site, chapter).select(".kx-to-map a")
    assert [str(link["href"]) for link in there] == [f"../../steps/{chapter.name}.html"]
    back = book_pages.parse(site / "book" / "steps" / f"{chapter.name}.html").find_all("a", href=True)
    assert f"../../chapters/{chapter.name}.html" in [str(link["href"]) for link in back]


def test_the_ledger_leads_to_every_step_and_claim(site: Path) -> None:
    links = {str(a["href"]) for a in book_pages.parse(site / "book" / "ledger.html").find_all("a", href=True)}
    for chapter in CHAPTERS:
        records = records_of(chapter)
        for name in (*(step["id"] for step in records.steps), *(claim["id"] for claim in records.claims)):
            assert f"chapters/{chapter.name}.html#{name}" in links


@pytest.mark.browser
def test_an_address_leads_to_its_step_on_the_screen(address: str, browser: Any) -> None:
    chapter = CHAPTERS[0]
    steps, claims = ids_of(records_of(chapter))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    for name in (steps[0], steps[-1], claims[-1]):
        page.goto("about:blank")
        page.goto(f"{address}{chapter.page}.html#{name}")
        page.wait_for_function("document.documentElement.dataset.maths === 'done'")
        page.wait_for_timeout(500)
        place = page.evaluate("name => document.getElementById(name).getBoundingClientRect().top", name)
        assert 0 <= place < 450, f"{name} is at {place} of a window 900 high"
    page.close()


@pytest.mark.browser
def test_a_reader_who_moves_is_not_pulled_back(address: str, browser: Any) -> None:
    chapter = CHAPTERS[0]
    name = records_of(chapter).steps[-1]["id"]
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{address}{chapter.page}.html#{name}")
    page.wait_for_function("scrollY > 3000")
    page.mouse.move(600, 400)
    page.mouse.wheel(0, -1500)
    page.wait_for_function("document.documentElement.dataset.maths === 'done'")
    page.wait_for_timeout(500)
    place = page.evaluate("name => document.getElementById(name).getBoundingClientRect().top", name)
    assert place > 900, f"{name} came back to {place}"
    page.close()


@pytest.mark.browser
def test_a_permanent_link_comes_into_sight_with_the_pointer_and_with_the_focus(address: str, browser: Any) -> None:
    chapter = CHAPTERS[0]
    name = records_of(chapter).steps[0]["id"]
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{address}{chapter.page}.html")
    link = page.locator(f"a.kx-permalink[href='#{name}']")
    opacity = "e => { e.getAnimations().forEach(a => a.finish()); return Number(getComputedStyle(e).opacity); }"
    assert link.evaluate(opacity) == 0
    link.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Tab")
    assert link.evaluate(opacity) == 1
    link.evaluate("e => e.blur()")
    link.locator("xpath=..").hover()
    assert link.evaluate(opacity) > 0.3
    link.click()
    assert page.url.endswith(f"#{name}")
    page.close()

"""Maps and ledger as a reader uses them: nodes lead to steps, tables sort and filter, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from checkouts import REPOSITORY

from kexue_lib.book.project import Project
from kexue_lib.book.states import State, states

FINISHED = [state for state in states(Project(REPOSITORY)) if state.records is not None]

pytestmark = pytest.mark.browser


@pytest.fixture(params=["light", "dark"])
def page(request: pytest.FixtureRequest, browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 900}, color_scheme=request.param)
    yield context.new_page()
    context.close()


@pytest.fixture
def desk(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    yield context.new_page()
    context.close()


def steps_of(state: State) -> str:
    return f"book/steps/{state.planned.name}.html"


def test_a_node_leads_to_its_step(desk: Any, address: str) -> None:
    desk.goto(address + steps_of(FINISHED[0]))
    node = desk.locator("svg a[data-node]").nth(3)
    name = node.get_attribute("data-node")
    node.click()
    desk.wait_for_url(f"**/chapters/{FINISHED[0].planned.name}.html#{name}")
    assert desk.locator(f"[id='{name}']").count() == 1


def test_nodes_are_reached_and_followed_by_keyboard(desk: Any, address: str) -> None:
    desk.goto(address + steps_of(FINISHED[0]))
    desk.locator(".kx-thread .kx-scroll").first.focus()
    desk.keyboard.press("Tab")
    name = desk.evaluate("() => document.activeElement.dataset.node")
    assert name
    graph = desk.locator("svg.kx-graph").first
    assert "kx-traced" in (graph.get_attribute("class") or "")
    assert desk.evaluate("() => document.activeElement.getAttribute('aria-label')").split(":")[0].endswith(name)
    desk.keyboard.press("Enter")
    desk.wait_for_url(f"**#{name}")


def test_a_chapter_on_the_map_leads_to_its_page(desk: Any, address: str) -> None:
    desk.goto(address + "book/map.html")
    slug = FINISHED[-1].planned.slug
    desk.click(f"a[data-node='{slug}']")
    desk.wait_for_url(f"**/{slug}.html")


def test_pointing_at_a_node_shows_what_it_says_and_all_that_it_rests_on(page: Any, address: str) -> None:
    for state in FINISHED:
        assert state.records is not None
        step = next((s for s in state.records.steps if s["rests_on"] and not s.get("links")), None)
        if step is not None:
            break
    else:
        pytest.fail("no step of the book rests on anything: this test sees nothing")
    page.goto(address + steps_of(state))
    page.wait_for_load_state("networkidle")
    page.hover(f"svg [data-node='{step['id']}']")
    card = page.locator(".kx-card")
    card.wait_for(state="visible")
    assert f"rests on {', '.join(step['rests_on'])}" in card.inner_text()
    assert card.locator("mjx-container").count() >= 1
    assert card.locator("mjx-merror").count() == 0
    lit = set(page.eval_on_selector_all(".kx-traced .kx-node.kx-on", "all => all.map(e => e.dataset.node)"))
    assert {step["id"], *step["rests_on"]} <= lit
    assert page.locator(".kx-traced .kx-node:not(.kx-on)").count() > 0
    page.mouse.move(2, 2)
    card.wait_for(state="hidden")
    assert page.locator(".kx-traced").count() == 0


# Contrast of a node's text with its box, both as painted.
_CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number).slice(0, 3)
    .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const page = getComputedStyle(document.body).backgroundColor;
  return [...document.querySelectorAll("svg .kx-node")].map(node => {
    const text = node.querySelector("text") ?? node.querySelector("foreignObject > div");
    const ink = light(node.querySelector("text") ? getComputedStyle(text).fill : getComputedStyle(text).color);
    const fill = getComputedStyle(node.querySelector("rect")).fill;
    const paper = light(fill);
    return [node.dataset.node, (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05),
      (e => (Math.max(e, light(page)) + .05) / (Math.min(e, light(page)) + .05))(
        light(getComputedStyle(node.querySelector("rect")).stroke))];
  });
}"""


def test_boxes_can_be_read_in_both_modes(page: Any, address: str) -> None:
    """WCAG AA: text 4.5 to 1, the edges of what can be clicked 3 to 1."""
    for name in ("book/map.html", *map(steps_of, FINISHED)):
        page.goto(address + name)
        measured = page.evaluate(_CONTRAST)
        assert measured
        for node, text, edge in measured:
            assert text >= 4.5, f"{name}: {node} has a contrast of {text:.1f}"
            linked = name != "book/map.html" or node in {state.planned.slug for state in FINISHED}
            assert not linked or edge >= 3, f"{name}: the edge of {node} has a contrast of {edge:.1f}"


def test_a_wide_picture_scrolls_in_its_box_on_a_phone(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(address + "book/map.html")
    inner, outer = page.locator(".kx-map").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert outer <= 360 < inner
    assert page.evaluate("() => document.scrollingElement.scrollWidth") <= 360
    page.locator(".kx-map").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.kx-map').scrollLeft > 0")
    context.close()


# ---------------------------------------------------------------------------------------------------------------------
# The ledger
# ---------------------------------------------------------------------------------------------------------------------


def column(page: Any, table: int, k: int) -> list[str]:
    """The cells of a column in sight."""
    cells = page.locator(".kx-table").nth(table).locator("tbody tr:visible")
    return [text.strip() for text in cells.evaluate_all("(rows, k) => rows.map(r => r.cells[k].textContent)", k)]


def numbers(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


def test_the_ledger_sorts_by_mouse_and_keeps_its_sums_at_the_end(page: Any, address: str) -> None:
    page.goto(address + "book/ledger.html")
    heading = page.locator(".kx-table").first.locator("th").nth(1)
    assert heading.inner_text().strip().startswith("proved")
    before = column(page, 0, 1)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert numbers(column(page, 0, 1)[:-1]) == sorted(numbers(before[:-1]))
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert numbers(column(page, 0, 1)[:-1]) == sorted(numbers(before[:-1]), reverse=True)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") is None
    assert column(page, 0, 1) == before
    assert column(page, 0, 0)[-1] == "All"


def test_the_ledger_sorts_by_keyboard(desk: Any, address: str) -> None:
    desk.goto(address + "book/ledger.html")
    heading = desk.locator(".kx-table").first.locator("th").nth(1)
    heading.locator("button").focus()
    desk.keyboard.press("Tab")
    assert desk.evaluate("() => document.activeElement.textContent.trim()") == "asymptotic"
    for key, order in (("Enter", "ascending"), ("Space", "descending")):
        desk.keyboard.press(key)
        assert desk.locator(".kx-table").first.locator("th").nth(2).get_attribute("aria-sort") == order


def test_ids_sort_as_people_count(desk: Any, address: str) -> None:
    desk.goto(address + steps_of(FINISHED[0]))
    desk.locator(".kx-table").first.locator("th button").first.click()
    names = column(desk, 0, 0)
    assert names == sorted(names, key=lambda name: [int(part) for part in name[1:].split(".")])
    assert any(int(part) >= 10 for name in names for part in name[1:].split("."))


def test_the_claims_can_be_filtered(desk: Any, address: str) -> None:
    desk.goto(address + "book/ledger.html")
    tools = desk.locator(".kx-tools").last
    table = desk.locator(".kx-table").count() - 1
    tools.get_by_label("verdict").select_option(label="●\N{NO-BREAK SPACE}holds")
    holds = sum(s.records.by_verdict()["holds"] for s in FINISHED if s.records)
    every = sum(len(s.records.claims) for s in FINISHED if s.records)
    assert len(column(desk, table, 0)) == holds
    assert tools.locator("[role=status]").inner_text() == f"{holds} of {every} rows"
    tools.get_by_label("Filter").fill("entropy zebrafish")
    assert column(desk, table, 0) == []
    tools.get_by_label("Filter").fill("")
    tools.get_by_label("verdict").select_option(label="all")
    assert len(column(desk, table, 0)) == every


def test_without_a_script_the_ledger_is_a_plain_table(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address + "book/ledger.html")
    assert page.locator(".kx-table th button, .kx-tools").count() == 0
    assert page.locator(".kx-table").first.locator("tbody tr").count() == len(FINISHED) + 1
    context.close()


def test_on_a_phone_a_claim_of_the_ledger_is_a_card_within_the_page(browser: Any, address: str) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(address + "book/ledger.html")
    page.wait_for_load_state("networkidle")
    page.evaluate("() => MathJax.startup.promise")
    cells = page.locator(".kx-table").last.locator("tbody tr").first.locator("td")
    for k in range(cells.count()):
        box = cells.nth(k).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
    context.close()

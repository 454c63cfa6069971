"""Maps: which step rests on which, what it is worth with all below it, and how that is laid out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.errors import BookError
from kexue_lib.book.layout import Drawing, lay_out
from kexue_lib.book.map_page import map_page
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.plan import read_plan
from kexue_lib.book.project import Project
from kexue_lib.book.records import Records
from kexue_lib.book.skeleton import STANDINGS, skeleton
from kexue_lib.book.states import State, states
from kexue_lib.book.steps_page import SIGNS, VERDICT_SIGNS, sections_of, steps_page
from kexue_lib.book.svg import Face, svg

PROJECT = Project(REPOSITORY)
FINISHED = [state for state in states(PROJECT) if state.records is not None]


def step(name: str, kind: str = "exact", status: str = "proved", **fields: Any) -> dict[str, Any]:
    record = {"derivation": "toy", "id": name, "kind": kind, "status": status, "uses": [], "unfolds": [],
              "rests_on": [], "dims": {}, "by": f"because of {name}", "latex": "x = y"}  # fmt: skip
    return {**record, **fields}


def records(*steps: dict[str, Any], claims: list[dict[str, Any]] | None = None) -> Records:
    return Records(steps, tuple(claims or []), (), {})


TOY = records(
    step("D1", "assumed", "unchecked"),
    step("D2", uses=["D1"], rests_on=["D1"]),
    step("D3", uses=["D1", "D2"], rests_on=["D1"]),
    step("D4", "numeric", "sampled"),
    step("D5", uses=["D4"], rests_on=["D4"]),
    step("D6", "defined", "unchecked"),
    step("D7", dims={"n": [3]}),
    step("D8", links=[step("D8.1"), step("D8.2", dims={"n": [2]})]),
    step("D9", uses=["D8.1"]),
    step("D10", "limit", "asymptotic"),
    step("D11", uses=["D5", "D2"], rests_on=["D1", "D4"]),
    claims=[{"id": "C1", "claim": "$x|y$", "kind": "exact", "verdict": "holds", "evidence": ["D8.2", "D3"]}],
)


def test_a_step_is_worth_what_the_weakest_below_it_is_worth() -> None:
    worth = {name: node.standing for name, node in skeleton(TOY).nodes.items()}
    assert worth == {
        "D1": "granted", "D2": "granted", "D3": "granted", "D4": "sampled", "D5": "sampled", "D6": "defined",
        "D7": "sizes", "D8": "sizes", "D9": "proved", "D10": "asymptotic", "D11": "granted", "C1": "holds",
    }  # fmt: skip
    assert skeleton(TOY).worth["D8.1"] == "proved"


def test_arrows_that_follow_from_others_are_left_out_and_nothing_else() -> None:
    bones = skeleton(TOY)
    assert ("D1", "D3") not in bones.arrows
    assert {("D1", "D2"), ("D2", "D3"), ("D4", "D5"), ("D8", "D9"), ("D8", "C1"), ("D3", "C1")} <= set(bones.arrows)


def test_what_hangs_together_is_a_thread_and_the_rest_stands_alone() -> None:
    bones = skeleton(TOY)
    assert bones.threads == (("D1", "D2", "D3", "D4", "D5", "D8", "D9", "D11", "C1"),)
    assert bones.alone == ("D6", "D7", "D10")


@pytest.mark.parametrize("state", FINISHED, ids=lambda s: s.planned.slug)
def test_what_the_records_call_resting_follows_from_what_they_call_using(state: State) -> None:
    """`rests_on` is computed while a chapter runs; here it is computed again, from the links alone."""
    assert state.records is not None
    every = {s["id"]: s for s in (*state.records.leaves, *state.records.steps)}

    def weak(s: dict[str, Any]) -> bool:
        links = s.get("links", [])
        sized = any(bool(part["dims"]) and part["kind"] != "numeric" for part in (s, *links))
        return s["kind"] != "defined" and (s["status"] != "proved" or sized)

    for one in state.records.steps:
        if one.get("links"):
            continue
        below, queue = set(), list(one["uses"])
        while queue:
            name = queue.pop()
            if name not in below:
                below.add(name)
                queue += every[name]["uses"]
                queue += [link["id"] for link in every[name].get("links", [])]
        found = {name for name in below if weak(every[name])}
        assert set(one["rests_on"]) <= found, one["id"]
        assert bool(one["rests_on"]) == bool(found), f"{one['id']} rests on {found}, and does not say so"


@pytest.mark.parametrize("state", FINISHED, ids=lambda s: s.planned.slug)
def test_the_pictures_and_the_list_hold_every_step_and_claim_once(state: State) -> None:
    assert state.records is not None
    assert state.chapter is not None
    text = steps_page(state, read_executed(state.chapter))
    picture = BeautifulSoup(text.split("## The same as a list")[0], "html.parser")
    names = [s["id"] for s in state.records.steps] + [c["id"] for c in state.records.claims]
    shown = [str(link["href"]).rpartition("#")[2] for link in picture.find_all("a", href=True)]
    assert sorted(shown) == sorted(names)
    rows = re.findall(r"^\| \[([DC][\w.]+)\]", text, re.MULTILINE)
    links = [link["id"] for s in state.records.steps for link in s.get("links", [])]
    assert sorted(rows) == sorted([*names, *links])


@pytest.mark.parametrize("state", FINISHED, ids=lambda s: s.planned.slug)
def test_the_arrows_say_what_the_list_says(state: State) -> None:
    """Following the arrows backwards reaches what following "uses" reaches."""
    import networkx

    assert state.records is not None
    bones = skeleton(state.records)
    drawn, listed = networkx.DiGraph(bones.arrows), networkx.DiGraph()
    listed.add_edges_from((below, node.name) for node in bones.nodes.values() for below in node.below)
    assert set(drawn) == set(listed)
    for name in listed:
        assert networkx.ancestors(drawn, name) == networkx.ancestors(listed, name)


def test_sections_are_those_under_which_a_step_is_shown() -> None:
    output = {"data": {"application/vnd.kexue.step+json": step("D1")}}
    cells = [
        {"cell_type": "markdown", "source": "# Title\n\n## 1 First\n\ntext\n\n### deeper"},
        {"cell_type": "code", "source": "", "outputs": [output]},
    ]
    assert sections_of({"cells": cells}) == {"D1": "1 First"}


def test_the_signs_are_those_of_the_chapters() -> None:
    from kexue_lib.derive.display import GLYPHS
    from kexue_lib.lab.claims import VERDICTS

    assert {kind: GLYPHS[kind] for kind in SIGNS} == SIGNS
    assert VERDICTS == VERDICT_SIGNS


# ---------------------------------------------------------------------------------------------------------------------
# Layout
# ---------------------------------------------------------------------------------------------------------------------


def drawing() -> Drawing:
    arrows = [("a", "b"), ("b", "d"), ("c", "d")]
    return lay_out(["a", "b", "c", "d"], arrows, size=(66, 28), groups={"g": ["a", "b"]})


def test_boxes_do_not_overlap_lie_inside_and_arrows_go_to_the_right() -> None:
    made = drawing()
    boxes = list(made.boxes.items())
    for k, (name, box) in enumerate(boxes):
        assert 0 <= box.x <= made.width - box.width
        assert 0 <= box.y <= made.height - box.height
        for other, that in boxes[k + 1 :]:
            apart = abs(box.x - that.x) >= box.width or abs(box.y - that.y) >= box.height
            assert apart, f"{name} lies on {other}"
    for tail, head, path in made.arrows:
        assert made.boxes[tail].x < made.boxes[head].x
        end = [float(v) for v in re.findall(r"-?[\d.]+", path)[-2:]]
        assert end[0] == pytest.approx(made.boxes[head].x, abs=2), "the arrow ends at the left edge of its box"
    frame = made.frames["g"]
    for name in ("a", "b"):
        assert made.boxes[name].y - frame.y >= 18, "no room for the frame's title"


def test_the_same_graph_gives_the_same_bytes_in_another_process() -> None:
    code = (
        "from kexue_lib.book.layout import lay_out\n"
        "print(lay_out(['a', 'b', 'c', 'd'], [('a', 'b'), ('b', 'd'), ('c', 'd')], size=(66, 28), "
        "groups={'g': ['a', 'b']}))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed},
            cwd=REPOSITORY,
        )  # fmt: skip
        assert done.stdout.strip() == str(drawing())


def test_a_picture_is_well_formed_and_escapes_what_it_is_given() -> None:
    from xml.dom.minidom import parseString

    faces = {name: Face("kx-is-proved", f'<{name} & "x">', name, f"p.html#{name}", says="$a<b$") for name in "abcd"}
    text = svg(drawing(), faces, name="t", label="a & b", titles={"g": "R & D"})
    parseString(text)
    assert text.count("<a ") == 4
    assert "\n\n" not in text, "an empty line would end the piece of HTML in Markdown"


# ---------------------------------------------------------------------------------------------------------------------
# The map of the chapters
# ---------------------------------------------------------------------------------------------------------------------


def test_the_map_shows_all_chapters_and_links_those_that_are_there() -> None:
    page = BeautifulSoup(map_page(PROJECT).split("## The same as a list")[0], "html.parser")
    nodes = page.select("[data-node]")
    assert {str(n["data-node"]) for n in nodes} == {planned.slug for planned in read_plan(PROJECT)}
    linked = {str(n["data-node"]) for n in nodes if n.name == "a"}
    assert linked == {state.planned.slug for state in FINISHED}


def test_the_map_draws_what_cards_and_plan_say() -> None:
    import networkx

    page = BeautifulSoup(map_page(PROJECT), "html.parser")
    drawn = networkx.DiGraph([(str(p["data-from"]), str(p["data-to"])) for p in page.select(".kx-arrow")])
    for state in states(PROJECT):
        for below in state.builds_on:
            assert below in networkx.ancestors(drawn, state.planned.slug)
    assert networkx.number_weakly_connected_components(drawn) > 1


def test_a_chapter_after_one_that_is_not_planned_is_an_error(checkout: Checkout) -> None:
    plan = checkout.project.plan
    text = plan.read_text(encoding="utf-8")
    plan.write_text(text.replace("after: [rnn-gradients]", "after: [no-such]"), encoding="utf-8")
    with pytest.raises(BookError, match="comes after no-such"):
        read_plan(checkout.project)


def test_prerequisites_in_a_circle_are_said_instead_of_drawn(checkout: Checkout) -> None:
    plan = checkout.project.plan
    text = plan.read_text(encoding="utf-8")
    entry = "slug: rnn-gradients\n"
    plan.write_text(text.replace(entry, f"{entry}        after: [linear-recurrent-unit]\n"), encoding="utf-8")
    page = map_page(checkout.project)
    assert "run in a circle" in page
    assert "<svg" not in page


def test_pages_of_steps_come_and_go_with_their_chapters(built: Checkout) -> None:
    from kexue_lib.book.pages import write_pages

    page = built.root / "book/steps/attention/entropy-invariant-softmax.md"
    assert "| [D1](../../chapters/attention/entropy-invariant-softmax.ipynb#D1) | ✓" in page.read_text(encoding="utf-8")
    built.executed().unlink()
    write_pages(built.project)
    assert not page.exists()


def test_every_standing_has_its_colours_in_both_modes() -> None:
    sheet = (Path(REPOSITORY) / "book/static/graphs.css").read_text(encoding="utf-8")
    for name in STANDINGS:
        assert sheet.count(f"--kx-{name}-bg:") == sheet.count(f"--kx-{name}-line:") == 2, name
        assert f".kx-is-{name} " in sheet

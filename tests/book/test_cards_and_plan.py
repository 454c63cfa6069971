"""The card in a chapter's head, the plan of the book, and that they agree."""

from __future__ import annotations

import pytest
from checkouts import CARDS, REPOSITORY, Checkout

from kexue_lib.book.cards import read_card
from kexue_lib.book.errors import BookError
from kexue_lib.book.plan import disagreements, read_parts, read_plan
from kexue_lib.book.project import PARTS, Project


def test_a_card_is_read_with_part_and_slug_from_the_path(checkout: Checkout) -> None:
    card = read_card(checkout.chapter("x = 1"))
    assert (card.part, card.slug, card.archive) == ("attention", "entropy-invariant-softmax", 9034)
    assert card.date == "2022-04-11"
    assert card.url == "https://kexue.fm/archives/9034"
    assert card.minutes == {"quick": 1, "full": 30}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("archive: 9034", "archive: nine", "kexue.archive"),
        ("date: 2022-04-11", "date: April 2022", "kexue.date"),
        ("minutes: {quick: 1, full: 30}", "minutes: {quick: 0, full: 30}", "kexue.minutes.quick"),
        ("minutes: {quick: 1, full: 30}", "minutes: {quick: 1}", "'full' is a required property"),
        ("prerequisites: []", "prerequisites: [Not A Slug]", "kexue.prerequisites.0"),
        ("prerequisites: []", "prerequisite: []", "'prerequisite' was unexpected"),
        ("title_zh: ", "title_zh: [", "no YAML"),
        ("#   kexue:", "#   kexu:", "no card"),
        ("# ---\n# jupyter", "# jupyter", "line 1 is none"),
    ],
)
def test_a_wrong_card_is_an_error_that_names_file_and_field(checkout: Checkout, old: str, new: str, said: str) -> None:
    path = checkout.chapter("x = 1")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BookError, match=r"notebooks/attention/entropy-invariant-softmax\.py") as caught:
        read_card(path)
    assert said in str(caught.value)


def test_the_plan_has_36_chapters_in_eight_parts() -> None:
    plan = read_plan(Project(REPOSITORY))
    assert len(plan) == 36
    assert [p.order for p in plan] == list(range(1, 37))
    assert tuple(p.part for p in read_parts(Project(REPOSITORY))) == PARTS
    assert [p.part for p in plan] == sorted((p.part for p in plan), key=PARTS.index)
    assert plan[0].url == "https://kexue.fm/archives/9034"


def test_every_chapter_of_this_checkout_agrees_with_the_plan() -> None:
    project = Project(REPOSITORY)
    plan = read_plan(project)
    assert [line for c in project.chapters for line in disagreements(read_card(c.source), plan)] == []


def test_a_card_that_disagrees_with_the_plan_is_told_field_by_field(checkout: Checkout) -> None:
    path = checkout.chapter("x = 1")
    path.write_text(path.read_text(encoding="utf-8").replace("9034", "9035"), encoding="utf-8")
    assert disagreements(read_card(path), read_plan(checkout.project)) == [
        "attention/entropy-invariant-softmax: archive is 9035 in the card and 9034 in book/plan.yml."
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("archive: 9019", "archive: 9034", "same slug or archive id"),
        ("part: gated", "part: gates", "unknown part gates"),
        ("slug: gau-warmup", "slog: gau-warmup", "slog"),
        ("parts:", "partes:", "not the expected form"),
    ],
)
def test_a_wrong_plan_is_an_error(checkout: Checkout, old: str, new: str, said: str) -> None:
    text = checkout.project.plan.read_text(encoding="utf-8")
    checkout.project.plan.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BookError, match=said):
        read_plan(checkout.project)


def test_chapters_are_listed_in_the_order_of_the_plan(checkout: Checkout) -> None:
    for slug in reversed(CARDS):
        checkout.chapter("x = 1", slug=slug)
    assert [c.slug for c in checkout.project.chapters] == list(CARDS)


def test_an_unknown_chapter_is_an_error_with_the_closest_names(checkout: Checkout) -> None:
    checkout.chapter("x = 1")
    with pytest.raises(BookError, match=r"no chapter 'entropy-invariant-sofmax'. Did you mean attention/entropy-inv"):
        checkout.project.chapter("entropy-invariant-sofmax")
    for name in ("entropy-invariant-softmax", "attention/entropy-invariant-softmax",
                 "notebooks/attention/entropy-invariant-softmax.py"):  # fmt: skip
        assert checkout.project.chapter(name).slug == "entropy-invariant-softmax"


def test_a_source_outside_the_parts_is_an_error(checkout: Checkout) -> None:
    checkout.write("notebooks/elsewhere/a.py", "")
    with pytest.raises(BookError, match="lies in no part"):
        _ = checkout.project.chapters

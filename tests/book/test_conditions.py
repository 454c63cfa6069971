"""Which chapters are not what their pages would seem to say."""

from __future__ import annotations

import contextlib
import json
import os
import re

import pytest
from checkouts import Checkout

from kexue_lib.book.chapter_head import not_built_notebook, run_banner, with_head
from kexue_lib.book.conditions import NOT_BUILT, STALE, Condition, conditions, day_of, forget_failure, note_failure
from kexue_lib.book.config import read_config
from kexue_lib.book.ledger import ledger
from kexue_lib.book.report import Failure
from kexue_lib.book.staleness import file_hash, reasons
from kexue_lib.book.states import states
from kexue_lib.book.vacancies import filled_vacancies, page_title

NAME = "attention/entropy-invariant-softmax"


def of(checkout: Checkout) -> dict[str, Condition]:
    return conditions(checkout.project, read_config(checkout.project))


def fail(checkout: Checkout) -> None:
    """Note a failure of the chapter as it is."""
    (chapter,) = checkout.project.chapters
    failed = Failure(
        NAME, "failed", "ZeroDivisionError: division by zero", 5, "notebooks/x.py:9", "\x1b[31m1 / 0\x1b[0m"
    )
    note_failure(checkout.project, chapter, failed, file_hash(chapter.source), checkout.root / "_build" / "tmp")


def test_a_fresh_chapter_has_no_condition(built: Checkout) -> None:
    assert of(built) == {}


def test_a_changed_library_makes_a_chapter_stale_since_the_day_of_its_notebook(built: Checkout) -> None:
    built.write("kexue_lib/alpha.py", "VALUE = 3\n")
    os.utime(built.executed(), (1.6e9, 1.6e9))
    condition = of(built)[NAME]
    assert condition == Condition(STALE, ("kexue_lib/alpha.py has changed",), since="2020-09-13")


def test_the_day_of_a_file_is_that_of_its_last_commit_unless_it_was_changed(built: Checkout) -> None:
    os.utime(built.executed(), (1.6e9, 1.6e9))
    assert day_of(built.executed()) == "2020-09-13"
    built.git("init", "-q")
    built.git("add", ".")
    built.git("commit", "-qm", "x", "--date", "2021-01-02T12:00:00")
    committed = built.git("log", "-1", "--format=%cs").strip()
    assert day_of(built.executed()) == committed
    text = built.executed().read_text(encoding="utf-8")
    built.executed().write_text(text + "\n", encoding="utf-8")
    os.utime(built.executed(), (1.6e9, 1.6e9))
    assert day_of(built.executed()) == "2020-09-13"


def test_a_chapter_that_failed_is_not_built_though_an_old_notebook_is_there(built: Checkout) -> None:
    built.write("kexue_lib/alpha.py", "VALUE = 3\n")
    fail(built)
    condition = of(built)[NAME]
    assert condition.state == NOT_BUILT
    assert condition.why == ("failed: ZeroDivisionError: division by zero",)
    assert condition.place == "cell 5 (notebooks/x.py:9)"
    assert condition.traceback == "1 / 0"
    assert f"[{NAME}" not in ledger(built.project)
    (state,) = [s for s in states(built.project) if s.planned.name == NAME]
    assert state.records is None
    assert state.condition == condition


def test_a_failure_is_forgotten_when_the_source_changes_or_the_chapter_runs(built: Checkout) -> None:
    fail(built)
    assert of(built) == {}, "the notebook is fresh: what failed has been undone"
    built.write("kexue_lib/alpha.py", "VALUE = 3\n")
    assert of(built)[NAME].state == NOT_BUILT
    (chapter,) = built.project.chapters
    source = chapter.source.read_text(encoding="utf-8")
    chapter.source.write_text(source + "\n# %%\nz = 1\n", encoding="utf-8")
    assert of(built)[NAME].state == STALE
    chapter.source.write_text(source, encoding="utf-8")
    assert of(built)[NAME].state == NOT_BUILT
    forget_failure(built.project, chapter)
    assert of(built)[NAME].state == STALE


@pytest.mark.parametrize("content", [None, "{", '{"cells": [], "metadata": {}}'])
def test_without_a_readable_notebook_a_chapter_is_not_built(built: Checkout, content: str | None) -> None:
    built.executed().unlink()
    if content is not None:
        built.executed().write_text(content, encoding="utf-8")
    assert of(built)[NAME].state == NOT_BUILT


def test_a_vacancy_is_filled_while_the_book_is_made_and_counts_as_never_executed(built: Checkout) -> None:
    (chapter,) = built.project.chapters
    there = built.executed().read_bytes()
    with filled_vacancies(built.project, [NAME]):
        assert built.executed().read_bytes() == there, "a notebook that can be read stays"
    built.executed().unlink()
    with contextlib.suppress(KeyboardInterrupt), filled_vacancies(built.project, [NAME]):
        assert reasons(chapter, built.project, read_config(built.project)) == ["it has no record of a run"]
        assert of(built)[NAME].state == NOT_BUILT  # should the build be killed here
        assert page_title(chapter) in built.executed().read_text(encoding="utf-8")
        raise KeyboardInterrupt
    assert not built.executed().exists()
    built.executed().write_bytes(b"{")
    with filled_vacancies(built.project, [NAME]):
        json.loads(built.executed().read_text(encoding="utf-8"))
    assert built.executed().read_bytes() == b"{"


# ---------------------------------------------------------------------------------------------------------------------
# What a page's head says
# ---------------------------------------------------------------------------------------------------------------------

CARD = {"minutes": {"quick": 1, "full": 30}}


def test_the_banner_has_the_minutes_of_the_card_and_links_that_fit_the_page() -> None:
    run = {"parameters": {"scale": "quick"}}
    banner = run_banner("book/chapters/a/b", {"minutes": {"quick": 0.5, "full": 12}}, run)
    assert "about 0.5 minutes on one CPU core" in banner
    assert "about 12 minutes on one GPU" in banner
    assert 'href="../../../_sources/book/chapters/a/b.ipynb" download' in banner
    assert 'href="../../../book/run-it-yourself.html"' in banner
    assert "colab" not in banner.lower()
    shown = run_banner("book/chapters/a/b", CARD, run, "https://colab.research.google.com/github/a/b/blob/main/")
    assert 'href="https://colab.research.google.com/github/a/b/blob/main/book/chapters/a/b.ipynb"' in shown


def test_the_head_comes_after_the_note_on_the_post_and_loses_nothing() -> None:
    source = "# Title\n\n*Subtitle*\n\n> **Post** one\n> two\n\n**The question.** Why?\n\n> a quote later\n"
    cells = [{"cell_type": "markdown", "source": source}, {"cell_type": "code", "source": "x"}]
    stale = {"state": STALE, "why": ["kexue_lib/lab/__init__.py has changed"], "since": "2026-01-02"}
    made = with_head({"cells": cells, "metadata": {}}, "<div>run</div>", stale)
    text = made["cells"][0]["source"]
    order = [
        "# Title",
        "Stale",
        "2026-01-02",
        "*Subtitle*",
        "> two",
        "<div>run</div>",
        "**The question.**",
        "> a quote later",
    ]
    assert [text.index(piece) for piece in order] == sorted(text.index(piece) for piece in order)
    assert r"\_\_init\_\_" in text, "not bold"
    assert made["cells"][1:] == cells[1:]
    for line in source.splitlines():
        assert line in text
    plain = with_head({"cells": [{**cells[0], "source": "# Title\n\nText."}], "metadata": {}}, "<div>run</div>")
    assert plain["cells"][0]["source"] == "# Title\n\n<div>run</div>\n\nText."


def test_a_page_that_is_not_built_says_where_and_why_whatever_the_traceback_holds() -> None:
    traceback = "a\n```\nb $x$ |"
    condition = Condition(NOT_BUILT, ("Error: x",), failed=True, place="cell 5 (x.py:9)", traceback=traceback).as_data()
    (cell,) = not_built_notebook({"cells": [], "metadata": {}}, "Title", condition, "slug")["cells"]
    text = cell["source"]
    assert text.startswith("# Title\n")
    for wanted in ("Not built", "cell 5 (x.py:9)", "Error: x", "b $x$ |", "kexue build slug"):
        assert wanted in text
    assert re.search(r"^````text\na\n```\nb", text, re.MULTILINE), "the fence is longer than what it holds"

"""The guard refuses notebooks that were not executed as they stand; staleness is a matter of content."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.config import read_config
from kexue_lib.book.errors import BookError
from kexue_lib.book.guard import _displays, guard
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.pins import read_pins, refuse_other_versions
from kexue_lib.book.project import Project
from kexue_lib.book.staleness import reasons


def look(checkout: Checkout) -> tuple[list[str], list[str]]:
    """What guard and staleness say of the chapter."""
    chapter, config = checkout.project.chapters[0], read_config(checkout.project)
    return guard(chapter, config), reasons(chapter, checkout.project, config)


def change(checkout: Checkout, edit: Callable[[dict[str, Any]], None]) -> list[str]:
    """Change the executed notebook; what the guard says then."""
    path = checkout.executed()
    notebook = json.loads(path.read_text(encoding="utf-8"))
    edit(notebook)
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return look(checkout)[0]


def test_a_built_chapter_passes_and_is_fresh(built: Checkout) -> None:
    assert look(built) == ([], [])


def test_a_notebook_that_was_never_executed_fails(built: Checkout) -> None:
    def unrun(notebook: dict[str, Any]) -> None:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell.update(execution_count=None, outputs=[])

    problems = change(built, unrun)
    assert len(problems) == 6
    assert "cell 2 (notebooks/attention/entropy-invariant-softmax.py:18): it was never executed" in problems[0]


def code(notebook: dict[str, Any], index: int) -> dict[str, Any]:
    return [c for c in notebook["cells"] if c["cell_type"] == "code"][index]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda n: code(n, 2).update(execution_count=7), "out of order (its count is 7, expected 3)"),
        (lambda n: code(n, 1).update(execution_count=None), "never executed"),
        (lambda n: code(n, 4).update(outputs=[]), "has no output"),
        (
            lambda n: code(n, 1)["outputs"].append(
                {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
            ),
            "its output is an error",
        ),
        (lambda n: code(n, 2).update(source="x = 1"), "is not the one that the source converts to"),
        (lambda n: code(n, 2)["metadata"].update(tags=["hide-input"]), "is not the one that the source converts to"),
        (lambda n: n["cells"].pop(), "the source has 8"),
        (lambda n: n["metadata"]["kexue"].update(archive=1), "its card is not the one in the source"),
        (lambda n: n["metadata"]["kexue"]["run"].update(source="0"), "was not made from"),
        (lambda n: n["metadata"].pop("kexue"), "its card is not"),
    ],
)
def test_a_notebook_that_was_tampered_with_fails(
    built: Checkout, edit: Callable[[dict[str, Any]], None], said: str
) -> None:
    problems = change(built, edit)
    assert problems
    assert any(said in p and "kexue build" in p for p in problems)


@pytest.mark.parametrize(
    ("source", "shows"),
    [
        ("D1", True),
        ("x = 1\nprint(x)\ny = 2", True),
        ("display(x)", True),
        ("d.steps['D1']", True),
        ("D1;", False),
        ("claims.register('C1')", False),
        ("x = 1", False),
        ("if x:\n    print(x)", False),
        ("'a remark'", False),
        ("%pip --version", False),
        ("", False),
    ],
)
def test_cells_that_surely_show_something(source: str, shows: bool) -> None:
    assert _displays(source) is shows


def test_a_changed_source_fails_the_guard_and_is_stale(built: Checkout) -> None:
    source = built.project.chapters[0].source
    source.write_text(source.read_text(encoding="utf-8") + "\n# %%\nx = 1\n", encoding="utf-8")
    problems, why = look(built)
    assert any("it was not made from" in p for p in problems)
    assert why == ["the source has changed"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": [1], "metadata": {}}', b"\xff\xfe\x00".decode("latin1")])
def test_a_corrupt_notebook_is_an_error_that_says_how_to_make_it_anew(built: Checkout, content: str) -> None:
    built.executed().write_bytes(content.encode("latin1"))
    problems, why = look(built)
    for (said,) in (problems, why):
        assert "is corrupt" in said
        assert "kexue build entropy-invariant-softmax" in said
    with pytest.raises(BookError, match="is corrupt"):
        read_executed(built.project.chapters[0])


def test_a_missing_notebook_is_stale(built: Checkout) -> None:
    built.executed().unlink()
    problems, why = look(built)
    assert "is missing" in problems[0]
    assert "is missing" in why[0]


def test_the_library_files_that_the_run_loaded_matter_and_no_others(built: Checkout) -> None:
    run = read_executed(built.project.chapters[0])["metadata"]["kexue"]["run"]
    assert "kexue_lib/alpha.py" in run["library"]
    assert "kexue_lib/beta.py" not in run["library"]
    built.write("kexue_lib/beta.py", "VALUE = 3\n")
    built.write("kexue_lib/alpha.py", "VALUE = 1\n")  # the same content, another time
    assert look(built) == ([], [])
    built.write("kexue_lib/alpha.py", "VALUE = 3\n")
    assert look(built) == ([], ["kexue_lib/alpha.py has changed"])
    (built.root / "kexue_lib" / "alpha.py").unlink()
    assert look(built) == ([], ["kexue_lib/alpha.py is gone"])


def test_a_pin_of_a_loaded_distribution_matters_and_no_other(built: Checkout) -> None:
    run = read_executed(built.project.chapters[0])["metadata"]["kexue"]["run"]
    assert list(run["packages"]) == ["tqdm"]
    built.write("requirements.txt", f"tqdm=={run['packages']['tqdm']}\nclick==0.0.2\n")
    assert look(built) == ([], [])
    built.write("requirements.txt", "tqdm==0.1\n")
    assert look(built)[1] == [f"it was made with tqdm {run['packages']['tqdm']}, pinned is 0.1"]


def test_another_address_makes_the_setup_cell_stale(built: Checkout) -> None:
    text = built.project.config.read_text(encoding="utf-8")
    built.project.config.write_text(text.replace("example.org/", "github.com/a/"), encoding="utf-8")
    assert look(built)[1] == ["the setup cell has changed (the repository's address, or the pipeline)"]


def test_the_record_of_the_run_names_no_place_and_no_time(built: Checkout) -> None:
    text = built.executed().read_text(encoding="utf-8")
    assert str(built.root) not in text
    assert "papermill" not in text
    assert "T0" not in json.dumps(json.loads(text)["metadata"])
    run = json.loads(text)["metadata"]["kexue"]["run"]
    assert set(run) == {"source", "library", "packages", "parameters"}
    assert run["parameters"] == {"scale": "quick", "seed": 0, "device": "auto"}


def test_pins_are_exact_and_another_installed_version_is_an_error(built: Checkout) -> None:
    built.write("requirements.txt", "Numpy==0.0.1\nruff==0.0.1  # no chapter needs it\n")
    with pytest.raises(BookError, match=r"numpy: installed [\d.]+, pinned 0\.0\.1\. Install the pins"):
        refuse_other_versions(built.project)
    built.write("requirements.txt", "numpy>=1\n")
    with pytest.raises(BookError, match=r"requirements\.txt:1: expected an exact pin"):
        read_pins(built.project)


def test_the_pins_of_this_checkout_are_those_installed() -> None:
    pins = read_pins(Project(REPOSITORY))
    assert {"torch", "numpy", "sympy", "papermill", "jupyter-book"} <= set(pins)
    refuse_other_versions(Project(REPOSITORY))

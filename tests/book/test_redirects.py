"""The table of pages that have moved."""

from __future__ import annotations

import pytest
from checkouts import PAGE, REPOSITORY, Checkout

from kexue_lib.book.errors import BookError
from kexue_lib.book.project import Project
from kexue_lib.book.redirects import read_redirects, redirect_problems, sphinx_options

TOC = f"format: jb-book\nroot: book/index\nchapters:\n- file: {PAGE}\n"


def test_the_books_own_table_is_in_order() -> None:
    assert redirect_problems(Project(REPOSITORY)) == []
    assert isinstance(read_redirects(Project(REPOSITORY)), dict)


def test_targets_are_relative_to_the_old_page(checkout: Checkout) -> None:
    assert sphinx_options(checkout.project) == {}
    checkout.write("book/redirects.yml", f"book/chapters/old/name: {PAGE}\nfront: book/index\n")
    assert sphinx_options(checkout.project)["redirects"] == {
        "book/chapters/old/name": "../attention/entropy-invariant-softmax.html",
        "front": "book/index.html",
    }


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (f"book/index: {PAGE}", "book/index is a page of the book"),
        ("book/a: book/nowhere", "leads to book/nowhere, which is not in _toc.yml"),
        ("book/a: book/b\nbook/b: book/index", "book/b, which has moved too: name book/index"),
        ("- book/a", "expected lines `old page: new page`"),
        ("book/a: [", "is no YAML"),
    ],
)
def test_a_table_that_leads_nowhere_is_a_problem(checkout: Checkout, table: str, said: str) -> None:
    checkout.write("_toc.yml", TOC)
    checkout.write("book/redirects.yml", f"{table}\n")
    (problem,) = redirect_problems(checkout.project)
    assert said in problem
    if "expected" in said or "YAML" in said:
        with pytest.raises(BookError, match=r"book/redirects\.yml"):
            read_redirects(checkout.project)

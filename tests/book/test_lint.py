"""What the lint refuses, and what it lets pass."""

from __future__ import annotations

import pytest
from checkouts import REPOSITORY, Checkout

from kexue_lib.book.lint import lint, markup, matrix_calculus
from kexue_lib.book.project import Project


@pytest.mark.parametrize(
    "code",
    [
        "A = sp.MatrixSymbol('A', 2, 2)\nsp.diff(sp.log(sp.Determinant(A)), A)",
        "A = MatrixSymbol('A', 2, 2)\nsp.Trace(A.T * A).diff(A)",
        "A, B = sp.MatrixSymbol('A', 2, 2), 1\nf.diff(A)",
        "A, B = sp.symbols('A B', cls=sp.MatrixSymbol)\nDerivative(f, B)",
        "A: object = sp.MatrixSymbol('A', 2, 2)\nA.diff(t)",
    ],
)
def test_derivatives_of_matrix_expressions_are_refused(checkout: Checkout, code: str) -> None:
    path = checkout.write("kexue_lib/gamma.py", f"import sympy as sp\n{code}\n")
    (problem,) = matrix_calculus(path, "kexue_lib/gamma.py")
    assert problem.startswith("kexue_lib/gamma.py:3: a derivative with the matrix symbol")
    assert problem in lint(checkout.project)


@pytest.mark.parametrize(
    "code",
    [
        "A = sp.MatrixSymbol('A', 2, 2).as_explicit()\nsp.diff(A.det(), A[0, 0])",
        "A = sp.MatrixSymbol('A', 2, 2)\nsp.diff(sp.Matrix(A).det(), A[0, 0])",
        "x = sp.Symbol('x')\nsp.diff(x**2, x)",
        "A = sp.MatrixSymbol('A', 2, 2)\nsp.Trace(A)",
    ],
)
def test_components_are_welcome(checkout: Checkout, code: str) -> None:
    assert matrix_calculus(checkout.write("kexue_lib/gamma.py", f"import sympy as sp\n{code}\n"), "g") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("See {doc}`other`.", "MyST role"),
        ("```{note}\nx\n```", "MyST directive"),
        (":::{note}\nx\n:::", "MyST directive"),
        ("(a-target)=", "MyST target"),
        ("So\n\n$$ x = 1 $$", "displayed equation"),
        (r"\[ x = 1 \]", "displayed equation"),
        (r"\begin{align} x \end{align}", "displayed equation"),
    ],
)
def test_markup_that_only_the_book_reads_is_refused_with_its_line(checkout: Checkout, text: str, said: str) -> None:
    path = checkout.chapter(f"[markdown]\n{text}")
    problems = markup(checkout.project.chapters[0])
    assert problems
    assert said in problems[0]
    number = int(problems[0].split(":")[1])
    assert path.read_text(encoding="utf-8").splitlines()[number - 1][2:] in text.splitlines()


@pytest.mark.parametrize(
    "text",
    ["Inline $x = 1$ and `{name}` and `$$`.", "```python\nx = '$$'\n```", '<a id="D1"></a> [(D1)](#D1)', r"$\{a\}$"],
)
def test_plain_markdown_passes(checkout: Checkout, text: str) -> None:
    checkout.chapter(f"[markdown]\n{text}")
    assert markup(checkout.project.chapters[0]) == []


def test_this_checkout_is_clean() -> None:
    assert lint(Project(REPOSITORY)) == []

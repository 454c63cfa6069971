"""What a chapter's text and the library must not hold: calculus that SymPy gets wrong, markup that only the book reads.

- SymPy's calculus of matrix expressions returns wrong zeros without a word (``diff(log(Determinant(A)), A)`` gives 0 in
  1.14). Any derivative that involves a name bound to ``MatrixSymbol(...)`` is refused; components
  (``A.as_explicit()``, ``Matrix(A)``, ``A[0, 0]``) are welcome.
- MyST roles and directives show raw in Jupyter and Colab.
- A displayed equation in static LaTeX is an equation that nothing checks: make it a step.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from kexue_lib.book.convert import cell_lines
from kexue_lib.book.project import Chapter, Project

_DERIVATIVES = frozenset({"diff", "Derivative", "idiff", "derive_by_array"})
_EXPLICIT = frozenset({"as_explicit", "Matrix", "ImmutableMatrix", "as_mutable"})

_MARKUP = (
    (re.compile(r"(?<![\\`\w])\{[A-Za-z][\w:.+-]*\}`[^`]"), "a MyST role ({name}`…`) shows raw in Jupyter and Colab"),
    (re.compile(r"^\s*(`{3,}|~{3,}|:{3,})\{"), "a MyST directive shows raw in Jupyter and Colab"),
    (re.compile(r"^\s*:::+"), "a MyST colon fence shows raw in Jupyter and Colab"),
    (re.compile(r"^\s*\([\w:.-]+\)=\s*$"), 'a MyST target shows raw in Jupyter and Colab; use <a id="…"></a>'),
    (
        re.compile(r"\$\$"),
        "a displayed equation in static LaTeX is checked by nothing: make it a step of the derivation",
    ),
    (
        re.compile(r"\\\["),
        "a displayed equation in static LaTeX is checked by nothing: make it a step of the derivation",
    ),
    (
        re.compile(r"\\begin\{(equation|align|gather|multline|eqnarray|alignat)\*?\}"),
        "a displayed equation in static LaTeX is checked by nothing: make it a step of the derivation",
    ),
)


def lint(project: Project) -> list[str]:
    """What is wrong in the chapters' sources and in ``kexue_lib``, as ``file:line: what``."""
    found = []
    for chapter in project.chapters:
        found += matrix_calculus(chapter.source, chapter.source_name)
        found += markup(chapter)
    base = project.library
    for path in sorted((base / "kexue_lib").rglob("*.py")):
        found += matrix_calculus(path, path.relative_to(base).as_posix())
    return found


def matrix_calculus(path: Path, name: str) -> list[str]:
    """Derivatives of matrix expressions in a Python file."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        return [f"{name}:{error.lineno}: not Python: {error.msg}"]
    symbols = _matrix_symbols(tree)
    return [
        f"{name}:{node.lineno}: a derivative with the matrix symbol {used}: SymPy's matrix calculus gives wrong zeros. "
        f"Use explicit components ({used}.as_explicit()) or the directional derivative d/dε f({used} + εH) at ε = 0."
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _called(node) in _DERIVATIVES and (used := _first_used(node, symbols))
    ]


def markup(chapter: Chapter) -> list[str]:
    """Markup in a chapter's Markdown cells that Jupyter or Colab would show raw, and unchecked displayed equations."""
    found = []
    for start, lines in markdown_cells(chapter.source.read_text(encoding="utf-8")):
        fence = ""
        for offset, line in enumerate(lines):
            opening = re.match(r"^\s*(`{3,}|~{3,})(?!\{)", line)
            if opening and (not fence or line.strip().startswith(fence)):
                fence = "" if fence else opening[1]
                continue
            if fence:
                continue
            bare = re.sub(r"(?<!\})(`+)(?!`).+?(?<!`)\1(?!`)", "", line)
            problem = next((what for pattern, what in _MARKUP if pattern.search(bare)), None)
            if problem:
                found.append(f"{chapter.source_name}:{start + offset}: {problem}.")
    return found


def markdown_cells(text: str) -> list[tuple[int, list[str]]]:
    """The Markdown cells of a py:percent source: the line on which each starts, and its lines without the ``#``."""
    lines = text.splitlines()
    starts = cell_lines(text)
    found = []
    for start, following in zip(starts, [*starts[1:], len(lines) + 2], strict=True):
        header = lines[start - 2] if start >= 2 else ""
        if re.match(r"# ?%%.*\[(markdown|md)\]", header):
            body = [re.sub(r"^# ?", "", line) for line in lines[start - 1 : following - 2]]
            found.append((start, body))
    return found


def _matrix_symbols(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            targets, value = [node.target], node.value
        for target in targets:
            if value is not None:
                found |= _bound(target, value)
    return found


def _bound(target: ast.expr, value: ast.expr) -> set[str]:
    if isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts):
            return {name for t, v in zip(target.elts, value.elts, strict=True) for name in _bound(t, v)}
        names = {t.id for t in target.elts if isinstance(t, ast.Name)}
        made = any(isinstance(n, ast.Call) and _makes_matrix_symbols(n) for n in ast.walk(value))
        return names if made else set()
    if isinstance(target, ast.Name) and isinstance(value, ast.Call) and _makes_matrix_symbols(value):
        return {target.id}
    return set()


def _makes_matrix_symbols(call: ast.Call) -> bool:
    if _called(call) == "MatrixSymbol":
        return True
    return any(
        keyword.arg == "cls" and ast.unparse(keyword.value).rpartition(".")[2] == "MatrixSymbol"
        for keyword in call.keywords
    )


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2] if not isinstance(call.func, ast.Attribute) else call.func.attr


def _first_used(node: ast.AST, symbols: set[str]) -> str | None:
    """The first matrix symbol in an expression that is not taken apart into components."""
    if isinstance(node, ast.Subscript):
        return _first_used(node.slice, symbols)
    if isinstance(node, ast.Call) and _called(node) in _EXPLICIT:
        return None
    if isinstance(node, ast.Name):
        return node.id if node.id in symbols else None
    return next((used for child in ast.iter_child_nodes(node) if (used := _first_used(child, symbols))), None)

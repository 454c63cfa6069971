"""How a step looks: numbered LaTeX with a badge in notebooks and in the book, one line in a terminal.

The Markdown uses only what the book, Jupyter and Colab render alike: ``$$…\\tag{D3}$$``, emphasis, links, an anchor and
a ``span`` whose class only adds colour.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

if TYPE_CHECKING:
    from .relations import Relation
    from .steps import Step

STEP_MIME = "application/vnd.kexue.step+json"

GLYPHS = {
    "exact": "✓",
    "limit": "✓",
    "series": "✓",
    "numeric": "○",
    "defined": "≔",
    "assumed": "△",
    "cited": "❝",
    "chain": "✓",
}


class _Latex(LatexPrinter):
    """SymPy's LaTeX with the habits of this book: s_i without braces, e^x, names of functions upright."""

    def __init__(self) -> None:
        super().__init__({"inv_trig_style": "full", "fold_func_brackets": False})

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> list[Any]:
        # "log n - x" reads better than "-x + log n"
        terms: list[Any] = super()._as_ordered_terms(expr, order)
        return sorted(terms, key=lambda term: term.could_extract_minus_sign())

    def _print_Indexed(self, expr: Any) -> str:
        base, indices = self._print(expr.base.label), ",".join(self._print(i) for i in expr.indices)
        if subscript := re.fullmatch(r"(.*)_\{(.*)\}", base):  # a second subscript joins the first: TeX refuses two
            base, indices = subscript[1], f"{subscript[2]},{indices}"
        return f"{base}_{{{indices}}}"

    def _print_Dummy(self, expr: Any) -> str:
        return str(self._print_Symbol(sp.Symbol(expr.name)))

    def _print_besseli(self, expr: Any, exp: Any = None) -> str:
        order, at = (self._print(a) for a in expr.args)
        power = f"^{{{exp}}}" if exp is not None else ""
        return rf"I_{{{order}}}{power}\left({at}\right)"

    def _print_polygamma(self, expr: Any, exp: Any = None) -> str:
        order, at = expr.args
        power = f"^{{{exp}}}" if exp is not None else ""
        name = r"\psi" if order == 0 else rf"\psi^{{({self._print(order)})}}"
        return rf"{name}{power}\left({self._print(at)}\right)"


def latex(expr: sp.Basic) -> str:
    """LaTeX of an expression."""
    return str(_Latex().doprint(expr))


def latex_relation(relation: Relation) -> str:
    """LaTeX of a relation."""
    tail = ""
    if relation.towards:
        x, to = (latex(part) for part in relation.towards)
        tail = rf" \qquad \left({x} \to {to}\right)"
    return f"{latex(relation.lhs)} {relation.latex_sign()} {latex(relation.rhs)}{tail}"


def anchor(step_id: str) -> str:
    """The anchor of a step on its page; it stays for good."""
    return f'<a id="{step_id}"></a>'


def _sizes(step: Step) -> str:
    sizes = step.record()["dims"]
    return ", ".join(f"${name} = {','.join(map(str, v))}$" for name, v in sizes.items())


def badge(step: Step) -> str:
    """Glyph and kind, e.g. ``✓ exact``."""
    kind = step.kind
    return f"{GLYPHS[kind]} {kind}"


def _badge_markdown(step: Step) -> str:
    return f'<span class="kx-badge kx-{step.kind} kx-{step.status}">**{badge(step)}**</span>'


def _remarks(step: Step, markdown: bool = True) -> list[str]:
    """What stands beside the badge: reason, method, steps used (not the names unfolded), steps that it rests on."""

    def named(ids: Sequence[str]) -> str:
        return ", ".join(f"[{k}](#{k})" if markdown else k for k in ids)

    strong, slanted = ("**", "*") if markdown else ("", "")
    remarks = [step.by] if step.by else []
    if step.finding.method:
        remarks.append(f"{slanted}{step.finding.method}{slanted}")
    sizes = _sizes(step)
    if sizes:
        remarks.append(f"written out for {sizes}" if step.kind == "exact" else f"for {sizes}")
    used = [k for k in step.uses if k not in step.unfolds]
    if used:
        remarks.append("uses " + named(used))
    if step.rests_on:
        remarks.append(f"{strong}rests on {named(step.rests_on)}{strong}")
    return remarks


def markdown_step(step: Step) -> str:
    """Markdown of a step for notebooks and the book."""
    if step.links:
        return _markdown_chain(step)
    lines = [anchor(step.id), "", f"$${latex_relation(step.statement)} \\tag{{{step.id}}}$$", ""]
    return "\n".join([*lines, " · ".join([_badge_markdown(step), *_remarks(step)])])


def _markdown_chain(step: Step) -> str:
    first = step.links[0].statement
    rows = []
    for k, link in enumerate(step.links):
        left = latex(first.lhs) if k == 0 else ""
        sign, right = link.statement.latex_sign(), latex(link.statement.rhs)
        rows.append(rf"{left} &{sign} {right} && \scriptstyle\text{{{link.id}}}")
    body = " \\\\[4pt]\n".join(rows)
    anchors = "".join(anchor(link.id) for link in step.links)
    head = [anchor(step.id) + anchors, "", f"$$\\begin{{aligned}}\n{body}\n\\end{{aligned}} \\tag{{{step.id}}}$$", ""]
    if step.by:
        head += [step.by, ""]
    items = [f"- {link.id} " + " · ".join([_badge_markdown(link), *_remarks(link)]) for link in step.links]
    return "\n".join(head + items)


def text_step(step: Step) -> str:
    """One line (a chain: one for each link) for a terminal."""
    if step.links:
        return "\n".join([f"{step.id}  {step.statement}", *("  " + text_step(link) for link in step.links)])
    remarks = "; ".join(_remarks(step, markdown=False))
    return (
        f"{step.id}  {step.statement}    [{badge(step)}: {remarks}]"
        if remarks
        else f"{step.id}  {step.statement}    [{badge(step)}]"
    )

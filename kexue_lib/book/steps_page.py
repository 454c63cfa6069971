"""The page of a chapter's steps, ``book/steps/<part>/<slug>.md``: how they hang together, as pictures and as a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import Any

from kexue_lib.book.layout import lay_out
from kexue_lib.book.notebooks import text as joined
from kexue_lib.book.records import STEP
from kexue_lib.book.skeleton import STANDINGS, Node, Skeleton, skeleton
from kexue_lib.book.states import State
from kexue_lib.book.svg import Face, svg
from kexue_lib.lab.markdown import cell, table

#: The signs of evidence and of verdicts, as the chapters show them. (`kexue_lib.derive` has the first ones too, but
#: loads SymPy; a test compares.)
SIGNS = {"exact": "✓", "limit": "✓", "series": "✓", "numeric": "○", "defined": "≔", "assumed": "△", "cited": "❝"}
VERDICT_SIGNS = {"holds": "●", "partly": "◐", "fails": "○", "open": "◌"}

_SIZE = (66.0, 28.0)

_HEAD = """\
---
nosearch: true
---

# Steps: {title}

How the {steps} steps and {claims} claims of [this chapter](../../chapters/{name}.ipynb) hang together. An arrow leads
from a step to one that uses it; an arrow that follows from others is left out. The sign in a box says what evidence
the step has itself, the colour what it is worth **together with everything below it**: a proof that starts from an
assumption has the colour of the assumption. Each box leads to its line in the chapter. The
[list](#the-same-as-a-list) says the same in words.
"""


def steps_page(state: State, notebook: dict[str, Any]) -> str:
    """The text of the page.

    Args:
        state: a chapter that has been executed.
        notebook: its executed notebook, for the headings under which the steps stand.
    """
    assert state.records is not None
    bones = skeleton(state.records)
    chapter = f"../../chapters/{state.planned.name}"
    steps = sum(not node.is_claim for node in bones.nodes.values())
    sections = sections_of(notebook)
    lines = [_HEAD.format(title=state.planned.title_en, steps=steps, claims=len(state.records.claims),
                          name=state.planned.name)]  # fmt: skip
    lines += [*_legend(bones), "", "## The picture", ""]
    lines += ['<div class="kx-threads">']
    for k, thread in enumerate(bones.threads, 1):
        lines += _thread(bones, thread, f"kx-t{k}", chapter, sections)
    lines += ["</div>", ""]
    if bones.alone:
        lines += ["### Standing alone", "", "Each of these is checked, or stated, without any other step.", ""]
        lines += [f'<div class="kx-alone">{"".join(_chip(bones.nodes[n], chapter) for n in bones.alone)}</div>', ""]
    lines += ["## The same as a list", "", *_list(state, bones)]
    if state.records.claims:
        lines += ["", "## The claims", "", *_claims(state)]
    return "\n".join(lines) + "\n"


def sections_of(notebook: dict[str, Any]) -> dict[str, str]:
    """For each step the heading of second order under which the chapter shows it; none before the first one."""
    heading, found = "", {}
    for part in notebook["cells"]:
        if part["cell_type"] == "markdown":
            headings = re.findall(r"^##\s+(.+?)\s*$", joined(part["source"]), re.MULTILINE)
            heading = headings[-1] if headings else heading
        for output in part.get("outputs", []):
            record = output.get("data", {}).get(STEP)
            if record:
                found[record["id"]] = heading
    return found


def face(node: Node, chapter: str) -> Face:
    """A step's or a claim's box; ``chapter`` is the address of its page, without the ending."""
    href = f"{chapter}.html#{node.name}"
    if node.is_claim:
        sign, label = VERDICT_SIGNS[node.standing], f"Claim {node.name}: {node.standing}"
        claim = node.record["claim"]
        return Face("kx-is-claim", label, f"{sign} {node.name}", href, says=claim)
    kind, rests_on = node.record["kind"], node.record["rests_on"]
    inherited = node.own not in (node.standing, "defined")
    label = f"Step {node.name}: {kind}"
    if rests_on:
        label += f", rests on {', '.join(rests_on)}"
    elif kind not in ("defined", "assumed", "cited"):
        label += {"sizes": ", proved at the sizes written out"}.get(node.standing, f", {node.standing}")
    classes = f"kx-is-{node.standing}" + (" kx-inherited" if inherited else "")
    says = rf"$\displaystyle {node.record['latex']}$" if node.record.get("latex") else ""
    return Face(classes, label, f"{SIGNS[kind]} {node.name}", href, says=says, why=node.record["by"])


def _thread(bones: Skeleton, thread: tuple[str, ...], name: str, chapter: str, sections: dict[str, str]) -> list[str]:
    arrows = [arrow for arrow in bones.arrows if arrow[0] in thread]
    drawing = lay_out(thread, arrows, size=_SIZE)
    faces = {node: face(bones.nodes[node], chapter) for node in thread}
    label = f"{len(thread)} steps and claims that hang together: {', '.join(thread)}"
    first = next((sections[node] for node in thread if sections.get(node)), "")
    caption = [f"<figcaption>{_plain(first)}</figcaption>"] if first else []
    return [
        '<figure class="kx-thread"><div class="kx-scroll" tabindex="0" role="region" '
        f'aria-label="Picture of {escape(thread[0])} to {escape(thread[-1])}">',
        svg(drawing, faces, name=name, label=label),
        *["</div>", *caption, "</figure>"],
    ]


def _chip(node: Node, chapter: str) -> str:
    shown = face(node, chapter)
    label = escape(shown.label)
    return f'<a class="kx-chip {shown.classes}" href="{shown.href}" title="{label}">{escape(shown.text or "")}</a>'


def _legend(bones: Skeleton) -> list[str]:
    there = Counter(node.standing for node in bones.nodes.values() if not node.is_claim)
    rows = [
        f'<li><span class="kx-chip kx-is-{name}">{there[name]}</span> <span>{meaning}</span></li>'
        for name, meaning in STANDINGS.items()
        if there[name]
    ]
    if any(node.own not in (node.standing, "defined") for node in bones.nodes.values() if not node.is_claim):
        rows.append(
            '<li><span class="kx-chip kx-is-granted kx-inherited">- -</span> <span>a dashed edge: the weakness is '
            "inherited, the step's own evidence is better</span></li>"
        )
    verdicts = Counter(node.standing for node in bones.nodes.values() if node.is_claim)
    signs = ", ".join(f"{VERDICT_SIGNS[v]} {v} ({verdicts[v]})" for v in VERDICT_SIGNS if verdicts[v])
    if signs:
        rows.append(f'<li><span class="kx-chip kx-is-claim">C</span> <span>a claim: {signs}</span></li>')
    signs = ", ".join(f"{SIGNS[kind]} {kind}" for kind in SIGNS if any(
        node.record["kind"] == kind for node in bones.nodes.values() if not node.is_claim))  # fmt: skip
    rows.append(f'<li><span class="kx-chip">✓</span> <span>own evidence: {signs}</span></li>')
    return ['<ul class="kx-legend">', *rows, "</ul>"]


def _list(state: State, bones: Skeleton) -> list[str]:
    chapter = f"../../chapters/{state.planned.name}.ipynb"
    killed = state.audit.killed_by_step() if state.audit else {}
    rows = []
    for node in (node for node in bones.nodes.values() if not node.is_claim):
        links = node.record.get("links", [])
        for step in [node.record, *links]:
            evidence = f"{SIGNS[step['kind']]}\N{NO-BREAK SPACE}{step['kind']}"
            if step.get("links"):
                evidence = f"chain of {len(links)}"
            mutants = str(killed.get(step["id"], "–"))
            names = [linked(chapter, ids) for ids in ([step["id"]], step["uses"], step["rests_on"])]
            rows.append([names[0], evidence, bones.worth[step["id"]], cell(step["by"]) or "–", *names[1:], mutants])
    columns = ("step", "own evidence", "with all below", "reason", "uses", "rests on", "mutants killed")
    return [":::{div} kx-table", table(columns, rows), ":::"]


def _claims(state: State) -> list[str]:
    assert state.records is not None
    chapter = f"../../chapters/{state.planned.name}.ipynb"
    rows = [
        [
            linked(chapter, [claim["id"]]),
            cell(claim["claim"]),
            claim["kind"],
            f"{VERDICT_SIGNS[claim['verdict']]}\N{NO-BREAK SPACE}{claim['verdict']}",
            linked(chapter, claim.get("evidence", [])),
        ]
        for claim in state.records.claims
    ]
    return [":::{div} kx-table", table(("claim", "what it says", "kind", "verdict", "steps"), rows), ":::"]


def linked(page: str, ids: Iterable[str]) -> str:
    """Links to steps or claims of a page, in Markdown."""
    return ", ".join(f"[{name}]({page}#{name})" for name in ids) or "–"


def _plain(heading: str) -> str:
    """A heading as text in a caption: formulas in MathJax's own delimiters, which it finds in raw HTML too."""
    return re.sub(r"\$([^$]*)\$", r'<span class="math notranslate nohighlight">\\(\1\\)</span>', escape(heading))

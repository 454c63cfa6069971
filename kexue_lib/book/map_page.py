"""The page ``book/map.md``: all planned chapters, what builds on what, and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from kexue_lib.book.layout import lay_out
from kexue_lib.book.plan import Part, read_parts
from kexue_lib.book.project import Project
from kexue_lib.book.states import State, states
from kexue_lib.book.svg import Face, svg

_SIZE = (150.0, 62.0)

_HEAD = """\
---
html_theme.sidebar_secondary.remove: true
---

# Map

All {all} chapters of the plan. An arrow leads from a chapter to one that builds on it; an arrow that follows from
others is left out. **{done} chapters are there**: their boxes are filled and lead to them. The others are planned. The
[list](#the-same-as-a-list) says the same in words, and links the map of the steps of each finished chapter.

## The picture

"""


def map_page(project: Project) -> str:
    """The text of the page."""
    import networkx

    every = states(project)
    by_slug = {state.planned.slug: state for state in every}
    graph = networkx.DiGraph()
    graph.add_nodes_from(by_slug)
    graph.add_edges_from((below, slug) for slug, state in by_slug.items() for below in state.builds_on)
    done = sum(state.records is not None for state in every)
    lines = [_HEAD.format(all=len(every), done=done)]
    if networkx.is_directed_acyclic_graph(graph):
        order = {slug: k for k, slug in enumerate(by_slug)}
        arrows = sorted(networkx.transitive_reduction(graph).edges, key=lambda a: (order[a[0]], order[a[1]]))
        lines += _picture(by_slug, arrows, read_parts(project))
    else:
        circle = " → ".join(tail for tail, _ in networkx.find_cycle(graph))
        lines.append(f"There is no picture: the prerequisites run in a circle ({circle}).")
    lines += ["", "## The same as a list", *_list(every, by_slug, read_parts(project))]
    return "\n".join(lines) + "\n"


def _picture(by_slug: dict[str, State], arrows: Sequence[tuple[str, str]], parts: tuple[Part, ...]) -> list[str]:
    groups = {p.part: [slug for slug, s in by_slug.items() if s.planned.part == p.part] for p in parts}
    drawing = lay_out(
        list(by_slug), arrows, size=_SIZE, groups={name: g for name, g in groups.items() if g}, gaps=(10.0, 24.0)
    )
    picture = svg(
        drawing,
        {slug: _face(state) for slug, state in by_slug.items()},
        name="kx-map",
        label=f"{len(by_slug)} chapters in {len(parts)} parts",
        titles={part.part: part.title for part in parts},
    )
    scroll = '<div class="kx-scroll kx-map" tabindex="0" role="region" aria-label="Picture of the chapters">'
    return [scroll, picture, "</div>"]


def _face(state: State) -> Face:
    planned = state.planned
    title = escape(planned.title_en)
    if state.records is None:
        label = f"{planned.title_en} ({'planned' if state.chapter is None else 'being written'})"
        return Face("kx-planned", label, html=f"<div>{title}</div>")
    claims = sum(state.records.by_verdict().values())
    label = f"{planned.title_en}: {len(state.records.leaves)} steps, {claims} claims"
    return Face("kx-there", label, href=f"chapters/{planned.name}.html", html=f"<div>{title}</div>")


def _list(every: tuple[State, ...], by_slug: dict[str, State], parts: tuple[Part, ...]) -> list[str]:
    lines = []
    for part in parts:
        lines += ["", f"### {part.title}", "", part.about, ""]
        for state in every:
            if state.planned.part == part.part:
                lines.append(f"- {_entry(state, by_slug)}")
    return lines


def _entry(state: State, by_slug: dict[str, State]) -> str:
    said = [_name(state), f'<span lang="zh">{escape(state.planned.title_zh)}</span>']
    if state.builds_on:
        said.append("builds on " + "; ".join(_name(by_slug[slug]) for slug in state.builds_on))
    if state.records is None:
        said.append("planned" if state.chapter is None else "being written")
    else:
        claims = sum(state.records.by_verdict().values())
        counts = f"{len(state.records.leaves)} steps and {claims} claims"
        said.append(f"[{counts}, as a map](steps/{state.planned.name}.md)")
    return " · ".join(said)


def _name(state: State) -> str:
    title = state.planned.title_en
    return f"[{title}](chapters/{state.planned.name}.ipynb)" if state.records is not None else title

"""The map of the book, ``book/_generated/map.md``, which the cover includes: all planned chapters with their state."""

from __future__ import annotations

from kexue_lib.book.plan import read_parts
from kexue_lib.book.project import Project
from kexue_lib.book.states import State, states


def chapter_map(project: Project) -> str:
    """The text of the page: a table for each part, links relative to ``book/``."""
    every = states(project)
    done = sum(s.records is not None for s in every)
    lines = [f"{done} of {len(every)} chapters are there."]
    for part in read_parts(project):
        mine = [s for s in every if s.planned.part == part.part]
        lines += ["", f"### {part.title}", "", part.about, "", "| chapter | post | state |", "|---|---|---|"]
        lines += [_row(state) for state in mine]
    return "\n".join(lines) + "\n"


def _row(state: State) -> str:
    planned = state.planned
    title = planned.title_en
    if state.records is not None:
        title = f"[{title}](chapters/{planned.name}.ipynb)"
    post = f'[<span lang="zh">{planned.title_zh}</span>]({planned.url})<br>{planned.date}'
    return f"| {title} | {post} | {_state(state)} |"


def _state(state: State) -> str:
    if state.records is None:
        return "planned" if state.chapter is None else "being written"
    steps, verdicts = state.records.by_status(), state.records.by_verdict()
    checked = sum(steps.values()) - steps["unchecked"]
    claims = sum(verdicts.values())
    return (
        f"**there**: {checked} of {sum(steps.values())} steps checked; of {claims} claims "
        f"{verdicts['holds']} hold, {verdicts['partly']} partly, {verdicts['fails']} fail, {verdicts['open']} open"
    )

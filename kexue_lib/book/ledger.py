"""The page ``book/ledger.md``: what was checked and measured in each chapter, counted from the executed notebooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kexue_lib.book.project import Project
from kexue_lib.book.records import STATUSES, VERDICTS, Records
from kexue_lib.book.skeleton import STANDINGS, skeleton
from kexue_lib.book.sortable import sortable_table
from kexue_lib.book.states import State, states
from kexue_lib.book.steps_page import VERDICT_SIGNS, linked
from kexue_lib.lab.markdown import cell

_HEAD = """\
# Ledger

What the machine checked and measured, chapter by chapter, counted from the outputs of the executed notebooks when this
page was built. Nothing here is written by hand.
"""

_STEPS = """
## Steps

*Proved*: exactly, under the stated assumptions. *Asymptotic*: a limit or series with its rate. *Sampled*: true at every
sampled point, which is no proof. *Unchecked*: definitions, assumptions and citations. Each sign of a chain counts as a
step.
"""

_EVERY_STEP = """
### Every step

A box leads to its step. The colour says what the step is worth together with everything that it uses; each chapter's
[map of its steps](map.md) shows what rests on what.
"""

_MUTANTS = """
## Mutants

Wrong variants of the checked steps: a sign, a factor, an exponent changed. *Killed*: the step's own evidence refuses
the variant. *Equivalent*: it says the same as the step. *Implied*: it is weaker than the step and true. *Survived*: the
check would not have noticed it, a defect of the check.
"""

_CLAIMS = """
## Claims

Claims about experiments and theory: the verdict follows from rules that stand in the chapter before the measurement.
That they do not depend on the seed is shown on the page [Over seeds](seeds.md).
"""

_KINDS = ("killed", "equivalent", "implied", "survived")
_NOT_AUDITED = "not audited"


def ledger(project: Project) -> str:
    """The text of the page."""
    every = states(project)
    finished = [s for s in every if s.records is not None]
    lines = [_HEAD]
    waiting = len(every) - len(finished)
    if finished:
        lines += [f"{_chapters(len(finished))} executed; the [map](map.md) shows all {len(every)}."]
        lines += [_STEPS, *_counts(finished, STATUSES, lambda s: _records(s).by_status())]
        lines += [_EVERY_STEP, *_every_step(finished)]
        lines += [_MUTANTS, *_counts(finished, _KINDS, lambda s: s.audit.counts() if s.audit else None)]
        lines += [_CLAIMS, *_counts(finished, VERDICTS, lambda s: _records(s).by_verdict())]
        lines += ["", "### Every claim", "", *_every_claim(finished)]
    else:
        lines.append("No chapter has been executed yet.")
    if waiting:
        lines += [
            "",
            f"{_chapters(waiting)} of the {len(every)} planned ones are not there yet; the [map](map.md) lists them.",
        ]
    return "\n".join(lines) + "\n"


def _counts(
    finished: list[State], columns: Sequence[str], count: Callable[[State], dict[str, int] | None]
) -> list[str]:
    """A table with a row for each chapter, the sum of its numbers, and the totals."""
    rows, totals = [], dict.fromkeys(columns, 0)
    for state in finished:
        counts = count(state)
        numbers = [_NOT_AUDITED] * (len(columns) + 1)
        if counts is not None:
            numbers = [str(counts[column]) for column in columns]
            numbers.append(str(sum(counts.values())))
            totals = {column: totals[column] + counts[column] for column in columns}
        rows.append([_link(state), *numbers])
    rows.append(_bold(["All", *map(str, [*totals.values(), sum(totals.values())])]))
    return sortable_table(["chapter", *columns, "all"], rows, numbers=len(columns) + 1)


def _every_step(finished: list[State]) -> list[str]:
    rows = [
        f'<li><span class="kx-chip kx-is-{name}">D</span> <span>{meaning}</span></li>'
        for name, meaning in STANDINGS.items()
    ]
    lines = ["", '<ul class="kx-legend">', *rows, "</ul>"]
    for state in finished:
        bones, page = skeleton(_records(state)), f"chapters/{state.planned.name}.ipynb"
        chips = [
            f"[[{node.name}]({page}#{node.name})]{{.kx-chip .kx-is-{node.standing}}}"
            for node in bones.nodes.values()
            if not node.is_claim
        ]
        lines += [
            "",
            f"**{_link(state)}**, [how they hang together](steps/{state.planned.name}.md); run: {_run(state)}",
            "",
        ]
        lines += [":::{div} kx-chips", *chips, ":::"]
    return lines


def _every_claim(finished: list[State]) -> list[str]:
    rows = [
        [
            linked(f"chapters/{state.planned.name}.ipynb", [claim["id"]]),
            f"[{state.planned.slug}](chapters/{state.planned.name}.ipynb)",
            cell(claim["claim"]),
            claim["kind"],
            f"{VERDICT_SIGNS[claim['verdict']]}\N{NO-BREAK SPACE}{claim['verdict']}",
            linked(f"chapters/{state.planned.name}.ipynb", claim.get("evidence", [])),
        ]
        for state in finished
        for claim in _records(state).claims
    ]
    return sortable_table(["claim", "chapter", "what it says", "kind", "verdict", "steps"], rows)


def _records(state: State) -> Records:
    assert state.records is not None
    return state.records


def _link(state: State) -> str:
    return f"[{state.planned.title_en}](chapters/{state.planned.name}.ipynb)"


def _bold(row: list[str]) -> list[str]:
    return [f"**{value}**" for value in row]


def _run(state: State) -> str:
    parameters = _records(state).run.get("parameters", {})
    scale, device = parameters.get("scale", "?"), parameters.get("device", "?")
    if device == "auto" and scale == "quick":
        device = "cpu"  # so kexue_lib.lab resolves it
    return f"{scale},\N{NO-BREAK SPACE}{device}"


def _chapters(count: int) -> str:
    return f"{count} chapter{'' if count == 1 else 's'}"

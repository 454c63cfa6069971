"""The page ``book/ledger.md``: what was checked and measured in each chapter, counted from the executed notebooks."""

from __future__ import annotations

from kexue_lib.book.project import Project
from kexue_lib.book.records import STATUSES, VERDICTS
from kexue_lib.book.states import State, states

_HEAD = """\
# Ledger

What the machine checked and measured, chapter by chapter, counted from the outputs of the executed notebooks when this
page was built. Nothing here is written by hand.

- **Steps** of the derivations: *proved* (exactly, under the stated assumptions), *asymptotic* (a limit or series with
  its rate), *sampled* (true at every sampled point, which is no proof), *unchecked* (definitions, assumptions and
  citations). Each sign of a chain counts as a step.
- **Mutants** are wrong variants of the checked steps (a sign, a factor, an exponent changed). *Killed*: the step's own
  evidence refuses the variant. *Equivalent*: it says the same as the step. *Implied*: it is weaker than the step
  and true. *Survived*: the check would not have noticed it, a defect of the check.
- **Claims** about experiments and theory: the verdict follows from rules that stand in the chapter before the
  measurement.
"""

_ROWS = ("killed", "equivalent", "implied", "survived")


def ledger(project: Project) -> str:
    """The text of the page."""
    every = states(project)
    finished = [s for s in every if s.records is not None]
    lines = [_HEAD]
    if finished:
        lines += _table(finished)
    else:
        lines.append("No chapter has been executed yet.")
    waiting = len(every) - len(finished)
    if waiting:
        lines += [
            "",
            f"{_chapters(waiting)} of the {len(every)} planned ones are not there yet; the [map](index.md) lists them.",
        ]
    return "\n".join(lines) + "\n"


def _table(finished: list[State]) -> list[str]:
    columns = ("chapter", "run", *STATUSES, *_ROWS, *VERDICTS)
    rows = []
    totals = dict.fromkeys((*STATUSES, *_ROWS, *VERDICTS), 0)
    for state in finished:
        assert state.records is not None
        assert state.chapter is not None
        mutants = state.audit.counts() if state.audit else dict.fromkeys(_ROWS)
        counts = {**state.records.by_status(), **mutants, **state.records.by_verdict()}
        for key, value in counts.items():
            totals[key] += value or 0
        link = f"[{state.planned.title_en}](chapters/{state.chapter.name}.ipynb)"
        rows.append([link, _run(state), *("not audited" if counts[k] is None else str(counts[k]) for k in totals)])
    rows.append(["**All**", "", *(f"**{value}**" for value in totals.values())])
    text = [
        "",
        f"## {_chapters(len(finished))} executed",
        "",
        "From left to right: steps (proved … unchecked), mutants (killed … survived), claims (holds … open).",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|---|" + "--:|" * len(totals),
    ]
    return [*text, *("| " + " | ".join(row) + " |" for row in rows)]


def _run(state: State) -> str:
    assert state.records is not None
    parameters = state.records.run.get("parameters", {})
    scale, device = parameters.get("scale", "?"), parameters.get("device", "?")
    if device == "auto" and scale == "quick":
        device = "cpu"  # so kexue_lib.lab resolves it
    return f"{scale}, {device}"


def _chapters(count: int) -> str:
    return f"{count} chapter{'' if count == 1 else 's'}"

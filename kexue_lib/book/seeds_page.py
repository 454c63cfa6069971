"""The page ``book/seeds.md``: every claim over its seeds, from the committed ledger of ``kexue regress``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kexue_lib.book.plan import read_plan
from kexue_lib.book.project import Project
from kexue_lib.book.records import VERDICTS
from kexue_lib.book.regress.baseline import COMMITTED, committed_rows
from kexue_lib.book.regress.report import span
from kexue_lib.book.regress.summary import ClaimOverSeeds, Group, GroupSummary, summarise
from kexue_lib.book.sortable import sortable_table
from kexue_lib.book.steps_page import VERDICT_SIGNS, linked

__all__ = ["seeds_page"]

_SPACE = "\N{NO-BREAK SPACE}"

_HEAD = """\
# Over seeds

Would another seed have given another verdict? Each chapter was run again with other seeds ([how](regression.md)),
{days}. A claim is *stable* if its verdict is the same with every seed. The numbers are means over the seeds with
Student's 95 % interval, and the range in parentheses.
"""


def seeds_page(project: Project) -> str:
    """The text of the page; it says so if no regression has been committed yet."""
    rows = committed_rows(project)
    if not rows:
        return f"# Over seeds\n\nNo regression has been committed yet (`{COMMITTED}`).\n"
    days = sorted(row["started"][:10] for row in rows)
    titles = {planned.name: planned.title_en for planned in read_plan(project)}
    order = {name: place for place, name in enumerate(titles)}
    found = summarise(rows)
    summary = {group: found[group] for group in sorted(found, key=lambda g: (order.get(g[0], len(order)), g))}
    lines = [_HEAD.format(days=days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")]
    lines += ["## Chapters", *_chapters(summary, titles)]
    lines += ["", "## Claims whose verdict depends on the seed", "", *_unstable(summary, titles)]
    for group, over in summary.items():
        link = f"chapters/{group[0]}.ipynb"
        lines += ["", f"## {_title(group, titles)}", "", f"[The chapter]({link}), seeds {span(list(over.rows))}."]
        lines += [f"Seed {seed} did not end well: {row['status']}." for seed, row in sorted(over.ended.items())]
        lines.append("")
        lines += _claims(over, link)
    return "\n".join(lines) + "\n"


def _chapters(summary: Mapping[Group, GroupSummary], titles: Mapping[str, str]) -> list[str]:
    rows = []
    for group, over in summary.items():
        claims = list(over.claims.values())
        name = f"[{titles.get(group[0], group[0])}](chapters/{group[0]}.ipynb){_size(group)}"
        counts = [len(over.rows) - len(over.ended), len(claims), sum(claim.stable for claim in claims)]
        counts += [sum(claim.usual == verdict for claim in claims) for verdict in VERDICTS]
        rows.append([name, *map(str, counts)])
    columns = ["chapter", "seeds", "claims", "stable", *VERDICTS]
    return sortable_table(columns, rows, numbers=len(columns) - 1)


def _unstable(summary: Mapping[Group, GroupSummary], titles: Mapping[str, str]) -> Iterator[str]:
    some = False
    for group, over in summary.items():
        for claim in over.claims.values():
            if not claim.stable:
                some = True
                at = linked(f"chapters/{group[0]}.ipynb", [claim.id])
                yield f"- {at} of *{_title(group, titles)}* ({_counts(claim)}): {claim.reason()}"
    if not some:
        yield "None: every claim has the same verdict with every seed."


def _claims(over: GroupSummary, link: str) -> Iterator[str]:
    """The claims in the form that they have in their chapter."""
    yield "::::::{div} kx-claims kx-over"
    for claim in over.claims.values():
        yield f":::::{{div}} kx-claim kx-{claim.usual}"
        yield from _div("kx-claim-text", f"{linked(link, [claim.id])} {claim.text}")
        yield from _div("kx-verdict", f"{VERDICT_SIGNS[claim.usual]}{_SPACE}{_counts(claim)}")
        if not claim.stable:
            yield from _div("kx-note", claim.reason())
        numbers = [f"- {name}{_SPACE}≈{_SPACE}{value}" for name, value in claim.intervals().items()]
        if numbers:
            yield from _div("kx-numbers", *numbers)
        yield ":::::"
    yield "::::::"


def _div(name: str, *content: str) -> Iterator[str]:
    yield f"::::{{div}} {name}"
    yield from content
    yield "::::"


def _counts(claim: ClaimOverSeeds) -> str:
    """Such as "holds 5/5", or "holds 4/5, partly 1/5"."""
    total = len(claim.verdicts)
    return ", ".join(f"{verdict}{_SPACE}{count}/{total}" for verdict, count in claim.counts.items())


def _title(group: Group, titles: Mapping[str, str]) -> str:
    return titles.get(group[0], group[0]) + _size(group)


def _size(group: Group) -> str:
    """What is not a quick run on the CPU says so."""
    _, scale, device = group
    return "" if (scale, device) == ("quick", "cpu") else f" ({scale}, {device})"

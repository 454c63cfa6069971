"""What an executed notebook says in machine-readable form: steps, claims and the data behind figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kexue_lib.book.errors import BookError

STEP = "application/vnd.kexue.step+json"
CLAIMS = "application/vnd.kexue.claims+json"
FIGURE = "application/vnd.kexue.figure+json"

#: Statuses of steps, best first, and the verdicts on claims, in the order of the ledger's columns.
STATUSES = ("proved", "asymptotic", "sampled", "unchecked")
VERDICTS = ("holds", "partly", "fails", "open")


@dataclass(frozen=True)
class Records:
    """The records of one notebook.

    Args:
        steps: the derivation steps, in order; a step that is shown twice counts once.
        claims: the claims with their verdicts; of several tables the last one counts.
        figures: the data behind the figures.
        run: what the pipeline noted about the run (``metadata.kexue.run``).
    """

    steps: tuple[dict[str, Any], ...]
    claims: tuple[dict[str, Any], ...]
    figures: tuple[dict[str, Any], ...]
    run: dict[str, Any]

    @property
    def leaves(self) -> tuple[dict[str, Any], ...]:
        """The single relations: the links of a chain instead of the chain."""
        return tuple(leaf for step in self.steps for leaf in (step.get("links") or [step]))

    def by_status(self) -> dict[str, int]:
        """How many relations are proved, asymptotic, sampled and unchecked."""
        counts = Counter(leaf["status"] for leaf in self.leaves)
        return {status: counts[status] for status in STATUSES}

    def by_verdict(self) -> dict[str, int]:
        """How many claims hold, hold partly, fail and are open."""
        counts = Counter(claim["verdict"] for claim in self.claims)
        return {verdict: counts[verdict] for verdict in VERDICTS}


def gather(notebook: dict[str, Any]) -> Records:
    """The records in the outputs of an executed notebook (a JSON object).

    Raises:
        BookError: a record of an unknown schema or status.
    """
    steps: dict[tuple[str, str], dict[str, Any]] = {}
    for record in _of(notebook, STEP):
        for leaf in record.get("links") or [record]:
            if leaf.get("status") not in STATUSES:
                raise BookError(
                    f"step {record.get('id')}: unknown status {leaf.get('status')!r}; known: {', '.join(STATUSES)}."
                )
        steps[record["derivation"], record["id"]] = record
    claims: list[dict[str, Any]] = []
    for record in _of(notebook, CLAIMS):
        claims = record["claims"]
    for claim in claims:
        if claim.get("verdict") not in VERDICTS:
            raise BookError(
                f"claim {claim.get('id')}: unknown verdict {claim.get('verdict')!r}; known: {', '.join(VERDICTS)}."
            )
    figures = {record["name"]: record for record in _of(notebook, FIGURE)}
    run = notebook["metadata"].get("kexue", {}).get("run", {})
    return Records(tuple(steps.values()), tuple(claims), tuple(figures.values()), run)


def _of(notebook: dict[str, Any], mime: str) -> Iterator[dict[str, Any]]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            record = output.get("data", {}).get(mime)
            if record is not None:
                if not isinstance(record, dict) or record.get("schema") != 1:
                    raise BookError(
                        f"a record of type {mime} has not schema 1: this version of the pipeline cannot read it."
                    )
                yield record

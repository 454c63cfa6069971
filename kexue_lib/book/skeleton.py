"""The skeleton of a chapter: which step and which claim rests on which, and what each is worth with all below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kexue_lib.book.records import Records

__all__ = ["STANDINGS", "Node", "Skeleton", "skeleton"]

#: What a step is worth together with all that it rests on, from the strongest to the weakest. A chain of reasoning is
#: as strong as its weakest link.
STANDINGS = {
    "proved": "proved, and everything below it too",
    "sizes": "proved at the sizes written out, or resting on such a step",
    "asymptotic": "known by a fitted rate, or resting on such a step",
    "sampled": "true at sampled points, or resting on such a step",
    "granted": "assumed or cited, or resting on such a step",
    "defined": "a definition",
}
_ORDER = list(STANDINGS)


@dataclass(frozen=True)
class Node:
    """A step or a claim.

    Args:
        name: its id, which is its anchor on the chapter's page.
        record: as the notebook holds it.
        own: what its own evidence gives: one of :data:`STANDINGS`; for a claim its verdict.
        standing: the same together with all below it; for a claim its verdict.
        below: ids of what it uses directly.
    """

    name: str
    record: Mapping[str, Any]
    own: str
    standing: str
    below: tuple[str, ...]

    @property
    def is_claim(self) -> bool:
        """A claim, not a step."""
        return "verdict" in self.record


@dataclass(frozen=True)
class Skeleton:
    """All steps and claims of a chapter.

    Args:
        nodes: by id, in the order of the page.
        arrows: from a node to one that uses it; what follows from other arrows is left out.
        threads: the ids of nodes that hang together, group by group; those that stand alone are left out.
        alone: the ids of the others.
        worth: for each step, and each link of a chain, what it is worth with all below it.
    """

    nodes: dict[str, Node]
    arrows: tuple[tuple[str, str], ...]
    threads: tuple[tuple[str, ...], ...]
    alone: tuple[str, ...]
    worth: dict[str, str]


def skeleton(records: Records) -> Skeleton:
    """The skeleton of a chapter; a chain of relations is one node."""
    import networkx

    steps = {step["id"]: step for step in records.steps}
    whole = {link["id"]: step["id"] for step in records.steps for link in step.get("links", [])}
    every = (*records.leaves, *records.steps)
    own = {step["id"]: _own(step) for step in every}
    worth = {step["id"]: _weakest(own[step["id"]], [own[below] for below in step["rests_on"]]) for step in every}
    nodes: dict[str, Node] = {}
    for name, step in steps.items():
        below = _unique(whole.get(used, used) for used in step["uses"])
        nodes[name] = Node(name, step, own[name], worth[name], tuple(used for used in below if used != name))
    for claim in records.claims:
        below = _unique(whole.get(step, step) for step in claim.get("evidence", []))
        nodes[claim["id"]] = Node(claim["id"], claim, claim["verdict"], claim["verdict"], below)

    graph = networkx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((used, node.name) for node in nodes.values() for used in node.below if used in nodes)
    order = {name: k for k, name in enumerate(nodes)}
    reduced = networkx.transitive_reduction(graph)
    arrows = sorted(reduced.edges, key=lambda arrow: (order[arrow[0]], order[arrow[1]]))
    groups = [sorted(group, key=order.__getitem__) for group in networkx.weakly_connected_components(reduced)]
    groups.sort(key=lambda group: order[group[0]])
    return Skeleton(
        nodes=nodes,
        arrows=tuple(arrows),
        threads=tuple(tuple(group) for group in groups if len(group) > 1),
        alone=tuple(group[0] for group in groups if len(group) == 1),
        worth=worth,
    )


def _own(step: Mapping[str, Any]) -> str:
    if step["kind"] == "defined":
        return "defined"
    if step["status"] == "unchecked":
        return "granted"
    if step["status"] != "proved":
        return str(step["status"])
    parts = [step, *step.get("links", [])]
    return "sizes" if any(part["dims"] and part["kind"] != "numeric" for part in parts) else "proved"


def _weakest(own: str, below: list[str]) -> str:
    """The weakest of a step's own evidence and what it rests on; a definition stays a definition."""
    return own if own == "defined" else max([own, *below], key=_ORDER.index)


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))

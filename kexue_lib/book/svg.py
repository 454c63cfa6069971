"""Graphs as pictures for the page: SVG whose nodes are links, coloured by the style sheet in both modes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from kexue_lib.book.layout import Box, Drawing

__all__ = ["Face", "svg"]


@dataclass(frozen=True)
class Face:
    """What a node shows.

    Args:
        classes: for the style sheet.
        label: what it says to those who cannot see it, and when pointed at.
        text: in sight; ``None`` leaves the box to ``html``.
        href: where it leads, if anywhere.
        html: markup inside the box, instead of ``text``; the browser breaks its lines.
        says: what it says, with formulas between ``$``: shown by the page's script while it is pointed at.
        why: the reason for it, shown below that.
    """

    classes: str
    label: str
    text: str | None = None
    href: str | None = None
    html: str | None = None
    says: str = ""
    why: str = ""


def svg(
    drawing: Drawing,
    faces: Mapping[str, Face],
    *,
    name: str,
    label: str,
    radius: float = 5,
    titles: Mapping[str, str] | None = None,
) -> str:
    """The picture of a graph, on one line for each part.

    Args:
        drawing: the graph laid out.
        faces: what each node shows.
        name: unique on the page; the arrowhead and the nodes get their ids from it.
        label: what the picture shows, in words.
        radius: of the corners, in pixels; claims are fully round.
        titles: of the frames.
    """
    width, height = drawing.width + 4, drawing.height + 4
    lines = [
        f'<svg class="kx-graph" role="group" aria-label="{escape(label)}" width="{width:g}" height="{height:g}" '
        f'viewBox="-2 -2 {width:g} {height:g}">',
        f'<defs><marker id="{name}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 .5 8 4 0 7.5z"/></marker></defs>',
    ]
    for frame, box in drawing.frames.items():
        lines.append(f'<rect class="kx-frame" {_place(box)} rx="8"/>')
        if titles:
            title = escape(titles[frame])
            lines.append(f'<text class="kx-frame-title" x="{box.x + 10:g}" y="{box.y + 18:g}">{title}</text>')
    lines += [
        f'<path class="kx-arrow" data-from="{tail}" data-to="{head}" d="{path}" marker-end="url(#{name}-tip)"/>'
        for tail, head, path in drawing.arrows
    ]
    lines += [_node(node, faces[node], box, radius) for node, box in drawing.boxes.items()]
    return "\n".join([*lines, "</svg>"])


def _node(name: str, face: Face, box: Box, radius: float) -> str:
    rounding = box.height / 2 if "kx-is-claim" in face.classes.split() else radius
    title = "" if face.says else f"<title>{escape(face.label)}</title>"
    inside = f'{title}<rect {_place(box)} rx="{rounding:g}"/>'
    if face.html is not None:
        inside += f"<foreignObject {_place(box)}>{face.html}</foreignObject>"
    else:
        x, y = box.x + box.width / 2, box.y + box.height / 2
        inside += f'<text x="{x:g}" y="{y:g}">{escape(face.text or "")}</text>'
    attributes = f'class="kx-node {face.classes}" data-node="{name}"'
    attributes += "".join(f' data-{k}="{escape(v)}"' for k, v in (("says", face.says), ("why", face.why)) if v)
    if face.href is None:
        return f"<g {attributes}>{inside}</g>"
    return f'<a {attributes} href="{face.href}" aria-label="{escape(face.label)}">{inside}</a>'


def _place(box: Box) -> str:
    return f'x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}"'

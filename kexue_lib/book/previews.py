"""The picture beside a shared link: the page's title, and the first figure of a chapter."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Width and height in pixels; messengers cut other proportions.
SIZE = (1200, 630)
_DPI = 100

#: Where the figure begins, as a part of the width.
_FIGURE = 0.46
_BLUE, _YELLOW, _PAPER, _INK = "#1d4e89", "#ffd166", "#ffffff", "#1c2733"


def preview(title: str, book: str, figure: bytes | None = None) -> bytes:
    """A PNG of :data:`SIZE` with the title and, if given, a figure; the same bytes for the same input.

    Args:
        title: of the page.
        book: the name of the book.
        figure: a PNG.
    """
    import matplotlib.image
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # matplotlib's own font, whatever the machine has and whatever a user has set
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.family": "DejaVu Sans"}):
        canvas = Figure(figsize=(SIZE[0] / _DPI, SIZE[1] / _DPI), dpi=_DPI, facecolor=_PAPER)
        FigureCanvasAgg(canvas)
        strip = canvas.add_axes((0, 0, 1, 0.13), facecolor=_BLUE, xticks=[], yticks=[])
        strip.spines[:].set_visible(False)
        canvas.text(0.04, 0.065, book, color="white", size=24, weight="bold", va="center")
        canvas.text(0.96, 0.065, "proved · tested · executable", color=_YELLOW, size=19, va="center", ha="right")
        room = (0.40 if figure else 0.92) * SIZE[0]
        _fitted(canvas, title.replace("$", ""), 42 if figure else 54, room, 0.72 * SIZE[1])
        if figure:
            frame = canvas.add_axes((_FIGURE, 0.17, 0.97 - _FIGURE, 0.79))
            frame.imshow(matplotlib.image.imread(io.BytesIO(figure)), interpolation="antialiased")
            frame.set_axis_off()
        file = io.BytesIO()
        canvas.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return _smaller(file.getvalue())


def _fitted(canvas: Figure, title: str, largest: int, width: float, height: float) -> None:
    """Write the title as large as its room allows, in pixels."""
    text = canvas.text(0.04, 0.565, "", color=_INK, weight="bold", va="center", linespacing=1.25)
    for size in range(largest, 9, -2):
        text.set_fontsize(size)
        text.set_text("\n".join(textwrap.wrap(title, max(8, int(width / (0.6 * size * _DPI / 72))))))
        box = text.get_window_extent()
        if box.width <= width and box.height <= height:
            return


def write_preview(out: Path, page: str, title: str, book: str, figure: bytes | None) -> str:
    """Write the picture for a page below the site's folder; returns its path there."""
    name = f"_static/previews/{page.replace('/', '-')}.png"
    target = out / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(preview(title, book, figure))
    return name


def _smaller(picture: bytes) -> bytes:
    """The picture with a palette of 128 colours: a third of the size, and nobody sees it."""
    from PIL import Image

    file = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(file, format="PNG", optimize=True)
    return file.getvalue()

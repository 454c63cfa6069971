"""The look of every figure: one palette, one font, an opaque light card.

A figure is a PNG, and a PNG cannot follow the page's colour scheme. So each figure is a light card with its own opaque
background: legible on a light page and on a dark one. Its colours keep a contrast of at least 3 : 1 to the card (text
at least 7 : 1), and stay apart for readers with protanopia, deuteranopia and tritanopia; lines differ by marker and
dash as well, so that colour is never the only cue.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CARD",
    "COLOURS",
    "DASHES",
    "DPI",
    "GRID",
    "INK",
    "MARKERS",
    "MUTED",
    "PAGE_DPI",
    "PALETTE",
    "rc",
    "title",
    "use",
]

#: Background of the figure and of its axes.
CARD = "#fcfbf8"
#: Text, spines and ticks.
INK = "#262626"
#: Remarks inside a figure, reference lines.
MUTED = "#5c5c5c"
#: Grid lines, which may be faint.
GRID = "#e2dfd8"

#: The colours by name, in the order in which a figure uses them.
PALETTE = {
    "blue": "#1f5fa8",
    "orange": "#d1480f",
    "green": "#089962",
    "violet": "#8a2ee6",
    "brown": "#803319",
    "ink": "#2b2b2b",
}
COLOURS = tuple(PALETTE.values())
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (8, 3)), (0, (3, 1, 1, 1, 1, 1)))

#: Dots per inch of the PNG, and of the place it takes on a page: a figure of the default size is shown 720 wide.
DPI = 160
PAGE_DPI = 100


def rc() -> dict[str, Any]:
    """The matplotlib settings of the style, as a fresh dictionary."""
    cycler = require("cycler", package="matplotlib").cycler
    return {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "mathtext.fontset": "dejavusans",
        "font.size": 10.0,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8.0,
        "axes.labelsize": 10.0,
        "xtick.labelsize": 9.0,
        "ytick.labelsize": 9.0,
        "legend.fontsize": 9.0,
        "figure.titlesize": 12.0,
        "figure.titleweight": "bold",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.edgecolor": INK,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "axes.prop_cycle": cycler(color=COLOURS) + cycler(marker=MARKERS) + cycler(linestyle=DASHES),
        "lines.linewidth": 1.8,
        "lines.markersize": 5.0,
        "patch.linewidth": 0.8,
        "errorbar.capsize": 2.5,
        "image.cmap": "cividis",  # even in lightness, made for colour-blind readers
        "legend.frameon": False,
        "legend.handlelength": 2.6,
        "figure.figsize": (7.2, 4.3),
        "figure.dpi": PAGE_DPI,
        "savefig.dpi": DPI,
        "savefig.bbox": "standard",
        "figure.facecolor": CARD,
        "axes.facecolor": CARD,
        "savefig.facecolor": CARD,
        "savefig.edgecolor": CARD,
        "savefig.transparent": False,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.08,
        "figure.constrained_layout.h_pad": 0.08,
        "figure.constrained_layout.wspace": 0.04,
        "axes.unicode_minus": True,
        "text.usetex": False,
        "path.sketch": None,
    }


@contextlib.contextmanager
def use() -> Iterator[Any]:
    """Draw in the book's style: a context that yields ``matplotlib.pyplot`` and leaves the user's settings alone.

    Settings that the user changed (fonts, sizes, a style sheet) do not leak in either: inside, everything the style
    does not name has matplotlib's own default.

    >>> with use() as plt:
    ...     fig, ax = plt.subplots()
    >>> plt.close(fig)
    """
    matplotlib = require("matplotlib", package="matplotlib")
    pyplot = require("matplotlib.pyplot", package="matplotlib")
    backend = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if key not in backend}
    with matplotlib.rc_context({**defaults, **rc()}):
        yield pyplot


def title(target: Axes | Figure, text: str) -> None:
    """Put a title that says what is shown, at the left in bold: on a figure, or on one of its panels.

    Args:
        target: the figure or the axes.
        text: a statement such as "The factor log n slows the growth of the entropy", not "Entropy versus n".
    """
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"text={text!r} is not allowed; allowed: a title that says what the figure shows")
    if hasattr(target, "suptitle"):
        target.suptitle(text, x=0.01, ha="left")
    else:
        target.set_title(text)

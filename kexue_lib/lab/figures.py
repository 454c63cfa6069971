"""Show a figure with its caption, its text for those who cannot see it, and the data behind it."""

from __future__ import annotations

import io
import re
import warnings
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import style
from .errors import require
from .style import title, use

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["MIME", "figure", "png", "record", "title", "use"]

MIME = "application/vnd.kexue.figure+json"


def figure(
    fig: Figure,
    *,
    name: str,
    title: str,
    caption: str,
    alt: str,
    data: Mapping[str, Any],
    clocked: Iterable[str] = (),
) -> None:
    """Show a figure: the PNG with its alternative text, the caption below, and the data as a record in the output.

    The figure is drawn in :func:`use`, gets its title here, and is closed.

    Args:
        fig: a matplotlib figure whose every axes has its two labels.
        name: name of the figure in the chapter, such as ``"needed-scale"``; letters, digits and hyphens.
        title: what the figure shows, as a statement.
        caption: Markdown with ``$…$``: how to read it, and what the error bars are.
        alt: for those who cannot see it: axes, curves, and what they do.
        data: the numbers behind the curves by series name; each a number or an array. NaN (no value) becomes ``null``.
        clocked: names of the series that come from a clock. They differ from run to run, so that a comparison of two
            runs of one seed leaves them out.

    Raises:
        ValueError: an empty text, a bad name, an axes without label, a character that the font lacks, no data, a
            clocked series that is not among the data.

    >>> with use() as plt:
    ...     fig, ax = plt.subplots()
    ...     _ = ax.plot([1, 2], [3, 4])
    ...     _ = ax.set(xlabel="n", ylabel="entropy (nats)")
    >>> figure(fig, name="growth", title="Entropy grows", caption="One run.", alt="Entropy rises from 3 to 4 as n"
    ...     " goes from 1 to 2.", data={"n": [1, 2], "entropy": [3, 4]})
    [figure growth: Entropy grows]
    One run.
    """
    display = require("IPython.display", package="ipython").display
    information = record(name=name, title=title, alt=alt, data=data, clocked=clocked)
    if not caption.strip():
        raise ValueError(f"figure {name!r}: caption={caption!r} is not allowed; allowed: a text")
    for axes in fig.axes:
        _require_labels(axes, name)
    style.title(fig, title)
    try:
        image = png(fig)
    finally:
        require("matplotlib.pyplot", package="matplotlib").close(fig)
    width, height = (round(inch * style.PAGE_DPI) for inch in fig.get_size_inches())
    text = f"[figure {name}: {title}]"
    picture = {"image/png": b64encode(image).decode("ascii"), "text/plain": text, MIME: information}
    display(_Shown(text, picture, {"image/png": {"alt": alt, "width": width, "height": height}}))
    display(_Shown(caption, {"text/markdown": caption, "text/plain": caption}, {}))


class _Shown:
    """An output with its metadata, which is its text where there is no notebook."""

    def __init__(self, text: str, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        self._text, self._data, self._metadata = text, data, metadata

    def __repr__(self) -> str:
        return self._text

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._data, self._metadata


def png(fig: Figure) -> bytes:
    """The figure as PNG: the same bytes for the same drawing (no version, no date), on an opaque card."""
    matplotlib = require("matplotlib", package="matplotlib")
    buffer = io.BytesIO()
    with matplotlib.rc_context(style.rc()), warnings.catch_warnings():
        warnings.filterwarnings("error", message=r"Glyph .* missing from font")
        try:
            fig.savefig(
                buffer,
                format="png",
                dpi=style.DPI,
                facecolor=style.CARD,
                transparent=False,
                metadata={"Software": None},
            )
        except UserWarning as warning:
            raise ValueError(f"a text of the figure cannot be drawn: {warning}") from None
    return buffer.getvalue()


def record(*, name: str, title: str, alt: str, data: Mapping[str, Any], clocked: Iterable[str] = ()) -> dict[str, Any]:
    """The figure's data as plain JSON values, rounded to six significant digits.

    >>> record(name="a", title="A line rises", alt="A line from 0 to 1/3.", data={"y": [0, 1 / 3]})["measured"]
    {'y': [0.0, 0.333333]}
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"name={name!r} is not allowed; allowed: lower-case letters and digits, with hyphens between")
    for key, value in (("title", title), ("alt", alt)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"figure {name!r}: {key}={value!r} is not allowed; allowed: a text")
    if alt.strip() == title.strip():
        raise ValueError(f"figure {name!r}: alt repeats the title; it has to say what can be seen")
    if not data:
        raise ValueError(f"figure {name!r} has no data: give the numbers behind its curves")
    measured = {str(series): _plain(values, f"figure {name!r}: data[{series!r}]") for series, values in data.items()}
    times = [str(series) for series in clocked]
    if unknown := [series for series in times if series not in measured]:
        raise ValueError(f"figure {name!r}: clocked={unknown!r} is not allowed; allowed: {', '.join(measured)}")
    return {"schema": 1, "name": name, "title": title, "alt": alt, "measured": measured, "clocked": times}


def _plain(values: Any, where: str) -> Any:
    if hasattr(values, "detach"):  # a tensor, perhaps on a GPU, perhaps with a gradient
        values = values.detach().cpu()
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{where} holds no numbers, or rows of different lengths: {values!r}") from None
    if np.isinf(array).any():
        raise ValueError(f"{where} holds an infinite number")

    def rounded(x: Any) -> Any:
        if isinstance(x, list):
            return [rounded(item) for item in x]
        return None if np.isnan(x) else float(f"{x:.6g}")

    return rounded(array.tolist())


def _require_labels(axes: Axes, name: str) -> None:
    if not (axes.axison and axes.get_visible()) or axes.get_label() == "<colorbar>":
        return
    figure = axes.get_figure(root=True)
    for which in "xy":
        siblings = getattr(axes, f"get_shared_{which}_axes")().get_siblings(axes)
        shared = getattr(figure, f"get_sup{which}label")() if figure is not None else ""
        if not shared and not any(getattr(one, f"get_{which}label")() for one in siblings):
            raise ValueError(f"figure {name!r}: an axes has no {which} label; set it with ax.set_{which}label")

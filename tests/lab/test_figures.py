"""Figures: bytes, card, colours, data, captions, and what is refused."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import struct
import sys
import warnings

import matplotlib
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

from kexue_lib import lab
from kexue_lib.lab import figures, style

matplotlib.use("agg")

GOOD: dict = {
    "name": "growth",
    "title": "Entropy grows with n",
    "caption": r"One run; $H \le \log n$.",
    "alt": "Entropy rises from 0 to 2 as n goes from 1 to 8.",
    "data": {"n": [1, 8], "entropy": [0.0, 2.0]},
}


def drawn(panels: int = 1):
    with style.use() as plt:
        fig, axes = plt.subplots(1, panels, squeeze=False)
        for ax in axes.flat:
            for k in range(3):
                ax.plot(np.linspace(0, 1, 9) * (k + 1), label=f"λ = {k}")
            ax.set(xlabel="$\\log n$", ylabel="entropy (nats)")
            ax.legend()
    return fig


def shown(monkeypatch: pytest.MonkeyPatch, fig: object, **change: object) -> list:
    import IPython.display

    objects: list = []
    monkeypatch.setattr(IPython.display, "display", objects.append)
    lab.figure(fig, **{**GOOD, **change})  # type: ignore[arg-type]
    return [shown._repr_mimebundle_() for shown in objects]


def chunks(image: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(image):
        (length,) = struct.unpack(">I", image[at : at + 4])
        found.append((image[at + 4 : at + 8], image[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


# The picture --------------------------------------------------------------------------------


def test_bytes_are_the_same_twice_and_name_no_version() -> None:
    first, second = figures.png(drawn()), figures.png(drawn())
    assert first == second
    kinds = {kind for kind, _ in chunks(first)}
    assert not kinds & {b"tEXt", b"iTXt", b"zTXt", b"tIME"}
    assert matplotlib.__version__.encode() not in first


def test_bytes_do_not_depend_on_the_users_settings() -> None:
    plain = figures.png(drawn())
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "lines.linewidth": 9, "savefig.facecolor": "k"}):
        assert figures.png(drawn()) == plain


def test_picture_is_an_opaque_card() -> None:
    picture = Image.open(io.BytesIO(figures.png(drawn())))
    pixels = np.asarray(picture.convert("RGBA"))
    assert (pixels[..., 3] == 255).all()
    assert "#" + bytes(pixels[0, 0, :3].tolist()).hex() == style.CARD
    assert picture.size == (1152, 688)


def test_style_changes_nothing_outside() -> None:
    before = dict(matplotlib.rcParams)
    with style.use():
        assert matplotlib.rcParams["axes.facecolor"] == style.CARD
    with pytest.raises(RuntimeError), style.use():
        raise RuntimeError
    figures.png(drawn())
    assert dict(matplotlib.rcParams) == before


def test_font_is_the_one_that_matplotlib_brings() -> None:
    from matplotlib import font_manager

    with style.use():
        found = font_manager.findfont(font_manager.FontProperties(), fallback_to_default=False)
    assert found.startswith(matplotlib.get_data_path())


def test_style_needs_no_deprecated_setting() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with style.use():
            pass


# Colours --------------------------------------------------------------------------------


def linear(colour: str) -> np.ndarray:
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.95047, 1, 1.08883]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_contrast_formula_against_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("name", style.PALETTE)
def test_every_colour_stands_out_from_the_card(name: str) -> None:
    assert contrast(style.PALETTE[name], style.CARD) >= 3.0


def test_text_has_the_contrast_of_good_print() -> None:
    assert contrast(style.INK, style.CARD) >= 7
    assert contrast(style.MUTED, style.CARD) >= 4.5


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_kind_of_vision(vision: str) -> None:
    seen = {name: cielab(VISION[vision] @ linear(colour)) for name, colour in style.PALETTE.items()}
    near = {(a, b): np.linalg.norm(seen[a] - seen[b]) for a, b in itertools.combinations(seen, 2)}
    # A difference of 2.3 is just noticeable; 20 is another colour.
    assert min(near.values()) >= 20, min(near, key=near.__getitem__)


def test_the_distance_test_has_teeth() -> None:
    # Matplotlib's default red and green are what deuteranopes confuse.
    red, green = (cielab(VISION["deuteranopia"] @ linear(c)) for c in ("#d62728", "#2ca02c"))
    assert np.linalg.norm(red - green) < 20


def test_colour_is_never_the_only_cue() -> None:
    with style.use() as plt:
        fig, ax = plt.subplots()
        lines = [ax.plot([0, 1])[0] for _ in style.COLOURS]
        cues = [(line.get_color(), line.get_marker(), str(line.get_linestyle()), line._dash_pattern) for line in lines]
        plt.close(fig)
    assert [c[0] for c in cues] == list(style.COLOURS)
    assert len({c[1] for c in cues}) == len({str(c[3]) for c in cues}) == len(cues)


# The output --------------------------------------------------------------------------------


def test_output_is_picture_alt_text_record_and_caption(monkeypatch: pytest.MonkeyPatch) -> None:
    (picture, metadata), (caption, _) = shown(monkeypatch, drawn())
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert metadata == {"image/png": {"alt": GOOD["alt"], "width": 720, "height": 430}}
    assert picture["text/plain"] == "[figure growth: Entropy grows with n]"
    assert picture[figures.MIME] == {
        "schema": 1,
        "name": "growth",
        "title": GOOD["title"],
        "alt": GOOD["alt"],
        "measured": {"n": [1.0, 8.0], "entropy": [0.0, 2.0]},
        "clocked": [],
    }
    assert caption == {"text/markdown": GOOD["caption"], "text/plain": GOOD["caption"]}


def test_title_is_in_the_picture_and_figure_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    fig = drawn()
    shown(monkeypatch, fig)
    assert fig.get_suptitle() == GOOD["title"]
    assert not plt.fignum_exists(fig.number)


def test_figure_is_closed_when_it_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    fig = drawn()
    with pytest.raises(ValueError, match="a text of the figure cannot be drawn: Glyph 29109"):
        shown(monkeypatch, fig, title="熵")
    assert not plt.fignum_exists(fig.number)


def test_in_a_notebook_the_figure_appears_once() -> None:
    source = (
        "from kexue_lib import lab\n"
        "with lab.style.use() as plt:\n"
        "    fig, ax = plt.subplots()\n"
        "    ax.plot([1, 2]); ax.set(xlabel='x', ylabel='y')\n"
        "lab.figure(fig, name='a', title='A line rises', caption='It does.', alt='A line from 1 to 2.',\n"
        "    data={'y': [1, 2]})"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    picture, caption = book.cells[0].outputs
    assert set(picture.data) == {"image/png", "text/plain", figures.MIME}
    assert picture.metadata["image/png"]["alt"] == "A line from 1 to 2."
    assert base64.b64decode(picture.data["image/png"]).startswith(b"\x89PNG")
    assert caption.data["text/markdown"] == "It does."


def test_data_of_all_kinds_become_plain_json() -> None:
    data = {
        "float32": np.float32([1 / 3]),
        "tensor": torch.tensor([[1.0, 2.0]], requires_grad=True),
        "int": 3,
        "missing": [1.0, math.nan],
        "noise": [0.1 + 0.2],
    }
    measured = figures.record(name="a", title="t", alt="seen", data=data)["measured"]
    assert measured == {
        "float32": [0.333333],
        "tensor": [[1.0, 2.0]],
        "int": 3.0,
        "missing": [1.0, None],
        "noise": [0.3],
    }
    json.dumps(measured, allow_nan=False)


def test_series_of_a_clock_are_named_in_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    (picture, _), _ = shown(monkeypatch, drawn(), clocked=["entropy"])
    assert picture[figures.MIME]["clocked"] == ["entropy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Needed scale"}, "name='Needed scale' is not allowed"),
        ({"name": ""}, "name='' is not allowed"),
        ({"title": " "}, "figure 'growth': title=' ' is not allowed"),
        ({"alt": ""}, "figure 'growth': alt='' is not allowed"),
        ({"alt": "Entropy grows with n"}, "alt repeats the title"),
        ({"caption": "\n"}, "caption"),
        ({"data": {}}, "has no data"),
        ({"data": {"x": [1.0, math.inf]}}, r"data\['x'\] holds an infinite number"),
        ({"data": {"x": ["a"]}}, r"data\['x'\] holds no numbers"),
        ({"clocked": ["seconds"]}, r"clocked=\['seconds'\] is not allowed; allowed: n, entropy"),
        ({"data": {"x": [[1], [1, 2]]}}, r"data\['x'\] holds no numbers, or rows of different lengths"),
    ],
)
def test_what_a_figure_needs(monkeypatch: pytest.MonkeyPatch, change: dict, message: str) -> None:
    import matplotlib.pyplot as plt

    fig = drawn()
    with pytest.raises(ValueError, match=message):
        shown(monkeypatch, fig, **change)
    plt.close(fig)


@pytest.mark.parametrize("which", ["x", "y"])
def test_every_axes_needs_its_labels(monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    import matplotlib.pyplot as plt

    fig = drawn(2)
    getattr(fig.axes[1], f"set_{which}label")("")
    with pytest.raises(ValueError, match=f"figure 'growth': an axes has no {which} label"):
        shown(monkeypatch, fig)
    plt.close(fig)


def test_shared_labels_colour_bars_and_pictures_without_axes_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    with style.use() as plt:
        fig, axes = plt.subplots(2, 2, sharex=True, sharey=True)
        axes[1, 0].set(xlabel="x", ylabel="y")
        shown(monkeypatch, fig)
        fig, axes = plt.subplots(1, 2)
        fig.supxlabel("x"), fig.supylabel("y")
        shown(monkeypatch, fig)
        fig, ax = plt.subplots()
        fig.colorbar(ax.imshow(np.eye(2)))
        ax.set_axis_off()
        shown(monkeypatch, fig)


def test_titles_of_figures_and_panels() -> None:
    with style.use() as plt:
        fig, ax = plt.subplots()
        style.title(fig, "The whole")
        style.title(ax, "A part")
        with pytest.raises(ValueError, match="text='' is not allowed"):
            style.title(ax, "")
        plt.close(fig)
    assert (fig.get_suptitle(), ax.get_title(loc="left")) == ("The whole", "A part")


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(lab.MissingPackageError, match=r"'matplotlib'.*extra 'lab': pip install"), style.use():
        pass

"""The last touch to the pages that Sphinx made: language of Chinese text, sizes of images, nothing loaded in vain.

All of it works on the files of a finished site, because it concerns what no single extension writes: the margins with
their titles, the theme's scripts, the places of the images.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from kexue_lib.book.icons import slim_icons

__all__ = ["finish_pages", "mark_chinese"]

_ALSO = re.DOTALL | re.IGNORECASE
_TOKENS = re.compile(r"<!--.*?-->|<(script|style|textarea|title|option|svg)\b.*?</\1\s*>|<[^>]*>", _ALSO)
_TAG = re.compile(r"<(/?)([a-zA-Z][\w-]*)([^>]*)>", re.DOTALL)
_APART = re.compile(r'\blang\s*=|\bclass\s*=\s*"[^"]*\bmath\b')

_HAN = r"\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_MARKS = r"\u3000-\u3006\u3008-\u303f\uff00-\uffef\u2018-\u201d\u2026\u2014"
#: From the first to the last Chinese character, over letters and digits between them, with the marks around.
_CHINESE = re.compile(rf"[\u3008-\u3011]*[{_HAN}](?:[{_HAN}{_MARKS}A-Za-z0-9α-ωΑ-Ω,:+.-]*[{_HAN}{_MARKS}])?")

_SPAN = r'<span lang="zh">\g<0></span>'

_IMAGE = re.compile(r"<img\b[^>]*>")
_SIGNATURE = re.compile(r'<dt class="sig\b.*?</dt>', re.DOTALL)


def finish_pages(site: Path) -> None:
    """Finish all pages of a site, in place.

    - Every run of Chinese text is marked ``lang="zh"`` where its author forgot, in titles in the margins as well.
    - Images of the text load when they come into sight, and state their size, so that nothing moves when they do.
    - Parameters of a signature that takes several lines are lines, not definitions without terms, as Sphinx has them.
    - The icons of the theme shrink to those that are used; what the pages would load and not use is left out.
    """
    pages = sorted(page for page in site.rglob("*.html") if "_static" not in page.relative_to(site).parts)
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    slimmed = slim_icons(site, texts)
    for page, text in slimmed.items():
        finished = _SIGNATURE.sub(_lines, _IMAGE.sub(_image(page), mark_chinese(text)))
        if finished != texts[page]:
            page.write_text(finished, encoding="utf-8")


def mark_chinese(html: str) -> str:
    """Put ``<span lang="zh">`` around each run of Chinese text that no element with a ``lang`` holds.

    >>> mark_chinese('<p>See 熵不变性Softmax的推导, <b lang="zh">熵</b>.</p>')
    '<p>See <span lang="zh">熵不变性Softmax的推导</span>, <b lang="zh">熵</b>.</p>'
    """
    return "".join(_marked(html))


def _marked(html: str) -> Iterator[str]:
    apart, depth = "", 0  # the element that speaks for its own language (or is maths), and how deep in its namesakes
    at = 0
    for token in _TOKENS.finditer(html):
        text = html[at : token.start()]
        yield text if apart else _CHINESE.sub(_SPAN, text)
        yield token[0]
        at = token.end()
        tag = None if token[1] else _TAG.match(token[0])
        if tag is None:
            continue
        closing, name, attributes = bool(tag[1]), tag[2].lower(), tag[3]
        if apart:
            if name == apart and not attributes.endswith("/"):
                depth += -1 if closing else 1
                apart = apart if depth else ""
        elif not closing and name != "html" and not attributes.endswith("/") and _APART.search(attributes):
            apart, depth = name, 1
    yield html[at:] if apart else _CHINESE.sub(_SPAN, html[at:])


def _lines(signature: re.Match[str]) -> str:
    inside = re.sub(r"<(/?)dl>", r"<\1span>", signature[0])
    return inside.replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")


def _image(page: Path) -> Callable[[re.Match[str]], str]:
    """What to put in place of an ``<img>`` of a page."""

    def finished(found: re.Match[str]) -> str:
        tag = found[0]
        source = re.search(r'\bsrc="([^":]+)"', tag)
        if "logo" in tag or source is None or "loading=" in tag:
            return tag
        size = _size(page.parent / source[1], re.search(r"\bwidth: *(\d+)px", tag))
        extra = f' width="{size[0]}" height="{size[1]}"' if size and "height=" not in tag else ""
        return re.sub(r"\s*/?>$", f'{extra} loading="lazy" decoding="async" />', tag)

    return finished


def _size(file: Path, stated: re.Match[str] | None) -> tuple[int, int] | None:
    """Width and height of a PNG on the page, in pixels of CSS."""
    if not file.is_file() or file.suffix != ".png":
        return None
    with file.open("rb") as opened:
        head = opened.read(24)
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", head[16:24])
    shown = int(stated[1]) if stated else width
    return shown, round(height * shown / width)

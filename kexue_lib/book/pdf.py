"""The book as a PDF: Chromium prints the built pages, one after the other, and pypdf joins them.

The browser has what LaTeX would need anew: the mathematics as MathJax sets it, fonts for Chinese, the figures at their
places. What is added here: pages numbered through, bookmarks, links that lead inside the PDF, a title page.
"""

from __future__ import annotations

import html
import io
import re
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag

from kexue_lib.book.errors import BookError

if TYPE_CHECKING:
    from pypdf import PdfReader

#: Width and height of a page's text in CSS pixels: A4 less the margins in print.css.
_TEXT = (657, 972)

#: Names under which Debian and others install the browser.
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")

#: Open what readers unfold (print.css leaves the code out), load every picture, shrink equations that are too wide.
_PREPARE = """async () => {
  document.documentElement.dataset.theme = "light";
  document.querySelectorAll("article details").forEach(d => d.open = true);
  document.querySelectorAll("img[loading=lazy]").forEach(i => i.loading = "eager");
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  for (const box of document.querySelectorAll("article div.math")) {
    const tex = box.querySelector("mjx-container");
    if (tex && box.scrollWidth > box.clientWidth + 1) {
      const size = parseFloat(getComputedStyle(tex).fontSize) * box.clientWidth / box.scrollWidth;
      tex.dataset.fit = ""; tex.style.setProperty("--kexue-fit", (0.98 * size) + "px");
    }
  }
  await document.fonts.ready;
}"""


#: The page may typeset its equations piece by piece; this is true when none is left.
_TYPESET = "() => [...document.querySelectorAll('.math')].every(e => e.querySelector('mjx-container'))"

#: The words of the headings, without the sign that links to each.
_HEADINGS = """() => [...document.querySelectorAll("article :is(h1, h2, h3, h4)")].map(heading =>
  [...heading.childNodes].filter(n => !n.classList?.contains("headerlink")).map(n => n.textContent).join(""))"""


@dataclass(frozen=True)
class Printed:
    """A page of the book on paper: its name, title and PDF, the number of its first page, and its headings."""

    name: str
    title: str
    content: bytes
    first: int
    headings: tuple[str, ...]


def make_pdf(site: Path, names: Sequence[str], target: Path, *, book: str, about: str, address: str = "") -> int:
    """Print pages of a built book into one PDF.

    Args:
        site: the folder of the built book.
        names: the pages, ``book/chapters/part/slug``, in order.
        target: the PDF to write.
        book: title of the book.
        about: a line below it, for the title page.
        address: of the published book: where links to pages lead that are not printed; they are cut if it is empty.

    Returns:
        The number of pages.

    Raises:
        BookError: no browser, no Playwright or pypdf, or a page is missing.
    """
    try:
        from playwright.sync_api import sync_playwright
        from pypdf import PdfWriter
        from pypdf.constants import PageLabelStyle
    except ModuleNotFoundError as error:
        raise BookError(f"A PDF needs {error.name}: pip install 'kexue-lib[dev]'") from None
    program = next((path for path in map(shutil.which, _BROWSERS) if path), None)
    if program is None:
        raise BookError(
            f"A PDF needs Chromium, and none of {', '.join(_BROWSERS)} is installed (apt install chromium)."
        )
    missing = [name for name in names if not (site / f"{name}.html").is_file()]
    if missing:
        raise BookError(f"These pages are not built: {', '.join(missing)}. Make them: kexue build")
    printed: list[Printed] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_ARGUMENTS))
        try:
            first = 1
            for name in names:
                printed.append(_print(browser, site, name, first))
                first += len(_read(printed[-1].content).pages)
            front = _print_front(browser, book, about, printed)
        finally:
            browser.close()
    writer = PdfWriter()
    writer.append(io.BytesIO(front), import_outline=False)
    ahead = len(writer.pages)
    for piece in printed:
        writer.append(io.BytesIO(piece.content), import_outline=True)
    _lead_inside(writer, site, printed, ahead, address)
    _read_as_characters(writer)
    _name_bookmarks(writer, [heading for piece in printed for heading in piece.headings])
    writer.set_page_label(0, ahead - 1, style=PageLabelStyle.LOWERCASE_ROMAN)
    writer.set_page_label(ahead, len(writer.pages) - 1, style=PageLabelStyle.DECIMAL, start=1)
    writer.add_metadata({"/Title": book, "/Author": about, "/Creator": "kexue", "/Producer": "Chromium, pypdf"})
    writer.page_layout, writer.page_mode = "/SinglePage", "/UseOutlines"
    writer.compress_identical_objects()
    target.parent.mkdir(parents=True, exist_ok=True)
    writer.write(target)
    return len(writer.pages)


def _print(browser: Any, site: Path, name: str, first: int) -> Printed:
    page = browser.new_page(viewport={"width": _TEXT[0], "height": _TEXT[1]}, color_scheme="light")
    try:
        page.emulate_media(media="print", color_scheme="light")
        page.goto((site / f"{name}.html").resolve().as_uri())
        page.wait_for_load_state("load")
        page.wait_for_function(_TYPESET)
        page.evaluate(_PREPARE)
        title = page.title().rpartition(" — ")[0] or page.title()
        headings = page.evaluate(_HEADINGS)
        page.add_style_tag(content=_running(title, first))
        content = page.pdf(prefer_css_page_size=True, print_background=True, outline=True, tagged=True)
    finally:
        page.close()
    return Printed(name, title, content, first, tuple(" ".join(heading.split()) for heading in headings))


def _running(title: str, first: int) -> str:
    """Page numbers that go on from the chapter before, and the title at the head of all pages but the first."""
    said = title.replace("\\", "\\\\").replace('"', '\\"')
    font = "font: 8pt sans-serif; color: #555;"
    return (
        f'@page {{ @bottom-center {{ content: counter(page); {font} }} @top-right {{ content: "{said}"; {font} }} }}'
        f"@page :first {{ @top-right {{ content: none; }} }} html {{ counter-reset: page {first - 1}; }}"
    )


def _print_front(browser: Any, book: str, about: str, printed: Sequence[Printed]) -> bytes:
    rows = "".join(f"<li><span>{html.escape(p.title)}</span><b>{p.first}</b></li>" for p in printed)
    page = browser.new_page(color_scheme="light")
    try:
        page.set_content(
            "<!doctype html><html lang='en'><style>@page{size:A4;margin:20mm 18mm}"
            "body{font:11pt/1.5 sans-serif;color:#1c2733}h1{font-size:34pt;margin:55mm 0 4mm;color:#1d4e89}"
            ".contents{break-before:page}ol{list-style:none;padding:0}"
            "li{display:flex;justify-content:space-between;gap:1em;padding:1mm 0;break-inside:avoid}</style>"
            f"<h1>{html.escape(book)}</h1><p>{html.escape(about)}</p>"
            f"<section class='contents'><h2>Contents</h2><ol>{rows}</ol></section></html>"
        )
        content: bytes = page.pdf(prefer_css_page_size=True, print_background=True, tagged=True)
    finally:
        page.close()
    return content


def _read(content: bytes) -> PdfReader:
    from pypdf import PdfReader

    return PdfReader(io.BytesIO(content))


def _lead_inside(writer: Any, site: Path, printed: Sequence[Printed], ahead: int, address: str) -> None:
    """Turn links between pages of the book, and named places (the names repeat), into places in the joined PDF."""
    from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, NullObject, TextStringObject

    places = {piece.name: _places(_read(piece.content)) for piece in printed}
    start = {piece.name: ahead + piece.first - 1 for piece in printed}

    def aim(link: Any, name: str, place: str) -> None:
        number, top = places[name].get(place, (0, None))
        up = FloatObject(top) if top is not None else NullObject()
        link[NameObject("/Dest")] = ArrayObject(
            [writer.pages[start[name] + number].indirect_reference, NameObject("/XYZ"), NullObject(), up, NullObject()]
        )
        link.pop("/A", None)

    root = site.resolve().as_uri() + "/"
    for piece in printed:
        last = start[piece.name] + len(_read(piece.content).pages)
        for number in range(start[piece.name], last):
            page = writer.pages[number]
            kept = ArrayObject()
            for reference in page.get("/Annots", ()):
                link = reference.get_object()
                where = link.get("/Dest")
                if isinstance(where, str):
                    aim(link, piece.name, str(where).removeprefix("/"))
                uri = str(link.get("/A", {}).get("/URI", "")) if "/A" in link else ""
                if uri.startswith(root):
                    path, place = urldefrag(uri.removeprefix(root))
                    name = unquote(path).removesuffix(".html")
                    if name in places:
                        aim(link, name, unquote(place))
                    elif address:
                        action = {NameObject("/S"): NameObject("/URI"), NameObject("/URI"): TextStringObject("")}
                        action[NameObject("/URI")] = TextStringObject(address + uri.removeprefix(root))
                        link[NameObject("/A")] = DictionaryObject(action)
                    else:
                        continue
                kept.append(reference)
            if kept:
                page[NameObject("/Annots")] = kept
            elif "/Annots" in page:
                del page["/Annots"]
    names = writer.root_object
    for key in ("/Dests", "/Names"):
        if key in names:
            del names[key]


def _name_bookmarks(writer: Any, headings: Sequence[str]) -> None:
    """Give the bookmarks the headings' words: where a heading was broken into lines, Chromium joins two of them."""
    from pypdf.generic import NameObject, TextStringObject

    known = {re.sub(r"\s", "", heading): heading for heading in headings}

    def walk(item: Any) -> None:
        while item is not None:
            node = item.get_object()
            if title := known.get(re.sub(r"\s", "", str(node.get("/Title", "")))):
                node[NameObject("/Title")] = TextStringObject(title)
            if "/First" in node:
                walk(node["/First"])
            item = node.get("/Next")

    walk(writer.root_object.get("/Outlines", {}).get("/First"))


def _read_as_characters(writer: Any) -> None:
    """Let copied and searched text hold the characters that were printed.

    Where a font draws a Chinese character and a radical with one glyph, Chromium notes the radical (U+2F00 for 一), and
    a search for the character finds nothing.
    """
    from pypdf.generic import DecodedStreamObject, NameObject

    seen = set()
    for page in writer.pages:
        for reference in page.get("/Resources", {}).get("/Font", {}).values():
            font = reference.get_object()
            if "/ToUnicode" not in font or id(font) in seen:
                continue
            seen.add(id(font))
            table = font["/ToUnicode"].get_data()
            mended = re.sub(rb"(?<=<)(2F[0-9A-D][0-9A-F])(?=>)", _of_radical, table)
            if mended != table:
                stream = DecodedStreamObject()
                stream.set_data(mended)
                font[NameObject("/ToUnicode")] = writer._add_object(stream.flate_encode())


def _of_radical(found: re.Match[bytes]) -> bytes:
    character = unicodedata.normalize("NFKC", chr(int(found.group(1), 16)))
    return f"{ord(character):04X}".encode() if len(character) == 1 else found.group(1)


def _places(reader: PdfReader) -> dict[str, tuple[int, float | None]]:
    """The named places of a PDF: number of the page and height on it."""
    found = {}
    for name, place in reader.named_destinations.items():
        number = reader.get_destination_page_number(place)
        if number is not None and number >= 0:
            top = place.top
            found[re.sub(r"^/", "", name)] = (number, float(top) if top is not None else None)
    return found

"""The book as one zip file that opens from the file system, without a server and without a network.

The same book gives the same bytes: names in order, one fixed time, no user and no machine in it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from kexue_lib.book.errors import BookError

#: The earliest time that a zip file can state; it stands at every file.
_TIME = (1980, 1, 1, 0, 0, 0)

_README = """\
{title}, version {version}

Open index.html in a browser. Nothing is fetched from the network.
The chapters' notebooks, with their outputs, are in _sources/book/chapters.
"""

# Over file:// a browser refuses fonts that are asked for ahead (they are loaded all the same when they are needed), and
# the excerpts that the search page would fetch from the pages that it has found.
_FONT_AHEAD = re.compile(r'[ \t]*<link rel="preload" as="font"[^>]*>\n?')
_EXCERPTS = ("SHOW_SEARCH_SUMMARY: true", "SHOW_SEARCH_SUMMARY: false")


def make_archive(site: Path, folder: Path, *, title: str, version: str) -> Path:
    """Pack a built book.

    Args:
        site: the folder of the built book.
        folder: where to write ``<title>-<version>.zip``.
        title: of the book.
        version: of the book.

    Returns:
        The zip file.

    Raises:
        BookError: there is no built book.
    """
    if not (site / "index.html").is_file():
        raise BookError(f"{site} holds no built book. Make it: kexue build")
    name = f"{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}-{version}"
    target = folder / f"{name}.zip"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, content in sorted(
            [*_contents(site), ("README.txt", _README.format(title=title, version=version).encode())]
        ):
            entry = zipfile.ZipInfo(f"{name}/{path}", _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, also when made on Windows
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    unfinished.replace(target)
    return target


def _contents(site: Path) -> Iterator[tuple[str, bytes]]:
    """Paths and contents of the files to pack: none of the builder's own, no picture that no page shows any more."""
    files = {path.relative_to(site).as_posix(): path for path in site.rglob("*") if path.is_file()}
    shown: set[str] = set()
    for name, path in files.items():
        if name.endswith(".html"):
            shown.update(re.findall(r"_images/[^\"'?#\s]+", path.read_text(encoding="utf-8")))
    for name, path in files.items():
        if path.name.startswith(".") or (name.startswith("_images/") and name not in shown):
            continue
        yield name, _for_the_file_system(name, path.read_bytes())


def _for_the_file_system(name: str, content: bytes) -> bytes:
    if name.endswith(".html"):
        return _FONT_AHEAD.sub("", content.decode()).encode()
    if name == "_static/documentation_options.js":
        return content.decode().replace(*_EXCERPTS).encode()
    return content

"""MathJax, served with the book: no page asks another host for it."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from kexue_lib.book.errors import BookError

#: The distribution that ships MathJax, and what of it a page needs (2 MB of 19): the start, which loads the
#: parts that `kexue.js` names (without the menu, which is a third of the usual single file), and the fonts.
DISTRIBUTION = "sphinx-mathjax-offline"
_NEEDED = ("startup.js", "core.js", "input/tex.js", "input/tex/extensions/", "output/chtml", "a11y/assistive-mml.js")


def copy_mathjax(target: Path) -> None:
    """Copy the files of MathJax that pages need into ``target``; files that are there already are left alone.

    Raises:
        BookError: the distribution that ships MathJax is not installed.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    found = 0
    for file in files:
        _, inside, name = file.as_posix().partition("/static/mathjax/")
        if not inside or not name.startswith(_NEEDED):
            continue
        found += 1
        source, copy = Path(str(file.locate())), target / name
        if copy.is_file() and copy.stat().st_size == source.stat().st_size:
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    if found < len(_NEEDED):
        raise BookError(
            f"The package {DISTRIBUTION}, which ships MathJax, is not installed (or has not the expected files). "
            "Install it: pip install 'kexue-lib[book]'"
        )

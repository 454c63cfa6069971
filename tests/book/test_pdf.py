"""The PDF, of one chapter and the page before it: the whole book takes minutes, and is made of the same."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pypdf
import pytest
from checkouts import REPOSITORY
from PIL import Image, ImageStat

from kexue_lib.book.cards import read_card
from kexue_lib.book.errors import BookError
from kexue_lib.book.notebooks import read_executed
from kexue_lib.book.pdf import make_pdf
from kexue_lib.book.project import Project
from kexue_lib.book.records import gather

CHAPTER = Project(REPOSITORY).chapters[0]
NAMES = ["book/how-to-read", CHAPTER.page]
pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def reader(site: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The PDF; the fixture `browser` says whether there is a Chromium, and skips or fails if not."""
    target = tmp_path_factory.mktemp("pdf") / "book.pdf"
    count = print_elsewhere(site, target)
    assert target.stat().st_size < 8e6
    found = pypdf.PdfReader(io.BytesIO(target.read_bytes()))
    assert len(found.pages) == count
    return found


def print_elsewhere(site: Path, target: Path) -> int:
    """Playwright's synchronous interface runs once in a process, and the fixture has it already."""
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from kexue_lib.book.pdf import make_pdf; "
        "print(make_pdf(Path(sys.argv[1]), sys.argv[3:], Path(sys.argv[2]), book='Executable Kexue', about='by us'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), str(target), *NAMES],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[-1])


def test_bookmarks_lead_to_the_pages_whose_numbers_are_printed(reader: Any) -> None:
    tops = [entry for entry in reader.outline if not isinstance(entry, list)]
    assert tops[0].title == "How to read this book"
    assert len(tops) == len(NAMES)
    for entry in tops:
        page = reader.get_destination_page_number(entry)
        text = reader.pages[page].extract_text()
        assert entry.title in " ".join(text.split())
        assert reader.page_labels[page] in text.split(), "the number at the foot is the number of the label"
    below = [entry for entry in reader.outline if isinstance(entry, list)]
    assert len(below) == len(NAMES)
    assert all(len(entries) > 3 for entries in below)
    label = reader.page_labels[reader.get_destination_page_number(tops[1])]
    assert re.search(rf"{re.escape(tops[1].title)}\s*{label}", reader.pages[1].extract_text()), "the contents"


def test_every_page_has_its_number_and_none_is_empty(reader: Any) -> None:
    for number, page in enumerate(reader.pages):
        label, words = reader.page_labels[number], page.extract_text().split()
        assert words, f"page {number} is empty"
        if label.isdigit():
            assert label in words, f"page {number} has not its number {label}"


def test_steps_claims_and_chinese_titles_are_there_as_text(reader: Any) -> None:
    text = "\n".join(page.extract_text() for page in reader.pages)
    assert not re.search("[\u2f00-\u2fd5]", text), "a radical in place of the character"
    assert read_card(CHAPTER.source).title_zh in re.sub(r"\s", "", text)
    records = gather(read_executed(CHAPTER))
    missing = [s["id"] for s in records.steps if not s.get("links") and f"({s['id']})" not in text]
    assert missing == []
    assert all(claim["id"] in text for claim in records.claims)
    assert not re.search("Show the code|Code:|import numpy|D\\.exact\\(", text), "folded code"
    assert "Solution" in text
    assert "Download the notebook" not in text


def test_links_lead_inside_the_pdf_or_to_the_web_never_to_files(reader: Any) -> None:
    inside, web = 0, 0
    for page in reader.pages:
        for reference in page.get("/Annots", ()):
            link = reference.get_object()
            if link.get("/Subtype") != "/Link":
                continue
            if "/Dest" in link:
                target = link["/Dest"]
                assert not isinstance(target, str), "a named place: chapters use the same names"
                assert target[0].get_object()["/Type"] == "/Page"
                inside += 1
            else:
                uri = link["/A"]["/URI"]
                assert uri.startswith("https://"), uri
                web += 1
    assert inside > 5
    assert web > 1


def test_figures_are_there_and_the_paper_is_white(reader: Any, site: Path) -> None:
    figures = gather(read_executed(CHAPTER)).figures
    pictures = [image for page in reader.pages for image in page.images]
    assert len(pictures) >= len(figures)
    for image in pictures[: len(figures)]:
        assert max(ImageStat.Stat(Image.open(io.BytesIO(image.data)).convert("L")).extrema[0]) > 200


def test_a_missing_page_is_named(tmp_path: Path) -> None:
    with pytest.raises(BookError, match="not built: book/nowhere"):
        make_pdf(tmp_path, ["book/nowhere"], tmp_path / "x.pdf", book="x", about="x")

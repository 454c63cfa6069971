"""A small book as it is published, and on a bad day: made by Sphinx, read in its files and in the browser."""

from __future__ import annotations

import io
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import book_pages
import pytest
import yaml
from checkouts import PAGE, STEP, Checkout
from PIL import Image
from pypdf import PdfReader

from kexue_lib.book.previews import SIZE

URL = "https://github.com/someone/kexue"
SITE = "https://someone.github.io/kexue/"
OLD = "book/chapters/attention/old-name"
DERIVATION = "from kexue_lib.derive import Derivation\n\nd = Derivation('toy')\n"
FIGURE = """
from IPython.display import display
from kexue_lib.derive import Derivation

d = Derivation("toy")

picture = "iVBORw0KGgoAAAANSUhEUgAAAAoAAAAKCAIAAAACUFjqAAAAEklEQVR4nGP4z8CABzGMSjNgCRYAt8pjnQuW8k4AAAAASUVORK5CYII="
display({"image/png": picture, "text/plain": "figure"}, raw=True, metadata={"image/png": {"alt": "A square."}})
"""


def configure(checkout: Checkout, url: str, pages: list[str]) -> None:
    """Write what the book's own _config.yml has, with a repository, and the contents."""
    config = {
        "title": "Small Book",
        "only_build_toc_files": True,
        "repository": {"url": url, "branch": "main", "path_to_book": ""},
        "launch_buttons": {"notebook_interface": "classic", "colab_url": "https://colab.research.google.com"},
        "sphinx": {
            "extra_extensions": ["kexue_lib.book.markup"],
            "config": {
                "html_static_path": ["book/_generated/static"],
                "mathjax_path": "mathjax/tex-mml-chtml.js",
                "myst_enable_extensions": ["dollarmath", "colon_fence"],
                "myst_heading_anchors": 3,
                "suppress_warnings": ["mystnb.unknown_mime_type"],
                "nb_ipywidgets_js": {},
            },
        },
        "parse": {"myst_enable_extensions": ["dollarmath", "colon_fence"]},
        "html": {"use_repository_button": False},
    }
    checkout.write("_config.yml", yaml.safe_dump(config))
    toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": page} for page in pages]}
    checkout.write("_toc.yml", yaml.safe_dump(toc))


@pytest.fixture(scope="module")
def published(built_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The small checkout with a repository's address and a page that has moved, built."""
    root = tmp_path_factory.mktemp("published") / "checkout"
    shutil.copytree(built_once.root, root, symlinks=True)
    there = Checkout(root)
    configure(there, URL, [PAGE, "book/other"])
    there.write("book/other.md", "# Other\n\nA page of prose that has more than eight words in its first paragraph.\n")
    there.write("book/redirects.yml", f"{OLD}: {PAGE}\n")
    there.chapter(FIGURE, STEP, "[markdown]\n## Where it leads\n\n<a id='D1'></a>See [(D1)](#D1).")
    done = there.kexue("build", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "placeholder" not in done.stdout
    return there


def html_of(checkout: Checkout) -> Path:
    return checkout.root / "_build" / "html"


@pytest.mark.slow
def test_a_chapter_has_its_buttons_once_the_repository_has_an_address(published: Checkout) -> None:
    page = book_pages.parse(html_of(published) / f"{PAGE}.html")
    colab = f"https://colab.research.google.com/github/someone/kexue/blob/main/{PAGE}.ipynb"
    links = [str(a["href"]) for a in page.find_all("a", href=True)]
    assert links.count(colab) == 2, "the theme's button and the link in the banner"
    (banner,) = page.select(".kexue-run")
    assert "about 1 minute on one CPU core" in banner.get_text()
    (download,) = banner.select("a[download]")
    file = html_of(published) / PAGE
    notebook = (file.parent / str(download["href"])).resolve()
    assert notebook.read_bytes() == published.executed().read_bytes()
    assert book_pages.wrong_repository_links(html_of(published)) == []
    assert f"git+{URL}@main" in published.executed().read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_published_pages_have_absolute_addresses_and_nothing_is_loaded_from_there(published: Checkout) -> None:
    site = html_of(published)
    page = book_pages.parse(site / f"{PAGE}.html")
    assert page.select_one('link[rel="canonical"]')["href"] == f"{SITE}{PAGE}.html"  # type: ignore[index]
    said = {str(tag["property"]): str(tag["content"]) for tag in page.select("meta[property]")}
    assert said["og:url"] == f"{SITE}{PAGE}.html"
    assert said["og:site_name"] == "Small Book"
    assert said["og:image:alt"] == "A square."
    assert said["og:image"].startswith(SITE)
    image = Image.open(io.BytesIO((site / said["og:image"].removeprefix(SITE)).read_bytes()))
    assert image.size == SIZE
    listed = re.findall("<loc>(.*?)</loc>", (site / "sitemap.xml").read_text(encoding="utf-8"))
    assert listed == [SITE + name for name in sorted([f"{PAGE}.html", "book/index.html", "book/other.html"])]
    assert all((site / address.removeprefix(SITE)).is_file() for address in listed)
    assert f"Sitemap: {SITE}sitemap.xml" in (site / "robots.txt").read_text(encoding="utf-8")
    assert book_pages.foreign_loads(site) == []
    assert book_pages.foreign_scripts(site) == []


@pytest.mark.slow
def test_the_sitemap_has_all_pages_after_a_build_that_wrote_one(published: Checkout, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(published.root, root, symlinks=True)
    there = Checkout(root)
    there.write("book/other.md", "# Other\n\nOther prose with more than eight words in its first paragraph, changed.\n")
    done = there.kexue("build", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed" in (html_of(there) / "book/other.html").read_text(encoding="utf-8")
    assert (html_of(there) / "sitemap.xml").read_bytes() == (html_of(published) / "sitemap.xml").read_bytes()
    assert (html_of(there) / f"{OLD}.html").is_file()


@pytest.mark.slow
@pytest.mark.browser
def test_an_old_address_leads_to_the_new_one_and_keeps_the_step(published: Checkout, browser: Any) -> None:
    with book_pages.served(html_of(published)) as base:
        for javascript in (True, False):
            context = browser.new_context(java_script_enabled=javascript)
            page = context.new_page()
            page.goto(f"{base}{OLD}.html#D1")
            page.wait_for_url(re.compile(re.escape(f"{base}{PAGE}.html")))
            assert "A quick derivation" in page.inner_text("article h1")
            if javascript:
                assert page.url == f"{base}{PAGE}.html#D1"
            context.close()
    assert [line for line in book_pages.dead_links(html_of(published)) if line.startswith(OLD)] == []


@pytest.mark.slow
def test_the_command_line_packs_the_book_under_its_version(published: Checkout) -> None:
    done = published.kexue("dist")
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (published.root / "dist").glob("*.zip")
    assert made.name == f"small-book-{version('kexue-lib')}.zip"
    assert f"dist/{made.name}" in done.stdout
    content = made.read_bytes()
    assert published.kexue("dist").returncode == 0
    assert made.read_bytes() == content


@pytest.mark.slow
@pytest.mark.browser
def test_the_command_line_prints_a_chapter(published: Checkout, browser: Any, tmp_path: Path) -> None:
    done = published.kexue("pdf", "entropy-invariant-softmax", "--output", str(tmp_path / "one.pdf"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "one.pdf" in done.stdout
    text = "".join(page.extract_text() for page in PdfReader(tmp_path / "one.pdf").pages)
    assert "A quick derivation of the entropy-invariant softmax" in " ".join(text.split())


# ---------------------------------------------------------------------------------------------------------------------
# Bad days
# ---------------------------------------------------------------------------------------------------------------------

SECOND = "book/chapters/gated/gau-warmup"
THIRD = "book/chapters/attention/softmax-suits-attention"


@pytest.fixture(scope="module")
def bad_day(published: Checkout, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, str]:
    """One chapter fails that had a notebook, one fails that had none, one is stale and was not asked for."""
    root = tmp_path_factory.mktemp("bad") / "checkout"
    shutil.copytree(published.root, root, symlinks=True)
    there = Checkout(root)
    there.chapter(DERIVATION + "print('old results of the third')", STEP, slug="softmax-suits-attention")
    assert there.kexue("build", "--no-html", "softmax-suits-attention").returncode == 0
    configure(there, URL, [THIRD, PAGE, SECOND])
    there.chapter(DERIVATION + "print('new results of the third')", STEP, slug="softmax-suits-attention")
    there.chapter(FIGURE, "def deep():\n    return 1 / 0\n\n\ndeep()")
    there.chapter("raise RuntimeError('the ```fence``` of $x$')", slug="gau-warmup")
    before = there.executed().read_bytes()
    done = there.kexue("build", "--keep-going", "entropy-invariant-softmax", "gau-warmup", timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert there.executed().read_bytes() == before
    assert not there.executed("gau-warmup").exists()
    return there, done.stdout


@pytest.mark.slow
def test_a_chapter_that_fails_is_shown_as_not_built_with_cell_and_error(bad_day: tuple[Checkout, str]) -> None:
    there, said = bad_day
    assert "their pages say why" in said
    for name, cell, error in (
        (PAGE, "cell 5 (notebooks/attention/entropy-invariant-softmax.py:", "ZeroDivisionError: division by zero"),
        (SECOND, "cell 4 (notebooks/gated/gau-warmup.py:", "RuntimeError: the ```fence``` of $x$"),
    ):
        page = book_pages.parse(html_of(there) / f"{name}.html")
        text = " ".join(page.select_one("article").get_text().split())  # type: ignore[union-attr]
        assert "Not built" in text
        assert cell in text
        assert error in text
        assert len(page.select("h1")) >= 1
        assert not page.select(".kexue-run"), "nothing to run"
        assert not [
            a
            for a in page.find_all("a", href=True)
            if str(a["href"]).endswith(".ipynb") and "_sources" in str(a["href"])
        ]
        assert not (html_of(there) / "_sources" / f"{name}.ipynb").exists(), "an old notebook would look like a new one"
        assert "Small Book" in str(page.select_one('meta[property="og:site_name"]'))
    assert "A square." not in (html_of(there) / f"{PAGE}.html").read_text(encoding="utf-8"), "an old figure"


@pytest.mark.slow
def test_a_stale_chapter_says_since_when_and_why(bad_day: tuple[Checkout, str]) -> None:
    there, said = bad_day
    assert "attention/softmax-suits-attention is stale too, but was not asked for: its page says so" in said
    page = book_pages.parse(html_of(there) / f"{THIRD}.html")
    (notice,) = page.select(".admonition.kexue-stale")
    text = " ".join(notice.get_text().split())
    assert re.search(r"results of an earlier run \(notebook of \d{4}-\d\d-\d\d\)", text)
    assert "the source has changed" in text
    assert "old results of the third" in page.get_text()


@pytest.mark.slow
def test_the_notices_go_when_the_chapters_run_again(bad_day: tuple[Checkout, str], tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    shutil.copytree(bad_day[0].root, root, symlinks=True)
    there = Checkout(root)
    there.chapter(FIGURE, STEP)
    there.chapter("print('it runs')", slug="gau-warmup")
    done = there.kexue("build", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (PAGE, SECOND, THIRD):
        text = (html_of(there) / f"{name}.html").read_text(encoding="utf-8")
        assert "Not built" not in text
        assert "kexue-stale" not in text
        assert "kexue-run" in text
    assert not list((there.root / "_build" / "failed").rglob("*.json"))

"""Checkouts that tests work on, and the real book in a real browser."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import book_pages
import pytest
from checkouts import CLAIMS, PAGE, REPOSITORY, STEP, Checkout, make_checkout
from filelock import FileLock


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and children inherit that; tests press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout with a small kexue_lib of its own (the pipeline in it is the real one) and no chapter yet."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture(scope="session")
def built_once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout with one chapter that was built; tests work on copies of it."""
    there = make_checkout(tmp_path_factory.mktemp("built") / "checkout")
    there.write("requirements.txt", f"tqdm=={version('tqdm')}\n# sphinx is no matter of chapters\nsphinx==0.0.1\n")
    there.write("_toc.yml", "format: jb-book\nroot: book/index\nchapters:\n- file: " + PAGE + "\n")
    there.chapter(
        "import tqdm\nimport kexue_lib.alpha\nfrom kexue_lib.derive import Derivation\n\nd = Derivation('toy')",
        STEP,
        "[experiment] print('seed', seed)",
        CLAIMS,
        "[markdown]\n## Where it leads\n\n$x$: see [(D1)](#D1) and [below](#where-it-leads).\n<a id='D1'></a>",
    )
    done = there.kexue("build", "--no-html")
    assert done.returncode == 0, done.stdout + done.stderr
    return there


@pytest.fixture
def built(built_once: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the checkout that was built, free to change."""
    shutil.copytree(built_once.root, tmp_path / "checkout", symlinks=True)
    return Checkout(tmp_path / "checkout")


# The real book, in a real browser -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, made now unless it is there and fresh (then `kexue build` has nothing to do).

    Tests run in several processes, and `kexue build` refuses to run twice at a time: they wait for each other.
    """
    command = [sys.executable, "-m", "kexue_lib.book.cli", "build"]
    with FileLock(tmp_path_factory.getbasetemp().parent / "site.lock"):
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return REPOSITORY / "_build" / "html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium. Its absence is a skip on a developer's machine, and a failure where CI is set."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for path in map(shutil.which, names) if path), None)
    if program is None:
        reason = f"no browser: none of {', '.join(names)} is installed"
        if os.environ.get("CI", "").lower() in ("1", "true"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=book_pages.CHROMIUM_ARGUMENTS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with book_pages.served(site) as base:
        yield base


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What each page weighs and how long it keeps the processor, as measured by the tests of the pages."""
    passed_or_not = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    rows = [
        value for report in passed_or_not for key, value in getattr(report, "user_properties", ()) if key == "weight"
    ]
    if not rows:
        return
    terminalreporter.section("weight of the pages, without images (kB, text compressed)")
    kinds = ("html", "css", "js", "mathjax", "woff")
    terminalreporter.write_line(f"{'page':<50}{'sum':>6}" + "".join(f"{k:>9}" for k in kinds) + "   CPU until readable")
    for row in sorted(rows, key=lambda row: str(row["page"])):
        total = sum(value for key, value in row.items() if key not in ("page", "cpu"))
        cells = "".join(f"{row.get(kind, 0):>9}" for kind in kinds)
        terminalreporter.write_line(f"{row['page']:<50}{total:>6}{cells}   {row['cpu']} s")

"""What all tests share: how thorough the runs of the chapters are."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--thorough``."""
    parser.addoption(
        "--thorough",
        action="store_true",
        help="audit every step of every chapter again and run each chapter with seeds 1 and 2 (by default every third "
        "step and one of the two seeds: the rest stands in the committed records)",
    )

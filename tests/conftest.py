"""How the tests are spread over processes (`pytest --numprocesses … --dist loadgroup`, as in `make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent / "book"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file in tests/book share a built book, a wheel or a checkout: they stay in one process."""
    for item in items:
        if item.path.parent == BOOK and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))

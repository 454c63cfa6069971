"""How the tests are spread over processes (`pytest --numprocesses … --dist loadgroup`, as in `make test`)."""

from __future__ import annotations

from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent / "book"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of the real book stay in one process, and so do those of a file that share a checkout or a wheel."""
    for item in items:
        if item.path.parent == BOOK and not item.get_closest_marker("xdist_group"):
            group = "site" if "site" in getattr(item, "fixturenames", ()) else item.path.stem
            item.add_marker(pytest.mark.xdist_group(group))

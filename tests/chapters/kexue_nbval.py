"""A pytest plugin for nbval: mask the measured numbers inside the JSON records, compare the rest to the letter.

nbval's own masking works on text only. Records of steps, claims and figures are JSON objects, and whatever stands in
them under ``measured`` may differ between machines; its names and lengths may not.
"""

from __future__ import annotations

from typing import Any

import pytest


def masked(value: Any, measured: bool = False) -> Any:
    """A JSON value with every number below a key ``measured`` replaced by ``#``.

    >>> masked({"measured": {"slope": [0.89, 1]}, "n": 3, "met": True})
    {'measured': {'slope': ['#', '#']}, 'n': 3, 'met': True}
    """
    if isinstance(value, dict):
        return {key: masked(inner, measured or key == "measured") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(inner, measured) for inner in value]
    if measured and isinstance(value, (int, float)) and not isinstance(value, bool):
        return "#"
    return value


def pytest_configure(config: pytest.Config) -> None:
    """Put the masking of records before nbval's masking of text."""
    from nbval.plugin import IPyNbCell

    text_only = IPyNbCell.sanitize

    def sanitize(self: Any, value: Any) -> Any:
        return masked(value) if isinstance(value, (dict, list)) else text_only(self, value)

    IPyNbCell.sanitize = sanitize

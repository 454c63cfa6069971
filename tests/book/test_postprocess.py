"""What is kept of an executed notebook."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from kexue_lib.book.postprocess import UnsteadyOutput, finish, refuse_unsteady, write

CONVERTED: dict[str, Any] = {
    "cells": [{"cell_type": "code", "id": "a", "metadata": {"tags": ["experiment"]}, "source": "1", "outputs": [],
               "execution_count": None}],
    "metadata": {"kexue": {"archive": 1}, "kernelspec": {}},
}  # fmt: skip


def executed(*outputs: dict[str, Any]) -> dict[str, Any]:
    notebook = copy.deepcopy(CONVERTED)
    cell = notebook["cells"][0]
    cell["metadata"]["papermill"] = {"duration": 1.5}
    cell["metadata"]["execution"] = {"iopub.status.busy": "now"}
    cell["execution_count"], cell["outputs"] = 1, list(outputs)
    notebook["metadata"]["papermill"] = {"start_time": "now", "input_path": "/tmp/x"}
    return notebook


def shown(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"output_type": "display_data", "data": data, "metadata": metadata or {}}


def test_times_and_paths_of_the_run_are_dropped_and_the_record_is_added() -> None:
    notebook = finish(executed(shown({"text/plain": "x"})), CONVERTED, {"source": "abc"})
    assert notebook["metadata"] == {"kexue": {"archive": 1, "run": {"source": "abc"}}, "kernelspec": {}}
    assert notebook["cells"][0]["metadata"] == {"tags": ["experiment"]}
    assert notebook["cells"][0]["execution_count"] == 1
    assert CONVERTED["metadata"]["kexue"] == {"archive": 1}


def test_the_alternative_text_of_a_figure_comes_to_the_cell() -> None:
    figure = shown({"image/png": "iVBO"}, {"image/png": {"alt": "A line rises.", "width": 640}})
    cell = finish(executed(figure), CONVERTED, {})["cells"][0]
    assert cell["metadata"]["mystnb"] == {"image": {"alt": "A line rises.", "width": "640px"}}


def test_two_figures_in_a_cell_are_an_error() -> None:
    figure = shown({"image/png": "iVBO"}, {"image/png": {"alt": "A line rises."}})
    with pytest.raises(UnsteadyOutput, match="one in a cell"):
        finish(executed(figure, figure), CONVERTED, {})


@pytest.mark.parametrize(
    "text",
    ["<object at 0x7f12ab34cd56>", "/tmp/ipykernel_123/1.py:3: Warning", "see /home/someone/kexue/notebooks"],
)
def test_an_output_that_differs_elsewhere_is_an_error(text: str) -> None:
    for output in ({"output_type": "stream", "name": "stderr", "text": text}, shown({"text/plain": [text]})):
        with pytest.raises(UnsteadyOutput, match="would differ elsewhere") as caught:
            refuse_unsteady(executed(output), [Path("/home/someone")])
        assert caught.value.cell == "a"
    refuse_unsteady(executed(shown({"text/plain": "≈ 0.84 at 0x"})), [Path("/home/someone")])


def test_writing_sorts_keys_and_ends_in_one_newline() -> None:
    notebook = finish(executed(shown({"text/plain": "a\nb"})), CONVERTED, {})
    text = write(notebook)
    assert text == write(dict(reversed(notebook.items())))
    assert text.endswith("}\n")
    assert "\r" not in text

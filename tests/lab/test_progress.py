"""A progress bar shows for people and is silent for machines."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from kexue_lib import lab
from kexue_lib.lab.progressbar import is_silent


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that says nothing."""
    for name in ("KEXUE_PROGRESS", "CI", "PYTEST_VERSION"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def _terminal(patch: pytest.MonkeyPatch, there: bool) -> None:
    # Not in the fixture: pytest puts its own stderr in place when the test begins.
    patch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: there))


def test_shown_on_a_terminal_only(alone: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        _terminal(alone, there)
        assert is_silent() is not there


@pytest.mark.parametrize(
    ("name", "value", "silent"),
    [
        ("KEXUE_PROGRESS", "0", True),
        ("KEXUE_PROGRESS", "1", False),
        ("CI", "true", True),
        ("CI", "false", False),
        ("PYTEST_VERSION", "9.2.0", True),
    ],
)
def test_environment(alone: pytest.MonkeyPatch, name: str, value: str, silent: bool) -> None:
    _terminal(alone, True)
    alone.setenv(name, value)
    assert is_silent() is silent


def test_wish_goes_before_all_else(alone: pytest.MonkeyPatch) -> None:
    alone.setenv("CI", "true")
    alone.setenv("KEXUE_PROGRESS", "1")
    assert not is_silent()
    alone.setenv("KEXUE_PROGRESS", "yes")
    with pytest.raises(ValueError, match="KEXUE_PROGRESS='yes' is not allowed; allowed: '0', '1'"):
        is_silent()


def _kernel(attended: bool) -> SimpleNamespace:
    kernel = SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": attended}})
    return SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))


@pytest.mark.parametrize("attended", [True, False])
def test_in_a_kernel_the_front_end_decides(alone: pytest.MonkeyPatch, attended: bool) -> None:
    alone.setitem(sys.modules, "IPython", _kernel(attended))  # type: ignore[arg-type]
    _terminal(alone, not attended)
    assert is_silent() is not attended


def test_silent_in_a_notebook_that_no_person_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # nbclient is what papermill executes with; nbval sends the same allow_stdin=False.
    for name in ("KEXUE_PROGRESS", "CI", "PYTEST_VERSION", "PYTEST_CURRENT_TEST"):
        monkeypatch.delenv(name, raising=False)
    source = "from kexue_lib import lab\nprint(sum(lab.progress(range(5), desc='x')))"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(book, timeout=60, kernel_name="python3").execute()
    assert [(o.output_type, o.get("name"), o.get("text")) for o in book.cells[0].outputs] == [
        ("stream", "stdout", "10\n")
    ]


def test_bar_writes_when_it_is_wanted_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    for wish, writes in (("1", True), ("0", False)):
        monkeypatch.setenv("KEXUE_PROGRESS", wish)
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(lab.progress(iter("abc"), desc="training", total=3)) == ["a", "b", "c"]
        assert ("training" in stream.getvalue()) is writes


def test_bar_by_hand() -> None:
    bar = lab.progress(total=3)
    bar.update()
    bar.close()


def test_missing_tqdm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.std", None)
    with pytest.raises(lab.MissingPackageError, match=r"'tqdm'.*extra 'lab': pip install \"kexue-lib\[lab\]\""):
        lab.progress(range(3))

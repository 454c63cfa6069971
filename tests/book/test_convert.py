"""From source to notebook: the same bytes every time, stable ids, the setup cell, the parameters."""

from __future__ import annotations

import json
import re

import pytest
from checkouts import Checkout

from kexue_lib.book.config import read_config
from kexue_lib.book.convert import cell_lines, parameters_of, to_notebook
from kexue_lib.book.errors import BookError
from kexue_lib.book.parameters import override, read_parameters


def test_the_same_source_gives_the_same_bytes_and_ids_survive_an_edit_elsewhere(checkout: Checkout) -> None:
    config = read_config(checkout.project)
    path = checkout.chapter("x = 1", "x = 1", "y = 2")
    first, again = to_notebook(path, config), to_notebook(path, config)
    assert json.dumps(first) == json.dumps(again)
    ids = [cell["id"] for cell in first["cells"]]
    assert len(set(ids)) == len(ids)
    edited = to_notebook(checkout.chapter("z = 0", "x = 1", "x = 1", "y = 3"), config)
    others = [cell["id"] for cell in edited["cells"]]
    assert others[:3] + others[4:6] == ids[:-1]
    assert others[-1] != ids[-1]


def test_only_the_card_and_the_tags_are_kept_of_the_metadata(checkout: Checkout) -> None:
    notebook = to_notebook(checkout.chapter("[experiment] x = 1"), read_config(checkout.project))
    assert set(notebook["metadata"]) == {"kernelspec", "language_info", "kexue"}
    assert notebook["metadata"]["kexue"]["archive"] == 9034
    assert notebook["cells"][-1]["metadata"] == {"tags": ["experiment"]}


def test_with_the_placeholder_the_setup_cell_says_how_to_install_from_a_checkout(checkout: Checkout) -> None:
    setup = to_notebook(checkout.chapter("x = 1"), read_config(checkout.project))["cells"][1]["source"]
    hidden = setup.replace('find_spec("kexue_lib") is None', "find_spec('kexue_lib_that_is_not') is None")
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[lab\]'"):
        exec(compile(hidden, "setup", "exec"), {})


def test_with_an_address_the_setup_cell_installs_and_keeps_torch_and_numpy(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    import subprocess
    from pathlib import Path

    text = checkout.project.config.read_text(encoding="utf-8")
    text = text.replace("https://example.org/executable-kexue", "https://github.com/somebody/book.git")
    checkout.project.config.write_text(text, encoding="utf-8")
    setup = to_notebook(checkout.chapter("x = 1"), read_config(checkout.project))["cells"][1]["source"]
    called = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: called.append(command))
    monkeypatch.chdir(str(tmp_path))
    hidden = setup.replace('find_spec("kexue_lib") is None', "find_spec('kexue_lib_that_is_not') is None")
    exec(compile(hidden, "setup", "exec"), {})
    (command,) = called
    assert command[-1] == "kexue-lib[lab] @ git+https://github.com/somebody/book@main"
    kept = Path(command[command.index("--constraint") + 1]).read_text(encoding="utf-8")
    assert re.fullmatch(r"torch==\S+\nnumpy==\S+\n", kept)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["[setup] x = 1"], "exactly one code cell tagged 'setup', found 2"),
        (["[parameters] x = 1"], "exactly one code cell tagged 'parameters', found 2"),
        (["[experimnt] x = 1"], "unknown tag experimnt"),
        (["[experiment]"], "empty code cell"),
    ],
)
def test_a_wrong_anatomy_is_an_error_that_names_the_line(checkout: Checkout, cells: list[str], said: str) -> None:
    path = checkout.chapter(*cells)
    with pytest.raises(BookError, match=r"notebooks/attention/entropy-invariant-softmax\.py") as caught:
        to_notebook(path, read_config(checkout.project))
    assert said in str(caught.value)


def test_the_lines_of_cells_are_those_of_the_source(checkout: Checkout) -> None:
    path = checkout.chapter("first = 1", "[experiment] second = 2")
    lines = path.read_text(encoding="utf-8").splitlines()
    starts = cell_lines(path.read_text(encoding="utf-8"))
    assert [lines[n - 1] for n in starts][-2:] == ["first = 1", "second = 2"]
    assert len(starts) == len(to_notebook(path, read_config(checkout.project))["cells"])


def test_parameters_are_plain_literals(checkout: Checkout) -> None:
    notebook = to_notebook(checkout.chapter("x = 1"), read_config(checkout.project))
    assert parameters_of(notebook) == {"scale": "quick", "seed": 0, "device": "auto"}
    for source in ("seed = int(3)", "a, b = 1, 2", "import os", "seed: int"):
        with pytest.raises(BookError, match="plain literals"):
            read_parameters(source, "here")
    assert read_parameters("rate: float = 1e-3", "here") == {"rate": 1e-3}


def test_given_values_take_the_type_of_the_default() -> None:
    defaults = {"seed": 0, "scale": "quick", "rate": 0.1, "sizes": [1, 2], "bias": True, "limit": None}
    given = [("seed", "3"), ("scale", "full"), ("rate", "1"), ("sizes", "[3]"), ("bias", "False"), ("limit", "7")]
    assert override(defaults, given, "c") == {
        "seed": 3, "scale": "full", "rate": 1.0, "sizes": [3], "bias": False, "limit": 7,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("seed", "three"), ("seed", "1.5"), ("bias", "1"), ("rate", "fast")])
def test_a_value_of_another_type_is_an_error(name: str, value: str) -> None:
    with pytest.raises(BookError, match=f"parameter '{name}' takes a value of type .* got '{value}'"):
        override({"seed": 0, "bias": True, "rate": 0.1}, [(name, value)], "c")


def test_an_unknown_parameter_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(BookError, match=r"no parameter 'sed'\. Did you mean 'seed'\? Its parameters are: seed = 0"):
        override({"seed": 0}, [("sed", "1")], "c")

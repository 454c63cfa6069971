"""Outputs of cells become parts of a text: steps, claims and figures as blocks, folded code after what it made."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from test_finish import png

from kexue_lib.book.reading import CLAIM_COLUMNS
from kexue_lib.lab.claims import ClaimsTable

CONF = """extensions = ['myst_nb', 'kexue_lib.book.markup', 'kexue_lib.book.reading']
nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'
suppress_warnings = ['mystnb.unknown_mime_type']
myst_enable_extensions = ['dollarmath']
"""

STEP = """<a id="D1"></a>

$$a = b \\tag{D1}$$

<span class="kx-badge kx-exact kx-proved">**✓ exact**</span> · by *algebra*"""
CHAIN = """<a id="D2"></a><a id="D2.1"></a>

$$a = c \\tag{D2}$$

- D2.1 <span class="kx-badge kx-numeric kx-sampled">**○ numeric**</span> · uses [D1](#D1)"""
CLAIMS = """| claim | kind | how tested | measured | verdict |
|---|---|---|---|---|
| **C1** D9 | exact | it<br>✓ D1 proved<br>✗ D9 too<br>not tested here: tired | slope 0.9<br>see D1 | ◐ **partly** |
| **C2** nothing | empirical | never | – | ◌ **open** |"""


def cell(name: str, outputs: list[dict[str, Any]], *tags: str) -> dict[str, Any]:
    return {"cell_type": "code", "id": name, "source": f"code_{name}", "execution_count": 1, "outputs": outputs,
            "metadata": {"tags": list(tags)}}  # fmt: skip


def shown(**data: str) -> dict[str, Any]:
    names = {"markdown": "text/markdown", "image": "image/png", "plain": "text/plain"}
    return {"output_type": "display_data", "metadata": {}, "data": {names[key]: value for key, value in data.items()}}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "conf.py").write_text(CONF, encoding="utf-8")
    picture = b64encode(png(80, 50)).decode()
    cells = [
        {"cell_type": "markdown", "id": "head", "source": "# A page", "metadata": {}},
        cell("steps", [shown(markdown=STEP, plain="D1"), shown(markdown=CHAIN, plain="D2")], "hide-input"),
        cell("figure", [shown(image=picture), shown(markdown="**Figure 3.** It $x$ rises.")], "hide-input"),
        cell("claims", [shown(markdown=CLAIMS)]),
        cell("solution", [shown(markdown=STEP.replace("D1", "D5"))], "hide-cell"),
        cell("imports", [], "hide-input"),
        cell("open", [shown(markdown="said")]),
    ]
    metadata = {"language_info": {"name": "python", "pygments_lexer": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (folder / "index.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "-b", "html", str(folder), str(folder / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return BeautifulSoup((folder / "out" / "index.html").read_text(encoding="utf-8"), "html.parser")


def fold(page: BeautifulSoup, code: str) -> Tag:
    found = next(pre for pre in page.find_all("pre") if pre.get_text().strip() == f"code_{code}").find_parent("details")
    assert isinstance(found, Tag)
    return found


def test_a_step_is_a_block_of_its_equation_and_its_reasons(page: BeautifulSoup) -> None:
    step, chain, _ = page.select(".kx-step")
    assert {"kx-exact", "kx-proved"} <= set(step["class"])
    assert step.select_one("#D1")
    assert step.select_one("div.math")
    assert "by algebra" in step.select_one("p.kx-reason").get_text()
    assert "kx-chain" in chain["class"]
    assert "uses D1" in chain.select_one("ul.kx-reasons li").get_text()
    assert chain.select_one('a[href="#D1"]')


def test_folded_code_is_closed_says_what_it_made_and_follows_it(page: BeautifulSoup) -> None:
    for code, label in {
        "steps": "Code of D1 to D2",
        "figure": "Code of Figure 3",
        "claims": "Code of the claims",
    }.items():
        details = fold(page, code)
        assert details.summary.get_text() == label
        assert not details.has_attr("open")
        assert "cell_output" in details.find_previous_sibling("div")["class"]
    assert fold(page, "imports").summary.get_text() == "Code"


def test_a_hidden_cell_shows_its_steps_before_its_code(page: BeautifulSoup) -> None:
    details = fold(page, "solution")
    assert details.summary.get_text() == "Checked: D5"
    text = details.get_text()
    assert text.index("exact") < text.index("code_solution")


def test_code_that_is_not_hidden_stays_before_its_output(page: BeautifulSoup) -> None:
    code = next(pre for pre in page.find_all("pre") if pre.get_text().strip() == "code_open")
    assert code.find_parent("details") is None
    assert "said" in code.find_next(class_="cell_output").get_text()


def test_a_picture_and_its_caption_are_a_figure(page: BeautifulSoup) -> None:
    figure = page.select_one("figure.kx-figure#figure-3")
    assert figure.img
    assert "It \\(x\\) rises." in figure.figcaption.get_text()


def test_claims_are_a_list_with_rules_numbers_and_links_to_steps(page: BeautifulSoup) -> None:
    first, second = page.select("ul.kx-claims > li")
    assert "kx-partly" in first["class"]
    assert first.select_one(".kx-verdict").get_text().split() == ["◐", "partly", "exact"]
    assert first.select_one(".kx-how").get_text() == "it"
    rules = {item["class"][0]: item.get_text().strip() for item in first.select(".kx-criteria > li")}
    assert rules == {"kx-met": "✓ D1 proved", "kx-missed": "✗ D9 too", "kx-note": "not tested here: tired"}
    assert [item.get_text().strip() for item in first.select(".kx-measured > li")] == ["slope 0.9"]
    assert first.select_one(".kx-see").get_text() == "see D1"
    assert [a["href"] for a in first.find_all("a")] == ["#D1", "#D1"]  # D9 is no step of this page
    assert "kx-open" in second["class"]
    assert second.select_one(".kx-measured") is None
    assert page.find("table") is None


def test_the_columns_are_those_of_the_library() -> None:
    assert ClaimsTable.columns == CLAIM_COLUMNS

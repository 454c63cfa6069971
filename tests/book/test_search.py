"""The book's search, used as a reader does: English words, Chinese titles, any Chinese phrase."""

from __future__ import annotations

from typing import Any

import pytest

from kexue_lib.book.search import EnglishAndChinese

CHAPTER = "chapters/attention/entropy-invariant-softmax.html"

# What is typed → a page that has to be among the first five results.
QUERIES = {
    "entropy of a softmax": CHAPTER,
    "temperature": CHAPTER,
    "verdicts": "how-to-read.html",
    "entropy_invariant_attention": "library.html",
    "Chiang": "bibliography.html",
    "factor helps on texts longer": CHAPTER,  # words of a claim
    "weigh the square": CHAPTER,  # the reason of a step
    "Jensen's inequality": CHAPTER,
    "Laplace's method": CHAPTER,
    "熵不变性Softmax的一个快速推导": CHAPTER,
    "熵不变性": CHAPTER,
    "缩放规律": CHAPTER,
    "对数缩放因子": CHAPTER,
    "隐藏在动量中的梯度累积": "bibliography.html",
    "训练1000层的Transformer究竟有什么困难": "chapters/depth/deepnet-1000-layers.html",
    "梯度流": "chapters/optimization/gradient-flow.html",
    "无法预测的词": "chapters/language/unargmaxable-words.html",
    "困难": "chapters/depth/deepnet-1000-layers.html",
}


def results(page: Any, address: str, query: str) -> list[str]:
    """Where the results lead, in their order, without anchors."""
    page.goto(f"{address}/search.html?q={query}")
    page.wait_for_function(
        "document.querySelector('#search-results .search-summary')?.textContent.match(/found|did not match/)"
    )
    links = page.eval_on_selector_all("#search-results li > a", "links => links.map(a => a.getAttribute('href'))")
    return list(dict.fromkeys(link.split("?")[0].split("#")[0].removeprefix("book/") for link in links))


@pytest.fixture(scope="module")
def page(browser: Any) -> Any:
    return browser.new_page()


@pytest.mark.browser
@pytest.mark.parametrize("query", QUERIES)
def test_a_reader_finds(query: str, page: Any, address: str) -> None:
    found = results(page, address, query)
    assert QUERIES[query] in [link.rpartition("book/")[2] for link in found[:5]], found
    assert not [link for link in found if "steps/" in link], (
        "a map of steps hides its chapter, which has the same words"
    )


@pytest.mark.browser
@pytest.mark.parametrize(("query", "place"), [("D3.6", "#D3.6"), ("C7a", "#C7a")])
def test_steps_and_claims_are_found_by_name(query: str, place: str, page: Any, address: str) -> None:
    results(page, address, query)
    links = page.eval_on_selector_all("#search-results li > a", "links => links.map(a => a.getAttribute('href'))")
    assert any(link.endswith(f"{CHAPTER}{place}") for link in links), links


@pytest.mark.browser
@pytest.mark.parametrize("query", ["性不变熵", "zebrafish"])
def test_what_is_not_there_is_not_found(query: str, page: Any, address: str) -> None:
    assert results(page, address, query) == []


@pytest.mark.browser
@pytest.mark.parametrize(
    "text",
    [
        "从熵不变性看Attention的Scale操作",
        "熵",
        "softmax's λ(n, d)；第2节 — naïve café ﬁeld_name x² 10⁵",
        "兀嗀 㐀㐁 𠀀",
        "",
    ],
)
def test_the_browser_looks_for_pieces_that_the_index_holds(text: str, page: Any, address: str) -> None:
    page.goto(f"{address}/search.html")
    pieces = page.evaluate("text => splitQuery(text)", text)
    indexed = EnglishAndChinese({}).split(text)
    assert set(pieces) <= set(indexed)
    assert {piece for piece in indexed if len(piece) > 1} <= set(pieces)

"""A Sphinx extension: the book's search finds English words and any Chinese phrase of two characters or more.

Sphinx cuts text into words at what is no letter, so that a whole Chinese sentence is one word, and a phrase inside it
is never found. Here a run of Chinese characters is indexed, and a query is looked up, by its pairs of neighbouring
characters (a single character by itself). All pairs of a query have to be on a page, which is what a phrase needs up to
rare accidents. English is stemmed as before.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sphinx.search import languages
from sphinx.search.en import SearchEnglish

if TYPE_CHECKING:
    from sphinx.application import Sphinx

__all__ = ["EnglishAndChinese", "setup"]

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECES = re.compile(rf"[{_HAN}]+|[^\W{_HAN}]+")

#: The browser's half of :meth:`EnglishAndChinese.split`: the same pieces from the same text (a test compares them).
_JAVASCRIPT = rf"""
var splitQuery = (query) => {{
  const pieces = [];
  for (const piece of query.match(/[{_HAN}]+|(?:(?![{_HAN}])[\p{{Letter}}\p{{Number}}\p{{Mark}}_])+/gu) || []) {{
    if (/^[{_HAN}]/u.test(piece) && piece.length > 1)
      for (let i = 0; i + 1 < piece.length; i++) pieces.push(piece.slice(i, i + 2));
    else pieces.push(piece);
  }}
  return pieces;
}};
"""


class EnglishAndChinese(SearchEnglish):
    """English words by their stems, Chinese phrases by pairs of characters.

    >>> EnglishAndChinese({}).split("熵不变性Softmax的 quick derivation")
    ['熵不', '不变', '变性', '熵', '不', '变', '性', 'Softmax', '的', 'quick', 'derivation']
    """

    lang = "en"
    language_name = "English and Chinese"
    js_splitter_code = _JAVASCRIPT

    def split(self, input: str) -> list[str]:
        """The words of a text that go into the index; a single Chinese character is found too."""
        words = []
        for piece in _PIECES.findall(input):
            if re.match(f"[{_HAN}]", piece):
                words += [piece[i : i + 2] for i in range(len(piece) - 1)] + list(piece)
            else:
                words.append(piece)
        return words


def setup(app: Sphinx) -> dict[str, Any]:
    """Take the place of Sphinx's English search."""
    languages[EnglishAndChinese.lang] = EnglishAndChinese
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}

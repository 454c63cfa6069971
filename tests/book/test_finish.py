"""The last touch to the pages: Chinese is marked, images state their size, icons are few."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from pathlib import Path

import pydata_sphinx_theme
import pytest

from kexue_lib.book.finish import finish_pages, mark_chinese
from kexue_lib.book.icons import slim_icons


@pytest.mark.parametrize(
    ("html", "marked"),
    [
        ("plain", "plain"),
        ("<li>熵</li>", '<li><span lang="zh">熵</span></li>'),
        ("a 熵不变性Softmax的推导 b", 'a <span lang="zh">熵不变性Softmax的推导</span> b'),
        ("《科学空间》：苏剑林。 End", '<span lang="zh">《科学空间》：苏剑林。</span> End'),
        ("(苏剑林), 2022", '(<span lang="zh">苏剑林</span>), 2022'),
        ("Su (苏) and 剑林", 'Su (<span lang="zh">苏</span>) and <span lang="zh">剑林</span>'),
        ('<b lang="zh">熵 <b>的</b> 值</b> 熵', '<b lang="zh">熵 <b>的</b> 值</b> <span lang="zh">熵</span>'),
        ('<span class="math notranslate">\\(\\text{熵}\\)</span>', None),
        ("<title>熵</title><script>let x = '熵'</script><!-- 熵 --><svg><text>熵</text></svg>", None),
        ('<img alt="熵" src="x.png"><a title="熵">x</a>', None),
        ('<html lang="en"><p>熵</p></html>', '<html lang="en"><p><span lang="zh">熵</span></p></html>'),
    ],
)
def test_chinese_is_marked_where_nobody_has_done_it(html: str, marked: str | None) -> None:
    expected = html if marked is None else marked
    assert mark_chinese(html) == expected
    assert mark_chinese(expected) == expected


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_images_wait_and_state_the_size_at_which_they_are_shown(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(800, 500))
    (tmp_path / "page.html").write_text(
        '<img alt="x" src="a.png" style="width: 400px; height: 250px;" /><img src="a.png"><img src="b.svg" alt="y"/>'
        '<img class="logo__image" src="a.png">',
        encoding="utf-8",
    )
    finish_pages(tmp_path)
    first, second, third, logo = re.findall("<img[^>]*>", (tmp_path / "page.html").read_text(encoding="utf-8"))
    assert 'width="400" height="250" loading="lazy"' in first
    assert 'width="800" height="500" loading="lazy"' in second
    assert "loading" in third
    assert "width" not in third
    assert "loading" not in logo


@pytest.fixture
def themed(tmp_path: Path) -> Path:
    """A site with the theme's Font Awesome."""
    vendor = "theme/pydata_sphinx_theme/static/vendor"
    shutil.copytree(Path(pydata_sphinx_theme.__file__).parent / vendor, tmp_path / "_static" / "vendor")
    return tmp_path


PAGE = """<link rel="preload" as="font" href="_static/vendor/fontawesome/6/webfonts/fa-solid-900.woff2" />
<link rel="stylesheet" href="_static/vendor/fontawesome/6/css/all.min.css" />
<script src="_static/vendor/fontawesome/6/js/all.min.js"></script><i class="fa-solid fa-bars fa-lg"></i>
<i class="fab fa-github"></i>"""


def test_only_the_icons_in_use_are_kept(themed: Path) -> None:
    from fontTools.ttLib import TTFont

    text = slim_icons(themed, {themed / "page.html": PAGE})[themed / "page.html"]
    assert "all.min.js" not in text
    assert "preload" not in text
    assert "all.min.css" in text
    (folder,) = themed.glob("_static/vendor/fontawesome/*")
    sheet = (folder / "css/all.min.css").read_text(encoding="utf-8")
    assert re.findall(r"(fa-[\w-]+)::before", sheet) == ["fa-github", "fa-bars"]
    fonts = sorted(folder.glob("webfonts/*"))
    assert [font.name for font in fonts] == ["kexue-brands-400.woff", "kexue-solid-900.woff"]
    assert all(font.name in sheet and font.stat().st_size < 4000 for font in fonts)
    assert 0xF0C9 in TTFont(fonts[1]).getBestCmap()  # bars
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 20_000


def test_an_icon_that_does_not_exist_is_an_error(themed: Path) -> None:
    with pytest.raises(ValueError, match="fa-no-such-icon"):
        slim_icons(themed, {themed / "page.html": '<i class="fa-solid fa-no-such-icon"></i>'})

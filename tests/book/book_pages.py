"""What can be wrong with the pages of a built site: found in the files, and in a browser.

Each function returns its findings as lines of text, so that a test can show all of them at once, and so that the
functions themselves can be tested on a site that is broken on purpose.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

#: Pages that Sphinx writes and that no table of contents lists.
EXTRA = {"index.html", "genindex.html", "py-modindex.html", "search.html"}

#: For a machine without a display or network; nothing of the browser's own may reach out.
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Attributes by which a page loads something by itself; <a href> is followed by readers only.
_LOADING = {
    "script": ["src"],
    "img": ["src", "srcset"],
    "link": ["href"],
    "iframe": ["src"],
    "source": ["src", "srcset"],
    "video": ["src", "poster"],
    "audio": ["src"],
    "object": ["data"],
    "embed": ["src"],
    "form": ["action"],
}


def parse(path: Path) -> BeautifulSoup:
    """A page; parsed once, since a chapter's page takes a second."""
    return _parse(path, path.stat().st_mtime_ns)


@functools.cache
def _parse(path: Path, changed: int) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def pages(site: Path) -> list[Path]:
    """Every page of a site."""
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts)


def foreign_loads(site: Path) -> list[str]:
    """Whatever a page or a style sheet would load from another host."""
    found = []
    for page in pages(site):
        name = page.relative_to(site)
        for tag, attributes in _LOADING.items():
            for element in parse(page).find_all(tag):
                for attribute in attributes:
                    value = str(element.get(attribute) or "").strip()
                    if _is_foreign(value):
                        found.append(f"{name}: <{tag} {attribute}={value!r}>")
    for sheet in sorted(site.rglob("*.css")):
        text = sheet.read_text(encoding="utf-8", errors="replace")
        loads = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", text)
        found += [f"{sheet.relative_to(site)}: {value}" for value in loads if _is_foreign(value)]
    return found


def foreign_scripts(site: Path) -> list[str]:
    """Scripts in pages that name another host, even if they would load from there only later."""
    return [
        f"{page.relative_to(site)}: {address}"
        for page in pages(site)
        for script in parse(page).find_all("script")
        for address in re.findall(r"https?://[^\s\"'<>]+", script.get_text())
    ]


def wrong_repository_links(site: Path) -> list[str]:
    """Links to the repository of jupyter-book, where its launch buttons lead if no repository is set."""
    return [
        f"{page.relative_to(site)}: {link['href']}"
        for page in pages(site)
        for link in parse(page).find_all("a", href=True)
        if re.search(r"executablebooks/jupyter-book|jupyter-book/jupyter-book", str(link["href"]))
    ]


def dead_links(site: Path) -> list[str]:
    """Links inside the site whose page or anchor does not exist."""
    anchors: dict[Path, set[str]] = {}
    found = []
    for page in pages(site):
        for link in parse(page).find_all(["a", "img", "script", "link"]):
            target = str(link.get("href") or link.get("src") or "")
            parts = urlsplit(target)
            if not target or parts.scheme or parts.netloc:
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if file.is_dir():
                file /= "index.html"
            if not file.is_file():
                found.append(f"{page.relative_to(site)}: {target} (no such file)")
            elif parts.fragment and file.suffix == ".html":
                if file not in anchors:
                    every = parse(file).find_all(True)
                    anchors[file] = {str(e[key]) for e in every for key in ("id", "name") if e.get(key)}
                if unquote(parts.fragment) not in anchors[file]:
                    found.append(f"{page.relative_to(site)}: {target} (no such anchor)")
    return sorted(set(found))


def images_without_text(site: Path) -> list[str]:
    """Images that say nothing to those who cannot see them (or only the name of a file)."""
    found = []
    for page in pages(site):
        for image in parse(page).find_all("img"):
            alt = str(image.get("alt") or "").strip()
            if not alt or re.search(r"\.(png|svg|jpe?g)$", alt) or alt == image.get("src"):
                found.append(f"{page.relative_to(site)}: {image.get('src')}: alt={alt!r}")
    return found


def unmarked_chinese(site: Path) -> list[str]:
    """Chinese text that a screen reader would read as English: in no element with ``lang="zh"``."""
    found = []
    for page in pages(site):
        for text in (parse(page).body or parse(page)).find_all(string=re.compile("[\u4e00-\u9fff]")):
            inside = {parent.name for parent in text.parents}
            if not inside & {"script", "style", "svg"} and not any(
                str(parent.get("lang", "")).startswith("zh") for parent in text.parents
            ):
                found.append(f"{page.relative_to(site)}: {text.strip()[:40]}")
    return found


def _is_foreign(value: str) -> bool:
    return bool(re.match(r"(https?:)?//", value))


# ---------------------------------------------------------------------------------------------------------------------
# In the browser
# ---------------------------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; gives the address, with a slash at the end."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


# What is left in sight after MathJax has done its work. Code may show TeX, so it is left out.
_LEFTOVERS = r"""() => {
  const root = (document.querySelector("article") || document.body).cloneNode(true);
  root.querySelectorAll("pre, code, script, style, mjx-container, template").forEach(e => e.remove());
  const text = root.textContent;
  return [/\$\$/, /\\tag\b/, /\\begin\{/, /\\frac\b/, /\\\(/, /\\\[/, /\$\\/]
    .map(pattern => text.search(pattern)).filter(at => at >= 0)
    .map(at => text.slice(Math.max(0, at - 20), at + 40));
}"""

_UNTYPESET = """() => [...document.querySelectorAll(".math")]
  .filter(e => !e.querySelector("mjx-container")).map(e => e.textContent.slice(0, 60))"""

_ERRORS = """() => [...document.querySelectorAll("mjx-merror, [data-mjx-error]")]
  .map(e => e.getAttribute("data-mjx-error") || e.textContent)"""

# Elements in sight that stick out at the right and that no ancestor clips or scrolls.
_OVERFLOW = """() => {
  const wide = document.documentElement.clientWidth, root = document.scrollingElement;
  if (root.scrollWidth <= wide) return [];
  const held = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  const out = [...document.querySelectorAll("body *")].filter(e =>
    e.getBoundingClientRect().right > wide + 1 && getComputedStyle(e).visibility === "visible" && !held(e));
  return [`${root.scrollWidth} wide instead of ${wide}: ` +
    out.slice(0, 5).map(e => `<${e.tagName.toLowerCase()} class="${e.className}">`).join(" ")];
}"""

# Relative luminance of the page's background and of its text (0 black, 1 white).
_LUMINANCE = """() => {
  const light = c => { const [r, g, b] = c.match(/[0-9.]+/g).map(Number)
    .map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const p = document.querySelector("article p") || document.body;
  return [light(getComputedStyle(document.body).backgroundColor), light(getComputedStyle(p).color)];
}"""


# What scrolls sideways has to be a stop of the tab key (or to hold one).
_UNREACHABLE = """() => [...document.querySelectorAll("body *")].filter(e => {
    if (e.scrollWidth <= e.clientWidth + 1 || !e.clientWidth) return false;
    if (!/auto|scroll/.test(getComputedStyle(e).overflowX)) return false;
    return e.tabIndex < 0 && !e.querySelector("a[href], button, input, [tabindex]");
  }).slice(0, 5).map(e => `<${e.tagName.toLowerCase()} class="${e.className}">`)"""

# Equations that are wider than their box, and do not start at their beginning or cannot be scrolled to their end.
_STUCK = """() => [...document.querySelectorAll("div.math")].filter(e => {
    const start = e.scrollLeft, hidden = e.scrollWidth - e.clientWidth;
    if (!e.clientWidth || hidden < 1) return false;
    e.scrollLeft = e.scrollWidth;
    const end = e.scrollLeft;
    e.scrollLeft = 0;
    return start !== 0 || Math.abs(end - hidden) > 1.5;
  }).map(e => e.textContent.slice(0, 60))"""

# What axe-core need not see: it takes a second for each thousand elements, and MathJax makes tens of thousands, as code
# that is folded away does.
_STRIP = """() => {
  document.querySelectorAll("details:not([open]) > :not(summary)").forEach(e => e.remove());
  document.querySelectorAll("mjx-container").forEach(e =>
    e.hasAttribute("tabindex") ? e.replaceChildren("x") : e.replaceWith("x"));
}"""

# Two of each kind of block tell the colours of all.
_ALIKE = """() => {
  const kind = e => [e, e.parentElement, ...e.querySelectorAll("*")].map(d => d.tagName + "." + d.className);
  const seen = new Map();
  const blocks = ".kx-step, .kx-claim, article p, article li, article tr, nav li";
  if (document.querySelectorAll("*").length > 8000) // the library: every section is of the same kinds
    [...document.querySelectorAll("article section section")].slice(3).forEach(e => e.remove());
  for (const block of document.querySelectorAll(blocks)) {
    if (!block.isConnected) continue;
    const name = [...new Set(kind(block))].sort().join(" ");
    seen.set(name, (seen.get(name) || 0) + 1);
    if (seen.get(name) > 2) block.remove();
  }
}"""

_AXE = """async rules => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"], preload: false, ...rules});
  return violations.filter(v => ["serious", "critical"].includes(v.impact)).map(v =>
    `${v.id} (${v.impact}), ${v.nodes.length} times: ${v.nodes[0].html.slice(0, 120)}`);
}"""

_TYPESET = """() => !document.querySelector('script[src*="mathjax"]')
  || document.documentElement.dataset.maths === 'done'"""
_SETTLED = "() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 200)))"

#: Width of the window, and what the reader's system asks for.
VIEWS = [(1440, "light"), (1440, "dark"), (768, "dark"), (768, "light"), (360, "light"), (360, "dark")]


@dataclass
class Visit:
    """A page in the browser, with what went wrong so far and what was received."""

    page: Any
    name: str
    found: list[str]
    responses: list[Any]
    cpu: float  #: seconds of the page's main thread until what is in sight was typeset

    def weight(self) -> dict[str, float]:
        """Kilobytes of what came without images, by kind; text compressed, as any host sends it."""
        kinds: dict[str, float] = {}
        for response in self.responses:
            path = urlsplit(response.url).path
            kind = "mathjax" if "/mathjax/" in path else Path(path).suffix[1:].replace("woff2", "woff") or "html"
            if kind in ("png", "svg", "ico"):
                continue
            body = response.body()
            size = len(body) if kind == "woff" or path.endswith(".woff") else len(gzip.compress(body, 6))
            kinds[kind] = kinds.get(kind, 0) + size / 1000
        return kinds


@contextlib.contextmanager
def visited(browser: Any, base: str, name: str, width: int = 1440, scheme: str = "light") -> Iterator[Visit]:
    """Open a page as a reader would, with an empty cache, and wait until its maths is typeset.

    Args:
        browser: Playwright's browser.
        base: the address that :func:`served` gave.
        name: the page's path below it.
        width: of the window, in pixels.
        scheme: ``"light"`` or ``"dark"``, as the reader's system asks for.
    """
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    try:
        page = context.new_page()
        page.set_default_timeout(90_000)  # a busy machine is slow, not wrong
        visit = Visit(page, name, [], [], 0)
        found = visit.found
        page.on(
            "request",
            lambda r: None if r.url.startswith((base, "data:", "blob:")) else found.append(f"asks for {r.url}"),
        )
        page.on("console", lambda m: found.append(f"console: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: found.append(f"script error: {e}"))
        page.on("response", lambda r: found.append(f"status {r.status}: {r.url}") if r.status >= 400 else None)
        page.on("response", lambda r: visit.responses.append(r) if r.status < 300 else None)
        session = context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(base + name)
        page.wait_for_function(
            "() => performance.getEntriesByName('kexue:readable').length || !document.querySelector('.math')"
            " || !document.querySelector('script[src*=mathjax]')"
        )
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        visit.cpu = metrics["TaskDuration"]
        page.wait_for_function(_TYPESET)
        page.wait_for_load_state("networkidle")
        yield visit
    finally:
        context.close()


def look(visit: Visit, views: list[tuple[int, str]] = VIEWS) -> list[str]:
    """Say what is wrong with a page in several widths and colour schemes."""
    page = visit.page
    found = [f"TeX in sight: {text!r}" for text in page.evaluate(_LEFTOVERS)]
    found += [f"not typeset: {text!r}" for text in page.evaluate(_UNTYPESET)]
    found += [f"MathJax: {text}" for text in page.evaluate(_ERRORS)]
    for width, scheme in views:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(_SETTLED)
        seen = [f"overflow: {text}" for text in page.evaluate(_OVERFLOW)]
        seen += [f"scrolls, but not by the keyboard: {text}" for text in page.evaluate(_UNREACHABLE)]
        seen += [f"an equation cannot be seen to its end: {text!r}" for text in page.evaluate(_STUCK)]
        background, text = page.evaluate(_LUMINANCE)
        if (background < 0.5) != (scheme == "dark"):
            seen.append(f"the background is {'dark' if background < 0.5 else 'light'} in {scheme} mode")
        contrast = (max(background, text) + 0.05) / (min(background, text) + 0.05)
        if contrast < 4.5:
            seen.append(f"text and background have a contrast of {contrast:.1f}, less than 4.5")
        found += [f"{width} px, {scheme}: {line}" for line in seen]
    return [f"{visit.name}: {line}" for line in visit.found + found]


def barriers(visit: Visit) -> list[str]:
    """What axe-core finds serious or critical, in both colour schemes; the page is of no more use afterwards."""
    page = visit.page
    page.evaluate(_STRIP)
    page.evaluate((resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8"))
    structure = {"rules": {"color-contrast": {"enabled": False}}}
    found = [f"{visit.name}: {line}" for line in page.evaluate(_AXE, structure)]
    page.evaluate(_ALIKE)
    for width, scheme in ((1440, "light"), (360, "dark")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.evaluate(_SETTLED)
        colours = page.evaluate(_AXE, {"runOnly": ["color-contrast"]})
        found += [f"{visit.name}, {scheme}: {line}" for line in colours]
    return found

"""Does the book's table of contents agree with the chapters that are there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from kexue_lib.book.project import Project


def listed_pages(project: Project) -> list[str]:
    """The pages that ``_toc.yml`` lists, in its order, without suffixes."""
    return list(_files(yaml.safe_load(project.toc.read_text(encoding="utf-8"))))


def toc_problems(project: Project) -> list[str]:
    """What is wrong with ``_toc.yml``: a chapter missing, unknown, or out of the plan's order; a page that is not."""
    try:
        content = yaml.safe_load(project.toc.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError) as error:
        return [f"_toc.yml cannot be read: {error}"]
    files = list(_files(content))
    listed = [file for file in files if file.startswith("book/chapters/")]
    expected = [chapter.page for chapter in project.chapters]
    found = [
        f"_toc.yml: {page} has a source, but is not listed: add `- file: {page}`."
        for page in expected
        if page not in listed
    ]
    found += [
        f"_toc.yml: {page} is listed, but has no source under notebooks/." for page in listed if page not in expected
    ]
    found += [f"_toc.yml: {page} is listed twice." for page in sorted(set(files)) if files.count(page) > 1]
    if not found and listed != expected:
        found.append(f"_toc.yml: the chapters are not in the order of book/plan.yml, which is: {', '.join(expected)}.")
    generated = {"book/ledger", "book/map", "book/benchmarks"}
    for page in files:
        if page not in listed and page not in generated and not (project.root / f"{page}.md").is_file():
            found.append(f"_toc.yml: there is no page {page}.md.")
    return found


def _files(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("file", "root") and isinstance(value, str):
                yield value.removesuffix(".md").removesuffix(".ipynb")
            else:
                yield from _files(value)
    elif isinstance(node, list):
        for value in node:
            yield from _files(value)

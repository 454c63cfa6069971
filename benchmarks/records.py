"""What is kept of a run: the table for people, and the document (JSON) that the book's page is made of."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.registry import SOURCES, Operation
from kexue_lib.book.benchmarks_page import SCHEMA, read_record, validate
from kexue_lib.book.place import digest

ROOT = Path(__file__).resolve().parent.parent

#: The record that the book's page shows.
RECORD = ROOT / "book" / "records" / "benchmarks.json"


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for people."""
    lines = []
    for r in records:
        lines.append(
            f"\n{r['operation']} · {r['case']} · {r['mode']} · {r['dtype']} · {r['rounds']} rounds, {r['clock']}"
        )
        for row in r["contestants"]:
            ratio = row.get("ours_to_this")
            text = f"  ours : this = {_interval(ratio)}" if ratio else ""
            if "peak_bytes" in row:
                text += f"  peak {row['peak_bytes'] / 2**20:.2f} MiB"
            if row["turns"] < r["rounds"]:
                text += f"  ({row['turns']} turns)"
            lines.append(f"  {row['name']:<34} {row['ms']:>9.3f} ms  ({row['q1']:.3f}–{row['q3']:.3f}){text}")
        lines.extend(f"  {name:<34} not installed" for name in r["missing"])
        if "ratio" in r:
            lines.append(f"  bar {r['bar']:g} × {r['best_peer']}: {r['verdict']} ({_interval(r['ratio'])})")
        if "promised_factor" in r:
            low, high = r["plain_factor"]["low"], r["plain_factor"]["high"]
            lines.append(
                f"  promised {r['promised_factor']:.3g} × the plain form: {r['factor_verdict']} "
                f"({r['plain_factor']['median']:.3g} [{low:.3g}, {high:.3g}])"
            )
        if r.get("verdict") == "missed" and "note" in r:
            lines.append(f"  note: {r['note']}")
    return "\n".join(lines)


def _interval(ratio: dict[str, float]) -> str:
    text = f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]"
    return text if ratio["coverage"] >= 0.95 else f"{text} ({100 * ratio['coverage']:.0f} %)"


# --- which files a number depends on --------------------------------------------------------------------------------


def library_files(operation: Operation) -> tuple[str, ...]:
    """The files of kexue_lib that an operation measures, with what they import, by their paths in the repository."""
    wanted = list(operation.modules)
    if not wanted and operation.name in SOURCES:
        wanted = _imports(SOURCES[operation.name], "benchmarks")
    found: set[Path] = set()
    while wanted:
        for path in _files(wanted.pop()):
            if path not in found:
                found.add(path)
                wanted += _imports(path, ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1]))
    return tuple(sorted(path.relative_to(ROOT).as_posix() for path in found))


def _files(module: str) -> list[Path]:
    """The file of a module of kexue_lib; all files of a package that exports lazily."""
    path = ROOT.joinpath(*module.split("."))
    if path.with_suffix(".py").is_file():
        return [path.with_suffix(".py")]
    return sorted(path.rglob("*.py")) if path.is_dir() and path.name != "kexue_lib" else []


def _imports(path: Path, package: str) -> list[str]:
    """The modules of kexue_lib that a file imports anywhere."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name.startswith("kexue_lib.")]


def hashes(operation: Operation) -> dict[str, str]:
    """The hashes of the files that an operation's numbers depend on: the library's and the one that registers it."""
    files = list(library_files(operation))
    source = SOURCES.get(operation.name)
    if source is not None and source.is_relative_to(ROOT):
        files.append(source.relative_to(ROOT).as_posix())
    return {name: digest((ROOT / name).read_bytes()) for name in files}


# --- the document -----------------------------------------------------------------------------------------------------


def entry(
    operation: Operation,
    machine: dict[str, Any],
    versions: dict[str, str],
    settings: dict[str, Any],
    records: Sequence[dict[str, Any]],
    refused: str = "",
) -> dict[str, Any]:
    """What the document says of one operation; if it was refused, why, and no number."""
    return {
        "chapter": operation.chapter,
        "about": operation.about,
        "tests": list(operation.tests),
        "bar": operation.bar,
        "date": date.today().isoformat(),
        "machine": machine,
        "versions": versions,
        "settings": settings,
        "files": hashes(operation),
        "refused": refused,
        "records": [] if refused else [_rounded(record) for record in records],
    }


def _rounded(value: Any) -> Any:
    """Five digits of every number: more is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def empty() -> dict[str, Any]:
    """A document without operations."""
    return {"schema": SCHEMA, "operations": {}}


def read(path: Path) -> dict[str, Any]:
    """The document in a file, or an empty one."""
    return read_record(path) or empty()


def write(path: Path, document: dict[str, Any]) -> None:
    """Writes the document in one step, so that an interruption leaves the previous one."""
    validate(document)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    scratch.replace(path)

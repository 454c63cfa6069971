"""The page ``book/benchmarks.md``: the last recorded speeds of kexue_lib beside its plain forms and its peers.

The record ``book/records/benchmarks.json`` is written by ``make bench ARGS=--record`` (the folder ``benchmarks/`` of a
checkout); this module reads it, says which numbers are older than the code they measured, and writes the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.place import digest
from kexue_lib.book.plan import read_plan
from kexue_lib.book.project import Project

SCHEMA = 2

_HEAD = """\
# Benchmarks

How fast `kexue_lib` is beside its own plain forms (the specification that tests compare with) and beside its *peers*:
other packages, or the lines one would write by hand. All numbers come from the record of one command.

- All contestants of a case compute the same thing from the same inputs, compared before they are timed, and take turns
  in one process. An operation whose tests are red gets no number.
- **Ratio**: our time divided by that of the best peer (below 1, ours is faster), the median over rounds with its 95 %
  interval. The goal is at most 1. *Faster*: the whole interval is. *Equal*: the interval holds 1, so that the two
  cannot be told apart. *Slower*: the whole interval is above 1.
- **Plain form**: its time divided by ours. Where the algorithm promises a factor, it stands beside.
- Only times of one table belong together: another machine has other ones.

Measure all of it, or some, on your machine:

```text
make bench
make bench OPS="rope_halves gau_attention" ARGS=--quick
```
"""

_NONE = """\
No benchmark has been recorded yet. `make bench` measures; `make bench ARGS=--record` also keeps the result for this
page.
"""

_WORDS = {"met": "faster", "open": "equal", "missed": "**slower**"}
_MODES = {"forward": "forward", "forward+backward": "forward + backward", "step": "step"}


def record_path(project: Project) -> Path:
    """Where the record lies."""
    return project.root / "book" / "records" / "benchmarks.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """The record in a file; None if there is no file.

    Raises:
        BookError: the file cannot be read, or is no record of this schema.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BookError(f"{path}: the record of the benchmarks cannot be read: {error}") from error
    validate(document, str(path))
    return document


def stale_files(project: Project, entry: dict[str, Any]) -> list[str]:
    """The files that an operation's numbers depend on and that have changed since, or are gone."""
    found = []
    for name, value in sorted(entry["files"].items()):
        base = project.library if name.startswith("kexue_lib/") else project.root
        path = base / name
        if not path.is_file() or digest(path.read_bytes()) != value:
            found.append(name)
    return found


def benchmarks_page(project: Project) -> str:
    """The text of the page."""
    document = read_record(record_path(project))
    if document is None or not document["operations"]:
        return _HEAD + "\n" + _NONE
    operations: dict[str, dict[str, Any]] = document["operations"]
    lines = [_HEAD, *_machines(operations), "", *_summary(operations), ""]
    titles = {planned.name: planned.title_en for planned in read_plan(project)}
    order = {name: place for place, name in enumerate(titles)}
    chapters = sorted({e["chapter"] for e in operations.values()}, key=lambda c: (order.get(c, len(order)), c))
    for chapter in chapters:
        mine = {name: e for name, e in operations.items() if e["chapter"] == chapter}
        title = titles.get(chapter, chapter) or "Other operations"
        lines += [f"## {title}", ""]
        if (project.root / "book" / "chapters" / f"{chapter}.ipynb").is_file() and chapter in titles:
            lines += [f"Operations of the chapter [{title}](chapters/{chapter}.ipynb).", ""]
        for name, entry in mine.items():
            lines += [*_operation(project, name, entry), ""]
    return "\n".join(lines).rstrip() + "\n"


# --- parts of the page ----------------------------------------------------------------------------------------------


def _machine(entry: dict[str, Any]) -> str:
    m = entry["machine"]
    threads = f"{m.get('threads')} thread{'' if m.get('threads') == 1 else 's'}"
    if m.get("gpu"):
        what = f"{m['gpu']} (host: {m.get('cpu')})"
    else:
        what = f"{m.get('cpu')}, {m.get('cores')} cores, {threads}"
    return f"{what}, {m.get('system')}, Python {m.get('python')}, PyTorch {m.get('torch')}"


def _run(entry: dict[str, Any]) -> tuple[str, str]:
    return entry["date"], _machine(entry)


def _machines(operations: dict[str, dict[str, Any]]) -> list[str]:
    """When and where; by operation only where they differ."""
    runs: dict[tuple[str, str], list[str]] = {}
    versions: dict[str, str] = {}
    for name, entry in operations.items():
        runs.setdefault(_run(entry), []).append(name)
        versions.update(entry["versions"])
    lines = []
    for (date, machine), names in runs.items():
        which = "" if len(runs) == 1 else f" ({', '.join(f'`{name}`' for name in names)})"
        lines.append(f"Recorded on {date} on: {machine}{which}.")
    if versions:
        lines += ["", "Peers: " + ", ".join(f"{name} {version}" for name, version in sorted(versions.items())) + "."]
    return lines


def _records(operations: dict[str, dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for entry in operations.values():
        yield from entry["records"]


def _summary(operations: dict[str, dict[str, Any]]) -> list[str]:
    judged = [r for r in _records(operations) if "verdict" in r]
    count = {verdict: sum(r["verdict"] == verdict for r in judged) for verdict in _WORDS}
    lines = [
        f"{len(operations)} operation{'' if len(operations) == 1 else 's'}. Of {len(judged)} measurements with a peer, "
        f"{_are(count['met'])} faster than the best of them, {_are(count['open'])} equal within the error, "
        f"{_are(count['missed'])} slower.",
    ]
    refused = [name for name, entry in operations.items() if entry["refused"]]
    if refused:
        lines += ["", f"Without a number, because they were refused: {', '.join(f'`{name}`' for name in refused)}."]
    missed = [r for r in judged if r["verdict"] == "missed"]
    if missed:
        lines += ["", "Where the goal is missed:", ""]
        lines += [
            f"- `{r['operation']}`, {_text(r['case'])}, {_MODES.get(r['mode'], r['mode'])}: {_interval(r['ratio'])} of "
            f"{_text(r['best_peer'])}. {_sentence(r.get('note') or 'No reason is recorded.')}"
            for r in missed
        ]
    return lines


def _are(count: int) -> str:
    return f"{count} {'is' if count == 1 else 'are'}"


def _operation(project: Project, name: str, entry: dict[str, Any]) -> list[str]:
    lines = [f"### `{name}`", ""]
    if entry["about"]:
        lines += [_sentence(entry["about"]), ""]
    if entry["refused"]:
        return [*lines, f"No number: {_sentence(entry['refused'])}"]
    stale = stale_files(project, entry)
    if stale:
        files = ", ".join(f"`{file}`" for file in stale)
        lines += [f"*Measured before {files} changed: measure again.*", ""]
    records = entry["records"]
    memory = any("peak_bytes" in row for r in records for row in r["contestants"])
    columns = ["case", "pass", "ours", "best peer", "its time", "ratio", "verdict", "plain form : ours"]
    if memory:
        columns.append("peak memory, ours : best peer or plain form")
    lines += ["| " + " | ".join(columns) + " |", "|---|---|--:|---|--:|--:|---|--:|" + ("--:|" if memory else "")]
    lines += ["| " + " | ".join(_cells(r, memory)) + " |" for r in records]
    missing = sorted({name for r in records for name in r["missing"]})
    if missing:
        lines += ["", f"Not installed when this was measured: {', '.join(missing)}."]
    return [*lines, "", *_all_contestants(records)]


def _cells(record: dict[str, Any], memory: bool) -> list[str]:
    rows = {row["name"]: row for row in record["contestants"]}
    ours = next(row for row in rows.values() if row["role"] == "ours")
    cells = [_text(record["case"]), _MODES.get(record["mode"], record["mode"]), _time(ours["ms"])]
    if "ratio" in record:
        verdict = _WORDS.get(record["verdict"], record["verdict"])
        if record["bar"] != 1:
            verdict += f" (goal {record['bar']:g})"
        cells += [
            _text(record["best_peer"]),
            _time(rows[record["best_peer"]]["ms"]),
            _interval(record["ratio"]),
            verdict,
        ]
    else:
        cells += ["none", "", "", ""]
    factor = ""
    if "plain_factor" in record:
        factor = f"{_factor(record['plain_factor']['median'])}"
        if "promised_factor" in record:
            factor += f" (promised {_factor(record['promised_factor'])})"
    cells.append(factor)
    if memory:
        other = rows.get(record.get("best_peer", "")) or next((r for r in rows.values() if r["role"] == "plain"), None)
        text = ""
        if "peak_bytes" in ours:
            text = _bytes(ours["peak_bytes"])
            if other and "peak_bytes" in other:
                text += f" : {_bytes(other['peak_bytes'])}"
        cells.append(text)
    return cells


def _all_contestants(records: list[dict[str, Any]]) -> list[str]:
    lines = ["::::{dropdown} All contestants", "", "| case | pass | contestant | median | middle half | ours : this |"]
    lines.append("|---|---|---|--:|--:|--:|")
    for r in records:
        for row in r["contestants"]:
            ratio = _interval(row["ours_to_this"]) if "ours_to_this" in row else ""
            cells = [
                _text(r["case"]),
                _MODES.get(r["mode"], r["mode"]),
                _text(row["name"]),
                _time(row["ms"]),
                f"{_time(row['q1'])} – {_time(row['q3'])}",
                ratio,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    settings = {(r["rounds"], r["clock"], r["dtype"]) for r in records}
    rounds = sorted({rounds for rounds, _, _ in settings})
    span = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]} to {rounds[-1]}"
    clocks, dtypes = ({s[i] for s in settings} for i in (1, 2))
    lines += ["", f"{span} rounds, {' and '.join(sorted(clocks))}, {' and '.join(sorted(dtypes))}.", "::::"]
    return lines


def _text(text: str) -> str:
    """A text as it stands, in a table of Markdown."""
    for sign in "\\|*_`<>$":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())


def _sentence(text: str) -> str:
    text = _text(text).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


def _time(ms: float) -> str:
    for unit, size in (("s", 1e3), ("ms", 1.0)):
        if ms >= size:
            return f"{_digits(ms / size)}\N{NO-BREAK SPACE}{unit}"
    return f"{_digits(ms * 1e3)}\N{NO-BREAK SPACE}µs"


def _bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{_digits(count / size)}\N{NO-BREAK SPACE}{unit}"
    return f"{count}\N{NO-BREAK SPACE}B"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _factor(value: float) -> str:
    return f"{_digits(value)}×"


def _interval(ratio: dict[str, Any]) -> str:
    text = f"{_ratio(ratio['median'])} [{_ratio(ratio['low'])},\N{NO-BREAK SPACE}{_ratio(ratio['high'])}]"
    return text if ratio["coverage"] >= 0.95 else f"{text} at {100 * ratio['coverage']:.0f} %"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


# --- the schema -----------------------------------------------------------------------------------------------------

_RATIO = {"median": float, "low": float, "high": float, "coverage": float}
_ROW = {"name": str, "role": str, "ms": float, "q1": float, "q3": float, "turns": int}
_RECORD = {
    "operation": str,
    "case": str,
    "mode": str,
    "dtype": str,
    "rounds": int,
    "clock": str,
    "contestants": list,
    "missing": list,
}
_ENTRY = {
    "chapter": str,
    "about": str,
    "tests": list,
    "bar": float,
    "date": str,
    "machine": dict,
    "versions": dict,
    "settings": dict,
    "files": dict,
    "refused": str,
    "records": list,
}


def validate(document: Any, where: str = "the record of the benchmarks") -> None:
    """Check that a document is what the page can read.

    Raises:
        BookError: it is not; the message has the place.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise BookError(f"{where} has not schema {SCHEMA}: this version of the pipeline cannot read it.")
    _has(document, {"operations": dict}, where)
    for name, entry in document["operations"].items():
        _has(entry, _ENTRY, f"{where}: {name}")
        if bool(entry["refused"]) == bool(entry["records"]):
            raise BookError(f"{where}: {name}: an operation is either refused or has records.")
        for record in entry["records"]:
            _check_record(record, f"{where}: {name}")


def _check_record(record: Any, where: str) -> None:
    _has(record, _RECORD, where)
    where = f"{where}, {record['case']}, {record['mode']}"
    names = set()
    for row in record["contestants"]:
        _has(row, _ROW, where)
        names.add(row["name"])
        if not 0 < row["q1"] <= row["ms"] <= row["q3"]:
            raise BookError(f"{where}: {row['name']}: quartiles {row['q1']!r}, {row['ms']!r}, {row['q3']!r}.")
        if row["role"] != "ours":
            _has(row.get("ours_to_this"), _RATIO, f"{where}, {row['name']}")
    if [row["role"] for row in record["contestants"]].count("ours") != 1:
        raise BookError(f"{where}: there is not exactly one contestant of ours.")
    if "ratio" in record:
        _has(record, {"best_peer": str, "bar": float, "verdict": str}, where)
        _has(record["ratio"], _RATIO, where)
        if record["best_peer"] not in names or record["verdict"] not in _WORDS:
            raise BookError(f"{where}: best peer {record['best_peer']!r}, verdict {record['verdict']!r}.")
    for key, kind in (("plain_factor", _RATIO), ("promised_factor", None)):
        if key in record and kind is not None:
            _has(record[key], kind, f"{where}, {key}")


def _has(found: Any, wanted: dict[str, Any], where: str) -> None:
    if not isinstance(found, dict):
        raise BookError(f"{where}: {found!r} is not an object.")
    for key, kind in wanted.items():
        value = found.get(key)
        allowed = (int, float) if kind is float else (kind,)
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise BookError(f"{where}: {key!r} is {value!r}, not a {kind.__name__}.")

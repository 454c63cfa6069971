"""One row of a ledger: what a run was, what it was made of, what it took and what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from kexue_lib.book.errors import BookError
from kexue_lib.book.records import STATUSES, VERDICTS

#: Raise it when a field changes its meaning or goes; old readers then refuse new ledgers.
SCHEMA_VERSION = 1

#: How a run can end: as it should; an error in a cell; over its time limit; without a result; its worker was lost.
ENDS = ("done", "failed", "timeout", "died", "lost")
#: Ends that tell something about the chapter. The same run would end the same way, so it is not repeated.
FINAL = ("done", "failed")
#: Ends that may be the machine's fault: tried again at once. A time limit is only tried again by the next command.
INFRASTRUCTURE = ("died", "lost")

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT = {"type": "integer", "minimum": 0}
_AMOUNT = {"type": ["number", "null"], "minimum": 0}
_TEXT = {"type": "string"}
# JSON has no NaN: what is not finite is written as "nan", "inf" or "-inf".
_VALUE = {"anyOf": [{"type": "number"}, {"enum": ["nan", "inf", "-inf"]}]}
_NAMES = {"type": "object", "additionalProperties": {"type": "array", "items": _TEXT}}
_CLAIM = {
    "type": "object",
    "required": ["id", "claim", "verdict", "criteria", "measured"],
    "properties": {
        "id": _TEXT,
        "claim": _TEXT,
        "verdict": {"enum": list(VERDICTS)},
        "criteria": {"type": "object", "additionalProperties": {"type": ["boolean", "null"]}},
        "measured": {"type": "object", "additionalProperties": _VALUE},
    },
}
SCHEMA: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "A run of a chapter",
    "type": "object",
    "definitions": {
        # What stands behind a curve: null where there is no value; the lab rounds to six digits and has no infinity.
        "series": {"type": ["number", "null", "array"], "items": {"$ref": "#/definitions/series"}},
    },
    # Fields that came later are not required, so that earlier ledgers stay valid: processes, figures, clocked.
    "required": [
        "schema", "chapter", "scale", "device", "seed", "source", "library", "versions", "commit", "started",
        "seconds", "cpu_seconds", "peak_bytes", "gpu_peak_bytes", "machine", "attempts", "resumed", "status",
        "steps", "claims", "error",
    ],
    "properties": {
        "schema": {"const": SCHEMA_VERSION},
        "chapter": {"type": "string", "pattern": "^[a-z0-9-]+/[a-z0-9-]+$"},
        "scale": _TEXT,
        "device": {"enum": ["cpu", "cuda"]},
        "seed": {"type": "integer"},
        "source": _HASH,
        "library": {
            "type": ["object", "null"],
            "required": ["hash", "files"],
            "properties": {"hash": _HASH, "files": {"type": "array", "items": _TEXT}},
        },
        "versions": {"type": "object", "required": ["python"], "additionalProperties": _TEXT},
        "commit": {"type": ["string", "null"]},
        "started": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"},
        "seconds": {"type": "number", "minimum": 0},
        "cpu_seconds": _AMOUNT,
        "peak_bytes": _AMOUNT,
        "gpu_peak_bytes": _AMOUNT,
        "machine": _TEXT,
        "attempts": {"type": "integer", "minimum": 1},
        "resumed": {"type": "boolean"},
        "processes": {"type": "integer", "minimum": 1},
        "status": {"enum": list(ENDS)},
        "steps": {"type": ["object", "null"], "properties": dict.fromkeys(STATUSES, _COUNT)},
        "claims": {"type": "array", "items": _CLAIM},
        "figures": {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": {"$ref": "#/definitions/series"}},
        },
        # The numbers that came from a clock: names by claim, and series by figure.
        "clocked": {
            "type": "object",
            "properties": dict.fromkeys(("claims", "figures"), _NAMES),
            "additionalProperties": False,
        },
        "error": {
            "type": ["object", "null"],
            "required": ["message"],
            "properties": {"message": _TEXT, "place": {"type": ["string", "null"]}, "traceback": _TEXT},
        },
    },
}  # fmt: skip


@dataclass(frozen=True, order=True)
class Key:
    """Which run: a chapter at a scale, on a device, with a seed.

    >>> str(Key("depth/why-residual", "quick", "cpu", 3))
    'depth/why-residual quick cpu seed 3'
    """

    chapter: str
    scale: str
    device: str
    seed: int

    def __str__(self) -> str:
        """In words."""
        return f"{self.chapter} {self.scale} {self.device} seed {self.seed}"


def key_of(row: dict[str, Any]) -> Key:
    """Which run a row is of."""
    return Key(row["chapter"], row["scale"], row["device"], row["seed"])


def processes_of(row: dict[str, Any]) -> int:
    """How many processes ran the chapter together; rows of earlier versions do not say so: one."""
    return int(row.get("processes", 1))


def encode(value: float | int) -> float | int | str:
    """A measured number as JSON holds it.

    >>> encode(0.5), encode(float("nan")), encode(float("-inf"))
    (0.5, 'nan', '-inf')
    """
    return value if math.isfinite(value) else str(float(value))


def decode(value: float | int | str) -> float:
    """The number that :func:`encode` wrote.

    >>> decode("inf")
    inf
    """
    return float(value)


def claims_of(records: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """The claims of a run as a row holds them: verdict, criteria met, measured numbers."""
    return [
        {
            "id": str(claim["id"]),
            "claim": str(claim["claim"]),
            "verdict": claim["verdict"],
            "criteria": {str(c["name"]): c["met"] for c in claim.get("criteria", [])},
            "measured": {str(name): encode(value) for name, value in claim.get("measured", {}).items()},
        }
        for claim in records
    ]


def clocked_of(claims: Iterable[dict[str, Any]], figures: Iterable[dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """The measured numbers and the series that came from a clock, as a row holds them."""
    return {
        "claims": {str(claim["id"]): claim["clocked"] for claim in claims if claim.get("clocked")},
        "figures": {str(figure["name"]): figure["clocked"] for figure in figures if figure.get("clocked")},
    }


def validate(row: Any) -> None:
    """Raise a :class:`~kexue_lib.book.errors.BookError` that says what is wrong with a row."""
    from fastjsonschema import JsonSchemaValueException

    if isinstance(row, dict) and isinstance(row.get("schema"), int) and row["schema"] > SCHEMA_VERSION:
        raise NewerLedger(
            f"it has schema {row['schema']}, and this version of kexue knows schemas up to {SCHEMA_VERSION}. "
            "Update the checkout."
        )
    try:
        _validator()(row)
    except JsonSchemaValueException as error:
        raise BookError(str(error).replace("data.", "", 1)) from None


class NewerLedger(BookError):
    """A ledger that a newer version of kexue wrote."""


@cache
def _validator() -> Callable[[Any], Any]:
    import fastjsonschema

    check: Callable[[Any], Any] = fastjsonschema.compile(SCHEMA)
    return check

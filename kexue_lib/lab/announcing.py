"""The line that opens a chapter: on which device it runs and how long it takes."""

from __future__ import annotations

from collections.abc import Mapping

from .run import SCALES

__all__ = ["announce", "announcement"]


def announcement(minutes: Mapping[str, float], chapter: str | None = None, *, gpu: str | None = None) -> str:
    """The line that :func:`announce` prints; the same on every machine without a GPU, so no versions and no names.

    Args:
        minutes: expected minutes for each scale.
        chapter: name to put in front, or None.
        gpu: name of the GPU, or None.

    >>> announcement({"quick": 1, "full": 30})
    'Device: CPU. scale = "quick" takes about 1 minute; scale = "full" needs a GPU and about 30 minutes.'
    """
    for scale, value in minutes.items():
        if scale not in SCALES:
            raise ValueError(f"minutes has the scale {scale!r}; allowed: 'quick', 'full'")
        if not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"minutes[{scale!r}]={value!r} is not allowed; allowed: a number > 0")
    if "quick" not in minutes:
        raise ValueError(f"minutes={dict(minutes)!r} does not say how long the scale 'quick' takes")
    device = f"GPU ({gpu})" if gpu else "CPU"
    line = f'Device: {device}. scale = "quick" takes about {_minutes(minutes["quick"])}'
    if "full" in minutes:
        need = "uses the GPU and takes about" if gpu else "needs a GPU and about"
        line += f'; scale = "full" {need} {_minutes(minutes["full"])}'
    return (f"{chapter}. " if chapter else "") + line + "."


def announce(chapter: str | None = None, *, minutes: Mapping[str, float]) -> None:
    """Print device and expected minutes: what a reader wants to know before pressing "run all".

    Args:
        chapter: name to put in front, or None.
        minutes: expected minutes for each scale, such as ``{"quick": 1, "full": 30}``.
    """
    print(announcement(minutes, chapter, gpu=_gpu()))


def _minutes(value: float) -> str:
    return "1 minute" if value == 1 else f"{value:g} minutes"


def _gpu() -> str | None:
    try:
        import torch
    except ImportError:  # a chapter of derivations alone needs no torch
        return None
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None

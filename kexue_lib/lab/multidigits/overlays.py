"""The data: overlays of two digits, their labels, and the difference of their inks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import data

__all__ = ["OFFSET", "SIDE", "MultiDigits", "multidigits"]

SIDE, OFFSET = 12, 4


@dataclass(frozen=True)
class MultiDigits:
    """Overlays of two digits.

    Attributes:
        images: ``(count, 144)`` float32 in [0, 1].
        left, right: the labels, ``(count,)`` int64.
        difference: ink of the left digit minus ink of the right one, in standard deviations of the ink of the
            training digits, ``(count,)`` float32.
    """

    images: Tensor
    left: Tensor
    right: Tensor
    difference: Tensor

    def __len__(self) -> int:
        """How many overlays."""
        return len(self.images)

    def to(self, device: torch.device | str) -> MultiDigits:
        """The same on a device."""
        return MultiDigits(*(x.to(device) for x in (self.images, self.left, self.right, self.difference)))

    def take(self, rows: Tensor) -> MultiDigits:
        """Some of them."""
        return MultiDigits(*(x[rows] for x in (self.images, self.left, self.right, self.difference)))


def multidigits(count: int, *, part: str, rng: np.random.Generator) -> MultiDigits:
    """Overlay random pairs of digits: the first at the upper left, the second 4 pixels lower and further right.

    Args:
        count: how many pairs.
        part: "train" (pairs of the first 1200 digits) or "test" (pairs of the other 597).
        rng: draws the pairs.

    >>> pairs = multidigits(5, part="train", rng=np.random.default_rng(0))
    >>> pairs.images.shape, pairs.left.shape, float(pairs.images.max()) <= 1
    (torch.Size([5, 144]), torch.Size([5]), True)
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count={count!r} is not allowed; allowed: an integer >= 1")
    if part not in ("train", "test"):
        raise ValueError(f"part={part!r} is not allowed; allowed: 'train', 'test'")
    images, labels = data.digits()
    ink = images.sum((1, 2))
    unit = ink[:1200].std()
    some = np.arange(1200) if part == "train" else np.arange(1200, len(images))
    first, second = rng.choice(some, size=(2, count))
    canvas = np.zeros((count, SIDE, SIDE), dtype=np.float32)
    canvas[:, :8, :8] = images[first]
    canvas[:, OFFSET:, OFFSET:] = np.maximum(canvas[:, OFFSET:, OFFSET:], images[second])
    return MultiDigits(
        torch.from_numpy(canvas.reshape(count, -1)),
        torch.from_numpy(labels[first]),
        torch.from_numpy(labels[second]),
        torch.from_numpy(((ink[first] - ink[second]) / unit).astype(np.float32)),
    )

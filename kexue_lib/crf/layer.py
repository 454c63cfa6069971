"""The conditional random field as a module."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .checks import FORBIDDEN
from .paths import crf_sample, crf_viterbi
from .scores import crf_log_partition, crf_marginals, crf_nll

__all__ = ["LinearChainCRF"]


class LinearChainCRF(nn.Module):
    r"""A linear-chain CRF as a layer: emissions in, loss, marginals, best path or samples out.

    The transitions are read as ``A = scale * theta``. With Adam a scale of s makes A move s times as fast as a plain
    parameter (and divides epsilon by s), with SGD s² times (step D7).

    Args:
        num_tags: k.
        scale: s > 0.
        start_end: also learn scores of the first and the last tag (in the same scale).
        constraints: which steps are allowed: ``(k, k)`` boolean, or that with ``(k,)`` booleans for the first and the
            last tag as a tuple ``(transitions, start, end)``. Forbidden ones get the score :data:`FORBIDDEN`.
        init: ``"uniform"``: A uniform in ±√(3/k), the Glorot initialisation of the author's layer; or ``"zeros"``.
        generator: for the initial values.

    Attributes:
        theta: the parameter ``(k, k)``; ``theta_start`` and ``theta_end`` ``(k,)`` or None.

    Raises:
        ValueError: num_tags < 1, scale ≤ 0, an unknown init, constraints of another shape.
        TypeError: constraints that are not boolean.

    Hazards:
        A checkpoint holds theta, so the scale must be the same when it is loaded. Start and end scores break the gauge
        freedom at the ends (step D4).

    Example:
        >>> crf = LinearChainCRF(4, scale=100.0, generator=torch.Generator().manual_seed(0))
        >>> h, y = torch.zeros(2, 5, 4), torch.zeros(2, 5, dtype=torch.long)
        >>> loss = crf(h, y)
        >>> tags, score = crf.decode(h)
        >>> loss.shape, tags.shape, bool(crf.transitions.abs().max() <= 3**0.5 / 2)
        (torch.Size([]), torch.Size([2, 5]), True)

    Source: https://kexue.fm/archives/7196; chapter *crf-learning-rate*, steps D1 and D7.
    """

    def __init__(
        self,
        num_tags: int,
        *,
        scale: float = 1.0,
        start_end: bool = False,
        constraints: Any = None,
        init: str = "uniform",
        generator: torch.Generator | None = None,
    ) -> None:
        """Make the parameters; the arguments stand in the docstring of the class."""
        super().__init__()
        if isinstance(num_tags, bool) or not isinstance(num_tags, int) or num_tags < 1:
            raise ValueError(f"num_tags={num_tags!r} must be an integer >= 1")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale={scale!r} must be a number > 0")
        if init not in ("uniform", "zeros"):
            raise ValueError(f"init={init!r} is not known; choose 'uniform' or 'zeros'")
        self.num_tags, self.scale = num_tags, float(scale)
        bound = math.sqrt(3 / num_tags) / scale if init == "uniform" else 0.0

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))

        self.theta = parameter(num_tags, num_tags)
        self.theta_start = parameter(num_tags) if start_end else None
        self.theta_end = parameter(num_tags) if start_end else None
        given = (None, None, None) if constraints is None else constraints
        names = ("allowed", "allowed_start", "allowed_end")
        shapes = ((num_tags, num_tags), (num_tags,), (num_tags,))
        given = (given, None, None) if isinstance(given, Tensor) else tuple(given)
        if len(given) != 3:
            raise ValueError(f"constraints has {len(given)} parts; give (k, k), or (transitions, start, end)")
        for name, allowed, shape in zip(names, given, shapes, strict=True):
            if allowed is not None:
                if not isinstance(allowed, Tensor) or allowed.dtype != torch.bool:
                    kind = allowed.dtype if isinstance(allowed, Tensor) else type(allowed).__name__
                    raise TypeError(f"constraints: {name} has type {kind}; a boolean tensor is needed")
                if allowed.shape != shape:
                    raise ValueError(f"constraints: {name} has shape {tuple(allowed.shape)}, not {shape}")
            self.register_buffer(name, allowed, persistent=False)

    def _read(self, theta: Tensor | None, allowed: Tensor | None) -> Tensor | None:
        if theta is None:
            if allowed is None:
                return None
            theta = torch.zeros_like(allowed, dtype=self.theta.dtype)
        value = self.scale * theta
        return value if allowed is None else torch.where(allowed, value, FORBIDDEN)

    @property
    def transitions(self) -> Tensor:
        """A ``(k, k)``, with the forbidden steps in it."""
        out = self._read(self.theta, self.allowed)  # type: ignore[arg-type]
        assert out is not None
        return out

    @property
    def start(self) -> Tensor | None:
        """Scores of the first tag ``(k,)``, or None."""
        return self._read(self.theta_start, self.allowed_start)  # type: ignore[arg-type]

    @property
    def end(self) -> Tensor | None:
        """Scores of the last tag ``(k,)``, or None."""
        return self._read(self.theta_end, self.allowed_end)  # type: ignore[arg-type]

    def forward(
        self,
        emissions: Tensor,
        tags: Tensor,
        mask: Tensor | None = None,
        *,
        reduction: str = "mean",
        method: str = "auto",
        validate: bool = False,
    ) -> Tensor:
        """The loss of :func:`crf_nll`."""
        return crf_nll(
            emissions,
            self.transitions,
            tags,
            mask,
            self.start,
            self.end,
            reduction=reduction,
            method=method,
            validate=validate,
        )

    def log_partition(self, emissions: Tensor, mask: Tensor | None = None, *, method: str = "auto") -> Tensor:
        """:func:`crf_log_partition`."""
        return crf_log_partition(emissions, self.transitions, mask, self.start, self.end, method=method)

    def marginals(self, emissions: Tensor, mask: Tensor | None = None, *, pairwise: bool = False) -> Any:
        """:func:`crf_marginals`."""
        return crf_marginals(emissions, self.transitions, mask, self.start, self.end, pairwise=pairwise)

    def decode(self, emissions: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:func:`crf_viterbi`: the best path and its score."""
        return crf_viterbi(emissions, self.transitions, mask, self.start, self.end)

    def sample(
        self,
        emissions: Tensor,
        mask: Tensor | None = None,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """:func:`crf_sample`."""
        return crf_sample(emissions, self.transitions, mask, self.start, self.end, samples=samples, generator=generator)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.num_tags}, scale={self.scale:g}, start_end={self.theta_start is not None}"

"""Learning-rate schedules, as factors for ``torch.optim.lr_scheduler.LambdaLR``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping

from .signs import check_number

__all__ = ["piecewise_linear_schedule"]


def piecewise_linear_schedule(points: Mapping[int, float]) -> Callable[[int], float]:
    """A factor of the learning rate that is linear between given steps.

    It is 0 at step 0 unless a point at 0 is given (so the first point is the end of a warm-up), and constant after the
    last point.

    Args:
        points: ``{step: factor}``, at least one; steps are integers >= 0, factors are finite and >= 0.

    Returns:
        A function of the step, for ``LambdaLR``.

    Raises:
        ValueError: no point, a negative step or a factor that is negative or not finite.
        TypeError: a step is no integer.

    Hazards:
        The author's code counts micro-steps, ``LambdaLR`` counts calls of its own ``step()``. With ``grad_accum_steps =
        k`` either call it once per micro-step, or divide the steps by k.

    Example:
        >>> factor = piecewise_linear_schedule({10: 1.0, 20: 0.5, 40: 0.1})
        >>> [factor(step) for step in (0, 5, 10, 15, 20, 1000)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.1]
        >>> piecewise_linear_schedule({0: 1.0})(12345)
        1.0

    Source: https://kexue.fm/archives/9512 and the code beside it (option ``lr_schedule``).
    """
    if not points:
        raise ValueError("points is empty; give at least one {step: factor}, for example {0: 1.0}")
    for step, factor in points.items():
        if isinstance(step, bool) or not isinstance(step, int):
            raise TypeError(f"step {step!r} ({type(step).__name__}) must be an integer")
        if step < 0:
            raise ValueError(f"step {step} must be >= 0")
        check_number(f"factor at step {step}", factor, lambda x: 0 <= x < float("inf"), "finite and >= 0")
    known = dict(sorted({0: 0.0, **points}.items()))
    steps, factors = list(known), [float(x) for x in known.values()]

    def factor_at(step: int) -> float:
        if step < 0:
            raise ValueError(f"step {step} must be >= 0")
        right = bisect_right(steps, step)
        if right == len(steps):
            return factors[-1]
        share = (step - steps[right - 1]) / (steps[right] - steps[right - 1])
        return (1 - share) * factors[right - 1] + share * factors[right]

    return factor_at

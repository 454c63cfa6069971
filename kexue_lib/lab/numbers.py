"""How measured numbers are printed: with the sign ≈, and rounded so that noise does not show."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

__all__ = ["PATTERN", "approx", "as_number", "round_away"]

#: What :func:`approx` can print, for those who mask measured numbers when outputs are compared.
PATTERN = r"≈ -?\d+(\.\d+)?(e[+-]\d+)?( ± \d+(\.\d+)?(e[+-]\d+)?)?"

# Digits beyond the printed ones that count before rounding: what lies closer to a tie than this *is* a tie.
_GUARD = 4
# Enough digits for any two floats beside each other.
_EXACT = Context(prec=2000)


def as_number(x: Any, name: str = "x") -> float:
    """A finite Python float from a number, a NumPy scalar or a tensor of one element.

    Raises:
        ValueError: NaN or infinite.
        TypeError: no number (a truth value is none).
    """
    if isinstance(x, (bool, str, bytes)) or type(x).__name__ in ("bool_", "bool"):
        raise TypeError(f"{name}={x!r} is not a number")
    try:
        value = float(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}={x!r} is not a number") from error
    if not math.isfinite(value):
        raise ValueError(f"{name}={value} is not finite")
    return value


def _quantum(x: float, digits: int) -> int:
    """Exponent of the last of ``digits`` significant digits of x."""
    if x == 0:
        return 1 - digits
    exponent = Decimal(x).adjusted()
    # 9.996 to three digits is 10.0: the last digit moves up.
    if _at(x, exponent - digits + 1).adjusted() > exponent:
        exponent += 1
    return exponent - digits + 1


def _at(x: float, exponent: int) -> Decimal:
    """x rounded to a multiple of 10**exponent; ties, also those blurred by noise, go away from zero."""
    snapped = Decimal(x).quantize(Decimal((0, (1,), exponent - _GUARD)), ROUND_HALF_UP, _EXACT)
    return snapped.quantize(Decimal((0, (1,), exponent)), ROUND_HALF_UP, _EXACT)


def round_away(x: Any, digits: int = 3) -> Decimal:
    """x rounded to ``digits`` significant digits, ties away from zero.

    A value within a ten-thousandth of the last digit of a tie counts as the tie, so that floating-point noise around
    a tie (0.125 computed as 0.12499999 on another machine) does not change what is printed.

    >>> print(round_away(0.1249999999, 2), round_away(0.125, 2), round_away(0.1249, 2), round_away(-2.5, 1))
    0.13 0.13 0.12 -3
    """
    value = as_number(x)
    if digits < 1:
        raise ValueError(f"digits={digits!r} is not allowed; allowed: an integer >= 1")
    return _at(value, _quantum(value, digits))


def approx(x: Any, digits: int = 3, *, sd: Any = None, unit: str = "") -> str:
    """A measured number as text: ``≈ 0.842``, with a standard deviation ``≈ 0.842 ± 0.010``.

    Everything that is measured is printed by this function: the sign ≈ tells readers that the number may differ on
    their machine, and tells the comparison of outputs to skip it.

    Args:
        x: the number.
        digits: significant digits of x; with ``sd`` its two significant digits decide instead.
        sd: standard deviation, printed to two significant digits with x to the same decimal.
        unit: text after the number, such as ``"%"``.

    Raises:
        ValueError: NaN or infinite, or a negative ``sd``.
        TypeError: no number.

    >>> approx(0.84213), approx(0.84213, sd=0.0104), approx(43.27, unit="%")
    ('≈ 0.842', '≈ 0.842 ± 0.010', '≈ 43.3 %')
    >>> approx(0.0000123), approx(123456789), approx(1234), approx(0)
    ('≈ 1.23e-05', '≈ 1.23e+08', '≈ 1234', '≈ 0')
    """
    value = as_number(x)
    if digits < 1:
        raise ValueError(f"digits={digits!r} is not allowed; allowed: an integer >= 1")
    spread = None if sd is None else as_number(sd, "sd")
    if spread is not None and spread < 0:
        raise ValueError(f"sd={spread} is negative")
    exponent = _quantum(spread, 2) if spread else _quantum(value, digits)
    largest = max(_at(abs(value), exponent), _at(spread or 0.0, exponent))
    power = largest.adjusted() if largest and not Decimal("1e-4") <= largest < Decimal("1e7") else 0
    text = _text(value, exponent, power)
    if spread is not None:
        text += f" ± {_text(spread, exponent, power)}"
    return f"≈ {text}" + (f" {unit}" if unit else "")


def _text(x: float, exponent: int, power: int) -> str:
    """x to the last digit 10**exponent, as a multiple of 10**power; the digits before the point are never cut."""
    if x == 0:
        return "0"
    rounded = _at(x, min(exponent, power))
    text = f"{rounded.scaleb(-power, _EXACT):f}"
    if not rounded:
        text = text.lstrip("-")
    return f"{text}e{power:+03d}" if power else text

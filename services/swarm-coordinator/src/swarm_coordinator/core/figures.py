"""Numbers of JSON texts, exact: what votes compare and sums add up.

A double would make 9007199254740993 equal to its neighbour and 0.1 + 0.2 differ from 0.3; who
voted or counted wrote decimal digits, and those are compared and added here.
"""

import re
from fractions import Fraction
from typing import TypeAlias

__all__ = ["Exact", "exact", "text_of"]

Exact: TypeAlias = int | Fraction
"""``int`` for a JSON number without fraction and exponent, else ``Fraction``."""

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?(?:[eE]([+-]?\d+))?", re.ASCII)
_CHARS_MAX = 400
"""A double has at most 309 digits before its point; exact arithmetic must stay cheap."""
_EXPONENT_MAX = 400


def exact(raw: bytes) -> Exact | None:
    """The value of a JSON number; None when the JSON value is no number.

    Raises:
        ValueError: it has more digits than anybody means.
    """
    if not raw or raw[0] not in b"-0123456789":
        return None
    text = raw.decode("ascii", "replace").strip()
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    if len(text) > _CHARS_MAX:
        raise ValueError("a number is too long")
    fraction, exponent = match.groups()
    if fraction is None and exponent is None:
        return int(text)
    if exponent is not None:
        digits = exponent.lstrip("+-0")
        if len(digits) > 3 or int(digits or 0) > _EXPONENT_MAX:
            if exponent.startswith("-"):
                return Fraction(0)  # below every double
            raise ValueError("a number is too large")
    return Fraction(text)


def text_of(value: Exact) -> bytes:
    """JSON text: an ``int`` as it is, a ``Fraction`` as the nearest double.

    Raises:
        ValueError: beyond every double.
    """
    if isinstance(value, int):
        return b"%d" % value
    try:
        return repr(float(value)).encode()
    except OverflowError:
        raise ValueError("a number is too large") from None

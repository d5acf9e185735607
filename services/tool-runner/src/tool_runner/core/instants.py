"""Moments and spans of time as people and models write them: ``-15m``, ``2026-11-21T10:00:00Z``."""

import datetime as dt
import math
import re

__all__ = ["INSTANT_HELP", "SPAN_HELP", "instant", "rfc3339", "span_s"]

INSTANT_HELP = (
    "RFC 3339 (2026-11-21T10:00:00Z), Unix seconds, now, or a span before now (-15m, -1h30m)"
)
SPAN_HELP = "seconds, or a span as 15s, 5m, 1h30m, 7d"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"([0-9]{1,15}(?:ms|[smhdw]))+")
_PART = re.compile(r"([0-9]+)(ms|[smhdw])")
_YEAR_9999_S = 253_402_300_799.0


def span_s(text: str | float) -> float | None:
    """Seconds of a span; None when it is none."""
    if isinstance(text, int | float):
        return float(text) if math.isfinite(text) else None
    written = text.strip()
    if _SPAN.fullmatch(written):
        return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(written))
    return _number(written)


def instant(text: str | float, now_s: float) -> float | None:
    """Unix seconds of a moment; None when it is none.

    Args:
        text: see ``INSTANT_HELP``.
        now_s: Unix seconds of now.
    """
    if isinstance(text, int | float):
        return _bounded(float(text))
    written = text.strip().replace(" ", "")
    if written == "now":
        return now_s
    if written.removeprefix("now").startswith("-"):
        ago = span_s(written.removeprefix("now")[1:])
        return None if ago is None else _bounded(now_s - ago)
    number = _number(written)
    if number is not None:
        return _bounded(number)
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return moment.timestamp()


def rfc3339(unix_s: float) -> str:
    """A moment as people read it, to the millisecond."""
    moment = dt.datetime.fromtimestamp(unix_s, tz=dt.UTC)
    written = moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds")
    return written.replace("+00:00", "Z")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounded(unix_s: float) -> float | None:
    return unix_s if math.isfinite(unix_s) and 0 <= unix_s <= _YEAR_9999_S else None

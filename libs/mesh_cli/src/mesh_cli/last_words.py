"""The line of a service's log that says why it ended."""

import os
from pathlib import Path

import msgspec

__all__ = ["last_words", "tail"]

_LOOK_BYTES = 64 * 1024
_CHARS_MAX = 300


class _Line(msgspec.Struct, frozen=True):
    msg: str = ""
    level: str = ""
    error: str = ""


def _end(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOOK_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def last_words(log: Path) -> str:
    """The newest error in a log, in one line; else its newest line; "" when there is none."""
    rows = [row.strip() for row in _end(log) if row.strip()]
    for row in reversed(rows[-50:]):
        try:
            line = msgspec.json.decode(row, type=_Line)
        except msgspec.DecodeError:
            continue
        if line.level in {"error", "critical"}:
            cause = line.error.strip().splitlines()[-1:]
            return ": ".join([line.msg, *cause])[:_CHARS_MAX]
    return rows[-1][:_CHARS_MAX] if rows else ""


def tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, indented; "" when there is none."""
    return "\n".join(f"    {row[:500]}" for row in _end(log)[-lines:])

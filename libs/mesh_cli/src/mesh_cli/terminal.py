"""Plain lines on standard output: tables and JSON that read the same with and without a TTY."""

import datetime as dt
import sys
from collections.abc import Sequence

import msgspec

__all__ = ["duration", "line", "note", "plain", "pretty", "quantity", "stamp", "table"]


def line(text: str = "") -> None:
    """Write one line to standard output at once (a pipe sees it when it is written)."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Write one line to standard error: what is not the answer itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def plain(text: str) -> str:
    """Text that others chose, on one line: none of it steers the terminal."""
    return "".join(char if char.isprintable() else " " for char in text)


def pretty(data: bytes | object) -> str:
    """Indented JSON of a value, or of JSON bytes; bytes that are no JSON come back as text."""
    raw = data if isinstance(data, bytes) else msgspec.json.encode(data)
    try:
        return msgspec.json.format(raw, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw.decode(errors="replace")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks apart; the last column is not padded."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def stamp() -> str:
    """Local time of day, as the ``nats`` tool prints it."""
    return dt.datetime.now().astimezone().strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    """A duration for people: ``512µs``, ``3.2ms``, ``4.1s``, ``2h05m``."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f}µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f}ms"
    if seconds < 120:
        return f"{seconds:.1f}s"
    minutes, _ = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m"


def quantity(size: int) -> str:
    """Bytes for people: ``512 B``, ``1.5 KiB``, ``2.0 GiB``; -1 is ``unlimited``."""
    if size < 0:
        return "unlimited"
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{size} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")

"""On which line of a TOML file a key stands.

Neither tomllib nor tomlkit tells (tomlkit keeps the text of every item, but no place). A parser
has said already that the file is TOML, so finding the lines needs no second one: headers, keys,
and enough of values to know where they end.
"""

import re
from collections.abc import Iterator

__all__ = ["key_lines", "line_of"]

_PART = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)\s*(\.?)""")
_LAST = re.compile(r"(\.[^.\[\]]+|\[\d+\])$")
_STRINGS = ('"""', "'''", '"', "'")


def line_of(lines: dict[str, int], key: str) -> int:
    """Line of a dotted key, or of the closest one around it that has a line; 0 = none has."""
    while key and key not in lines:
        shorter = _LAST.sub("", key)
        key = shorter if shorter != key else ""
    return lines.get(key, 0)


def key_lines(text: str) -> dict[str, int]:
    """Dotted keys (``mcp_servers[0].name``) and the lines, from 1, on which they are given."""
    lines: dict[str, int] = {}
    arrays: dict[str, int] = {}
    table = ""
    for at, line, rest in _statements(text):
        if rest.startswith("["):
            double = rest.startswith("[[")
            parts, _ = _key(text, at + 1 + double)
            table = _resolved(parts[:-1], arrays, "")
            name = f"{table}.{parts[-1]}" if table else parts[-1]
            if double:
                arrays[name] = arrays.get(name, -1) + 1
            table = f"{name}[{arrays[name]}]" if name in arrays else name
            lines.setdefault(name, line)
            lines.setdefault(table, line)
        else:
            parts, _ = _key(text, at)
            key = table
            for part in parts:
                key = f"{key}.{part}" if key else part
                lines.setdefault(key, line)
    return lines


def _resolved(parts: list[str], arrays: dict[str, int], table: str) -> str:
    for part in parts:
        table = f"{table}.{part}" if table else part
        if table in arrays:
            table = f"{table}[{arrays[table]}]"
    return table


def _statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Offset, line and beginning of every header and every ``key = value``."""
    at, line = 0, 1
    while at < len(text):
        char = text[at]
        if char.isspace():
            line += char == "\n"
            at += 1
        elif char == "#":
            at = _end_of_line(text, at)
        else:
            yield at, line, text[at : at + 2]
            start = at
            at = _end_of_line(text, at) if char == "[" else _after_value(text, _key(text, at)[1])
            at = max(at, start + 1)
            line += text.count("\n", start, at)


def _key(text: str, at: int) -> tuple[list[str], int]:
    """The parts of a dotted key, and where it ends."""
    parts: list[str] = []
    while (found := _PART.match(text, at)) is not None:
        parts.append(found[1].strip("\"'"))
        at = found.end()
        if not found[2]:
            break
    return parts or [""], at


def _after_value(text: str, at: int) -> int:
    """The end of the line on which the value ends that begins at ``=``."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char in "\"'":
            at = _after_string(text, at)
            continue
        if char == "#":
            at = _end_of_line(text, at)
            continue
        if char == "\n" and depth == 0:
            return at
        depth += (char in "[{") - (char in "]}")
        at += 1
    return at


def _after_string(text: str, at: int) -> int:
    quote = next(one for one in _STRINGS if text.startswith(one, at))
    raw = quote[0] == "'"
    at += len(quote)
    while at < len(text) and not text.startswith(quote, at):
        at += 2 if text[at] == "\\" and not raw else 1
    at += len(quote)
    # A text in three quotes may end in one or two more of them.
    while len(quote) == 3 and at < len(text) and text[at] == quote[0]:
        at += 1
    return at


def _end_of_line(text: str, at: int) -> int:
    found = text.find("\n", at)
    return len(text) if found < 0 else found

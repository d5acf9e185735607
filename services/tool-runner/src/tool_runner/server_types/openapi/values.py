"""How values are written into a path, a query, a header or a cookie: the styles of OpenAPI.

A value is text that somebody else's parser reads, so everything that could mean something there
is percent-encoded. In a path that is not enough: servers and proxies decode before they decide,
some of them twice, so a value with a dot segment in any reading is refused.
"""

import re
from collections.abc import Iterable
from typing import Any, cast
from urllib.parse import quote, unquote

import msgspec

__all__ = ["RefusedValueError", "cookie", "header", "pairs", "path_value"]

DEPTH_MAX = 4
"""Objects inside objects in a ``deepObject`` parameter."""
VALUE_CHARS_MAX = 16 * 1024
_DECODINGS = 3

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESERVED = ":/?@!$'()*,;"
"""What stays as it is where a document allows reserved characters: not what ends a value."""


class RefusedValueError(ValueError):
    """A value cannot be written where it belongs; the text is public and names the argument."""


def path_value(name: str, value: object, style: str, *, explode: bool) -> str:
    """A value as part of a path.

    Raises:
        RefusedValueError: it is empty or could lead elsewhere.
    """
    for text in _texts(name, value):
        _check_path_text(name, text)
    if style == "label":
        separator, written = ".", _joined(name, value, "." if explode else ",", "=", explode)
        written = separator + written
    elif style == "matrix":
        written = _matrix(name, value, explode=explode)
    else:
        written = _joined(name, value, ",", "=" if explode else ",", explode)
    if not written:
        raise RefusedValueError(f"{name}: an empty value cannot stand in a path")
    return written


def pairs(
    name: str, value: object, style: str, *, explode: bool, reserved: bool = False
) -> Iterable[tuple[str, str]]:
    """A value as pairs of a query, already encoded.

    Raises:
        RefusedValueError: it cannot be written in this style.
    """
    safe = _RESERVED if reserved else ""
    key = _quoted(name)
    if style == "content":
        yield key, _quoted(msgspec.json.encode(value).decode(), safe)
    elif isinstance(value, dict):
        members = cast("dict[str, object]", value)
        if style == "deepObject":
            yield from _deep(key, members, safe, 1)
        elif explode:
            yield from (
                (_quoted(part), _quoted(_text(name, one), safe)) for part, one in members.items()
            )
        else:
            flat = [text for part, one in members.items() for text in (part, _text(name, one))]
            yield key, _separator(style).join(_quoted(text, safe) for text in flat)
    elif isinstance(value, list):
        texts = [_quoted(_text(name, one), safe) for one in cast("list[object]", value)]
        if explode:
            yield from ((key, text) for text in texts)
        elif texts:
            yield key, _separator(style).join(texts)
    else:
        yield key, _quoted(_text(name, value), safe)


def header(name: str, value: object, style: str, *, explode: bool) -> str:
    """A value as a header.

    Raises:
        RefusedValueError: it has characters that a header cannot have.
    """
    if style == "content":
        text = msgspec.json.encode(value).decode()
    elif isinstance(value, dict):
        between = "=" if explode else ","
        members = cast("dict[str, object]", value)
        text = ",".join(f"{part}{between}{_text(name, one)}" for part, one in members.items())
    elif isinstance(value, list):
        text = ",".join(_text(name, one) for one in cast("list[object]", value))
    else:
        text = _text(name, value)
    if _CONTROL.search(text) or not text.isascii() or len(text) > VALUE_CHARS_MAX:
        raise RefusedValueError(
            f"{name}: a header holds printable ASCII, at most {VALUE_CHARS_MAX} characters"
        )
    return text.strip()


def cookie(name: str, value: object, style: str, *, explode: bool) -> str:
    """A value as one cookie of the header ``Cookie``.

    Raises:
        RefusedValueError: as ``pairs``.
    """
    found = list(pairs(name, value, style, explode=explode))
    return "; ".join(f"{key}={text}" for key, text in found)


def _check_path_text(name: str, text: str) -> None:
    if not text:
        raise RefusedValueError(f"{name}: an empty value cannot stand in a path")
    read = text
    for _ in range(_DECODINGS):
        parts = re.split(r"[/\\]", read)
        # ";" begins a parameter of a segment for some servers: "..;x" is ".." to them.
        if any(part.partition(";")[0].strip() in {".", ".."} for part in parts):
            raise RefusedValueError(f"{name}: a value in a path has no segment '.' or '..'")
        if _CONTROL.search(read):
            raise RefusedValueError(f"{name}: a value in a path has no control characters")
        read = unquote(read)


def _texts(name: str, value: object) -> Iterable[str]:
    if isinstance(value, dict):
        for part, one in cast("dict[str, object]", value).items():
            yield part
            yield _text(name, one)
    elif isinstance(value, list):
        for one in cast("list[object]", value):
            yield _text(name, one)
    else:
        yield _text(name, value)


def _joined(name: str, value: object, between: str, assign: str, explode: bool) -> str:
    if isinstance(value, dict):
        members = cast("dict[str, object]", value)
        glue = assign if explode else ","
        return between.join(
            f"{_quoted(part)}{glue}{_quoted(_text(name, one))}" for part, one in members.items()
        )
    if isinstance(value, list):
        return between.join(_quoted(_text(name, one)) for one in cast("list[object]", value))
    return _quoted(_text(name, value))


def _matrix(name: str, value: object, *, explode: bool) -> str:
    key = _quoted(name)
    if explode and isinstance(value, dict | list):
        found = pairs(name, cast("object", value), "form", explode=True)
        return "".join(f";{part}={text}" for part, text in found)
    return f";{key}={_joined(name, value, ',', ',', explode=False)}"


def _deep(key: str, members: dict[str, object], safe: str, depth: int) -> Iterable[tuple[str, str]]:
    if depth > DEPTH_MAX:
        raise RefusedValueError(f"{unquote(key)}: nested deeper than {DEPTH_MAX}")
    for part, one in members.items():
        place = f"{key}%5B{_quoted(part)}%5D"
        if isinstance(one, dict):
            yield from _deep(place, cast("dict[str, object]", one), safe, depth + 1)
        elif isinstance(one, list):
            for each in cast("list[object]", one):
                yield place, _quoted(_text(key, each), safe)
        else:
            yield place, _quoted(_text(key, one), safe)


def _separator(style: str) -> str:
    return {"spaceDelimited": "%20", "pipeDelimited": "%7C"}.get(style, ",")


def _text(name: str, value: Any) -> str:
    """A single value as text; what has parts is written as JSON."""
    if isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str):
        text = value
    elif value is None:
        text = ""
    elif isinstance(value, dict | list):
        text = msgspec.json.encode(value).decode()
    else:
        text = str(value)
    if len(text) > VALUE_CHARS_MAX:
        raise RefusedValueError(f"{name}: at most {VALUE_CHARS_MAX} characters fit here")
    return text


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe=safe)

"""From a template and the arguments of a call to a command line: what a value may become.

A value fills its place in one element and nothing else. Where it would begin an element that the
program may read as an option, a leading dash is refused: after a literal ``--`` nothing is an
option any more, and ``--format={x}`` has begun its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from mcp_proto.server_types.command import CommandTool, Piece, parse

__all__ = ["RefusedValueError", "command_line", "standard_input"]

ELEMENT_BYTES_MAX = 64 * 1024
"""Longest element; Linux itself takes 128 KiB."""
LINE_BYTES_MAX = 512 * 1024
STDIN_BYTES_MAX = 4 * 1024 * 1024


class RefusedValueError(ValueError):
    """A value cannot stand where it would; the text is public and names the argument."""


def command_line(tool: CommandTool, values: Mapping[str, Any]) -> list[str]:
    """The command line of a call.

    Args:
        tool: the template.
        values: arguments, which fit ``parameters``.

    Raises:
        RefusedValueError: see there.
    """
    line: list[str] = []
    options_ended = False
    for word in tool.argv:
        pieces = parse(word)
        element = "".join(_filled(tool, piece, values) for piece in pieces)
        first = pieces[0] if pieces else None
        if first is not None and first.placeholder and not options_ended:
            _check_dash(tool, pieces, element)
        if len(element.encode()) > ELEMENT_BYTES_MAX:
            raise RefusedValueError(
                f"{_names(pieces)}: at most {ELEMENT_BYTES_MAX} bytes fit into the command line"
            )
        options_ended = options_ended or word == "--"
        line.append(element)
    if sum(len(element.encode()) + 1 for element in line) > LINE_BYTES_MAX:
        raise RefusedValueError(f"the arguments together exceed {LINE_BYTES_MAX} bytes")
    return line


def standard_input(tool: CommandTool, values: Mapping[str, Any]) -> bytes:
    """What the program reads.

    Raises:
        RefusedValueError: it is too long.
    """
    parts: list[bytes] = []
    for piece in parse(tool.stdin):
        if not piece.placeholder:
            parts.append(piece.text.encode())
            continue
        value = _value(tool, piece.text, values)
        parts.append(value.encode() if isinstance(value, str) else msgspec.json.encode(value))
    fed = b"".join(parts)
    if len(fed) > STDIN_BYTES_MAX:
        raise RefusedValueError(f"the input of {tool.name} exceeds {STDIN_BYTES_MAX} bytes")
    return fed


def _filled(tool: CommandTool, piece: Piece, values: Mapping[str, Any]) -> str:
    if not piece.placeholder:
        return piece.text
    value = _value(tool, piece.text, values)
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if "\0" in text:
        raise RefusedValueError(f"{piece.text}: a NUL character cannot be in a command line")
    return text


def _value(tool: CommandTool, name: str, values: Mapping[str, Any]) -> Any:
    if name in values:
        return values[name]
    properties = cast("Mapping[str, Any]", tool.parameters["properties"])
    return properties[name].get("default", "")


def _check_dash(tool: CommandTool, pieces: Sequence[Piece], element: str) -> None:
    leading: list[str] = []
    for piece in pieces:
        if not piece.placeholder:
            break
        leading.append(piece.text)
    if element.startswith("-") and not set(leading) & set(tool.allow_dash):
        raise RefusedValueError(
            f"{', '.join(leading)}: a value that begins with '-' would be read as an option"
        )


def _names(pieces: Sequence[Piece]) -> str:
    return ", ".join(piece.text for piece in pieces if piece.placeholder)

"""One spelling for one JSON value, so that its digest names the value and not how it was written.

Sorted members, no blanks, shortest escapes; a number that is an integer is written as one, since
JavaScript clients write 1.0 as 1. Integers of any size stay exact.
"""

import re

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["canonical"]

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_INTEGERS_UP_TO = 1e300  # a larger one costs 300 digits and more, and no client means it


def canonical(value: bytes | msgspec.Raw) -> bytes:
    """The canonical spelling of a JSON value.

    A value in which an object has one member twice keeps its own bytes: readers disagree on what
    such an object means, so it equals only itself.

    Raises:
        MeshError: ``params`` when it is not JSON, or holds a number beyond all readers.
    """
    data = bytes(value)
    try:
        written = msgspec.json.encode(_decoder.decode(data), order="sorted")
    except (ValueError, RecursionError):
        raise MeshError(ErrorKind.PARAMS, "a value cannot be read") from None
    return written if _members(written) == _members(data) else data


def _members(data: bytes) -> int:
    """How many members all objects have together: what is left of colons without strings."""
    return _STRING.sub(b"", data).count(b":")


def _number(text: str) -> float | int:
    number = float(text)
    if abs(number) > _INTEGERS_UP_TO:
        raise ValueError("a number is too large")
    return int(number) if number.is_integer() else number


_decoder = msgspec.json.Decoder(float_hook=_number)

r"""The one check of bytes that enter the mesh: size, UTF-8, depth, number of containers.

Inside the mesh values travel as ``msgspec.Raw``, whose parser verifies the JSON grammar (no NaN,
no control characters in strings, no trailing commas) but lets through invalid UTF-8 and any
nesting up to its own recursion limit. What passes ``check_rim`` and then ``codec.decode_message``
is a JSON text every strict decoder accepts, with these exceptions, which only the owner of a
value can judge: numbers of any magnitude (``1e999``), lone ``\udXXX`` escapes, duplicate keys
below the envelope.
"""

from itertools import accumulate

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import EDGE_MESSAGE_BYTES, JSON_CONTAINERS_MAX, JSON_DEPTH_MAX

__all__ = ["check_rim"]

# Keeps quotes and brackets, and turns braces into brackets: nesting needs no more.
_UNIFY = bytes.maketrans(b"{}", b"[]")
_NOISE = bytes(set(range(256)) - set(b'"[]{}'))
_MIDDLE = ord("[") + 1  # minus "[" is one level up, minus "]" one level down
_PASSES_MAX = 12
_LARGE_BYTES = 64 * 1024


def check_rim(data: bytes, max_bytes: int = EDGE_MESSAGE_BYTES) -> None:
    """Refuse bytes that no decoder further in should have to meet.

    Costs well under 1 µs per kB; 10 MB of ``[]`` is refused within 50 ms.

    Raises:
        MeshError: ``too_large`` over ``max_bytes``, ``parse`` for invalid UTF-8, ``request`` for
            more than 128 levels or 200,000 containers.
    """
    if len(data) > max_bytes:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"message exceeds {max_bytes} bytes",
            data={"maxBytes": max_bytes},
        )
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise MeshError(
                ErrorKind.PARSE, f"message is not valid UTF-8 (byte {error.start})"
            ) from None
    # Every container opens with a bracket, so a small count proves both bounds at once.
    if len(data) > _LARGE_BYTES:
        few = _few(data, b"[") and _few(data, b"{")
    else:
        few = data.count(b"[") + data.count(b"{") <= JSON_DEPTH_MAX
    if not few:
        _check_nesting(_brackets(data))


def _few(data: bytes, bracket: bytes) -> bool:
    """Whether a large text has few of a bracket: its search is thirty times faster than a count."""
    at = -1
    for _ in range(JSON_DEPTH_MAX // 2):
        at = data.find(bracket, at + 1)
        if at < 0:
            return True
    return False


def _brackets(data: bytes) -> bytes:
    """The brackets of ``data`` that stand outside strings, braces written as brackets."""
    if b"\\" in data:
        # In JSON a backslash stands only inside strings and every run of them is read from its
        # start, so dropping pairs first and escaped quotes second leaves only real quotes.
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    marks = data.translate(_UNIFY, _NOISE)
    # Two quotes in a row change nothing about what is inside a string and what is not.
    marks = marks.replace(b'""', b"")
    return b"".join(marks.split(b'"')[::2]) if b'"' in marks else marks


def _check_nesting(brackets: bytes) -> None:
    containers = brackets.count(b"[")
    if containers > JSON_CONTAINERS_MAX:
        raise MeshError(
            ErrorKind.REQUEST,
            f"message has more than {JSON_CONTAINERS_MAX} arrays and objects",
            data={"maxContainers": JSON_CONTAINERS_MAX},
        )
    if _depth(brackets) > JSON_DEPTH_MAX:
        raise MeshError(
            ErrorKind.REQUEST,
            f"message is nested deeper than {JSON_DEPTH_MAX} levels",
            data={"maxDepth": JSON_DEPTH_MAX},
        )


def _depth(brackets: bytes) -> int:
    # Each pass removes every innermost pair, so the passes needed are the depth. Real messages
    # are gone after a few; what is left then is walked, since passes over it could be slow.
    for depth in range(_PASSES_MAX):
        if not brackets:
            return depth
        brackets = brackets.replace(b"[]", b"")
    return _PASSES_MAX + max(accumulate(map(_MIDDLE.__sub__, brackets)), default=0)

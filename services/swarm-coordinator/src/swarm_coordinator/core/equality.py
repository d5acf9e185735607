"""When two values count as the same: the equality modes of votes, unions and intersections.

Most modes are exact: each value has a key, and equal keys are one class. ``numeric`` with a
tolerance is not transitive (1 ~ 2 and 2 ~ 3, but not 1 ~ 3), so its classes depend on all values
together: the value that most others agree with comes first and takes those with it.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mcp_proto.canonical import canonical
from mcp_proto.errors import MeshError
from swarm_coordinator.core import pointers
from swarm_coordinator.core.clusters import clusters
from swarm_coordinator.core.figures import Exact, exact
from swarm_coordinator.core.spec import Equality

__all__ = [
    "NotComparableError",
    "canonical_key",
    "classes",
    "fault_of",
    "is_exact",
    "item_key",
    "key_of",
    "part_of",
]

_string = msgspec.json.Decoder(str)


class NotComparableError(ValueError):
    """The mode cannot read this value; public text."""


def fault_of(equality: Equality) -> str:
    """What is wrong with the parameters of an equality; "" = nothing. For checks at submit."""
    if equality.absolute < 0:
        return "absolute must not be negative"
    if not 0 <= equality.relative < 1:
        return "relative must be at least 0 and below 1"
    if equality.pointer and not equality.pointer.startswith("/"):
        return "pointer must be a JSON pointer"
    if equality.kind == "pointer" and not equality.pointer:
        return "pointer is missing"
    if equality.kind == "judge" and not equality.agent:
        return "agent is missing"
    return ""


def is_exact(equality: Equality) -> bool:
    """Whether a further value can never change which of the others are the same."""
    if equality.kind == "numeric":
        return not (equality.absolute or equality.relative)
    return equality.kind not in ("items", "judge")


def part_of(value: bytes, equality: Equality) -> bytes:
    """What of a value is compared, and therefore what is agreed on: the whole, or the field.

    Raises:
        NotComparableError: there is no such field.
    """
    try:
        return pointers.at(value, equality.pointer)
    except pointers.NoSuchPlaceError as error:
        raise NotComparableError(str(error)) from None


def canonical_key(value: bytes) -> bytes:
    """Canonical form with strings in NFC: ``{"b":1.0,"a":[]}`` is ``{"a":[],"b":1}``.

    Raises:
        NotComparableError: not JSON, or a number beyond all readers.
    """
    try:
        written = canonical(value)
        if written.isascii():
            return written
        composed = unicodedata.normalize("NFC", written.decode()).encode()
        # Composed names may stand in another order, or twice.
        return written if composed == written else canonical(composed)
    except (MeshError, UnicodeDecodeError):
        raise NotComparableError("not a JSON value that can be compared") from None


def key_of(part: bytes, equality: Equality) -> bytes:
    """Key of a compared part in an exact mode (``numeric`` without tolerance included).

    Raises:
        NotComparableError: the mode cannot read it.
    """
    return _KEYS.get(equality.kind, canonical_key)(part)


def _text_key(part: bytes) -> bytes:
    folded = unicodedata.normalize("NFKC", _text(part)).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split()).encode()


def _text(part: bytes) -> str:
    try:
        return _string.decode(part)
    except msgspec.ValidationError:
        return canonical_key(part).decode()  # true and "True" are the same word
    except (ValueError, RecursionError):
        raise NotComparableError("not a JSON value that can be compared") from None


def _set_key(part: bytes) -> bytes:
    try:
        every = pointers.elements(part)
    except pointers.NoSuchPlaceError:
        raise NotComparableError("not an array") from None
    return b",".join(sorted({canonical_key(bytes(one)) for one in every}))


def _number_key(part: bytes) -> bytes:
    value = number_of(part)
    return f"{value.numerator}/{value.denominator}".encode()


def number_of(part: bytes) -> Exact:
    """A JSON number, or a string that is nothing else: text agents write ``"42"``.

    Raises:
        NotComparableError: it is neither.
    """
    text = part.strip()
    if text[:1] == b'"':
        text = _text(text).strip().encode()
    try:
        value = exact(text)
    except ValueError as error:
        raise NotComparableError(str(error)) from None
    if value is None:
        raise NotComparableError("not a number")
    return value


_KEYS: Mapping[str, Callable[[bytes], bytes]] = {
    "text": _text_key,
    "set": _set_key,
    "numeric": _number_key,
}


def item_key(item: bytes, keys: Sequence[str]) -> bytes:
    """Key of a list element: its key fields, a missing one as ``null``; without keys all of it.

    Raises:
        NotComparableError: it cannot be compared.
    """
    if not keys or item.lstrip()[:1] != b"{":
        return canonical_key(item)
    try:
        fields = pointers.members(item)
    except pointers.NoSuchPlaceError as error:
        raise NotComparableError(str(error)) from None
    # As one array: one look at it, and no value runs into the next. No element that is an array
    # itself has such a key.
    values = b",".join(bytes(fields.get(key, b"null")) for key in keys)
    return b"{" + canonical_key(b"[%b]" % values)


def classes(
    parts: Sequence[bytes], equality: Equality, weights: Sequence[int] | None = None
) -> list[int]:
    """Which parts are the same: for each the index of the part that stands for its class.

    That is the first of them; of numbers within a tolerance the centre.

    Args:
        parts: compared parts.
        equality: any mode but ``judge``; of ``items`` the parts are list elements.
        weights: of the parts, for ``numeric`` with a tolerance; None = all alike.

    Raises:
        NotComparableError: the mode cannot read one of them, or is ``judge``.
    """
    if equality.kind == "judge":
        raise NotComparableError("a judge is needed")
    if equality.kind == "items":
        return _firsts([item_key(part, equality.keys) for part in parts])
    if is_exact(equality):
        return _firsts([key_of(part, equality) for part in parts])
    each = [1] * len(parts) if weights is None else weights
    return clusters([number_of(part) for part in parts], equality, each)


def _firsts(keys: Sequence[bytes]) -> list[int]:
    seen: dict[bytes, int] = {}
    return [seen.setdefault(key, index) for index, key in enumerate(keys)]

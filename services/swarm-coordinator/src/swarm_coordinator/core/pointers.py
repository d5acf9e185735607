"""JSON pointers (RFC 6901) into raw JSON: what they name comes back byte for byte."""

import msgspec

__all__ = ["NoSuchPlaceError", "at", "elements", "members"]

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_elements = msgspec.json.Decoder(list[msgspec.Raw])


class NoSuchPlaceError(ValueError):
    """The pointer names nothing in this value, or the value is not JSON; public text."""


def at(value: bytes | msgspec.Raw, pointer: str) -> bytes:
    """The value a pointer names; "" names the whole.

    Raises:
        NoSuchPlaceError: it is not there.
    """
    found = bytes(value)
    if not pointer:
        return found
    if not pointer.startswith("/"):
        raise NoSuchPlaceError(f"{pointer!r} is not a JSON pointer")
    for token in pointer[1:].split("/"):
        name = token.replace("~1", "/").replace("~0", "~")
        found = _step(found, name, pointer)
    return found


def _step(value: bytes, name: str, pointer: str) -> bytes:
    kind = value.lstrip()[:1]
    if kind == b"{":
        inner = members(value).get(name)
        if inner is not None:
            return bytes(inner)
    elif kind == b"[" and name.isascii() and name.isdigit() and (name == "0" or name[0] != "0"):
        every = elements(value)
        if len(name) < 10 and int(name) < len(every):
            return bytes(every[int(name)])
    raise NoSuchPlaceError(f"{pointer} is not there")


def members(value: bytes | msgspec.Raw) -> dict[str, msgspec.Raw]:
    """Members of an object.

    Raises:
        NoSuchPlaceError: it is no object.
    """
    try:
        return _members.decode(value)
    except (ValueError, RecursionError):
        raise NoSuchPlaceError("not an object") from None


def elements(value: bytes | msgspec.Raw) -> list[msgspec.Raw]:
    """Elements of an array.

    Raises:
        NoSuchPlaceError: it is no array.
    """
    try:
        return _elements.decode(value)
    except (ValueError, RecursionError):
        raise NoSuchPlaceError("not an array") from None

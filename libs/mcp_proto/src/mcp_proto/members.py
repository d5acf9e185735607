"""Top-level members of a JSON object: read, replace, drop, without touching what they hold.

A plain decode into a dict keeps the last of two equal keys and hides the first, which a stricter
or laxer reader further on may take instead. So members are read as a list of pairs here, every
duplicate is seen, and a replaced or removed key is gone in all its copies and spellings.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["Pairs", "TooManyMembersError", "pairs", "pick", "remove", "splice"]


class _Key(str):
    """A key that equals only itself, so that a dict of them keeps duplicates."""

    __slots__ = ()
    __hash__ = object.__hash__
    __eq__ = object.__eq__
    __ne__ = object.__ne__


Pairs: TypeAlias = dict[_Key, msgspec.Raw]
"""Members in order, duplicates included: iterate, never look up; ``str(key)`` is the name."""

_SMALL_BYTES = 16 * 1024
_MEMBERS_MAX = 200_000  # a member costs some 200 bytes once decoded; objects come from outside

# operator.call(_Key, name) makes the key without a Python frame: this runs for every call.
_make_key = cast("Callable[[type, Any], Any]", operator.call)
_pairs = msgspec.json.Decoder(Pairs, dec_hook=_make_key)
_encode_key = msgspec.json.Encoder().encode


class TooManyMembersError(Exception):
    """An object has more members than the reader takes."""


def pairs(obj: bytes | msgspec.Raw, limit: int = _MEMBERS_MAX) -> Pairs:
    """Members of a JSON object in order, duplicates included, values as they stand.

    Raises:
        msgspec.ValidationError: ``obj`` is JSON but no object.
        msgspec.DecodeError: ``obj`` is not JSON.
        RecursionError: nested some 990 levels deep (nothing that passed the rim is).
        TooManyMembersError: more than ``limit`` members.
    """
    if memoryview(obj).nbytes <= _SMALL_BYTES:
        found = _pairs.decode(obj)
        if len(found) > limit:
            raise TooManyMembersError
        return found
    count = 0

    def key(kind: type[_Key], name: str) -> _Key:
        # Counts while decoding: a million keys would cost hundreds of megabytes before the end.
        nonlocal count
        count += 1
        if count > limit:
            raise TooManyMembersError
        return kind(name)

    return msgspec.json.Decoder(Pairs, dec_hook=key).decode(obj)


def _members(obj: bytes | msgspec.Raw) -> Pairs:
    try:
        return pairs(obj)
    except msgspec.ValidationError:
        raise MeshError(ErrorKind.PARAMS, "expected a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MeshError(ErrorKind.PARSE, "malformed JSON") from None
    except RecursionError:
        raise MeshError(ErrorKind.REQUEST, "JSON is nested too deep") from None
    except TooManyMembersError:
        raise MeshError(
            ErrorKind.REQUEST, f"an object has more than {_MEMBERS_MAX} members"
        ) from None


def pick(obj: bytes | msgspec.Raw, *keys: str) -> dict[str, msgspec.Raw]:
    """Read top-level members of a JSON object.

    Args:
        obj: bytes of a JSON object; empty bytes (absent ``params``) hold nothing.
        keys: names wanted; none = all of them.

    Returns:
        The members present among ``keys``, in order, values as they stand.

    Raises:
        MeshError: ``params`` when ``obj`` is no object or a wanted key occurs twice; ``parse``
            when it is not JSON.
    """
    if not memoryview(obj).nbytes:
        return {}
    found: dict[str, msgspec.Raw] = {}
    for key, value in _members(obj).items():
        name = str(key)
        if not keys or name in keys:
            if name in found:
                raise MeshError(ErrorKind.PARAMS, f"member {name[:64]!r} occurs twice")
            found[name] = value
    return found


def splice(
    obj: bytes | msgspec.Raw, members: Mapping[str, bytes] | Mapping[str, msgspec.Raw]
) -> bytes:
    """Set top-level members of a JSON object: replaced in place, new ones in front.

    All other values keep their bytes and their order. When a key has to be replaced, blanks
    between top-level members go and their keys are written without needless escapes.

    Args:
        obj: bytes of a JSON object; empty bytes count as ``{}``.
        members: name → bytes of its new JSON value.

    Raises:
        MeshError: ``params`` when ``obj`` is no object, ``parse`` when it is not JSON.
    """
    data = bytes(obj).strip() or b"{}"
    if data[:1] != b"{":
        raise MeshError(ErrorKind.PARAMS, "expected a JSON object")
    if not members:
        return data
    if not _may_hold(data, members):
        return _prefixed(data, ((_quoted(name), value) for name, value in members.items()))
    fresh = {name: bytes(value) for name, value in members.items()}
    kept: list[bytes] = []
    placed: set[str] = set()
    for key, value in _members(data).items():
        name = str(key)
        if name not in fresh:
            kept.append(_quoted(name) + b":" + bytes(value))
        elif name not in placed:
            placed.add(name)
            kept.append(_quoted(name) + b":" + fresh[name])
    if not placed:
        return _prefixed(data, ((_quoted(name), value) for name, value in fresh.items()))
    added = [_quoted(name) + b":" + fresh[name] for name in fresh if name not in placed]
    return b"{" + b",".join((*added, *kept)) + b"}"


def remove(obj: bytes | msgspec.Raw, *keys: str) -> bytes:
    """Drop top-level members of a JSON object, in every copy and spelling.

    All other values keep their bytes and their order; without a hit all bytes stay.

    Raises:
        MeshError: ``params`` when ``obj`` is no object, ``parse`` when it is not JSON.
    """
    data = bytes(obj).strip() or b"{}"
    if data[:1] != b"{":
        raise MeshError(ErrorKind.PARAMS, "expected a JSON object")
    if not _may_hold(data, keys):
        return data
    found = _members(data)
    kept: list[bytes] = []
    for key, value in found.items():
        name = str(key)
        if name not in keys:
            kept.append(_quoted(name) + b":" + bytes(value))
    return data if len(kept) == len(found) else b"{" + b",".join(kept) + b"}"


def _may_hold(data: bytes, keys: Iterable[str]) -> bool:
    """False only if no object in ``data`` has one of the keys: a key is quoted or has escapes."""
    slash = False
    for key in keys:
        if _quoted(key) in data:
            return True
        slash = slash or "/" in key
    return b"\\u" in data or (slash and b"\\/" in data)


def _prefixed(data: bytes, members: Iterable[tuple[bytes, bytes | msgspec.Raw]]) -> bytes:
    head = b",".join(key + b":" + bytes(value) for key, value in members)
    rest = data[1:].lstrip() if data[1:2].isspace() else data[1:]
    return b"{" + head + (rest if rest == b"}" else b"," + rest)


_quoted_keys: dict[str, bytes] = {}
_QUOTED_MAX = 1_000  # memo bound; names in use are a few dozen, callers may invent more


def _quoted(name: str) -> bytes:
    quoted = _quoted_keys.get(name)
    if quoted is None:
        quoted = _encode_key(name)
        if len(_quoted_keys) < _QUOTED_MAX:
            _quoted_keys[name] = quoted
    return quoted

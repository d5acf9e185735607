"""Objects put together, member by member, in depth; values that are not merged keep their bytes."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from swarm_coordinator.core import pointers
from swarm_coordinator.core.equality import NotComparableError, canonical_key

__all__ = ["MergeError", "merged"]

_Tree: TypeAlias = "dict[str, _Tree | msgspec.Raw]"
OnConflict = Literal["error", "first", "last"]


class MergeError(ValueError):
    """Objects that do not fit together.

    Attributes:
        where: JSON pointer of the member.
        index: which object did not fit.
    """

    def __init__(self, where: str, index: int, message: str) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
        self.index = index


def merged(objects: Sequence[bytes], on_conflict: OnConflict) -> bytes:
    """One object of many.

    Members that are objects on both sides are merged in turn. Anything else that two sides hold
    under one name is a conflict unless it is the same JSON value: arrays too.

    Args:
        objects: JSON objects, earlier ones first.
        on_conflict: which of two different values stays.

    Raises:
        MergeError: one is no object, or ``error`` and a conflict.
    """
    tree: _Tree = {}
    for index, one in enumerate(objects):
        _into(tree, _members(one, "", index), on_conflict, ("", index))
    try:
        return msgspec.json.encode(tree)
    except RecursionError:
        raise MergeError("", len(objects) - 1, "nested too deeply") from None


def _into(
    tree: _Tree,
    source: dict[str, msgspec.Raw],
    on_conflict: OnConflict,
    place: tuple[str, int],
) -> None:
    where, index = place
    for name, value in source.items():
        present = tree.get(name)
        if present is None:
            tree[name] = value
            continue
        inner = f"{where}/{name.replace('~', '~0').replace('/', '~1')}"
        if _is_object(value) and (isinstance(present, dict) or _is_object(present)):
            branch = present if isinstance(present, dict) else _branch(present, inner, index)
            tree[name] = branch
            _into(branch, _members(value, inner, index), on_conflict, (inner, index))
        elif not _same(present, value):
            if on_conflict == "error":
                raise MergeError(inner, index, "two different values")
            if on_conflict == "last":
                tree[name] = value


def _branch(value: msgspec.Raw, where: str, index: int) -> _Tree:
    return dict(_members(value, where, index))


def _is_object(value: msgspec.Raw) -> bool:
    return bytes(value).lstrip()[:1] == b"{"


def _same(present: "_Tree | msgspec.Raw", value: msgspec.Raw) -> bool:
    if isinstance(present, dict):
        return False
    one, other = bytes(present), bytes(value)
    if one == other:
        return True
    try:
        return canonical_key(one) == canonical_key(other)
    except NotComparableError:
        return False


def _members(value: bytes | msgspec.Raw, where: str, index: int) -> dict[str, msgspec.Raw]:
    try:
        return pointers.members(value)
    except pointers.NoSuchPlaceError as error:
        raise MergeError(where, index, str(error)) from None

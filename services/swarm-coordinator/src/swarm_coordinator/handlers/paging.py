"""Lists in pages: the cursor is the id of the last entry of the page before."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from swarm_coordinator.handlers.answers import bad

__all__ = ["paged"]

T = TypeVar("T")


def paged(
    entries: Sequence[T], name: Callable[[T], str], cursor: str | None, limit: int
) -> tuple[Sequence[T], str | msgspec.UnsetType]:
    """One page, and the cursor of the next (unset = none).

    Raises:
        MeshError: ``params`` for a cursor that names nothing in the list (any more).
    """
    begin = 0
    if cursor:
        names = [name(entry) for entry in entries]
        if cursor not in names:
            raise bad("/cursor", "names nothing in this list any more; begin again without it")
        begin = names.index(cursor) + 1
    page = entries[begin : begin + limit]
    more = begin + limit < len(entries)
    return page, name(page[-1]) if more and page else msgspec.UNSET

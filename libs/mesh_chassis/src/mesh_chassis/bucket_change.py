"""Read, decide, write if nothing came between: the loop around compare-and-set."""

from collections.abc import Callable

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV, Conflict

__all__ = ["ATTEMPTS", "change_entry"]

ATTEMPTS = 8
"""Lost races after which a writer gives up: more means that something is wrong, not busy."""


async def change_entry(
    kv: KV, key: str, make: Callable[[bytes | None], bytes | None], *, what: str
) -> int:
    """Replace the value of a key by what ``make`` makes of it.

    Args:
        kv: bucket that this process writes.
        key: its key.
        make: stored value (None = none) → new value (None = remove it). The very object it was
            given means that nothing is to be written. Called again after each lost race.
        what: names the record in the error.

    Returns:
        Revision of the value that was written; 0 when nothing was, or the key was removed.

    Raises:
        MeshError: ``overloaded`` when others change it all the time, and as ``KV.put``; whatever
            ``make`` raises.
    """
    for _ in range(ATTEMPTS):
        entry = await kv.get(key)
        old = entry.value if entry is not None else None
        new = make(old)
        if new is old:
            return 0
        try:
            if new is None:
                await kv.delete(key, revision=entry.revision if entry is not None else None)
                return 0
            if entry is None:
                return await kv.create(key, new)
            return await kv.update(key, new, entry.revision)
        except Conflict:
            continue
    raise MeshError(ErrorKind.OVERLOADED, f"{what} is being changed by others", retry_after_s=0.2)

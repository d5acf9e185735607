"""A body of any size in a bucket whose values are bounded: equal parts beside the record's key."""

import asyncio

from mcp_proto.contracts.tasks import part_key
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bucket import KV

__all__ = ["BODY_BYTES_MAX", "PART_BYTES", "drop_parts", "read_parts", "write_parts"]

PART_BYTES = 512 * 1024
"""Well below the bucket's largest value."""
BODY_BYTES_MAX = 10 * 1024 * 1024
"""Largest body kept: what an edge gives at most."""


async def write_parts(kv: KV, key: str, body: bytes, *, ttl_s: float) -> int:
    """Write a body as parts; they are there before the record that counts them.

    Returns:
        Number of parts.

    Raises:
        MeshError: ``too_large`` (executed), or a part could not be written.
    """
    if len(body) > BODY_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the result exceeds {BODY_BYTES_MAX} bytes",
            outcome=Outcome.EXECUTED,
        )
    parts = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)]
    for index, part in enumerate(parts):
        await kv.put(part_key(key, index), part, ttl_s=ttl_s)
    return len(parts)


async def read_parts(kv: KV, key: str, parts: int) -> bytes:
    """Put a body together.

    Raises:
        MeshError: ``lost`` (executed) when a part is gone, or no answer.
    """
    entries = await asyncio.gather(*(kv.get(part_key(key, index)) for index in range(parts)))
    missing = MeshError(
        ErrorKind.LOST, "a stored result is not complete any more", outcome=Outcome.EXECUTED
    )
    body = bytearray()
    for entry in entries:
        if entry is None:
            raise missing
        body += entry.value
    return bytes(body)


async def drop_parts(kv: KV, key: str, parts: int) -> None:
    """Forget parts that no record counts."""
    for index in range(parts):
        await kv.purge(part_key(key, index))

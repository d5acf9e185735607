"""Bodies in the stream of an object bucket: chunks written and read with a few in flight.

The layout is that of ``nats object`` (ADR-20); the sequence of each chunk is noted beside it, so
that a range is read directly. Who calls it decides names, expiry and what is visible when.
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import BLOB_CHUNK_BYTES, BLOB_WINDOW
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import PubAck, stored_write

__all__ = [
    "SEQUENCES",
    "WRITE_TIMEOUT_S",
    "ObjectInfo",
    "encoded_name",
    "forget",
    "noted",
    "once",
    "read_range",
    "sequences_of",
    "write_chunks",
]

READ_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
SEQUENCES = "mesh-sequences"
"""Member of an object's metadata: where its chunks are in the stream."""


class Options(msgspec.Struct, frozen=True):
    """``ObjectMetaOptions`` of ADR-20."""

    max_chunk_size: int = BLOB_CHUNK_BYTES


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``ObjectInfo`` of ADR-20."""

    name: str
    bucket: str
    nuid: str
    size: int = 0
    chunks: int = 0
    digest: str = ""
    options: Options = Options()
    metadata: dict[str, str] = {}
    deleted: bool = False


async def once(body: bytes) -> AsyncIterator[bytes]:
    """A body that is there already, as an iterator."""
    yield body


async def write_chunks(
    bus: Bus, subject: str, body: AsyncIterator[bytes], headers: Mapping[str, str]
) -> tuple[int, ...]:
    """Store a body; returns the sequence of each chunk.

    Raises:
        MeshError: it could not be stored; what is there already is for the caller to forget.
    """
    waiting: deque[asyncio.Task[PubAck]] = deque()
    sequences: list[int] = []

    def write(chunk: bytes) -> asyncio.Task[PubAck]:
        return group.create_task(
            stored_write(bus, subject, chunk, headers, repeat=False, timeout_s=WRITE_TIMEOUT_S)
        )

    try:
        async with asyncio.TaskGroup() as group:
            async for chunk in _rechunked(body):
                if len(waiting) >= BLOB_WINDOW:
                    sequences.append((await waiting.popleft()).seq)
                waiting.append(write(chunk))
            sequences += [(await one).seq for one in waiting]
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    if any(later <= earlier for earlier, later in pairwise(sequences)):
        # Chunks are read in the order of the stream, by the stock tool at least.
        raise MeshError(ErrorKind.INTERNAL, "the parts of a body were stored out of order")
    return tuple(sequences)


async def _rechunked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in body:
        view = memoryview(rest + piece if rest else piece)
        whole = len(view) - len(view) % BLOB_CHUNK_BYTES
        for at in range(0, whole, BLOB_CHUNK_BYTES):
            yield bytes(view[at : at + BLOB_CHUNK_BYTES])
        rest = bytes(view[whole:])
    if rest:
        yield rest


async def read_range(
    bus: Bus, bucket: str, subject: str, sequences: Sequence[int], start: int, end: int
) -> bytes:
    """Bytes ``start`` to ``end`` of a body, both inside it.

    Raises:
        MeshError: ``lost`` when a part of it is gone, or the broker does not answer.
    """
    if start >= end:
        return b""
    first, last = start // BLOB_CHUNK_BYTES, (end - 1) // BLOB_CHUNK_BYTES
    api_subject = f"$JS.API.DIRECT.GET.OBJ_{bucket}"
    waiting: deque[asyncio.Task[bytes]] = deque()
    pieces: list[bytes] = []
    try:
        async with asyncio.TaskGroup() as group:
            for sequence in sequences[first : last + 1]:
                if len(waiting) >= BLOB_WINDOW:
                    pieces.append(await waiting.popleft())
                waiting.append(group.create_task(_chunk(bus, api_subject, subject, sequence)))
            pieces += [await one for one in waiting]
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    base = first * BLOB_CHUNK_BYTES
    return b"".join(pieces)[start - base : end - base]


async def _chunk(bus: Bus, api_subject: str, subject: str, sequence: int) -> bytes:
    reply = await bus.request(api_subject, b'{"seq":%d}' % sequence, timeout_s=READ_TIMEOUT_S)
    if reply.headers.get("Status", "") or reply.headers.get("Nats-Subject") != subject:
        raise MeshError(ErrorKind.LOST, "a part of the stored body is gone")
    return reply.payload


async def forget(bus: Bus, subject: str) -> None:
    """Roll the chunks of a body up into one empty message that expires at once.

    A right to write is enough for that; a purge would need one over the whole stream.

    Raises:
        MeshError: it could not be written.
    """
    headers = {"Nats-TTL": "1s", "Nats-Rollup": "sub"}
    await stored_write(bus, subject, b"", headers, repeat=False, timeout_s=WRITE_TIMEOUT_S)


def encoded_name(name: str) -> str:
    """Token of an object's name in the subject of its description."""
    return base64.urlsafe_b64encode(name.encode()).decode()


def noted(sequences: Sequence[int]) -> str:
    """``1-4,7``: a body written alone is one range."""
    runs: list[list[int]] = []
    for number in sequences:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def sequences_of(text: str) -> tuple[int, ...]:
    """Invert ``noted``.

    Raises:
        ValueError: not something it writes.
    """
    found: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

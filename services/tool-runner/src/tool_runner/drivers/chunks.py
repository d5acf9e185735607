"""Bodies in the stream of an object bucket: chunks written and read with a few in flight.

The layout is that of ``nats object`` (ADR-20); the sequence of each chunk is noted beside it, so
that a range is read directly. Who calls it decides names, expiry and what is visible when.
"""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from itertools import pairwise

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import PubAck, stored_write

__all__ = [
    "CHUNK_BYTES",
    "SEQUENCES",
    "WRITE_TIMEOUT_S",
    "ObjectInfo",
    "encoded_name",
    "forget",
    "in_pieces",
    "noted",
    "once",
    "read_parts",
    "read_range",
    "sequences_of",
    "subject_of",
    "write_chunks",
]

CHUNK_BYTES = 512 * 1024
"""Of what is stored. The broker syncs each message, so fewer are faster; half of its largest."""
CHUNK_WINDOW = 2
"""Chunks in flight: together what four of a claim check are twice over."""
_PIECE_BYTES = 128 * 1024
READ_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
SEQUENCES = "mesh-sequences"
"""Member of an object's metadata: where its chunks are in the stream."""


class Options(msgspec.Struct, frozen=True):
    """``ObjectMetaOptions`` of ADR-20."""

    max_chunk_size: int = CHUNK_BYTES


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


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """A large body that is there already, in pieces that none holds up the loop."""
    view = memoryview(body)
    for at in range(0, len(view), _PIECE_BYTES):
        yield bytes(view[at : at + _PIECE_BYTES])


def subject_of(info: ObjectInfo) -> str:
    """Where its chunks are."""
    return f"$O.{info.bucket}.C.{info.nuid}"


async def once(body: bytes) -> AsyncIterator[bytes]:
    """A body that is there already, as an iterator."""
    yield body


async def write_chunks(
    bus: Bus,
    subject: str,
    body: AsyncIterator[bytes],
    headers: Mapping[str, str],
    wrote: Callable[[int], None] = lambda _: None,
) -> tuple[int, ...]:
    """Store a body; returns the sequence of each chunk.

    Args:
        bus: connected.
        subject: of the chunks.
        body: in pieces of any length.
        headers: of each chunk.
        wrote: told the length of each chunk that the broker has.

    Raises:
        MeshError: it could not be stored; what is there already is for the caller to forget.
    """
    waiting: deque[asyncio.Task[PubAck]] = deque()
    sequences: list[int] = []

    async def write(chunk: bytes) -> PubAck:
        receipt = await stored_write(
            bus, subject, chunk, headers, repeat=False, timeout_s=WRITE_TIMEOUT_S
        )
        wrote(len(chunk))
        return receipt

    try:
        async with asyncio.TaskGroup() as group:
            async for chunk in _rechunked(body):
                if len(waiting) >= CHUNK_WINDOW:
                    sequences.append((await waiting.popleft()).seq)
                waiting.append(group.create_task(write(chunk)))
            sequences += [(await one).seq for one in waiting]
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    if any(later <= earlier for earlier, later in pairwise(sequences)):
        # Chunks are read in the order of the stream, by the stock tool at least.
        raise MeshError(ErrorKind.INTERNAL, "the parts of a body were stored out of order")
    return tuple(sequences)


async def _rechunked(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    held: list[bytes] = []
    size = 0
    async for piece in body:
        held.append(piece)
        size += len(piece)
        if size < CHUNK_BYTES:
            continue
        view = memoryview(b"".join(held) if len(held) > 1 else piece)
        size %= CHUNK_BYTES
        whole = len(view) - size
        for at in range(0, whole, CHUNK_BYTES):
            yield bytes(view[at : at + CHUNK_BYTES])
        held = [bytes(view[whole:])] if size else []
    if held:
        yield b"".join(held)


async def read_range(
    bus: Bus, info: ObjectInfo, sequences: Sequence[int], start: int, end: int
) -> bytes:
    """Bytes ``start`` to ``end`` of a body, both inside it, whatever size its chunks have.

    Raises:
        MeshError: ``lost`` when a part of it is gone, or the broker does not answer.
    """
    if start >= end:
        return b""
    size = info.options.max_chunk_size
    first, last = start // size, (end - 1) // size
    api_subject, subject = f"$JS.API.DIRECT.GET.OBJ_{info.bucket}", subject_of(info)
    waiting: deque[asyncio.Task[bytes]] = deque()
    pieces: list[bytes] = []
    try:
        async with asyncio.TaskGroup() as group:
            for sequence in sequences[first : last + 1]:
                if len(waiting) >= CHUNK_WINDOW:
                    pieces.append(await waiting.popleft())
                waiting.append(group.create_task(_chunk(bus, api_subject, subject, sequence)))
            pieces += [await one for one in waiting]
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    base = first * size
    return b"".join(pieces)[start - base : end - base]


async def read_parts(bus: Bus, info: ObjectInfo, sequences: Sequence[int]) -> AsyncGenerator[bytes]:
    """All chunks of a body in order, a few of them in flight.

    Raises:
        MeshError: as ``read_range``.
    """
    api_subject, subject = f"$JS.API.DIRECT.GET.OBJ_{info.bucket}", subject_of(info)
    loop = asyncio.get_running_loop()
    waiting: deque[asyncio.Task[bytes]] = deque()
    try:
        for sequence in sequences:
            if len(waiting) >= CHUNK_WINDOW:
                yield await waiting.popleft()
            waiting.append(loop.create_task(_chunk(bus, api_subject, subject, sequence)))
        while waiting:
            yield await waiting.popleft()
    finally:
        # No group: a generator may be closed from another task than the one that began it.
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.wait(waiting)
            for one in waiting:
                if not one.cancelled():
                    one.exception()


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

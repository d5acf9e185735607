"""Bodies that outlive their call: an object bucket per tenant, in the layout every NATS tool knows.

Chunks and description are laid out as ``nats object`` writes them (ADR-20), so the stock tool
lists and fetches them. Written here and not with the stock client, because that sends one chunk
per round trip, holds every object whole to read a part of it, and knows no expiry per object:
here four chunks are in flight, the description names the sequence of each, so that a range is
read directly, and every message carries its own ``Nats-TTL``: the broker sweeps.
"""

import asyncio
import base64
import hashlib
import os
from collections import deque
from collections.abc import Mapping
from itertools import pairwise

import msgspec

from mcp_proto.buckets import tenant_objects
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import BLOB_CHUNK_BYTES, BLOB_WINDOW
from mesh_chassis.bus.connection import Bus, Reply
from mesh_chassis.clock import now_ms
from mesh_chassis.jetstream import STREAM_NOT_FOUND, ApiError, PubAck, api, stored_write
from mesh_chassis.stream import StreamConfig, ensure_stream

__all__ = ["Described", "FullError", "Objects"]

READ_TIMEOUT_S = 5.0
WRITE_TIMEOUT_S = 10.0
OVERHEAD_PER_CHUNK_BYTES = 512
"""What the broker counts of a stored message beside its body: subject, headers, its own record."""
OFF_LOOP_BYTES = 1024 * 1024
_META_TTL = "Nats-TTL"
_EXPIRES, _SEQUENCES = "mesh-expires-ms", "mesh-sequences"


class FullError(Exception):
    """The tenant's bucket has no room; ``used`` and ``quota`` in bytes."""

    def __init__(self, used: int, quota: int) -> None:
        super().__init__("no room")
        self.used = used
        self.quota = quota


class _Options(msgspec.Struct, frozen=True):
    max_chunk_size: int = BLOB_CHUNK_BYTES


class _Info(msgspec.Struct, frozen=True, kw_only=True):
    """``ObjectInfo`` of ADR-20."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    options: _Options = _Options()
    metadata: dict[str, str] = {}


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is there.

    Attributes:
        name: as it was put.
        size: bytes.
        sha256: of the whole, hex.
        expires_ms: Unix ms; it is gone from then on.
        about: what its writer noted.
        sequences: of its chunks in the stream, in order.
        subject: of its chunks.
    """

    name: str
    size: int
    sha256: str
    expires_ms: int
    about: Mapping[str, str]
    sequences: tuple[int, ...]
    subject: str


class _State(msgspec.Struct, frozen=True):
    bytes: int = 0


class _Stream(msgspec.Struct, frozen=True):
    state: _State


class Objects:
    """Object buckets of all tenants over one connection.

    Args:
        bus: connected.
        bytes_max: size of a tenant's bucket.
        replicas: copies of each bucket on a cluster.
    """

    def __init__(self, bus: Bus, *, bytes_max: int, replicas: int = 1) -> None:
        self._bus = bus
        self._bytes_max = bytes_max
        self._replicas = replicas

    async def put(
        self, tenant: str, name: str, body: bytes, *, ttl_s: int, about: Mapping[str, str]
    ) -> Described:
        """Store an object; it is readable when this returns.

        Args:
            tenant: owner.
            name: new in its bucket.
            body: the bytes.
            ttl_s: seconds until it is gone, at least 1.
            about: noted with it; text.

        Raises:
            FullError: no room for it.
            MeshError: it could not be stored.
        """
        bucket = await self._room(tenant, len(body))
        expires_ms = now_ms() + ttl_s * 1000
        nuid = os.urandom(11).hex()
        subject = f"$O.{bucket}.C.{nuid}"
        try:
            sequences = await self._put_chunks(subject, body, f"{ttl_s}s")
            sha256 = await _sha256(body)
            info = _Info(
                name=name,
                bucket=bucket,
                nuid=nuid,
                size=len(body),
                chunks=len(sequences),
                digest="SHA-256=" + base64.urlsafe_b64encode(sha256).decode(),
                metadata={
                    **about,
                    _EXPIRES: str(expires_ms),
                    _SEQUENCES: _ranges(sequences),
                },
            )
            headers = {_META_TTL: f"{ttl_s}s", "Nats-Rollup": "sub"}
            subject_of_info = f"$O.{bucket}.M.{_encoded(name)}"
            await self._write(subject_of_info, msgspec.json.encode(info), headers)
        except BaseException:
            await self._forget(subject)
            raise
        return _described(info)

    async def find(self, tenant: str, name: str) -> Described | None:
        """The description of an object; None when there is none, or it has expired.

        Raises:
            MeshError: the broker does not answer.
        """
        try:
            bucket = tenant_objects(tenant)
        except ValueError:
            return None
        subject = f"$JS.API.DIRECT.GET.OBJ_{bucket}.$O.{bucket}.M.{_encoded(name)}"
        try:
            reply = await self._bus.request(subject, timeout_s=READ_TIMEOUT_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:  # no such bucket
                return None
            raise
        if _status(reply) or "Nats-Marker-Reason" in reply.headers:
            return None
        try:
            found = _described(msgspec.json.decode(reply.payload, type=_Info))
        except (msgspec.DecodeError, ValueError):
            return None
        return found if found.name == name and now_ms() < found.expires_ms else None

    async def read(self, tenant: str, found: Described, offset: int, length: int) -> bytes:
        """A range of an object, cut at its end.

        Raises:
            MeshError: ``lost`` when a part of it is gone, or the broker does not answer.
        """
        end = min(found.size, offset + length)
        if not 0 <= offset < end:
            return b""
        first, last = offset // BLOB_CHUNK_BYTES, (end - 1) // BLOB_CHUNK_BYTES
        api_subject = f"$JS.API.DIRECT.GET.OBJ_{tenant_objects(tenant)}"
        waiting: deque[asyncio.Task[bytes]] = deque()
        pieces: list[bytes] = []
        try:
            async with asyncio.TaskGroup() as group:
                for sequence in found.sequences[first : last + 1]:
                    if len(waiting) >= BLOB_WINDOW:
                        pieces.append(await waiting.popleft())
                    chunk = self._chunk(api_subject, found.subject, sequence)
                    waiting.append(group.create_task(chunk))
                pieces += [await one for one in waiting]
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        base = first * BLOB_CHUNK_BYTES
        return b"".join(pieces)[offset - base : end - base]

    async def _chunk(self, api_subject: str, subject: str, sequence: int) -> bytes:
        reply = await self._bus.request(
            api_subject, b'{"seq":%d}' % sequence, timeout_s=READ_TIMEOUT_S
        )
        if _status(reply) or reply.headers.get("Nats-Subject") != subject:
            raise MeshError(ErrorKind.LOST, "a part of the stored result is gone")
        return reply.payload

    async def _room(self, tenant: str, size: int) -> str:
        """The bucket, made if need be, with room for a body of this size as far as one can see."""
        bucket = tenant_objects(tenant)
        try:
            shown = await api(self._bus, f"STREAM.INFO.OBJ_{bucket}", b"", _Stream)
            used = shown.state.bytes
        except ApiError as error:
            if error.failure.err_code != STREAM_NOT_FOUND:
                raise MeshError(
                    ErrorKind.INTERNAL, "the store cannot be read", internal=str(error)
                ) from error
            used = 0
            await ensure_stream(self._bus, self._stream(bucket))
        overhead = (size // BLOB_CHUNK_BYTES + 2) * OVERHEAD_PER_CHUNK_BYTES
        if self._bytes_max >= 0 and used + size + overhead > self._bytes_max:
            raise FullError(used, self._bytes_max)
        return bucket

    def _stream(self, bucket: str) -> StreamConfig:
        return StreamConfig(
            name=f"OBJ_{bucket}",
            subjects=(f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"),
            discard="new",
            max_bytes=self._bytes_max,
            num_replicas=self._replicas,
            allow_direct=True,
            allow_rollup_hdrs=True,
            allow_msg_ttl=True,
        )

    async def _put_chunks(self, subject: str, body: bytes, ttl: str) -> tuple[int, ...]:
        waiting: deque[asyncio.Task[PubAck]] = deque()
        sequences: list[int] = []
        view = memoryview(body)
        try:
            async with asyncio.TaskGroup() as group:
                for at in range(0, len(body), BLOB_CHUNK_BYTES):
                    if len(waiting) >= BLOB_WINDOW:
                        sequences.append((await waiting.popleft()).seq)
                    chunk = bytes(view[at : at + BLOB_CHUNK_BYTES])
                    waiting.append(group.create_task(self._write(subject, chunk, {_META_TTL: ttl})))
                sequences += [(await one).seq for one in waiting]
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        if any(later <= earlier for earlier, later in pairwise(sequences)):
            # Chunks are read in the order of the stream, by the stock tool at least.
            raise MeshError(ErrorKind.INTERNAL, "the parts of a result were stored out of order")
        return tuple(sequences)

    async def _write(self, subject: str, payload: bytes, headers: Mapping[str, str]) -> PubAck:
        try:
            return await stored_write(
                self._bus, subject, payload, headers, repeat=False, timeout_s=WRITE_TIMEOUT_S
            )
        except MeshError as error:
            if error.kind is ErrorKind.OVERLOADED:
                raise FullError(self._bytes_max, self._bytes_max) from None
            raise

    async def _forget(self, subject: str) -> None:
        """Roll the chunks of what was not stored up into one empty message that expires at once."""
        headers = {_META_TTL: "1s", "Nats-Rollup": "sub"}
        try:
            await self._bus.publish(subject, b"", headers=headers)
        except MeshError:
            return  # they expire by themselves, later


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _described(info: _Info) -> Described:
    about = dict(info.metadata)
    return Described(
        name=info.name,
        size=info.size,
        sha256=base64.urlsafe_b64decode(info.digest.removeprefix("SHA-256=")).hex(),
        expires_ms=int(about.pop(_EXPIRES, "0")),
        sequences=_numbers(about.pop(_SEQUENCES, "")),
        about=about,
        subject=f"$O.{info.bucket}.C.{info.nuid}",
    )


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


def _ranges(sequences: tuple[int, ...]) -> str:
    """``1-4,7``: a body written alone is one range."""
    runs: list[list[int]] = []
    for number in sequences:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def _numbers(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _status(reply: Reply) -> str:
    return reply.headers.get("Status", "")


async def _sha256(body: bytes) -> bytes:
    if len(body) < OFF_LOOP_BYTES:
        return hashlib.sha256(body).digest()
    return (await asyncio.to_thread(hashlib.sha256, body)).digest()

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
from collections.abc import Mapping

import msgspec

from mcp_proto.buckets import tenant_objects
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus, Reply
from mesh_chassis.clock import now_ms
from mesh_chassis.jetstream import stored_write
from tool_runner.drivers import chunks
from tool_runner.drivers.chunks import ObjectInfo
from tool_runner.drivers.jetstream.streams import TenantStreams
from tool_runner.drivers.jetstream.usage import Usage
from tool_runner.drivers.storage import is_full

__all__ = ["Described", "FullError", "Objects"]

READ_TIMEOUT_S = 5.0
OVERHEAD_PER_CHUNK_BYTES = 512
"""What the broker counts of a stored message beside its body: subject, headers, its own record."""
OFF_LOOP_BYTES = 1024 * 1024
_TTL = "Nats-TTL"
_EXPIRES = "mesh-expires-ms"


class FullError(Exception):
    """The tenant's bucket has no room; ``used`` and ``quota`` in bytes."""

    def __init__(self, used: int, quota: int) -> None:
        super().__init__("no room")
        self.used = used
        self.quota = quota


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is there.

    Attributes:
        name: as it was put.
        size: bytes.
        sha256: of the whole, hex.
        expires_ms: Unix ms; it is gone from then on.
        about: what its writer noted.
        sequences: of its chunks in the stream, in order.
        info: its description as it is stored.
    """

    name: str
    size: int
    sha256: str
    expires_ms: int
    about: Mapping[str, str]
    sequences: tuple[int, ...]
    info: ObjectInfo


class Objects:
    """Object buckets of all tenants over one connection.

    Args:
        bus: connected.
        streams: makes the buckets.
        usage: quotas.
    """

    def __init__(self, bus: Bus, streams: TenantStreams, usage: Usage) -> None:
        self._bus = bus
        self._streams = streams
        self._usage = usage

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
        bucket = tenant_objects(tenant)
        await self._streams.ready("objects", tenant)
        size = len(body) + (len(body) // chunks.CHUNK_BYTES + 2) * OVERHEAD_PER_CHUNK_BYTES
        try:
            await self._usage.admit(tenant, size)
        except MeshError as error:
            if is_full(error):
                raise FullError(error.data["usedBytes"], error.data["quotaBytes"]) from None
            raise
        try:
            return await self._put(bucket, name, body, ttl_s, about)
        finally:
            self._usage.done(tenant, size)

    async def _put(
        self, bucket: str, name: str, body: bytes, ttl_s: int, about: Mapping[str, str]
    ) -> Described:
        expires_ms = now_ms() + ttl_s * 1000
        nuid = os.urandom(11).hex()
        subject = f"$O.{bucket}.C.{nuid}"
        expiry = {_TTL: f"{ttl_s}s"}
        try:
            sequences = await chunks.write_chunks(self._bus, subject, chunks.once(body), expiry)
            sha256 = await _sha256(body)
            info = ObjectInfo(
                name=name,
                bucket=bucket,
                nuid=nuid,
                size=len(body),
                chunks=len(sequences),
                digest="SHA-256=" + base64.urlsafe_b64encode(sha256).decode(),
                metadata={
                    **about,
                    _EXPIRES: str(expires_ms),
                    chunks.SEQUENCES: chunks.noted(sequences),
                },
            )
            await stored_write(
                self._bus,
                f"$O.{bucket}.M.{chunks.encoded_name(name)}",
                msgspec.json.encode(info),
                {**expiry, "Nats-Rollup": "sub"},
                repeat=False,
                timeout_s=chunks.WRITE_TIMEOUT_S,
            )
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
        subject = f"$JS.API.DIRECT.GET.OBJ_{bucket}.$O.{bucket}.M.{chunks.encoded_name(name)}"
        try:
            reply = await self._bus.request(subject, timeout_s=READ_TIMEOUT_S)
        except MeshError as error:
            if error.kind is ErrorKind.NO_RUNNER:  # no such bucket
                return None
            raise
        if _status(reply) or "Nats-Marker-Reason" in reply.headers:
            return None
        try:
            found = _described(msgspec.json.decode(reply.payload, type=ObjectInfo))
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
        del tenant  # the description names its bucket
        return await chunks.read_range(self._bus, found.info, found.sequences, offset, end)

    async def _forget(self, subject: str) -> None:
        try:
            await chunks.forget(self._bus, subject)
        except MeshError:
            return  # they expire by themselves, later


def _described(info: ObjectInfo) -> Described:
    about = dict(info.metadata)
    return Described(
        name=info.name,
        size=info.size,
        sha256=base64.urlsafe_b64decode(info.digest.removeprefix("SHA-256=")).hex(),
        expires_ms=int(about.pop(_EXPIRES, "0")),
        sequences=chunks.sequences_of(about.pop(chunks.SEQUENCES, "")),
        about=about,
        info=info,
    )


def _status(reply: Reply) -> str:
    return reply.headers.get("Status", "")


async def _sha256(body: bytes) -> bytes:
    if len(body) < OFF_LOOP_BYTES:
        return hashlib.sha256(body).digest()
    return (await asyncio.to_thread(hashlib.sha256, body)).digest()

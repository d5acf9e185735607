"""Large values of swarms: in parts, one message each, under a name that is a reference.

A reference tells where the parts are, how many, and what they must be: no second message describes
them, so a value is there exactly when its reference is stored somewhere.
"""

import asyncio
import base64
import hashlib
import os

import msgspec

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis import provision
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api, stored_write
from mesh_chassis.stream import stream_exists

__all__ = ["KEPT_S", "VALUE_BYTES_MAX", "Values"]

PART_BYTES = 128 * 1024
"""One part: small calls on the same connection wait for no more than this."""
IN_FLIGHT = 4
VALUE_BYTES_MAX = 64 * 1024 * 1024
"""Largest value: the hard cap of bodies on the bus."""
KEPT_S = 9 * 86_400
"""A value is read as long as its task is kept: a day at most of work, seven days after its end."""
READ_S = 5.0
WRITE_S = 10.0
LOOK_S = 2.0


class _Reference(msgspec.Struct, frozen=True, array_like=True):
    """What a reference says; it is stored as JSON."""

    name: str
    parts: int
    size: int
    sha256: str


class _Message(msgspec.Struct, frozen=True):
    hdrs: str = ""
    data: str = ""


class _Newest(msgspec.Struct, frozen=True):
    message: _Message


_decode = msgspec.json.Decoder(_Reference).decode


class Values:
    """Large values of one tenant's swarms.

    Args:
        bus: connected.
        tenant: whose.
        replicas: copies on a cluster.
    """

    def __init__(self, bus: Bus, tenant: str, *, replicas: int = 1) -> None:
        self._bus = bus
        self._tenant = tenant
        self._replicas = replicas
        self._made = False

    async def put(self, swarm: str, body: bytes, *, ttl_s: int = KEPT_S, prefix: str = "") -> str:
        """Store a value.

        Args:
            swarm: whose value.
            body: the bytes.
            ttl_s: seconds until it is gone; 0 = until it is dropped.
            prefix: of its name, by which ``objects.sweep`` finds what nobody refers to.

        Returns:
            Its reference.

        Raises:
            MeshError: ``too_large``, ``overloaded`` without room, or it could not be stored.
        """
        if len(body) > VALUE_BYTES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE, f"a value of a swarm has at most {VALUE_BYTES_MAX} bytes"
            )
        await self._ensured()
        name = prefix + os.urandom(12).hex()
        parts = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)] or [b""]
        room = asyncio.Semaphore(IN_FLIGHT)
        headers = {"Nats-TTL": f"{ttl_s}s"} if ttl_s else {}

        async def write(index: int, part: bytes) -> None:
            async with room:
                subject = self._subject(swarm, name, index)
                block = {**headers, "Nats-Msg-Id": f"{name}-{index}"}
                await stored_write(self._bus, subject, part, block, repeat=True, timeout_s=WRITE_S)

        try:
            async with asyncio.TaskGroup() as group:
                for index, part in enumerate(parts):
                    group.create_task(write(index, part))
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        digest = hashlib.sha256(body).hexdigest()
        return msgspec.json.encode(_Reference(name, len(parts), len(body), digest)).decode()

    async def get(self, swarm: str, reference: str) -> bytes:
        """Read a value.

        Raises:
            MeshError: ``lost`` when it is not there (any more), or no answer.
        """
        found = _read(reference)
        room = asyncio.Semaphore(IN_FLIGHT)

        async def part(index: int) -> bytes:
            async with room:
                return await self._part(swarm, found.name, index)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(index)) for index in range(found.parts)]
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        body = b"".join(task.result() for task in tasks)
        if len(body) != found.size or hashlib.sha256(body).hexdigest() != found.sha256:
            raise _lost()
        return body

    async def drop(self, swarm: str, reference: str) -> None:
        """Forget a value.

        Raises:
            MeshError: it could not be written; the value stays.
        """
        found = _read(reference)
        for index in range(found.parts):
            # A right to write is enough for a roll-up; a purge would need one over the stream.
            headers = {"Nats-TTL": "1s", "Nats-Rollup": "sub"}
            subject = self._subject(swarm, found.name, index)
            await stored_write(self._bus, subject, b"", headers, repeat=False, timeout_s=WRITE_S)

    async def _ensured(self) -> None:
        """Have the bucket: made on first use, and again where the broker has lost it.

        Looked for before each value, which is large: a write into nothing is repeated for
        ``WRITE_S``, and the owner's log waits for it.
        """
        if self._made and await self._is_there():
            return
        self._made = False
        await provision.ensure(self._bus, "swarm", self._tenant, replicas=self._replicas)
        self._made = True

    async def _is_there(self) -> bool:
        try:
            return await stream_exists(self._bus, self._stream, timeout_s=LOOK_S)
        except (MeshError, ApiError):
            return True  # nobody knows; the write will tell

    @property
    def _stream(self) -> str:
        return f"OBJ_{buckets.swarm_objects(self._tenant)}"

    def _subject(self, swarm: str, name: str, index: int) -> str:
        return buckets.swarm_object(self._tenant, swarm, f"{name}-{index}")

    async def _part(self, swarm: str, name: str, index: int) -> bytes:
        stream = self._stream
        subject = self._subject(swarm, name, index)
        reply = await self._bus.request(f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout_s=READ_S)
        if reply.headers.get("Status") == "404":
            # A replica of the stream may not have what was written a moment ago; its leader has.
            return await self._of_leader(stream, subject)
        if reply.headers.get("Status") or "Nats-Rollup" in reply.headers:
            raise _lost()
        return reply.payload

    async def _of_leader(self, stream: str, subject: str) -> bytes:
        request = msgspec.json.encode({"last_by_subj": subject})
        try:
            found = await api(self._bus, f"STREAM.MSG.GET.{stream}", request, _Newest)
        except ApiError as error:
            raise _lost() from error
        if b"Nats-Rollup" in base64.b64decode(found.message.hdrs):
            raise _lost()
        return base64.b64decode(found.message.data)


def _read(reference: str) -> _Reference:
    try:
        return _decode(reference)
    except msgspec.DecodeError:
        raise _lost() from None


def _lost() -> MeshError:
    return MeshError(
        ErrorKind.LOST, "a stored value is not kept any more", outcome=Outcome.EXECUTED
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

"""The log of one swarm: batches of events behind a fence, and the snapshots between them.

A writer names the sequence that the last message of the subject must have, so of two who believe
that they own a swarm only one can write (ADR 0037). What is ambiguous (no receipt came) is tried
again with the same sequence and the same id, until it is known or the time is over.
"""

import asyncio
import base64
import logging
import os
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from mcp_proto import subjects
from mcp_proto.buckets import SWARM_LOG
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.direct_get import StoredMessage, get_batch
from mesh_chassis.jetstream import ApiError, Conflict, api
from mesh_chassis.stream import publish
from swarm_coordinator.store.values import Values

__all__ = ["APPEND_S", "Entry", "EntryKind", "StaleOwner", "SwarmLog", "copies_of_logs"]

APPEND_S = 10.0
"""Longest append, repeats included: longer than the election of a new leader (6.1 s)."""
READ_S = 10.0
OPEN_POLL_S = 0.2
PAGE_MESSAGES = 256
PAGE_BYTES = 4 * 1024 * 1024
_KIND = "Mesh-Log"
_VALUE = "Mesh-Log-Value"
_NOT_FOUND = 10037
_log = logging.getLogger(__name__)

EntryKind = Literal["events", "snapshot"]


class StaleOwner(Exception):  # noqa: N818 - it is an answer, not a fault
    """Somebody else has written: this writer does not own the swarm any more."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a log.

    Attributes:
        kind: a batch of events, or the whole state.
        body: encoded as ``core.events`` and ``core.evolve`` do.
        sequence: of the message in the stream.
    """

    kind: EntryKind
    body: bytes
    sequence: int


class _Page(msgspec.Struct, frozen=True):
    seq: int
    next_by_subj: str
    batch: int = PAGE_MESSAGES
    max_bytes: int = PAGE_BYTES


class _Stored(msgspec.Struct, frozen=True):
    seq: int
    hdrs: str = ""


class _Newest(msgspec.Struct, frozen=True):
    message: _Stored


class _Purge(msgspec.Struct, frozen=True, omit_defaults=True):
    filter: str
    seq: int = 0


class _Purged(msgspec.Struct, frozen=True):
    purged: int = 0


class _Config(msgspec.Struct, frozen=True):
    num_replicas: int = 1


class _Info(msgspec.Struct, frozen=True):
    config: _Config


async def copies_of_logs(bus: Bus, *, timeout_s: float) -> int:
    """How many copies the stream of all logs has; waits for the registry to make it.

    Raises:
        MeshError: ``bus``: it is not there after ``timeout_s``.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    while True:
        try:
            return (await api(bus, f"STREAM.INFO.{SWARM_LOG}", b"", _Info)).config.num_replicas
        except ApiError as error:
            if loop.time() + OPEN_POLL_S >= until:
                raise MeshError(
                    ErrorKind.BUS,
                    f"stream {SWARM_LOG} does not exist; the registry makes it: is it running?",
                    internal=str(error),
                ) from error
        await asyncio.sleep(OPEN_POLL_S)


class SwarmLog:
    """The log of one swarm, for one writer at a time; ``append`` is never called twice at once.

    Args:
        bus: connected.
        tenant: whose swarm.
        swarm: its id.
        values: where what is too large for one message goes.
        message_bytes: largest message.
    """

    def __init__(
        self, bus: Bus, tenant: str, swarm: str, values: Values, *, message_bytes: int
    ) -> None:
        self._bus = bus
        self._swarm = swarm
        self._values = values
        self._most = message_bytes
        self._life = os.urandom(6).hex()
        self._appends = 0
        self._referenced: dict[int, str] = {}
        self.subject = subjects.task(tenant, "log", swarm)
        self.sequence = 0
        """Of the last message read or written; the next append expects it."""

    async def replay(self) -> AsyncIterator[Entry]:
        """What is stored behind ``sequence``, oldest first; ``sequence`` follows.

        Raises:
            MeshError: ``no_runner`` without a stream, ``deadline``, ``bus``, ``lost`` when a
                large batch is gone.
        """
        while True:
            page = _Page(seq=self.sequence + 1, next_by_subj=self.subject)
            found = await get_batch(self._bus, SWARM_LOG, page, timeout_s=READ_S)
            if not found:
                return
            for message in found:
                entry = await self._entry(message)
                self.sequence = message.sequence
                yield entry

    async def append(self, body: bytes, kind: EntryKind = "events") -> int:
        """Store one message behind all others.

        Returns:
            Its sequence.

        Raises:
            StaleOwner: the log goes on behind what this writer knows; nothing was stored.
            MeshError: no receipt within ``APPEND_S`` (``outcome`` says whether it may be stored),
                ``overloaded`` without room.
        """
        headers = {_KIND: kind}
        reference = ""
        if len(body) > self._most:
            # Kept without expiry: a swarm may rest for months before its next snapshot.
            reference = await self._values.put(self._swarm, body, ttl_s=0)
            headers[_VALUE] = reference
            body = b""
        self._appends += 1
        msg_id = f"{self._swarm}.{self._life}.{self._appends}"
        try:
            receipt = await publish(
                self._bus,
                self.subject,
                body,
                msg_id=msg_id,
                expected_last=self.sequence,
                headers=headers,
                timeout_s=APPEND_S,
            )
            self.sequence = receipt.seq
        except Conflict as conflict:
            self.sequence = await self._own_copy(msg_id, conflict)
        if reference:
            self._referenced[self.sequence] = reference
        return self.sequence

    async def is_gone(self) -> bool:
        """Whether the log holds nothing at all, as its leader says: a copy may be behind.

        Raises:
            MeshError: no answer from the broker.
        """
        request = msgspec.json.encode({"last_by_subj": self.subject})
        try:
            await api(self._bus, f"STREAM.MSG.GET.{SWARM_LOG}", request, _Newest)
        except ApiError as error:
            if error.failure.err_code == _NOT_FOUND:
                return True
            raise MeshError(
                ErrorKind.INTERNAL, "the log cannot be read", internal=str(error)
            ) from error
        return False

    async def purge_before(self, sequence: int) -> None:
        """Forget what is older than a snapshot, with the large values behind it.

        Args:
            sequence: of the snapshot; it stays.

        Raises:
            MeshError: the broker refused or did not answer; the log only stays longer.
        """
        await self._purge(_Purge(filter=self.subject, seq=sequence))
        await self._drop_values([one for one in self._referenced if one < sequence])

    async def remove(self) -> None:
        """Forget the log.

        Raises:
            MeshError: as ``purge_before``.
        """
        await self._purge(_Purge(filter=self.subject))
        await self._drop_values(list(self._referenced))

    async def _drop_values(self, sequences: list[int]) -> None:
        """Forget the large values of messages that are gone."""
        for sequence in sequences:
            await self._values.drop(self._swarm, self._referenced[sequence])
            del self._referenced[sequence]

    async def _purge(self, what: _Purge) -> None:
        body = msgspec.json.encode(what)
        try:
            await api(self._bus, f"STREAM.PURGE.{SWARM_LOG}", body, _Purged)
        except ApiError as error:
            raise MeshError(
                ErrorKind.INTERNAL, "the log could not be shortened", internal=str(error)
            ) from error

    async def _entry(self, message: StoredMessage) -> Entry:
        kind: EntryKind = "snapshot" if message.headers.get(_KIND) == "snapshot" else "events"
        body = message.payload
        reference = message.headers.get(_VALUE, "")
        if reference:
            body = await self._values.get(self._swarm, reference)
            self._referenced[message.sequence] = reference
        return Entry(kind=kind, body=body, sequence=message.sequence)

    async def _own_copy(self, msg_id: str, conflict: Conflict) -> int:
        """The first copy of a repeated append wins against the second: that is no stranger."""
        if conflict.attempts > 1:
            request = msgspec.json.encode({"last_by_subj": self.subject})
            try:
                newest = await api(self._bus, f"STREAM.MSG.GET.{SWARM_LOG}", request, _Newest)
            except ApiError as error:
                if error.failure.err_code != _NOT_FOUND:
                    raise MeshError(
                        ErrorKind.INTERNAL,
                        "the log cannot be read",
                        outcome=Outcome.UNKNOWN,
                        internal=str(error),
                    ) from error
            else:
                block = base64.b64decode(newest.message.hdrs)
                if f"Nats-Msg-Id: {msg_id}\r\n".encode() in block:
                    return newest.message.seq
        _log.info("the log of %s has another writer", self._swarm)
        raise StaleOwner

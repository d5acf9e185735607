"""Events on JetStream: a stream per tenant, a subject per topic, positions = sequences.

An event is one message on ``mesh.v1.{tenant}.topic.{topic}`` whose body is the event's data, so
that any NATS client of the tenant hears it as it is sent, and may send one.
"""

import asyncio
from datetime import datetime

import msgspec

from mcp_proto import subjects
from mcp_proto.buckets import tenant_events
from mcp_proto.contracts.topics import SOURCE, fits, readable_source, writable_source
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ANY
from mesh_chassis.bus.connection import Bus
from mesh_chassis.direct_get import StoredMessage, get_batch
from mesh_chassis.jetstream import ApiError, api
from mesh_chassis.stream import publish
from tool_runner.drivers.jetstream.streams import TenantStreams
from tool_runner.drivers.jetstream.wakes import Wakes
from tool_runner.drivers.storage import EVENT_BYTES_MAX, Event, EventPage

__all__ = ["JetStreamEvents"]

READ_TIMEOUT_S = 5.0
BATCH_MAX = 256
"""Events fetched by one request."""
BATCH_BYTES_MAX = 4 * 1024 * 1024
PAGE_BYTES_MAX = 4 * 1024 * 1024
"""Data of one page; a page ends early at it."""
LOOKED_AT_MAX = 10_000
"""Events that one read looks at for a pattern; what it has not seen, the next one will."""
_SETTLE_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Pauses after a wake: subscribers hear an event before it is stored."""


class _Next(msgspec.Struct, frozen=True):
    seq: int
    next_by_subj: str
    batch: int
    max_bytes: int


class _State(msgspec.Struct, frozen=True):
    last_seq: int = 0


class _Shown(msgspec.Struct, frozen=True):
    state: _State


class JetStreamEvents:
    """``EventStore`` over one connection; ``close`` it.

    Args:
        bus: connected.
        streams: makes the streams.
    """

    def __init__(self, bus: Bus, streams: TenantStreams) -> None:
        self._bus = bus
        self._streams = streams
        self._wakes = Wakes(bus)

    async def send(self, tenant: str, topic: str, data: bytes, source: str) -> int:
        """See ``EventStore``."""
        subject = subjects.topic(tenant, topic)
        if len(data) > EVENT_BYTES_MAX:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the event has {len(data)} bytes as JSON; the limit is {EVENT_BYTES_MAX}",
            )
        headers = {SOURCE: writable_source(source)} if source else {}

        async def store() -> int:
            ack = await publish(
                self._bus, subject, data, msg_id=self._bus.new_request_id(), headers=headers
            )
            return ack.seq

        # A stream that is not there answers a write only by silence of ten seconds.
        await self._streams.ready("events", tenant)
        return await self._streams.within("events", tenant, store)

    async def read(
        self, tenant: str, pattern: str, position: int, limit: int, wait_s: float = 0.0
    ) -> EventPage:
        """See ``EventStore``."""
        subject = _subject_of(tenant, pattern)
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        if wait_s <= 0:
            position = await self._position(tenant, position)
            return await self._page(tenant, subject, pattern, position, limit)
        await self._streams.ready("events", tenant)
        async with self._wakes.heard(tenant) as wake:
            position = await self._position(tenant, position)
            while True:
                woken = wake.count
                page = await self._page(tenant, subject, pattern, position, limit)
                if page.events or loop.time() >= until:
                    return page
                position = page.next_position
                if not await wake.wait(woken, until - loop.time()):
                    return page
                page = await self._settled(tenant, subject, pattern, position, limit)
                if page.events:
                    return page
                position = page.next_position

    async def close(self) -> None:
        """Hear of no more events."""
        await self._wakes.close()

    async def _settled(
        self, tenant: str, subject: str, pattern: str, position: int, limit: int
    ) -> EventPage:
        """Read until what woke us is stored; it may be on another topic, so not for long."""
        page = EventPage(events=(), next_position=position)
        for pause_s in (0.0, *_SETTLE_S):
            await asyncio.sleep(pause_s)
            page = await self._page(tenant, subject, pattern, position, limit)
            if page.events or page.next_position > position:
                return page
        return page

    async def _position(self, tenant: str, position: int) -> int:
        if position >= 0:
            return max(1, position)
        stream = tenant_events(tenant)

        async def last() -> int:
            try:
                shown = await api(self._bus, f"STREAM.INFO.{stream}", b"", _Shown)
            except ApiError as error:
                if error.failure.code == 404:
                    raise MeshError(ErrorKind.NO_RUNNER, "no such stream") from None
                raise MeshError(
                    ErrorKind.INTERNAL, "the events cannot be read", internal=str(error)
                ) from error
            return shown.state.last_seq

        return await self._streams.within("events", tenant, last) + 1

    async def _page(
        self, tenant: str, subject: str, pattern: str, position: int, limit: int
    ) -> EventPage:
        events: list[Event] = []
        looked_at = size = 0
        while looked_at < LOOKED_AT_MAX and len(events) < limit and size < PAGE_BYTES_MAX:
            wanted = limit - len(events)
            # Of a pattern many events may not fit: look at more than are wanted.
            batch = BATCH_MAX if "*" in pattern else min(BATCH_MAX, wanted)
            found = await self._batch(tenant, _Next(position, subject, batch, BATCH_BYTES_MAX))
            for one in found:
                event = _event(one)
                if event is not None and fits(pattern, event.topic):
                    if len(events) >= limit:
                        break
                    events.append(event)
                    size += len(one.payload)
                position = one.sequence + 1
                looked_at += 1
                if size >= PAGE_BYTES_MAX:
                    break
            if not found:
                break
        return EventPage(events=tuple(events), next_position=position)

    async def _batch(self, tenant: str, wanted: _Next) -> list[StoredMessage]:
        stream = tenant_events(tenant)
        return await self._streams.within(
            "events",
            tenant,
            lambda: get_batch(self._bus, stream, wanted, timeout_s=READ_TIMEOUT_S),
        )


def _subject_of(tenant: str, pattern: str) -> str:
    """What the broker filters by; a pattern's ``*`` may stand anywhere in a token."""
    try:
        tenant_events(tenant)
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "this tenant has no events") from None
    return subjects.topic(tenant, ANY if not pattern or "*" in pattern else pattern)


def _event(stored: StoredMessage) -> Event | None:
    """An event as it was sent; None for a message that is none (another program's)."""
    try:
        name = subjects.parse(stored.subject).names[0]
        msgspec.json.decode(stored.payload)
    except (ValueError, IndexError, msgspec.DecodeError, RecursionError):
        return None
    return Event(
        position=stored.sequence,
        topic=name,
        data=msgspec.Raw(stored.payload),
        source=readable_source(stored.headers.get(SOURCE, "")),
        created_ms=_unix_ms(stored.time),
    )


def _unix_ms(text: str) -> int:
    whole, _, fraction = text.rstrip("Z").partition(".")
    moment = datetime.fromisoformat(whole + "+00:00")
    return int(moment.timestamp()) * 1000 + int((fraction + "000")[:3])

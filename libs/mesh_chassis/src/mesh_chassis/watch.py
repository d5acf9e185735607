"""Follow a bucket: a snapshot, then every change, with proof that nothing is missing.

An ordered push consumer of our own. The stock one beats every 5 s and was blind for up to 20 s
after a broker restart; this one beats every 0.5 s, notices a gap by the consumer's own numbering
(also in the heartbeat, so a lost last message is seen too) and is made anew at once after a
reconnect, later attempts backing off. After a gap the bucket is read again and keys that vanished
meanwhile are reported as gone, so a cache that applies every call is always right.

The consumer is created under a name and a filter in the request subject, because rights are
granted per bucket on that form only.
"""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import msgspec

from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.buckets import Bucket
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api_once
from mesh_chassis.ordered_consumer import (
    ConsumerConfig,
    ConsumerCreated,
    ConsumerDeleted,
    CreateConsumer,
    OrderedConsumer,
    is_marker,
    parse_delivery,
)

__all__ = ["FRESH_S", "Watch"]

FRESH_S = 3.0
"""Age of the last proof up to which a cache fed by a watch counts as current."""

_SILENCE_MAX_S = 1.5
_TICK_S = 0.1
_CREATE_S = 2.0
_DELETE_S = 0.5
_READY_S = 10.0
_BACKOFF_MIN_S = 0.05
_BACKOFF_MAX_S = 2.0
_SETTLED_S = 5.0
"""A consumer that lived this long was not the problem: the next one is made at once again."""
_PENDING_MESSAGES = 65_536
"""Deliveries that may wait in the client; a snapshot arrives faster than it is applied."""

_log = logging.getLogger(__name__)


class _Message(Protocol):
    """What a subscription hands to its callback."""

    subject: str
    reply: str
    data: bytes

    @property
    def headers(self) -> Mapping[str, str] | None: ...


class _Subscription(Protocol):
    def unsubscribe(self) -> Coroutine[Any, Any, None]: ...


class Watch:
    """One filter on one bucket.

    ``on_entry(key, value, revision)`` runs on the event loop in the order of the stream and must
    not block; value None means gone. A key that vanished while nobody could watch is reported
    with revision 0. Revisions of a memory bucket begin again when the only broker restarts.

    Args:
        bus: the connection.
        bucket: which bucket.
        key_filter: a key, or tokens with ``*`` and a last ``>``.
        on_entry: see above; what it raises is logged.
        on_reset: called before the bucket is read again.
        headers_only: values arrive empty.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: Bucket,
        key_filter: str,
        *,
        on_entry: Callable[[str, bytes | None, int], None],
        on_reset: Callable[[], None] | None = None,
        headers_only: bool = False,
    ) -> None:
        self._bus = bus
        self._bucket = bucket
        self._filter = f"$KV.{bucket.name}.{key_filter}"
        self._cut = len(f"$KV.{bucket.name}.")
        self._on_entry = on_entry
        self._on_reset = on_reset
        self._headers_only = headers_only
        self._known: set[str] = set()
        self._noted = ""
        self._complete_once = False
        self._waiting = asyncio.Event()
        self._refused: MeshError | None = None
        self._proof = -math.inf
        self._alive = -math.inf
        self._current: OrderedConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def ready(self) -> Coroutine[Any, Any, None]:
        """Await this for the first complete snapshot.

        Raises:
            MeshError: ``denied`` without the right to read the bucket; ``bus`` after 10 s
                without a snapshot (no bucket, no broker).
        """
        return self._wait_ready()

    @property
    def age_s(self) -> float:
        """Seconds since the last proof that everything so far has been applied."""
        return self._loop.time() - self._proof

    @property
    def fresh(self) -> bool:
        """Whether that proof is recent enough to rely on the cache."""
        return self.age_s <= FRESH_S

    async def start(self) -> None:
        """Begin to watch; returns before the snapshot is there.

        Raises:
            RuntimeError: already started.
        """
        if self._task is not None:
            raise RuntimeError("the watch was started before")
        name = f"watch {self._filter}"
        self._task = self._loop.create_task(self._run(), name=name)

    async def stop(self) -> None:
        """Stop watching and remove the consumer; no callback comes afterwards."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task], timeout=2 * _CREATE_S)

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(_READY_S):
                await self._waiting.wait()
        except TimeoutError:
            raise MeshError(
                ErrorKind.BUS, f"bucket {self._bucket.name} could not be read in time"
            ) from None
        if not self._complete_once and self._refused is not None:
            raise self._refused

    async def _run(self) -> None:
        backoff = 0.0
        while True:
            await self._until_connected()
            began = self._loop.time()
            try:
                await self._live()
            except (MeshError, ApiError) as error:
                self._note(error)
            if self._loop.time() - began > _SETTLED_S:
                backoff = 0.0
            await asyncio.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
            backoff = min(_BACKOFF_MAX_S, max(_BACKOFF_MIN_S, backoff * 2))

    def _note(self, error: MeshError | ApiError) -> None:
        """Log the first of equal failures; tell who waits that the broker refuses."""
        if (text := str(error)) != self._noted:
            self._noted = text
            _log.warning("watch %s: %s", self._filter, text)
        if isinstance(error, MeshError) and error.kind is ErrorKind.DENIED:
            self._refused = error
            self._waiting.set()

    async def _live(self) -> None:
        """One consumer from creation to the first doubt."""
        if self._complete_once and self._on_reset is not None:
            self._on_reset()
        connection = self._bus.link.reconnected_at
        prefix = inbox_prefix(self._bus.service, self._bus.instance)
        consumer = self._current = OrderedConsumer(f"{prefix}.watch")

        async def on_message(message: _Message) -> None:
            if consumer is self._current and not consumer.broken.is_set():
                await self._on_message(consumer, message)

        subscription: _Subscription = await self._bus.subscribe(
            consumer.deliver, on_message, pending=_PENDING_MESSAGES
        )
        try:
            created = await self._create(consumer)
            consumer.expected = created.num_pending
            self._heard(consumer, None)
            await self._until_doubt(consumer, connection)
        finally:
            self._current = None
            with contextlib.suppress(Exception):  # the broker drops both when it must
                await subscription.unsubscribe()
            if self._bus.connected:
                with contextlib.suppress(MeshError, ApiError):
                    await self._delete(consumer)

    async def _create(self, consumer: OrderedConsumer) -> ConsumerCreated:
        stream = self._bucket.stream
        config = ConsumerConfig(
            name=consumer.name,
            deliver_subject=consumer.deliver,
            filter_subject=self._filter,
            headers_only=self._headers_only,
        )
        body = msgspec.json.encode(CreateConsumer(stream_name=stream, config=config))
        operation = f"CONSUMER.CREATE.{stream}.{consumer.name}.{self._filter}"
        return await api_once(self._bus, operation, body, ConsumerCreated, _CREATE_S)

    async def _delete(self, consumer: OrderedConsumer) -> None:
        operation = f"CONSUMER.DELETE.{self._bucket.stream}.{consumer.name}"
        await api_once(self._bus, operation, b"", ConsumerDeleted, _DELETE_S)

    async def _until_connected(self) -> None:
        while not self._bus.connected:  # noqa: ASYNC110 - hooks of the bus cannot be taken back
            await asyncio.sleep(_TICK_S)

    async def _until_doubt(self, consumer: OrderedConsumer, connection: float) -> None:
        self._alive = self._loop.time()
        while (
            self._loop.time() - self._alive <= _SILENCE_MAX_S
            and self._bus.connected
            and self._bus.link.reconnected_at == connection
        ):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_S):
                    await consumer.broken.wait()
                return

    async def _on_message(self, consumer: OrderedConsumer, message: _Message) -> None:
        headers = message.headers or {}
        status = headers.get("Status", "")
        if status:
            await self._on_status(consumer, status, headers, message.reply)
            return
        try:
            delivery = parse_delivery(message.reply)
        except ValueError:
            return  # somebody else wrote into the inbox
        if consumer.accept(delivery):
            value = None if is_marker(headers) else message.data
            self._apply(consumer, message.subject[self._cut :], value, delivery.stream_seq)
            self._heard(consumer, delivery.pending)

    async def _on_status(
        self, consumer: OrderedConsumer, status: str, headers: Mapping[str, str], reply: str
    ) -> None:
        if status != "100":
            consumer.broken.set()  # deleted, moved or shut down
            return
        stalled = headers.get("Nats-Consumer-Stalled", "")
        if last := headers.get("Nats-Last-Consumer", ""):
            consumer.heartbeat(last)
        if answer_to := reply or stalled:
            await self._bus.publish(answer_to)
        if not consumer.broken.is_set():
            self._heard(consumer, None)

    def _heard(self, consumer: OrderedConsumer, pending: int | None) -> None:
        """Take a sign of life; the first one without anything pending ends the snapshot."""
        now = self._alive = self._loop.time()
        if not consumer.complete and consumer.drained(pending):
            consumer.complete = True
            for key in sorted(self._known - consumer.seen):
                self._tell(key, None, 0)
            self._known, consumer.seen = consumer.seen, set()
            self._complete_once = True
            self._noted = ""
            self._waiting.set()
        if consumer.complete:
            self._proof = now

    def _apply(
        self, consumer: OrderedConsumer, key: str, value: bytes | None, revision: int
    ) -> None:
        keys = self._known if consumer.complete else consumer.seen
        if value is not None:
            keys.add(key)
        else:
            keys.discard(key)
            if not consumer.complete:
                return  # if it was known, it is missing at the end of the snapshot
        self._tell(key, value, revision)

    def _tell(self, key: str, value: bytes | None, revision: int) -> None:
        try:
            self._on_entry(key, value, revision)
        except Exception:  # noqa: BLE001 - one entry must not end the watch
            _log.exception("a watcher of %s failed on key %s", self._bucket.name, key)

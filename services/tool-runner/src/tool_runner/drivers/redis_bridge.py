"""Events of one tenant to and from the pub/sub of a Redis or Dragonfly.

One runner of several does it, the one with the lease. A message on a subscribed channel is kept
as an event whose topic is the channel without the prefix; an event of the tenant is published on
prefix and topic, and nothing that came from Redis goes back to it. Pub/sub itself gives a message
at most once and keeps none: while Redis is away, what others publish there is lost. Events of the
mesh wait in the tenant's stream and are published once it is back.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.redis_bridge import RedisBridgeTable
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.health import Status
from mesh_chassis.lease import Lease
from mesh_chassis.retry import backoff_s
from tool_runner.core.redis_channels import SOURCE, data_of, matcher, patterns_of, topic_of
from tool_runner.core.redis_echoes import Echoes
from tool_runner.drivers.storage import EVENT_BYTES_MAX, Event, EventStore

__all__ = ["RedisBridge"]

LEASE_S = 20.0
INBOX_MAX = 4_096
"""Messages of Redis that wait to be kept; above it the newest are dropped and counted."""
INBOX_BYTES_MAX = 64 * 1024 * 1024
READ_MAX = 100
WAIT_S = 5.0
"""How long one reading of the tenant's events waits for the next."""
QUIET_S = 15.0
"""After so long without a word the subscription is asked whether it lives."""
ANSWER_S = 5.0
_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
_PLACE_S = 2.0
_PLACE_KEPT_S = 3_600.0
_SAY_EVERY_S = 10.0
_HEARTBEAT = "heartbeat"

_log = logging.getLogger(__name__)


class _Heartbeat(msgspec.Struct, frozen=True):
    agent: str
    status: str
    timestamp_ms: int
    tenant: str


class _Place(msgspec.Struct, frozen=True):
    """Where in the tenant's events publishing stands; outlives the holder of the lease."""

    position: int


class RedisBridge:
    """See the module.

    Args:
        bus: connected.
        store: the tenant's events.
        table: ``[redis]``; its ``tenant`` is set.
        password: reads the secret when a connection is opened; "" = none.
        count: takes direction (``in``, ``out``) and outcome (``ok``, ``dropped``) of a message.
    """

    def __init__(
        self,
        bus: Bus,
        store: EventStore,
        table: RedisBridgeTable,
        *,
        password: Callable[[], str],
        count: Callable[[str, str], None],
    ) -> None:
        self._bus = bus
        self._store = store
        self._table = table
        self._password = password
        self._count = count
        self._patterns = patterns_of(table.channel_prefix, table.subscribe_channels)
        self._first = matcher(self._patterns)
        self._source = f"{SOURCE}{table.host}:{table.port}"
        self._inbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(INBOX_MAX)
        self._inbox_bytes = 0
        self._echoes = Echoes(time.monotonic)
        self._ours = asyncio.Event()
        self._session: asyncio.Task[None] | None = None
        self._kv: KV | None = None
        self._position = 0
        self._connected = False
        self._said = ""
        self._dropped = 0
        self._dropped_said_s = 0.0

    @property
    def status(self) -> Status:
        """Degraded while this runner should be connected and is not."""
        return Status.DEGRADED if self._ours.is_set() and not self._connected else Status.HEALTHY

    async def run(self) -> None:
        """Contend for the lease, and bridge while it is held, until cancelled."""
        kv = self._kv = await KV.open(self._bus, buckets.LEASE)
        key = buckets.key("bridge", "redis", self._table.tenant)
        lease = Lease(kv, key, self._bus.instance, LEASE_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(
                lease.run(on_acquired=lambda _fence: self._ours.set(), on_lost=self._lost),
                name="redis-lease",
            )
            group.create_task(self._keep(), name="redis-keep")
            group.create_task(self._hold(), name="redis-hold")

    def _lost(self) -> None:
        self._ours.clear()
        if self._session is not None:
            self._session.cancel()

    async def _hold(self) -> None:
        """One session of connections for each time that the lease is ours."""
        while True:
            await self._ours.wait()
            self._position = 0
            session = self._session = asyncio.create_task(self._sessions(), name="redis-session")
            try:
                await asyncio.wait([session])
            finally:
                session.cancel()
                await asyncio.wait([session])
                self._connected = False
            if not session.cancelled() and (error := session.exception()) is not None:
                raise error

    async def _sessions(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            try:
                await self._bridge()
            except* (RedisError, OSError, MeshError) as group:
                self._away(group)
            self._connected = False
            # A connection that lasted was a good one: begin with short pauses again.
            attempt = 0 if time.monotonic() - began > _BACKOFF_MAX_S else attempt + 1
            await asyncio.sleep(backoff_s(attempt, first_s=_FIRST_S, max_s=_BACKOFF_MAX_S))

    def _away(self, group: BaseExceptionGroup[Exception]) -> None:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        said = f"{type(first).__name__}: {first}"[:300]
        if said != self._said:
            self._said = said
            _log.warning("redis bridge: %s", said, extra={"peer": self._source})

    async def _bridge(self) -> None:
        """Connect and bridge until something breaks."""
        client = self._client()
        pubsub = client.pubsub()
        try:
            async with asyncio.TaskGroup() as group:
                self._echoes.clear()
                await client.ping()
                if self._table.publish_events and not self._position:
                    self._position = await self._stored_place()
                if self._patterns:
                    await self._subscribe(pubsub)
                    group.create_task(self._listen(pubsub), name="redis-listen")
                self._up()
                if self._table.publish_events:
                    group.create_task(self._publish(client), name="redis-publish")
                if self._table.publish_heartbeat:
                    group.create_task(self._beat(client), name="redis-heartbeat")
                group.create_task(self._look(client), name="redis-look")
        finally:
            await pubsub.aclose()
            await client.aclose()

    def _up(self) -> None:
        self._connected = True
        if self._said:
            self._said = ""
            _log.info("redis bridge is connected again", extra={"peer": self._source})

    def _client(self) -> Redis:
        table = self._table
        return Redis(
            host=table.host,
            port=table.port,
            username=table.username or None,
            password=self._password() or None,
            ssl=table.tls,
            ssl_ca_certs=table.tls_ca_file or None,
            socket_timeout=ANSWER_S,
            socket_connect_timeout=ANSWER_S,
            # What to repeat, and when, is decided here.
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="mcp-mesh",
        )

    async def _look(self, client: Redis) -> None:
        """A peer that is gone without a word is found out."""
        while True:
            await asyncio.sleep(QUIET_S)
            await client.ping()

    async def _subscribe(self, pubsub: PubSub) -> None:
        """Subscribe and hear that it is so: what is published from then on comes back."""
        await pubsub.psubscribe(*self._patterns)
        left = len(self._patterns)
        while left:
            message = await pubsub.get_message(timeout=ANSWER_S)
            if message is None:
                raise ConnectionError("the subscription is not confirmed")
            left -= message["type"] == "psubscribe"
            self._hear(message)

    async def _listen(self, pubsub: PubSub) -> None:
        asked = False
        while True:
            message = await pubsub.get_message(timeout=ANSWER_S if asked else QUIET_S)
            if message is not None:
                asked = False
                self._hear(message)
            elif asked:
                raise ConnectionError("the subscription does not answer")
            else:
                asked = True
                await pubsub.ping()

    def _hear(self, message: Mapping[str, object]) -> None:
        channel, payload = message["channel"], message["data"]
        if message["type"] != "pmessage":
            return
        if not isinstance(channel, bytes) or not isinstance(payload, bytes):
            return
        if self._first(channel) != message["pattern"] or self._echoes.heard(channel, payload):
            return
        topic = topic_of(self._table.channel_prefix, channel)
        data = data_of(payload) if len(payload) <= EVENT_BYTES_MAX else b""
        if topic is None or not 0 < len(data) <= EVENT_BYTES_MAX:
            self._drop("it has no usable name, or more bytes than an event")
        elif self._inbox.full() or self._inbox_bytes + len(data) > INBOX_BYTES_MAX:
            self._drop("they come faster than they are kept")
        else:
            self._inbox_bytes += len(data)
            self._inbox.put_nowait((topic, data))

    def _drop(self, why: str) -> None:
        self._count("in", "dropped")
        self._dropped += 1
        now = time.monotonic()
        if now - self._dropped_said_s > _SAY_EVERY_S:
            self._dropped_said_s = now
            extra = {"peer": self._source, "dropped": self._dropped}
            _log.warning("redis bridge: a message is dropped: %s", why, extra=extra)

    async def _keep(self) -> None:
        """Messages become events one after the other, in the order in which they came."""
        while True:
            topic, data = await self._inbox.get()
            self._inbox_bytes -= len(data)
            attempt = 0
            while True:
                try:
                    await self._store.send(self._table.tenant, topic, data, self._source)
                except MeshError as error:
                    if error.kind not in _AGAIN:
                        self._drop(error.message)
                        break
                    await asyncio.sleep(backoff_s(attempt, first_s=_FIRST_S, max_s=5.0))
                    attempt += 1
                else:
                    self._count("in", "ok")
                    break

    async def _publish(self, client: Redis) -> None:
        written, written_s = self._position, time.monotonic()
        while True:
            page = await self._store.read(self._table.tenant, "", self._position, READ_MAX, WAIT_S)
            await self._send(client, page.events)
            self._position = page.next_position
            if self._position != written and time.monotonic() - written_s > _PLACE_S:
                written, written_s = self._position, time.monotonic()
                await self._store_place()

    async def _send(self, client: Redis, events: Sequence[Event]) -> None:
        async with client.pipeline(transaction=False) as pipe:
            sent = 0
            for event in events:
                if event.source.startswith(SOURCE):
                    continue
                channel = (self._table.channel_prefix + event.topic).encode()
                self._expect(channel, bytes(event.data))
                pipe.publish(channel, bytes(event.data))
                sent += 1
            if sent:
                await pipe.execute()
        for _ in range(sent):
            self._count("out", "ok")

    def _expect(self, channel: bytes, payload: bytes) -> None:
        if self._first(channel) is not None:
            self._echoes.expect(channel, payload)

    async def _beat(self, client: Redis) -> None:
        channel = (self._table.channel_prefix + _HEARTBEAT).encode()
        while True:
            beat = _Heartbeat(
                agent=self._bus.instance,
                status="healthy",
                timestamp_ms=self._bus.server_now_ms(),
                tenant=self._table.tenant,
            )
            payload = msgspec.json.encode(beat)
            self._expect(channel, payload)
            await client.publish(channel, payload)
            await asyncio.sleep(self._table.heartbeat_interval_seconds)

    @property
    def _place_key(self) -> str:
        return buckets.key("bridge", "redis", self._table.tenant, "place")

    async def _stored_place(self) -> int:
        """Where an earlier holder of the lease stood; without one, only what comes from now on."""
        now = await self._store.read(self._table.tenant, "", -1, 1)
        assert self._kv is not None
        entry = await self._kv.get(self._place_key)
        if entry is None:
            return now.next_position
        place = msgspec.json.decode(entry.value, type=_Place).position
        # Larger: the stream was made anew since.
        return min(place, now.next_position)

    async def _store_place(self) -> None:
        assert self._kv is not None
        value = msgspec.json.encode(_Place(self._position))
        try:
            await self._kv.put(self._place_key, value, ttl_s=_PLACE_KEPT_S)
        except MeshError as error:
            _log.info("redis bridge: the place is not stored: %s", error.message)


_AGAIN = frozenset((ErrorKind.BUS, ErrorKind.OVERLOADED, ErrorKind.DEADLINE, ErrorKind.NO_RUNNER))

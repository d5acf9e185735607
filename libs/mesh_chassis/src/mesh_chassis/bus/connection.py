"""``Bus``: what a service calls, publishes and subscribes with.

Everything here is bounded by a time-out, nothing is sent while disconnected, and every failure
says whether the call may have run (``MeshError.outcome``).
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from types import CoroutineType
from typing import Any, TypeVar

import msgspec
from nats import errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.contracts import Operation
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_instance_id, ulid
from mesh_chassis.bus.blob import BlobExchange
from mesh_chassis.bus.broker_time import BrokerClock, wall_ms
from mesh_chassis.bus.caller import Caller, Reply
from mesh_chassis.bus.frames import check_subject, encode_headers
from mesh_chassis.bus.link import Link
from mesh_chassis.bus.offers import Parts
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.bus.subscription import Subscription
from mesh_chassis.bus.wire import WireClient

__all__ = ["Bus", "BusConfig", "Msg", "Parts", "Reply", "Subscription"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)

SUBSCRIBE_TIMEOUT_S = 5.0
JETSTREAM_TIMEOUT_S = 2.0
SUBSCRIPTION_PENDING = 1024
_log = logging.getLogger(__name__)


class Bus:
    """One service instance on the bus. Create with ``Bus.connect``.

    Attributes:
        config: section ``[bus]``.
        service: service name.
        instance: instance id.
        boot: random id of this run.
        started: Unix time at which this object was made, in seconds.
        link: the supervised connection; for modules of the chassis.
        blobs: claim checks; for modules of the chassis.
        clock: the broker's clock.
        attached: what other modules of the bus keep once per connection.
    """

    def __init__(
        self,
        config: BusConfig,
        *,
        service: str,
        instance: str,
        on_closed: Callable[[], None] | None = None,
        inbox: str = "",
    ) -> None:
        self.config = config
        self.service = service
        self.instance = instance
        self.boot = os.urandom(8).hex()
        self.started = time.time()
        self.attached: dict[type, object] = {}
        self._on_closed = on_closed
        self._inbox = inbox or inbox_prefix(service, instance)
        self._request_prefix = ulid(wall_ms(), os.urandom(10))[:18]
        self._request_count = int.from_bytes(os.urandom(4))
        self.link = self._new_link("")
        self.clock = BrokerClock()
        self.blobs = BlobExchange(self._open_bulk_link, instance=instance)
        self._caller = Caller(self.link, self.blobs, self.clock, self.new_request_id)
        self.on_reconnect(self._learn_clock)

    @classmethod
    async def connect(
        cls,
        config: BusConfig,
        *,
        service: str,
        instance: str,
        on_closed: Callable[[], None] | None = None,
        inbox: str = "",
    ) -> "Bus":
        """Connect and measure the broker's clock.

        Args:
            config: section ``[bus]``.
            service: service name, part of the inbox prefix.
            instance: instance id, part of the inbox prefix.
            on_closed: called once when the connection is gone for good (process exits 75).
            inbox: inbox space of a plain client (``_INBOX``); "" = the instance's own.

        Raises:
            MeshError: ``bus`` naming the URL and the reason; ``params`` for a bad instance id.
        """
        if not is_instance_id(instance):
            raise MeshError(ErrorKind.PARAMS, "not an instance id")
        bus = cls(config, service=service, instance=instance, on_closed=on_closed, inbox=inbox)
        await bus.link.connect()
        await bus._learn_clock()
        return bus

    @property
    def connected(self) -> bool:
        """True while messages can be sent."""
        return self.link.connected

    @property
    def client(self) -> WireClient:
        """The connection below; for modules of the chassis."""
        return self.link.client

    @property
    def max_payload(self) -> int:
        """Largest body of one message, in bytes: the broker's ceiling less room for headers."""
        return self._caller.max_payload

    @property
    def inline_max(self) -> int:
        """Largest body sent inline, in bytes; above, a claim check."""
        return self._caller.inline_max

    @property
    def js(self) -> JetStreamContext:
        """JetStream, for the bucket and stream modules only."""
        return self.link.client.jetstream(timeout=JETSTREAM_TIMEOUT_S)

    def server_now_ms(self) -> int:
        """Unix ms on the broker's clock."""
        return self.clock.now_ms()

    def new_request_id(self) -> str:
        """A fresh ``Mesh-Req``: the first 18 characters of a ULID of this run, and a counter."""
        self._request_count = (self._request_count + 1) & 0xFFFFFFFF
        return f"{self._request_prefix}{self._request_count:08X}"

    def on_disconnect(self, fn: Callable[[], None]) -> None:
        """Call ``fn`` whenever the connection is lost."""
        self.link.lost_hooks.append(fn)

    def on_reconnect(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Run ``fn`` after each reconnect, once subscriptions are restored."""
        self.link.back_hooks.append(fn)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        reply: str = "",
    ) -> None:
        """Publish one message. A denial by the broker is logged; core NATS reports none.

        Raises:
            MeshError: ``bus`` unless connected, ``too_large``, ``params``; all not executed.
        """
        check_subject(subject)
        if reply:
            check_subject(reply)
        block = encode_headers(headers) if headers else b""
        await self._caller.room(len(payload))
        self.link.client.send(subject, reply, payload, block)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Reply:
        """One plain reply, whatever it says (errors in the body are the caller's business).

        Raises:
            MeshError: ``no_runner``, ``deadline``, ``lost``, ``denied``, ``bus``, ``too_large``.
        """
        return await self._caller.request(subject, payload, headers, timeout_s)

    def call(
        self,
        subject: str,
        payload: bytes | Parts,
        *,
        envelope: RequestEnvelope,
        timeout_s: float,
        tenant: str,
        on_frame: Callable[[bytes], None] | None = None,
    ) -> "CoroutineType[Any, Any, bytes]":
        """Make an MCP call and return its JSON-RPC response body; to be awaited.

        When the awaiting task is cancelled, the runner is told to stop.

        Args:
            subject: subject of the server and tool.
            payload: JSON-RPC request; a large one travels as a claim check, best in ``Parts``.
            envelope: headers; time fields and ``stream`` are filled in here.
            timeout_s: budget of the whole call, repeats included, in seconds.
            tenant: tenant of the call: its token stands in probes, cancels and claim checks.
            on_frame: gets the body of each ``msg`` frame; must not block.

        Raises:
            MeshError: what the runner answered, or how the bus failed, with the outcome.
        """
        # Handed on, not awaited here: a coroutine less on the path of every call.
        return self._caller.call(
            subject,
            payload,
            envelope=envelope,
            timeout_s=timeout_s,
            tenant=tenant,
            on_frame=on_frame,
        )

    async def operation(self, op: Operation[P, R], params: P, *, timeout_s: float = 5.0) -> R:
        """Run a typed operation of a platform service.

        Raises:
            MeshError: what the service raised, or how the bus failed.
        """
        return await self._caller.operation(op, params, timeout_s)

    async def subscribe(
        self,
        subject: str,
        handler: Callable[[Msg], Awaitable[None]],
        *,
        queue: str = "",
        pending: int = SUBSCRIPTION_PENDING,
    ) -> Subscription:
        """Subscribe; messages are handled one after another, in order.

        Args:
            subject: subject, wildcards allowed.
            handler: what to do with each message; its exceptions are logged.
            queue: queue group, "" = none.
            pending: messages waiting for the handler; more are dropped and counted.

        Raises:
            MeshError: ``denied`` when the broker refuses, ``bus`` or ``lost`` without connection.
        """

        async def guarded(message: Msg) -> None:
            try:
                await handler(message)
            except Exception:  # noqa: BLE001 - one bad message must not end the subscription
                _log.exception("handler of %s failed", subject)

        await self._caller.room(0)
        try:
            stock = await self.link.client.subscribe(
                subject, queue=queue, cb=guarded, pending_msgs_limit=pending
            )
        except errors.Error as error:
            raise MeshError(ErrorKind.PARAMS, f"cannot subscribe: {error}") from error
        subscription = Subscription(self.link, stock)
        await self.confirm(subject, subscription.unsubscribe)
        return subscription

    async def confirm(self, subject: str, undo: Callable[[], Awaitable[None]]) -> None:
        """Wait until the broker took a subscription that was just sent.

        Raises:
            MeshError: ``denied`` or ``lost``, after ``undo`` has run.
        """
        self.link.take_denial(subject)
        try:
            await self.link.round_trip(SUBSCRIBE_TIMEOUT_S)
        except MeshError:
            await undo()
            raise
        if self.link.take_denial(subject):
            await undo()
            raise MeshError(
                ErrorKind.DENIED,
                "the broker does not permit this subscription",
                data={"subject": subject},
            )

    async def close(self) -> None:
        """Close the connection; what is in flight fails."""
        await self.blobs.close()
        await self.link.close()

    def _new_link(self, part: str) -> Link:
        return Link(
            self.config,
            name=f"{self.service}/{self.instance}{part}",
            inbox_prefix=self._inbox,
            on_closed=self._closed,
        )

    async def _open_bulk_link(self) -> Link:
        """A second connection for large bodies, so that they never delay small calls."""
        link = self._new_link("/bulk")
        await link.connect()
        return link

    async def _learn_clock(self) -> None:
        async def ask(subject: str, timeout_s: float) -> bytes:
            deadline = self.link.mux.loop.time() + timeout_s
            return (await self._caller.ask(subject, b"", None, deadline))[0]

        await self.clock.learn(ask)

    def _closed(self) -> None:
        if self._on_closed is not None:
            self._on_closed()

"""What one process answers under its own name: ``ping`` and ``cancel``.

Ping tells callers that the process lives (no-responders says it does not); cancel stops a call by
its ``Mesh-Req``. One pair of subscriptions serves all endpoints of the process.
"""

import asyncio
from typing import Protocol

from mcp_proto import subjects
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import PROBE_TIMEOUT_S
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.finished import FinishedCalls
from mesh_chassis.bus.frames import BOOT, decode_headers, encode_headers, repliable
from mesh_chassis.bus.wire import DirectRoute

__all__ = ["Cancellable", "InstanceEndpoint", "answers"]

CONFIRM_S = 5.0


class Cancellable(Protocol):
    """A running call."""

    def cancel_by_caller(self) -> None:
        """Stop; no reply is wanted any more."""
        ...


class InstanceEndpoint:
    """The directed subjects of one process; get it with ``InstanceEndpoint.of(bus)``.

    Attributes:
        finished: memory of ended calls, of all endpoints together.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.finished = FinishedCalls()
        self._calls: dict[tuple[str, str], Cancellable] = {}
        self._routes: list[DirectRoute] = []
        self._starting = asyncio.Lock()
        self._pong = encode_headers({Header.INSTANCE: bus.instance, BOOT: bus.boot})

    @classmethod
    def of(cls, bus: Bus) -> "InstanceEndpoint":
        """The one of this bus."""
        found = bus.attached.get(cls)
        if not isinstance(found, cls):
            found = cls(bus)
            bus.attached[cls] = found
        return found

    async def start(self) -> None:
        """Subscribe, once per process.

        Raises:
            MeshError: ``denied``, ``lost``.
        """
        async with self._starting:
            if self._routes:
                return
            client = self._bus.client
            for verb, route in (("ping", self._on_ping), ("cancel", self._on_cancel)):
                subject = subjects.instance(subjects.ANY, self._bus.instance, verb)
                self._routes.append(await client.add_route(subject, "", route))
                await self._bus.confirm(subject, self.stop)

    async def stop(self) -> None:
        """End both subscriptions."""
        routes, self._routes = self._routes, []
        for route in routes:
            await self._bus.client.unsubscribe_route(route)
            self._bus.client.forget_route(route)

    def add(self, tenant: str, request_id: str, call: Cancellable) -> None:
        """Make a running call cancellable by its tenant."""
        self._calls[tenant, request_id] = call

    def remove(self, tenant: str, request_id: str, call: Cancellable) -> None:
        """The call ended."""
        if self._calls.get((tenant, request_id)) is call:
            del self._calls[tenant, request_id]

    def _on_ping(self, subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        if reply and repliable(reply) and self._bus.connected:
            self._bus.client.send(reply.decode(), "", b"", self._pong)

    def _on_cancel(self, subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        if not block:
            return
        try:
            tenant = subjects.parse(subject.decode()).tenant
        except (ValueError, MeshError):
            return
        call = self._calls.get((tenant, decode_headers(block).get(Header.REQUEST, "")))
        if call is not None:
            call.cancel_by_caller()
        if reply and repliable(reply) and self._bus.connected:
            self._bus.client.send(reply.decode(), "", b"", self._pong)


async def answers(bus: Bus, instance: str) -> bool | None:
    """Ping one process of the platform.

    Returns:
        True = it answers, False = the broker knows nobody by that name, None = no telling.
    """
    subject = subjects.instance(subjects.PLATFORM, instance, "ping")
    try:
        await bus.request(subject, timeout_s=PROBE_TIMEOUT_S)
    except MeshError as error:
        return False if error.kind is ErrorKind.NO_RUNNER else None
    return True

"""Watched topics of tenants: heard on the bus, so that events of any sender count.

A gateway that watches a topic says so every 20 s, to any runner. Whoever hears it listens to that
tenant's events for a minute; two runners that do so tell twice, and gateways tell their clients
once.
"""

import asyncio

from mcp_proto import subjects
from mcp_proto.errors import MeshError
from mcp_proto.subjects import ANY
from mesh_chassis.bus.connection import Bus, Msg, Subscription
from tool_runner.core.store_uris import EVENTS_ROOT, uri_of
from tool_runner.core.watches import WatchTable
from tool_runner.toolsets.toolset import Tell, Watched

__all__ = ["TopicWatch"]

TENANTS_MAX = 4_096
"""Tenants of whom topics are watched at once."""
SWEEP_S = 5.0
PENDING = 65_536


class _Tenant:
    def __init__(self) -> None:
        self.table = WatchTable()
        self.listening = asyncio.Lock()
        self.subscription: Subscription | None = None


class TopicWatch:
    """Subscriptions to events of tenants, while a gateway watches.

    Args:
        bus: connected.
        tell: takes the URI of each watched topic with a new event.
    """

    def __init__(self, bus: Bus, tell: Tell) -> None:
        self._bus = bus
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._tenants: dict[str, _Tenant] = {}

    async def watch(self, tenant: str, uri: str, subscriber: str) -> Watched:
        """Watch a topic's URI for somebody; every event from then on is told."""
        known = self._tenants.get(tenant)
        if known is None:
            if len(self._tenants) >= TENANTS_MAX:
                return Watched("too many tenants watch events")
            known = self._tenants[tenant] = _Tenant()
        try:
            fresh = known.table.renew(uri, subscriber, self._loop.time())
            async with known.listening:
                if known.subscription is None:
                    known.subscription = await self._listen(tenant, known)
        except MeshError as error:
            return Watched(error.message)
        return Watched(fresh=fresh)

    def unwatch(self, tenant: str, uri: str, subscriber: str) -> None:
        """Watch it no longer."""
        known = self._tenants.get(tenant)
        if known is not None:
            known.table.end(uri, subscriber)

    async def run(self) -> None:
        """Forget what nobody watches any more, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._loop.time()
            for tenant, known in list(self._tenants.items()):
                if not known.table.alive(now) and not known.listening.locked():
                    del self._tenants[tenant]
                    await self._end(known)

    async def close(self) -> None:
        """Listen to nobody any more."""
        for known in self._tenants.values():
            await self._end(known)
        self._tenants.clear()

    async def _end(self, known: _Tenant) -> None:
        subscription, known.subscription = known.subscription, None
        if subscription is not None:
            await subscription.unsubscribe()

    async def _listen(self, tenant: str, known: _Tenant) -> Subscription:
        async def heard(message: Msg) -> None:
            uri = uri_of(EVENTS_ROOT, subjects.parse(message.subject).names[0])
            # Gateways find who watches the topic itself, or what stands above it.
            if uri in known.table or known.table.above(uri):
                self._tell(tenant, uri)

        return await self._bus.subscribe(subjects.topic(tenant, ANY), heard, pending=PENDING)

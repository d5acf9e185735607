"""Who waits for events of a tenant is woken by one subscription, however many wait."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import ANY, topic
from mesh_chassis.bus.connection import Bus, Msg, Subscription

__all__ = ["Wake", "Wakes"]

TENANTS_MAX = 4_096
"""Tenants whose events somebody waits for at once."""
LINGER_S = 5.0
"""How long a subscription outlives its last waiter: readers come back for the next page."""
PENDING = 65_536


class Wake:
    """Events of one tenant, counted; lent out by ``Wakes.heard``."""

    def __init__(self) -> None:
        self.count = 0
        self.waiting = 0
        self.ready = asyncio.Lock()
        self.subscription: Subscription | None = None
        self.ending: asyncio.TimerHandle | None = None
        self._event = asyncio.Event()

    async def heard(self, _message: Msg) -> None:
        """An event was sent."""
        self.ring()

    def ring(self) -> None:
        """Wake everybody."""
        self.count += 1
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self, seen: int, timeout_s: float) -> bool:
        """Wait until more than ``seen`` have been counted; False when the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.count <= seen:
            try:
                async with asyncio.timeout_at(until):
                    await self._event.wait()
            except TimeoutError:
                return False
        return True


class Wakes:
    """Subscriptions to the events of tenants, as long as somebody waits."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._wakes: dict[str, Wake] = {}
        self._ended: set[asyncio.Task[None]] = set()
        bus.on_reconnect(self._after_reconnect)

    @asynccontextmanager
    async def heard(self, tenant: str) -> AsyncGenerator[Wake]:
        """Hear of a tenant's events in here.

        Raises:
            MeshError: ``overloaded``, ``denied``, ``bus``.
        """
        wake = self._wakes.get(tenant)
        if wake is None:
            if len(self._wakes) >= TENANTS_MAX:
                raise MeshError(
                    ErrorKind.OVERLOADED, "too many tenants wait for events", retry_after_s=1.0
                )
            wake = self._wakes[tenant] = Wake()
        wake.waiting += 1
        if wake.ending is not None:
            wake.ending.cancel()
            wake.ending = None
        try:
            async with wake.ready:
                if wake.subscription is None:
                    wake.subscription = await self._bus.subscribe(
                        topic(tenant, ANY), wake.heard, pending=PENDING
                    )
            yield wake
        finally:
            wake.waiting -= 1
            if not wake.waiting:
                wake.ending = self._loop.call_later(LINGER_S, self._end, tenant, wake)

    async def close(self) -> None:
        """End all of them."""
        for tenant, wake in list(self._wakes.items()):
            if wake.ending is not None:
                wake.ending.cancel()
            self._end(tenant, wake)
        if self._ended:
            await asyncio.wait(self._ended)

    def _end(self, tenant: str, wake: Wake) -> None:
        if self._wakes.get(tenant) is wake:
            del self._wakes[tenant]
        subscription, wake.subscription = wake.subscription, None
        if subscription is not None:
            task = self._loop.create_task(subscription.unsubscribe(), name="end-wake")
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)

    async def _after_reconnect(self) -> None:
        """Events may have been sent while nobody heard."""
        for wake in self._wakes.values():
            wake.ring()

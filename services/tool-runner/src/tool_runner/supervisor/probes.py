"""Is another runner there? One probe per runner, however many of its servers are looked at.

The broker answers "no responders" for a runner whose connection is gone, at once and truthfully;
silence proves nothing.
"""

import asyncio

from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.instance import answers

__all__ = ["PROBE_EVERY_S", "Probes"]

PROBE_EVERY_S = 0.5
_KEPT = 16
GRACE_S = 5.0
"""After our own reconnect: the other runner may come back later than we do."""


class Probes:
    """Counts, per runner, the probes in a row that found nobody."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._absent: dict[str, list[float]] = {}
        self._asked: dict[str, float] = {}
        self._asking = asyncio.Lock()

    async def absent(self, instance: str, since: float) -> int:
        """Probes in a row, later than ``since`` (loop time), that found nobody.

        Asks again where it is time for it.
        """
        loop = asyncio.get_running_loop()
        async with self._asking:
            now = loop.time()
            if now - self._asked.get(instance, 0.0) >= PROBE_EVERY_S * 0.9:
                self._asked[instance] = now
                if await self._is_there(instance):
                    self._absent.pop(instance, None)
                else:
                    self._absent[instance] = [*self._absent.get(instance, ()), now][-_KEPT:]
        return sum(at >= since for at in self._absent.get(instance, ()))

    async def _is_there(self, instance: str) -> bool:
        loop = asyncio.get_running_loop()
        link = self._bus.link
        if not self._bus.connected or loop.time() - link.reconnected_at < GRACE_S:
            return True
        return await answers(self._bus, instance) is not False

"""Is the run of a runner that owns something still there? Asked by tasks and idempotency records.

An owner is an instance and its boot: the same name after a restart is somebody else. The broker
says truthfully that nobody answers under a name, but a runner that is reconnecting looks the same
for a moment, so it takes two such answers some seconds apart.
"""

import asyncio

from mcp_proto import subjects
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import PROBE_TIMEOUT_S
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.frames import BOOT

__all__ = ["APART_S", "Owners"]

APART_S = 4.0
"""Time between two probes that both found nobody, before an owner counts as dead."""
RECONNECT_GRACE_S = 5.0
"""After our own reconnect: the other runner may come back later than we do."""
FORGET_S = 60.0


class Owners:
    """Probes owners; one per process.

    Args:
        bus: connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._missed: dict[tuple[str, str], tuple[float, float]] = {}
        """Owner → when it was missed first, and last."""

    async def dead(self, instance: str, boot: str) -> bool:
        """Whether this run of a runner is gone for good.

        A first miss answers False; ask again after ``APART_S``.
        """
        if instance == self._bus.instance:
            return boot != self._bus.boot
        loop = asyncio.get_running_loop()
        link = self._bus.link
        if not self._bus.connected or loop.time() - link.reconnected_at < RECONNECT_GRACE_S:
            return False
        subject = subjects.instance(subjects.PLATFORM, instance, "ping")
        try:
            reply = await self._bus.request(subject, timeout_s=PROBE_TIMEOUT_S)
        except MeshError as error:
            return error.kind is ErrorKind.NO_RUNNER and self._miss((instance, boot), loop.time())
        self._missed.pop((instance, boot), None)
        return reply.headers.get(BOOT, boot) != boot

    def doubtful(self, instance: str, boot: str) -> bool:
        """Whether nobody answered for it last time, and it is too early to call it dead."""
        return (instance, boot) in self._missed

    def _miss(self, owner: tuple[str, str], now: float) -> bool:
        for old in [key for key, (_, last) in self._missed.items() if now - last > FORGET_S]:
            del self._missed[old]
        first = self._missed.get(owner, (now, now))[0]
        self._missed[owner] = (first, now)
        return now - first >= APART_S

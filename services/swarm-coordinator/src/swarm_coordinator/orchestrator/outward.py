"""Events of a swarm for whoever listens: every transition, in few messages.

One message carries what was stored in the last moments, because at 1,500 steps/s a message per
step would cost the broker as much as the work itself. Only ids and words go out, no values.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.watching import Updated
from mcp_proto.errors import MeshError
from mcp_proto.names import SWARM_SERVER
from mesh_chassis.bus.connection import Bus
from swarm_coordinator.core.events import Event
from swarm_coordinator.handlers.resources import memory_uris, task_uris
from swarm_coordinator.handlers.task_log import Word, transition

__all__ = ["Outward", "SwarmEvent"]

GATHER_S = 0.05
UPDATED_S = 1.0
"""Least time between two notices that a resource has changed."""
TRANSITIONS_MAX = 500
"""Transitions of one message: about 100 KiB."""
WAITING_MAX = 20_000
"""Transitions that wait for a connection; older ones are dropped, the log has them."""
_log = logging.getLogger(__name__)


class SwarmEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Body of ``mesh.v1.{tenant}.evt.swarm.{swarm}``.

    Attributes:
        swarm: its id.
        sequence: of the log message that has the last of them.
        transitions: ``{"e": tag, "at": ms, …}``, oldest first.
    """

    swarm: str
    sequence: int
    transitions: list[dict[str, Word]]


class Outward:
    """What the owner of one swarm tells the world.

    Args:
        bus: connected.
        tenant: of the swarm.
        swarm: its id.
    """

    def __init__(self, bus: Bus, tenant: str, swarm: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._swarm = swarm
        self._waiting: list[dict[str, Word]] = []
        self._sequence = 0
        self._wake = asyncio.Event()
        self._updated: dict[str, None] = {}
        self._updated_at = 0.0

    def take(self, events: Sequence[Event], sequence: int) -> None:
        """These are stored."""
        self._sequence = sequence
        for event in events:
            self._waiting.append(transition(event))
            task = getattr(event, "task", "")
            if task:
                self._updated.update(dict.fromkeys(task_uris(self._swarm, task)))
        if len(self._waiting) > WAITING_MAX:
            del self._waiting[: len(self._waiting) - WAITING_MAX]
        self._wake.set()

    def memory_changed(self) -> None:
        """Somebody wrote into the memory of the swarm."""
        self._updated.update(dict.fromkeys(memory_uris(self._swarm)))
        self._wake.set()

    async def run(self, clock: Callable[[], float]) -> None:
        """Tell, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                await self.flush()
                if self._updated:
                    left = self._updated_at + UPDATED_S - clock()
                    if left <= 0:
                        self._updated_at = clock()
                        await self._tell_updates()
                    else:
                        await asyncio.sleep(min(left, GATHER_S))
                        self._wake.set()
            except MeshError as error:
                _log.info("events of a swarm were not told: %s", error.message)

    async def flush(self) -> None:
        """Tell what waits.

        Raises:
            MeshError: no connection; what was not told still waits.
        """
        subject = subjects.event(self._tenant, "swarm", self._swarm)
        while self._waiting:
            some = self._waiting[:TRANSITIONS_MAX]
            event = SwarmEvent(swarm=self._swarm, sequence=self._sequence, transitions=some)
            await self._bus.publish(subject, msgspec.json.encode(event))
            del self._waiting[: len(some)]

    async def _tell_updates(self) -> None:
        subject = subjects.event(self._tenant, "updated", SWARM_SERVER)
        updated, self._updated = self._updated, {}
        for uri in updated:
            await self._bus.publish(subject, msgspec.json.encode(Updated(uri=uri)))

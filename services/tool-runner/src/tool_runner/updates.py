"""Tells all gateways which resources of native toolsets changed, under the tenant they belong to.

Who of a gateway's clients hears it is the gateway's to decide, so nothing is asked here about who
listens, and it does not matter which runner made the change.
"""

import asyncio
import logging

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.watching import Updated
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from tool_runner.watching import COALESCE_S, PENDING_MAX

__all__ = ["Updates"]

_log = logging.getLogger(__name__)


class Updates:
    """Changes of resources of one native server, told soon and once.

    Args:
        bus: connected.
        server: name of the toolset.
    """

    def __init__(self, bus: Bus, server: str) -> None:
        self._bus = bus
        self._server = server
        self._pending: dict[tuple[str, str], None] = {}
        self._heard = asyncio.Event()

    def tell(self, tenant: str, uri: str) -> None:
        """It changed; never blocks."""
        if len(self._pending) >= PENDING_MAX:
            _log.warning("too many updates, one is dropped", extra={"server": self._server})
            return
        self._pending[tenant, uri] = None
        self._heard.set()

    async def run(self) -> None:
        """Tell what changed, until cancelled."""
        while True:
            await self._heard.wait()
            await asyncio.sleep(COALESCE_S)
            self._heard.clear()
            pending, self._pending = self._pending, {}
            for tenant, uri in pending:
                subject = subjects.event(tenant, "updated", self._server)
                try:
                    await self._bus.publish(subject, msgspec.json.encode(Updated(uri=uri)))
                except MeshError as error:
                    _log.info("not told: %s", error.message, extra={"server": self._server})

"""Logs of swarms on a real broker."""

from collections.abc import Awaitable, Callable

import pytest_asyncio

from mesh_chassis.bus.connection import Bus
from swarm_coordinator.store.log import SwarmLog
from swarm_coordinator.store.values import Values

ConnectBus = Callable[..., Awaitable[Bus]]
MakeLog = Callable[..., Awaitable[SwarmLog]]


@pytest_asyncio.fixture
async def make_log(connect_bus: ConnectBus, provision: None) -> MakeLog:
    async def make(swarm: str, replica: str = "swarm-1", tenant: str = "acme") -> SwarmLog:
        bus = await connect_bus("swarm-coordinator", replica)
        return SwarmLog(bus, tenant, swarm, Values(bus, tenant), message_bytes=64 * 1024)

    return make

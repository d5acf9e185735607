"""A real service inside the test's own event loop: real bus, real buckets, no process.

For tests that look at state from within or count many starts; what a process does beyond that
(signals, exit codes, files) is tested with real processes.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mesh_chassis.bus.connection import Bus
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics
from mesh_chassis.presence import Presence
from mesh_chassis.runtime import Build, C
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks

__all__ = ["in_process"]

_VERSION = "0.0.0"


@asynccontextmanager
async def in_process(build: Build[C], config: C, bus: Bus) -> AsyncGenerator[Service]:
    """Build and start a service on ``bus``; drain and stop it afterwards (the bus too).

    Args:
        build: as for ``runtime.run``.
        config: its configuration.
        bus: connected under the service's own name and rights.
    """
    tasks = Tasks(bus.instance)
    service = Service(
        name=bus.service,
        version=_VERSION,
        instance=bus.instance,
        bus=bus,
        tasks=tasks,
        health=Health(bus.service),
        metrics=Metrics(bus.service, _VERSION, bus.instance),
        presence=Presence(bus, tasks, version=_VERSION),
    )
    try:
        await build(service, config)
        await service.start()
        yield service
        await service.drain(accept_s=0.0, drain_s=5.0)
    finally:
        await service.stop()

"""What all owners of one replica share."""

from collections.abc import Callable

import msgspec

from mesh_chassis.bus.connection import Bus
from mesh_chassis.metrics import Metrics
from swarm_coordinator.config import SwarmCoordinatorConfig
from swarm_coordinator.handlers.ports import Memory
from swarm_coordinator.orchestrator.auction import Hosts
from swarm_coordinator.orchestrator.grants import Grants
from swarm_coordinator.store.leases import Leases
from swarm_coordinator.store.swarms import SwarmStore
from swarm_coordinator.store.tasks import TaskRecords

__all__ = ["Parts"]


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """Connection, stores and settings.

    Attributes:
        bus: connected.
        config: the configuration.
        metrics: counts.
        swarms: records of swarms.
        leases: who owns which.
        hosts: that live.
        grants: of tasks.
        node: name of this coordinator's node.
        records: makes the records of tasks for one owner.
        memory: memory of a tenant's swarms.
    """

    bus: Bus
    config: SwarmCoordinatorConfig
    metrics: Metrics
    swarms: SwarmStore
    leases: Leases
    hosts: Hosts
    grants: Grants
    node: str
    records: Callable[[], TaskRecords]
    memory: Callable[[str], Memory]

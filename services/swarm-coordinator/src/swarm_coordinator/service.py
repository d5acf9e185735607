"""The coordinator's table of contents: what it keeps, what it serves, what it looks after."""

import asyncio
import functools
import platform

from mcp_proto import subjects
from mcp_proto.contracts import tasks as task_contract
from mcp_proto.errors import MeshError
from mcp_proto.names import SWARM_COORDINATOR, SWARM_SERVER
from mcp_proto.subjects import QUEUE
from mesh_chassis.bus.endpoint import Endpoint, serve_operation
from mesh_chassis.callerctx import ContextVerifier
from mesh_chassis.keyring import KeyRing
from mesh_chassis.presence import Presence
from mesh_chassis.registration import Registration
from mesh_chassis.service import Service
from swarm_coordinator.config import SwarmCoordinatorConfig
from swarm_coordinator.handlers import catalog
from swarm_coordinator.handlers.ports import Memory
from swarm_coordinator.orchestrator.admission import Admission
from swarm_coordinator.orchestrator.auction import Hosts
from swarm_coordinator.orchestrator.calls import Calls
from swarm_coordinator.orchestrator.grants import Grants
from swarm_coordinator.orchestrator.parts import Parts
from swarm_coordinator.orchestrator.swarms import SwarmDirectory
from swarm_coordinator.store.leases import Leases
from swarm_coordinator.store.log import copies_of_logs
from swarm_coordinator.store.memory import SwarmMemory
from swarm_coordinator.store.swarms import SwarmStore
from swarm_coordinator.store.tasks import TaskRecords
from swarm_coordinator.store.values import Values

__all__ = ["NAME", "build"]

NAME = SWARM_COORDINATOR
START_S = 30.0
"""How long a start waits for the registry; then the process is started again."""
LEASE_S = 5.0
LEASE_OF_CLUSTER_S = 20.0
"""Renewal, an election of up to 6.1 s, and a margin: else all leases change hands with it."""
KEYS_RETRY_S = 1.0
_STATUSES = ("spawning", "active", "draining", "lost")


async def build(service: Service, config: SwarmCoordinatorConfig) -> None:
    """Add every part to ``service``.

    Raises:
        MeshError: buckets cannot be read, or signing keys where calls must be signed.
    """
    bus = service.bus
    admission = await _admission(service, config)
    calls = Calls(admission)
    parts = await _parts(service, config)
    directory = SwarmDirectory(parts, service.tasks, answer=calls.of_owner)
    calls.use(directory)
    _serve(service, config, calls)
    _measure(service, directory)
    service.add_health_check("logs", lambda: directory.keeps_up, required=False)
    registration = Registration(bus, functools.partial(_announce, service))
    registration.offer(catalog.catalog(service.version))

    async def begin() -> None:
        service.tasks.spawn(registration.run(), name="registration", fatal=True)
        service.tasks.spawn(directory.run(), name="swarms", fatal=True)

    async def again() -> None:
        registration.repeat()

    bus.on_reconnect(again)
    service.on_ready(begin)
    service.on_drain(directory.drain)
    service.on_stop(directory.close)


def _serve(service: Service, config: SwarmCoordinatorConfig, calls: Calls) -> None:
    bus, slots = service.bus, config.limits.slots
    served = (
        (subjects.call(subjects.ANY, SWARM_SERVER, subjects.ANY), "call-swarm"),
        (subjects.rpc(subjects.ANY, SWARM_SERVER, subjects.REST), "rpc-swarm"),
    )
    for subject, name in served:
        service.add_endpoint(
            Endpoint(bus, subject=subject, queue=QUEUE, handler=calls.call, slots=slots, name=name)
        )
    service.add_endpoint(
        serve_operation(bus, task_contract.create.at(NAME), calls.create_task, slots=slots)
    )
    service.add_endpoint(
        serve_operation(bus, task_contract.update.at(NAME), calls.update_task, slots=slots)
    )
    service.add_endpoint(
        serve_operation(bus, task_contract.cancel.at(NAME), calls.cancel_task, slots=slots)
    )


async def _parts(service: Service, config: SwarmCoordinatorConfig) -> Parts:
    bus = service.bus
    hosts = await Hosts.open(bus, timeout_s=START_S)
    service.on_stop(hosts.close)
    swarms = await SwarmStore.open(bus, timeout_s=START_S)
    service.on_stop(swarms.close)
    copies = await copies_of_logs(bus, timeout_s=START_S)
    ttl_s = config.lease.ttl_s or (LEASE_S if copies == 1 else LEASE_OF_CLUSTER_S)
    leases = await Leases.open(bus, ttl_s=ttl_s, timeout_s=START_S)
    service.on_stop(leases.close)
    for watch, bucket in (
        (hosts.watch, "mesh_instances"),
        (swarms.watch, "mesh_swarms"),
        (leases.watch, "mesh_lease"),
    ):
        service.add_watch(watch, bucket=bucket)
    memories: dict[str, Memory] = {}

    def memory(tenant: str) -> Memory:
        if tenant not in memories:
            values = Values(bus, tenant, replicas=config.swarm.replicas)
            memories[tenant] = SwarmMemory(bus, tenant, values, replicas=config.swarm.replicas)
        return memories[tenant]

    return Parts(
        bus=bus,
        config=config,
        metrics=service.metrics,
        swarms=swarms,
        leases=leases,
        hosts=hosts,
        grants=Grants(bus, service.tasks),
        node=config.swarm.node or platform.node(),
        records=functools.partial(TaskRecords.of, bus),
        memory=memory,
    )


async def _admission(service: Service, config: SwarmCoordinatorConfig) -> Admission:
    admission = Admission(service.bus, allow_unsigned=config.swarm.allow_unsigned)

    async def learn_keys() -> None:
        ring = await KeyRing.open(service.bus)
        service.on_stop(ring.close)
        admission.use(ContextVerifier(ring, clock_ms=service.bus.server_now_ms))

    async def learn_keys_late() -> None:
        while True:
            try:
                await learn_keys()
            except MeshError:
                await asyncio.sleep(KEYS_RETRY_S)
            else:
                return

    if config.swarm.allow_unsigned:
        # Development: unsigned calls work before tenant-auth is there, or without it.
        service.tasks.spawn(learn_keys_late(), name="learn-keys")
    else:
        await learn_keys()
    return admission


def _announce(service: Service, servers: dict[str, str]) -> None:
    if isinstance(service.presence, Presence):
        service.presence.set_servers(servers)


def _measure(service: Service, directory: SwarmDirectory) -> None:
    """Gauges that are asked for: counted when somebody scrapes."""
    metrics = service.metrics
    metrics.ask("mesh_swarms_owned", lambda: float(len(directory.owners)))

    def running() -> float:
        return float(
            sum(
                len(agent.items)
                for owner in directory.owners
                for agent in owner.state.agents.values()
            )
        )

    def agents(status: str) -> float:
        return float(
            sum(
                agent.status == status
                for owner in directory.owners
                for agent in owner.state.agents.values()
            )
        )

    metrics.ask("mesh_swarm_steps_running", running)
    for status in _STATUSES:
        metrics.ask("mesh_swarm_agents", functools.partial(agents, status), status)

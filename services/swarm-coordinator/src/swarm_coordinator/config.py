"""Configuration of the swarm coordinator: one strict Struct, every field with a usable default."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = [
    "LeaseSection",
    "LimitsSection",
    "ReplicaSection",
    "SwarmCoordinatorConfig",
    "SwarmSection",
]

Seconds = Annotated[float, Meta(gt=0)]


class ReplicaSection(ServiceSection, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[service]`` of a coordinator.

    Attributes:
        accept_s: nobody balances by the readiness of a replica, and its swarms wait for another
            one all the while: so they are given away at once.
    """

    accept_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.0


class SwarmSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[swarm]``.

    Attributes:
        allow_unsigned: accept calls without a signed caller context. Development only: then the
            broker's rights on subjects are the whole authorisation.
        snapshot_events: events after which the whole state is stored and the log before it purged.
        replicas: copies of the stores of a tenant's swarms on a cluster.
        node: name of the node whose hosts count as beside this coordinator; "" = the machine's.
        max_agents: most agents of a swarm that is made from now on.
        agent_timeout_s: longest attempt of an agent whose spawn names no time-out, likewise.
    """

    allow_unsigned: bool = False
    snapshot_events: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    node: str = ""
    max_agents: Annotated[int, Meta(ge=1, le=20)] = 20
    agent_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] = 300


class LeaseSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[lease]``: who drives a swarm. It decides liveness only; the log is the fence.

    Attributes:
        ttl_s: how long a dead owner keeps a swarm; 0 = 5 s on one broker and 20 s where the log
            has copies, because an election stops all writes for up to 6.1 s.
        probe_s: how often the owners that are other processes are pinged: one that the broker
            knows no more loses its swarms before the lease is over.
    """

    ttl_s: Annotated[float, Meta(ge=0.0, le=120.0)] = 0.0
    probe_s: Annotated[float, Meta(ge=0.2, le=60.0)] = 2.0


class LimitsSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[limits]``: what one replica carries.

    Attributes:
        slots: tool calls it answers at once.
        swarms: swarms it owns at once; further ones are left to other replicas.
        log_message_bytes: largest message of a log; what is larger is kept as an object.
        inputs: requests of hosts of one swarm that are answered at once.
    """

    slots: Annotated[int, Meta(ge=1, le=10_000)] = 256
    swarms: Annotated[int, Meta(ge=1, le=100_000)] = 2_000
    log_message_bytes: Annotated[int, Meta(ge=64 * 1024, le=768 * 1024)] = 768 * 1024
    inputs: Annotated[int, Meta(ge=1, le=10_000)] = 256


class SwarmCoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ReplicaSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    swarm: SwarmSection = SwarmSection()
    lease: LeaseSection = LeaseSection()
    limits: LimitsSection = LimitsSection()

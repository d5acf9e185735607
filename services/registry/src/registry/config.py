"""Configuration of the registry: one strict Struct, every field with a usable default."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.virtuals import VirtualServer
from mcp_proto.discovery import (
    AgentsTable,
    DiscoveryTable,
    agents_problem,
    discovery_problem,
)
from mcp_proto.virtual_servers import virtual_problem
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
)

__all__ = ["BucketsConfig", "LivenessConfig", "RegistryConfig", "StreamsConfig", "check_config"]

_MIB = 1024 * 1024

Bytes = Annotated[int, Meta(ge=_MIB)]


class LivenessConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[liveness]``.

    Attributes:
        ttl_s: lifetime of a heartbeat, in seconds; what the instances themselves use.
        forget_after_s: a catalogue that no live instance served for so long is forgotten, unless
            a definition brings it back. At least three heartbeats' lifetimes, so that an outage
            of the broker never empties the catalogue.
    """

    ttl_s: Annotated[float, Meta(ge=1.0)] = 20.0
    forget_after_s: Annotated[float, Meta(ge=3.0)] = 600.0


class StreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[streams]``: bounds of the shared streams; the broker reserves these bytes.

    Attributes:
        replicas: copies of each stream; 1 on a single broker, 3 in a cluster.
        tasks_max: waiting durable tasks; a full queue refuses (back-pressure), it never drops.
        tasks_max_bytes: their bytes.
        events_max_bytes: events of the last seven days; the oldest go first.
        logs_max_bytes: log lines of the last day; the oldest go first.
        audit_max_bytes: audit; full means refused, never dropped.
        dead_letters_max_bytes: dead letters of the last 14 days.
        swarm_log_max_bytes: what happened in all swarms since their last snapshots; a full log
            refuses further steps, it never drops.
    """

    replicas: Annotated[int, Meta(ge=1, le=5)] = 1
    tasks_max: Annotated[int, Meta(ge=1)] = 100_000
    tasks_max_bytes: Bytes = 256 * _MIB
    events_max_bytes: Bytes = 256 * _MIB
    logs_max_bytes: Bytes = 256 * _MIB
    audit_max_bytes: Bytes = 512 * _MIB
    dead_letters_max_bytes: Bytes = 64 * _MIB
    swarm_log_max_bytes: Bytes = 256 * _MIB


class BucketsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[buckets]``: sizes of buckets; their copies are those of ``[streams]``.

    Attributes:
        tasks_bytes: all durable tasks and their results; the broker sets this much disk aside.
        idempotency_bytes: the same of calls with an idempotency key.
        tenant_bytes_max: largest size of one store of a tenant (values, artifacts, events) that a
            runner can ask for; the broker sets it aside.
        tenant_unsized: whether a runner may have such a store made without a size; else it gets
            ``tenant_bytes_max``.
        streams_max: streams of the account from which no further store of a tenant is made.
    """

    tasks_bytes: Bytes = 128 * _MIB
    idempotency_bytes: Bytes = 64 * _MIB
    tenant_bytes_max: Bytes = 1024 * _MIB
    tenant_unsized: bool = True
    streams_max: Annotated[int, Meta(ge=1)] = 30_000


class RegistryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    liveness: LivenessConfig = LivenessConfig()
    streams: StreamsConfig = StreamsConfig()
    buckets: BucketsConfig = BucketsConfig()
    discovery: DiscoveryTable = DiscoveryTable()
    agents: AgentsTable = AgentsTable()
    virtual_servers: tuple[VirtualServer, ...] = ()
    """Virtual servers that exist as long as this file says so: ``[[virtual_servers]]``."""


def check_config(config: RegistryConfig, source: str = "") -> None:
    """Refuse virtual servers that cannot be shown, and discovery that cannot be done.

    Raises:
        ConfigError: naming the key.
    """
    for table, wrong in (
        ("discovery", discovery_problem(config.discovery)),
        ("agents", agents_problem(config.agents)),
    ):
        if wrong is not None:
            field, _, reason = wrong.partition(": ")
            raise ConfigError(source, f"{table}.{field}", reason)
    seen: set[tuple[str, str]] = set()
    for n, one in enumerate(config.virtual_servers):
        key = f"virtual_servers[{n}]"
        problem = virtual_problem(one)
        if problem is not None:
            field, _, reason = problem.partition(": ")
            raise ConfigError(source, f"{key}.{field}", reason)
        if (one.tenant, one.name) in seen:
            raise ConfigError(source, f"{key}.name", f"{one.name!r} is used twice")
        seen.add((one.tenant, one.name))

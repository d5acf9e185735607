"""Configuration of a program that is an agent of a swarm: sensible without a file.

Every field can come from the environment: ``MESH_SWARM_ID``, ``MESH_SWARM_AGENT``,
``MESH_SWARM_CLAIM`` are what ``agent_spawn`` of an external agent gives out.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = ["SwarmAgentConfig", "SwarmSection"]


class SwarmSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[swarm]``.

    Attributes:
        tenant: of the swarm.
        id: of the swarm.
        agent: whose place is taken.
        claim: token that proves the right to it.
    """

    tenant: Annotated[str, Meta(min_length=1)]
    id: Annotated[str, Meta(min_length=1)]
    agent: Annotated[str, Meta(min_length=1)]
    claim: Annotated[str, Meta(min_length=1)]


class SwarmAgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    service: ServiceSection
    swarm: SwarmSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()

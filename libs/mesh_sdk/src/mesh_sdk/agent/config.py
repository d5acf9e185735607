"""Configuration of a program that serves with the SDK: sensible without a file.

Every field can come from the environment (``MESH_OPS_PORT=9090``), as of any service.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = ["AgentConfig", "AgentSection"]


class AgentSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[agent]``.

    Attributes:
        tenant: whose agent it is.
        concurrency: calls that run at once; more are refused, so that others take them.
        threads: plain functions that run at once.
        replace: take the name over from copies that offer something else, once, at the start.
        allow_unsigned: serve calls without a signed caller context: development only.
    """

    tenant: str
    concurrency: Annotated[int, Meta(ge=1, le=4096)] = 256
    threads: Annotated[int, Meta(ge=1, le=256)] = 32
    replace: bool = False
    allow_unsigned: bool = False


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    service: ServiceSection
    agent: AgentSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()

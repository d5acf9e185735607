"""Configuration of the tool runner: one strict Struct, every field with a usable default."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = ["ChildConfig", "LimitsConfig", "RunnerSection", "ToolRunnerConfig"]

Seconds = Annotated[float, Meta(gt=0)]


class RunnerSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[runner]``.

    Attributes:
        allow_unsigned: accept calls without a signed caller context. Development only: then the
            broker's rights on subjects are the whole authorisation.
        toolsets: native toolsets served.
        handover: before this runner stops, another one may start its servers and take over
            without a gap. The two children of a server overlap for that moment; switch it off
            where a server must not even do that.
    """

    allow_unsigned: bool = False
    toolsets: tuple[str, ...] = ("kv", "echo")
    handover: bool = True


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[limits]``.

    Attributes:
        native_slots: calls of one native toolset that run at once.
        servers: upstream servers this runner holds at once.
        kv_bytes: size of each tenant's key-value bucket; -1 = none.
        kv_replicas: copies of it on a cluster.
    """

    native_slots: Annotated[int, Meta(ge=1, le=10_000)] = 256
    servers: Annotated[int, Meta(ge=0, le=1000)] = 100
    kv_bytes: Annotated[int, Meta(ge=-1)] = -1
    kv_replicas: Annotated[int, Meta(ge=1, le=5)] = 1


class ChildConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[children]``: how stdio servers are run.

    Attributes:
        answer_s: after this long without MCP a start counts as slow: calls are refused with the
            reason instead of waiting.
        start_s: longest start, then the child is killed; the first run of ``uvx`` or ``npx``
            downloads the server.
        memory_bytes: address space of each child; 0 = the runner's own limit. Off by default,
            because Node and Go reserve far more than they use.
        files: open descriptors of each child; 0 = the runner's own limit.
        processes: processes of the runner's user that a child may bring it to; 0 = as the runner.
    """

    answer_s: Seconds = 5.0
    start_s: Seconds = 60.0
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    files: Annotated[int, Meta(ge=0)] = 1024
    processes: Annotated[int, Meta(ge=0)] = 0


class ToolRunnerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    runner: RunnerSection = RunnerSection()
    limits: LimitsConfig = LimitsConfig()
    children: ChildConfig = ChildConfig()
    mcp_servers: tuple[ServerDefinition, ...] = ()

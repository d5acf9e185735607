"""Configuration of an agent host: one strict Struct, every field with a usable default."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.agent_runtimes import CommandEntry, FunctionEntry, ModelEntry
from mcp_proto.contracts.swarm import BEAT_S
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import (
    ConfigError,
    LogConfig,
    OpsConfig,
    ServiceSection,
    TelemetryConfig,
)

__all__ = ["AgentHostConfig", "HostSection", "TypesSection", "check_config"]


class HostSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[host]``.

    Attributes:
        agents_max: agents at once, over all tenants.
        tenant_agents_max: agents of one tenant at once; 0 = as many as there may be.
        work_dir: where agents have their directories; made if absent, emptied at the start.
        start_timeout_s: longest start of an agent's process.
        memory_bytes: limit of an agent that names none; 0 = none.
        memory_bytes_max: most that an agent may ask for; 0 = what the machine has.
        cpu_max: most cores that an agent may ask for; 0 = what the machine has.
        cgroups: divide the host's own cgroup among agents, where it is ours alone.
        node: name of this machine; "" = its host name.
        beat_s: interval of beats to the owners of swarms, who miss them after 15 s.
    """

    agents_max: Annotated[int, Meta(ge=0, le=1_024)] = 64
    tenant_agents_max: Annotated[int, Meta(ge=0)] = 0
    work_dir: str = ".mesh/agents"
    start_timeout_s: Annotated[float, Meta(gt=0, le=300)] = 20.0
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    memory_bytes_max: Annotated[int, Meta(ge=0)] = 0
    cpu_max: Annotated[float, Meta(ge=0)] = 0.0
    cgroups: bool = True
    node: str = ""
    beat_s: Annotated[float, Meta(ge=0.05, le=5.0)] = BEAT_S


class TypesSection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[types]``: the built-in types.

    Attributes:
        builtin: those that are offered; () = all.
        roots: folders that their steps may read, absolute; () = none.
    """

    builtin: tuple[str, ...] = ()
    roots: tuple[Annotated[str, Meta(pattern=r"\A/")], ...] = ()


class AgentHostConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration file."""

    service: ServiceSection
    bus: BusConfig = BusConfig()
    log: LogConfig = LogConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    ops: OpsConfig = OpsConfig()
    host: HostSection = HostSection()
    types: TypesSection = TypesSection()
    functions: tuple[FunctionEntry, ...] = ()
    commands: tuple[CommandEntry, ...] = ()
    models: tuple[ModelEntry, ...] = ()


def check_config(config: AgentHostConfig, source: str = "") -> None:
    """Refuse what cannot be an agent.

    Raises:
        ConfigError: naming the key.
    """
    for table, entries in (("functions", config.functions), ("commands", config.commands)):
        seen: set[str] = set()
        for at, entry in enumerate(entries):
            if entry.name in seen:
                raise ConfigError(source, f"{table}[{at}].name", f"{entry.name!r} is used twice")
            seen.add(entry.name)
    for at, model in enumerate(config.models):
        if model.kind == "openai" and not model.url.startswith(("http://", "https://")):
            raise ConfigError(source, f"models[{at}].url", "needs an http:// or https:// URL")
        if model.kind == "scripted" and not model.replies:
            raise ConfigError(source, f"models[{at}].replies", "a scripted model needs turns")

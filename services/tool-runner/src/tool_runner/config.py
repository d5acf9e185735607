"""Configuration of the tool runner: one strict Struct, every field with a usable default."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.limits import RESULT_BYTES_MAX
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = [
    "ChildConfig",
    "IdempotencyConfig",
    "LimitsConfig",
    "ParkingConfig",
    "ResultsConfig",
    "RunnerSection",
    "TasksConfig",
    "ToolRunnerConfig",
    "UpstreamsConfig",
]

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


class ParkingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[parking]``: calls whose server asked something in mid-call.

    Attributes:
        ttl_s: how long a call waits for the answer of its caller; then the server is told that
            nobody answers, and the call is cancelled. The call of a durable task waits as long
            as its task is kept (``[tasks] ttl_max_s``).
        calls: calls of this runner in which a server has asked something, at once.
        calls_per_tenant: the same of one tenant.
    """

    ttl_s: Seconds = 300.0
    calls: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    calls_per_tenant: Annotated[int, Meta(ge=0, le=100_000)] = 100


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


class ResultsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[results]``: results too large for an edge are stored and linked.

    Attributes:
        inline_bytes: largest result given as it is; what edges deliver, less what they add.
        ttl_s: how long a stored result can be read, in seconds.
        bytes_per_tenant: stored results of one tenant; the broker sets this much disk aside with
            the tenant's first one.
        replicas: copies of them on a cluster.
    """

    inline_bytes: Annotated[int, Meta(ge=512 * 1024, le=RESULT_BYTES_MAX)] = RESULT_BYTES_MAX
    ttl_s: Annotated[int, Meta(ge=1)] = 86_400
    bytes_per_tenant: Annotated[int, Meta(ge=1024 * 1024)] = 256 * 1024 * 1024
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1


class TasksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[tasks]``: durable tasks that this runner makes and executes.

    Attributes:
        ttl_s: how long a task is kept from its creation when its caller names no time.
        ttl_min_s: shortest time kept.
        ttl_max_s: longest time kept, whatever the caller asks for.
        poll_s: how often callers are told to ask.
        per_tenant: tasks of one tenant that exist at once, ended ones included, over all runners.
        bytes_max: all tasks and their results; the broker sets this much disk aside.
        executing: calls of tasks that run at once on this runner.
        params_bytes: largest ``params`` of a call that becomes a task.
        call_timeout_s: longest call of a task; 0 = as long as the task is kept. Neither the 300 s
            of ordinary calls nor the server's ``timeout_s`` bounds it.
        check_every_s: how often owners of foreign tasks are looked at.
    """

    ttl_s: Seconds = 3600.0
    ttl_min_s: Annotated[float, Meta(ge=1)] = 1.0
    ttl_max_s: Seconds = 86_400.0
    poll_s: Seconds = 1.0
    per_tenant: Annotated[int, Meta(ge=0, le=1_000_000)] = 1_000
    bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 128 * 1024 * 1024
    executing: Annotated[int, Meta(ge=0, le=10_000)] = 256
    params_bytes: Annotated[int, Meta(ge=1, le=256 * 1024)] = 256 * 1024
    call_timeout_s: Annotated[float, Meta(ge=0)] = 0.0
    check_every_s: Seconds = 5.0


class IdempotencyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[idempotency]``: calls that carry an idempotency key.

    Attributes:
        window_s: how long a repeat finds what became of the first call.
        per_tenant: keys of one tenant that are remembered at once, over all runners.
        bytes_max: all records and answers; the broker sets this much disk aside.
    """

    window_s: Annotated[float, Meta(ge=1)] = 86_400.0
    per_tenant: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000
    bytes_max: Annotated[int, Meta(ge=1024 * 1024)] = 64 * 1024 * 1024


class UpstreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[upstreams]``: how servers over the network are reached.

    Attributes:
        allow_networks: addresses, networks (``10.0.0.0/8``) and names inside the operator's net
            that any server may be at, tenants' own ones too.
        tenant_secrets: patterns of secret references (``env:ACME_*``) that tenants' own servers,
            added at run time, may use.
        proxy: HTTP proxy for all HTTP servers; it then resolves their names, unjudged. "" = none;
            the environment is not asked.
        connections: open at once to one HTTP server, its event stream among them; a call that
            finds none free waits.
        connect_s: longest connect.
        check_s: how often an idle server is asked whether it lives.
        era_s: how long a server counts as one of a legacy revision without being asked again.
    """

    allow_networks: tuple[str, ...] = ()
    tenant_secrets: tuple[str, ...] = ()
    proxy: str = ""
    connections: Annotated[int, Meta(ge=4, le=1_000_000)] = 100
    connect_s: Seconds = 5.0
    check_s: Seconds = 30.0
    era_s: Seconds = 600.0


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
    upstreams: UpstreamsConfig = UpstreamsConfig()
    parking: ParkingConfig = ParkingConfig()
    results: ResultsConfig = ResultsConfig()
    tasks: TasksConfig = TasksConfig()
    idempotency: IdempotencyConfig = IdempotencyConfig()
    mcp_servers: tuple[ServerDefinition, ...] = ()

"""Configuration of the tool runner: one strict Struct, every field with a usable default."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mcp_proto.containers import ContainersTable
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.limits import RESULT_BYTES_MAX
from mcp_proto.redis_bridge import RedisBridgeTable
from mcp_proto.sandboxes import SandboxTable
from mesh_chassis.bus.connection import BusConfig
from mesh_chassis.config import LogConfig, OpsConfig, ServiceSection, TelemetryConfig

__all__ = [
    "AwsConfig",
    "ChildConfig",
    "IdempotencyConfig",
    "LimitsConfig",
    "ParkingConfig",
    "ResultsConfig",
    "RunnerSection",
    "StorageConfig",
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
    toolsets: tuple[str, ...] = ("kv", "artifacts", "events", "echo")
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

    They count towards ``[storage] bytes_per_tenant``.

    Attributes:
        inline_bytes: largest result given as it is; what edges deliver, less what they add.
        ttl_s: how long a stored result can be read, in seconds.
    """

    inline_bytes: Annotated[int, Meta(ge=512 * 1024, le=RESULT_BYTES_MAX)] = RESULT_BYTES_MAX
    ttl_s: Annotated[int, Meta(ge=1)] = 86_400


class TasksConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[tasks]``: durable tasks that this runner makes and executes.

    Attributes:
        ttl_s: how long a task is kept from its creation when its caller names no time.
        ttl_min_s: shortest time kept.
        ttl_max_s: longest time kept, whatever the caller asks for.
        poll_s: how often callers are told to ask.
        per_tenant: tasks of one tenant that exist at once, ended ones included, over all runners.
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
    executing: Annotated[int, Meta(ge=0, le=10_000)] = 256
    params_bytes: Annotated[int, Meta(ge=1, le=256 * 1024)] = 256 * 1024
    call_timeout_s: Annotated[float, Meta(ge=0)] = 0.0
    check_every_s: Seconds = 5.0


class IdempotencyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[idempotency]``: calls that carry an idempotency key.

    Attributes:
        window_s: how long a repeat finds what became of the first call.
        per_tenant: keys of one tenant that are remembered at once, over all runners.
    """

    window_s: Annotated[float, Meta(ge=1)] = 86_400.0
    per_tenant: Annotated[int, Meta(ge=0, le=1_000_000)] = 10_000


class UpstreamsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[upstreams]``: how servers over the network are reached.

    Attributes:
        allow_networks: addresses, networks (``10.0.0.0/8``) and names inside the operator's net
            that any server may be at, tenants' own ones too.
        tenant_secrets: patterns of secret references (``env:ACME_*``) that tenants' own servers,
            added at run time, may use; ``{tenant}`` stands for the tenant's id.
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


class AwsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[storage.aws]``: what the AWS backend uses. Credentials are never written here.

    They come from where every AWS program looks: environment, shared files, web identity,
    container and instance roles.

    Attributes:
        region: of everything below; "" = ``AWS_REGION``, or the region of the AWS profile.
        kv_table: DynamoDB table of the ``kv`` tools: partition key ``tenant``, sort key ``key``,
            both text; time to live on ``expires``.
        artifacts_bucket: S3 bucket of the ``artifacts`` tools; a prefix per tenant.
        event_bus: EventBridge bus that every event is given to; "" = none.
        endpoint_url: another place that speaks these interfaces (moto, LocalStack, a VPC
            endpoint); "" = AWS.
        secrets_prefix: a tenant's own servers may use the Secrets Manager secrets named
            ``{secrets_prefix}{tenant}/…`` as ``aws:NAME``; "" = none of them.
        connections: open at once to each of the services.
        connect_s: longest connect.
        answer_s: longest silence within an answer.
        call_s: longest request, with its repeats.
    """

    region: str = ""
    kv_table: str = ""
    artifacts_bucket: str = ""
    event_bus: str = ""
    endpoint_url: str = ""
    secrets_prefix: str = ""
    connections: Annotated[int, Meta(ge=1, le=10_000)] = 100
    connect_s: Seconds = 3.0
    answer_s: Seconds = 10.0
    call_s: Seconds = 20.0


class StorageConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table ``[storage]``: values, artifacts and events of tenants.

    Attributes:
        backend: ``jetstream`` (the mesh's own broker) or ``aws``.
        aws: what the latter uses.
        bytes_per_tenant: values, artifacts and stored results of one tenant; -1 = no quota.
        tenants: other figures for single tenants, by tenant id.
        events_bytes: events of one tenant that are kept; beyond it the oldest go.
        events_age_s: how long they are kept.
        replicas: copies of artifacts, stored results and events on a cluster.
    """

    backend: Literal["jetstream", "aws"] = "jetstream"
    aws: AwsConfig = AwsConfig()
    bytes_per_tenant: Annotated[int, Meta(ge=-1)] = 256 * 1024 * 1024
    tenants: dict[str, Annotated[int, Meta(ge=-1)]] = {}
    events_bytes: Annotated[int, Meta(ge=64 * 1024)] = 16 * 1024 * 1024
    events_age_s: Annotated[float, Meta(ge=1)] = 7 * 86_400.0
    replicas: Annotated[int, Meta(ge=1, le=5)] = 1

    def quota(self, tenant: str) -> int:
        """Bytes that a tenant may store; -1 = no quota."""
        return self.tenants.get(tenant, self.bytes_per_tenant)


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
    containers: ContainersTable = ContainersTable()
    sandbox: SandboxTable = SandboxTable()
    upstreams: UpstreamsConfig = UpstreamsConfig()
    parking: ParkingConfig = ParkingConfig()
    storage: StorageConfig = StorageConfig()
    results: ResultsConfig = ResultsConfig()
    tasks: TasksConfig = TasksConfig()
    idempotency: IdempotencyConfig = IdempotencyConfig()
    redis: RedisBridgeTable = RedisBridgeTable()
    mcp_servers: tuple[ServerDefinition, ...] = ()

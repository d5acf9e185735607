"""The runner's table of contents: native toolsets, upstream servers, and what keeps them known."""

import asyncio
import functools
import secrets

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.tool_runner import Login, ServerViews, login_subject, views_subject
from mcp_proto.errors import ErrorObject, MeshError
from mcp_proto.names import RESERVED_SERVERS, RESULTS_SERVER
from mcp_proto.redis_bridge import bridge_problem
from mcp_proto.sandboxes import sandbox_table_problem
from mcp_proto.subjects import PLATFORM, QUEUE
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint, Handler, Take
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.callerctx import ContextVerifier
from mesh_chassis.children import ChildLimits, Children
from mesh_chassis.config import ConfigError
from mesh_chassis.keyring import KeyRing
from mesh_chassis.presence import Presence
from mesh_chassis.registration import Registration
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.service import Service
from tool_runner.config import ToolRunnerConfig
from tool_runner.drivers.aws.secrets import AwsSecrets
from tool_runner.drivers.opening import Stores, open_stores
from tool_runner.durable import DurableTasks
from tool_runner.handlers import Admission, AnswerHandlers, NativeHandlers, ServerHandlers
from tool_runner.parking import Parking
from tool_runner.results import LargeResults
from tool_runner.supervisor.hosted import HostedServer, HostSettings
from tool_runner.supervisor.keeper import Served
from tool_runner.supervisor.settings import Fit
from tool_runner.supervisor.supervisor import Supervisor, definition_problem
from tool_runner.tasks.owners import Owners
from tool_runner.toolsets import artifacts, echo, events, kv
from tool_runner.toolsets.toolset import Toolset
from tool_runner.topic_watch import TopicWatch
from tool_runner.updates import Updates
from tool_runner.upstreams import containers
from tool_runner.upstreams.containers import ContainerSettings
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http import HttpSettings
from tool_runner.upstreams.http_link import LinkSettings
from tool_runner.upstreams.secrets import secret, use_remote_secrets
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.walls import SandboxSettings

__all__ = ["NAME", "build"]

NAME = "tool-runner"


async def build(service: Service, config: ToolRunnerConfig) -> None:
    """Add every part to ``service``.

    Raises:
        ConfigError: a toolset or server that cannot be.
        MeshError: the signing keys cannot be read.
    """
    bus = service.bus
    admission = await _admission(service, config)
    stores = _stores(service, config)
    toolsets = _toolsets(service, stores, config)
    registration = Registration(bus, functools.partial(_announce, service))
    results = _native(service, config, admission, registration, toolsets, stores)
    durable = DurableTasks(service, config, admission, Owners(bus))
    admission.extend = durable.extend
    admission.follower = durable.follower
    parking = _parking(service, config, admission)
    reserved = (*RESERVED_SERVERS, *(toolset.server for toolset in toolsets))
    _check_servers(config, reserved)
    supervisor = _supervisor(
        service, config, admission, registration, reserved, parking, results.fit_upstream
    )

    async def view(_call: Call) -> bytes:
        views = tuple(supervisor.views(log_lines=_LOG_LINES))
        return msgspec.json.encode(ServerViews(servers=views))

    shown = views_subject(bus.instance)
    service.add_endpoint(Endpoint(bus, subject=shown, handler=view, slots=4, name="servers"))

    async def login(call: Call) -> bytes:
        asked = msgspec.json.decode(call.payload, type=Login)
        return msgspec.json.encode(await supervisor.login(asked))

    said = login_subject(bus.instance)
    service.add_endpoint(Endpoint(bus, subject=said, handler=login, slots=4, name="login"))
    service.add_health_check("servers", lambda: not supervisor.quarantined, required=False)

    async def begin() -> None:
        _declare(service, config)
        for toolset in toolsets:
            registration.offer(toolset.catalog(service.version))
        registration.offer(results.catalog(service.version))
        service.tasks.spawn(registration.run(), name="registration", fatal=True)
        await supervisor.start()

    async def again() -> None:
        registration.repeat()

    async def give_up() -> None:
        await supervisor.drain(handover=config.runner.handover)

    _reload(service, supervisor, reserved)
    service.on_ready(begin)
    service.on_drain(give_up)
    service.on_drain(durable.drain)
    service.on_stop(supervisor.close)
    service.metrics.ask("mesh_runner_servers", lambda: float(supervisor.held))
    bus.on_reconnect(again)


def _native(
    service: Service,
    config: ToolRunnerConfig,
    admission: Admission,
    registration: Registration,
    toolsets: tuple[Toolset, ...],
    stores: Stores,
) -> LargeResults:
    """What this runner serves itself: native tools, and large results of any tool."""
    bus, slots = service.bus, config.limits.native_slots
    results = LargeResults(
        bus,
        config.results,
        stores.objects,
        admit=admission.admit,
        promises=registration.promises,
    )
    native = NativeHandlers(toolsets, admission, results.fit_native)
    served: list[tuple[str, str, Handler, Take | None]] = [
        (subject, f"{subject.split('.')[3]}-{toolset.server}", native.call, native.intake)
        for toolset in toolsets
        for subject in _subjects(PLATFORM, toolset.server)
    ]
    stored = subjects.rpc(subjects.ANY, RESULTS_SERVER, subjects.REST)
    served.append((stored, f"rpc-{RESULTS_SERVER}", results.read, None))
    for subject, name, handler, intake in served:
        service.add_endpoint(
            Endpoint(
                bus,
                subject=subject,
                queue=QUEUE,
                handler=handler,
                slots=slots,
                name=name,
                intake=intake,
            )
        )
    return results


def _announce(service: Service, servers: dict[str, str]) -> None:
    if isinstance(service.presence, Presence):
        service.presence.set_servers(servers)


def _reload(service: Service, supervisor: Supervisor, reserved: tuple[str, ...]) -> None:
    """Servers of the file come and go while the runner runs."""

    def check(new: ToolRunnerConfig) -> None:
        _check_servers(new, reserved)

    async def configure(new: ToolRunnerConfig) -> None:
        supervisor.configure(new.mcp_servers, _network(service.bus, new))
        _declare(service, new)

    keys = ("mcp_servers", "upstreams")
    service.on_reload(ToolRunnerConfig, keys, configure, check=check)


def _declare(service: Service, config: ToolRunnerConfig) -> None:
    """Show in the heartbeat which servers the file of this runner names."""
    if isinstance(service.presence, Presence):
        service.presence.set_declared(
            f"{one.tenant}.{one.name}" for one in config.mcp_servers if one.enabled
        )


def _check_servers(config: ToolRunnerConfig, reserved: tuple[str, ...]) -> None:
    seen: set[tuple[str, str]] = set()
    for at, definition in enumerate(config.mcp_servers):
        problem = definition_problem(definition, reserved)
        pair = (definition.tenant, definition.name)
        if problem is None and pair in seen:
            problem = f"{definition.name} is used twice"
        if problem is not None:
            raise ConfigError("", f"mcp_servers[{at}]", problem)
        seen.add(pair)


class _ServedServer:
    """The subjects of one hosted server."""

    def __init__(self, service: Service, endpoints: tuple[Endpoint, ...]) -> None:
        self._service = service
        self._endpoints = endpoints

    async def start(self) -> None:
        for endpoint in self._endpoints:
            await self._service.serve(endpoint)

    async def drain(self) -> None:
        await asyncio.gather(*(self._service.retire(endpoint) for endpoint in self._endpoints))

    def resize(self, slots: int) -> None:
        for endpoint in self._endpoints:
            endpoint.slots = slots


def _parking(service: Service, config: ToolRunnerConfig, admission: Admission) -> Parking:
    """Calls that wait for input, and the subject on which it arrives."""
    cancels = InstanceEndpoint.of(service.bus)
    parking = Parking(service.bus.instance, service.tasks, config.parking, cancels)
    service.add_endpoint(
        Endpoint(
            service.bus,
            subject=subjects.instance(subjects.ANY, service.bus.instance, "answer"),
            handler=AnswerHandlers(parking, admission).answer,
            slots=config.limits.native_slots,
            name="answer",
        )
    )

    def keep_end(tenant: str, principal: str, tag: str, answer: bytes | ErrorObject | str) -> None:
        if admission.once is not None:
            admission.once.parked_ended(tenant, principal, tag, answer)

    parking.on_end = keep_end

    async def give_up() -> None:
        await parking.close("the runner stops")

    # Before the servers are drained: a parked call would keep its server from being idle.
    service.on_drain(give_up)
    service.metrics.ask("mesh_runner_parked_calls", lambda: float(len(parking)))
    return parking


def _supervisor(
    service: Service,
    config: ToolRunnerConfig,
    admission: Admission,
    registration: Registration,
    reserved: tuple[str, ...],
    parking: Parking,
    fit: Fit,
) -> Supervisor:
    async def serve(hosted: HostedServer) -> Served:
        handlers = ServerHandlers(hosted, admission, parking)
        served = _ServedServer(
            service,
            tuple(
                Endpoint(
                    service.bus,
                    subject=subject,
                    queue=QUEUE,
                    handler=handlers.call,
                    slots=hosted.definition.concurrency,
                    name=f"{subject.split('.')[3]}-{hosted.name}",
                )
                for subject in _subjects(hosted.tenant, hosted.name)
            ),
        )
        await served.start()
        return served

    limits, children = config.children, Children()
    service.metrics.ask("mesh_child_processes", lambda: float(len(children)))
    return Supervisor(
        service.bus,
        configured=config.mcp_servers,
        reserved=reserved,
        children=children,
        settings=HostSettings(
            answer_s=limits.answer_s,
            fit=fit,
            network=_network(service.bus, config),
            stdio=StdioSettings(
                start_timeout_s=limits.start_s,
                limits=ChildLimits(
                    memory_bytes=limits.memory_bytes,
                    files=limits.files,
                    processes=limits.processes,
                ),
                containers=_containers(service, config),
                sandbox=_sandbox(children, config),
            ),
        ),
        serve=serve,
        registration=registration,
        servers_max=config.limits.servers,
        on_restart=lambda server: service.metrics.add("mesh_upstream_restarts", server),
    )


def _containers(service: Service, config: ToolRunnerConfig) -> ContainerSettings:
    """How servers from images are run; what an earlier life of this runner left is removed."""
    settings = ContainerSettings(
        **msgspec.structs.asdict(config.containers),
        owner=containers.owner_of(service.bus.instance, config.bus.urls),
        life=secrets.token_hex(8),
    )
    service.tasks.spawn(containers.sweep_quietly(settings), name="sweep-containers")
    return settings


def _sandbox(children: Children, config: ToolRunnerConfig) -> SandboxSettings:
    """How servers in sandboxes are run; keys of this runner are in none of them."""
    problem = sandbox_table_problem(config.sandbox)
    if problem is not None:
        key, _, reason = problem.partition(": ")
        raise ConfigError("", key, reason)
    own = (config.bus.nkey_seed_file, config.bus.creds_file)
    return SandboxSettings(
        sandboxes=Sandboxes(children, uid=config.sandbox.uid, secrets=own), table=config.sandbox
    )


def _network(bus: Bus, config: ToolRunnerConfig) -> NetworkSettings:
    upstreams = config.upstreams
    tenant_secrets = upstreams.tenant_secrets
    if config.storage.aws.secrets_prefix:
        tenant_secrets += (f"aws:{config.storage.aws.secrets_prefix}{{tenant}}/*",)
    return NetworkSettings(
        http=HttpSettings(
            start_timeout_s=config.children.start_s,
            check_s=upstreams.check_s,
            era_s=upstreams.era_s,
        ),
        link=LinkSettings(
            connections=upstreams.connections,
            connect_s=upstreams.connect_s,
            proxy=upstreams.proxy,
        ),
        allow_networks=upstreams.allow_networks,
        tenant_secrets=tenant_secrets,
        bus=bus,
    )


async def _admission(service: Service, config: ToolRunnerConfig) -> Admission:
    admission = Admission(allow_unsigned=config.runner.allow_unsigned)

    async def learn_keys() -> None:
        ring = await KeyRing.open(service.bus)
        service.on_stop(ring.close)
        admission.use(ContextVerifier(ring, clock_ms=service.bus.server_now_ms))

    async def learn_keys_late() -> None:
        while True:
            try:
                await learn_keys()
            except MeshError:
                await asyncio.sleep(_KEYS_RETRY_S)
            else:
                return

    if config.runner.allow_unsigned:
        # Development: unsigned calls work before tenant-auth is there, or without it.
        service.tasks.spawn(learn_keys_late(), name="learn-keys")
    else:
        await learn_keys()
    return admission


_KEYS_RETRY_S = 1.0
_LOG_LINES = 20


def _stores(service: Service, config: ToolRunnerConfig) -> Stores:
    stores = open_stores(service.bus, config.storage, config.limits)
    service.tasks.spawn(stores.run(), name="storage", fatal=True)
    service.on_stop(stores.close)
    secrets = AwsSecrets(config.storage.aws)
    use_remote_secrets(secrets)
    service.on_stop(secrets.close)
    _bridge(service, stores, config)
    return stores


def _bridge(service: Service, stores: Stores, config: ToolRunnerConfig) -> None:
    """Events of a tenant to and from a Redis, where one is configured."""
    table = config.redis
    if not table.enabled:
        return
    problem = bridge_problem(table) or ("" if table.tenant else "tenant: missing")
    if problem:
        key, _, reason = problem.partition(": ")
        raise ConfigError("", f"redis.{key}", reason)
    # Only who has a bridge pays for the import of a client.
    from tool_runner.drivers.redis_bridge import RedisBridge  # noqa: PLC0415

    bridge = RedisBridge(
        service.bus,
        stores.events,
        table,
        password=lambda: secret(table.password, "redis") if table.password else "",
        count=lambda direction, outcome: service.metrics.add(
            "mesh_bridge_messages", direction, outcome
        ),
    )
    service.add_health_check("redis", lambda: bridge.status, required=False)

    async def begin() -> None:
        service.tasks.spawn(bridge.run(), name="redis-bridge", fatal=True)

    service.on_ready(begin)


def _toolsets(service: Service, stores: Stores, config: ToolRunnerConfig) -> tuple[Toolset, ...]:
    def with_artifacts() -> Toolset:
        updates = Updates(service.bus, "artifacts")
        service.tasks.spawn(updates.run(), name="artifact-updates", fatal=True)
        return artifacts.toolset(stores.artifacts, updates.tell)

    def with_events() -> Toolset:
        updates = Updates(service.bus, "events")
        watch = TopicWatch(service.bus, updates.tell)
        service.tasks.spawn(updates.run(), name="event-updates", fatal=True)
        service.tasks.spawn(watch.run(), name="topic-watch", fatal=True)
        service.on_stop(watch.close)
        return events.toolset(stores.events, watch)

    known = {
        "kv": lambda: kv.toolset(stores.values),
        "artifacts": with_artifacts,
        "events": with_events,
        "echo": echo.toolset,
    }
    unknown = [name for name in config.runner.toolsets if name not in known]
    if unknown:
        raise ConfigError(
            "", "runner.toolsets", f"unknown toolset {unknown[0]} (known: {', '.join(known)})"
        )
    return tuple(known[name]() for name in config.runner.toolsets)


def _subjects(tenant: str, server: str) -> tuple[str, str]:
    """Subjects on which a server takes calls: every tenant's for a shared one."""
    token = subjects.ANY if tenant == PLATFORM else tenant
    return subjects.call(token, server, subjects.ANY), subjects.rpc(token, server, subjects.REST)

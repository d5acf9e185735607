"""An agent as a service of the chassis: connection, registration, heartbeat, drain.

Built from the same parts as the mesh's own services, so an agent is found, counted, drained and
reconnected as they are: nothing here is special to agents but what they serve.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from mcp_proto import subjects
from mcp_proto.broker_rights import AGENT
from mcp_proto.codec import encode
from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.watching import Updated
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.config import load
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics
from mesh_chassis.presence import Presence
from mesh_chassis.registration import Registration
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks
from mesh_sdk.agent.admission import Admission
from mesh_sdk.agent.blocking import BlockedLoop
from mesh_sdk.agent.config import AgentConfig
from mesh_sdk.agent.doors import Doors
from mesh_sdk.agent.exchange import Exchanges
from mesh_sdk.agent.serving import Offered, Serving
from mesh_sdk.agent.threads import Threads
from mesh_sdk.agent.topics import Listener, Topics
from mesh_sdk.connect import Found, Seat, find, take_seat

__all__ = ["Described", "Live", "attach", "config_of", "live"]

FIRST_ANSWER_S = 1.0
"""How long an agent waits for the registry before it serves without its word."""
_PAUSE_S = 5.0
"""Longest wait for threads and events when the agent ends."""


class Described(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as it was written: what ``Agent`` collects."""

    name: str
    version: str
    description: str
    offered: Offered
    listeners: Sequence[Listener]
    on_start: Sequence[Callable[[], Awaitable[None]]]
    on_stop: Sequence[Callable[[], Awaitable[None]]]

    def catalog(self, tenant: str) -> Catalog:
        """Its catalogue entry, without the hash."""
        offered = self.offered
        listed = [one for one in offered.resources if one.template is None]
        templates = [one for one in offered.resources if one.template is not None]
        capabilities: dict[str, object] = {"logging": {}}
        if offered.tools:
            capabilities["tools"] = {"listChanged": True}
        if offered.resources:
            capabilities["resources"] = {"subscribe": True, "listChanged": True}
        if offered.prompts:
            capabilities["prompts"] = {"listChanged": True}
        if offered.completers:
            capabilities["completions"] = {}
        return Catalog(
            tenant=tenant,
            server=self.name,
            tools=tuple(one.listed() for one in offered.tools.values()),
            resources=tuple(one.listed() for one in listed),
            resource_templates=tuple(one.listed() for one in templates),
            prompts=tuple(one.listed() for one in offered.prompts.values()),
            capabilities=msgspec.Raw(encode(capabilities)),
            server_info=msgspec.Raw(encode({"name": self.name, "version": self.version})),
            instructions=self.description,
        )


class Live:
    """A running agent: what its author may ask of it. Made by ``attach``."""

    def __init__(
        self, service: Service, described: Described, tenant: str, *, replace: bool = False
    ) -> None:
        self._service = service
        self._described = described
        self.tenant = tenant
        self.registration = Registration(
            service.bus,
            service.set_servers,
            tenant=tenant,
            answered=self._answered,
            replace=replace,
        )
        self.doors: Doors
        self.threads: Threads
        self.topics: Topics
        self.serving: Serving

    async def _answered(self, _tenant: str, _server: str, refused: str) -> None:
        await (self.doors.shut() if refused else self.doors.open())

    @property
    def service(self) -> Service:
        """The chassis' service: health, metrics, bus."""
        return self._service

    async def publish(self, topic: str, value: object) -> None:
        """Send an event; see ``Topics.publish``."""
        await self.topics.publish(topic, value)

    async def updated(self, uri: str) -> None:
        """Tell whoever watches a resource that it changed.

        Raises:
            MeshError: ``bus`` unless connected.
        """
        subject = subjects.event(self.tenant, "updated", self._described.name)
        await self._service.bus.publish(subject, msgspec.json.encode(Updated(uri=uri)))

    async def registered(self, timeout_s: float = 10.0) -> None:
        """Wait until the registry knows what is served.

        Raises:
            MeshError: ``params`` with its reason when the registry refuses; ``deadline``.
        """
        pair = (self.tenant, self._described.name)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while pair not in self.registration.registered or pair in self.registration.refused:
            refused = self.registration.refused.get(pair)
            if refused is not None:
                raise MeshError(ErrorKind.PARAMS, f"the registry refuses the agent: {refused}")
            if loop.time() > until:
                raise MeshError(ErrorKind.DEADLINE, "the registry does not answer")
            await asyncio.sleep(_POLL_S)

    async def seen(self, timeout_s: float = 10.0) -> None:
        """Wait until the heartbeat of this process is written.

        Raises:
            TimeoutError: it could not be.
        """
        presence = self._service.presence
        if isinstance(presence, Presence):
            async with asyncio.timeout(timeout_s):
                await presence.written.wait()


_POLL_S = 0.02


def config_of(
    found: Found,
    seat: Seat,
    *,
    tenant: str,
    concurrency: int,
    threads: int,
    replace: bool = False,
    env: Mapping[str, str] | None = None,
) -> AgentConfig:
    """The configuration of an agent at the mesh that was found.

    Raises:
        ConfigError: the tenant is not known, or a variable of the environment does not fit.
    """
    variables = dict(os.environ if env is None else env)
    overrides: dict[str, object] = {
        "service.instance": seat.instance,
        "bus.urls": list(seat.bus.urls),
        "bus.nkey_seed_file": seat.bus.nkey_seed_file,
        "bus.creds_file": seat.bus.creds_file,
    }
    if seat.bus.tls_ca_file:
        overrides["bus.tls_ca_file"] = seat.bus.tls_ca_file
    written = {
        "tenant": tenant or found.tenant,
        "concurrency": concurrency,
        "threads": threads,
        "replace": replace,
        "allow_unsigned": found.development,
    }
    for key, value in written.items():
        # Whoever starts a program knows better than whoever wrote it.
        if value != "" and f"MESH_AGENT_{key.upper()}" not in variables:
            overrides[f"agent.{key}"] = value
    return load(AgentConfig, None, variables, overrides)


async def attach(service: Service, config: AgentConfig, described: Described) -> Live:
    """Add every part of an agent to ``service``.

    Raises:
        MeshError: the signing keys cannot be read.
    """
    bus, tenant, name = service.bus, config.agent.tenant, described.name
    service.health.agent = name
    made = Live(service, described, tenant, replace=config.agent.replace)
    exchanges = Exchanges(service.tasks, bus.instance, InstanceEndpoint.of(bus))
    threads = made.threads = Threads(config.agent.threads, f"agent-{name}")
    serving = made.serving = Serving(
        name,
        bus,
        described.offered,
        admission=await Admission.open(service, allow_unsigned=config.agent.allow_unsigned),
        exchanges=exchanges,
        threads=threads,
        metrics=service.metrics,
    )
    made.topics = Topics(bus, name, tenant, service.tasks, threads)
    made.doors = Doors(service, serving, tenant, config.agent.concurrency)
    service.add_endpoint(made.doors.answers())
    service.add_health_check("threads", lambda: not threads.exhausted, required=False)
    service.metrics.ask("mesh_runner_parked_calls", lambda: float(len(exchanges)))

    _live_through(service, made, described, exchanges)
    return made


def _live_through(service: Service, made: Live, described: Described, exchanges: Exchanges) -> None:
    """What happens at the start, at a reconnect, and at the end."""
    watchdog = BlockedLoop(made.serving.running)

    async def begin() -> None:
        made.registration.offer(described.catalog(made.tenant))
        service.tasks.spawn(made.registration.run(), name="registration", fatal=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_ANSWER_S):
                await made.registration.tried.wait()
        if not made.doors.known:
            # No registry: those who know the agent from before are served nevertheless.
            await made.doors.open()
        for listener in described.listeners:
            await made.topics.listen(listener)
        watchdog.start()

    async def again() -> None:
        made.registration.repeat()

    async def end() -> None:
        watchdog.stop()
        made.threads.close()

    async def leave() -> None:
        # With the last copy the agent goes from the lists; others keep it there.
        await made.registration.remove(made.tenant, described.name)

    for hook in described.on_start:
        service.on_start(hook)
    service.on_ready(begin)
    service.on_drain(leave)
    service.on_drain(made.topics.close)
    service.on_drain(exchanges.close)
    service.on_stop(end)
    for hook in described.on_stop:
        service.on_stop(hook)
    service.bus.on_reconnect(again)


@asynccontextmanager
async def live(
    described: Described,
    *,
    url: str = "",
    tenant: str = "",
    instance: str = "",
    concurrency: int = 256,
    threads: int = 32,
    replace: bool = False,
    drain_s: float = 5.0,
) -> AsyncGenerator[Live, None]:
    """Serve on the running loop; drained and stopped at the end of the block.

    Raises:
        ConfigError: no mesh, or no free broker user.
        MeshError: how the bus failed; ``params`` when the registry refuses the agent.
    """
    found = find(url)
    seat = take_seat(found, instance=instance)
    try:
        config = config_of(
            found,
            seat,
            tenant=tenant,
            concurrency=concurrency,
            threads=threads,
            replace=replace,
        )
        bus = await Bus.connect(config.bus, service=AGENT, instance=seat.instance)
        tasks = Tasks(seat.instance)
        service = Service(
            name=AGENT,
            version=described.version,
            instance=seat.instance,
            bus=bus,
            tasks=tasks,
            health=Health(described.name),
            metrics=Metrics(AGENT, described.version, seat.instance),
            presence=Presence(bus, tasks, version=described.version),
        )
        service.health.add("nats", lambda: bus.connected)
        try:
            made = await attach(service, config, described)
            await service.start()
            try:
                await made.registered()
                yield made
            finally:
                await service.drain(accept_s=0.0, drain_s=drain_s)
        finally:
            await service.stop()
    finally:
        if seat.lock >= 0:
            os.close(seat.lock)

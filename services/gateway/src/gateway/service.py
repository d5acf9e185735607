"""The gateway's table of contents: what it watches, what stands behind the edges, the edges."""

import asyncio
from functools import partial

import msgspec

from gateway import reload
from gateway.backend import LocalBackend
from gateway.bus import BusEdge
from gateway.config import GatewayConfig, SynadiaConfig, VerifierConfig, check_config
from gateway.edges.http import HttpEdge
from gateway.edges.synadia import SynadiaEdge
from gateway.edges.tcp import TcpEdge
from gateway.handlers import Dispatcher
from gateway.identity import Identities
from gateway.knowledge import Knowledge
from gateway.peers import Peers, abandon_parked
from gateway.sealing import InputStates
from gateway.subscriptions import Subscriptions
from gateway.task_events import TaskEvents
from gateway.tasks import GatewayTasks
from gateway.verifier import Verifier
from mesh_chassis.bus.connection import Bus
from mesh_chassis.health import Status
from mesh_chassis.secret_references import secret_of
from mesh_chassis.service import Service

__all__ = ["NAME", "Edges", "build", "build_edges"]

NAME = "gateway"
ANSWER_S = 2.0
"""Kept of the drain for answers to what did not end by itself."""


class Edges:
    """The listeners, opened and drained together."""

    def __init__(
        self,
        tcp: TcpEdge | None,
        http: HttpEdge | None,
        prompts: SynadiaEdge | None = None,
        *,
        drain_s: float = 20.0,
    ) -> None:
        self._drain_s = drain_s
        self._tcp = tcp
        self._http = http
        self._edges = [edge for edge in (tcp, http, prompts) if edge is not None]

    @property
    def tcp_port(self) -> int:
        """Port of the TCP edge; 0 when there is none."""
        return self._tcp.port if self._tcp is not None else 0

    @property
    def http_port(self) -> int:
        """Port of the HTTP edge; 0 when there is none."""
        return self._http.port if self._http is not None else 0

    @property
    def http(self) -> HttpEdge | None:
        """The HTTP edge, if there is one."""
        return self._http

    async def start(self) -> None:
        """Listen."""
        for edge in self._edges:
            await edge.start()

    async def drain(self) -> None:
        """Take no more, finish what runs."""
        await asyncio.gather(*(edge.drain(self._drain_s) for edge in self._edges))


async def build(service: Service, config: GatewayConfig) -> None:
    """As ``build_edges``; what ``runtime.run`` takes."""
    await build_edges(service, config)


async def build_edges(service: Service, config: GatewayConfig) -> Edges:
    """Load what the gateway knows and add every edge.

    Raises:
        ConfigError: the configuration is unsafe.
        MeshError: a bucket cannot be read.
    """
    check_config(config)
    bus = service.bus
    service.health.agent = config.server.name
    known = await Knowledge.open(service, config)
    events = TaskEvents(bus)
    service.on_stop(events.close)
    dispatcher = Dispatcher(
        bus=bus,
        catalogs=known.catalogs,
        states=_states(bus, known),
        tasks=GatewayTasks(bus, known.sealer, events),
        limits=config.limits,
        metrics=service.metrics,
        verifier=_verifier(service, config.verifier),
    )
    subscriptions = await _subscriptions(service, known)
    backend = LocalBackend(
        identities=known.identities,
        dispatcher=dispatcher,
        catalogs=known.catalogs,
        subscriptions=subscriptions,
    )
    over_bus = BusEdge(bus, backend, slots=config.limits.bus_slots)
    service.add_endpoint(over_bus.endpoint)
    peers = _peers(service)
    tcp = _tcp(service, config, backend)
    service.metrics.ask("mesh_sessions", lambda: float(len(known.sessions)), "http")
    edges = Edges(
        tcp,
        HttpEdge(
            config,
            backend=backend,
            sessions=known.sessions,
            peers=peers,
            health=service.health,
            metrics=service.metrics,
            draining=lambda: service.draining,
        )
        if config.http.port >= 0
        else None,
        _prompts(service, config.synadia, backend),
        # Below the bound of the whole drain, so that the rest is still answered within it.
        drain_s=max(0.5, config.service.drain_s - config.service.accept_s - ANSWER_S),
    )
    _tell_of_credentials(service, known.identities)
    service.on_ready(edges.start)
    service.on_drain(over_bus.end_streams)
    service.on_drain(edges.drain)
    service.add_health_check("nats", lambda: bus.connected)
    reload.add(service, config, known=known, dispatcher=dispatcher, edges=(tcp, edges.http))
    return edges


def _tcp(service: Service, config: GatewayConfig, backend: LocalBackend) -> TcpEdge | None:
    """The line edge, unless there is to be none."""
    if config.tcp.port < 0:
        return None
    tcp = TcpEdge(config.tcp, config.limits, backend)
    service.metrics.ask("mesh_sessions", lambda: float(tcp.connections), "tcp")
    return tcp


def _prompts(service: Service, config: SynadiaConfig, backend: LocalBackend) -> SynadiaEdge | None:
    """The edge for callers of the Synadia Agent Protocol, where a tool is exposed to them."""
    if not config.expose:
        return None
    exposed = tuple(
        msgspec.structs.replace(
            one, credential=secret_of(one.credential, f"synadia.expose[{index}].credential")
        )
        for index, one in enumerate(config.expose)
    )
    config = msgspec.structs.replace(config, expose=exposed)
    return SynadiaEdge(service.bus, backend, config, service.tasks, version=service.version)


def _verifier(service: Service, config: VerifierConfig) -> Verifier | None:
    """What every request to a server passes, where the operator has one."""
    if not config.url:
        return None
    # Only here: a gateway without verifier does not load an HTTP client.
    from gateway.verifier_http import HttpVerifier  # noqa: PLC0415

    over_http = HttpVerifier(config)
    service.on_stop(over_http.close)
    return Verifier(over_http.ask, config, metrics=service.metrics, tasks=service.tasks)


async def _subscriptions(service: Service, known: Knowledge) -> Subscriptions:
    """Resources that clients watch."""
    subscriptions = Subscriptions(service.bus, known.catalogs, service.tasks)
    await subscriptions.start()
    service.on_stop(subscriptions.stop)
    service.metrics.ask("mesh_watched_resources", lambda: float(len(subscriptions)))
    return subscriptions


def _states(bus: Bus, known: Knowledge) -> InputStates:
    """Seals the states of calls that wait for input."""
    abandon = partial(abandon_parked, bus)
    return InputStates(known.sealer, clock_ms=bus.server_now_ms, abandon=abandon)


def _peers(service: Service) -> Peers:
    """What other gateways send on, and what they cancel."""
    peers = Peers(service.bus)
    service.add_endpoint(peers.endpoint)
    service.on_start(peers.start)
    service.on_stop(peers.stop)
    service.metrics.ask("mesh_open_questions", lambda: float(len(peers.questions)))
    return peers


def _tell_of_credentials(service: Service, identities: Identities) -> None:
    """Not ready once every call would be refused, because no credential can be checked."""
    service.health.unready_while(
        "tenant-auth does not answer: credentials cannot be checked", lambda: identities.unanswered
    )
    service.health.unready_while(
        "mesh_config is out of reach: credentials cannot be checked", lambda: identities.stale
    )
    service.add_health_check(
        "tenant-auth",
        lambda: Status.UNHEALTHY if identities.unanswered else Status.HEALTHY,
        required=False,
    )

    async def probe() -> None:
        service.tasks.spawn(identities.probe(), name="probe-tenant-auth", fatal=True)

    service.on_ready(probe)

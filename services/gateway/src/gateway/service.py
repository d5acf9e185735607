"""The gateway's table of contents: what it watches, what stands behind the edges, the edges."""

import asyncio

from gateway.backend import LocalBackend
from gateway.bus import BusEdge
from gateway.config import GatewayConfig, check_config
from gateway.edges.http import HttpEdge
from gateway.edges.tcp import TcpEdge
from gateway.handlers import Dispatcher
from gateway.identity import Identities
from gateway.knowledge import Knowledge
from mesh_chassis.health import Status
from mesh_chassis.service import Service

__all__ = ["NAME", "Edges", "build", "build_edges"]

NAME = "gateway"
ANSWER_S = 2.0
"""Kept of the drain for answers to what did not end by itself."""


class Edges:
    """The listeners, opened and drained together."""

    def __init__(
        self, tcp: TcpEdge | None, http: HttpEdge | None, *, drain_s: float = 20.0
    ) -> None:
        self._drain_s = drain_s
        self._tcp = tcp
        self._http = http
        self._edges = [edge for edge in (tcp, http) if edge is not None]

    @property
    def tcp_port(self) -> int:
        """Port of the TCP edge; 0 when there is none."""
        return self._tcp.port if self._tcp is not None else 0

    @property
    def http_port(self) -> int:
        """Port of the HTTP edge; 0 when there is none."""
        return self._http.port if self._http is not None else 0

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
    dispatcher = Dispatcher(
        bus=bus, catalogs=known.catalogs, limits=config.limits, metrics=service.metrics
    )
    backend = LocalBackend(
        identities=known.identities, dispatcher=dispatcher, catalogs=known.catalogs
    )
    over_bus = BusEdge(bus, backend, slots=config.limits.bus_slots)
    service.add_endpoint(over_bus.endpoint)
    tcp = TcpEdge(config.tcp, config.limits, backend) if config.tcp.port >= 0 else None
    service.metrics.ask("mesh_sessions", lambda: float(len(known.sessions)), "http")
    if tcp is not None:
        service.metrics.ask("mesh_sessions", lambda: float(tcp.connections), "tcp")
    edges = Edges(
        tcp,
        HttpEdge(
            config,
            backend=backend,
            sessions=known.sessions,
            health=service.health,
            metrics=service.metrics,
            draining=lambda: service.draining,
        )
        if config.http.port >= 0
        else None,
        # Below the bound of the whole drain, so that the rest is still answered within it.
        drain_s=max(0.5, config.service.drain_s - config.service.accept_s - ANSWER_S),
    )
    _tell_of_credentials(service, known.identities)
    service.on_ready(edges.start)
    service.on_drain(over_bus.end_streams)
    service.on_drain(edges.drain)
    service.add_health_check("nats", lambda: bus.connected)
    return edges


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

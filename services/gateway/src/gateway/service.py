"""The gateway's table of contents: what it watches, what stands behind the edges, the edges."""

import asyncio
import importlib.metadata

from gateway.backend import LocalBackend
from gateway.bus import BusEdge
from gateway.config import GatewayConfig, check_config
from gateway.core.merge import ServerFacts
from gateway.edges.http import HttpEdge
from gateway.edges.tcp import TcpEdge
from gateway.handlers import Dispatcher
from gateway.identity import Identities
from gateway.sessions import Sessions
from gateway.store import Catalogs
from mcp_proto import buckets
from mcp_proto.contracts import tenant_auth
from mesh_chassis.bucket import KV
from mesh_chassis.callerctx import ContextSigner, load_kek
from mesh_chassis.keyring import KeyRing
from mesh_chassis.service import Service

__all__ = ["NAME", "Edges", "build", "build_edges"]

NAME = "gateway"
AUTH_TIMEOUT_S = 1.0
ANSWER_S = 2.0
START_S = 30.0
"""How long a start waits for the registry and tenant-auth to make their buckets."""


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
    facts = ServerFacts(
        name=config.server.name,
        version=config.server.version or importlib.metadata.version("mesh-gateway"),
        instructions=config.server.instructions,
        page_size=config.lists.page_size,
        ttl_ms=config.lists.ttl_ms,
    )
    sessions = Sessions(await KV.ensure(bus, buckets.SESSIONS), service.tasks)
    catalogs = Catalogs(facts)
    ring = await KeyRing.open(bus, timeout_s=START_S)
    signer = ContextSigner(ring, load_kek(config.keys.kek_file))

    async def authenticate(credential: str, tenant: str) -> tenant_auth.Identity:
        params = tenant_auth.Authenticate(credential=credential, tenant=tenant)
        return await bus.operation(tenant_auth.authenticate, params, timeout_s=AUTH_TIMEOUT_S)

    identities = Identities(
        authenticate=authenticate,
        sign=signer.sign,
        issuer=service.instance,
        tasks=service.tasks,
        open_to_demo=config.security.open_to_demo,
        age_s=lambda: config_watch.age_s,
    )
    config_bucket = await KV.open(bus, buckets.CONFIG, timeout_s=START_S)
    config_watch = await config_bucket.watch(on_entry=identities.feed, on_reset=identities.cut_all)
    catalog_bucket = await KV.open(bus, buckets.CATALOG, timeout_s=START_S)
    catalog_watch = await catalog_bucket.watch(on_entry=catalogs.feed, on_reset=catalogs.reset)
    session_bucket = await KV.open(bus, buckets.SESSIONS)
    session_watch = await session_bucket.watch(on_entry=sessions.feed, on_reset=sessions.reset)
    watches = (config_watch, catalog_watch, session_watch)
    for watch in watches:
        await watch.ready

    dispatcher = Dispatcher(
        bus=bus, catalogs=catalogs, limits=config.limits, metrics=service.metrics
    )
    backend = LocalBackend(identities=identities, dispatcher=dispatcher, catalogs=catalogs)
    service.add_endpoint(BusEdge(bus, backend, slots=config.limits.bus_slots).endpoint)
    edges = Edges(
        TcpEdge(config.tcp, config.limits, backend) if config.tcp.port >= 0 else None,
        HttpEdge(
            config,
            backend=backend,
            sessions=sessions,
            health=service.health,
            metrics=service.metrics,
            draining=lambda: service.draining,
        )
        if config.http.port >= 0
        else None,
        # Below the bound of the whole drain, so that the rest is still answered within it.
        drain_s=max(0.5, config.service.drain_s - config.service.accept_s - ANSWER_S),
    )
    service.on_ready(edges.start)
    service.on_drain(edges.drain)
    for watch, bucket in zip(
        watches, (buckets.CONFIG, buckets.CATALOG, buckets.SESSIONS), strict=True
    ):
        service.add_watch(watch, bucket=bucket.name)

    async def stop() -> None:
        catalogs.close()
        for watch in watches:
            await watch.stop()
        await ring.close()

    service.on_stop(stop)
    return edges

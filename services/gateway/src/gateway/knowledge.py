"""Everything a gateway holds in memory, and the watches that keep it true.

Opened before the edges: a gateway that does not know its tenants, servers and keys yet takes no
request. Closed after them.
"""

import importlib.metadata
from collections.abc import Sequence

from gateway.config import GatewayConfig
from gateway.core.merge import ServerFacts
from gateway.identity import Authenticator, Identities, SignedContext
from gateway.sessions import Sessions
from gateway.store import Catalogs
from mcp_proto import buckets
from mcp_proto.contracts import tenant_auth
from mesh_chassis.bucket import KV, START_S
from mesh_chassis.bus.connection import Bus
from mesh_chassis.callerctx import ContextSigner, load_kek
from mesh_chassis.keyring import KeyRing, SealRing
from mesh_chassis.sealing import Sealer
from mesh_chassis.service import Service
from mesh_chassis.watch import Watch

__all__ = ["Knowledge", "facts_of"]

AUTH_TIMEOUT_S = 1.0


class Knowledge:
    """Catalogues, identities, sessions and keys. Make it with ``open``."""

    def __init__(
        self,
        *,
        catalogs: Catalogs,
        identities: Identities,
        sessions: Sessions,
        sealer: Sealer,
        rings: Sequence[KeyRing | SealRing],
        watches: Sequence[Watch],
    ) -> None:
        self.catalogs = catalogs
        self.identities = identities
        self.sessions = sessions
        self.sealer = sealer
        self._rings = rings
        self._watches = watches

    @classmethod
    async def open(cls, service: Service, config: GatewayConfig) -> "Knowledge":
        """Load everything and keep it fresh.

        Raises:
            ConfigError: the key encryption key cannot be read.
            MeshError: a bucket does not appear, or cannot be read.
        """
        bus = service.bus
        sessions = Sessions(
            await KV.open(bus, buckets.SESSIONS, timeout_s=START_S),
            service.tasks,
            instance=service.instance,
            idle_s=config.limits.session_idle_s,
        )
        catalogs = Catalogs(facts_of(config))
        ring = await KeyRing.open(bus, timeout_s=START_S)
        kek = load_kek(config.keys.kek_file)
        signer = ContextSigner(ring, kek, clock_ms=bus.server_now_ms)
        seals = await SealRing.open(bus, timeout_s=START_S)
        identities = Identities(
            authenticate=_authenticator(bus),
            sign=signer.sign,
            issuer=service.instance,
            tasks=service.tasks,
            open_to_demo=config.security.open_to_demo,
            age_s=lambda: about_config.age_s,
        )
        stored = await KV.open(bus, buckets.CONFIG, timeout_s=START_S)
        about_config = await stored.watch(on_entry=identities.feed, on_reset=identities.cut_all)
        stored = await KV.open(bus, buckets.CATALOG, timeout_s=START_S)
        about_catalog = await stored.watch(on_entry=catalogs.feed, on_reset=catalogs.reset)
        stored = await KV.open(bus, buckets.VIRTUALS, timeout_s=START_S)
        about_virtuals = await stored.watch(on_entry=catalogs.feed_virtual)
        stored = await KV.open(bus, buckets.SESSIONS, timeout_s=START_S)
        about_sessions = await stored.watch(on_entry=sessions.feed, on_reset=sessions.reset)
        service.add_watch(about_config, bucket=buckets.CONFIG.name)
        service.add_watch(about_catalog, bucket=buckets.CATALOG.name)
        service.add_watch(about_sessions, bucket=buckets.SESSIONS.name)
        service.add_watch(about_virtuals, bucket=buckets.VIRTUALS.name)
        watches = (about_config, about_catalog, about_virtuals, about_sessions)
        opened = cls(
            catalogs=catalogs,
            identities=identities,
            sessions=sessions,
            sealer=Sealer(seals, kek, clock_ms=bus.server_now_ms),
            rings=(ring, seals),
            watches=watches,
        )
        service.on_stop(opened.close)
        for watch in watches:
            await watch.ready
        return opened

    async def close(self) -> None:
        """Stop watching."""
        self.catalogs.close()
        for watch in self._watches:
            await watch.stop()
        for ring in self._rings:
            await ring.close()


def facts_of(config: GatewayConfig) -> ServerFacts:
    """What the gateway says of itself."""
    return ServerFacts(
        name=config.server.name,
        version=config.server.version or importlib.metadata.version("mesh-gateway"),
        instructions=config.server.instructions,
        page_size=config.lists.page_size,
        ttl_ms=config.lists.ttl_ms,
        tools=config.lists.tools,
    )


def _authenticator(bus: Bus) -> Authenticator:
    async def authenticate(credential: str, tenant: str) -> tenant_auth.Identity:
        params = (
            tenant_auth.Authenticate(context=str(credential), tenant=tenant)
            if isinstance(credential, SignedContext)
            else tenant_auth.Authenticate(credential=credential, tenant=tenant)
        )
        return await bus.operation(tenant_auth.authenticate, params, timeout_s=AUTH_TIMEOUT_S)

    return authenticate

"""Agents of other places become servers here, and the mesh is announced there.

One registry of several does it, the one with the lease. What was found is kept in memory with the
moment it was last seen; ``core.found`` decides, the bucket of definitions carries it to runners.
A place that cannot be reached changes nothing until the time to live of what it told is over.
"""

import asyncio
import logging
from collections.abc import Callable

from mcp_proto import buckets
from mcp_proto.contracts.registry import LeftOut, ServerDefinition
from mcp_proto.discovery import STATIC, AgentsTable, DiscoveryTable, endpoint_url
from mcp_proto.errors import MeshError
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.health import Status
from mesh_chassis.lease import Lease
from mesh_chassis.retry import backoff_s
from mesh_chassis.tasks import Tasks
from registry.core.catalog import is_built_in
from registry.core.found import Agent, Sightings, plan
from registry.drivers.discovery import Discovery, Seen
from registry.drivers.static import StaticDiscovery
from registry.handlers import Handlers
from registry.store.catalog import CatalogStore
from registry.store.definitions import DefinitionStore
from registry.store.instances import InstanceStore

__all__ = ["DiscoveryRoom", "sources_of"]

LEASE_KEY = "registry.discovery"
LEASE_S = 20.0
_TICK_MAX_S = 5.0
_FIRST_S = 0.5
_BACKOFF_MAX_S = 30.0
_NAMES_MAX = 64
_NAME = "mesh"
"""Of a gateway whose name nobody chose."""

_log = logging.getLogger(__name__)


def sources_of(table: DiscoveryTable, agents: AgentsTable) -> tuple[Discovery, ...]:
    """Where agents are looked for, in the order in which they win; () = nowhere."""
    sources: list[Discovery] = []
    if agents.known:
        sources.append(StaticDiscovery(agents.known))
    # Only who asks them pays for the import of an HTTP client.
    if table.source == "etcd":
        from registry.drivers.etcd import EtcdDiscovery  # noqa: PLC0415

        sources.append(EtcdDiscovery(table))
    elif table.source == "consul":
        from registry.drivers.consul import ConsulDiscovery  # noqa: PLC0415

        sources.append(ConsulDiscovery(table))
    return tuple(sources)


class DiscoveryRoom:
    """See the module.

    Args:
        bus: connected.
        handlers: forgets catalogues; shows what was left out.
        definitions: where what was found is written.
        catalog: names that are taken.
        instances: the same.
        table: ``[discovery]``.
        sources: where to look.
    """

    def __init__(
        self,
        bus: Bus,
        handlers: Handlers,
        definitions: DefinitionStore,
        catalog: CatalogStore,
        instances: InstanceStore,
        table: DiscoveryTable,
        sources: tuple[Discovery, ...],
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self._bus = bus
        self._handlers = handlers
        self._definitions = definitions
        self._catalog = catalog
        self._instances = instances
        self._table = table
        self._sources = sources
        self._now: Callable[[], float] = clock.monotonic
        self._sightings = Sightings(table.registry_ttl_seconds)
        self._found: dict[str, Seen] = {}
        self._away: dict[str, str] = {}
        self._said: dict[tuple[str, str], str] = {}
        self._changed = asyncio.Event()
        self._lease: Lease | None = None
        self._running: asyncio.Task[None] | None = None
        self._url = endpoint_url(table.announce_url) if table.announce_url else ""

    @property
    def needed(self) -> bool:
        """Whether there is anything to do: servers that were found earlier have to go, too."""
        return bool(self._sources) or any(one.origin for one in self._definitions.all())

    @property
    def status(self) -> Status:
        """Degraded while a place cannot be reached."""
        return Status.DEGRADED if self._away else Status.HEALTHY

    async def run(self) -> None:
        """Look, decide and announce until cancelled."""
        kv = await KV.open(self._bus, buckets.LEASE)
        lease = self._lease = Lease(kv, LEASE_KEY, self._bus.instance, LEASE_S)
        async with asyncio.TaskGroup() as group:
            group.create_task(
                lease.run(on_acquired=lambda _fence: self._changed.set(), on_lost=self._lost),
                name="discovery-lease",
            )
            group.create_task(self._decide(), name="discovery-decide")
            for source in self._sources:
                group.create_task(self._follow(source), name=f"discovery-{source.origin}")
                if self._url and source.origin != STATIC:
                    group.create_task(self._announce(source), name="discovery-announce")

    def start(self, tasks: Tasks) -> None:
        """Run as one of the service's tasks."""
        self._running = tasks.spawn(self.run(), name="discovery", fatal=True)

    async def close(self) -> None:
        """Stop looking, say that we are gone, and end connections."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        for source in self._sources:
            try:
                await source.withdraw()
            except MeshError as error:
                _log.info("not withdrawn: %s", error.message)
            await source.close()

    def _lost(self) -> None:
        self._handlers.left_out = ()

    @property
    def _ours(self) -> bool:
        return self._lease is not None and self._lease.held

    async def _follow(self, source: Discovery) -> None:
        attempt = 0
        while True:
            try:
                async for seen in source.found():
                    attempt = 0
                    self._saw(source, seen)
            except MeshError as error:
                self._lost_sight(source, error)
            await asyncio.sleep(backoff_s(attempt, first_s=_FIRST_S, max_s=_BACKOFF_MAX_S))
            attempt += 1

    def _saw(self, source: Discovery, seen: Seen) -> None:
        if self._away.pop(source.origin, None) is not None:
            _log.info("%s answers again", source.origin)
            self._changed.set()
        self._sightings.see(source.origin, (one.name for one in seen.agents), self._now())
        if self._found.get(source.origin) != seen:
            self._found[source.origin] = seen
            self._changed.set()

    def _lost_sight(self, source: Discovery, error: MeshError) -> None:
        if self._away.get(source.origin) != error.message:
            self._away[source.origin] = error.message
            _log.warning(
                "%s; agents found there stay for %g s",
                error.message,
                self._table.registry_ttl_seconds,
            )

    async def _decide(self) -> None:
        tick_s = min(_TICK_MAX_S, self._table.registry_ttl_seconds / 4)
        while True:
            try:
                async with asyncio.timeout(tick_s):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                if self._ours and self._definitions.fresh and self._catalog.fresh:
                    await self._step()
            except MeshError as error:
                _log.warning("discovery: %s", error.message, extra={"internal": error.internal})

    async def _step(self) -> None:
        """Make the definitions what was found, safe to repeat."""
        defined = {
            one.name: one
            for one in self._definitions.all()
            if one.origin and one.tenant == PLATFORM
        }
        decided = plan(
            self._others(),
            defined,
            taken=self._taken(defined),
            gone=self._gone(defined),
            allow={source.origin: self._table.allow_networks for source in self._sources},
        )
        left_out = [*decided.left_out, *self._unreadable()]
        for name in decided.remove:
            if await self._definitions.remove_found(name):
                await self._handlers.forget((PLATFORM, name))
                _log.info("agent is gone", extra={"server": name, "origin": defined[name].origin})
        for definition in decided.write:
            refusal = await self._write(definition)
            if refusal is not None:
                left_out.append(refusal)
        self._tell(left_out)

    async def _write(self, definition: ServerDefinition) -> LeftOut | None:
        try:
            await self._definitions.put_found(definition)
        except MeshError as error:
            return LeftOut(name=definition.name, origin=definition.origin, reason=error.message)
        _log.info("agent found", extra={"server": definition.name, "origin": definition.origin})
        return None

    def _others(self) -> dict[str, list[Agent]]:
        """What was found, without ourselves."""
        return {
            source.origin: [
                one
                for one in self._found[source.origin].agents
                if not self._url or endpoint_url(one.url) != self._url
            ]
            for source in self._sources
            if source.origin in self._found
        }

    def _unreadable(self) -> list[LeftOut]:
        return [
            LeftOut(name=name[:_NAMES_MAX], origin=origin, reason=reason)
            for origin, seen in self._found.items()
            for name, reason in seen.unreadable
        ]

    def _taken(self, defined: dict[str, ServerDefinition]) -> dict[str, str]:
        """Names that belong to somebody else, whoever came first."""
        added = (one.name for one in self._definitions.all() if not one.origin)
        taken = dict.fromkeys(added, "a server of this name was added at run time")
        for _, name in self._instances.live.declared():
            taken[name] = "a runner's own file has a server of this name"
        for one in self._catalog.all():
            ours = one.tenant == PLATFORM and one.server in defined and not is_built_in(one)
            if not ours:
                taken.setdefault(one.server, "there is a server of this name already")
        return taken

    def _gone(self, defined: dict[str, ServerDefinition]) -> set[tuple[str, str]]:
        known = {(one.origin, one.name) for one in defined.values()}
        known |= {(origin, one.name) for origin, seen in self._found.items() for one in seen.agents}
        for source in self._sources:
            seen = self._found.get(source.origin)
            if source.lasting and seen is not None:
                there = {one.name for one in seen.agents}
                self._sightings.see(source.origin, there, self._now())
                missing = [n for origin, n in known if origin == source.origin and n not in there]
                self._sightings.forget(source.origin, missing)
        return self._sightings.gone(known, self._now())

    def _tell(self, left_out: list[LeftOut]) -> None:
        said = {(one.origin, one.name): one.reason for one in left_out}
        for (origin, name), reason in said.items():
            if self._said.get((origin, name)) != reason:
                extra = {"server": name, "origin": origin}
                _log.warning("agent left out: %s", reason, extra=extra)
        self._said = said
        self._handlers.left_out = tuple(left_out)

    async def _announce(self, source: Discovery) -> None:
        attempt, said = 0, ""
        while True:
            wait_s = self._table.heartbeat_interval_seconds
            try:
                if self._ours:
                    problem = await source.announce(self._ourselves())
                    attempt = 0
                    if problem and problem != said:
                        _log.warning("not announced: %s", problem)
                    said = problem or ""
                else:
                    wait_s = min(wait_s, _FIRST_S)
            except MeshError as error:
                if error.message != said:
                    _log.warning("not announced: %s", error.message)
                said = error.message
                wait_s = min(wait_s, backoff_s(attempt, first_s=_FIRST_S, max_s=wait_s))
                attempt += 1
            await asyncio.sleep(wait_s)

    def _ourselves(self) -> Agent:
        """The gateway, with the names of shared servers that are not themselves found."""
        names = sorted(
            name
            for tenant, name in self._catalog.pairs()
            if tenant == PLATFORM and self._is_own(name)
        )
        return Agent(
            name=self._table.announce_name or _NAME,
            url=self._url,
            capabilities=tuple(names[:_NAMES_MAX]),
        )

    def _is_own(self, name: str) -> bool:
        definition = self._definitions.get(PLATFORM, name)
        return definition is None or not definition.origin

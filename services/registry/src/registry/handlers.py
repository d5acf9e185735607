"""The operations of the registry, one short function each: load, decide, save, answer."""

import asyncio
import logging

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.registry import (
    Catalog,
    Empty,
    LeftOut,
    ListChanged,
    ListServers,
    Put,
    PutAnswer,
    Remove,
    RestartServer,
    ServerDefinition,
    ServerList,
    ServerPut,
    ServerRemove,
    ServerStatus,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.server_definitions import is_secret_reference
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import SYSTEM, Clock
from registry.core.catalog import (
    SERVERS_MAX,
    changed_lists,
    check_bare_names,
    check_definition,
    check_name,
    check_put,
    hidden_tools,
    is_built_in,
    rivals,
)
from registry.core.forgetting import LastServed
from registry.holders import Holders
from registry.store.catalog import CatalogStore
from registry.store.definitions import DefinitionStore
from registry.store.instances import InstanceStore

__all__ = ["MASKED", "Handlers"]

Pair = tuple[str, str]

MASKED = "***"
"""Stands for values of variables in lists: they are often tokens of upstream servers."""

_log = logging.getLogger(__name__)


class Handlers:
    """What the registry does on request.

    Args:
        bus: for events.
        catalog: stored catalogues.
        definitions: stored definitions.
        instances: the live view.
        clock: for when a server was last registered.

    Attributes:
        last_served: when each catalogue was last registered.
        left_out: agents that discovery could not use; it says them here.
    """

    def __init__(
        self,
        bus: Bus,
        catalog: CatalogStore,
        definitions: DefinitionStore,
        instances: InstanceStore,
        *,
        clock: Clock = SYSTEM,
    ) -> None:
        self.last_served = LastServed()
        self.left_out: tuple[LeftOut, ...] = ()
        self._bus = bus
        self._catalog = catalog
        self._definitions = definitions
        self._instances = instances
        self._clock = clock
        self._holders = Holders(instances, clock)
        # One writer at a time in this process: its own writes never race each other.
        self._writing = asyncio.Lock()

    async def put(self, params: Put, of_tenant: bool = False) -> PutAnswer:
        """Register a server: by hash when it is known, else with the catalogue.

        Args:
            params: what is served.
            of_tenant: a program of the tenant asks, which gets no name that others serve with
                another catalogue. Runners do: each may learn sooner what their server changed.

        Raises:
            MeshError: ``params`` (bad catalogue, name taken), ``too_large``, ``overloaded``.
        """
        check_put(params)
        pair = (params.tenant, params.server)
        known = await self._catalog.confirmed(*pair)
        if known is not None and known.catalog.hash == params.hash:
            self._note(pair)
            self._holders.note(pair, params.instance, params.hash)
            return PutAnswer(known=True, revision=known.revision)
        if of_tenant:
            await self._holders.refuse(params, known.catalog if known is not None else None)
        if params.catalog is None:
            return PutAnswer(known=False)
        async with self._writing:
            if of_tenant:
                # Somebody may have come in between the two.
                now = self._catalog.get(*pair)
                await self._holders.refuse(params, now.catalog if now is not None else None)
            revision = await self._write(params.catalog)
        self._note(pair)
        self._holders.note(pair, params.instance, params.hash)
        return PutAnswer(known=True, revision=revision)

    async def remove(self, params: Remove, of_tenant: bool = False) -> Empty:
        """Deregister an instance; the catalogue goes with the last one.

        Raises:
            MeshError: ``params``.
        """
        del of_tenant
        check_name(params.tenant, params.server)
        pair = (params.tenant, params.server)
        others = set(self._instances.live.serving(*pair)) - {params.instance}
        stays = bool(others) or pair in self._definitions.kept()
        if params.forget or not stays:
            await self.forget(pair)
        return Empty()

    async def list_servers(self, params: ListServers) -> ServerList:
        """Every server of a tenant, or of all; those that never started too."""
        definitions = {(one.tenant, one.name): one for one in self._definitions.all()}
        declared = self._instances.live.declared()
        pairs = sorted(self._catalog.pairs() | definitions.keys() | declared)
        return ServerList(
            servers=tuple(
                self._status(pair, definitions.get(pair))
                for pair in pairs
                if params.tenant in {"", pair[0]}
            ),
            left_out=self.left_out if params.tenant in {"", PLATFORM} else (),
        )

    async def server_put(self, params: ServerPut) -> Empty:
        """Add or replace a definition; runners see it and start the server.

        Raises:
            MeshError: ``params`` (bad definition, name taken), ``overloaded``.
        """
        definition = params.definition
        check_definition(definition)
        pair = (definition.tenant, definition.name)
        if MASKED in (*definition.env.values(), *definition.headers.values()):
            raise MeshError(
                ErrorKind.PARAMS,
                "a variable or header has the masked value of a list, not its own",
            )
        if definition.origin:
            raise MeshError(ErrorKind.PARAMS, "origin is said by discovery alone")
        known = self._catalog.get(*pair)
        if known is not None and self._definitions.get(*pair) is None:
            raise MeshError(
                ErrorKind.PARAMS, f"server {definition.name} exists already, not added at run time"
            )
        self._refuse_rivals(pair)
        await self._definitions.put(definition, replace=params.replace)
        _log.info("server defined", extra={"server": pair[1], "tenant_id": pair[0]})
        return Empty()

    async def server_remove(self, params: ServerRemove) -> Empty:
        """Remove a definition with its catalogue; runners see it and stop the server.

        Raises:
            MeshError: ``not_found``: no such definition; ``params``: discovery found it.
        """
        check_name(params.tenant, params.name)
        stored = self._definitions.get(params.tenant, params.name)
        if stored is not None and stored.origin:
            raise MeshError(
                ErrorKind.PARAMS,
                f"server {params.name} was found ({stored.origin}) and goes when it is gone there; "
                "to stop its use, put a disabled definition of your own in its place",
            )
        if not await self._definitions.remove(params.tenant, params.name):
            raise MeshError(ErrorKind.NOT_FOUND, f"no server {params.name} was added at run time")
        await self.forget((params.tenant, params.name))
        _log.info("server removed", extra={"server": params.name, "tenant_id": params.tenant})
        return Empty()

    async def server_restart(self, params: RestartServer) -> Empty:
        """Ask the runner that holds a server to restart its child.

        Raises:
            MeshError: ``not_found``; ``params`` for a built-in toolset, which has no child.
        """
        check_name(params.tenant, params.name)
        if await self._definitions.restart(params.tenant, params.name):
            return Empty()
        known = self._catalog.get(params.tenant, params.name)
        if known is None and (params.tenant, params.name) not in self._instances.live.declared():
            raise MeshError(ErrorKind.NOT_FOUND, f"no server {params.name}")
        if known is not None and is_built_in(known.catalog):
            raise MeshError(
                ErrorKind.PARAMS, f"server {params.name} is built in and has no child to restart"
            )
        await self._definitions.restart_configured(params.tenant, params.name)
        return Empty()

    async def forget(self, pair: Pair, *, revision: int | None = None) -> bool:
        """Remove a catalogue and tell; True when this call removed it.

        Args:
            pair: tenant and server.
            revision: only this revision; None = whatever is there.
        """
        async with self._writing:
            known = self._catalog.get(*pair)
            if not await self._catalog.remove(pair, revision=revision):
                return False
        await self._tell(pair, known.catalog if known is not None else None, None)
        return True

    async def _write(self, catalog: Catalog) -> int:
        """Write, then look: of two rivals written at once the later one takes itself back."""
        pair = (catalog.tenant, catalog.server)
        before = self._catalog.get(*pair)
        if before is None and len(self._catalog.pairs()) >= SERVERS_MAX:
            raise MeshError(ErrorKind.OVERLOADED, f"at most {SERVERS_MAX} servers are kept")
        self._refuse_rivals(pair)
        check_bare_names(catalog, self._catalog.all())
        written = await self._catalog.write(catalog)
        if not written.changed:
            return written.revision
        await self._catalog.seen(written.revision)
        earlier = (
            rival
            for rival in rivals(self._catalog.pairs(), *pair)
            if self._catalog.revision_of(rival) < written.revision
        )
        if (rival := next(earlier, None)) is not None:
            await self._catalog.remove(pair, revision=written.revision)
            raise _taken(pair, rival)
        await self._tell(pair, before.catalog if before is not None else None, catalog)
        return written.revision

    def _refuse_rivals(self, pair: Pair) -> None:
        defined = {(one.tenant, one.name) for one in self._definitions.all()}
        rival = next(iter(rivals(self._catalog.pairs() | defined, *pair)), None)
        if rival is not None:
            raise _taken(pair, rival)

    async def _tell(self, pair: Pair, old: Catalog | None, new: Catalog | None) -> None:
        event = ListChanged(
            tenant=pair[0],
            server=pair[1],
            hash=new.hash if new is not None else "",
            changed=changed_lists(old, new),
        )
        try:
            await self._bus.publish(
                subjects.event(pair[0], "list_changed", pair[1]), msgspec.json.encode(event)
            )
        except MeshError as error:
            # The catalogue is what gateways follow; the event is for people and other watchers.
            _log.warning("list_changed was not sent: %s", error.message)

    def _note(self, pair: Pair) -> None:
        self.last_served.note(pair, self._clock.monotonic())

    def _status(self, pair: Pair, definition: ServerDefinition | None) -> ServerStatus:
        known = self._catalog.get(*pair)
        catalog = known.catalog if known is not None else None
        instances = self._instances.live.serving(*pair)
        state = "running" if instances else "down"
        if definition is not None:
            definition = _masked(definition)
            state = state if definition.enabled else "disabled"
        return ServerStatus(
            tenant=pair[0],
            server=pair[1],
            state=state,
            instances=instances,
            tools=len(catalog.tools) if catalog is not None else 0,
            hash=catalog.hash if catalog is not None else "",
            defined=_origin(definition, catalog),
            definition=definition,
            hidden=hidden_tools(catalog, self._catalog.all()) if catalog is not None else (),
        )


def _origin(definition: ServerDefinition | None, catalog: Catalog | None) -> str:
    if definition is not None:
        return definition.origin or "runtime"
    return "config" if catalog is None or not is_built_in(catalog) else "native"


def _masked(definition: ServerDefinition) -> ServerDefinition:
    """As it may be shown: whatever could be a secret is hidden, the name of one is not."""
    return msgspec.structs.replace(
        definition,
        env=dict.fromkeys(definition.env, MASKED),
        headers={
            name: value if is_secret_reference(value) else MASKED
            for name, value in definition.headers.items()
        },
    )


def _taken(pair: Pair, rival: Pair) -> MeshError:
    holder = "a shared server" if rival[0] == PLATFORM else "a server of a tenant"
    return MeshError(ErrorKind.PARAMS, f"the name {pair[1]} is taken by {holder}")

"""Tells the registry what this process serves: hash first, the catalogue only when it is asked for.

Registration is repeated until it worked, after every reconnect, and now and then, because a
registry may have lost its memory while we kept ours. Nobody needs it for a call.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.catalogs import catalog_hash
from mcp_proto.contracts.registry import HELD_BY, Catalog, Put, Remove, put, remove
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus

__all__ = ["Registration"]

REPEAT_S = 60.0
"""Interval of unasked repeats; each is one small request when nothing changed."""
HELD_RETRY_S = 3.0
"""Interval at which a name is asked for that others hold: it is free as soon as they are gone."""
RETRY_MIN_S = 0.25
RETRY_MAX_S = 10.0
PUT_TIMEOUT_S = 5.0
REMOVE_TIMEOUT_S = 2.0

_log = logging.getLogger(__name__)
_TRANSIENT = frozenset(
    (
        ErrorKind.BUS,
        ErrorKind.NO_RUNNER,
        ErrorKind.DEADLINE,
        ErrorKind.OVERLOADED,
        ErrorKind.LOST,
        ErrorKind.INTERNAL,
    )
)


class Registration:
    """What this process has registered, kept true.

    Args:
        bus: connected.
        announce: called with ``{tenant}.{server}`` → hash whenever that changes.
        tenant: under whose token the registry is asked: ``_``, or that of an agent.
        answered: awaited with every answer: tenant, server, and why it is refused ("" = taken);
            asked for again later where it raises ``MeshError``.
        replace: take names over from agents that offer something else, at the first registration
            of each catalogue.
    """

    def __init__(
        self,
        bus: Bus,
        announce: Callable[[dict[str, str]], None],
        *,
        tenant: str = PLATFORM,
        answered: Callable[[str, str, str], Awaitable[None]] | None = None,
        replace: bool = False,
    ) -> None:
        self._bus = bus
        self._answered = answered
        self._put = put.of_tenant(tenant)
        self._remove = remove.of_tenant(tenant)
        self._announce = announce
        self._catalogs: dict[tuple[str, str], Catalog] = {}
        self._wanted = asyncio.Event()
        self._refused: dict[tuple[str, str], str] = {}
        self._held: set[tuple[str, str]] = set()
        self._replaces = replace
        self._replaced: set[str] = set()
        self.tried = asyncio.Event()
        """The registry was asked once, whatever came of it."""
        self.registered: dict[tuple[str, str], str] = {}
        """Hash the registry has confirmed, by tenant and server."""

    @property
    def refused(self) -> dict[tuple[str, str], str]:
        """Why the registry does not take a catalogue, by tenant and server."""
        return dict(self._refused)

    def offer(self, catalog: Catalog) -> None:
        """Serve this catalogue from now on; its hash is computed here."""
        hashed = msgspec.structs.replace(catalog, hash=catalog_hash(catalog))
        self._catalogs[catalog.tenant, catalog.server] = hashed
        self._changed()

    def promises(self, tenant: str, server: str, tool: str) -> bool:
        """Whether a tool that is offered here has an output schema."""
        catalog = self._catalogs.get((tenant, server))
        if catalog is None:
            return False
        return any(
            one.name == tool and b'"outputSchema"' in bytes(one.definition) for one in catalog.tools
        )

    async def remove(self, tenant: str, server: str) -> None:
        """It is no longer wanted anywhere; the registry is told, without insisting."""
        self.forget(tenant, server)
        params = Remove(tenant=tenant, server=server, instance=self._bus.instance)
        try:
            await self._bus.operation(self._remove.on(server), params, timeout_s=REMOVE_TIMEOUT_S)
        except MeshError as error:
            _log.info("not deregistered: %s", error.message, extra={"server": server})

    def forget(self, tenant: str, server: str) -> None:
        """No longer serve it, but leave the catalogue: another runner goes on with it."""
        pair = (tenant, server)
        if self._catalogs.pop(pair, None) is not None:
            self.registered.pop(pair, None)
            self._refused.pop(pair, None)
            self._held.discard(pair)
            self._changed()

    def repeat(self) -> None:
        """Register everything again, e.g. after a reconnect."""
        self.registered.clear()
        self._wanted.set()

    async def run(self) -> None:
        """Keep the registry informed until cancelled."""
        retry_s = RETRY_MIN_S
        while True:
            self._wanted.clear()
            complete = await self._register_all()
            self.tried.set()
            retry_s = RETRY_MIN_S if complete else min(RETRY_MAX_S, retry_s * 2)
            repeat_s = HELD_RETRY_S if self._held else REPEAT_S
            wait_s = (repeat_s if complete else retry_s) * random.uniform(0.8, 1.2)  # noqa: S311
            try:
                async with asyncio.timeout(wait_s):
                    await self._wanted.wait()
            except TimeoutError:
                if complete:
                    self._look_again()

    async def _register_all(self) -> bool:
        complete = True
        for pair, catalog in list(self._catalogs.items()):
            if self.registered.get(pair) != catalog.hash:
                complete = await self._register(pair, catalog) and complete
        return complete

    async def _register(self, pair: tuple[str, str], catalog: Catalog) -> bool:
        tenant, server = pair
        params = Put(
            tenant=tenant,
            server=server,
            instance=self._bus.instance,
            hash=catalog.hash,
            replace=self._replaces and catalog.hash not in self._replaced,
        )
        try:
            put_it = self._put.on(server)
            answer = await self._bus.operation(put_it, params, timeout_s=PUT_TIMEOUT_S)
            if not answer.known:
                full = msgspec.structs.replace(params, catalog=catalog)
                await self._bus.operation(put_it, full, timeout_s=PUT_TIMEOUT_S)
        except MeshError as error:
            if error.kind in _TRANSIENT:
                _log.info("not registered yet: %s", error.message, extra={"server": server})
                return False
            # Asking again at once would not help: the registry refuses this catalogue.
            self._note_refusal(pair, error)
        else:
            self._replaced.add(catalog.hash)
            self._note_taken(pair)
        if self._answered is not None:
            try:
                await self._answered(tenant, server, self._refused.get(pair, ""))
            except MeshError as error:
                _log.info("answered, but not followed: %s", error.message, extra={"server": server})
                return False
        self.registered[pair] = catalog.hash
        return True

    def _note_refusal(self, pair: tuple[str, str], error: MeshError) -> None:
        if self._refused.get(pair) != error.message:
            _log.error("the registry refused: %s", error.message, extra={"server": pair[1]})
        self._refused[pair] = error.message
        if HELD_BY in error.data:
            self._held.add(pair)
        else:
            self._held.discard(pair)
        self._say()

    def _note_taken(self, pair: tuple[str, str]) -> None:
        self._held.discard(pair)
        if self._refused.pop(pair, None) is not None:
            _log.info("the registry takes it now", extra={"server": pair[1]})
            self._say()

    def _look_again(self) -> None:
        """Nothing was wanted for a while: repeat all, or only what others held."""
        if self._held:
            for pair in self._held:
                self.registered.pop(pair, None)
        else:
            self.registered.clear()

    def _changed(self) -> None:
        self._say()
        self._wanted.set()

    def _say(self) -> None:
        """What is served: not what is refused, since nobody is sent here for that."""
        self._announce(
            {
                f"{tenant}.{server}": one.hash
                for (tenant, server), one in self._catalogs.items()
                if (tenant, server) not in self._refused
            }
        )

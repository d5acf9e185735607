"""Every server and virtual server, by tenant, and the table behind each endpoint.

The one place that knows that a tenant reaches shared servers and its own. Tables are made on
first use and kept until something they are made of changes.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec

from gateway.core.endpoints import exact, own_front
from gateway.core.merge import Front
from gateway.core.routing import Offer, Table
from gateway.core.virtual import choose, roles_that_matter, virtual_front
from mcp_proto.contracts.virtuals import VirtualServer
from mcp_proto.endpoints import AGGREGATE, of_server, of_virtual
from mcp_proto.subjects import PLATFORM

__all__ = ["TABLES_MAX", "Directory", "Shown"]

TABLES_MAX = 5_000
"""Tables kept; one that fell out is made again in milliseconds."""

_MERGED = Front()

T = TypeVar("T")

Key = tuple[str, str, tuple[str, ...]]
"""Tenant, endpoint, and the roles that decide what a virtual server shows."""


class Shown(msgspec.Struct, frozen=True):
    """What stands behind an endpoint: its table, and how it presents itself.

    ``server`` is the one server of a ``u/`` endpoint, else ""; ``vacant`` is True when nothing
    of what it names exists now, whoever asks.
    """

    table: Table
    front: Front = _MERGED
    server: str = ""
    vacant: bool = False


class _Virtual(msgspec.Struct, frozen=True):
    definition: VirtualServer
    servers: frozenset[str]


class Directory:
    """Offers of servers and definitions of virtual servers.

    Args:
        on_hidden: called with tenant, endpoint and count when a table leaves out entries whose
            names are taken.
    """

    def __init__(self, on_hidden: Callable[[str, str, int], None]) -> None:
        self._on_hidden = on_hidden
        self._offers: dict[str, dict[str, Offer]] = {}
        self._exact: dict[tuple[str, str], Offer] = {}
        self._virtuals: dict[str, dict[str, _Virtual]] = {}
        self._shown: dict[Key, Shown] = {}

    # Changes --------------------------------------------------------------------------------

    def set_offer(self, tenant: str, server: str, offer: Offer | None) -> bool:
        """Put or remove (None) a server; False when there was none to remove."""
        servers = self._offers.setdefault(tenant, {})
        self._exact.pop((tenant, server), None)
        if offer is not None:
            servers[server] = offer
        elif servers.pop(server, None) is None:
            return False
        self._forget(lambda key: tenant in {PLATFORM, key[0]} and self.uses(*key[:2], server))
        return True

    def set_virtual(self, tenant: str, name: str, definition: VirtualServer | None) -> bool:
        """Put or remove (None) a virtual server; False when nothing changed."""
        known = self._virtuals.setdefault(tenant, {})
        before = known.get(name)
        if (before.definition if before is not None else None) == definition:
            return False
        if definition is not None:
            items = (*definition.tools, *definition.prompts, *definition.resources)
            known[name] = _Virtual(definition, frozenset(item.server for item in items))
        else:
            del known[name]
        endpoint = of_virtual(name)
        self._forget(lambda key: key[1] == endpoint and tenant in {PLATFORM, key[0]})
        return True

    def _forget(self, concerns: Callable[[Key], bool]) -> None:
        for key in [key for key in self._shown if concerns(key)]:
            del self._shown[key]

    # Questions ------------------------------------------------------------------------------

    def uses(self, tenant: str, endpoint: str, server: str) -> bool:
        """Whether what an endpoint shows to a tenant depends on a server of this name."""
        kind, _, name = endpoint.partition("/")
        if not kind:
            return True
        if endpoint == of_server(name):
            return name == server
        virtual = _find(self._virtuals, tenant, name)
        return virtual is None or server in virtual.servers

    def offer_of(self, tenant: str, server: str) -> Offer | None:
        """The server of this name that a tenant can reach: a shared one, or its own."""
        return _find(self._offers, tenant, server)

    def shown(self, tenant: str, endpoint: str, roles: tuple[str, ...] = ()) -> Shown | None:
        """What stands behind an endpoint for a tenant; None = no such endpoint.

        Args:
            tenant: of the caller.
            endpoint: see ``mcp_proto.endpoints``.
            roles: of the caller; they choose among the items of a virtual server, and give nothing.
        """
        definition = None
        if endpoint.startswith(of_virtual("")):
            virtual = _find(self._virtuals, tenant, endpoint.partition("/")[2])
            if virtual is None:
                return None
            definition = virtual.definition
            roles = roles_that_matter(definition, roles)
        key = (tenant, endpoint, roles if definition is not None else ())
        known = self._shown.get(key)
        if known is None:
            known = self._made(tenant, endpoint, roles, definition)
            if known is None:
                return None
            if known.table.hidden:
                self._on_hidden(tenant, endpoint, known.table.hidden)
            if len(self._shown) >= TABLES_MAX:
                self._shown.clear()
            self._shown[key] = known
        return known

    def _made(
        self, tenant: str, endpoint: str, roles: tuple[str, ...], definition: VirtualServer | None
    ) -> Shown | None:
        if definition is not None:
            choice = choose(definition, lambda name: self.offer_of(tenant, name), roles)
            table = Table(tenant, choice.offers, aliases=False, barred=choice.barred)
            table.hidden += choice.hidden
            return Shown(table, virtual_front(definition), vacant=choice.vacant)
        if endpoint == AGGREGATE:
            shared = self._offers.get(PLATFORM, {})
            own = self._offers.get(tenant, {}) if tenant != PLATFORM else {}
            return Shown(Table(tenant, {**own, **shared}.values()))
        if endpoint.startswith(of_server("")):
            return self._made_exact(tenant, endpoint.partition("/")[2])
        return None

    def _made_exact(self, tenant: str, server: str) -> Shown | None:
        found = self.offer_of(tenant, server)
        if found is None:
            return None
        # Made once for all tenants that see it.
        own = self._exact.get((found.tenant, server))
        if own is None:
            own = self._exact[found.tenant, server] = exact(found)
        table = Table(tenant, (own,))
        return Shown(table, own_front(own), server, vacant=table.vacant)


def _find(known: dict[str, dict[str, T]], tenant: str, name: str) -> T | None:
    return known.get(PLATFORM, {}).get(name) or known.get(tenant, {}).get(name)

"""What this gateway knows of the mesh: every catalogue, in memory, kept fresh by a watch.

Calls and lists read it without waiting. A change of a catalogue replaces the tables of the tenants
it concerns; views and lists are made again on first use. Whoever asked to hear of changed lists
(``listen``) is told after the change is in force here, so a client that asks at once gets the new
list, and only if its own view changed.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from gateway.core.access import View
from gateway.core.merge import ListKind, Lists, ServerFacts
from gateway.core.routing import Offer, Table, offer
from mcp_proto.catalogs import Assembler
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.subjects import PLATFORM

__all__ = ["LISTENERS_MAX", "Catalogs", "Changed", "Listener", "Viewer"]

VIEWS_MAX = 5_000
"""Views kept, one per tenant and grant; one that fell out is made again in milliseconds."""

LISTENERS_MAX = 10_000
"""Streams and connections that hear of changed lists, per process."""

COALESCE_S = 0.05
"""Changes that follow one another this closely are told once: a start brings many at a time."""

Changed = Callable[[frozenset[ListKind]], None]

_log = logging.getLogger(__name__)


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """Whose view: the tenant, the grant, and the grant's digest."""

    tenant: str
    grant: Grant
    digest: str


class Listener:
    """One that wants to hear of changed lists; ``close`` ends it."""

    def __init__(
        self, catalogs: "Catalogs", viewer: Callable[[], Viewer], changed: Changed
    ) -> None:
        self._catalogs = catalogs
        self._viewer = viewer
        self._changed = changed
        self._digests = self._look()

    def _look(self) -> dict[ListKind, bytes]:
        lists = self._catalogs.lists(self._viewer())
        return {kind: lists.listing(kind).digest for kind in ListKind}

    def check(self) -> None:
        """Compare the view with what it was, and tell if it differs."""
        now = self._look()
        differing = frozenset(kind for kind in ListKind if now[kind] != self._digests[kind])
        self._digests = now
        if differing:
            self._changed(differing)

    def close(self) -> None:
        """Hear no more."""
        self._catalogs.forget(self)


class Catalogs:
    """All catalogues of the mesh, by tenant and server."""

    def __init__(self, facts: ServerFacts) -> None:
        self.facts = facts
        self._assembler = Assembler()
        self._offers: dict[str, dict[str, Offer]] = {}
        self._tables: dict[str, Table] = {}
        self._views: OrderedDict[tuple[str, str], Lists] = OrderedDict()
        self._listeners: dict[Listener, None] = {}
        self._pending: asyncio.TimerHandle | None = None

    # What the watch calls -------------------------------------------------------------------

    def feed(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take one entry of ``mesh_catalog`` (None = gone)."""
        change = self._assembler.feed(key, value)
        if change is None:
            return
        servers = self._offers.setdefault(change.tenant, {})
        if change.catalog is None:
            if servers.pop(change.server, None) is None:
                return
        else:
            made = servers[change.server] = offer(change.catalog)
            if made.unreadable:
                _log.warning(
                    "left out entries of a catalogue that cannot be read",
                    extra={"server": change.server, "entries": made.unreadable},
                )
        self._invalidate(change.tenant)

    def reset(self) -> None:
        """The watch starts over; what is known stays in force until the snapshot says otherwise."""
        self._assembler.reset()

    def _invalidate(self, tenant: str) -> None:
        if tenant == PLATFORM:
            self._tables.clear()
            self._views.clear()
        else:
            self._tables.pop(tenant, None)
            for key in [key for key in self._views if key[0] == tenant]:
                del self._views[key]
        self.nudge()

    # What requests read ---------------------------------------------------------------------

    def table(self, tenant: str) -> Table:
        """What a tenant can reach: shared servers and its own."""
        table = self._tables.get(tenant)
        if table is None:
            shared = self._offers.get(PLATFORM, {})
            own = self._offers.get(tenant, {}) if tenant != PLATFORM else {}
            table = Table(tenant, {**own, **shared}.values())
            if table.hidden:
                _log.warning(
                    "left out entries whose names are taken",
                    extra={"tenant": tenant, "entries": table.hidden},
                )
            if len(self._tables) >= VIEWS_MAX:
                self._tables.clear()
            self._tables[tenant] = table
        return table

    def lists(self, viewer: Viewer) -> Lists:
        """The lists of one viewer."""
        key = (viewer.tenant, viewer.digest)
        lists = self._views.get(key)
        if lists is not None:
            return lists
        binding = f"{viewer.tenant}\0{viewer.digest}"
        view = View(self.table(viewer.tenant), viewer.grant, binding=binding)
        lists = self._views[key] = Lists(view, self.facts)
        if len(self._views) > VIEWS_MAX:
            self._views.popitem(last=False)
        return lists

    # Who hears of changes -------------------------------------------------------------------

    def listen(self, viewer: Callable[[], Viewer], changed: Changed) -> Listener | None:
        """Tell ``changed`` whenever the lists of ``viewer()`` differ from before.

        Returns:
            The listener to close, or None when there are ``LISTENERS_MAX`` already.
        """
        if len(self._listeners) >= LISTENERS_MAX:
            return None
        listener = Listener(self, viewer, changed)
        self._listeners[listener] = None
        return listener

    def forget(self, listener: Listener) -> None:
        """End a listener."""
        self._listeners.pop(listener, None)

    def nudge(self) -> None:
        """Look soon whether somebody's lists have changed."""
        if self._pending is None and self._listeners:
            loop = asyncio.get_running_loop()
            self._pending = loop.call_later(COALESCE_S, self._tell)

    def _tell(self) -> None:
        self._pending = None
        for listener in tuple(self._listeners):
            try:
                listener.check()
            except Exception:  # noqa: BLE001 - one listener must not end the others
                _log.exception("a listener failed and is dropped")
                self.forget(listener)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self._listeners.clear()

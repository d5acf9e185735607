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
from gateway.core.directory import Directory
from gateway.core.endpoints import is_visible, no_endpoint
from gateway.core.merge import ListKind, Lists, ServerFacts
from gateway.core.routing import Offer, Table, offer
from mcp_proto.catalogs import Assembler
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.contracts.virtuals import VirtualRecord
from mcp_proto.endpoints import AGGREGATE, of_virtual
from mcp_proto.errors import MeshError
from mcp_proto.subjects import PLATFORM, decode_token

__all__ = ["LISTENERS_MAX", "Catalogs", "Changed", "Listener", "Viewer"]

VIEWS_MAX = 5_000
"""Views kept, one per tenant and grant; one that fell out is made again in milliseconds."""

LISTENERS_MAX = 10_000
"""Streams and connections that hear of changed lists, per process."""

COALESCE_S = 0.05
"""Changes that follow one another this closely are told once: a start brings many at a time."""

Changed = Callable[[frozenset[ListKind]], None]

_log = logging.getLogger(__name__)

_RECORD = msgspec.json.Decoder(VirtualRecord)


class Viewer(msgspec.Struct, frozen=True, kw_only=True):
    """Whose view: the tenant, the grant, the roles, and the digest of both."""

    tenant: str
    grant: Grant
    digest: str
    roles: tuple[str, ...] = ()


class Listener:
    """One that wants to hear of changed lists; ``close`` ends it."""

    def __init__(
        self,
        catalogs: "Catalogs",
        viewer: Callable[[], Viewer],
        changed: Changed,
        endpoint: str = AGGREGATE,
    ) -> None:
        self._catalogs = catalogs
        self._viewer = viewer
        self._changed = changed
        self._endpoint = endpoint
        self._digests = self._look()

    def _look(self) -> dict[ListKind, bytes]:
        try:
            lists = self._catalogs.lists(self._viewer(), self._endpoint)
        except MeshError:
            # The endpoint is gone, or not for this caller any more: it shows nothing.
            return dict.fromkeys(ListKind, b"")
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
        self._directory = Directory(_say_hidden)
        self._views: OrderedDict[tuple[str, str, str], Lists | None] = OrderedDict()
        self._listeners: dict[Listener, None] = {}
        self._pending: asyncio.TimerHandle | None = None
        self.on_change: list[Callable[[str], None]] = []
        """Called with the tenant whose tables changed (``_`` = all); must not block."""

    def change_facts(self, facts: ServerFacts) -> None:
        """Say something else of the gateway from now on."""
        self.facts = facts
        self._views.clear()

    # What the watch calls -------------------------------------------------------------------

    def feed(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take one entry of ``mesh_catalog`` (None = gone)."""
        change = self._assembler.feed(key, value)
        if change is None:
            return
        made = offer(change.catalog) if change.catalog is not None else None
        if made is not None and made.unreadable:
            _log.warning(
                "left out entries of a catalogue that cannot be read",
                extra={"server": change.server, "entries": made.unreadable},
            )
        if self._directory.set_offer(change.tenant, change.server, made):
            self._invalidate(change.tenant, server=change.server)

    def feed_virtual(self, key: str, value: bytes | None, _revision: int) -> None:
        """Take one entry of ``mesh_virtuals`` (None = gone); one that cannot be read is gone."""
        pair = pair_of(key)
        if pair is None:
            return
        definition = None
        if value is not None:
            try:
                definition = _RECORD.decode(value).definition
            except (msgspec.DecodeError, UnicodeDecodeError):
                _log.error("a virtual server cannot be read", extra={"key": key})
        if self._directory.set_virtual(*pair, definition):
            self._invalidate(pair[0], endpoint=of_virtual(pair[1]))

    def reset(self) -> None:
        """The watch starts over; what is known stays in force until the snapshot says otherwise."""
        self._assembler.reset()

    def _invalidate(self, tenant: str, *, endpoint: str = "", server: str = "") -> None:
        """Forget views of a tenant (``_`` = all): of an endpoint, or of all that use a server."""
        for key in [
            key
            for key in self._views
            if tenant in {PLATFORM, key[0]}
            and (key[2] == endpoint if endpoint else self._directory.uses(key[0], key[2], server))
        ]:
            del self._views[key]
        for call in self.on_change:
            call(tenant)
        self.nudge()

    # What requests read ---------------------------------------------------------------------

    def table(self, tenant: str) -> Table:
        """What a tenant can reach: shared servers and its own."""
        shown = self._directory.shown(tenant, AGGREGATE)
        assert shown is not None
        return shown.table

    def lists(self, viewer: Viewer, endpoint: str = AGGREGATE) -> Lists:
        """The lists of one viewer at one endpoint.

        Raises:
            MeshError: ``not_found``: no such endpoint, or nothing of it is for this viewer.
        """
        lists = self._views.get((viewer.tenant, viewer.digest, endpoint))
        return lists if lists is not None else self._made(viewer, endpoint)

    def _made(self, viewer: Viewer, endpoint: str) -> Lists:
        key = (viewer.tenant, viewer.digest, endpoint)
        if key in self._views:
            raise no_endpoint()
        shown = self._directory.shown(viewer.tenant, endpoint, viewer.roles)
        if shown is None:
            raise no_endpoint()
        binding = "\0".join(key if endpoint else key[:2])
        lists = Lists(View(shown.table, viewer.grant, binding=binding), self.facts, shown.front)
        there = not endpoint or is_visible(lists, shown.server, vacant=shown.vacant)
        # None: asking again for what shows this viewer nothing must not build its view again.
        self._views[key] = lists if there else None
        if len(self._views) > VIEWS_MAX:
            self._views.popitem(last=False)
        if not there:
            raise no_endpoint()
        return lists

    def offer_of(self, tenant: str, server: str) -> Offer | None:
        """The server of this name that a tenant can reach: a shared one, or its own."""
        return self._directory.offer_of(tenant, server)

    # Who hears of changes -------------------------------------------------------------------

    def listen(
        self, viewer: Callable[[], Viewer], changed: Changed, endpoint: str = AGGREGATE
    ) -> Listener | None:
        """Tell ``changed`` whenever the lists of ``viewer()`` at ``endpoint`` differ from before.

        Returns:
            The listener to close, or None when there are ``LISTENERS_MAX`` already.
        """
        if len(self._listeners) >= LISTENERS_MAX:
            return None
        listener = Listener(self, viewer, changed, endpoint)
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


def pair_of(key: str) -> tuple[str, str] | None:
    """Tenant and name in a key of ``mesh_virtuals``; None for one that no registry wrote."""
    tokens = key.split(".")
    if len(tokens) != 2:
        return None
    try:
        tenant = PLATFORM if tokens[0] == PLATFORM else decode_token(tokens[0])
        return tenant, decode_token(tokens[1])
    except ValueError:
        return None


def _say_hidden(tenant: str, endpoint: str, entries: int) -> None:
    _log.warning(
        "left out entries whose names are taken",
        extra={"tenant": tenant, "endpoint": endpoint or "all", "entries": entries},
    )

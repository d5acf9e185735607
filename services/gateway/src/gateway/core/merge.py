"""What a merged list says: entries of every visible server as one, sorted, in pages.

Pages are bytes made once per view, so a list costs a dictionary lookup. A cursor names the entry
it continues behind and is bound by a digest to tenant, grant and kind of list: another caller's
cursor fails, a change between two pages neither repeats nor skips an entry that stayed, and any
gateway can continue what another began. It needs no secret: forging one only moves the forger
about in a list that is theirs.
"""

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from gateway.core.abilities import extensions_of
from gateway.core.access import View
from gateway.core.answers import UPSTREAM_INFO
from gateway.core.caching import DISCOVER, merged_ttl_ms
from gateway.core.routing import Offer
from gateway.core.search_tools import ToolsMode, hint, tool_entries
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import CURSOR_CHARS_MAX
from mcp_proto.types.meta import SERVER_INFO, TASKS_EXTENSION
from mcp_proto.versions import MODERN

__all__ = ["INSTRUCTIONS_CHARS_MAX", "Front", "ListKind", "Listing", "Lists", "ServerFacts"]

INSTRUCTIONS_CHARS_MAX = 8_192
"""Merged instructions: clients put them into a model's context, so they are bounded."""

_DIGEST_BYTES = 12


class ListKind(StrEnum):
    """The four lists, by the member of the result that holds them."""

    TOOLS = "tools"
    PROMPTS = "prompts"
    RESOURCES = "resources"
    TEMPLATES = "resourceTemplates"


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What this gateway says about itself and its lists.

    Attributes:
        name: ``serverInfo.name``.
        version: ``serverInfo.version``.
        instructions: text before the instructions of the servers.
        page_size: entries per page.
        ttl_ms: how long a client may keep a list without asking; 0 = not at all.
        tools: what the list of tools holds, where an endpoint does not say otherwise.
    """

    name: str
    version: str
    instructions: str = ""
    page_size: int = 500
    ttl_ms: int = 0
    tools: ToolsMode = ToolsMode.FULL

    def info(self) -> dict[str, str]:
        """The ``Implementation`` object."""
        return {"name": self.name, "version": self.version}


class Front(msgspec.Struct, frozen=True, kw_only=True):
    """How an endpoint presents itself where it is not the sum of all servers.

    Attributes:
        exact: claim the lists only of what its servers have.
        instructions: its own text; None = that of the gateway and every visible server.
        upstream: the ``Implementation`` object of the one server behind it; b"{}" = none.
        about: members added to ``serverInfo`` (``title``, ``description``).
        tools: what its list of tools holds; None = as the gateway's configuration says.
    """

    exact: bool = False
    instructions: str | None = None
    upstream: bytes = b"{}"
    about: dict[str, str] = {}
    tools: ToolsMode | None = None


_MERGED = Front()


class Listing:
    """One list of one view: sorted entries, served in pages."""

    def __init__(
        self,
        kind: ListKind,
        entries: Sequence[tuple[str, bytes]],
        *,
        binding: str,
        size: int,
        tail: bytes,
    ) -> None:
        ordered = sorted(entries, key=lambda entry: entry[0])
        self._kind = kind
        self._keys = [key for key, _ in ordered]
        self._entries = [entry for _, entry in ordered]
        self._binding = binding
        self._size = size
        self._tail = tail
        self._pages: dict[int, bytes] = {}
        self.digest = hashlib.sha256(b"\0".join(self._entries)).digest()
        """Changes exactly when what the view sees changes."""

    def page(self, cursor: str | None) -> bytes:
        """The result object of one page.

        Args:
            cursor: None for the first page; "" is a cursor, and none of ours.

        Raises:
            MeshError: ``params`` for a cursor that this list did not give.
        """
        start = 0 if cursor is None else self._start(cursor)
        page = self._pages.get(start)
        if page is None:
            page = self._make(start)
            if start % self._size == 0:
                # The usual pages only: made-up cursors may begin anywhere, and each page is large.
                self._pages[start] = page
        return page

    def _make(self, start: int) -> bytes:
        end = start + self._size
        entries = b",".join(self._entries[start:end])
        more = b""
        if end < len(self._keys):
            more = b',"nextCursor":' + msgspec.json.encode(self._cursor(self._keys[end - 1]))
        head = COMPLETE_HEAD + b'"%s":[' % self._kind.value.encode()
        return b"".join((head, entries, b"]", more, self._tail))

    def _cursor(self, after: str) -> str:
        name = after.encode()
        return base64.urlsafe_b64encode(self._seal(name) + name).decode()

    def _seal(self, name: bytes) -> bytes:
        bound = f"{self._kind.value}\0{self._binding}\0".encode()
        return hashlib.sha256(bound + name).digest()[:_DIGEST_BYTES]

    def _start(self, cursor: str) -> int:
        bad = MeshError(ErrorKind.PARAMS, "bad cursor")
        if not cursor or len(cursor) > CURSOR_CHARS_MAX:
            raise bad
        try:
            raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise bad from None
        seal, name = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if seal != self._seal(name):
            raise bad
        try:
            return bisect_right(self._keys, name.decode())
        except UnicodeDecodeError:
            raise bad from None


class Lists:
    """All lists of one view, and what a handshake says about it; made on first use."""

    def __init__(self, view: View, facts: ServerFacts, front: Front = _MERGED) -> None:
        self.view = view
        self._facts = facts
        self._front = front
        self.tools_mode = front.tools or facts.tools
        self.searchable = self.tools_mode is not ToolsMode.FULL
        """Whether the search tools are served here."""
        self._listings: dict[ListKind, Listing] = {}
        self._discover: bytes | None = None

    def listing(self, kind: ListKind) -> Listing:
        """The list of one kind."""
        known = self._listings.get(kind)
        if known is None:
            known = self._listings[kind] = Listing(
                kind,
                self._entries(kind),
                binding=self.view.binding,
                size=self._facts.page_size,
                tail=self._tail(kind.value),
            )
        return known

    def _entries(self, kind: ListKind) -> list[tuple[str, bytes]]:
        view = self.view
        match kind:
            case ListKind.TOOLS:
                return tool_entries(self.tools_mode, view.tools)
            case ListKind.PROMPTS:
                return [(one.listed, one.entry) for one in view.prompts()]
            case ListKind.RESOURCES:
                return [(one.listed, one.entry) for one in view.resources()]
            case ListKind.TEMPLATES:
                return [(one.listed, one.entry) for one in view.templates()]

    def _tail(self, what: str) -> bytes:
        known: dict[str, object] = {SERVER_INFO: self._facts.info() | self._front.about}
        if self._front.upstream != b"{}":
            known[UPSTREAM_INFO] = msgspec.Raw(self._front.upstream)
        meta = msgspec.json.encode(known)
        ttl_ms = merged_ttl_ms(self._shown(), what, self._facts.ttl_ms)
        return b',"ttlMs":%d,"cacheScope":"private","_meta":%s}' % (ttl_ms, meta)

    def _shown(self) -> list[Offer]:
        visible = self._visible()
        offers = self.view.table.offers
        return [one for one in offers if self._front.exact or one.server in visible]

    def discover(self) -> bytes:
        """Result of ``server/discover``: also the source of an ``initialize`` result."""
        if self._discover is None:
            body = msgspec.json.encode(
                {
                    "supportedVersions": [MODERN.value],
                    "capabilities": self._capabilities(),
                    "instructions": hint(self.tools_mode) + self._instructions(),
                }
            )
            self._discover = COMPLETE_HEAD + body[1:-1] + self._tail(DISCOVER)
        return self._discover

    @property
    def empty(self) -> bool:
        """Whether the view shows nothing at all."""
        return not self._visible()

    def _visible(self) -> frozenset[str]:
        view = self.view
        return frozenset(
            one.server
            for group in (view.tools(), view.prompts(), view.resources(), view.templates())
            for one in group
        )

    def _capabilities(self) -> dict[str, dict[str, object]]:
        shown, exact = self._shown(), self._front.exact
        offered = {name for one in shown for name in one.capabilities}
        # The three lists are always served and watched, whoever comes and goes behind them.
        capabilities: dict[str, dict[str, object]] = {
            name: {"listChanged": True}
            for name in ("tools", "resources", "prompts")
            if not exact or name in offered or self._entries(ListKind(name))
        }
        capabilities.update({name: {} for name in ("completions", "logging") if name in offered})
        if "resources" in capabilities and any(one.abilities.subscribe for one in shown):
            capabilities["resources"]["subscribe"] = True
        # Any tool can run as a task of the mesh, whatever its server knows of tasks.
        relayed = extensions_of(one.abilities for one in shown)
        capabilities["extensions"] = {TASKS_EXTENSION: {}, **relayed}
        return capabilities

    def _instructions(self) -> str:
        if self._front.instructions is not None:
            return self._front.instructions[:INSTRUCTIONS_CHARS_MAX]
        visible = self._visible()
        parts = [self._facts.instructions] if self._facts.instructions else []
        parts += [
            f"# {one.server}\n{one.instructions}"
            for one in self.view.table.offers
            if one.instructions and one.server in visible
        ]
        return "\n\n".join(parts)[:INSTRUCTIONS_CHARS_MAX]

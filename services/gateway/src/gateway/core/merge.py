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

from gateway.core.access import View
from mcp_proto.convert.results import COMPLETE_HEAD
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import CURSOR_CHARS_MAX
from mcp_proto.types.meta import SERVER_INFO
from mcp_proto.versions import MODERN

__all__ = ["INSTRUCTIONS_CHARS_MAX", "ListKind", "Listing", "Lists", "ServerFacts"]

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
    """

    name: str
    version: str
    instructions: str = ""
    page_size: int = 500
    ttl_ms: int = 0

    def info(self) -> dict[str, str]:
        """The ``Implementation`` object."""
        return {"name": self.name, "version": self.version}


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

    def __init__(self, view: View, facts: ServerFacts) -> None:
        self.view = view
        self._facts = facts
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
                tail=self._tail(),
            )
        return known

    def _entries(self, kind: ListKind) -> list[tuple[str, bytes]]:
        view = self.view
        match kind:
            case ListKind.TOOLS:
                return [(one.listed, one.entry) for one in view.tools()]
            case ListKind.PROMPTS:
                return [(one.listed, one.entry) for one in view.prompts()]
            case ListKind.RESOURCES:
                return [(one.listed, one.entry) for one in view.resources()]
            case ListKind.TEMPLATES:
                # Two servers may list one template: the key keeps their order and cursors apart.
                return [(f"{one.listed}\0{one.server}", one.entry) for one in view.templates()]

    def _tail(self) -> bytes:
        meta = msgspec.json.encode({SERVER_INFO: self._facts.info()})
        # Private: what a list holds depends on tenant and grant.
        return b',"ttlMs":%d,"cacheScope":"private","_meta":%s}' % (self._facts.ttl_ms, meta)

    def discover(self) -> bytes:
        """Result of ``server/discover``: also the source of an ``initialize`` result."""
        if self._discover is None:
            body = msgspec.json.encode(
                {
                    "supportedVersions": [MODERN.value],
                    "capabilities": self._capabilities(),
                    "instructions": self._instructions(),
                }
            )
            self._discover = COMPLETE_HEAD + body[1:-1] + self._tail()
        return self._discover

    def _visible(self) -> frozenset[str]:
        view = self.view
        return frozenset(
            one.server
            for group in (view.tools(), view.prompts(), view.resources(), view.templates())
            for one in group
        )

    def _capabilities(self) -> dict[str, object]:
        visible = self._visible()
        offered = {
            name
            for one in self.view.table.offers
            if one.server in visible
            for name in one.capabilities
        }
        # The three lists are always served and watched, whoever comes and goes behind them;
        # resource subscriptions are not relayed and so not promised.
        capabilities: dict[str, object] = {
            "tools": {"listChanged": True},
            "resources": {"listChanged": True},
            "prompts": {"listChanged": True},
        }
        capabilities.update({name: {} for name in ("completions", "logging") if name in offered})
        return capabilities

    def _instructions(self) -> str:
        visible = self._visible()
        parts = [self._facts.instructions] if self._facts.instructions else []
        parts += [
            f"# {one.server}\n{one.instructions}"
            for one in self.view.table.offers
            if one.instructions and one.server in visible
        ]
        return "\n\n".join(parts)[:INSTRUCTIONS_CHARS_MAX]

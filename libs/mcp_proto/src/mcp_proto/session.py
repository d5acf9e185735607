"""Sessions of legacy clients, without I/O: what is agreed, what is kept, when it ends.

A session is a record in KV, so that any edge can continue it; a record is frozen and every
change makes a new one for the edge to write. Lenient in, strict out: earlier clients leave out
capabilities, send them as arrays, or never send ``notifications/initialized``.
"""

from enum import StrEnum

import msgspec

from mcp_proto.codec import decode_as, encode, pick
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.types.logging import LEVELS, SetLevelParams
from mcp_proto.versions import Revision, negotiate, revision_of

__all__ = [
    "ABSOLUTE_MS",
    "IDLE_MS",
    "INITIALIZED_METHODS",
    "SUBSCRIPTIONS_MAX",
    "TOUCH_MS",
    "Expiry",
    "LegacySession",
    "SessionOwner",
    "SessionRecord",
    "SessionState",
    "expiry",
    "lifetime_ms",
    "touch",
]

IDLE_MS = 30 * 60 * 1000
"""A session nobody used for this long is over, unless its gateway is told another time."""

ABSOLUTE_MS = 12 * 3600 * 1000
"""A session older than this is over, used or not."""

TOUCH_MS = 60 * 1000
"""The record's ``last_ms`` is renewed at most this often: no write per call."""

SUBSCRIPTIONS_MAX = 256
"""Resources one session may subscribe to."""

INITIALIZED_METHODS = ("notifications/initialized", "initialized")
"""The real name, and the synonym of earlier clients."""

_CLIENT_BYTES_MAX = 16 * 1024  # capabilities or client info; the record is copied to every edge
_KNOWN_CAPABILITIES = ("roots", "sampling", "elicitation", "tasks", "experimental")


class SessionOwner(msgspec.Struct, frozen=True, kw_only=True):
    """Who a session belongs to; every later request must come from the same."""

    tenant: str
    principal: str
    credential_id: str


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A session as stored in ``mesh_sessions``. Times are Unix ms.

    Attributes:
        tenant: tenant of the owner.
        principal: the owner.
        credential_id: credential the session was opened with, for people; each request brings and
            proves its own.
        revision: negotiated protocol revision.
        created_ms: when it was opened.
        last_ms: last use, exact to ``TOUCH_MS``.
        capabilities: the client's ``ClientCapabilities`` object.
        client_info: the client's ``Implementation`` object; ``ABSENT`` when it sent none.
        log_level: level set by ``logging/setLevel``; "" = never set.
        subscriptions: URIs subscribed to, in order.
        stream: gateway whose GET stream gets the session's messages, the newest; "" = any.
        endpoint: where it was opened and alone is valid: "", ``u/<server>``, ``v/<virtual>``.
    """

    tenant: str
    principal: str
    credential_id: str
    revision: str
    created_ms: int
    last_ms: int
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    client_info: msgspec.Raw = ABSENT
    log_level: str = ""
    subscriptions: tuple[str, ...] = ()
    endpoint: str = ""
    stream: str = ""

    def belongs_to(self, owner: SessionOwner) -> bool:
        """Whether ``owner`` may use the session: the same tenant and principal.

        The credential may differ: a client may come back with a renewed token.
        """
        return self.tenant == owner.tenant and self.principal == owner.principal


class Expiry(StrEnum):
    """Why a session is over."""

    IDLE = "idle"
    ABSOLUTE = "absolute"


def expiry(record: SessionRecord, now_ms: int, idle_ms: int = IDLE_MS) -> Expiry | None:
    """Why the session is over at ``now_ms``, or None while it lives."""
    if now_ms - record.created_ms >= ABSOLUTE_MS:
        return Expiry.ABSOLUTE
    return Expiry.IDLE if now_ms - record.last_ms >= idle_ms else None


def lifetime_ms(record: SessionRecord, now_ms: int, idle_ms: int = IDLE_MS) -> int:
    """How long the record can matter without further use: the TTL to store it with."""
    ends_ms = min(record.created_ms + ABSOLUTE_MS, record.last_ms + idle_ms)
    return max(0, ends_ms - now_ms)


def touch(record: SessionRecord, now_ms: int, idle_ms: int = IDLE_MS) -> SessionRecord | None:
    """The record after a use, or None while the stored one is recent enough."""
    since_ms = now_ms - record.last_ms
    if since_ms < TOUCH_MS and since_ms * 4 < idle_ms:
        return None
    return msgspec.structs.replace(record, last_ms=now_ms)


class SessionState(StrEnum):
    """Life of a session as its edge sees it."""

    FRESH = "fresh"
    """No ``initialize`` yet."""
    INITIALIZED = "initialized"
    """Answered ``initialize``; requests are served whether or not the client confirms."""


class LegacySession:
    """One legacy session as an edge drives it.

    Args:
        record: the stored record of a session opened earlier, here or elsewhere.
    """

    def __init__(self, record: SessionRecord | None = None) -> None:
        self._record = record

    @property
    def state(self) -> SessionState:
        """Where the session stands."""
        return SessionState.FRESH if self._record is None else SessionState.INITIALIZED

    @property
    def record(self) -> SessionRecord:
        """The current record; write it whenever a call here changed it.

        Raises:
            MeshError: ``params`` before ``initialize``.
        """
        if self._record is None:
            raise MeshError(ErrorKind.PARAMS, "the session is not initialized")
        return self._record

    @property
    def revision(self) -> Revision:
        """The negotiated revision; 2024-11-05 before ``initialize``."""
        if self._record is None:
            return Revision.R2024_11_05
        return revision_of(self._record.revision) or Revision.R2024_11_05

    def initialize(
        self, params: bytes | msgspec.Raw, owner: SessionOwner, now_ms: int
    ) -> SessionRecord:
        """Take the client's ``initialize``.

        Returns:
            The new record; its ``revision`` belongs in the answer.

        Raises:
            MeshError: ``request`` on a second ``initialize``, ``params`` on malformed ones.
        """
        if self._record is not None:
            raise MeshError(ErrorKind.REQUEST, "the session is already initialized")
        members = pick(params, "protocolVersion", "capabilities", "clientInfo")
        self._record = SessionRecord(
            tenant=owner.tenant,
            principal=owner.principal,
            credential_id=owner.credential_id,
            revision=_requested_revision(members.get("protocolVersion")).value,
            created_ms=now_ms,
            last_ms=now_ms,
            capabilities=_capabilities(members.get("capabilities")),
            client_info=_client_info(members.get("clientInfo")),
        )
        return self._record

    def set_level(self, params: bytes | msgspec.Raw) -> SessionRecord:
        """Take ``logging/setLevel``.

        Raises:
            MeshError: ``params`` when the level is none of the eight.
        """
        level = decode_as(params, SetLevelParams).level
        if level not in LEVELS:
            raise MeshError(ErrorKind.PARAMS, f"level must be one of {', '.join(LEVELS)}")
        return self._change(log_level=level)

    def subscribe(self, uri: str) -> SessionRecord:
        """Add a resource subscription; a second time changes nothing.

        Raises:
            MeshError: ``overloaded`` above ``SUBSCRIPTIONS_MAX``.
        """
        known = self.record.subscriptions
        if uri in known:
            return self.record
        if len(known) >= SUBSCRIPTIONS_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, f"a session holds at most {SUBSCRIPTIONS_MAX} subscriptions"
            )
        return self._change(subscriptions=(*known, uri))

    def unsubscribe(self, uri: str) -> SessionRecord:
        """Drop a resource subscription; an unknown one changes nothing."""
        known = self.record.subscriptions
        return self._change(subscriptions=tuple(other for other in known if other != uri))

    def _change(self, **fields: object) -> SessionRecord:
        self._record = msgspec.structs.replace(self.record, **fields)
        return self._record


def _requested_revision(raw: msgspec.Raw | None) -> Revision:
    if raw is None or bytes(raw) == b"null":
        # A hand-written client; the oldest revision is what it can be expected to know.
        return Revision.R2024_11_05
    return negotiate(decode_as(raw, str))


def _capabilities(raw: msgspec.Raw | None) -> msgspec.Raw:
    """Always an object: earlier clients send none, null, or an array of names."""
    start = b"" if raw is None else bytes(memoryview(raw)[:1])
    if raw is not None and len(bytes(raw)) > _CLIENT_BYTES_MAX:
        raise MeshError(ErrorKind.PARAMS, f"capabilities exceed {_CLIENT_BYTES_MAX} bytes")
    if raw is not None and start == b"{":
        return raw.copy()
    if raw is not None and start == b"[":
        names = decode_as(raw, list[object])
        return msgspec.Raw(encode({name: {} for name in _KNOWN_CAPABILITIES if name in names}))
    return msgspec.Raw(b"{}")


class _ClientInfo(msgspec.Struct, frozen=True):
    name: str
    version: str


def _client_info(raw: msgspec.Raw | None) -> msgspec.Raw:
    """The client's own bytes if they are what the schema asks for, else nothing."""
    if raw is None or len(bytes(raw)) > _CLIENT_BYTES_MAX:
        return ABSENT
    try:
        decode_as(raw, _ClientInfo)
    except MeshError:
        return ABSENT
    return raw.copy()

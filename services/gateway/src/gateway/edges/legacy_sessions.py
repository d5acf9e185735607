"""The session of a legacy HTTP request: found by its header, with what every request of it needs.

The record lives in KV and is the same at every gateway; what is made of it here (revision,
envelope, the key under which other gateways know it) is kept by record, not by request.
"""

from collections import OrderedDict

import msgspec

from gateway.core.capabilities import known_to
from gateway.edges.exchange import Exchange, Refused
from gateway.identity import Caller
from gateway.sessions import Sessions, digest
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.session import SessionOwner, SessionRecord
from mcp_proto.versions import Revision, revision_of

__all__ = ["SESSION_HEADER", "HttpSession", "HttpSessions", "owner_of", "stamp_of"]

SESSION_HEADER = b"mcp-session-id"
STAMPS_MAX = 5_000


class HttpSession(msgspec.Struct, frozen=True):
    """A found session.

    Attributes:
        id: what the client knows it by.
        key: SHA-256 of the id: what gateways tell each other, so that no message of theirs opens
            a session.
        record: as stored.
        revision: negotiated.
        stamp: the envelope of its requests.
    """

    id: str
    key: str
    record: SessionRecord
    revision: Revision
    stamp: EnvelopeStamp


class HttpSessions:
    """Finds sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._known: OrderedDict[str, HttpSession] = OrderedDict()

    async def of(self, exchange: Exchange, caller: Caller) -> HttpSession:
        """The session that a request names.

        Raises:
            Refused: no header, no such session of this caller, or it cannot be read now.
        """
        raw = exchange.heads.get(SESSION_HEADER)
        if raw is None:
            error = MeshError(ErrorKind.REQUEST, "header Mcp-Session-Id is missing")
            raise Refused(400, error)
        identifier = raw.decode("latin-1")
        owner = owner_of(caller)
        try:
            record = self._sessions.held(identifier, owner)
            if record is None:
                record = await self._sessions.find(identifier, owner)
        except MeshError as error:
            raise Refused(503, error) from None
        if record is None or record.endpoint != exchange.endpoint:
            raise Refused(404, MeshError(ErrorKind.NOT_FOUND, "session not found"))
        return self._made(identifier, record)

    def forget(self, identifier: str) -> None:
        """The session ended."""
        self._known.pop(identifier, None)

    def _made(self, identifier: str, record: SessionRecord) -> HttpSession:
        known = self._known.get(identifier)
        if known is not None and known.record is record:
            return known
        revision = revision_of(record.revision) or Revision.R2025_03_26
        made = HttpSession(
            id=identifier,
            key=digest(identifier),
            record=record,
            revision=revision,
            stamp=stamp_of(record, revision),
        )
        self._known[identifier] = made
        if len(self._known) > STAMPS_MAX:
            self._known.popitem(last=False)
        return made


def owner_of(caller: Caller) -> SessionOwner:
    """The caller as sessions know it."""
    return SessionOwner(
        tenant=caller.tenant,
        principal=caller.principal,
        credential_id=caller.identity.credential_id,
    )


def stamp_of(record: SessionRecord, revision: Revision) -> EnvelopeStamp:
    """The envelope of a session's requests: what its client declared and its revision knows."""
    return EnvelopeStamp(
        known_to(revision, record.capabilities), record.client_info, record.log_level
    )

"""GET on `/mcp` of the old eras: the stream of a session for messages that belong to no request.

Several may be open, at any gateways; the newest gets the messages. Which gateway has it stands in
the session's record, beside the resources that the session subscribed to: so a subscribe request
may reach one gateway and the updates leave through another.
"""

import functools
from collections.abc import Callable

from gateway.backend import Backend
from gateway.core import eras, httprules
from gateway.core.merge import ListKind
from gateway.edges.exchange import Exchange, Refused
from gateway.edges.legacy_sessions import SESSION_HEADER, HttpSession, HttpSessions, owner_of
from gateway.edges.streams import ListStream
from gateway.identity import Caller
from gateway.sessions import Sessions
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request
from mcp_proto.session import LegacySession, SessionRecord

__all__ = ["SUBSCRIBING", "LegacyStreams"]

STREAMS_PER_SESSION = 8
SUBSCRIBE_S = 5.0
"""How long ``resources/subscribe`` waits for the word of the server."""
SUBSCRIBING = frozenset(("resources/subscribe", "resources/unsubscribe"))


class _Open:
    """The streams of one session that are open here, oldest first."""

    def __init__(self, record: SessionRecord, instance: str) -> None:
        self.record = record
        self._instance = instance
        self.streams: list[ListStream] = []

    def speaks(self, stream: ListStream) -> bool:
        """Whether a message of the session goes out on ``stream``: it is the newest of all."""
        return self.streams[-1] is stream and self.record.stream in {"", self._instance}

    def aim(self) -> None:
        """Watch what the session subscribed to, for the newest stream alone."""
        for stream in self.streams:
            stream.watch.aim(self.record.subscriptions if self.speaks(stream) else ())


class LegacyStreams:
    """The open GET streams of all sessions."""

    def __init__(self, backend: Backend, sessions: Sessions, found: HttpSessions) -> None:
        self._backend = backend
        self._sessions = sessions
        self._found = found
        self._open: dict[str, _Open] = {}
        self.on_closed: Callable[[str], None] = lambda _identifier: None
        """Called with a session whose last stream here has ended."""
        self._ending = False

    async def get(self, exchange: Exchange, caller: Caller) -> None:
        """Open the session's stream for messages that belong to no request.

        Raises:
            Refused: no such session, no event stream accepted, too many streams.
        """
        _check(exchange)
        session = await self._found.of(exchange, caller)
        opened = self._open.setdefault(session.id, _Open(session.record, self._sessions.instance))
        if len(opened.streams) >= STREAMS_PER_SESSION:
            opened.streams[0].events.end()

        def changed(kinds: frozenset[ListKind]) -> None:
            if opened.speaks(stream):
                for notice in eras.notices(kinds):
                    stream.events.push(notice)

        def told(uri: str) -> None:
            if opened.speaks(stream):
                stream.events.push(eras.updated(uri))

        stream = ListStream(self._backend, exchange, caller, changed, told)
        opened.streams.append(stream)
        # Who only listens uses its session, too.
        stream.on_look = functools.partial(self._sessions.held, session.id, owner_of(caller))
        forget = (
            self._sessions.on_end(session.id, stream.events.end),
            self._sessions.on_change(session.id, lambda record: self._follow(opened, record)),
        )
        self._sessions.take_stream(session.id, opened.record)
        opened.aim()
        try:
            await stream.run()
        except MeshError as error:
            raise Refused(503, error) from None
        finally:
            for call in forget:
                call()
            self._close(session.id, opened, stream)

    def _follow(self, opened: _Open, record: SessionRecord) -> None:
        """The session changed, here or at another gateway."""
        opened.record = record
        opened.aim()

    def _close(self, identifier: str, opened: _Open, stream: ListStream) -> None:
        opened.streams.remove(stream)
        if opened.streams:
            opened.aim()
            return
        if self._open.get(identifier) is opened:
            del self._open[identifier]
            self.on_closed(identifier)
        if not self._ending:
            self._sessions.leave_stream(identifier, opened.record)

    def is_open(self, identifier: str) -> bool:
        """Whether a session has a stream here."""
        return identifier in self._open

    def tell(self, identifier: str, notice: bytes) -> None:
        """Send what belongs to no request on the session's newest stream, if it is here."""
        opened = self._open.get(identifier)
        if opened is not None and opened.speaks(opened.streams[-1]):
            opened.streams[-1].events.push(notice)

    async def subscribing(self, session: HttpSession, caller: Caller, request: Request) -> None:
        """``resources/subscribe`` and ``unsubscribe``: written into the session's record.

        Raises:
            MeshError: why the resource cannot be watched, or the record not be written.
        """
        uri = eras.resource_uri(request.params)
        if request.method == "resources/unsubscribe":
            await self._sessions.change(
                session.id, lambda record: LegacySession(record).unsubscribe(uri)
            )
            return
        if uri in session.record.subscriptions:
            return
        watch = self._backend.watch(caller, _nobody_is_told, session.record.endpoint)
        try:
            watch.aim((uri,))
            if uri not in await watch.settle(SUBSCRIBE_S):
                raise watch.problem(uri) or MeshError(
                    ErrorKind.DEADLINE, "the server did not answer in time"
                )
            await self._sessions.change(
                session.id, lambda record: LegacySession(record).subscribe(uri)
            )
        finally:
            # The watch of the session's stream has taken over by now, wherever that is.
            watch.close()

    def end(self) -> None:
        """End every open stream."""
        self._ending = True
        for opened in self._open.values():
            for stream in opened.streams:
                stream.events.end()


def _check(exchange: Exchange) -> None:
    if SESSION_HEADER not in exchange.heads:
        error = MeshError(ErrorKind.REQUEST, "a stream needs a session; use POST")
        raise Refused(405, error, ((b"allow", b"POST"),))
    if not httprules.accepts(exchange.heads.get(b"accept"))[1]:
        error = MeshError(ErrorKind.REQUEST, "Accept must list text/event-stream")
        raise Refused(406, error)


def _nobody_is_told(_uri: str) -> None:
    """The session's stream tells."""

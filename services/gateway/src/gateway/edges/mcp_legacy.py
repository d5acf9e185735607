"""`/mcp` of the revisions before 2026-07-28: sessions, batches, the GET stream.

A session lives in KV, so any gateway continues it; what lives here is only what belongs to a
connection: running calls (to cancel them) and open GET streams (the newest gets the messages).
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from gateway.backend import Backend
from gateway.core import eras, httprules
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest
from gateway.edges.batches import NOT_IN_BATCH
from gateway.edges.exchange import Exchange, Refused
from gateway.edges.sse import LateReply, LateStarts
from gateway.edges.streams import ListStream
from gateway.identity import Caller
from gateway.sessions import Sessions
from mcp_proto import codec
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.convert.results import to_legacy_result
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Message, Notification, Request, RequestId
from mcp_proto.methods import is_known
from mcp_proto.request_meta import is_enveloped, meta_of
from mcp_proto.session import LegacySession, SessionOwner, SessionRecord
from mcp_proto.versions import Feature, Revision, has, revision_of
from mesh_chassis.clock import monotonic, now_ms

__all__ = ["LegacyHttp"]

STREAMS_PER_SESSION = 8
STAMPS_MAX = 5_000
_HEADER = b"mcp-session-id"
_log = logging.getLogger(__name__)


class _Cancelled(msgspec.Struct, rename="camel"):
    request_id: RequestId


_CANCELLED = msgspec.json.Decoder(_Cancelled)


class _Session(msgspec.Struct, frozen=True):
    """A found session: its id, record, revision and envelope."""

    id: str
    record: SessionRecord
    revision: Revision
    stamp: EnvelopeStamp


class LegacyHttp:
    """Serves legacy requests."""

    def __init__(self, backend: Backend, sessions: Sessions) -> None:
        self._backend = backend
        self._starts = LateStarts()
        self._sessions = sessions
        self._calls: dict[tuple[str, RequestId], asyncio.Task[object]] = {}
        self._streams: dict[str, list[ListStream]] = {}
        self._stamps: OrderedDict[str, _Session] = OrderedDict()

    # POST -----------------------------------------------------------------------------------

    async def post(
        self,
        exchange: Exchange,
        caller: Caller,
        body: bytes,
        revision: Revision | None,
        *,
        json: bool,
        stream: bool,
    ) -> None:
        """Answer one POST.

        Args:
            exchange: the request.
            caller: checked.
            body: whole.
            revision: of the header ``MCP-Protocol-Version``; None = absent.
            json: whether the client takes JSON.
            stream: whether it takes an event stream.

        Raises:
            Refused: no such session.
        """
        reply = LateReply(
            self._starts,
            exchange.send,
            streams=stream,
            headers=exchange.cors,
            whole=exchange.whole,
        )
        try:
            await self._post(exchange, caller, body, reply, json=json)
        except BaseException:
            # Somebody else answers, or nobody: its timer must not begin a second answer.
            await reply.abandon()
            raise

    async def _post(
        self, exchange: Exchange, caller: Caller, body: bytes, reply: LateReply, *, json: bool
    ) -> None:
        if codec.is_batch(body):
            session = await self._session(exchange, caller)
            await self._array(exchange, caller, session, body, reply)
            return
        try:
            message = codec.decode_message(body)
        except MeshError as error:
            status = error.http_status if error.kind is ErrorKind.TOO_LARGE else 400
            await reply.finish(status, codec.encode_error(error.request_id, error))
            return
        if isinstance(message, Request) and is_enveloped(message.params):
            mismatch = MeshError(
                ErrorKind.HEADER_MISMATCH, "an enveloped request needs MCP-Protocol-Version"
            )
            await reply.finish(400, codec.encode_error(message.id, mismatch))
            return
        if isinstance(message, Request) and message.method == "initialize":
            await self._initialize(exchange, caller, message, reply)
            return
        session = await self._session(exchange, caller)
        if not isinstance(message, Request):
            self._take(session, message)
            await reply.drop()
            await exchange.answer(202)
            return
        if not json:
            reply.begin()
        answer = await self._answer(exchange, caller, session, message, reply.notice)
        await reply.finish(200, answer)

    async def _session(self, exchange: Exchange, caller: Caller) -> _Session:
        raw = exchange.heads.get(_HEADER)
        if raw is None:
            error = MeshError(ErrorKind.REQUEST, "header Mcp-Session-Id is missing")
            raise Refused(400, error)
        identifier = raw.decode("latin-1")
        owner = _owner(caller)
        try:
            record = self._sessions.held(identifier, owner)
            if record is None:
                record = await self._sessions.find(identifier, owner)
        except MeshError as error:
            raise Refused(503, error) from None
        if record is None:
            raise Refused(404, MeshError(ErrorKind.NOT_FOUND, "session not found"))
        return self._stamped(identifier, record)

    def _stamped(self, identifier: str, record: SessionRecord) -> _Session:
        known = self._stamps.get(identifier)
        if known is not None and known.record is record:
            return known
        made = _Session(
            id=identifier,
            record=record,
            revision=revision_of(record.revision) or Revision.R2025_03_26,
            stamp=EnvelopeStamp(record.capabilities, record.client_info, record.log_level),
        )
        self._stamps[identifier] = made
        if len(self._stamps) > STAMPS_MAX:
            self._stamps.popitem(last=False)
        return made

    async def _initialize(
        self, exchange: Exchange, caller: Caller, request: Request, reply: LateReply
    ) -> None:
        try:
            exchange.connection.gate.pace(monotonic())
            eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
            record = LegacySession().initialize(request.params, _owner(caller), now_ms())
            discover = await self._backend.dispatch(
                ModernRequest("server/discover", b"{}", meta_of(b""), "http"), caller
            )
            result = eras.initialize_result(discover, Revision(record.revision))
            identifier = await self._sessions.open(record)
        except MeshError as error:
            body = codec.encode_error(request.id, render_error(error, Peer.LEGACY))
            await reply.finish(200, body)
            return
        reply.add_header(_HEADER, identifier.encode())
        await reply.finish(200, codec.encode_response(request.id, result))

    async def _answer(
        self,
        exchange: Exchange,
        caller: Caller,
        session: _Session,
        request: Request,
        notice: Callable[[bytes], None] | None,
    ) -> bytes:
        """The response to one request: a result or an error, never an exception."""
        key = (session.id, request.id)
        gate = exchange.connection.gate
        try:
            gate.pace(monotonic())
            if key in self._calls:
                raise MeshError(ErrorKind.REQUEST, "a request with this id is in flight")
            gate.enter()
        except MeshError as error:
            return _failed(request, error)
        # A task of its own: a cancel ends the call, not the answer to this POST. The dropped
        # connection of this era is no cancel, so nothing else ends it early.
        work = self._serve(exchange, caller, session, request, notice)
        task = exchange.connection.loop.create_task(work)
        self._calls[key] = task
        try:
            result = await task
            return codec.encode_response(request.id, result)
        except MeshError as error:
            return _failed(request, error)
        except asyncio.CancelledError:
            if not task.cancelled() or _being_cancelled():
                task.cancel()
                raise
            cancelled = MeshError(ErrorKind.LOST, "the request was cancelled by its client")
            return _failed(request, cancelled)
        except Exception:  # noqa: BLE001 - whatever fails, its request is answered
            _log.exception("a request failed")
            return _failed(request, MeshError(ErrorKind.INTERNAL, "internal error"))
        finally:
            del self._calls[key]
            gate.leave()

    async def _serve(
        self,
        exchange: Exchange,
        caller: Caller,
        session: _Session,
        request: Request,
        notice: Callable[[bytes], None] | None,
    ) -> bytes:
        if isinstance(request.tenant_id, str):
            credential = httprules.bearer(exchange.heads.get(b"authorization"))
            caller = await self._backend.caller(credential, request.tenant_id)
        eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
        method = request.method
        if method == "ping":
            return b"{}"
        if method == "logging/setLevel":
            level = LegacySession(session.record).set_level(request.params).log_level
            await self._sessions.change(
                session.id, lambda record: msgspec.structs.replace(record, log_level=level)
            )
            return b"{}"
        if method == "initialize":
            raise MeshError(ErrorKind.REQUEST, "the session is already initialized")
        if not is_known(method, session.revision):
            raise MeshError(ErrorKind.METHOD, "method not found")
        params = session.stamp.stamp(request.params)
        modern = ModernRequest(method, params, meta_of(params), "http")
        result = await self._backend.dispatch(modern, caller, notice)
        return to_legacy_result(method, result, session.revision)

    def _take(self, session: _Session, message: Message) -> None:
        """A notification, or an answer to something nobody asked."""
        if not isinstance(message, Notification) or message.method != "notifications/cancelled":
            return
        try:
            request_id = _CANCELLED.decode(message.params).request_id
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        task = self._calls.get((session.id, request_id))
        if task is not None:
            task.cancel()

    async def _array(
        self,
        exchange: Exchange,
        caller: Caller,
        session: _Session,
        body: bytes,
        reply: LateReply,
    ) -> None:
        """A JSON array of messages, for 2025-03-26 alone."""
        try:
            if not has(session.revision, Feature.BATCH_ARRAY):
                raise MeshError(ErrorKind.REQUEST, "arrays are not part of this revision")
            messages = codec.decode_batch(body)
        except MeshError as error:
            await reply.finish(400, codec.encode_error(error.request_id, error))
            return
        answers: list[bytes] = []
        for message in messages:
            if isinstance(message, MeshError):
                answers.append(codec.encode_error(message.request_id, message))
            elif not isinstance(message, Request):
                self._take(session, message)
            elif message.method in NOT_IN_BATCH:
                error = MeshError(ErrorKind.REQUEST, f"{message.method} is not for batches")
                answers.append(_failed(message, error))
            else:
                answers.append(await self._answer(exchange, caller, session, message, reply.notice))
        if answers:
            await reply.finish(200, b"[" + b",".join(answers) + b"]")
        else:
            await reply.drop()
            await exchange.answer(202)

    # GET and DELETE -------------------------------------------------------------------------

    async def get(self, exchange: Exchange, caller: Caller) -> None:
        """Open the session's stream for messages that belong to no request.

        Raises:
            Refused: no such session, no event stream accepted, too many streams.
        """
        if _HEADER not in exchange.heads:
            error = MeshError(ErrorKind.REQUEST, "a stream needs a session; use POST")
            raise Refused(405, error, ((b"allow", b"POST"),))
        if not httprules.accepts(exchange.heads.get(b"accept"))[1]:
            error = MeshError(ErrorKind.REQUEST, "Accept must list text/event-stream")
            raise Refused(406, error)
        session = await self._session(exchange, caller)
        streams = self._streams.setdefault(session.id, [])
        if len(streams) >= STREAMS_PER_SESSION:
            streams[0].events.end()

        def changed(kinds: frozenset[ListKind]) -> None:
            if streams[-1] is stream:
                for notice in eras.notices(kinds):
                    stream.events.push(notice)

        stream = ListStream(self._backend, exchange, caller, changed)
        streams.append(stream)
        forget = self._sessions.on_end(session.id, stream.events.end)
        try:
            await stream.run()
        except MeshError as error:
            raise Refused(503, error) from None
        finally:
            forget()
            streams.remove(stream)
            if not streams:
                self._streams.pop(session.id, None)

    async def delete(self, exchange: Exchange, caller: Caller) -> None:
        """End the session.

        Raises:
            Refused: no such session.
        """
        session = await self._session(exchange, caller)
        try:
            await self._sessions.end(session.id)
        except MeshError as error:
            raise Refused(503, error) from None
        self._stamps.pop(session.id, None)
        await exchange.answer(204)

    def end_streams(self) -> None:
        """End every open stream."""
        for streams in self._streams.values():
            for stream in streams:
                stream.events.end()


def _owner(caller: Caller) -> SessionOwner:
    return SessionOwner(
        tenant=caller.tenant,
        principal=caller.principal,
        credential_id=caller.identity.credential_id,
    )


def _failed(request: Request, error: MeshError) -> bytes:
    return codec.encode_error(request.id, render_error(error, Peer.LEGACY, method=request.method))


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""`/mcp` of the revisions before 2026-07-28: sessions, requests, batches.

A session lives in KV, so any gateway continues it. Sessions are found in ``legacy_sessions``; what
belongs to a connection is in ``legacy_calls`` (running requests) and ``legacy_streams`` (GET).
"""

import contextlib
import functools
from collections.abc import Callable, Coroutine

import msgspec

from gateway.backend import Backend
from gateway.core import eras, httprules
from gateway.core.core_tasks import Seen, older_list, wants_task
from gateway.core.requests import ModernRequest
from gateway.core.sealed_state import may_ask
from gateway.edges.batches import NOT_IN_BATCH
from gateway.edges.core_tasks import CoreTasks
from gateway.edges.exchange import Exchange, Refused
from gateway.edges.inputs import Inputs
from gateway.edges.legacy_calls import LegacyCalls, alone, failed
from gateway.edges.legacy_sessions import SESSION_HEADER, HttpSession, HttpSessions, owner_of
from gateway.edges.legacy_streams import SUBSCRIBING, LegacyStreams
from gateway.edges.sse import LateReply, LateStarts
from gateway.edges.task_watch import StatusNotices
from gateway.identity import Caller
from gateway.peers import Peers
from gateway.sessions import Sessions
from mcp_proto import codec
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.convert.results import to_legacy_result
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import (
    Request,
)
from mcp_proto.methods import is_known
from mcp_proto.request_meta import is_enveloped, meta_of
from mcp_proto.session import LegacySession
from mcp_proto.versions import Feature, Revision, has
from mesh_chassis.clock import monotonic, now_ms

__all__ = ["LegacyHttp"]


class LegacyHttp:
    """Serves legacy requests."""

    def __init__(
        self, backend: Backend, sessions: Sessions, peers: Peers, *, input_s: float
    ) -> None:
        self._backend = backend
        self._inputs = Inputs(backend.dispatch, peers.questions, wait_s=input_s)
        self._core = CoreTasks(backend.dispatch, peers.questions, wait_s=input_s)
        self._status = StatusNotices(backend.dispatch)
        self._starts = LateStarts()
        self._sessions = sessions
        self._calls = LegacyCalls(peers, sessions)
        self._found = HttpSessions(sessions)
        self._streams = LegacyStreams(backend, sessions, self._found)
        self._streams.on_closed = self._status.drop

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
            session = await self._found.of(exchange, caller)
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
        session = await self._found.of(exchange, caller)
        if not isinstance(message, Request):
            await self._calls.take(exchange, session, caller, message, body)
            await reply.drop()
            await exchange.answer(202)
            return
        if not json:
            reply.begin()
        answer = await self._calls.answer(
            exchange, session, message, self._work(exchange, caller, session, message, reply)
        )
        await reply.finish(200, answer)

    async def _initialize(
        self, exchange: Exchange, caller: Caller, request: Request, reply: LateReply
    ) -> None:
        try:
            exchange.connection.gate.pace(monotonic())
            eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
            record = LegacySession().initialize(request.params, owner_of(caller), now_ms())
            discover = await self._backend.dispatch(
                ModernRequest(
                    "server/discover", b"{}", meta_of(b""), "http", endpoint=exchange.endpoint
                ),
                caller,
            )
            result = eras.initialize_result(discover, Revision(record.revision))
            if exchange.endpoint:
                record = msgspec.structs.replace(record, endpoint=exchange.endpoint)
            identifier = await self._sessions.open(record)
        except MeshError as error:
            body = codec.encode_error(request.id, render_error(error, Peer.LEGACY))
            await reply.finish(200, body)
            return
        reply.add_header(SESSION_HEADER, identifier.encode())
        await reply.finish(200, codec.encode_response(request.id, result))

    def _work(
        self,
        exchange: Exchange,
        caller: Caller,
        session: HttpSession,
        request: Request,
        reply: LateReply,
    ) -> Callable[[], Coroutine[object, object, bytes]]:
        return lambda: self._serve(exchange, caller, session, request, reply)

    async def _serve(
        self,
        exchange: Exchange,
        caller: Caller,
        session: HttpSession,
        request: Request,
        reply: LateReply,
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
        if method in SUBSCRIBING:
            await self._streams.subscribing(session, caller, request)
            return b"{}"
        if method == "initialize":
            raise MeshError(ErrorKind.REQUEST, "the session is already initialized")
        if not is_known(method, session.revision):
            raise MeshError(ErrorKind.METHOD, "method not found")
        params = session.stamp.stamp(request.params)
        endpoint = exchange.endpoint
        modern = ModernRequest(method, params, meta_of(params), "http", endpoint=endpoint)
        revision = session.revision
        if has(revision, Feature.CORE_TASKS) and wants_task(method, request.params):
            return await self._task(modern, caller, session, reply)
        result = await self._backend.dispatch(modern, caller, reply.notice)
        if may_ask(result):
            with self._calls.asking(session, reply) as client:
                notice = reply.notice
                result = await self._inputs.complete(result, modern, caller, notice, client)
        return older_list(method, to_legacy_result(method, result, revision), revision)

    async def _task(
        self, modern: ModernRequest, caller: Caller, session: HttpSession, reply: LateReply
    ) -> bytes:
        """A request about core tasks; what a task asks goes out on the stream of its POST."""

        def created(made: ModernRequest, owner: Caller, seen: Seen) -> None:
            if self._streams.is_open(session.id):
                tell = functools.partial(self._streams.tell, session.id)
                self._status.follow(session.id, made, owner, seen, tell)

        with self._calls.asking(session, reply) as client:
            return await self._core.serve(
                modern, caller, session.revision, reply.notice, client, created
            )

    async def _array(
        self,
        exchange: Exchange,
        caller: Caller,
        session: HttpSession,
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
                with contextlib.suppress(MeshError):  # the answers of the others must not be lost
                    await self._calls.take(exchange, session, caller, message, alone(message))
            elif message.method in NOT_IN_BATCH:
                error = MeshError(ErrorKind.REQUEST, f"{message.method} is not for batches")
                answers.append(failed(message, error))
            else:
                work = self._work(exchange, caller, session, message, reply)
                answers.append(await self._calls.answer(exchange, session, message, work))
        if answers:
            await reply.finish(200, b"[" + b",".join(answers) + b"]")
        else:
            await reply.drop()
            await exchange.answer(202)

    # GET and DELETE -------------------------------------------------------------------------

    async def get(self, exchange: Exchange, caller: Caller) -> None:
        """Open the session's stream; see ``LegacyStreams``.

        Raises:
            Refused: no such session, no event stream accepted, too many streams.
        """
        await self._streams.get(exchange, caller)

    async def delete(self, exchange: Exchange, caller: Caller) -> None:
        """End the session.

        Raises:
            Refused: no such session.
        """
        session = await self._found.of(exchange, caller)
        try:
            await self._sessions.end(session.id)
        except MeshError as error:
            raise Refused(503, error) from None
        self._found.forget(session.id)
        await exchange.answer(204)

    def end_streams(self) -> None:
        """End every open stream."""
        self._status.close()
        self._streams.end()

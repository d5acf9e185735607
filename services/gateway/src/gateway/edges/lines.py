"""One peer on a byte stream (TCP, stdio): newline-delimited JSON-RPC of both eras.

The transport feeds bytes and gives back-pressure; everything between a line and its answer is
here. Each request runs as a task of its own, answers leave joined, one write per loop iteration.
A line is always answered where it can be: garbage with -32700, an over-long line with -31012,
and the connection goes on.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine

import msgspec

from gateway.backend import Backend
from gateway.core import eras
from gateway.core.core_tasks import older_list, wants_task
from gateway.core.endpoints import asked_of
from gateway.core.requests import ModernRequest
from gateway.core.sealed_state import may_ask
from gateway.core.swarm_codes import check_refused, of_server
from gateway.edges.admission import Gate
from gateway.edges.batches import NOT_IN_BATCH, Item, run_batch
from gateway.edges.legacy_sessions import owner_of, stamp_of
from gateway.edges.line_client import LineInputs
from gateway.edges.linelistens import LineListens
from gateway.edges.linewriter import LineTransport, LineWriter
from gateway.identity import Caller
from mcp_proto import codec
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.convert.results import to_legacy_result
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.framing import Event, Line, LineFramer
from mcp_proto.jsonrpc import Notification, Request, RequestId
from mcp_proto.limits import INPUT_S
from mcp_proto.request_meta import is_enveloped, meta_of
from mcp_proto.session import LegacySession, SessionState
from mcp_proto.streams import StreamEra, StreamKind
from mcp_proto.versions import Feature, Revision, has
from mesh_chassis.clock import SYSTEM, Clock

__all__ = ["LineConnection"]

_log = logging.getLogger(__name__)


class _Internal:
    """Key of running work that has no id of its own: an array of messages, a check."""


_Key = RequestId | _Internal


class _Token(msgspec.Struct):
    token: str


class _Cancelled(msgspec.Struct, rename="camel"):
    request_id: RequestId


_TOKEN = msgspec.json.Decoder(_Token)
_CANCELLED = msgspec.json.Decoder(_Cancelled)


class LineConnection:
    """A connection from its first byte to its last answer.

    Args:
        kind: the edge, which decides what is served before ``initialize``.
        transport: the way back.
        backend: what stands behind the edge.
        gate: limits of this connection.
        credential: credential of the whole connection (stdio); "" = none yet.
        endpoint: endpoint of the whole connection; ``initialize`` may choose another.
        input_s: how long an old client may take for an answer to a server, in seconds.
        clock: the clock.
    """

    def __init__(
        self,
        *,
        kind: StreamKind,
        transport: LineTransport,
        backend: Backend,
        gate: Gate,
        credential: str = "",
        endpoint: str = "",
        input_s: float = INPUT_S,
        clock: Clock = SYSTEM,
    ) -> None:
        self._endpoint = endpoint
        self._kind = kind
        self._tcp = kind is StreamKind.TCP
        self._edge = kind.value
        self._writer = LineWriter(transport)
        self._send = self._writer.send
        self._modern_notice = eras.modern_notices(self._writer.notice)
        self._backend = backend
        self._inputs = LineInputs(backend.dispatch, self._send, wait_s=input_s)
        self._gate = gate
        gate.shed = self.refuse
        self._credential = credential
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._framer = LineFramer()
        self._session = LegacySession()
        self._era = StreamEra(kind, self._session)
        self._stamp = EnvelopeStamp()
        self._running: dict[_Key, asyncio.Task[None]] = {}
        self._owner: Caller | None = None
        self._listens = LineListens(
            backend, send=self._send, notice=self._writer.notice, on_cut=self._on_cut
        )
        self._listens.endpoint = endpoint
        self._ending = False
        self.opened = self.heard = clock.monotonic()
        """When the connection opened, and when it last sent a byte (monotonic seconds)."""
        self.spoke = False
        self.line_began: float | None = None
        """When the line that is not complete yet began."""
        self._methods: dict[str, Callable[[Request], Awaitable[bytes]]] = {
            "initialize": self._initialize,
            "ping": self._ping,
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }
        if self._tcp:
            self._methods |= {"authenticate": self._authenticate, "batch": self._batch}

    # What the transport calls ---------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether requests run or listens are open: such a connection is not idle."""
        return bool(self._running or self._listens)

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer."""
        now = self.heard = self._clock.monotonic()
        self.spoke = True
        self._take(self._framer.feed(data))
        held = self._framer.held_bytes
        self.line_began = (self.line_began or now) if held else None
        self._gate.hold(held)

    def eof(self) -> None:
        """The peer will send no more: finish what runs, answer, then close."""
        self._take(self._framer.eof())
        self._ending = True
        self._inputs.gone()
        self._listens.drop()
        self._close_when_done()

    def lost(self) -> None:
        """The connection is gone: cancel what runs, nobody can be answered."""
        self._writer.gone = True
        self._listens.drop()
        for task in tuple(self._running.values()):
            task.cancel()

    def pause_writing(self) -> None:
        """The peer does not read fast enough: read nothing from it either."""
        if not self._ending:
            self._writer.pause()

    def resume_writing(self) -> None:
        """It reads again."""
        self._writer.resume()

    async def drain(self, timeout_s: float) -> None:
        """Finish what runs, end listens in order, close.

        Args:
            timeout_s: longest wait for running requests; then they are answered as lost.
        """
        self._ending = True
        self._listens.finish()
        if self._running:
            await asyncio.wait(tuple(self._running.values()), timeout=timeout_s)
        for request_id, task in tuple(self._running.items()):
            lost = MeshError(
                ErrorKind.LOST, "the gateway stops", data={"reason": "draining"}, retry_after_s=0.5
            )
            self._send(
                codec.encode_error(None if isinstance(request_id, _Internal) else request_id, lost)
            )
            task.cancel()
        self._listens.drop()
        self._writer.close()

    def refuse(self, error: MeshError) -> None:
        """Say why the connection ends, and end it."""
        self._send(codec.encode_error(None, error))
        self._ending = True
        self._writer.close()

    # Lines ----------------------------------------------------------------------------------

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Line):
                self._line(event.data)
            else:
                error = MeshError(
                    ErrorKind.TOO_LARGE,
                    f"the line exceeds {event.max_bytes} bytes",
                    data={"maxBytes": event.max_bytes},
                )
                self._send(codec.encode_error(event.request_id, error))

    def _line(self, data: bytes) -> None:
        try:
            if codec.is_batch(data) and has(self._session.revision, Feature.BATCH_ARRAY):
                self._gate.pace(self._clock.monotonic())
                self._start(_Internal(), self._array(data))
                return
            message = codec.decode_message(data)
            if isinstance(message, Request):
                self._request(message)
            elif isinstance(message, Notification):
                self._notification(message)
            else:
                self._inputs.take(message)
        except MeshError as error:
            self._send(self._failed(error.request_id, error))

    def _request(self, request: Request) -> None:
        request_id = request.id
        try:
            self._gate.pace(self._clock.monotonic())
            if request_id in self._running or request_id in self._listens.ids:
                raise MeshError(ErrorKind.REQUEST, "a request with this id is in flight")
            self._start(request_id, self._answer(request))
        except MeshError as error:
            self._send(self._failed(request_id, error, request.method))

    def _start(self, request_id: _Key, work: Coroutine[object, object, bytes | None]) -> None:
        try:
            self._gate.enter()
        except MeshError:
            work.close()
            raise
        task = self._loop.create_task(self._run(request_id, work))
        self._running[request_id] = task

    async def _run(self, request_id: _Key, work: Awaitable[bytes | None]) -> None:
        try:
            reply = await work
            if reply is not None:
                self._send(reply)
        except asyncio.CancelledError:
            pass  # a cancelled request is not answered
        finally:
            self._gate.leave()
            del self._running[request_id]
            if self._ending:
                self._close_when_done()

    async def _answer(self, request: Request) -> bytes | None:
        try:
            result = await self._serve(request)
            return None if result is None else codec.encode_response(request.id, result)
        except MeshError as error:
            modern = is_enveloped(request.params)
            return self._failed(request.id, error, request.method, modern=modern)
        except Exception:  # noqa: BLE001 - whatever fails, its request is answered
            _log.exception("a request failed")
            return self._failed(request.id, MeshError(ErrorKind.INTERNAL, "internal error"))

    def _failed(
        self,
        request_id: RequestId | None,
        error: MeshError,
        method: str = "",
        *,
        modern: bool = False,
    ) -> bytes:
        old = Peer.LEGACY_TCP if self._tcp else Peer.LEGACY
        peer = Peer.MODERN if modern or self._era.modern else old
        return codec.encode_error(request_id, render_error(error, peer, method=method))

    # Requests -------------------------------------------------------------------------------

    async def _serve(self, request: Request) -> bytes | None:
        admitted = self._era.admit(request)
        if admitted.meta is not None:
            if request.method == "subscriptions/listen":
                await self._listens.listen(request, await self._caller(request))
                return None
            caller = await self._caller(request)
            modern = ModernRequest(
                request.method,
                request.params,
                admitted.meta,
                self._edge,
                endpoint=self._endpoint,
            )
            return await self._backend.dispatch(modern, caller, self._modern_notice)
        own = self._methods.get(request.method)
        if own is not None:
            return await own(request)
        caller = await self._caller(request)
        params = self._stamp.stamp(request.params)
        modern = ModernRequest(
            request.method, params, meta_of(params), self._edge, endpoint=self._endpoint
        )
        notice, revision = self._writer.notice, admitted.revision
        if has(revision, Feature.CORE_TASKS) and wants_task(request.method, request.params):
            result = await self._inputs.serve_task(modern, caller, notice, revision)
            if self._tcp:
                check_refused(request.method, request.params, result)
            return result
        try:
            result = await self._backend.dispatch(modern, caller, notice)
        except MeshError as error:
            if not self._tcp:
                raise
            raise of_server(error, request.method, request.params) from error
        if self._tcp:
            check_refused(request.method, request.params, result)
        if may_ask(result):
            result = await self._inputs.complete(result, modern, caller, notice, revision)
        flat = self._tcp and revision is Revision.R2024_11_05
        data = to_legacy_result(request.method, result, revision, flat=flat)
        return older_list(request.method, data, revision)

    async def _caller(self, request: Request) -> Caller:
        tenant = request.tenant_id if isinstance(request.tenant_id, str) else ""
        caller = self._backend.known(self._credential, tenant)
        if caller is None:
            caller = await self._backend.caller(self._credential, tenant)
        if caller is not self._owner:
            self._own(caller)
        if tenant or request.user_id is not msgspec.UNSET:
            eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
        return caller

    def _own(self, caller: Caller) -> None:
        try:
            self._gate.own(caller.tenant, caller.principal)
        except MeshError:
            self._ending = True  # the answer is the last line
            raise
        self._owner = caller

    async def _initialize(self, request: Request) -> bytes:
        caller = await self._caller(request)
        if self._session.state is SessionState.FRESH:
            self._endpoint = asked_of(request.params) or self._endpoint
        owner = owner_of(caller)
        record = self._session.initialize(request.params, owner, self._clock.now_ms())
        self._restamp()
        discover = await self._backend.dispatch(
            ModernRequest(
                "server/discover", b"{}", meta_of(b""), self._edge, endpoint=self._endpoint
            ),
            caller,
        )
        if not self._ending:
            self._listens.endpoint = self._endpoint
            self._listens.begin_old(caller)
        return eras.initialize_result(discover, Revision(record.revision))

    async def _ping(self, _request: Request) -> bytes:
        if self._tcp:
            return b'{"status":"ok","timestamp":%d}' % self._clock.now_ms()
        return b"{}"

    async def _set_level(self, request: Request) -> bytes:
        self._session.set_level(request.params)
        self._restamp()
        return b"{}"

    async def _subscribe(self, request: Request) -> bytes:
        await self._listens.subscribe(eras.resource_uri(request.params))
        return b"{}"

    async def _unsubscribe(self, request: Request) -> bytes:
        self._listens.unsubscribe(eras.resource_uri(request.params))
        return b"{}"

    async def _authenticate(self, request: Request) -> bytes:
        try:
            token = _TOKEN.decode(request.params).token
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise MeshError(ErrorKind.PARAMS, "params.token must be a string") from None
        if not token:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "the token is empty")
        tenant = request.tenant_id if isinstance(request.tenant_id, str) else ""
        caller = await self._backend.caller(token, tenant)
        eras.check_claims(request, tenant=caller.tenant, principal=caller.principal)
        if self._session.state is not SessionState.FRESH and not self._session.record.belongs_to(
            owner_of(caller)
        ):
            raise MeshError(ErrorKind.REQUEST, "the session belongs to another principal")
        self._own(caller)
        self._credential = token
        return msgspec.json.encode(
            {
                "status": "ok",
                "tenant": caller.tenant,
                "principal": caller.principal,
                "roles": caller.identity.roles,
            }
        )

    def _restamp(self) -> None:
        record = self._session.record
        self._stamp = stamp_of(record, self._session.revision)

    # Many in one ----------------------------------------------------------------------------

    async def _batch(self, request: Request) -> bytes:
        """``batch`` of earlier clients: ``{result}`` or ``{error}`` per item, in order."""

        async def one(index: int, item: Item) -> bytes:
            inner = Request(item.method, index, item.params, request.tenant_id, request.user_id)
            self._gate.pace(self._clock.monotonic())
            return await self._serve(inner) or b"{}"

        return await run_batch(request.params, one)

    async def _array(self, data: bytes) -> bytes | None:
        """A JSON array of messages, for 2025-03-26 alone."""
        try:
            messages = codec.decode_batch(data)
        except MeshError as error:
            return self._failed(error.request_id, error)
        replies: list[bytes] = []
        for message in messages:
            if isinstance(message, MeshError):
                replies.append(self._failed(message.request_id, message))
            elif isinstance(message, Request):
                replies.append(await self._array_item(message))
            elif isinstance(message, Notification):
                self._notification(message)
            else:
                self._inputs.take(message)
        return b"[" + b",".join(replies) + b"]" if replies else None

    async def _array_item(self, request: Request) -> bytes:
        try:
            self._gate.pace(self._clock.monotonic())
            if request.method in NOT_IN_BATCH:
                raise MeshError(ErrorKind.REQUEST, f"{request.method} is not for batches")
        except MeshError as error:
            return self._failed(request.id, error)
        return await self._answer(request) or codec.encode_response(request.id, b"{}")

    # Notifications --------------------------------------------------------------------------

    def _notification(self, message: Notification) -> None:
        if message.method == "notifications/cancelled":
            try:
                request_id = _CANCELLED.decode(message.params).request_id
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
            if request_id in self._listens:
                self._listens.end(request_id)
            task = self._running.get(request_id)
            if task is not None:
                task.cancel()
        elif message.method == "notifications/progress":
            self._inputs.take(message)

    # Listens --------------------------------------------------------------------------------

    def _on_cut(self) -> None:
        """The credential must be checked again before anything more is told."""
        key = _Internal()
        self._running[key] = self._loop.create_task(self._check_again(key))

    async def _check_again(self, key: "_Internal") -> None:
        try:
            self._listens.renew(await self._backend.caller(self._credential))
        except MeshError:
            self._listens.finish()
            self._listens.drop()
        finally:
            del self._running[key]
            if self._ending:
                self._close_when_done()

    def _close_when_done(self) -> None:
        if not self._running and not self._writer.gone:
            self._writer.close()

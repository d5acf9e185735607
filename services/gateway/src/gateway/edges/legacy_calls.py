"""Running requests of legacy HTTP sessions, and what their clients say beside them.

An answer to a question, a sign of progress or a cancel comes on a POST of its own, perhaps at
another gateway than the call it is about; what does not belong here is passed on. Nothing of it
waits behind a call.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Generator

import msgspec

from gateway.edges.exchange import Exchange
from gateway.edges.inputs import GONE, Client
from gateway.edges.legacy_sessions import HttpSession
from gateway.edges.sse import LateReply
from gateway.identity import Caller
from gateway.peers import Peers
from gateway.sessions import Sessions
from mcp_proto import codec
from mcp_proto.convert.errors import Peer, render_error
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import (
    ErrorResponse,
    Message,
    Notification,
    Request,
    RequestId,
    Response,
)
from mesh_chassis.clock import monotonic

__all__ = ["LegacyCalls", "alone", "failed"]

Work = Callable[[], Coroutine[object, object, bytes]]

_log = logging.getLogger(__name__)


class _Cancelled(msgspec.Struct, rename="camel"):
    request_id: RequestId


_CANCELLED = msgspec.json.Decoder(_Cancelled)


class LegacyCalls:
    """The calls of all sessions."""

    def __init__(self, peers: Peers, sessions: Sessions) -> None:
        self._peers = peers
        self._sessions = sessions
        self._running: dict[tuple[str, RequestId], asyncio.Task[bytes]] = {}
        peers.cancel = self.cancel

    async def answer(
        self, exchange: Exchange, session: HttpSession, request: Request, work: Work
    ) -> bytes:
        """The response to one request: a result or an error, never an exception.

        Args:
            exchange: the POST it came on.
            session: of the client.
            request: to be answered.
            work: gives the result.
        """
        key = (session.key, request.id)
        gate = exchange.connection.gate
        try:
            gate.pace(monotonic())
            if key in self._running:
                raise MeshError(ErrorKind.REQUEST, "a request with this id is in flight")
            gate.enter()
        except MeshError as error:
            return failed(request, error)
        # A task of its own: a cancel ends the call, not the answer to this POST. The dropped
        # connection of this era is no cancel, so nothing else ends it early.
        task = exchange.connection.loop.create_task(work())
        self._running[key] = task
        try:
            return codec.encode_response(request.id, await task)
        except MeshError as error:
            return failed(request, error)
        except asyncio.CancelledError:
            if not task.cancelled() or _being_cancelled():
                task.cancel()
                raise
            cancelled = MeshError(ErrorKind.LOST, "the request was cancelled by its client")
            return failed(request, cancelled)
        except Exception:  # noqa: BLE001 - whatever fails, its request is answered
            _log.exception("a request failed")
            return failed(request, MeshError(ErrorKind.INTERNAL, "internal error"))
        finally:
            del self._running[key]
            gate.leave()

    @contextlib.contextmanager
    def asking(self, session: HttpSession, reply: LateReply) -> Generator[Client | None]:
        """Whom to ask during a call: its client, on the stream of its POST.

        None = it takes no event stream. What it was asked ends with its session.
        """
        client = Client(session.key, session.revision, reply.ask) if reply.streams else None
        ended = self._peers.questions.ender(session.key, GONE)
        forget = self._sessions.on_end(session.id, ended)
        try:
            yield client
        finally:
            forget()

    async def take(
        self,
        exchange: Exchange,
        session: HttpSession,
        caller: Caller,
        message: Message,
        body: bytes,
    ) -> None:
        """A notification, or an answer to what this client was asked, here or elsewhere.

        Raises:
            MeshError: ``overloaded``: it is for another gateway, and there are too many of them.
        """
        if isinstance(message, Request):
            return
        if not isinstance(message, Notification) or message.method == "notifications/progress":
            if not self._peers.take(session.key, message):
                exchange.connection.gate.pace(monotonic())
                await self._peers.send_on(session.key, caller.tenant, message, body)
        elif message.method == "notifications/cancelled":
            try:
                request_id = _CANCELLED.decode(message.params).request_id
            except (msgspec.DecodeError, UnicodeDecodeError):
                return
            if not self.cancel(session.key, request_id):
                exchange.connection.gate.pace(monotonic())
                await self._peers.tell_cancelled(session.key, request_id)

    def cancel(self, session: str, request_id: RequestId) -> bool:
        """Cancel a request of the session with this key; False when it does not run here."""
        task = self._running.get((session, request_id))
        if task is not None:
            task.cancel()
        return task is not None


def failed(request: Request, error: MeshError) -> bytes:
    """The error response to a request of a legacy client."""
    return codec.encode_error(request.id, render_error(error, Peer.LEGACY, method=request.method))


def alone(message: Message) -> bytes:
    """One message of an array, as it would stand by itself; requests are not asked for."""
    if isinstance(message, Response):
        return codec.encode_response(message.id, message.result)
    if isinstance(message, ErrorResponse):
        return codec.encode_error(message.id, message.error)
    return codec.encode_notification(message.method, message.params)


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Streamable HTTP of revisions 2025-03-26 to 2025-11-25: sessions, resumable streams, GET.

A session may end at any time (404). Then nothing of the request was executed, so a new session is
opened once for all who meet it, and the request is repeated. A stream that breaks is resumed where
the server gave event ids; otherwise nobody knows what became of the request.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Callable

import aiohttp
import msgspec

from mcp_proto.codec import (
    encode_notification,
    encode_request,
)
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification
from mcp_proto.jsonrpc import Request as ServerRequest
from mcp_proto.types.meta import LOG_LEVEL
from mesh_chassis.tasks import Tasks, TasksFullError
from tool_runner.core import dialect, log_levels
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import TOKEN_KEY, Handshake, initialize_params
from tool_runner.upstreams.http_answers import (
    Answered,
    Exchange,
    Refusal,
    read_answer,
    read_refusal,
)
from tool_runner.upstreams.http_calls import HttpCall
from tool_runner.upstreams.http_failures import deadline, failed, refused
from tool_runner.upstreams.http_hearing import Hearing, HttpSession, session_headers
from tool_runner.upstreams.http_link import HttpLink
from tool_runner.upstreams.http_notices import take_notice
from tool_runner.upstreams.http_questions import take_question, withdraw, withdraw_all
from tool_runner.upstreams.inquiries import Inquiries
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.upstream import Listener, Request

__all__ = ["LegacyHttp"]

_log = logging.getLogger(__name__)

RESUMES_MAX = 20
"""Times one request's stream is taken up again; its time-out bounds them too."""
RESUME_PAUSE_S = 0.5
BARRIER_S = 1.0
"""Longest wait for the answer to a ping that only tells that the server reads on."""
TELL_S = 5.0
"""Longest wait for the receipt of a notification or answer of ours."""
_SESSION_CHARS_MAX = 1024
_SESSION_ID = re.compile(r"[\x21-\x7e]*")


class LegacyHttp:
    """The conversation with a legacy server.

    Args:
        name: server name, for errors and logs.
        link: connections.
        listener: hears of changes.
        numbers: where our ids come from.
        tasks: parent of what runs beside the calls.
        broken: called with a reason when no session can be had any more.
        askers: what is known of the server's habit to ask outside of streams, over all its lives.

    Attributes:
        handshake: what the server said of itself; None before ``open``.
        on_session: called whenever a new session has replaced a lost one.
    """

    def __init__(
        self,
        name: str,
        link: HttpLink,
        listener: Listener,
        numbers: "itertools.count[int]",
        tasks: Tasks,
        broken: Callable[[str], None],
        askers: Askers | None = None,
    ) -> None:
        self.handshake: Handshake | None = None
        self._name = name
        self._link = link
        self._listener = listener
        self._numbers = numbers
        self._tasks = tasks
        self._broken = broken
        self._session = HttpSession("", "")
        self._renewing = asyncio.Lock()
        self.on_session: Callable[[], None] = _unheard
        self._levels = log_levels.Wishes()
        self._open: dict[int, Exchange] = {}
        self._calls: dict[int, Pending] = {}
        self._inquiries = Inquiries(
            name,
            self._calls.values,
            askers if askers is not None else Askers(),
            self._tell,
            self._barrier,
        )
        self._left: asyncio.Event | None = None
        self._hearing = Hearing(
            name, link, lambda: self._session, self._renew, self._stray, self._open
        )
        self._heard_by: asyncio.Task[None] | None = None

    async def open(self, timeout_s: float) -> Handshake | ErrorObject | Refusal:
        """Shake hands.

        Returns:
            The handshake; or how ``initialize`` was refused.

        Raises:
            MeshError: ``upstream``, ``deadline``.
        """
        exchange = Exchange(next(self._numbers), "initialize")
        message = encode_request(exchange.method, exchange.number, initialize_params())
        async with deadline(self._name, exchange, timeout_s):
            response = await self._link.send("POST", _HEADERS, message)
            try:
                if response.status >= 300:
                    return await read_refusal(response)
                answer = await read_answer(response, exchange, self._name, self._stray)
                session_id = response.headers.get("Mcp-Session-Id", "")
            except (aiohttp.ClientError, OSError) as error:
                raise self._link.failure(error) from error
            finally:
                response.close()
        if answer is None:
            raise failed(self._name, "did not answer initialize", Outcome.NOT_EXECUTED)
        if isinstance(answer, ErrorResponse):
            return answer.error
        handshake = dialect.read_initialize(answer.result)
        if len(session_id) > _SESSION_CHARS_MAX or not _SESSION_ID.fullmatch(session_id):
            raise failed(self._name, "gave a malformed session id", Outcome.NOT_EXECUTED)
        self._session = HttpSession(session_id, handshake.revision.value)
        self.handshake = handshake
        self._levels.forget()
        await self._post_quietly(encode_notification("notifications/initialized"))
        return handshake

    def hear(self) -> None:
        """Begin to hear what the server says outside of calls."""
        if self._heard_by is None:
            self._heard_by = self._tasks.spawn(
                self._hearing.run(self._listener.lists_changed), name="hear"
            )

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream.call``."""
        meta = dialect.caller_meta(request.params)
        exchange = Exchange(next(self._numbers), request.method, request)
        if request.notify is not None:
            exchange.token = meta.get(TOKEN_KEY)
            self._want_logs(exchange, meta.get(LOG_LEVEL))
        params = dialect.to_upstream_params(
            request.params,
            meta,
            modern=False,
            progress_token=exchange.number if exchange.token is not None else None,
        )
        answered = False
        call = HttpCall(exchange)
        self._open[exchange.number] = exchange
        self._calls[exchange.number] = call
        try:
            answer = await self._in_turn(call, exchange, params, request.timeout_s)
            call.reply = answer
            answered = True
        except MeshError as error:
            answered = error.outcome is not Outcome.UNKNOWN
            raise
        finally:
            call.hold_time()
            del self._open[exchange.number], self._calls[exchange.number]
            if self._left is not None and not self._open:
                self._left.set()
            withdraw_all(exchange)
            self._inquiries.give_up(call)
            if not answered and call.sent:
                # A connection that ends cancels nothing in this era.
                cancel = b'{"requestId":%d}' % exchange.number
                self._tell(encode_notification("notifications/cancelled", cancel))
                self._inquiries.turns.cancelled(exchange.number, call.owner)
            self._inquiries.leave(call)
        if isinstance(answer, ErrorResponse):
            return dialect.to_bus_error(
                answer.error,
                modern=False,
                method=request.method,
                server=self._name,
                began=call.asked,
            )
        return dialect.to_bus_result(answer.result, modern=False, method=request.method)

    async def ask(self, method: str, params: bytes, timeout_s: float) -> msgspec.Raw | ErrorObject:
        """Send a request of our own.

        Raises:
            MeshError: ``upstream``, ``deadline``.
        """
        exchange = Exchange(next(self._numbers), method)
        self._calls[exchange.number] = Pending(method)
        try:
            async with deadline(self._name, exchange, timeout_s):
                answer = await self._exchange(exchange, params)
        finally:
            del self._calls[exchange.number]
        return answer.error if isinstance(answer, ErrorResponse) else answer.result

    async def listen(
        self, params: bytes, acknowledged: Callable[[msgspec.Raw], None]
    ) -> msgspec.Raw | ErrorObject:
        """See ``notices.Conversation``: does not exist in this era."""
        del params, acknowledged
        raise MeshError(ErrorKind.METHOD, "subscriptions/listen is of a later revision")

    async def idle(self, timeout_s: float) -> None:
        """Wait until no call is under way, but not for ever."""
        self._left = asyncio.Event()
        if self._open:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._left.wait()
            except TimeoutError:
                _log.warning("calls outlast their session", extra={"server": self._name})

    async def close(self) -> None:
        """End the session at the server, as far as it listens."""
        self.release()
        if self._heard_by is not None:
            self._heard_by.cancel()
            await asyncio.gather(self._heard_by, return_exceptions=True)
        session = self._session
        if not session.id:
            return
        self._session = HttpSession("", session.version)
        try:
            async with asyncio.timeout(_DELETE_S):
                response = await self._link.send("DELETE", session_headers(session))
                response.close()
        except (MeshError, TimeoutError) as error:
            _log.debug("session not ended: %s", error, extra={"server": self._name})

    def release(self) -> None:
        """No call will be sent any more: those that wait for their turn fail."""
        for call in self._calls.values():
            if not call.sent:
                call.fail(failed(self._name, "was stopped", Outcome.NOT_EXECUTED))
        self._inquiries.close()

    # One exchange

    async def _in_turn(
        self, call: HttpCall, exchange: Exchange, params: bytes, timeout_s: float
    ) -> Answered:
        loop = asyncio.get_running_loop()
        if self._inquiries.careful:
            began = loop.time()
            call.time(timeout_s)
            await self._inquiries.enter(call)
            call.hold_time()
            timeout_s = call.restarted_s or max(0.0, timeout_s - (loop.time() - began))
        call.sent = True
        call.running_since = loop.time()
        async with deadline(self._name, exchange, timeout_s):
            return await self._exchange(exchange, params)

    async def _barrier(self) -> None:
        """Wait until the server has probably read what was sent to it, but not long."""
        try:
            await self.ask("ping", b"", BARRIER_S)
        except MeshError as error:
            _log.debug("ping: %s", error.message, extra={"server": self._name})

    async def _exchange(self, exchange: Exchange, params: bytes) -> Answered:
        message = encode_request(exchange.method, exchange.number, params)
        refusal: Refusal | None = None
        for _ in range(2):
            session = self._session
            response = await self._link.send(
                "POST", {**_HEADERS, **session_headers(session)}, message
            )
            try:
                if response.status < 300:
                    answer = await self._answer(response, exchange, session)
                    self._link.finish(response)
                    return answer
                refusal = await read_refusal(response)
            except BaseException:
                response.close()
                raise
            response.close()
            if not (session.id and _lost(refusal)):
                break
            await self._renew(session)
        assert refusal is not None
        if refusal.error is not None and refusal.status not in {401, 403}:
            return ErrorResponse(exchange.number, refusal.error)
        raise refused(self._name, refusal)

    async def _answer(
        self, response: aiohttp.ClientResponse, exchange: Exchange, session: HttpSession
    ) -> Answered:
        answer: Answered | None = None
        try:
            answer = await read_answer(response, exchange, self._name, self._stray)
        except (aiohttp.ClientError, OSError) as error:
            if not exchange.last_event_id:
                raise self._link.failure(error) from error
        for _ in range(RESUMES_MAX):
            if answer is not None:
                return answer
            if not exchange.last_event_id:
                break
            pause_ms = exchange.retry_ms
            await asyncio.sleep(RESUME_PAUSE_S if pause_ms is None else pause_ms / 1000)
            answer = await self._resume(exchange, session)
        if answer is not None:
            return answer
        raise failed(self._name, "ended its stream without an answer", Outcome.UNKNOWN)

    async def _resume(self, exchange: Exchange, session: HttpSession) -> Answered | None:
        """Take the stream of a request up again where it broke."""
        headers = {
            "Accept": "text/event-stream",
            "Last-Event-ID": exchange.last_event_id,
            **session_headers(session),
        }
        try:
            response = await self._link.send("GET", headers)
        except MeshError as error:
            _log.info("resume: %s", error.message, extra={"server": self._name})
            return None
        try:
            if response.status >= 300:
                raise failed(
                    self._name,
                    f"does not resume a broken stream (HTTP {response.status})",
                    Outcome.UNKNOWN,
                )
            return await read_answer(response, exchange, self._name, self._stray)
        except (aiohttp.ClientError, OSError):
            return None
        finally:
            response.close()

    async def _renew(self, lost: HttpSession) -> None:
        """Open a new session in place of ``lost``, once for all who met its end."""
        async with self._renewing:
            if self._session is not lost:
                return
            _log.info("the session is lost, a new one is opened", extra={"server": self._name})
            try:
                answer = await self.open(_RENEW_S)
            except MeshError as error:
                answer = error
            self._inquiries.forget()
            if not isinstance(answer, Handshake):
                what = "ended its session and opens no new one"
                self._broken(what)
                raise failed(self._name, what, Outcome.NOT_EXECUTED)
        self._listener.lists_changed()
        self.on_session()

    # What belongs to no answer

    def _stray(self, message: Message, exchange: Exchange | None) -> None:
        match message:
            case ServerRequest() if exchange is None and message.method != "ping":
                self._inquiries.take(message)
            case ServerRequest():
                take_question(message, exchange, self._tell, self._inquiries.roots.given)
            case Notification(method="notifications/cancelled") if exchange is None:
                self._inquiries.withdraw(message.params)
            case Notification(method="notifications/cancelled"):
                withdraw(message.params, exchange)
            case Notification():
                take_notice(message, self._listener, self._name)
            case _:
                pass

    def _tell(self, message: bytes) -> None:
        """Send a notification or answer of ours, without waiting for its receipt."""
        try:
            self._tasks.spawn(self._post_quietly(message), name="tell")
        except TasksFullError as error:
            _log.warning("not sent: %s", error, extra={"server": self._name})

    async def _post_quietly(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(TELL_S):
                headers = {**_HEADERS, **session_headers(self._session)}
                response = await self._link.send("POST", headers, message)
                response.close()
        except (MeshError, TimeoutError) as error:
            _log.info("not sent: %s", error, extra={"server": self._name})

    def _want_logs(self, exchange: Exchange, raw: msgspec.Raw | None) -> None:
        level = log_levels.read(raw)
        exchange.log_level = level
        if not level or self.handshake is None:
            return
        if b'"logging"' not in bytes(self.handshake.capabilities):
            return
        wanted = self._levels.want(level, asyncio.get_running_loop().time())
        if not wanted:
            return
        # Nobody waits for the answer: the level is a wish, and the call must not be later for it.
        params = b'{"level":"' + wanted.encode() + b'"}'
        self._tell(encode_request("logging/setLevel", next(self._numbers), params))


def _unheard() -> None:
    """Nobody has asked to hear of new sessions."""


_HEADERS = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
_DELETE_S = 2.0
_RENEW_S = 15.0


_KNOWN_CODES = frozenset((-32601, -32602))


def _lost(refusal: Refusal) -> bool:
    """Whether a refusal means that the session is no more."""
    if refusal.status == 404:
        # Some servers say it of a method they do not know, in a session that lives.
        return refusal.error is None or refusal.error.code not in _KNOWN_CODES
    # Some servers say 400 where the text demands 404.
    return refusal.status == 400 and "session" in refusal.text.lower()

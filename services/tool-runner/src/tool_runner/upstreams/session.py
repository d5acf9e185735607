"""One MCP conversation with a server: ids, answers, notifications, whatever carries the lines.

Ids are minted here per connection; a caller's id, progress token or name of a request never goes
upstream, so answers cannot be mixed up between callers. Everything the server sends is sorted in
one callback without waiting; the task that awaits a call passes its notifications on in order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from mcp_proto.codec import (
    decode_as,
    decode_batch,
    decode_message,
    encode_notification,
    encode_request,
    encode_response,
    is_batch,
    splice,
)
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.framing import TooLong
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification, Response
from mcp_proto.jsonrpc import Request as ServerRequest
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES
from mcp_proto.types.meta import LOG_LEVEL, SUBSCRIPTION_ID
from tool_runner.core import dialect, log_levels
from tool_runner.core.askers import Askers
from tool_runner.core.dialect import TOKEN_KEY, Handshake
from tool_runner.upstreams.inquiries import Inquiries
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.upstream import Listener, Request

__all__ = ["NOISE_LINES_MAX", "Session", "Wire"]

NOISE_LINES_MAX = 100
"""Lines in a row that are no JSON-RPC before a server counts as broken."""
LISTEN_WRITE_S = 5.0
"""Longest wait for a server to read a listen."""
BARRIER_S = 1.0
"""Longest wait for the answer to a ping that only tells that the server reads on."""
NOTES_MAX = 256
"""Notifications of one call that wait for their caller; the oldest go first."""
_TIMER_GRAIN_S = 0.05

_NO_PARAMS = msgspec.Raw(b"")
_log = logging.getLogger(__name__)


class Wire(msgspec.Struct, frozen=True):
    """Where messages go.

    Attributes:
        write: sends a request, waiting at most the seconds given for room.
        write_now: sends a small message without waiting.
        broken: called with a reason when the server cannot be talked to.
        silent: called when a caller gave up and nothing at all was heard for too long.
    """

    write: Callable[[bytes, float], Awaitable[None]]
    write_now: Callable[[bytes], None]
    broken: Callable[[str], None]
    silent: Callable[[], None]


class Session:
    """The conversation. ``receive`` is fed every line; ``end`` fails what is in flight.

    Args:
        name: server name, for errors and logs.
        wire: where messages go.
        listener: hears of changed lists.
        silence_max_s: a server that owes answers and says nothing for so long is suspected.
        askers: what is known of the server's habit to ask back, over all its lives.
    """

    def __init__(
        self,
        name: str,
        wire: Wire,
        listener: Listener,
        *,
        silence_max_s: float,
        askers: Askers | None = None,
    ) -> None:
        self.handshake: Handshake | None = None
        self.heard_at = 0.0
        self._name = name
        self._wire = wire
        self._listener = listener
        self._pending: dict[int, Pending] = {}
        self._listens: dict[int, _Listening] = {}
        self._askers = askers if askers is not None else Askers()
        self._inquiries = Inquiries(
            name, self._pending.values, self._askers, wire.write_now, self._barrier
        )
        self._next = 0
        self._noise = 0
        self._ended: MeshError | None = None
        self._levels = log_levels.Wishes()
        self._silence_max_s = silence_max_s
        self._quiet_from = 0.0
        """Since when requests wait without any sign of the server; 0 = nothing waits."""

    @property
    def inflight(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    async def call(self, request: Request) -> bytes | ErrorObject:
        """See ``Upstream.call``."""
        modern = self.handshake is not None and self.handshake.modern
        meta = dialect.caller_meta(request.params)
        number, pending = self._open(request.method, request)
        if request.notify is not None:
            pending.notes = deque(maxlen=NOTES_MAX)
            pending.token = meta.get(TOKEN_KEY)
            self._want_logs(pending, meta.get(LOG_LEVEL), modern=modern)
        params = dialect.to_upstream_params(
            request.params,
            meta,
            modern=modern,
            progress_token=number if pending.token is not None else None,
        )
        reply = await self._exchange(
            number, pending, encode_request(request.method, number, params), request
        )
        if isinstance(reply, ErrorResponse):
            return dialect.to_bus_error(
                reply.error,
                modern=modern,
                method=request.method,
                server=self._name,
                began=pending.asked,
            )
        return dialect.to_bus_result(reply.result, modern=modern, method=request.method)

    async def ask(self, method: str, params: bytes, timeout_s: float) -> msgspec.Raw | ErrorObject:
        """Send a request of our own.

        Raises:
            MeshError: ``upstream`` when the connection ends, ``deadline``.
        """
        number, pending = self._open(method)
        own = Request(method=method, params=_NO_PARAMS, timeout_s=timeout_s)
        message = encode_request(method, number, params)
        reply = await self._exchange(number, pending, message, own, cancels=False)
        return reply.error if isinstance(reply, ErrorResponse) else reply.result

    async def listen(
        self, params: bytes, acknowledged: Callable[[msgspec.Raw], None]
    ) -> msgspec.Raw | ErrorObject:
        """``subscriptions/listen`` until the server ends it; see ``notices.Conversation``."""
        number, pending = self._open("subscriptions/listen")
        # Apart from the calls: it waits for no answer, so its silence says nothing.
        del self._pending[number]
        self._listens[number] = _Listening(pending, acknowledged)
        try:
            await self._wire.write(
                encode_request("subscriptions/listen", number, params), LISTEN_WRITE_S
            )
            await pending.wake
        except asyncio.CancelledError:
            if self._ended is None:
                self.tell("notifications/cancelled", b'{"requestId":%d}' % number)
            raise
        finally:
            del self._listens[number]
        if pending.failure is not None:
            raise pending.failure
        reply = pending.reply
        assert reply is not None
        return reply.error if isinstance(reply, ErrorResponse) else reply.result

    def tell(self, method: str, params: bytes = b"") -> None:
        """Send a notification; dropped when the connection is gone."""
        try:
            self._wire.write_now(encode_notification(method, params))
        except MeshError as error:
            _log.debug("not sent: %s", error.message, extra={"server": self._name})

    def end(self, error: MeshError) -> None:
        """The connection is gone: everything in flight fails at once."""
        self._ended = error
        self._inquiries.close()
        for pending in self._pending.values():
            pending.fail(error)
        for listening in self._listens.values():
            listening.pending.fail(error)

    def _open(self, method: str, request: Request | None = None) -> tuple[int, Pending]:
        if self._ended is not None:
            raise MeshError(
                ErrorKind.UPSTREAM,
                self._ended.message,
                data=self._ended.data,
                outcome=Outcome.NOT_EXECUTED,
            )
        self._next += 1
        pending = Pending(method, request)
        self._pending[self._next] = pending
        return self._next, pending

    async def _exchange(
        self,
        number: int,
        pending: Pending,
        message: bytes,
        request: Request,
        *,
        cancels: bool = True,
    ) -> Response | ErrorResponse:
        loop = asyncio.get_running_loop()
        if not self._quiet_from:
            self._quiet_from = loop.time()
        pending.time(request.timeout_s)
        try:
            if self._inquiries.careful and pending.request is not None:
                await self._inquiries.enter(pending)
            pending.sent = True
            pending.running_since = loop.time()
            await self._wire.write(message, request.timeout_s)
            return await self._outcome(pending, request)
        except BaseException:
            # Out of band and with our own id: the server may be busy with this very request.
            answered = pending.reply is not None or pending.failure is not None
            if cancels and pending.sent and not answered and self._ended is None:
                self._inquiries.give_up(pending)
                self.tell("notifications/cancelled", b'{"requestId":%d}' % number)
                self._inquiries.turns.cancelled(number, pending.owner)
                self._consider_silence(loop.time())
            raise
        finally:
            pending.hold_time()
            del self._pending[number]
            self._inquiries.leave(pending)

    async def _barrier(self) -> None:
        """Wait until the server has read what was sent to it, but not long."""
        try:
            await self.ask("ping", b"", BARRIER_S)
        except MeshError as error:
            _log.debug("ping: %s", error.message, extra={"server": self._name})

    def _consider_silence(self, now: float) -> None:
        """A caller gave up. Nothing heard for as long as a call may take: is anybody there?"""
        if not self._quiet_from or self.handshake is None:
            return
        if now - self._quiet_from >= self._silence_max_s - _TIMER_GRAIN_S:
            self._wire.silent()

    async def _outcome(self, pending: Pending, request: Request) -> Response | ErrorResponse:
        while True:
            await pending.wake
            while pending.notes and request.notify is not None:
                await self._pass_on(pending.notes.popleft(), request.notify)
            if pending.reply is not None:
                return pending.reply
            if pending.failure is not None:
                raise pending.failure
            if pending.expired:
                raise MeshError(
                    ErrorKind.DEADLINE,
                    f"server {self._name} did not answer within {request.timeout_s:.3g} s",
                    data={"upstream": self._name},
                )
            pending.wake = asyncio.get_running_loop().create_future()

    async def _pass_on(self, note: bytes, notify: Callable[[bytes], Awaitable[None]]) -> None:
        """A notification that cannot be delivered is dropped: the call itself goes on."""
        try:
            await notify(note)
        except MeshError as error:
            _log.info("notification dropped: %s", error.message, extra={"server": self._name})

    def receive(self, line: bytes) -> None:
        """Take one line of the server."""
        if self._ended is not None:
            return
        try:
            messages = (
                decode_batch(line, UPSTREAM_MESSAGE_BYTES)
                if is_batch(line)
                else [decode_message(line, UPSTREAM_MESSAGE_BYTES)]
            )
        except MeshError as error:
            self._take_refused(error, line)
            return
        for message in messages:
            if isinstance(message, MeshError):
                self._take_refused(message, line)
            else:
                self._noise = 0
                self._take(message)

    def receive_too_long(self, event: TooLong) -> None:
        """Take notice of a line over the limit: whose answer it was fails, if that is known."""
        number = event.request_id
        if number is None and len(self._pending) == 1:
            number = next(iter(self._pending))
        pending = self._pending.get(number) if isinstance(number, int) else None
        if pending is not None:
            pending.fail(
                MeshError(
                    ErrorKind.TOO_LARGE,
                    f"the answer of server {self._name} exceeds {event.max_bytes} bytes",
                    data={"upstream": self._name, "maxBytes": event.max_bytes},
                    outcome=Outcome.EXECUTED,
                )
            )

    def _take_refused(self, error: MeshError, line: bytes) -> None:
        """A line that cannot be passed on: the call it answers fails, if its id could be read."""
        number = error.request_id
        pending = self._pending.get(number) if isinstance(number, int) else None
        if pending is None:
            self._take_noise(line)
            return
        pending.fail(
            MeshError(
                ErrorKind.UPSTREAM,
                f"the answer of server {self._name} cannot be passed on: {error.message}",
                data={"upstream": self._name},
                outcome=Outcome.EXECUTED,
            )
        )

    def _take_noise(self, line: bytes) -> None:
        self._noise += 1
        if self._noise == 1:
            _log.warning(
                "the server prints what is no JSON-RPC: %r", line[:200],
                extra={"server": self._name},
            )  # fmt: skip
        if self._noise > NOISE_LINES_MAX:
            self._wire.broken("prints what is no MCP on its output")

    def _take(self, message: Message) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self._quiet_from = self.heard_at if len(self._pending) > 1 else 0.0
        match message:
            case Response() | ErrorResponse():
                pending = self._pending.get(message.id) if isinstance(message.id, int) else None
                if pending is not None:
                    pending.settle(message)
                elif isinstance(message.id, int) and message.id in self._listens:
                    self._listens[message.id].pending.settle(message)
                elif isinstance(message.id, int):
                    self._inquiries.turns.answered(message.id)
            case ServerRequest():
                self._answer(message)
            case Notification():
                self._hear(message)

    def _answer(self, request: ServerRequest) -> None:
        if request.method != "ping":
            self._inquiries.take(request)
            return
        try:
            self._wire.write_now(encode_response(request.id, b"{}"))
        except MeshError as error:
            _log.debug("not answered: %s", error.message, extra={"server": self._name})

    def _hear(self, message: Notification) -> None:
        match message.method:
            case "notifications/progress":
                self._hear_progress(message)
            case "notifications/message":
                self._hear_log(message)
            case (
                "notifications/tools/list_changed"
                | "notifications/resources/list_changed"
                | "notifications/prompts/list_changed"
            ):
                self._listener.lists_changed()
            case "notifications/resources/updated":
                self._listener.resource_updated(message.params)
            case "notifications/cancelled":
                self._inquiries.withdraw(message.params)
            case "notifications/elicitation/complete":
                asked = self._inquiries.link_done(message.params)
                if asked is not None:
                    asked.note(encode_notification(message.method, message.params))
            case "notifications/subscriptions/acknowledged":
                self._hear_acknowledged(message)
            case _:
                _log.debug("ignored %s", message.method[:64], extra={"server": self._name})

    def _hear_acknowledged(self, message: Notification) -> None:
        try:
            number = decode_as(message.params, _Acknowledged).meta.subscription
        except MeshError:
            return
        listening = self._listens.get(number) if isinstance(number, int) else None
        if listening is not None:
            listening.acknowledged(message.params)

    def _hear_progress(self, message: Notification) -> None:
        try:
            said = decode_as(message.params, _Progress)
        except MeshError:
            return
        pending = self._pending.get(said.token) if isinstance(said.token, int) else None
        if pending is not None and pending.token is not None and pending.reply is None:
            if pending.progress is not None and said.progress <= pending.progress:
                return  # progress must grow with each notification
            pending.progress = said.progress
            params = splice(message.params, {TOKEN_KEY: bytes(pending.token)})
            pending.note(encode_notification(message.method, params))

    def _hear_log(self, message: Notification) -> None:
        """A log line names no request, so it goes to the caller only where there is one."""
        running = [one for one in self._pending.values() if not one.parked]
        try:
            level = decode_as(message.params, _LogMessage).level
        except MeshError:
            return
        owners = {one.owner for one in self._pending.values()}
        if len(running) == len(owners) == 1:
            # Calls of the same caller that wait for an answer say nothing meanwhile.
            wanted = running[0].log_level if running[0].reply is None else ""
            if wanted and log_levels.reaches(level, wanted):
                running[0].note(encode_notification(message.method, message.params))
        else:
            text = bytes(message.params)[:500].decode(errors="replace")
            _log.debug("log of the server: %s", text, extra={"server": self._name})

    def _want_logs(self, pending: Pending, raw: msgspec.Raw | None, *, modern: bool) -> None:
        level = log_levels.read(raw)
        pending.log_level = level
        if not level or modern:
            return
        if self.handshake is None or b'"logging"' not in bytes(self.handshake.capabilities):
            return
        wanted = self._levels.want(level, asyncio.get_running_loop().time())
        if not wanted:
            return
        # Nobody waits for the answer: the level is a wish, and the call must not be later for it.
        self._next += 1
        params = b'{"level":"' + wanted.encode() + b'"}'
        try:
            self._wire.write_now(encode_request("logging/setLevel", self._next, params))
        except MeshError:
            self._levels.forget()


class _Listening(msgspec.Struct, frozen=True, gc=False):
    """A ``subscriptions/listen`` in flight."""

    pending: Pending
    acknowledged: Callable[[msgspec.Raw], None]


class _SubscriptionMeta(msgspec.Struct, frozen=True):
    subscription: str | int = msgspec.field(name=SUBSCRIPTION_ID)


class _Acknowledged(msgspec.Struct, frozen=True):
    meta: _SubscriptionMeta = msgspec.field(name="_meta")


class _Progress(msgspec.Struct, frozen=True):
    progress: float
    token: str | int = msgspec.field(name=TOKEN_KEY)


class _LogMessage(msgspec.Struct, frozen=True):
    level: str

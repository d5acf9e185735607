"""One request over HTTP and what comes back on its response: messages in order, then the answer.

The response of a POST belongs to one request, so everything on it does too. It is read in the
task of that request: a caller that takes its notifications slowly slows down the server by TCP,
and nothing is buffered beyond one message.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec

from mcp_proto.codec import (
    decode_as,
    decode_batch,
    decode_message,
    encode_notification,
    is_batch,
    splice,
)
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.eventstream import Event, EventStream
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification, RequestId, Response
from mcp_proto.jsonrpc import Request as ServerRequest
from mcp_proto.limits import UPSTREAM_MESSAGE_BYTES
from tool_runner.core import log_levels
from tool_runner.core.dialect import TOKEN_KEY
from tool_runner.upstreams.http_link import read_body
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.upstream import Request

__all__ = [
    "Answered",
    "Exchange",
    "Refusal",
    "Stray",
    "progress_number",
    "read_answer",
    "read_refusal",
]

Answered = Response | ErrorResponse

NOISE_EVENTS_MAX = 100
"""Events in a row that are no JSON-RPC before a stream counts as broken."""
REFUSAL_BYTES_MAX = 64 * 1024
"""Read of the body of an HTTP error; JSON-RPC errors are far smaller."""

_log = logging.getLogger(__name__)

Stray = Callable[[Message, "Exchange | None"], None]
"""Takes what is no answer and no news of the call itself; must not wait."""


class Exchange:
    """One request and what its caller wants to hear.

    Args:
        number: our own JSON-RPC id; our progress token too.
        method: MCP method.
        request: of a caller; None for one of our own.

    Attributes:
        token: the caller's progress token, raw; None = no progress wanted.
        log_level: least level of log messages the caller wants; "" = none.
        last_event_id: where a broken stream can be resumed; "" = nowhere.
        retry_ms: how long the server wants us to wait before that.
        limit: the running time-out, so that waiting for people does not count.
        questions: of the server to the caller, by id: withdraws each.
        call: it among all calls of the session; None = one of our own.
    """

    def __init__(self, number: int, method: str, request: Request | None = None) -> None:
        self.number = number
        self.method = method
        self.request = request
        self.token: msgspec.Raw | None = None
        self.log_level = ""
        self.last_event_id = ""
        self.retry_ms: int | None = None
        self.limit: asyncio.Timeout | None = None
        self.questions: dict[RequestId, Callable[[], None]] = {}
        self.call: Pending | None = None

    @property
    def notify(self) -> Callable[[bytes], Awaitable[None]] | None:
        """Takes notifications for the caller."""
        return self.request.notify if self.request is not None else None

    async def hear(self, note: Notification) -> bool:
        """Pass a notification on to the caller; False when it is none of a call."""
        match note.method:
            case "notifications/progress":
                passed = self._progress(note)
            case "notifications/message":
                passed = self._log(note)
            case _:
                return False
        notify = self.notify
        if passed is not None and notify is not None:
            try:
                await notify(passed)
            except MeshError as error:
                _log.info("notification dropped: %s", error.message)
        return True

    def _progress(self, note: Notification) -> bytes | None:
        if self.token is None:
            return None
        if progress_number(note) != self.number:
            return None
        return encode_notification(note.method, splice(note.params, {TOKEN_KEY: bytes(self.token)}))

    def _log(self, note: Notification) -> bytes | None:
        if not self.log_level:
            return None
        try:
            level = decode_as(note.params, _LogMessage).level
        except MeshError:
            return None
        if not log_levels.reaches(level, self.log_level):
            return None
        return encode_notification(note.method, note.params)


def progress_number(note: Notification) -> int | None:
    """Which of our requests a progress notification is about; None when that cannot be read."""
    try:
        token = decode_as(note.params, _Progress).token
    except MeshError:
        return None
    return token if isinstance(token, int) else None


class Refusal(msgspec.Struct, frozen=True):
    """An HTTP error status.

    Attributes:
        status: of HTTP.
        error: the JSON-RPC error of the body; None when it holds none.
        text: beginning of the body, printable, for people.
        retry_after_s: what the server asks for; None = nothing.
    """

    status: int
    error: ErrorObject | None
    text: str
    retry_after_s: float | None = None


async def read_refusal(response: aiohttp.ClientResponse) -> Refusal:
    """Read an HTTP error, as far as it can be read."""
    body = b""
    try:
        async with asyncio.timeout(_REFUSAL_S):
            body = await read_body(response, REFUSAL_BYTES_MAX) or b""
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # the status alone says enough
    error: ErrorObject | None = None
    try:
        message = decode_message(body, UPSTREAM_MESSAGE_BYTES)
        if isinstance(message, ErrorResponse):
            error = message.error
    except MeshError:
        pass
    text = error.message if error is not None else body[:500].decode(errors="replace")
    clean = "".join(one if one.isprintable() else " " for one in text).strip()[:200]
    said = response.headers.get("Retry-After", "")
    retry_after_s = min(float(said), 3600.0) if said.isdigit() and len(said) < 6 else None
    return Refusal(response.status, error, clean, retry_after_s)


async def read_answer(
    response: aiohttp.ClientResponse, exchange: Exchange, server: str, stray: Stray
) -> Answered | None:
    """Read a successful response to its answer.

    Args:
        response: status 2xx, body unread.
        exchange: the request it belongs to.
        server: name, for errors.
        stray: takes other messages of the stream.

    Returns:
        The answer; None when the stream ended without one.

    Raises:
        MeshError: ``upstream``, ``too_large``.
        aiohttp.ClientError, OSError: the connection broke.
    """
    kind = response.content_type.lower() if "Content-Type" in response.headers else ""
    if kind == "application/json":
        body = await read_body(response, UPSTREAM_MESSAGE_BYTES)
        if body is None:
            raise _too_large(server)
        return await _from_body(body, exchange, server, stray)
    if kind == "text/event-stream":
        return await _from_stream(response, exchange, server, stray)
    if response.status == 202 or response.content_length == 0:
        raise _failed(server, "took the request for a notification", Outcome.UNKNOWN)
    raise _failed(server, f"answered with content type {kind[:64] or 'missing'!r}", Outcome.UNKNOWN)


async def _from_body(body: bytes, exchange: Exchange, server: str, stray: Stray) -> Answered:
    for message in _decode(body, server):
        answer = await _sort(message, exchange, stray)
        if answer is not None:
            return answer
    raise _failed(server, "answered with no response to the request", Outcome.UNKNOWN)


async def _from_stream(
    response: aiohttp.ClientResponse, exchange: Exchange, server: str, stray: Stray
) -> Answered | None:
    stream, noise = EventStream(), 0
    async for chunk in response.content.iter_any():
        for event in _fed(stream, chunk, server):
            if not event.data or event.kind not in {"", "message"}:
                continue  # the priming event of a stream that can be resumed, or a foreign kind
            try:
                messages = _decode(event.data, server)
            except MeshError as error:
                noise += 1
                if error.request_id == exchange.number or noise > NOISE_EVENTS_MAX:
                    raise
                continue
            noise = 0
            for message in messages:
                answer = await _sort(message, exchange, stray)
                if answer is not None:
                    return answer
        exchange.last_event_id, exchange.retry_ms = (
            stream.last_id or exchange.last_event_id,
            stream.retry_ms if stream.retry_ms is not None else exchange.retry_ms,
        )
    return None


def _fed(stream: EventStream, chunk: bytes, server: str) -> list[Event]:
    try:
        return stream.feed(chunk)
    except MeshError as error:
        error.data["upstream"] = server
        raise


def _decode(data: bytes, server: str) -> list[Message]:
    try:
        if not is_batch(data):
            return [decode_message(data, UPSTREAM_MESSAGE_BYTES)]
        messages = decode_batch(data, UPSTREAM_MESSAGE_BYTES)
    except MeshError as error:
        refused = _failed(
            server, f"sent what cannot be passed on: {error.message}", Outcome.EXECUTED
        )
        refused.request_id = error.request_id
        raise refused from error
    return [message for message in messages if not isinstance(message, MeshError)]


async def _sort(message: Message, exchange: Exchange, stray: Stray) -> Answered | None:
    match message:
        case Response() | ErrorResponse():
            # An error without id can only be about the one request of this response.
            mine = message.id == exchange.number or message.id is None
            return message if mine else None
        case Notification():
            if not await exchange.hear(message):
                stray(message, exchange)
        case ServerRequest():
            stray(message, exchange)
    return None


def _too_large(server: str) -> MeshError:
    return MeshError(
        ErrorKind.TOO_LARGE,
        f"the answer of server {server} exceeds {UPSTREAM_MESSAGE_BYTES} bytes",
        data={"upstream": server, "maxBytes": UPSTREAM_MESSAGE_BYTES},
        outcome=Outcome.EXECUTED,
    )


def _failed(server: str, what: str, outcome: Outcome) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM, f"server {server} {what}", data={"upstream": server}, outcome=outcome
    )


_REFUSAL_S = 5.0


class _Progress(msgspec.Struct, frozen=True):
    token: str | int = msgspec.field(name=TOKEN_KEY)


class _LogMessage(msgspec.Struct, frozen=True):
    level: str

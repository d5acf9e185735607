"""One connection on which JSON-RPC messages travel as lines, many requests at a time.

Answers are told apart by their id, progress by its token, subscriptions by the id of the listen.
Log messages name no request: so at most one request that wants them runs on a connection.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from typing import Self

import msgspec

from mcp_proto.codec import encode, encode_notification, encode_request
from mcp_proto.errors import ErrorKind, Outcome
from mcp_proto.framing import Line, LineFramer, to_line
from mcp_proto.jsonrpc import ErrorResponse, Message, Notification, RequestId, Response
from mcp_proto.types.meta import SUBSCRIPTION_ID
from mesh_sdk.client.errors import MeshCallError, lost, too_late
from mesh_sdk.client.settings import LOGGER
from mesh_sdk.client.transports.answers import (
    ANSWER_BYTES_MAX,
    check_size,
    read_message,
    result_of,
    tell,
)
from mesh_sdk.client.transports.transport import Hear, Outgoing

__all__ = ["IN_FLIGHT_MAX", "LineLink"]

IN_FLIGHT_MAX = 48
"""Requests on one connection; an edge takes 64."""
_READ_BYTES = 64 * 1024
_CLOSE_S = 1.0
_log = logging.getLogger(LOGGER)


class _Meta(msgspec.Struct, frozen=True):
    subscription: RequestId | None = msgspec.field(name=SUBSCRIPTION_ID, default=None)


class _NoteParams(msgspec.Struct, frozen=True):
    token: RequestId | None = msgspec.field(name="progressToken", default=None)
    meta: _Meta | None = msgspec.field(name="_meta", default=None)


class _Waiting:
    """A request on its way."""

    __slots__ = ("answer", "hear", "request")

    def __init__(
        self, request: Outgoing, hear: Hear | None, answer: "asyncio.Future[Message | None]"
    ) -> None:
        self.request = request
        self.hear = hear
        self.answer = answer


_NOTE = msgspec.json.Decoder(_NoteParams)


class LineLink:
    """A connected stream. Made by ``connect``.

    Attributes:
        endpoint: what all its requests are for.
        used_at: loop time of the last sign of life.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoint: str
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[RequestId, _Waiting] = {}
        self._tokens: dict[RequestId, _Waiting] = {}
        self._count = 0
        self._gone = ""
        self._reading = self._loop.create_task(self._read(), name="mesh-line-link")
        self.endpoint = endpoint
        self.used_at = self._loop.time()

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        endpoint: str,
        connect_s: float,
        keepalive_s: float,
    ) -> Self:
        """Connect; nothing is said yet.

        Raises:
            MeshCallError: ``lost``, not executed.
        """
        try:
            async with asyncio.timeout(connect_s):
                reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        except (OSError, TimeoutError) as error:
            words = str(error) or type(error).__name__
            raise lost(f"cannot connect to {host}:{port}: {words}", Outcome.NOT_EXECUTED) from error
        _keep_alive(writer, keepalive_s)
        return cls(reader, writer, endpoint)

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return not self._gone

    @property
    def in_flight(self) -> int:
        """Requests waiting for their answers, listens included."""
        return len(self._waiting)

    @property
    def hears_log(self) -> bool:
        """Whether a request here wants log messages."""
        return any(one.request.hears_log for one in self._waiting.values())

    async def send(self, request: Outgoing, hear: Hear | None = None) -> msgspec.Raw:
        """See ``Transport.send``."""
        self._count += 1
        number = self._count
        line = to_line(encode_request(request.method, number, request.params))
        check_size(line)
        if self._gone:
            raise lost(self._gone, Outcome.NOT_EXECUTED)
        waiting = _Waiting(request, hear, self._loop.create_future())
        self._waiting[number] = waiting
        if request.token:
            self._tokens[request.token] = waiting
        answered = False
        try:
            async with asyncio.timeout(None if request.listens else request.timeout_s):
                self._writer.write(line)
                await self._writer.drain()
                message = await waiting.answer
                answered = True
        except TimeoutError:
            raise too_late(Outcome.UNKNOWN) from None
        except OSError as error:
            answered = True  # nobody is there to hear a cancel
            raise lost(f"the connection broke: {error}", Outcome.UNKNOWN) from error
        finally:
            self._waiting.pop(number, None)
            self._tokens.pop(request.token, None)
            if not answered:
                self._cancel(number)
        if isinstance(message, Response | ErrorResponse):
            return result_of(message)
        raise lost(self._gone or "the connection is gone", Outcome.UNKNOWN)

    async def ask_plainly(self, method: str, params: object, timeout_s: float) -> msgspec.Raw:
        """A request without the envelope: ``ping``, ``authenticate``, ``initialize``."""
        return await self.send(Outgoing(method=method, params=encode(params), timeout_s=timeout_s))

    async def close(self) -> None:
        """Close; what is in flight fails."""
        self._end("the client is closed")
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self._writer.wait_closed()

    def end(self, why: str) -> None:
        """It shows no sign of life: give it up."""
        self._end(why)
        self._reading.cancel()

    # Reading

    async def _read(self) -> None:
        framer = LineFramer(ANSWER_BYTES_MAX)
        why = "the mesh closed the connection"
        try:
            while data := await self._reader.read(_READ_BYTES):
                self.used_at = self._loop.time()
                for event in framer.feed(data):
                    if isinstance(event, Line):
                        self._take(event.data)
                    else:
                        self._too_long(event.request_id)
        except OSError as error:
            why = f"the connection broke: {error}"
        except MeshCallError as error:
            why = error.message
        finally:
            self._end(why)

    def _take(self, data: bytes) -> None:
        message = read_message(data)
        if isinstance(message, Notification):
            self._hear(message)
        elif isinstance(message, Response) or (
            isinstance(message, ErrorResponse) and message.id is not None
        ):
            waiting = self._waiting.get(message.id) if message.id is not None else None
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_result(message)
        elif isinstance(message, ErrorResponse):
            # About the whole connection: the edge says why it ends.
            raise MeshCallError.of_answer(message.error)

    def _hear(self, note: Notification) -> None:
        try:
            params = _NOTE.decode(note.params) if bytes(note.params) else _NoteParams()
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        waiting: _Waiting | None = None
        if params.token is not None:
            waiting = self._tokens.get(params.token)
        elif params.meta is not None and params.meta.subscription is not None:
            waiting = self._waiting.get(params.meta.subscription)
        elif note.method == "notifications/message":
            hearing = (one for one in self._waiting.values() if one.request.hears_log)
            waiting = next(hearing, None)
        if waiting is not None:
            tell(waiting.hear, note)

    def _too_long(self, request_id: RequestId | None) -> None:
        waiting = self._waiting.get(request_id) if request_id is not None else None
        if waiting is None or waiting.answer.done():
            return
        waiting.answer.set_exception(
            MeshCallError(
                ErrorKind.TOO_LARGE,
                f"the answer exceeds {ANSWER_BYTES_MAX} bytes",
                outcome=Outcome.EXECUTED,
            )
        )

    def _cancel(self, number: int) -> None:
        if self._gone:
            return
        note = encode_notification("notifications/cancelled", encode({"requestId": number}))
        self._writer.write(note + b"\n")

    def _end(self, why: str) -> None:
        if self._gone:
            return
        self._gone = why
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_result(None)


def _keep_alive(writer: asyncio.StreamWriter, keepalive_s: float) -> None:
    raw: socket.socket | None = writer.get_extra_info("socket")
    if raw is None or raw.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(keepalive_s)))

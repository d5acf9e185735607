"""One HTTP request as the routes see it: headers read once, the body with its limits."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from gateway.edges.http_server import BODY, STATE, HttpConnection, write_whole
from gateway.edges.sse import Headers, Send, respond
from mcp_proto.codec import encode_error
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import RequestId
from mcp_proto.limits import EDGE_MESSAGE_BYTES

__all__ = ["MCP_PATHS", "ClientGoneError", "Exchange", "Refused"]

MCP_PATHS = frozenset(("/mcp", "/mcp/"))

SLOW_AFTER_S = 10.0
SLOW_BYTES_PER_S = 1_024
"""After ten seconds a body must have come at this rate, whatever its total limit allows."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """The transport refuses the request: a status, and an error without id."""

    def __init__(self, status: int, error: MeshError, headers: Headers = ()) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.headers = tuple(headers)


class Exchange:
    """One request and the way to answer it."""

    __slots__ = (
        "_cycle",
        "_receive",
        "connection",
        "cors",
        "endpoint",
        "heads",
        "method",
        "path",
        "send",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, heads: dict[bytes, bytes]
    ) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.heads = heads
        self.send = send
        self.connection: HttpConnection = scope[STATE]
        self.endpoint = ""
        """Endpoint of a request behind ``/mcp/``; "" = ``/mcp`` itself."""
        self.cors: Headers = ()
        """Headers for a browser client, on every answer."""
        self._receive = receive
        self._cycle: Any = scope[BODY]

    async def body(self, limit_s: float) -> bytes:
        """The whole body.

        Args:
            limit_s: longest time it may take.

        Raises:
            Refused: 413 above 10 MiB (the rest is discarded by the connection, so the client
                can read the answer), 408 when it comes too slowly.
            ClientGoneError: the client went away.
        """
        length = self.heads.get(b"content-length", b"")
        if length.isdigit() and int(length) > EDGE_MESSAGE_BYTES:
            raise _too_large()
        cycle = self._cycle
        if not (cycle.more_body or cycle.waiting_for_100_continue or cycle.disconnected):
            # It came with its headers, as most do: no wait, no timer.
            cycle.flow.resume_reading()
            return self._checked(bytes(cycle.body))
        message = await self._receive_once(limit_s)
        body: bytes = message.get("body", b"")
        if not message.get("more_body"):
            return self._checked(body)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return b"".join(await self._rest(body, began, limit_s))
        finally:
            self.connection.gate.hold(0)

    async def _rest(self, first: bytes, began: float, limit_s: float) -> list[bytes]:
        loop = asyncio.get_running_loop()
        pieces, held = [first], len(first)
        more = True
        while more:
            spent = loop.time() - began
            if spent > SLOW_AFTER_S and held < (spent - SLOW_AFTER_S) * SLOW_BYTES_PER_S:
                raise _too_slow()
            message = await self._receive_once(min(limit_s - spent, SLOW_AFTER_S))
            piece: bytes = message.get("body", b"")
            pieces.append(piece)
            held += len(piece)
            more = bool(message.get("more_body"))
            if held > EDGE_MESSAGE_BYTES:
                raise _too_large()
            self.connection.gate.hold(held)
        return pieces

    async def _receive_once(self, limit_s: float) -> MutableMapping[str, Any]:
        if limit_s <= 0:
            raise _too_slow()
        try:
            async with asyncio.timeout(limit_s):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow() from None
        return self._present(message)

    @staticmethod
    def _present(message: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        return message

    def _checked(self, body: bytes) -> bytes:
        if len(body) > EDGE_MESSAGE_BYTES:
            raise _too_large()
        return body

    def whole(self, status: int, body: bytes) -> bool:
        """A whole JSON answer without headers of its own, at once; False = not possible."""
        return not self.cors and write_whole(self._cycle, status, body)

    async def answer(self, status: int, body: bytes = b"", headers: Headers = ()) -> None:
        """A whole answer."""
        if headers or not self.whole(status, body):
            await respond(self.send, status, body, (*self.cors, *headers))

    async def plain(self, status: int, body: bytes, kind: bytes) -> None:
        """A whole answer that is not JSON."""
        await respond(self.send, status, body, self.cors, kind=kind)

    async def refuse(self, refused: Refused, request_id: RequestId | None = None) -> None:
        """The refusal as an answer: JSON-RPC where MCP is spoken, else ``{"error": …}``."""
        headers = list(refused.headers)
        wait_s = refused.error.retry_after_s
        if refused.status in {429, 503} and wait_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(wait_s))))
        if self.path in MCP_PATHS or self.path.startswith("/mcp/"):
            body = encode_error(request_id, refused.error)
        else:
            body = msgspec.json.encode({"error": refused.error.to_object()})
        await self.answer(refused.status, body, headers)


def _too_large() -> Refused:
    return Refused(
        413,
        MeshError(
            ErrorKind.TOO_LARGE,
            f"the body exceeds {EDGE_MESSAGE_BYTES} bytes",
            data={"maxBytes": EDGE_MESSAGE_BYTES},
        ),
    )


def _too_slow() -> Refused:
    error = MeshError(ErrorKind.REQUEST, "the body was not complete in time")
    return Refused(408, error, ((b"connection", b"close"),))

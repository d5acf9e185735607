"""An HTTP client that keeps its connection, speaks raw messages, and can vanish without a word."""

import asyncio
import json
import socket
import struct
from typing import Any

from tests.e2e.wire import LINE_LIMIT, MODERN, HttpAnswer, envelope, read_answer, request_bytes

__all__ = ["Peer"]

STREAM_HEAD_S = 10.0


class Peer:
    """One client connection that keeps alive."""

    def __init__(
        self, base: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._base = base
        self._reader = reader
        self._writer = writer
        self.headers: dict[str, str] = {}
        """Sent with every further request."""

    @classmethod
    async def connect(cls, base: str) -> "Peer":
        host, _, port = base.removeprefix("http://").rpartition(":")
        return cls(base, *await asyncio.open_connection(host, int(port), limit=LINE_LIMIT))

    async def post(self, body: Any, **headers: str) -> HttpAnswer:
        """One request with a whole answer."""
        self._send("POST", body, headers)
        return await read_answer(self._reader)

    async def initialize(self, **capabilities: object) -> None:
        """Begin a session of an old client."""
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": capabilities,
            "clientInfo": {"name": "peer", "version": "1"},
        }
        opened = await self.post({"id": 0, "method": "initialize", "params": params})
        self.headers = {"mcp-session-id": opened.headers["mcp-session-id"]}
        await self.post({"method": "notifications/initialized"})

    async def modern(self, method: str, **params: object) -> HttpAnswer:
        """A request of 2026-07-28 with a whole answer."""
        body, headers = _modern(method, params)
        return await self.post(body, **headers)

    async def listen(self, **wanted: object) -> Any:
        """Open a ``subscriptions/listen``; returns its acknowledgement."""
        body, headers = _modern("subscriptions/listen", {"notifications": wanted})
        await self.open("POST", body, **headers)
        return await self.next()

    async def open(self, method: str, body: Any = None, **headers: str) -> None:
        """A request answered by a stream, of which the head has come when this returns."""
        self._send(method, body, headers)
        async with asyncio.timeout(STREAM_HEAD_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"text/event-stream" in head, head

    async def next(self, within_s: float = 10.0) -> Any:
        """The next message of the open stream."""
        async with asyncio.timeout(within_s):
            while not (line := await self._reader.readline()).startswith(b"data: "):
                assert line, "the stream ended"
        return json.loads(line[6:])

    def vanish(self, *, reset: bool) -> None:
        """Close without a word; ``reset`` as a process that is killed with data unread."""
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def _send(self, method: str, body: Any, headers: dict[str, str]) -> None:
        data = b"" if body is None else json.dumps({"jsonrpc": "2.0", **body}).encode()
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        sent = {**self.headers, **named}
        self._writer.write(request_bytes(self._base, "/mcp", data, sent, method))


def _modern(method: str, params: dict[str, object]) -> tuple[Any, dict[str, str]]:
    headers = {"mcp-protocol-version": MODERN, "mcp-method": method}
    if isinstance(name := params.get("name"), str):
        headers["mcp-name"] = name
    body = {"id": 1, "method": method, "params": {"_meta": envelope(), **params}}
    return body, headers

"""Talks to the edges byte by byte, as no client library would."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.e2e.running_mesh import MESH, RunningMesh

__all__ = [
    "HttpAnswer",
    "Lines",
    "envelope",
    "http",
    "lines",
    "post_mcp",
    "post_modern",
    "read_answer",
    "request_bytes",
    "stdio_lines",
]

MODERN = "2026-07-28"
ANSWER_S = 10.0
LINE_LIMIT = 64 * 1024 * 1024
JsonObject = dict[str, Any]


def envelope(**extra: object) -> JsonObject:
    """``_meta`` of a modern request."""
    return {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "e2e", "version": "1"},
        **extra,
    }


class Lines:
    """A peer on a byte stream; answers are told apart by id, others are kept in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._next = 0
        self.others: list[JsonObject] = []
        """Messages read while looking for something else."""

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def read(self, within_s: float = ANSWER_S) -> Any:
        """The next message.

        Raises:
            EOFError: the connection is closed.
        """
        async with asyncio.timeout(within_s):
            line = await self._reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError(f"closed after {line[:200]!r}")
        return json.loads(line)

    async def answer(self, request_id: object, within_s: float = ANSWER_S) -> JsonObject:
        """The answer to one request; what else arrives goes to ``others``."""
        for message in self.others:
            if _answers(message, request_id):
                self.others.remove(message)
                return message
        async with asyncio.timeout(within_s):
            while True:
                message = await self.read(within_s)
                if _answers(message, request_id):
                    return message
                self.others.append(message)

    async def post(self, method: str, params: object = None, *, request_id: object = None) -> Any:
        """Send a request; returns its id."""
        if request_id is None:
            self._next += 1
            request_id = f"r{self._next}"
        body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        await self.send(json.dumps(body).encode() + b"\n")
        return request_id

    async def request(
        self, method: str, params: object = None, *, request_id: object = None
    ) -> JsonObject:
        """A request and its answer."""
        return await self.answer(await self.post(method, params, request_id=request_id))

    async def call(self, tool: str, /, **arguments: object) -> JsonObject:
        """A tool call; returns its result."""
        answer = await self.request("tools/call", {"name": tool, "arguments": arguments})
        assert "result" in answer, answer
        return answer["result"]

    async def initialize(self, version: str = "2025-11-25", **extra: object) -> JsonObject:
        """The handshake of the old eras."""
        params = {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "e2e", "version": "1"},
            **extra,
        }
        answer = await self.request("initialize", params)
        await self.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        assert "result" in answer, answer
        return answer["result"]

    async def closed(self, within_s: float = ANSWER_S) -> bytes:
        """Wait for the end of the stream; returns what came before it."""
        async with asyncio.timeout(within_s):
            return await self._reader.read(-1)


def _answers(message: JsonObject, request_id: object) -> bool:
    if "method" in message or "id" not in message:
        return False
    got = message["id"]
    return got == request_id and type(got) is type(request_id)


@asynccontextmanager
async def lines(address: tuple[str, int]) -> AsyncIterator[Lines]:
    """A connection to a line edge."""
    reader, writer = await asyncio.open_connection(*address, limit=LINE_LIMIT)
    try:
        yield Lines(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


class HttpAnswer:
    """Status, headers (lower case) and body of one answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        """The body, or the last message when it is an event stream."""
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            rows = [row[5:] for row in self.body.decode().splitlines() if row.startswith("data:")]
            return json.loads(rows[-1])
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"HttpAnswer({self.status}, {self.headers}, {self.body[:500]!r})"


async def http(base: str, raw: bytes, within_s: float = 20.0) -> HttpAnswer:
    """Send raw bytes to an HTTP edge and read one whole answer, on a connection of its own."""
    host, _, port = base.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=LINE_LIMIT)
    try:
        async with asyncio.timeout(within_s):
            writer.write(raw)
            return await read_answer(reader)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> HttpAnswer:
    """One answer of HTTP/1.1, whatever its framing."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rows = head.strip().split("\r\n")
    headers = {}
    for row in rows:
        name, _, value = row.partition(":")
        headers[name.lower()] = value.strip()
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    else:
        body = b"" if first.split()[1] in {"202", "204"} else await reader.read(-1)
    return HttpAnswer(int(first.split()[1]), headers, body)


def request_bytes(
    base: str, path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST"
) -> bytes:
    """One HTTP/1.1 request."""
    rows = {
        "host": base.removeprefix("http://"),
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in rows.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


async def post_mcp(
    base: str, body: bytes | JsonObject, headers: dict[str, str] | None = None
) -> HttpAnswer:
    """POST a body to ``/mcp`` as it is."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await http(base, request_bytes(base, "/mcp", data, headers))


async def post_modern(
    base: str,
    method: str,
    params: JsonObject | None = None,
    *,
    request_id: object = 1,
    headers: dict[str, str] | None = None,
) -> HttpAnswer:
    """A well-formed request of 2026-07-28 over HTTP."""
    params = {"_meta": envelope(), **(params or {})}
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    sent = {"mcp-protocol-version": MODERN, "mcp-method": method}
    name = params.get("name") or params.get("uri")
    if method in {"tools/call", "prompts/get", "resources/read"} and isinstance(name, str):
        sent["mcp-name"] = name
    return await post_mcp(base, body, {**sent, **(headers or {})})


@asynccontextmanager
async def stdio_lines(mesh: RunningMesh, *options: str, **env: str) -> AsyncIterator[Lines]:
    """A peer of the stdio edge: the process a desktop client would start."""
    child = await asyncio.create_subprocess_exec(
        *(MESH, "stdio", "--state", str(mesh.state), *options),
        env={**os.environ, **env},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        yield Lines(child.stdout, child.stdin)
    finally:
        child.stdin.close()
        try:
            async with asyncio.timeout(ANSWER_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            await child.wait()
            raise AssertionError("mesh stdio did not end with its input") from None

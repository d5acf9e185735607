"""One client for three edges and five revisions, made of bytes: what it hears it keeps.

``Peer`` speaks HTTP, TCP lines or the stdio edge. Requests are tasks, so a test can have several
under way, cancel one and look at what came beside the answers (``heard``).
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT, RunningMesh

__all__ = ["EDGES", "MODERN", "REVISIONS", "HttpPeer", "LinePeer", "Peer", "connect"]

MODERN = "2026-07-28"
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", MODERN)
EDGES = ("http", "tcp", "stdio")
ANSWER_S = 15.0
_META = "io.modelcontextprotocol/"
_LIMIT = 64 * 1024 * 1024
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
Json = dict[str, Any]


class Peer:
    """What the edges have in common; see the module.

    Attributes:
        edge: http, tcp or stdio.
        revision: one of ``REVISIONS``.
        capabilities: declared once (legacy) or on every request (modern).
    """

    def __init__(self, edge: str, revision: str, capabilities: Json) -> None:
        self.edge = edge
        self.revision = revision
        self.capabilities = capabilities
        self.inbox: list[Json] = []
        self.opened: Json = {}
        """Result of ``initialize`` (legacy) or ``server/discover``."""
        self._news = asyncio.Condition()
        self._next = 0
        self._running: dict[asyncio.Task[Json], object] = {}

    @property
    def modern(self) -> bool:
        """Whether it speaks the modern era."""
        return self.revision == MODERN

    # Requests -------------------------------------------------------------------------------

    def start(
        self, method: str, params: Json | None = None, *, request_id: object = None
    ) -> asyncio.Task[Json]:
        """Send a request; the task is its answer, the whole message."""
        if request_id is None:
            self._next += 1
            request_id = f"{method}-{self._next}"
        task = asyncio.ensure_future(self._exchange(self._body(method, params, request_id)))
        self._running[task] = request_id
        task.add_done_callback(lambda done: self._running.pop(done, None))
        return task

    async def ask(
        self, method: str, params: Json | None = None, *, request_id: object = None
    ) -> Json:
        """A request and its answer, the whole message."""
        task = self.start(method, params, request_id=request_id)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await task
        finally:
            task.cancel()

    async def result(self, method: str, params: Json | None = None) -> Json:
        """A request that must succeed; its result."""
        answer = await self.ask(method, params)
        assert "result" in answer, answer
        return answer["result"]

    def call(self, tool: str, arguments: Json | None = None, **more: Any) -> asyncio.Task[Json]:
        """Start a tool call; ``more`` are further params."""
        return self.start("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    async def text(self, tool: str, arguments: Json | None = None) -> str:
        """The text a tool answers with."""
        params = {"name": tool, "arguments": arguments or {}}
        result = await self.result("tools/call", params)
        return "".join(part.get("text", "") for part in result["content"])

    async def everything(self, method: str, key: str) -> list[Json]:
        """All entries of a list, page by page."""
        found: list[Json] = []
        cursor: str | None = None
        for _ in range(100):
            page = await self.result(method, {} if cursor is None else {"cursor": cursor})
            found += page[key]
            cursor = page.get("nextCursor")
            if cursor is None:
                return found
        raise AssertionError(f"{method} does not end")

    def _body(self, method: str, params: Json | None, request_id: object) -> Json:
        body: Json = {"jsonrpc": "2.0", "id": request_id, "method": method}
        body["params"] = self._with_meta(params or {}) if self.modern else params or {}
        return body

    def _with_meta(self, params: Json) -> Json:
        meta = {
            f"{_META}protocolVersion": MODERN,
            f"{_META}clientCapabilities": self.capabilities,
            f"{_META}clientInfo": {"name": "peer", "version": "1"},
            **params.get("_meta", {}),
        }
        return {**params, "_meta": meta}

    # What comes unasked ---------------------------------------------------------------------

    async def _take(self, message: Json) -> None:
        async with self._news:
            self.inbox.append(message)
            self._news.notify_all()

    async def heard(self, wanted: Callable[[Json], bool], within_s: float = ANSWER_S) -> Json:
        """Wait for a message that is no answer; it is taken out of ``inbox``."""

        def find() -> Json | None:
            return next((one for one in self.inbox if wanted(one)), None)

        async with asyncio.timeout(within_s), self._news:
            while (found := find()) is None:
                await self._news.wait()
            self.inbox.remove(found)
            return found

    def count(self, method: str) -> int:
        """Notifications of a method that lie in ``inbox``."""
        return sum(one.get("method") == method for one in self.inbox)

    # For the edges --------------------------------------------------------------------------

    async def _exchange(self, body: Json) -> Json:
        raise NotImplementedError

    async def notify(self, method: str, params: Json | None = None) -> None:
        """Send a notification."""
        raise NotImplementedError

    async def cancel(self, task: asyncio.Task[Json]) -> None:
        """Cancel a request as this edge and revision want it."""
        raise NotImplementedError

    async def hear(self, *uris: str) -> None:
        """Hear from now on of every list and of ``uris``; returns when the server has agreed."""
        raise NotImplementedError

    async def open(self) -> None:
        """The handshake, or discovery."""
        raise NotImplementedError

    async def close(self) -> None:
        """Leave."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _initialize(self) -> Json:
        return {
            "protocolVersion": self.revision,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "peer", "version": "1"},
        }

    def _filter(self, uris: tuple[str, ...]) -> Json:
        wanted: Json = {
            "toolsListChanged": True,
            "promptsListChanged": True,
            "resourcesListChanged": True,
        }
        if uris:
            wanted["resourceSubscriptions"] = list(uris)
        return {"notifications": wanted}


class HttpPeer(Peer):
    """Over HTTP.

    Args:
        url: MCP endpoint.
        key: bearer token; "" = none.
    """

    def __init__(
        self, url: str, revision: str, capabilities: Json | None = None, *, key: str = ""
    ) -> None:
        super().__init__("http", revision, capabilities or {})
        self.url = url
        self.session = ""
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(timeout=None, trust_env=False)
        self._streams: list[asyncio.Task[None]] = []

    def headers(self, method: str = "", params: Json | None = None) -> dict[str, str]:
        """Headers of a POST."""
        found = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            **self._headers,
        }
        if self.modern:
            found |= {"mcp-protocol-version": MODERN, "mcp-method": method}
            if method in _NAMED:
                found["mcp-name"] = (params or {})[_NAMED[method]]
        elif self.session:
            found["mcp-session-id"] = self.session
            if self.revision >= "2025-06-18":
                found["mcp-protocol-version"] = self.revision
        return found

    async def _exchange(self, body: Json) -> Json:
        headers = self.headers(body["method"], body["params"])
        async with self._client.stream("POST", self.url, headers=headers, json=body) as answer:
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                raw = await answer.aread()
                self.session = answer.headers.get("mcp-session-id", self.session)
                return json.loads(raw)
            self.session = answer.headers.get("mcp-session-id", self.session)
            async for message in _events(answer):
                if "method" not in message and message.get("id") == body["id"]:
                    return message
                await self._take(message)
        raise AssertionError("the stream ended without an answer")

    async def notify(self, method: str, params: Json | None = None) -> None:
        body = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        await self.post(body)

    async def post(self, body: Json) -> httpx.Response:
        """Send anything that has no answer."""
        headers = self.headers(str(body.get("method", "")))
        return await self._client.post(self.url, headers=headers, json=body)

    async def cancel(self, task: asyncio.Task[Json]) -> None:
        if self.modern:
            task.cancel()  # closes the stream, which is the cancel of this era
            with suppress(asyncio.CancelledError):
                await task
        else:
            params = {"requestId": self._running[task], "reason": "test"}
            await self.notify("notifications/cancelled", params)

    async def hear(self, *uris: str) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stream = self._listen(uris, ready) if self.modern else self._get(ready)
        self._streams.append(asyncio.ensure_future(stream))
        async with asyncio.timeout(ANSWER_S):
            await ready
        if not self.modern:
            for uri in uris:
                await self.result("resources/subscribe", {"uri": uri})

    async def _get(self, ready: asyncio.Future[None]) -> None:
        headers = {**self.headers(), "accept": "text/event-stream"}
        async with self._client.stream("GET", self.url, headers=headers) as answer:
            assert answer.status_code == 200, answer.status_code
            ready.set_result(None)
            async for message in _events(answer):
                await self._take(message)

    async def _listen(self, uris: tuple[str, ...], ready: asyncio.Future[None]) -> None:
        body = self._body("subscriptions/listen", self._filter(uris), "listen")
        headers = self.headers(body["method"], body["params"])
        async with self._client.stream("POST", self.url, headers=headers, json=body) as answer:
            async for message in _events(answer):
                if message.get("method") == "notifications/subscriptions/acknowledged":
                    ready.set_result(None)
                await self._take(message)

    async def open(self) -> None:
        if self.modern:
            self.opened = await self.result("server/discover")
            return
        self.opened = await self.result("initialize", self._initialize())
        await self.notify("notifications/initialized")

    async def close(self) -> None:
        for stream in self._streams:
            stream.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        await super().close()
        await self._client.aclose()


async def _events(answer: httpx.Response) -> Any:
    async for line in answer.aiter_lines():
        if line.startswith("data:") and line[5:].strip():
            yield json.loads(line[5:])


class LinePeer(Peer):
    """Over lines: TCP, or the pipes of the stdio edge."""

    def __init__(self, edge: str, revision: str, capabilities: Json | None = None) -> None:
        super().__init__(edge, revision, capabilities or {})
        self._reader: asyncio.StreamReader = None  # type: ignore[assignment]
        self._writer: asyncio.StreamWriter = None  # type: ignore[assignment]
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: dict[str, asyncio.Future[Json]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.ended = asyncio.Event()

    async def dial(self, address: tuple[str, int]) -> "LinePeer":
        """Connect to a TCP edge."""
        self._reader, self._writer = await asyncio.open_connection(*address, limit=_LIMIT)
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def spawn(self, words: list[str], cwd: str, env: dict[str, str]) -> "LinePeer":
        """Start a stdio edge."""
        self._process = await asyncio.create_subprocess_exec(
            *words,
            cwd=cwd,
            env=env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LIMIT,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._reader, self._writer = self._process.stdout, self._process.stdin
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                message = json.loads(line)
                future = (
                    None
                    if "method" in message
                    else self._waiting.pop(_key(message.get("id")), None)
                )
                if future is None or future.done():
                    await self._take(message)
                else:
                    future.set_result(message)
        finally:
            self.ended.set()

    async def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        """Close the sending side only."""
        self._writer.write_eof()

    async def _exchange(self, body: Json) -> Json:
        future: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        self._waiting[_key(body["id"])] = future
        try:
            await self.raw(json.dumps(body).encode() + b"\n")
            return await future
        finally:
            self._waiting.pop(_key(body["id"]), None)

    async def notify(self, method: str, params: Json | None = None) -> None:
        body = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        await self.raw(json.dumps(body).encode() + b"\n")

    async def cancel(self, task: asyncio.Task[Json]) -> None:
        await self.notify("notifications/cancelled", {"requestId": self._running[task]})

    async def hear(self, *uris: str) -> None:
        if self.modern:
            self.start("subscriptions/listen", self._filter(uris), request_id="listen")
            await self.heard(
                lambda one: one.get("method") == "notifications/subscriptions/acknowledged"
            )
            return
        for uri in uris:
            await self.result("resources/subscribe", {"uri": uri})

    async def open(self) -> None:
        if self.modern:
            self.opened = await self.result("server/discover")
            return
        self.opened = await self.result("initialize", self._initialize())
        await self.notify("notifications/initialized")

    async def close(self) -> None:
        await super().close()
        with suppress(OSError):
            self._writer.close()
            await self._writer.wait_closed()
        if self._process is not None:
            try:
                async with asyncio.timeout(10):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def _key(request_id: object) -> str:
    """``1`` and ``"1"`` are two ids."""
    return json.dumps(request_id)


async def connect(
    mesh: RunningMesh,
    edge: str,
    revision: str,
    *,
    gateway: int = 0,
    capabilities: Json | None = None,
    key: str = "",
    tenant: str = "",
    opened: bool = True,
) -> Any:
    """A peer at an edge of a mesh.

    Args:
        mesh: running.
        edge: one of ``EDGES``.
        revision: one of ``REVISIONS``.
        gateway: which one; the stdio edge takes any.
        capabilities: of the client.
        key: API key; "" = none (development).
        tenant: of the key; the stdio edge wants to know it.
        opened: make the handshake.
    """
    peer: HttpPeer | LinePeer
    if edge == "http":
        peer = HttpPeer(f"{mesh.urls[gateway]}/mcp", revision, capabilities, key=key)
    elif edge == "tcp":
        peer = await LinePeer("tcp", revision, capabilities).dial(mesh.lines[gateway])
        if key:
            await peer.result("authenticate", {"token": key})
    else:
        words = [MESH, "stdio", "--state", str(mesh.state)]
        words += ["--tenant", tenant] if tenant else []
        env = {**PLAIN_ENVIRONMENT, **({"MESH_CREDENTIAL": key} if key else {})}
        peer = await LinePeer("stdio", revision, capabilities).spawn(words, str(mesh.room), env)
    if opened:
        await peer.open()
    return peer

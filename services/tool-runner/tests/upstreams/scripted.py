"""MCP servers over HTTP that do on purpose what real ones do by accident."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

MIB = 1024 * 1024
TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("echo", "do")]


def event(message: Any, event_id: str = "") -> bytes:
    head = f"id: {event_id}\n" if event_id else ""
    data = message if isinstance(message, str) else json.dumps(message)
    return f"{head}event: message\ndata: {data}\n\n".encode()


def answer(number: Any, text: str) -> dict[str, Any]:
    result = {"content": [{"type": "text", "text": text}], "resultType": "complete"}
    return {"jsonrpc": "2.0", "id": number, "result": result}


def sse(parts: AsyncIterator[bytes]) -> StreamingResponse:
    return StreamingResponse(parts, media_type="text/event-stream")


class Scripted:
    """What both eras share. ``do`` runs a script by name: argument ``how``."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.heads: list[dict[str, str]] = []
        self.token = ""
        self.moved = ""
        self.arrived = asyncio.Event()
        self.status = 0

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/mcp", self.serve, methods=["GET", "POST", "DELETE"])])

    def methods(self) -> list[str]:
        return [one.get("method", "answer") for one in self.seen]

    async def serve(self, request: Request) -> Response:
        if self.moved:
            return RedirectResponse(self.moved, status_code=307)
        if self.status:
            return Response("out of order", status_code=self.status)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return Response("who are you", status_code=401)
        self.heads.append(dict(request.headers))
        if request.method != "POST":
            return await self.other(request)
        message = json.loads(await request.body())
        self.seen.append(message)
        return await self.post(request, message)

    async def other(self, request: Request) -> Response:
        return Response(status_code=405)

    async def post(self, request: Request, message: dict[str, Any]) -> Response:
        raise NotImplementedError

    async def call(self, request: Request, message: dict[str, Any]) -> Response:
        number, arguments = message["id"], message["params"].get("arguments", {})
        if message["params"]["name"] == "echo":
            return JSONResponse(answer(number, json.dumps(arguments)))
        script = getattr(self, f"do_{arguments['how']}")
        return await script(request, number, message["params"])

    async def do_html(self, _request: Request, _number: int, _params: Any) -> Response:
        return Response("<p>welcome</p>", media_type="text/html")

    async def do_500(self, _request: Request, _number: int, _params: Any) -> Response:
        return Response("boom\x07 at line 3", status_code=500)

    async def do_429(self, _request: Request, _number: int, _params: Any) -> Response:
        return Response("later", status_code=429, headers={"retry-after": "7"})

    async def do_202(self, _request: Request, _number: int, _params: Any) -> Response:
        return Response(status_code=202)

    async def do_error(self, _request: Request, number: int, _params: Any) -> Response:
        error = {"code": -32602, "message": "no such thing", "data": {"uri": "x"}}
        body = {"jsonrpc": "2.0", "id": number, "error": error}
        return JSONResponse(body, status_code=400)

    async def do_gzip(self, _request: Request, number: int, _params: Any) -> Response:
        return Response(b"\x1f\x8b", headers={"content-encoding": "gzip"})

    async def do_garbage(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b": hello\n\nevent: weather\ndata: rain\n\ndata: {not json\n\n"
            yield event('{"jsonrpc":"2.0","id":999,"result":{}}')
            yield event(answer(number, "after garbage"))

        return sse(parts())

    async def do_only_garbage(self, _request: Request, _number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(5000):
                yield b"data: {not json\n\n"

        return sse(parts())

    async def do_broken_json(self, _request: Request, _number: int, _params: Any) -> Response:
        return Response('{"jsonrpc":', media_type="application/json")

    async def do_half(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield event(answer(number, "never whole"))[:-3]

        return sse(parts())

    async def do_huge(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(66):
                yield b" " * MIB
                await asyncio.sleep(0)
            yield json.dumps(answer(number, "at last")).encode()

        return StreamingResponse(parts(), media_type="application/json")

    async def do_huge_event(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"data: "
            for _ in range(66):
                yield b"x" * MIB
                await asyncio.sleep(0)

        return sse(parts())

    async def do_slow(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b": wait\n\n"
            self.arrived.set()
            try:
                await asyncio.sleep(30)
            finally:
                self.seen.append({"method": "closed"})

        return sse(parts())


class Old(Scripted):
    """A legacy server with sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: list[str] = []
        self.lost_status = 404
        self.lost_text = ""
        self.stream: asyncio.Queue[bytes] | None = None
        self.answered: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.resumed: list[str] = []
        self.numbers: list[int] = []

    async def other(self, request: Request) -> Response:
        session = request.headers.get("mcp-session-id", "")
        if request.method == "DELETE":
            self.seen.append({"method": "DELETE", "session": session})
            return Response(status_code=200)
        resume = request.headers.get("last-event-id")
        if resume is not None:
            self.resumed.append(resume)

            async def rest() -> AsyncIterator[bytes]:
                yield event(answer(self.numbers[-1], f"resumed after {resume}"), "end")

            return sse(rest())
        if self.stream is None:
            return Response(status_code=405)
        stream = self.stream

        async def parts() -> AsyncIterator[bytes]:
            while True:
                yield await stream.get()

        return sse(parts())

    async def post(self, request: Request, message: dict[str, Any]) -> Response:
        method = message.get("method")
        if method == "initialize":
            self.sessions.append(f"s{len(self.sessions) + 1}")
            capabilities = {"tools": {}, "resources": {"subscribe": True}, "logging": {}}
            result = {"protocolVersion": "2025-11-25", "capabilities": capabilities,
                      "serverInfo": {"name": "old", "version": "1"}}  # fmt: skip
            body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
            return JSONResponse(body, headers={"mcp-session-id": self.sessions[-1]})
        if not self.sessions or request.headers.get("mcp-session-id") != self.sessions[-1]:
            status = self.lost_status if request.headers.get("mcp-session-id") else 400
            return Response(self.lost_text or "no session", status_code=status)
        if "id" not in message or method is None:
            if method is None:
                self.answered.put_nowait(message)
            return Response(status_code=202)
        match method:
            case "tools/list":
                return self._said(message, {"tools": TOOLS})
            case "resources/list" | "resources/templates/list":
                return self._said(message, {"resources": [], "resourceTemplates": []})
            case "tools/call":
                return await self.call(request, message)
            case _:
                return self._said(message, {})

    def _said(self, message: dict[str, Any], result: Any) -> Response:
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def do_lose(self, _request: Request, number: int, _params: Any) -> Response:
        self.sessions.append("gone")
        return JSONResponse(answer(number, "the last of this session"))

    async def do_poll(self, _request: Request, number: int, _params: Any) -> Response:
        self.numbers.append(number)

        async def parts() -> AsyncIterator[bytes]:
            yield b"id: e1\nretry: 20\ndata:\n\n"

        return sse(parts())

    async def do_ask(self, _request: Request, number: int, _params: Any) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            question = {"mode": "form", "message": "ok?", "requestedSchema": {"type": "object"}}
            yield event(
                {"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": question}
            )
            said = await self.answered.get()
            yield event(answer(number, json.dumps(said.get("result") or said.get("error"))))

        return sse(parts())


class New(Scripted):
    """A modern server."""

    def __init__(self, tools: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.tools = tools or TOOLS
        self.listens: list[asyncio.Queue[Any]] = []

    async def post(self, request: Request, message: dict[str, Any]) -> Response:
        version = request.headers.get("mcp-protocol-version")
        if version != "2026-07-28":
            data = {"supported": ["2026-07-28"], "requested": str(version)}
            error = {"code": -32022, "message": "unsupported version", "data": data}
            return self._refused(message, 400, error)
        if request.headers.get("mcp-method") != message["method"]:
            return self._refused(message, 400, {"code": -32020, "message": "header"})
        match message["method"]:
            case "server/discover":
                result: dict[str, Any] = {
                    "resultType": "complete", "supportedVersions": ["2026-07-28"],
                    "capabilities": {"tools": {}, "resources": {"subscribe": True}}, "ttlMs": 0,
                    "cacheScope": "private",
                }  # fmt: skip
            case "tools/list":
                result = {"resultType": "complete", "tools": self.tools, "ttlMs": 0}
            case "resources/list" | "resources/templates/list":
                result = {"resultType": "complete", "resources": [], "resourceTemplates": []}
            case "tools/call":
                return await self.call(request, message)
            case "subscriptions/listen":
                return sse(self.listen(message))
            case _:
                return self._refused(message, 404, {"code": -32601, "message": "unknown method"})
        return JSONResponse({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def listen(self, message: dict[str, Any]) -> AsyncIterator[bytes]:
        meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
        wanted = message["params"]["notifications"]
        news: asyncio.Queue[Any] = asyncio.Queue()
        self.listens.append(news)
        yield event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                     "params": {"notifications": wanted, "_meta": meta}})  # fmt: skip
        while True:
            method, params = await news.get()
            yield event({"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": meta}})

    def _refused(self, message: dict[str, Any], status: int, error: Any) -> Response:
        body = {"jsonrpc": "2.0", "id": message.get("id"), "error": error}
        return JSONResponse(body, status_code=status)

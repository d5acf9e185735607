"""Upstreams over TCP lines and over HTTP+SSE, which share one conversation."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.versions import Revision
from tool_runner.core.restarts import REMOTE_QUARANTINE_S
from tool_runner.supervisor.hosted import HostedServer, HostSettings, ServerState

MODERN = "2026-07-28"


class Lines:
    """A scripted MCP server on TCP."""

    def __init__(self, *, modern: bool = False, token: str = "") -> None:
        self.modern = modern
        self.token = token
        self.seen: list[dict[str, Any]] = []
        self.connections = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        while line := await reader.readline():
            message = json.loads(line)
            self.seen.append(message)
            if "id" not in message or "method" not in message:
                continue
            said = self.answer(message)
            if isinstance(said, bytes):
                writer.write(said)
            elif said is not None:
                body = {"jsonrpc": "2.0", "id": message["id"], **said}
                writer.write(json.dumps(body).encode() + b"\n")
            await writer.drain()

    def answer(self, message: dict[str, Any]) -> dict[str, Any] | bytes | None:
        match message["method"]:
            case "authenticate":
                ok = message["params"]["token"] == self.token
                return {"result": {}} if ok else {"error": {"code": -31001, "message": "no"}}
            case "server/discover" if self.modern:
                return {"result": {"resultType": "complete", "supportedVersions": [MODERN],
                                   "capabilities": {"tools": {}}}}  # fmt: skip
            case "initialize":
                return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "lines", "version": "1"}}}  # fmt: skip
            case "tools/list":
                tools = [{"name": "do", "inputSchema": {"type": "object"}}]
                return {"result": {"resultType": "complete", "tools": tools}}
            case "tools/call":
                return self.call(message["params"]["arguments"]["how"])
            case "ping":
                return {"result": {}}
            case _:
                return {"error": {"code": -32601, "message": "unknown"}}

    def call(self, how: str) -> dict[str, Any] | bytes | None:
        match how:
            case "garbage":
                return b"what?\n" + b"\xff\xfe\n"
            case "end":
                self.writers[-1].close()
                return None
            case "silence":
                return None
            case _:
                return {"result": {"content": [{"type": "text", "text": how}]}}


@pytest.mark.parametrize("modern", [False, True])
async def test_tcp_server_is_called_in_either_era(net, modern: bool) -> None:
    port = await net.listen(Lines(modern=modern))
    upstream = await net.started(f"tcp://127.0.0.1:{port}", transport="tcp")
    assert upstream.handshake.modern is modern
    answers = await asyncio.gather(*(net.call(upstream, "do", how=str(n)) for n in range(10)))
    assert answers == [str(n) for n in range(10)]


async def test_tcp_server_gets_its_credential_first(net, monkeypatch) -> None:
    monkeypatch.setenv("FAR_TOKEN", "t0ken")
    server = Lines(token="t0ken")
    port = await net.listen(server)
    url = f"tcp://127.0.0.1:{port}"
    await net.started(url, transport="tcp", bearer="env:FAR_TOKEN")
    assert server.seen[0]["method"] == "authenticate"
    server.token = "another"
    with pytest.raises(MeshError, match="refuses the credential"):
        await net.started(url, transport="tcp", bearer="env:FAR_TOKEN")


async def test_tcp_server_of_a_tenant_is_refused_on_this_machine(net) -> None:
    server = Lines()
    port = await net.listen(server)
    with pytest.raises(MeshError, match="loopback address"):
        await net.started(f"tcp://127.0.0.1:{port}", transport="tcp", trusted=False, tenant="acme")
    assert server.connections == 0


async def test_tcp_calls_fail_at_once_when_the_connection_ends(net) -> None:
    server = Lines()
    port = await net.listen(server)
    upstream = await net.started(f"tcp://127.0.0.1:{port}", transport="tcp")
    waiting = asyncio.ensure_future(net.call(upstream, "do", how="silence"))
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "do", how="end")
    assert (caught.value.kind, caught.value.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    with pytest.raises(MeshError):
        await waiting
    async with asyncio.timeout(5):
        assert "closed the connection" in await upstream.wait_ended()
    with pytest.raises(MeshError) as late:
        await net.call(upstream, "do", how="again")
    assert late.value.outcome is Outcome.NOT_EXECUTED


async def test_tcp_call_survives_garbage_between_the_lines(net) -> None:
    port = await net.listen(Lines())
    upstream = await net.started(f"tcp://127.0.0.1:{port}", transport="tcp")
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "do", how="garbage", timeout_s=0.3)
    assert caught.value.kind is ErrorKind.DEADLINE
    assert await net.call(upstream, "do", how="fine") == "fine"


async def test_tcp_port_that_speaks_no_mcp_fails_the_start(net) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    port = await net.listen(web)
    with pytest.raises(MeshError) as caught:
        await net.started(f"tcp://127.0.0.1:{port}", transport="tcp")
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert "closed the connection" in caught.value.message


async def test_hosted_server_comes_back_by_itself_when_its_connection_broke(net) -> None:
    server = Lines()
    port = await net.listen(server)
    definition = net.make(f"tcp://127.0.0.1:{port}", transport="tcp")._definition
    listed: asyncio.Queue[Any] = asyncio.Queue()
    hosted = HostedServer(definition, net.children, HostSettings(), listed.put_nowait)
    hosted.start()
    try:
        async with asyncio.timeout(10):
            catalog = await listed.get()
            assert [tool.name for tool in catalog.tools] == ["do"]
            server.writers[-1].close()
            await listed.get()
        assert hosted.state is ServerState.RUNNING
        assert hosted.restarts == 1
    finally:
        await hosted.close()


async def test_hosted_server_that_is_away_is_quarantined_for_seconds_only(net) -> None:
    definition = net.make("http://127.0.0.1:9/mcp")._definition
    hosted = HostedServer(definition, net.children, HostSettings(), lambda _: None)
    hosted.start()
    try:
        await hosted.settled(10.0)
        assert hosted.state is ServerState.WAITING
        assert "cannot be reached" in hosted.reason
        restarts = hosted._fresh_restarts()
        waits = [restarts.ended(float(n), ran_s=0.0) for n in range(5)]
        assert waits[-1].quarantined
        assert waits[-1].delay_s == REMOTE_QUARANTINE_S == 30
    finally:
        await hosted.close()


class EventServer:
    """A scripted server of 2024-11-05 over HTTP+SSE."""

    def __init__(self, endpoint: str = "/messages?session=1") -> None:
        self.endpoint = endpoint
        self.down: asyncio.Queue[bytes] = asyncio.Queue()
        self.seen: list[str] = []
        self.post_status = 202

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/mcp", self.stream, methods=["GET"]),
                Route("/messages", self.message, methods=["POST"]),
            ]
        )

    async def stream(self, _request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield f"event: endpoint\ndata: {self.endpoint}\n\n".encode()
            while part := await self.down.get():
                yield part

        return StreamingResponse(parts(), media_type="text/event-stream")

    async def message(self, request: Request) -> Response:
        if self.post_status != 202:
            return Response("no", status_code=self.post_status)
        message = json.loads(await request.body())
        method = message.get("method")
        self.seen.append(method)
        results: dict[str, Any] = {
            "initialize": {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}},
                           "serverInfo": {"name": "old", "version": "1"}},
            "tools/list": {"tools": [{"name": "do", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": "done"}]},
        }  # fmt: skip
        if "id" in message and method in results:
            body = {"jsonrpc": "2.0", "id": message["id"], "result": results[method]}
            self.down.put_nowait(f"event: message\ndata: {json.dumps(body)}\n\n".encode())
        return Response(status_code=202)


async def test_sse_server_is_called_and_its_end_ends_the_life(net) -> None:
    server = EventServer()
    upstream = await net.started(await net.scripted(server), transport="sse")
    assert upstream.handshake.revision is Revision.R2024_11_05
    assert await net.call(upstream, "do") == "done"
    assert "server/discover" not in server.seen
    server.down.put_nowait(b"")
    async with asyncio.timeout(5):
        assert "closed its event stream" in await upstream.wait_ended()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1/messages", "http://other.test/m"])
async def test_sse_endpoint_of_another_origin_is_refused(net, endpoint: str) -> None:
    url = await net.scripted(EventServer(endpoint))
    with pytest.raises(MeshError, match="another origin"):
        await net.started(url, transport="sse")


async def test_sse_call_is_not_executed_when_its_post_is_refused(net) -> None:
    server = EventServer()
    upstream = await net.started(await net.scripted(server), transport="sse")
    server.post_status = 404
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "do")
    assert caught.value.outcome is Outcome.NOT_EXECUTED


async def test_url_without_event_stream_fails_the_start_of_an_sse_server(net) -> None:
    _, url = await net.new()
    with pytest.raises(MeshError, match="HTTP status 405"):
        await net.started(url, transport="sse")

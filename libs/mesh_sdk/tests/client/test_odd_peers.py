"""What a client makes of peers that are slow, silent, wrong or gone; scripted, on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web

from mcp_proto.errors import ErrorKind, Outcome
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.client import Client, ClientSettings, MeshCallError
from mesh_sdk.client.transports.tcp import TcpTransport
from mesh_sdk.client.transports.transport import Outgoing

FAST = ClientSettings(retry_delay_s=0.0, retry_attempts=1)
Handler = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def web_server(handler: Handler) -> AsyncIterator[str]:
    async def post(request: web.Request) -> web.StreamResponse:
        message = msgspec.json.decode(await request.read())
        if message["method"] == "server/discover":
            return answer(message, {})
        return await handler(request, message)

    app = web.Application()
    app.router.add_post("/mcp", post)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def answer(message: Any, result: object) -> web.Response:
    body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


async def failed_with(handler: Handler, **settings: Any) -> MeshCallError:
    async with (
        web_server(handler) as url,
        Client(url, settings=FAST, **settings) as client,
    ):
        with pytest.raises(MeshCallError) as failed:
            await client.call_tool("x", timeout_s=2.0)
    return failed.value


async def test_page_of_a_proxy_in_trouble_is_an_error_that_may_have_run() -> None:
    async def handler(_request: web.Request, _message: Any) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    error = await failed_with(handler)
    assert (error.kind, error.outcome) == (ErrorKind.UPSTREAM, Outcome.UNKNOWN)
    assert error.data["httpStatus"] == 502


async def test_refusal_by_rate_is_waited_for_and_repeated() -> None:
    tries = 0

    async def handler(_request: web.Request, message: Any) -> web.Response:
        nonlocal tries
        tries += 1
        if tries == 1:
            error = {"code": -31016, "message": "slow", "data": {"retryAfterMs": 20}}
            error["data"]["outcome"] = "not_executed"  # type: ignore[index]
            body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            return web.Response(status=429, body=msgspec.json.encode(body))
        return answer(message, {"content": []})

    async with web_server(handler) as url, Client(url, settings=FAST) as client:
        await client.call_tool("x")
    assert tries == 2


async def test_stream_that_ends_without_an_answer_may_have_run() -> None:
    async def handler(request: web.Request, _message: Any) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        return response

    error = await failed_with(handler)
    assert (error.kind, error.outcome) == (ErrorKind.LOST, Outcome.UNKNOWN)


async def test_answer_that_is_no_json_and_one_of_another_shape_are_errors() -> None:
    async def text(_request: web.Request, _message: Any) -> web.Response:
        return web.Response(text="hello")

    async def shape(_request: web.Request, message: Any) -> web.Response:
        return answer(message, {"content": 7})

    assert (await failed_with(text)).kind is ErrorKind.UPSTREAM
    wrong = await failed_with(shape)
    assert (wrong.kind, wrong.outcome) == (ErrorKind.UPSTREAM, Outcome.EXECUTED)


async def test_redirect_is_not_followed() -> None:
    async def handler(request: web.Request, _message: Any) -> web.Response:
        return web.Response(status=307, headers={"Location": "/mcp/elsewhere"})

    assert (await failed_with(handler, key="secret")).data["httpStatus"] == 307


async def test_server_that_asks_for_ever_is_ended() -> None:
    async def handler(_request: web.Request, message: Any) -> web.Response:
        question = {"method": "elicitation/create", "params": {"message": "again?"}}
        return answer(message, {"resultType": "input_required", "inputRequests": {"q": question}})

    error = await failed_with(handler, on_elicit=lambda _: {})
    assert "more than 10 times" in error.message


async def test_question_without_a_handler_ends_the_call() -> None:
    async def handler(_request: web.Request, message: Any) -> web.Response:
        question = {"method": "sampling/createMessage", "params": {}}
        return answer(message, {"resultType": "input_required", "inputRequests": {"q": question}})

    error = await failed_with(handler)
    assert (error.kind, error.outcome) == (ErrorKind.CAPABILITY, Outcome.UNKNOWN)


async def test_address_where_nobody_listens_is_said_and_nothing_has_run() -> None:
    for url in ("http://127.0.0.1:1", "tcp://127.0.0.1:1"):
        with pytest.raises(MeshCallError) as failed:
            await Client(url, settings=FAST).open()
        assert failed.value.kind is ErrorKind.LOST
        assert failed.value.safe_to_repeat
    for url in ("ftp://x", "http://user:secret@x/mcp", "tcp://x:9500/path"):
        with pytest.raises(MeshCallError) as failed:
            await Client(url).open()
        assert failed.value.kind is ErrorKind.PARAMS
        assert "secret" not in str(failed.value)


# Lines


class LinePeer:
    """Answers pings; what it does with anything else is the test's."""

    def __init__(self, serve: Callable[[Any, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.serve = serve
        self.connections = 0
        self.heard: list[Any] = []
        self.silent = False
        self._writers: set[asyncio.StreamWriter] = set()

    async def met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        while line := await reader.readline():
            message = msgspec.json.decode(line)
            self.heard.append(message)
            if self.silent:
                continue
            if message["method"] == "ping":
                reply(writer, message, {})
            else:
                await self.serve(message, writer)
        writer.close()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()


def reply(writer: asyncio.StreamWriter, message: Any, result: object) -> None:
    body = {"jsonrpc": "2.0", "id": message["id"], "result": result}
    writer.write(msgspec.json.encode(body) + b"\n")


@asynccontextmanager
async def line_peer(
    serve: Callable[[Any, asyncio.StreamWriter], Awaitable[None]], **settings: Any
) -> AsyncIterator[tuple[LinePeer, TcpTransport]]:
    peer = LinePeer(serve)
    server = await asyncio.start_server(peer.met, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made = ClientSettings(**{"pool_min": 0, **settings})
    transport = TcpTransport(f"tcp://127.0.0.1:{port}", key="", settings=made)
    try:
        await transport.open()
        yield peer, transport
    finally:
        await transport.close()
        peer.cut()
        server.close()
        await server.wait_closed()


def asking(timeout_s: float = 5.0, **fields: Any) -> Outgoing:
    return Outgoing(method="x", params=b"{}", timeout_s=timeout_s, **fields)


async def test_pool_grows_to_its_size_and_shares_connections_above_it() -> None:
    release = asyncio.Event()

    async def serve(message: Any, writer: asyncio.StreamWriter) -> None:
        async def later() -> None:
            await release.wait()
            reply(writer, message, {"n": message["id"]})

        tasks.append(asyncio.create_task(later()))

    tasks: list[asyncio.Task[None]] = []
    async with line_peer(serve, pool_size=3) as (peer, transport):
        waiting = [asyncio.create_task(transport.send(asking())) for _ in range(9)]
        await eventually(lambda: len(tasks) == 9)
        assert peer.connections == 3
        release.set()
        assert len(await asyncio.gather(*waiting)) == 9
    await asyncio.gather(*tasks)


async def test_lost_connection_fails_what_was_sent_and_is_replaced() -> None:
    async def serve(message: Any, writer: asyncio.StreamWriter) -> None:
        if peer.connections == 1:
            writer.close()
        else:
            reply(writer, message, {"again": True})

    async with line_peer(serve, pool_size=1) as (peer, transport):
        with pytest.raises(MeshCallError) as lost:
            await transport.send(asking())
        assert (lost.value.kind, lost.value.outcome) == (ErrorKind.LOST, Outcome.UNKNOWN)
        assert bytes(await transport.send(asking())) == b'{"again":true}'
        assert peer.connections == 2


async def test_silent_peer_is_found_by_its_missing_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mesh_sdk.client.transports.tcp.PING_S", 0.1)

    async def serve(message: Any, writer: asyncio.StreamWriter) -> None:
        peer.silent = True

    async with line_peer(serve, pool_size=1, keepalive_s=0.1) as (peer, transport):
        with pytest.raises(MeshCallError) as lost:
            await transport.send(asking(5.0))
        assert (lost.value.kind, lost.value.outcome) == (ErrorKind.LOST, Outcome.UNKNOWN)
        assert "sign of life" in lost.value.message


async def test_cancel_is_written_for_a_call_that_is_given_up() -> None:
    async def serve(message: Any, writer: asyncio.StreamWriter) -> None:
        return

    async with line_peer(serve, pool_size=1) as (peer, transport):
        with pytest.raises(MeshCallError) as late:
            await transport.send(asking(0.1))
        assert late.value.kind is ErrorKind.DEADLINE
        await eventually(lambda: peer.heard[-1]["method"] == "notifications/cancelled")
        asked = next(one for one in peer.heard if one["method"] == "x")
        assert peer.heard[-1]["params"] == {"requestId": asked["id"]}


async def test_garbage_on_a_line_ends_the_connection_with_an_error() -> None:
    async def serve(_message: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"this is no JSON\n")

    async with line_peer(serve, pool_size=1) as (_, transport):
        with pytest.raises(MeshCallError) as lost:
            await transport.send(asking())
        assert lost.value.outcome is Outcome.UNKNOWN

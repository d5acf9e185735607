"""A server of the old era that asks over streamable HTTP, on the official SDK."""

import asyncio
import importlib.util
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from tests.integration.asking_runner import EVERYTHING, TESTS, asking_runner, questions

from mcp_proto.contracts.registry import ServerDefinition
from mesh_chassis.testing.conditions import eventually

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("broker")]
CHOSEN = {"action": "accept", "content": {"colour": "red"}}


class OldOnly:
    """Refuses the new era, as servers on earlier versions of the SDK do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.posted: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if dict(scope.get("headers", [])).get(b"mcp-protocol-version") == b"2026-07-28":
            refused = {"jsonrpc": "2.0", "id": None, "error": {"code": -32000, "message": "no"}}
            await JSONResponse(refused, status_code=400)(scope, receive, send)
            return

        async def listening() -> Any:
            message = await receive()
            self.posted.append(message.get("body", b""))
            return message

        await self.app(scope, listening if scope["type"] == "http" else receive, send)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, OldOnly]]:
    spec = importlib.util.spec_from_file_location("asking_server", TESTS / "asking_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = OldOnly(module.mcp.streamable_http_app())
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        # A loop of its own: the SDK's streams leave a watcher behind in theirs.
        running = threading.Thread(target=server.run, args=([listener],))
        running.start()
        try:
            await eventually(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", app
        finally:
            server.should_exit = True
            await asyncio.to_thread(running.join, 10.0)


def remote(url: str) -> ServerDefinition:
    return ServerDefinition(name="asking", transport="http", url=url, allow_private=("127.0.0.1",))


async def test_calls_of_several_callers_ask_at_once_over_http(connect_bus: Any) -> None:
    async with serving() as (url, _), asking_runner(connect_bus, remote(url)) as rig:
        call = rig.gateway.call
        asked = await asyncio.gather(
            *(call("choose", server="asking", declare=EVERYTHING, who=who) for who in "abc")
        )
        for who, one in zip("abc", asked, strict=True):
            (key,) = questions(one)
            chosen = {"action": "accept", "content": {"colour": who}}
            answer = await rig.gateway.answer(one, {key: chosen}, who=who)
            assert answer["result"]["content"][0]["text"] == f"accept: {who}"
        assert rig.parked == 0


async def test_call_that_nobody_answers_is_cancelled_over_http(connect_bus: Any) -> None:
    async with serving() as (url, app), asking_runner(connect_bus, remote(url), ttl_s=0.2) as rig:
        asked = await rig.gateway.call("choose", server="asking", declare=EVERYTHING)
        assert questions(asked)
        await eventually(lambda: any(b"notifications/cancelled" in one for one in app.posted))
        bodies = b"\n".join(app.posted)
        assert b'"action":"cancel"' in bodies
        assert rig.parked == 0

"""When an unused session of an old HTTP client ends, and that listening counts as use."""

import time
from pathlib import Path

import httpx
import pytest

from gateway.config import LimitsConfig
from gateway.edges import sse
from gateway.testing import JSON_HEADERS, running_gateway, surrounded

pytestmark = pytest.mark.slow

IDLE_S = 1.5
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}


async def ask(client: httpx.AsyncClient, method: str, params: object, session: str = ""):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return await client.post(
        "/mcp",
        json=body,
        headers={**JSON_HEADERS, "mcp-session-id": session} if session else JSON_HEADERS,
    )


async def test_a_client_that_only_listens_keeps_its_session_and_a_silent_one_loses_it(
    broker, connect_bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.1)
    limits = LimitsConfig(session_idle_s=IDLE_S)
    async with (
        surrounded(connect_bus, tmp_path) as around,
        running_gateway(around, connect_bus, limits=limits) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as client,
    ):
        listens, silent = [
            (await ask(client, "initialize", INITIALIZE)).headers["mcp-session-id"]
            for _ in range(2)
        ]
        heads = {**JSON_HEADERS, "mcp-session-id": listens}
        until = time.monotonic() + 2 * IDLE_S
        async with client.stream("GET", "/mcp", headers=heads) as stream:
            async for line in stream.aiter_lines():
                if line and time.monotonic() > until:
                    break
            assert time.monotonic() > until, "the stream was ended"
            assert (await ask(client, "ping", {}, listens)).status_code == 200
        assert (await ask(client, "ping", {}, silent)).status_code == 404

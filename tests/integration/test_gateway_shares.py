"""One principal takes part of a gateway's connections, and the others keep the rest."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest_asyncio

from gateway.config import LimitsConfig
from gateway.testing import LineClient, Running, modern, running_gateway, surrounded
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import ConnectBus

FOUR = LimitsConfig(connections=4)


@pytest_asyncio.fixture
async def gateway(
    broker: Broker, connect_bus: ConnectBus, tmp_path: Path
) -> AsyncIterator[Running]:
    async with surrounded(connect_bus, tmp_path) as around:
        around.allow("ann")
        around.allow("mallory")
        async with running_gateway(around, connect_bus, limits=FOUR) as running:
            yield running


async def asked(stack: AsyncExitStack, gateway: Running, credential: str) -> httpx.Response:
    """One request on a connection of its own, which stays open."""
    client = await stack.enter_async_context(httpx.AsyncClient(base_url=gateway.http))
    body, headers = modern("tools/list")
    headers = {**headers, "authorization": f"Bearer {credential}"}
    return await client.post("/mcp", content=body, headers=headers)


async def test_principal_with_its_share_is_told_429_and_another_one_is_served(
    gateway: Running,
) -> None:
    async with AsyncExitStack() as stack:
        held = [(await asked(stack, gateway, "mallory")).status_code for _ in range(2)]
        refused = await asked(stack, gateway, "mallory")
        served = await asked(stack, gateway, "ann")
    assert held == [200, 200]
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == -31016
    assert refused.json()["error"]["data"]["limit"] == "principal_share"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["connection"] == "close"
    assert served.status_code == 200


async def test_line_beyond_the_share_is_answered_and_closed(gateway: Running) -> None:
    lines = [await LineClient.connect(gateway.tcp) for _ in range(3)]
    answers = [await line.ask("authenticate", params={"token": "mallory"}) for line in lines]
    assert ["error" in answer for answer in answers] == [False, False, True]
    assert answers[2]["error"]["data"]["limit"] == "principal_share"
    assert await lines[2].reader.read() == b""
    other = await LineClient.connect(gateway.tcp)
    answer = await other.ask("authenticate", params={"token": "ann"})
    assert answer["result"]["status"] == "ok"
    for line in (*lines, other):
        await line.close()

"""A client over the end of a gateway and of the broker."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config import HttpConfig, TcpConfig
from gateway.testing import DEMO_TENANT, running_gateway, surrounded, text_result, tool
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.client import Client, ClientSettings, MeshCallError
from mesh_sdk.client.transports.nats import BusSeat, NatsTransport

Connect = Callable[..., Awaitable[Bus]]
PATIENT = ClientSettings(retry_attempts=8, retry_delay_s=0.05)


async def said(_call: Call, _params: dict[str, msgspec.Raw]) -> bytes:
    return text_result("here")


async def answers(client: Client) -> bool:
    try:
        return (await client.call_tool("lab__say")).text == "here"
    except MeshCallError:
        return False


async def test_client_goes_on_with_the_next_gateway_at_its_address(
    connect_bus: Connect, broker: Broker, tmp_path: Path
) -> None:
    async with surrounded(connect_bus, tmp_path) as around:
        await around.put_server("lab", tool("say"))
        around.scripts["lab:say"] = said
        async with running_gateway(around, connect_bus, "gateway-1") as first:
            ports = int(first.http.rpartition(":")[2]), first.tcp
            by_http = Client(first.http, settings=PATIENT)
            by_tcp = Client(f"tcp://127.0.0.1:{first.tcp}", settings=PATIENT)
            await by_http.open()
            await by_tcp.open()
            changes = await by_http.list_changes("tools").ready()
            for client in (by_http, by_tcp):
                await eventually(lambda client=client: answers(client), timeout_s=10.0)
        try:
            async with running_gateway(
                around,
                connect_bus,
                "gateway-2",
                http=HttpConfig(port=ports[0]),
                tcp=TcpConfig(port=ports[1]),
            ):
                for client in (by_http, by_tcp):
                    await eventually(lambda client=client: answers(client), timeout_s=10.0)
                async with asyncio.timeout(10):
                    # What may have been missed meanwhile is told.
                    assert (await anext(changes)).what == "tools"
        finally:
            await by_http.close()
            await by_tcp.close()


async def test_arguments_that_stand_in_headers_are_learnt_from_the_schema(
    connect_bus: Connect, broker: Broker, tmp_path: Path
) -> None:
    region: dict[str, Any] = {"type": "string", "x-mcp-header": "Region"}
    schema = {"type": "object", "properties": {"region": region}}
    async with (
        surrounded(connect_bus, tmp_path) as around,
        running_gateway(around, connect_bus) as gateway,
    ):
        await around.put_server("lab", tool("say", inputSchema=schema))
        around.scripts["lab:say"] = said
        async with Client(gateway.http) as client:

            async def called() -> bool:
                try:
                    result = await client.call_tool("lab__say", {"region": "eu"})
                except MeshCallError:
                    return False
                return result.text == "here"

            await eventually(called, timeout_s=10.0)
        async with Client(gateway.http) as client:
            assert (await client.call_tool("lab", "say", {"region": "eu"})).text == "here"


async def test_client_on_the_bus_goes_on_after_the_broker_was_away(
    connect_bus: Connect, broker: Broker, tmp_path: Path
) -> None:
    async def seat() -> BusSeat:
        return BusSeat(await connect_bus("stdio", "stdio-1"), owned=False)

    async with (
        surrounded(connect_bus, tmp_path) as around,
        running_gateway(around, connect_bus),
        Client(transport=NatsTransport(seat, tenant=DEMO_TENANT), settings=PATIENT) as client,
    ):
        await around.put_server("lab", tool("say"))
        around.scripts["lab:say"] = said
        await eventually(lambda: answers(client), timeout_s=10.0)
        await broker.stop()
        with pytest.raises(MeshCallError) as away:
            await client.call_tool("lab__say", timeout_s=0.5)
        assert away.value.safe_to_repeat
        await broker.start()
        await eventually(lambda: answers(client), timeout_s=20.0)

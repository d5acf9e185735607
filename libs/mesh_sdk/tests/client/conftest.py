"""A gateway with real sockets and a client on each way to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.testing import DEMO_TENANT, Running, Surroundings, running_gateway, surrounded
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.fixtures import bus_config
from mesh_sdk.client import Client, ClientSettings
from mesh_sdk.client.transports.nats import BusSeat, NatsTransport
from mesh_sdk.client.transports.transport import Transport

WAYS = ("nats", "plain-nats", "http", "tcp")
FAST = ClientSettings(retry_delay_s=0.01)


class Rig:
    """What a test of one way holds."""

    def __init__(
        self, way: str, around: Surroundings, gateway: Running, connect: Any, broker: Broker
    ) -> None:
        self.way = way
        self.around = around
        self.gateway = gateway
        self._connect = connect
        self.broker = broker
        self.seat: Bus

    @property
    def url(self) -> str:
        if self.way == "http":
            return f"{self.gateway.http}/mcp"
        return f"tcp://127.0.0.1:{self.gateway.tcp}"

    def transport(self, key: str = "") -> Transport | None:
        if self.way == "nats":

            async def seat() -> BusSeat:
                self.seat = await self._connect("stdio", "stdio-1")
                return BusSeat(self.seat, owned=False)

            return NatsTransport(seat, tenant=DEMO_TENANT, key=key)
        if self.way == "plain-nats":

            async def plain() -> BusSeat:
                config = bus_config(self.broker, "client", DEMO_TENANT)
                bus = await Bus.connect(
                    config, service="client", instance="client-1", inbox="_INBOX"
                )
                return BusSeat(bus, plain=True)

            return NatsTransport(plain, tenant=DEMO_TENANT, key=key)
        return None

    def client(self, *, key: str = "", settings: ClientSettings = FAST, **options: Any) -> Client:
        return Client(
            self.url, key=key, settings=settings, transport=self.transport(key), **options
        )


@pytest_asyncio.fixture(
    params=[
        pytest.param(way, marks=pytest.mark.slow if way in {"plain-nats", "tcp"} else ())
        for way in WAYS
    ]
)
async def rig(
    request: pytest.FixtureRequest,
    broker: Broker,
    connect_bus: Callable[..., Awaitable[Bus]],
    tmp_path: Path,
) -> AsyncIterator[Rig]:
    async with (
        surrounded(connect_bus, tmp_path) as around,
        running_gateway(around, connect_bus) as gateway,
    ):
        yield Rig(request.param, around, gateway, connect_bus, broker)


@pytest.fixture
def soon() -> Callable[[Awaitable[Any]], Awaitable[Any]]:
    """Await something that must happen within a few seconds."""

    async def wait(what: Awaitable[Any]) -> Any:
        async with asyncio.timeout(5.0):
            return await what

    return wait

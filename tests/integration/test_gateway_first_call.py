"""The first call through every edge of a gateway: real broker, real sockets, scripted servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import pytest_asyncio

from gateway import service as gateway_service
from gateway.config import GatewayConfig, HttpConfig, KeysConfig, SecurityConfig, TcpConfig
from gateway.testing import Surroundings, text_result, tool
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.in_process import in_process


class Ports:
    def __init__(self, http: int, tcp: int) -> None:
        self.http = http
        self.tcp = tcp


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode(), said="it")


@pytest_asyncio.fixture
async def around(connect_bus, broker, tmp_path: Path) -> AsyncIterator[Surroundings]:
    parts = Surroundings(
        registry=await connect_bus("registry", "registry-1"),
        auth=await connect_bus("tenant-auth", "tenant-auth-1"),
        runner=await connect_bus("tool-runner", "runner-1"),
        directory=tmp_path,
    )
    await parts.start()
    await parts.put_server("echo", tool("echo"), prefixed=False)
    await parts.put_server("fs", tool("read", description="reads"))
    parts.scripts |= {"echo:echo": echo, "fs:read": echo}
    yield parts
    await parts.stop()


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus):
    config = GatewayConfig(
        service=ServiceSection(instance="gateway-1"),
        http=HttpConfig(port=0),
        tcp=TcpConfig(port=0),
        security=SecurityConfig(development=True),
        keys=KeysConfig(kek_file=str(around.kek_file)),
    )
    bus = await connect_bus("gateway", "gateway-1")
    async with in_process(gateway_service.build, config, bus) as service:
        yield service


async def test_one(gateway) -> None:
    print(gateway)

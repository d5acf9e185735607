"""The HTTP listener: how a connection ends that an answer is still read from."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.config import HttpConfig, LimitsConfig
from gateway.edges.http_server import BODY, LINGER_S, HttpServer, write_whole

_ANSWER = b"x" * 80_000


async def _app(scope: Any, receive: Any, send: Any) -> None:
    assert write_whole(scope[BODY], 200, _ANSWER)


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    """A gateway's listener while the gateway drains."""
    made = HttpServer(HttpConfig(port=0), LimitsConfig(), _app, draining=lambda: True)
    await made.start()
    yield made
    await made.stop(1.0)


@asynccontextmanager
async def _answered(server: HttpServer, more: str = "") -> AsyncIterator[asyncio.StreamReader]:
    """A connection that has given its answer, which said that it ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
        assert b"connection: close" in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(len(_ANSWER)) == _ANSWER
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()


async def _ends_after_s(reader: asyncio.StreamReader) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    return loop.time() - began


async def test_a_draining_gateway_lets_its_client_read_before_it_closes(server: HttpServer) -> None:
    async with _answered(server) as reader:
        assert await _ends_after_s(reader) > LINGER_S / 2


async def test_a_client_that_wants_the_end_gets_it_at_once(server: HttpServer) -> None:
    async with _answered(server, "Connection: close\r\n") as reader:
        assert await _ends_after_s(reader) < LINGER_S / 2


async def test_a_stopping_listener_does_not_wait_for_its_clients(server: HttpServer) -> None:
    async with _answered(server):
        began = asyncio.get_running_loop().time()
        await server.stop(5.0)
        assert asyncio.get_running_loop().time() - began < 3 * LINGER_S

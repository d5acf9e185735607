"""Connections to servers: authorities of their own, and through a proxy."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.certificates import self_signed

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.upstreams.factory import NetworkSettings, make_link
from tool_runner.upstreams.http_link import LinkSettings


def definition(url: str, **more: Any) -> ServerDefinition:
    fields = {"name": "far", "transport": "http", "url": url, "allow_private": ("127.0.0.1",)}
    return ServerDefinition(**fields, **more)


async def https(context: ssl.SSLContext) -> tuple[web.AppRunner, int]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/mcp", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    return runner, runner.addresses[0][1]


async def asked(one: ServerDefinition, settings: LinkSettings | None = None) -> str:
    network = NetworkSettings(link=settings or LinkSettings(connect_s=2.0))
    link = make_link(one, network, trusted=True)
    link.open()
    try:
        response = await link.send("GET", {})
        text = await response.text()
        link.finish(response)
        return text
    finally:
        await link.close()


async def test_server_with_an_authority_of_its_own_is_trusted_by_its_file(tmp_path: Path) -> None:
    context, certificate, _ = self_signed(tmp_path)
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate)
    runner, port = await https(context)
    url = f"https://localhost:{port}/mcp"
    try:
        assert await asked(definition(url, tls_ca_file=str(file))) == "hello"
        with pytest.raises(MeshError) as refused:
            await asked(definition(url))
        assert refused.value.kind is ErrorKind.UPSTREAM
        assert refused.value.outcome is Outcome.NOT_EXECUTED
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_authority_file_that_cannot_be_read_is_named(
    tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MeshError, match="tls_ca_file") as refused:
        await asked(definition("https://127.0.0.1:1/mcp", tls_ca_file=str(file)))
    assert refused.value.outcome is Outcome.NOT_EXECUTED


class Proxy:
    """An HTTP proxy that answers by itself what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.append(head.split(b"\r\n")[0].decode())
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nproxied")
        await writer.drain()
        writer.close()


async def test_with_a_proxy_every_request_goes_to_it_and_it_resolves_the_name() -> None:
    proxy = Proxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = LinkSettings(connect_s=2.0, proxy=f"http://127.0.0.1:{port}")
    async with server:
        one = definition("http://inside.example.invalid/mcp")
        assert await asked(one, settings) == "proxied"
    assert proxy.asked == ["GET http://inside.example.invalid/mcp HTTP/1.1"]


async def test_proxy_that_is_away_is_an_error_in_which_nothing_ran() -> None:
    with pytest.raises(MeshError) as refused:
        await asked(
            definition("http://inside.example.invalid/mcp"),
            LinkSettings(connect_s=2.0, proxy="http://127.0.0.1:1"),
        )
    assert refused.value.kind is ErrorKind.UPSTREAM
    assert refused.value.outcome is Outcome.NOT_EXECUTED

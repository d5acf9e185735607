"""Servers on real sockets, official and scripted, and upstreams that are closed at the end."""

import asyncio
import contextlib
import gc
import importlib.util
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorObject
from mesh_chassis.children import Children
from tool_runner.upstreams.factory import Life, NetworkSettings, make
from tool_runner.upstreams.http import HttpSettings
from tool_runner.upstreams.http_link import LinkSettings
from tool_runner.upstreams.stdio import StdioSettings
from tool_runner.upstreams.upstream import Request

QUICK = NetworkSettings(
    http=HttpSettings(start_timeout_s=5.0, check_s=0.4, patience_s=1.0, era_s=600.0),
    link=LinkSettings(connect_s=2.0),
)


def _load(name: str) -> Any:
    """A module of this folder; test folders are no packages."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


scripted = _load("scripted")
authority = _load("authority")


class Recorder:
    """A ``Listener`` that can be waited for."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.updated: asyncio.Queue[bytes] = asyncio.Queue()

    def lists_changed(self) -> None:
        self.changed.set()

    def resource_updated(self, params: msgspec.Raw) -> None:
        self.updated.put_nowait(bytes(params))


class Served:
    """An ASGI application on a port of its own, in a thread with a loop of its own."""

    def __init__(self, app: Any, port: int = 0) -> None:
        config = uvicorn.Config(
            app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", port))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    async def start(self) -> "Served":
        self._thread.start()
        while not self._server.started:
            await asyncio.sleep(0.005)
            assert self._thread.is_alive()
        return self

    async def stop(self) -> None:
        self._server.should_exit = True
        await asyncio.to_thread(self._thread.join, 5)
        self._socket.close()


class Here(Served):
    """The same in the loop of the test, whose events it can share."""

    async def start(self) -> "Here":
        self._task = asyncio.ensure_future(self._server._serve([self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.002)
            assert not self._task.done()
        return self

    async def stop(self) -> None:
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=5)
        self._socket.close()


class Net:
    """Starts servers and upstreams, and calls in few words."""

    def __init__(self) -> None:
        self.children = Children()
        self.listener = Recorder()
        self.settings = QUICK
        self.upstreams: list[Life] = []
        self._servers: list[Served] = []
        self._cleanup = contextlib.AsyncExitStack()

    async def serve(self, app: Any, port: int = 0) -> Served:
        served = await Served(app, port).start()
        self._servers.append(served)
        return served

    async def scripted(self, server: Any, port: int = 0) -> str:
        """Run a scripted server in this loop; its URL."""
        served = await Here(server.app(), port).start()
        self._servers.append(served)
        self.here = served
        return f"http://127.0.0.1:{served.port}/mcp"

    async def old(self, **fields: Any) -> tuple[Any, str]:
        """A scripted legacy server, and its URL."""
        return await self._scripted(scripted.Old(), fields)

    async def new(self, **fields: Any) -> tuple[Any, str]:
        """A scripted modern server, and its URL."""
        return await self._scripted(scripted.New(fields.pop("tools", None)), fields)

    async def _scripted(self, server: Any, fields: dict[str, Any]) -> tuple[Any, str]:
        for name, value in fields.items():
            setattr(server, name, value)
        return server, await self.scripted(server)

    async def listen(self, handler: Callable[..., Awaitable[None]]) -> int:
        """A scripted server: a handler of streams; its port."""

        async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", 0)
        self._cleanup.callback(server.close)
        return server.sockets[0].getsockname()[1]

    def make(self, url: str, *, trusted: bool = True, legacy: bool = False, **fields: Any) -> Life:
        definition = ServerDefinition(
            **{"name": "far", "transport": "http", "url": url, "timeout_s": 5.0, **fields}
        )
        upstream = make(
            definition,
            self.children,
            self.listener,
            stdio=StdioSettings(),
            network=self.settings,
            trusted=trusted,
            legacy=legacy,
        )
        self.upstreams.append(upstream)
        return upstream

    async def started(self, url: str, **fields: Any) -> Life:
        upstream = self.make(url, **fields)
        self.offer = await upstream.start()
        return upstream

    @staticmethod
    def request(
        tool: str,
        *,
        timeout_s: float = 5.0,
        meta: dict[str, object] | None = None,
        notify: Callable[[bytes], Awaitable[None]] | None = None,
        asks: Any = None,
        **arguments: object,
    ) -> Request:
        params: dict[str, object] = {"name": tool, "arguments": arguments}
        if meta is not None:
            params["_meta"] = meta
        return Request(
            method="tools/call",
            params=msgspec.Raw(msgspec.json.encode(params)),
            timeout_s=timeout_s,
            notify=notify,
            asks=asks,
        )

    async def call(self, upstream: Life, tool: str, **more: Any) -> str:
        """Text of the first content item."""
        answer = await upstream.call(self.request(tool, **more))
        assert not isinstance(answer, ErrorObject), answer
        return msgspec.json.decode(answer)["content"][0]["text"]

    async def close(self) -> None:
        for upstream in self.upstreams:
            await upstream.close()
        await asyncio.gather(*(served.stop() for served in self._servers))
        await self._cleanup.aclose()
        await self.children.close()


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    one = Net()
    yield one
    await one.close()
    gc.collect()  # a response that nobody closed warns when it goes: in this test, not the next


@pytest.fixture
async def scene(net: Net, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An MCP server behind a guard, and the authorization server that it trusts."""
    monkeypatch.setenv("FAR_SECRET", "s:cret/")
    return await authority.Scene(net, scripted.New()).set()

"""Discovery in Consul, against its interface written down.

Debian and PyPI carry clients of Consul but no server, and no binary can be fetched where these
tests run. So a small server plays answers as Consul 1.20 documents them (``/v1/health/service``,
``/v1/agent/service``, ``/v1/agent/check``): index headers, queries that block until the index
moves, unknown checks, ACL refusals. Node and Service were compared with an answer of a 1.7.1 that
a published client keeps for its own tests: the members used here have its names and types. A run
against a real Consul is still owed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from mcp_proto.discovery import DiscoveryTable
from mcp_proto.errors import MeshError
from mesh_chassis.testing.conditions import eventually
from registry.core.found import Agent
from registry.drivers.consul import ConsulDiscovery
from registry.drivers.discovery import Seen

SELF = Agent(name="mesh", url="http://gateway.example:3000/mcp", capabilities=("time", "notes"))


def instance(ident: str, **service: Any) -> dict[str, Any]:
    """As recorded; what discovery does not read is kept, so that it is seen to be ignored."""
    return {
        "Node": {
            "ID": "40e4a748-2192-161a-0510-9bf59fe950b5",
            "Node": "t2.320",
            "Address": "192.0.2.10",
            "Datacenter": "dc1",
            "TaggedAddresses": {"lan": "192.0.2.10"},
            "Meta": {"instance_type": "t2.medium"},
        },
        "Service": {
            "ID": ident,
            "Service": "mcp",
            "Tags": ["mcp"],
            "Address": "",
            "Meta": None,
            "Port": 0,
            "Weights": {"Passing": 10, "Warning": 1},
            **service,
        },
        "Checks": [{"CheckID": f"service:{ident}", "Status": "passing", "ServiceID": ident}],
    }


class Consul:
    """Plays recorded answers."""

    def __init__(self) -> None:
        self.index = 10
        self.instances: list[dict[str, Any]] = []
        self.moved = asyncio.Event()
        self.queries: list[dict[str, str]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.unknown = False
        self.token = ""
        self.url = ""

    def change(self, *instances: dict[str, Any], index: int | None = None) -> None:
        self.instances = list(instances)
        self.index = index if index is not None else self.index + 1
        self.moved.set()
        self.moved = asyncio.Event()

    async def health(self, request: web.Request) -> web.Response:
        if self.token and request.headers.get("X-Consul-Token") != self.token:
            return web.Response(status=403, text="rpc error: Permission denied: token is missing")
        query = dict(request.query)
        self.queries.append(query)
        if int(query.get("index", "0")) == self.index:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(float(query["wait"].removesuffix("s"))):
                    await self.moved.wait()
        headers = {"X-Consul-Index": str(self.index), "X-Consul-Knownleader": "true"}
        return web.json_response(self.instances, headers=headers)

    async def agent(self, request: web.Request) -> web.Response:
        body = await request.read()
        path = request.match_info["rest"]
        self.requests.append((request.method, path, json.loads(body) if body else None))
        if path.startswith("check/pass/") and self.unknown:
            self.unknown = False
            text = 'Unknown check ID "service:mcp-mesh-mesh". Ensure that the check ID is passed'
            return web.Response(status=404, text=text)
        return web.Response()


@pytest.fixture
async def consul() -> AsyncIterator[Consul]:
    made = Consul()
    app = web.Application()
    app.router.add_get("/v1/health/service/mcp", made.health)
    app.router.add_put("/v1/agent/{rest:.*}", made.agent)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@contextlib.asynccontextmanager
async def looking(consul: Consul, **more: Any) -> AsyncIterator[ConsulDiscovery]:
    fields = {"enabled": True, "type": "consul", "consul_url": consul.url, **more}
    one = ConsulDiscovery(DiscoveryTable(**fields))
    try:
        yield one
    finally:
        await one.close()


async def until(found: AsyncIterator[Seen], names: list[str]) -> Seen:
    async with asyncio.timeout(5):
        async for seen in found:
            if [one.name for one in seen.agents] == names:
                return seen
    raise AssertionError


async def test_driver_reads_agents_and_hears_of_changes_by_blocking_queries(
    consul: Consul,
) -> None:
    meta = {"name": "weather", "url": "https://w.example/mcp", "capabilities": "forecast, maps"}
    consul.change(
        instance("w-1", Meta=meta),
        instance("notes", Address="192.0.2.7", Port=4000),
        instance("node", Port=4001),
        instance("portless"),
    )
    async with looking(consul) as driver, contextlib.aclosing(driver.found()) as found:
        seen = await anext(found)
        assert seen.agents == (
            Agent(name="node", url="http://192.0.2.10:4001"),
            Agent(name="notes", url="http://192.0.2.7:4000"),
            Agent(name="weather", url="https://w.example/mcp", capabilities=("forecast", "maps")),
        )
        assert [name for name, _ in seen.unreadable] == ["portless"]
        waiting = asyncio.ensure_future(until(found, ["weather"]))
        await eventually(lambda: len(consul.queries) == 2)
        consul.change(instance("w-1", Meta=meta))
        await waiting
    assert consul.queries[0] == {"passing": "true"}
    assert consul.queries[1] == {"passing": "true", "index": "11", "wait": "30s"}


async def test_an_index_that_goes_back_begins_anew(consul: Consul) -> None:
    times = {"registry_ttl_seconds": 2, "heartbeat_interval_seconds": 1}
    consul.change(instance("a", Port=1), index=100)
    async with looking(consul, **times) as driver, contextlib.aclosing(driver.found()) as found:
        await anext(found)
        consul.change(instance("b", Port=1), index=3)
        await until(found, ["b"])
        await anext(found)
    assert [one.get("index", "0") for one in consul.queries] == ["0", "100", "0"]


async def test_the_mesh_is_a_service_with_a_check_kept_passing(consul: Consul) -> None:
    async with looking(consul) as driver:
        assert await driver.announce(SELF) is None
        assert await driver.announce(SELF) is None
        consul.unknown = True
        assert await driver.announce(SELF) is None
        await driver.withdraw()
        await driver.withdraw()
    assert [path for _, path, _ in consul.requests] == [
        "service/register",
        "check/pass/service:mcp-mesh-mesh",
        "check/pass/service:mcp-mesh-mesh",
        "service/register",
        "service/deregister/mcp-mesh-mesh",
    ]
    assert consul.requests[0][2] == {
        "ID": "mcp-mesh-mesh",
        "Name": "mcp",
        "Tags": ["mcp", "mcp-mesh"],
        "Meta": {"name": "mesh", "url": SELF.url, "capabilities": "time,notes"},
        "Check": {"TTL": "60s", "Status": "passing", "DeregisterCriticalServiceAfter": "10m"},
    }


async def test_acl_token_is_sent_and_a_refusal_is_told(
    consul: Consul, monkeypatch: pytest.MonkeyPatch
) -> None:
    consul.token = "t-1"
    monkeypatch.setenv("CONSUL_TEST_TOKEN", "t-1")
    async with looking(consul) as driver:
        with pytest.raises(MeshError, match="status 403: rpc error: Permission denied"):
            await anext(driver.found())
    async with looking(consul, consul_token="env:CONSUL_TEST_TOKEN") as driver:
        assert (await anext(driver.found())).agents == ()
    async with looking(consul, consul_token="env:CONSUL_TEST_NOT_SET") as driver:
        with pytest.raises(MeshError, match="CONSUL_TEST_NOT_SET is not set"):
            await anext(driver.found())


@pytest.mark.parametrize("body", [b"<html>", b'{"a":1}', b"[[]]"])
async def test_what_is_not_consul_is_one_clear_error(body: bytes) -> None:
    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/{rest:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    driver = ConsulDiscovery(DiscoveryTable(enabled=True, type="consul", consul_url=url))
    try:
        with pytest.raises(MeshError, match="not that of Consul"):
            await anext(driver.found())
    finally:
        await driver.close()
        await runner.cleanup()

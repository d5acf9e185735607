"""Discovery in a real etcd: what is found, how changes arrive, how the mesh is announced."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from tests.etcd_peer import Etcd, running_etcd

from mcp_proto.discovery import DiscoveryTable
from mcp_proto.errors import ErrorKind, MeshError
from registry.core.found import Agent
from registry.drivers.discovery import Seen
from registry.drivers.etcd import EtcdDiscovery

SELF = Agent(name="mesh", url="http://gateway.example:3000/mcp", capabilities=("time",))


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as one:
        yield one


def coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def put(etcd: Etcd, key: str, value: object) -> None:
    body = {
        "key": coded(key),
        "value": coded(value if isinstance(value, str) else json.dumps(value)),
    }
    httpx.post(f"{etcd.url}/v3/kv/put", json=body).raise_for_status()


def delete(etcd: Etcd, key: str) -> None:
    httpx.post(f"{etcd.url}/v3/kv/deleterange", json={"key": coded(key)}).raise_for_status()


def get(etcd: Etcd, key: str) -> dict[str, object] | None:
    answer = httpx.post(f"{etcd.url}/v3/kv/range", json={"key": coded(key)}).json()
    if not answer.get("kvs"):
        return None
    return json.loads(base64.b64decode(answer["kvs"][0]["value"]))


def revoke(etcd: Etcd, lease: int) -> None:
    httpx.post(f"{etcd.url}/v3/lease/revoke", json={"ID": str(lease)}).raise_for_status()


@contextlib.asynccontextmanager
async def looking(etcd: Etcd, prefix: str, **more: object) -> AsyncIterator[EtcdDiscovery]:
    fields = {"enabled": True, "type": "etcd", "etcd_endpoints": (etcd.url,), **more}
    one = EtcdDiscovery(DiscoveryTable(etcd_prefix=prefix, **fields))  # type: ignore[arg-type]
    try:
        yield one
    finally:
        await one.close()


async def until(found: AsyncIterator[Seen], names: set[str]) -> Seen:
    async with asyncio.timeout(15):
        async for seen in found:
            if {one.name for one in seen.agents} == names:
                return seen
    raise AssertionError


async def test_driver_tells_of_agents_as_they_come_change_and_go(etcd: Etcd) -> None:
    put(etcd, "a:agents/one", {"name": "one", "url": "http://h:1", "capabilities": ["x"], "v": 1})
    put(etcd, "b:agents/other", {"url": "http://h:2"})
    async with looking(etcd, "a:") as driver, contextlib.aclosing(driver.found()) as found:
        seen = await anext(found)
        assert seen.agents == (Agent(name="one", url="http://h:1", capabilities=("x",)),)
        put(etcd, "a:agents/two", {"url": "http://h:3"})
        assert (await until(found, {"one", "two"})).agents[1].url == "http://h:3"
        delete(etcd, "a:agents/one")
        await until(found, {"two"})


async def test_values_that_are_no_agents_are_told_with_the_reason(etcd: Etcd) -> None:
    for name, value in (("a", "no json"), ("b", '{"url":7}'), ("c", "[" * 5000)):
        put(etcd, f"odd:agents/{name}", value)
    put(etcd, "odd:agents/good", {"url": "http://h:1"})
    async with looking(etcd, "odd:") as driver, contextlib.aclosing(driver.found()) as found:
        seen = await anext(found)
    assert [one.name for one in seen.agents] == ["good"]
    assert [name for name, _ in seen.unreadable] == ["a", "b", "c"]


async def test_the_mesh_is_announced_under_a_lease_and_withdrawn(etcd: Etcd) -> None:
    async with looking(etcd, "ann:", registry_ttl_seconds=2, heartbeat_interval_seconds=1) as one:
        assert await one.announce(SELF) is None
        assert await one.announce(SELF) is None
        stored = get(etcd, "ann:agents/mesh")
        assert stored == {"name": "mesh", "url": SELF.url, "capabilities": ["time"],
                          "source": "mcp-mesh"}  # fmt: skip
        await one.withdraw()
        assert get(etcd, "ann:agents/mesh") is None


async def test_a_lease_that_ran_out_is_taken_again(etcd: Etcd) -> None:
    async with looking(etcd, "out:") as one:
        assert await one.announce(SELF) is None
        revoke(etcd, one._lease)
        assert get(etcd, "out:agents/mesh") is None
        assert await one.announce(SELF) is None
        assert get(etcd, "out:agents/mesh") is not None
        await one.withdraw()


async def test_a_key_of_somebody_else_is_never_overwritten(etcd: Etcd) -> None:
    put(etcd, "own:agents/mesh", {"url": "http://somebody.else"})
    async with looking(etcd, "own:") as one:
        assert "somebody else" in str(await one.announce(SELF))
        assert get(etcd, "own:agents/mesh") == {"url": "http://somebody.else"}
        # What an earlier life of ours left there is taken over.
        put(etcd, "own:agents/mesh", {"url": SELF.url})
        assert await one.announce(SELF) is None
        await one.withdraw()
    assert get(etcd, "own:agents/mesh") is None


async def test_etcd_that_is_away_is_one_clear_error() -> None:
    table = DiscoveryTable(enabled=True, type="etcd", etcd_endpoints=("http://127.0.0.1:1",))
    driver = EtcdDiscovery(table)
    with pytest.raises(MeshError, match=r"etcd: http://127.0.0.1:1 cannot be reached") as caught:
        await anext(driver.found())
    assert caught.value.kind is ErrorKind.UPSTREAM
    await driver.close()


async def test_the_next_endpoint_is_asked_when_one_is_away(etcd: Etcd) -> None:
    endpoints = ("http://127.0.0.1:1", etcd.url)
    async with looking(etcd, "next:", etcd_endpoints=endpoints) as driver:
        with pytest.raises(MeshError):
            await anext(driver.found())
        assert (await anext(driver.found())).agents == ()


async def test_etcd_with_authentication_gets_user_and_password(
    etcd: Etcd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(path: str, body: dict[str, object], token: str = "") -> dict[str, object]:
        headers = {"authorization": token} if token else {}
        answer = httpx.post(f"{etcd.url}/v3/auth/{path}", json=body, headers=headers)
        answer.raise_for_status()
        return answer.json()

    ask("user/add", {"name": "root", "password": "secret-1"})
    ask("user/grant", {"user": "root", "role": "root"})
    ask("enable", {})
    monkeypatch.setenv("ETCD_TEST_PASSWORD", "secret-1")
    try:
        who = {"etcd_user": "root", "etcd_password": "env:ETCD_TEST_PASSWORD"}
        async with looking(etcd, "auth:", **who) as driver:
            assert (await anext(driver.found())).agents == ()
        async with looking(etcd, "auth:") as driver:
            with pytest.raises(MeshError, match="refused with status"):
                await anext(driver.found())
        monkeypatch.setenv("ETCD_TEST_PASSWORD", "wrong")
        async with looking(etcd, "auth:", **who) as driver:
            with pytest.raises(MeshError, match="user root") as caught:
                await anext(driver.found())
        assert "wrong" not in caught.value.message
    finally:
        token = str(ask("authenticate", {"name": "root", "password": "secret-1"})["token"])
        ask("disable", {}, token)

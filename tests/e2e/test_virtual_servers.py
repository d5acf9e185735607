"""Endpoints of one server and of chosen sets: official clients, keys, commands."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from tests.conftest import LAB, run
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT, RunningMesh

CONFIG = f"""
[security]
auth_enabled = true

[[mcp_servers]]
name = "lab"
command = "{sys.executable}"
args = ["{LAB}"]

[[mcp_servers]]
name = "plain"
prefix = ""
command = "{sys.executable}"
args = ["{LAB}"]

[[virtual_servers]]
name = "clock"
title = "Clock"
instructions = "Tells the time in Rome."

[[virtual_servers.tools]]
server = "time"
tool = "get_current_time"
name = "now"
description = "The time in Rome."
arguments = {{ timezone = {{ value = "Europe/Rome" }} }}

[[virtual_servers.tools]]
server = "lab"
tool = "crash"
roles = ["Admin"]

[[virtual_servers.tools]]
server = "lab"
tool = "pid"

[[virtual_servers.tools]]
server = "lab"
tool = "e*"

[[mcp_servers]]
name = "time"
command = "{sys.executable}"
args = ["-m", "mcp_server_time", "--local-timezone", "UTC"]
"""
MODES = ("legacy", "auto", "2026-07-28")
WITHIN_S = 0.5


class Key(msgspec.Struct, frozen=True):
    key: str


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that asks for keys, with a virtual server in its file."""
    mesh = RunningMesh(tmp_path_factory.mktemp("virtual") / "room", config=CONFIG)
    for running in run(mesh):
        running.mesh("tenant", "add", "acme", "--allow", "*", "--deny", "lab:pid")
        running.mesh("principal", "add", "ann", "--tenant", "acme", "--role", "User")
        running.mesh("principal", "add", "bea", "--tenant", "acme", "--role", "Admin")
        yield running


def key_of(mesh: RunningMesh, principal: str) -> str:
    done = mesh.mesh("key", "create", "--tenant", "acme", "--principal", principal, "--json")
    return msgspec.json.decode(done.stdout, type=Key).key


@pytest.fixture(scope="module")
def ann(shop: RunningMesh) -> str:
    return key_of(shop, "ann")


@pytest.fixture(scope="module")
def bea(shop: RunningMesh) -> str:
    return key_of(shop, "bea")


@asynccontextmanager
async def client_at(
    mesh: RunningMesh, key: str, endpoint: str, mode: str = "2026-07-28"
) -> AsyncIterator[Client]:
    async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}) as web:
        transport = streamable_http_client(f"{mesh.mcp}/{endpoint}", http_client=web)
        async with Client(transport, mode=mode, read_timeout_seconds=20, cache=None) as client:
            yield client


async def names(client: Client) -> set[str]:
    return {tool.name for tool in (await client.list_tools()).tools}


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


@pytest.mark.parametrize("mode", MODES)
async def test_official_client_uses_one_server_under_its_own_names(
    shop: RunningMesh, ann: str, mode: str
) -> None:
    async with client_at(shop, ann, "u/time", mode) as client:
        assert await names(client) == {"get_current_time", "convert_time"}
        told = await client.call_tool("get_current_time", {"timezone": "Asia/Tokyo"})
        assert json.loads(text_of(told))["timezone"] == "Asia/Tokyo"
        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("kv_list", {})
    async with client_at(shop, ann, "u/lab", mode) as client:
        assert "echo" in await names(client)
        assert "pid" not in await names(client)
        with pytest.raises(MCPError, match="denied"):
            await client.call_tool("pid", {})


@pytest.mark.parametrize("mode", MODES)
async def test_official_client_uses_a_virtual_server(
    shop: RunningMesh, ann: str, mode: str
) -> None:
    async with client_at(shop, ann, "v/clock", mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == {"now", "echo"}
        assert tools["now"].description == "The time in Rome."
        assert tools["now"].input_schema["properties"] == {}
        if mode != "2026-07-28":  # a pinned client asks for nothing at its start
            assert client.instructions == "Tells the time in Rome."
        told = await client.call_tool("now", {})
        assert json.loads(text_of(told))["timezone"] == "Europe/Rome"
        with pytest.raises(MCPError, match="timezone is fixed"):
            await client.call_tool("now", {"timezone": "UTC"})


@pytest.mark.parametrize("mode", MODES)
async def test_item_for_a_role_is_there_for_that_role_alone(
    shop: RunningMesh, ann: str, bea: str, mode: str
) -> None:
    async with client_at(shop, bea, "v/clock", mode) as client:
        assert await names(client) == {"now", "echo", "crash"}
    async with client_at(shop, ann, "v/clock", mode) as client:
        with pytest.raises(MCPError, match="unknown tool"):
            await client.call_tool("crash", {})


@pytest.mark.parametrize("mode", MODES)
async def test_virtual_server_gives_no_right_that_the_rules_take(
    shop: RunningMesh, bea: str, mode: str
) -> None:
    # ``pid`` is chosen by the virtual server, and denied by the rules of the tenant.
    async with client_at(shop, bea, "v/clock", mode) as client:
        assert "pid" not in await names(client)
        with pytest.raises(MCPError, match="denied"):
            await client.call_tool("pid", {})


@pytest.mark.slow
async def test_server_mounted_without_prefix_stands_beside_the_others(
    shop: RunningMesh, ann: str
) -> None:
    async with client_at(shop, ann, "") as client:
        listed = await names(client)
        assert {"fork", "lab__fork", "echo", "lab__echo"} <= listed
        # ``echo`` stays the built-in one, whose argument has another name.
        told = await client.call_tool("echo", {"message": "own"})
        assert told.structured_content == {"message": "own"}
    row = next(
        one
        for one in json.loads(shop.mesh("server", "list", "--json").stdout)
        if one["server"] == "plain"
    )
    assert row["hidden"] == ["echo"]
    doctor = shop.mesh("doctor", check=False)
    assert "mounted without a prefix: 1 tools hidden" in doctor.stdout


async def test_listening_client_sees_a_change_made_by_command_at_once(
    shop: RunningMesh, ann: str, tmp_path: Path
) -> None:
    def file(*tools: str) -> str:
        body = {"name": "desk", "tools": [{"server": "lab", "tool": one} for one in tools]}
        path = tmp_path / "desk.json"
        path.write_text(json.dumps(body))
        return str(path)

    def change() -> float:
        shop.mesh("virtual", "set-file", file("steps", "large"))
        return time.monotonic()

    await asyncio.to_thread(shop.mesh, "virtual", "set-file", file("steps"))
    async with client_at(shop, ann, "v/desk") as client:
        assert await names(client) == {"steps"}
        async with client.listen(tools_list_changed=True) as changes:
            changing = asyncio.create_task(asyncio.to_thread(change))
            async with asyncio.timeout(20):
                await anext(aiter(changes))
                heard = time.monotonic()
                # The command ends after its write, so the notice may well come before its end.
                assert heard - await changing < WITHIN_S
            assert await names(client) == {"steps", "large"}
    await asyncio.to_thread(shop.mesh, "virtual", "remove", "desk")


def test_commands_show_and_refuse(shop: RunningMesh, tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\n[[tools]]\nserver = "lab"\ntool = "e*"\nname = "x"\n')
    refused = shop.mesh("virtual", "set-file", str(bad), check=False)
    assert refused.returncode == 2
    assert "tools[0].name: with a glob" in refused.stderr
    added = shop.mesh("virtual", "add", "two", "--tool", "lab:echo=say", "--tool", "none:x")
    assert "nobody offers: server none" in added.stdout
    assert "incomplete" in shop.mesh("virtual", "list").stdout
    shown = json.loads(shop.mesh("virtual", "show", "two").stdout)
    assert shown["tools"][0] == {"server": "lab", "tool": "echo", "name": "say"}
    told = shop.mesh("call", "--endpoint", "v/two", "say", "text=hello")
    assert "hello" in told.stdout
    assert shop.mesh("virtual", "remove", "clock", check=False).returncode != 0
    shop.mesh("virtual", "remove", "two")
    assert shop.mesh("tools", "--endpoint", "v/two", check=False).returncode != 0


@pytest.mark.parametrize("mode", MODES)
async def test_stdio_client_serves_one_endpoint(shop: RunningMesh, ann: str, mode: str) -> None:
    server = StdioServerParameters(
        command=MESH,
        args=["stdio", "--state", str(shop.state), "--tenant", "acme", "--endpoint", "v/clock"],
        env={**PLAIN_ENVIRONMENT, "MESH_CREDENTIAL": ann},
    )
    async with Client(server, mode=mode, read_timeout_seconds=20) as client:
        assert await names(client) == {"now", "echo"}
        assert json.loads(text_of(await client.call_tool("now", {})))["timezone"] == "Europe/Rome"

"""Clients that people have: the official SDK in each of its modes, and fastmcp, on two edges."""

import json
from contextlib import asynccontextmanager
from typing import Any

import fastmcp
import pytest
from fastmcp.client.transports import StdioTransport
from mcp import Client, StdioServerParameters
from tests.e2e.running_mesh import MESH, RunningMesh

MODES = ("auto", "legacy", "2026-07-28")
EDGES = ("http", "stdio")


def stdio(mesh: RunningMesh) -> StdioServerParameters:
    return StdioServerParameters(command=MESH, args=["stdio", "--state", str(mesh.state)])


@asynccontextmanager
async def official(mesh: RunningMesh, edge: str, mode: str) -> Any:
    server = mesh.mcp if edge == "http" else stdio(mesh)
    async with Client(server, mode=mode, read_timeout_seconds=20) as client:
        yield client


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("edge", EDGES)
async def test_official_client_lists_and_calls_tools(
    mesh: RunningMesh, edge: str, mode: str
) -> None:
    async with official(mesh, edge, mode) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert {"kv_get", "kv_set", "kv_delete", "kv_list", "echo"} <= names
        assert {"time__get_current_time", "time__convert_time"} <= names
        assert all(len(name) <= 64 for name in names)

        for name in ("time__get_current_time", "time:get_current_time"):
            told = await client.call_tool(name, {"timezone": "Europe/Paris"})
            assert not told.is_error
            assert json.loads(text_of(told))["timezone"] == "Europe/Paris"

        key = f"official-{edge}-{mode}"
        stored = await client.call_tool("kv_set", {"key": key, "value": {"ü": [1, 2.5, None]}})
        assert not stored.is_error
        got = await client.call_tool("kv_get", {"key": key})
        assert got.structured_content is not None
        assert got.structured_content["value"] == {"ü": [1, 2.5, None]}
        assert got.structured_content["found"] is True


@pytest.mark.parametrize("edge", EDGES)
async def test_official_client_is_told_why_when_arguments_are_wrong(
    mesh: RunningMesh, edge: str
) -> None:
    async with official(mesh, edge, "auto") as client:
        refused = await client.call_tool("kv_set", {"key": ""})
        assert refused.is_error
        assert "value" in text_of(refused)


@pytest.mark.parametrize("edge", EDGES)
async def test_fastmcp_client_lists_and_calls_tools(mesh: RunningMesh, edge: str) -> None:
    transport: Any = mesh.mcp
    if edge == "stdio":
        transport = StdioTransport(MESH, ["stdio", "--state", str(mesh.state)], keep_alive=False)
    async with fastmcp.Client(transport, timeout=20) as client:
        names = {tool.name for tool in await client.list_tools()}
        assert {"kv_get", "kv_set", "echo", "time__get_current_time"} <= names
        for name in ("time__get_current_time", "time:get_current_time"):
            told = await client.call_tool(name, {"timezone": "Asia/Tokyo"})
            assert "Asia/Tokyo" in told.content[0].text
        await client.call_tool("kv_set", {"key": f"fast-{edge}", "value": "hello"})
        got = await client.call_tool("kv_get", {"key": f"fast-{edge}"})
        assert got.structured_content["value"] == "hello"


async def test_official_client_hears_progress_of_a_stdio_server(lab: RunningMesh) -> None:
    for mode in MODES:
        heard: list[float] = []

        async def note(progress: float, total: float | None, message: str | None) -> None:
            heard.append(progress)  # noqa: B023

        async with official(lab, "http", mode) as client:
            done = await client.call_tool("lab__steps", {"steps": 3}, progress_callback=note)
            assert text_of(done) == "done"
        assert heard == [1, 2, 3], mode

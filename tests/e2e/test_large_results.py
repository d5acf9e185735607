"""A result that no edge delivers arrives as a link, in every era and at every edge."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import lines, stdio_lines

BULK = Path(__file__).parent / "servers" / "bulk.py"
SIZE = 11_000_000
EDGE_BYTES = 10 * 1024 * 1024

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


@pytest.fixture
def bulk(mesh: RunningMesh) -> Iterator[str]:
    """The server ``bulk``; its tool that answers with a long text."""
    mesh.mesh("server", "add", "bulk", "--", sys.executable, str(BULK))
    yield "bulk__text"
    mesh.mesh("server", "remove", "bulk", check=False)


def links(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in result["content"] if one["type"] == "resource_link"]


async def test_official_client_gets_a_link_and_reads_it_in_ranges(
    mesh: RunningMesh, bulk: str
) -> None:
    for mode in ("auto", "legacy"):
        async with Client(mesh.mcp, mode=mode, read_timeout_seconds=30) as client:
            result = await client.call_tool(bulk, {"size": SIZE})
            (link,) = [one for one in result.content if one.type == "resource_link"]
            assert link.size == SIZE
            read = await client.read_resource(f"{link.uri}?offset=10&length=10")
            assert base64.b64decode(read.contents[0].blob) == b"000000001\n"
            templates = await client.list_resource_templates()
            assert "mesh://results/{id}{?offset,length}" in {
                one.uri_template for one in templates.resource_templates
            }


async def test_official_client_takes_the_error_of_a_promised_result_as_a_result(
    mesh: RunningMesh, bulk: str
) -> None:
    async with Client(mesh.mcp, mode="auto", read_timeout_seconds=30) as client:
        await client.list_tools()
        result = await client.call_tool("bulk__promised", {"size": SIZE})
        assert result.is_error
        assert [one for one in result.content if one.type == "resource_link"]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_old_clients_on_tcp_get_a_link_they_understand(
    mesh: RunningMesh, bulk: str, version: str
) -> None:
    async with lines(mesh.tcp) as client:
        await client.initialize(version)
        result = await client.call(bulk, size=SIZE)
        assert len(json.dumps(result)) < 10_000
        if version < "2025-06-18":
            assert not links(result)
            (text,) = [one["text"] for one in result["content"] if "sha256" in one["text"]]
            uri = text.split("content-1: ")[1].split()[0]
        else:
            uri = links(result)[0]["uri"]
        answer = await client.request("resources/read", {"uri": f"{uri}?offset=0&length=10"})
        piece = answer["result"]["contents"][0]
        assert base64.b64decode(piece["blob"]) == b"000000000\n"


async def test_flat_form_on_tcp_stays_below_the_limit(mesh: RunningMesh) -> None:
    async with lines(mesh.tcp) as client:
        await client.initialize("2024-11-05")
        stored = await client.call("echo", message="x" * 9_900_000)
        assert len(json.dumps(stored)) < EDGE_BYTES
        assert "mesh://results/" in stored["content"][0]["text"]
        # Text and structuredContent fit together; a third, flat copy would not.
        twice = await client.call("echo", message="x" * 4_000_000)
        assert len(json.dumps(twice)) < EDGE_BYTES
        assert "message" not in twice
        assert len(twice["structuredContent"]["message"]) == 4_000_000
        flat = await client.call("echo", message="x" * 3_000_000)
        assert len(flat["message"]) == 3_000_000


async def test_a_batch_is_no_larger_than_one_message(mesh: RunningMesh) -> None:
    async with lines(mesh.tcp) as client:
        await client.initialize("2024-11-05")
        call = {"name": "echo", "arguments": {"message": "x" * 2_000_000}}
        items = [{"method": "tools/call", "params": call} for _ in range(3)]
        answers = (await client.request("batch", items))["result"]
        assert len(json.dumps(answers)) < EDGE_BYTES
        refused = [one["error"] for one in answers if "error" in one]
        assert [one["code"] for one in refused] == [-31012] * len(refused) != []
        assert refused[0]["data"]["outcome"] == "executed"
        assert [one for one in answers if "result" in one]


async def test_a_stored_result_is_read_at_the_endpoint_that_gave_it(
    mesh: RunningMesh, bulk: str
) -> None:
    async with Client(f"{mesh.mcp}/u/bulk", mode="auto", read_timeout_seconds=30) as client:
        result = await client.call_tool(bulk.removeprefix("bulk__"), {"size": SIZE})
        (link,) = [one for one in result.content if one.type == "resource_link"]
        read = await client.read_resource(f"{link.uri}?offset=0&length=10")
        assert base64.b64decode(read.contents[0].blob) == b"000000000\n"


async def test_stdio_edge_passes_the_link(mesh: RunningMesh, bulk: str) -> None:
    async with stdio_lines(mesh) as client:
        await client.initialize("2025-11-25")
        result = await client.call(bulk, size=SIZE)
        assert links(result)[0]["size"] == SIZE

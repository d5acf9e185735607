"""Durable tasks end to end: official clients, servers with tasks of their own, every edge."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import fastmcp
import fastmcp_tasks  # noqa: F401 - teaches the client to drive tasks
import msgspec
import pytest
from tests.conftest import LAB, run
from tests.e2e.running_mesh import MESH, PLAIN_ENVIRONMENT, RunningMesh
from tests.e2e.wire import lines

pytestmark = pytest.mark.slow

REPO = Path(__file__).parents[2]
CONFIG = f"""
[[mcp_servers]]
name = "always"
command = "{sys.executable}"
args = ["{LAB}", "unused"]
task = "always"

[[mcp_servers]]
name = "patient"
command = "{sys.executable}"
args = ["{LAB}", "ROOM/counted"]
timeout_s = 1

[[mcp_servers]]
name = "own"
command = "{sys.executable}"
args = ["-m", "tests.conformance.servers.tasks"]
cwd = "{REPO}"
env = {{ PYTHONPATH = "{REPO}" }}
"""
OLD = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "old", "version": "1"},
}


@pytest.fixture(scope="module")
def tasks_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Two gateways, two runners, three servers."""
    room = tmp_path_factory.mktemp("tasks") / "room"
    config = CONFIG.replace("ROOM", str(room))
    yield from run(RunningMesh(room, "--gateways", "2", "--runners", "2", config=config))


async def test_fastmcp_drives_a_task_of_the_mesh_without_knowing(tasks_mesh: RunningMesh) -> None:
    async with fastmcp.Client(tasks_mesh.mcp) as client:
        answer = await client.call_tool("always__sleep", {"seconds": 0.5})
    assert answer.content[0].text == "slept"


async def test_fastmcp_drives_a_task_of_the_server_through_the_mesh(
    tasks_mesh: RunningMesh,
) -> None:
    async with fastmcp.Client(tasks_mesh.mcp) as client:
        answer = await client.call_tool("own__slow_compute", {"seconds": 1, "label": "z"})
    assert "z" in answer.content[0].text


async def test_an_old_line_client_runs_a_call_longer_than_its_server_allows(
    tasks_mesh: RunningMesh,
) -> None:
    async with lines(tasks_mesh.tcp) as peer:
        await peer.request("initialize", OLD)
        sleep = {"name": "patient__sleep", "arguments": {"seconds": 2}}
        late = await peer.request("tools/call", sleep)
        assert late["error"]["code"] == -31014
        made = await peer.request("tools/call", {**sleep, "task": {}})
        about = {"taskId": made["result"]["task"]["taskId"]}
        result = await peer.request("tasks/result", about)
        assert result["result"]["content"][0]["text"] == "slept"
        listed = await peer.request("tasks/list", {})
        assert about["taskId"] in {one["taskId"] for one in listed["result"]["tasks"]}


async def test_an_old_client_gets_a_task_of_a_modern_server(tasks_mesh: RunningMesh) -> None:
    async with lines(tasks_mesh.tcp) as peer:
        await peer.request("initialize", OLD)
        call = {"name": "own__slow_compute", "arguments": {"seconds": 1, "label": "q"}, "task": {}}
        made = await peer.request("tools/call", call)
        about = {"taskId": made["result"]["task"]["taskId"]}
        result = await peer.request("tasks/result", about)
    assert "q" in result["result"]["content"][0]["text"]


async def test_the_stdio_edge_serves_core_tasks(tasks_mesh: RunningMesh) -> None:
    child = await asyncio.create_subprocess_exec(
        MESH,
        "stdio",
        cwd=tasks_mesh.room,
        env=PLAIN_ENVIRONMENT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None

    async def ask(number: int, method: str, params: object) -> dict:
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        child.stdin.write(msgspec.json.encode(body) + b"\n")
        async with asyncio.timeout(15):
            while True:
                message = msgspec.json.decode(await child.stdout.readline())
                if message.get("id") == number:
                    return message["result"]

    try:
        await ask(1, "initialize", OLD)
        call = {"name": "always__sleep", "arguments": {"seconds": 1}, "task": {"ttl": 60_000}}
        about = {"taskId": (await ask(2, "tools/call", call))["task"]["taskId"]}
        assert (await ask(3, "tasks/get", about))["status"] == "working"
        assert (await ask(4, "tasks/result", about))["content"][0]["text"] == "slept"
        listed = (await ask(5, "tasks/list", {}))["tasks"]
        assert about["taskId"] in {one["taskId"] for one in listed}
    finally:
        child.stdin.close()
        await asyncio.wait_for(child.wait(), 10)


async def test_a_keyed_call_through_two_gateways_runs_once(tasks_mesh: RunningMesh) -> None:
    first, second = tasks_mesh.urls
    meta = {"mesh/idempotencyKey": "once"}
    answers = []
    for base in (first, second, first):
        async with fastmcp.Client(f"{base}/mcp") as client:
            arguments = {"label": "k", "seconds": 0}
            answer = await client.call_tool_mcp("patient__count", arguments, meta=meta)
            answers.append(answer.content[0].text)
    assert len(set(answers)) == 1
    counted = await asyncio.to_thread((tasks_mesh.room / "counted").read_text)
    assert len(counted.splitlines()) == 1

"""Durable tasks under kill -9: of the gateway that took the call, of the owner, of the broker."""

import asyncio
import signal
import time
from typing import Any

import msgspec
import pytest
from nats.aio.client import Client
from tests.chaos.acting import Counted, answered_within, call, serving
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import post_modern

from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION, TASKS_EXTENSION

pytestmark = pytest.mark.slow

META: dict[str, object] = {
    PROTOCOL_VERSION: "2026-07-28",
    CLIENT_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}},
}


async def submit(base: str, tool: str, **arguments: object) -> str:
    params = {"name": tool, "arguments": arguments, "_meta": {**META, "mesh/task": True}}
    answer = await post_modern(base, "tools/call", params)
    assert answer.json["result"]["resultType"] == "task", answer.json
    return answer.json["result"]["taskId"]


async def get(base: str, task_id: str) -> dict[str, Any]:
    answer = await post_modern(base, "tasks/get", {"taskId": task_id, "_meta": META})
    return answer.json["result"]


async def ended(base: str, task_id: str, limit_s: float) -> dict[str, Any]:
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        try:
            task = await get(base, task_id)
        except (OSError, EOFError, KeyError):
            task = {"status": "?"}
        if task["status"] in {"completed", "failed", "cancelled"}:
            return task
        await asyncio.sleep(0.1)
    raise AssertionError(f"the task has no end within {limit_s} s")


async def owner_of(operator: Client, task_id: str) -> str:
    """The runner that executes a task."""
    body = b'{"seq":1,"next_by_subj":"$KV.mesh_tasks.*.*.%b"}' % task_id.encode()
    found = await operator.request("$JS.API.DIRECT.GET.KV_mesh_tasks", body, timeout=2)
    return msgspec.json.decode(found.data, type=TaskRecord).owner


async def test_gateway_killed_during_a_task_costs_nothing(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    first, other = mesh_pair.urls
    counted = Counted(mesh_pair)
    task_id = await submit(first, "lab__count", label="t", seconds=3)
    await counted.reach(1)
    old = mesh_pair.kill("gateway-1")
    assert (await get(other, task_id))["status"] == "working"
    task = await ended(other, task_id, 10)
    assert task["status"] == "completed"
    assert task["result"]["content"]
    assert counted.begun == 1, "the call ran once"
    mesh_pair.await_restart("gateway-1", old)
    await serving(mesh_pair, operator, "gateway-1", 10)
    assert (await get(mesh_pair.http, task_id))["status"] == "completed"


async def test_runner_killed_during_its_task_makes_it_fail_with_unknown_outcome(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    base = mesh_pair.http
    counted = Counted(mesh_pair)
    task_id = await submit(base, "lab__count", label="o", seconds=60)
    await counted.reach(1)
    owner = await owner_of(operator, task_id)
    old = mesh_pair.kill(owner)
    killed = time.monotonic()
    task = await ended(base, task_id, 25)
    assert task["status"] == "failed"
    assert task["error"]["data"]["outcome"] == "unknown"
    assert time.monotonic() - killed < 25
    assert counted.begun == 1, "nobody ran it again"
    mesh_pair.await_restart(owner, old)
    await serving(mesh_pair, operator, owner, 10)
    await answered_within(10, lambda: call(base, "lab__pid"))


async def test_broker_restart_loses_no_task(mesh_pair: RunningMesh) -> None:
    base = mesh_pair.http
    task_id = await submit(base, "lab__echo", text="kept")
    assert (await ended(base, task_id, 5))["status"] == "completed"
    old = mesh_pair.kill("nats-server")
    await asyncio.to_thread(mesh_pair.await_restart, "nats-server", old)
    assert (await ended(base, task_id, 15))["result"]["content"][0]["text"] == "kept"


@pytest.mark.slow
async def test_runner_that_stops_says_what_became_of_its_task(
    mesh_pair: RunningMesh, operator: Client
) -> None:
    base = mesh_pair.http
    counted = Counted(mesh_pair)
    task_id = await submit(base, "lab__count", label="d", seconds=90)
    await counted.reach(1)
    owner = await owner_of(operator, task_id)
    old = mesh_pair.kill(owner, signal.SIGTERM)
    task = await ended(base, task_id, 35)
    assert task["status"] == "failed"
    assert task["error"]["data"]["outcome"] == "unknown"
    assert counted.begun == 1
    await asyncio.to_thread(mesh_pair.await_restart, owner, old, 40.0)
    await serving(mesh_pair, operator, owner, 15)
    await answered_within(15, lambda: call(base, "lab__pid"))

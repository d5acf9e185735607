"""Swarm tasks as MCP tasks of both eras, under one id; resources of swarms; the plain HTTP edge."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import fastmcp
import pytest
from fastmcp_tasks import call_tool_task
from tests.e2e import wire
from tests.e2e.peer import Peer
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, lines

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow
Json = dict[str, Any]
TASKS = {"extensions": {"io.modelcontextprotocol/tasks": {}}, "elicitation": {}}
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


def sleeping(seconds: float, **phase: object) -> Json:
    """Arguments of a task of one phase that calls a tool which sleeps."""
    step = {"name": "nap", "tool": "lab__sleep", "input": {"seconds": seconds}, **phase}
    return {"task": {"description": "sleep", "timeout": 60, "phases": [step]}}


class Modern:
    """A peer of 2026-07-28 over HTTP that declares tasks."""

    def __init__(self, mesh: RunningMesh) -> None:
        self._base = mesh.http

    async def ask(self, method: str, **params: object) -> Json:
        """The whole answer."""
        meta = {**wire.envelope(), CAPABILITIES: TASKS, **params.pop("meta", {})}  # type: ignore[dict-item]
        headers = {"mcp-name": str(params["taskId"])} if "taskId" in params else {}
        answer = await wire.post_modern(
            self._base, method, {**params, "_meta": meta}, headers=headers
        )
        return answer.json

    async def result(self, method: str, **params: object) -> Json:
        """Its result."""
        answer = await self.ask(method, **params)
        assert "result" in answer, answer
        return answer["result"]

    async def call(self, tool: str, **arguments: object) -> Json:
        """Structured content of a call that is no task."""
        result = await self.result("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    async def task(self, tool: str, **arguments: object) -> Json:
        """A call that asks for a task."""
        return await self.result(
            "tools/call", name=tool, arguments=arguments, meta={"mesh/task": True}
        )

    async def until(self, task: str, *statuses: str) -> Json:
        """``tasks/get`` once the status is one of these."""
        seen: Json = {}

        async def reached() -> bool:
            seen.clear()
            seen.update(await self.result("tasks/get", taskId=task))
            return seen["status"] in statuses

        await eventually(reached, timeout_s=30, what=f"{statuses}")
        return seen


@asynccontextmanager
async def swarm(mesh: RunningMesh, *types: str) -> AsyncIterator[tuple[Modern, str]]:
    """A swarm whose agents run."""
    peer = Modern(mesh)
    made = await peer.call(
        "swarm_init", topology="mesh", initialAgents=[{"type": one} for one in types]
    )
    name = made["swarmId"]
    try:

        async def running() -> bool:
            status = await peer.call("swarm_status", swarmId=name)
            return status["activeAgents"] == len(types)

        await eventually(running, timeout_s=30)
        yield peer, name
    finally:
        await peer.call("swarm_destroy", swarmId=name)


# 2026-07-28 -----------------------------------------------------------------------------------


async def test_a_modern_client_drives_a_swarm_task_to_its_end(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (peer, name):
        made = await peer.task("task_orchestrate", swarmId=name, **sleeping(0.5))
        assert made["resultType"] == "task"
        assert made["status"] == "working"
        task = made["taskId"]
        told = await peer.call("task_status", taskId=task)
        assert (told["taskId"], told["swarmId"]) == (task, name)

        ended = await peer.until(task, "completed", "failed")

        structured = ended["result"]["structuredContent"]
        assert ended["status"] == "completed", ended
        assert (structured["taskId"], structured["status"]) == (task, "completed")
        assert "slept" in json.dumps(structured["result"])
        same = await peer.call("task_result", taskId=task)
        assert same["result"] == structured["result"]


async def test_the_id_of_a_plain_call_is_a_task_too(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (peer, name):
        made = await peer.call("task_orchestrate", swarmId=name, **sleeping(0.1))
        seen = await peer.result("tasks/get", taskId=made["taskId"])
        assert seen["status"] in {"working", "completed"}
        assert (await peer.until(made["taskId"], "completed"))["result"]["structuredContent"][
            "swarmId"
        ] == name


async def test_a_person_approves_a_phase_by_tasks_update(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (peer, name):
        made = await peer.task("task_orchestrate", swarmId=name, **sleeping(0.1, approval=True))
        waiting = await peer.until(made["taskId"], "input_required")
        ((key, request),) = waiting["inputRequests"].items()
        assert request["method"] == "elicitation/create"
        wanted = request["params"]["requestedSchema"]["properties"]
        (field,) = wanted

        answer = {key: {"action": "accept", "content": {field: True}}}
        await peer.result("tasks/update", taskId=made["taskId"], inputResponses=answer)

        ended = await peer.until(made["taskId"], "completed", "failed")
        assert not ended["result"].get("isError"), ended


async def test_a_modern_client_cancels_what_runs(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (peer, name):
        made = await peer.task("task_orchestrate", swarmId=name, **sleeping(30))
        task = made["taskId"]

        async def runs() -> bool:
            status = await peer.call("task_status", taskId=task)
            return status["phases"][0]["status"] == "running"

        await eventually(runs)
        await peer.result("tasks/cancel", taskId=task)

        await peer.until(task, "cancelled")
        assert (await peer.call("task_status", taskId=task))["status"] == "cancelled"


async def test_a_task_that_is_refused_is_no_task(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (peer, name):
        arguments = {"task": {"description": "d", "requiredCapabilities": ["levitation"]}}
        result = await peer.task("task_orchestrate", swarmId=name, **arguments)
        assert result["isError"] is True
        assert result["resultType"] == "complete"
        assert result["structuredContent"]["error"]["reason"] == "missing_capabilities"
        unknown = await peer.ask("tasks/get", taskId="task_1790000000000_none")
        assert unknown["error"]["code"] == -32602


async def test_fastmcp_drives_a_swarm_task_with_input_and_cancel(lab: RunningMesh) -> None:
    asked: list[str] = []

    async def agree(message: str, kind: type, *_: object) -> object:
        asked.append(message)
        (field,) = kind.__annotations__
        return kind(**{field: True})

    async with (
        swarm(lab, "tool") as (_, name),
        fastmcp.Client(lab.mcp, elicitation_handler=agree) as client,
    ):
        arguments = {"swarmId": name, **sleeping(0.2, approval=True)}
        task = await call_tool_task(client, "task_orchestrate", arguments, meta={"mesh/task": True})
        result = await task.result()
        assert result.structured_content["taskId"] == task.task_id
        assert "slept" in json.dumps(result.structured_content["result"])
        assert len(asked) == 1

        long = await call_tool_task(
            client,
            "task_orchestrate",
            {"swarmId": name, **sleeping(30)},
            meta={"mesh/task": True},
        )
        begun = await long.wait(state="working", timeout=10)
        assert "of 1 steps" in str(begun.status_message)
        await long.cancel()
        assert (await long.wait(state="cancelled", timeout=20)).status == "cancelled"


# 2025-11-25 -----------------------------------------------------------------------------------


async def test_an_old_client_drives_a_swarm_task_by_its_own_methods(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (_, name), lines(lab.tcp) as peer:
        await peer.initialize("2025-11-25")
        listed = (await peer.request("tools/list"))["result"]["tools"]
        support = {one["name"]: one["execution"]["taskSupport"] for one in listed}
        assert support["task_orchestrate"] == support["agent_task"] == "optional"
        assert support["swarm_status"] == "forbidden"

        made = await core_task(peer, name, sleeping(0.5))
        about = {"taskId": made["taskId"]}
        assert made["status"] == "working"
        result = (await peer.request("tasks/result", about))["result"]
        assert result["structuredContent"]["taskId"] == made["taskId"]
        assert (await peer.request("tasks/get", about))["result"]["status"] == "completed"
        tasks = (await peer.request("tasks/list"))["result"]["tasks"]
        assert made["taskId"] in {one["taskId"] for one in tasks}
        told = [one for one in peer.others if one.get("method") == "notifications/tasks/status"]
        assert {one["params"]["taskId"] for one in told} == {made["taskId"]}
        assert told[-1]["params"]["status"] == "completed"

        long = await core_task(peer, name, sleeping(30))
        gone = await peer.request("tasks/cancel", {"taskId": long["taskId"]})
        assert gone["result"]["taskId"] == long["taskId"]

        async def cancelled() -> bool:
            seen = await peer.request("tasks/get", {"taskId": long["taskId"]})
            return seen["result"]["status"] == "cancelled"

        await eventually(cancelled, timeout_s=20)


async def test_an_old_client_is_asked_by_a_real_request(lab: RunningMesh) -> None:
    async with swarm(lab, "tool") as (_, name), lines(lab.tcp) as peer:
        await peer.initialize("2025-11-25", capabilities={"elicitation": {}})
        made = await core_task(peer, name, sleeping(0.1, approval=True))
        asking = await peer.post("tasks/result", {"taskId": made["taskId"]})

        question = await peer.read()
        while question.get("method") != "elicitation/create":
            question = await peer.read()
        (field,) = question["params"]["requestedSchema"]["properties"]
        result = {"action": "accept", "content": {field: True}}
        answer = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        await peer.send(json.dumps(answer).encode() + b"\n")

        done = await peer.answer(asking, within_s=20)
        assert done["result"]["structuredContent"]["status"] == "completed"
        related = done["result"]["_meta"]["io.modelcontextprotocol/related-task"]
        assert related == {"taskId": made["taskId"]}


async def test_an_old_client_is_refused_a_task_with_its_code(lab: RunningMesh) -> None:
    arguments = {"task": {"description": "d", "requiredCapabilities": ["levitation"]}}
    async with swarm(lab, "tool") as (_, name), lines(lab.tcp) as peer:
        await peer.initialize("2025-11-25")
        params = {"name": "task_orchestrate", "arguments": {"swarmId": name, **arguments}}
        over_tcp = await peer.request("tools/call", {**params, "task": {}})
        assert over_tcp["error"]["code"] == -32003

        http = await Peer.connect(lab.http)
        await http.initialize()
        body = {"id": 1, "method": "tools/call", "params": {**params, "task": {}}}
        over_http = (await http.post(body)).json
        error = over_http["result"]["structuredContent"]["error"]
        assert (over_http["result"]["isError"], error["code"]) == (True, "resource")
        http.vanish(reset=False)


async def core_task(peer: Lines, swarm: str, arguments: Json) -> Json:
    """A task made by the ``task`` parameter."""
    params = {"name": "task_orchestrate", "arguments": {"swarmId": swarm, **arguments}, "task": {}}
    answer = await peer.request("tools/call", params)
    assert "result" in answer, answer
    return answer["result"]["task"]


# Resources, plain HTTP, strangers ----------------------------------------------------------------


async def test_a_subscriber_hears_of_what_a_swarm_remembers(lab: RunningMesh) -> None:
    async with swarm(lab) as (modern, name), lines(lab.tcp) as peer:
        uri = f"swarm://{name}/memory"
        await peer.initialize("2025-06-18")
        answer = await peer.request("resources/subscribe", {"uri": uri})
        assert "result" in answer, answer
        await modern.call("memory_store", swarmId=name, key="k", value={"n": 1})

        async def told() -> bool:
            if not peer.others:
                peer.others.append(await peer.read())
            updated = "notifications/resources/updated"
            return any(
                one.get("method") == updated and one["params"]["uri"] == uri for one in peer.others
            )

        await eventually(told, timeout_s=10)
        read = (await peer.request("resources/read", {"uri": uri}))["result"]
        bank = json.loads(read["contents"][0]["text"])
        assert bank["keys"] == [{"namespace": "default", "key": "k"}]
        unknown = await peer.request("resources/read", {"uri": "swarm://swarm_0/memory"})
        assert unknown["error"]["code"] == -32002
        assert unknown["error"]["data"]["uri"] == "swarm://swarm_0/memory"


async def test_memory_bank_and_task_queue_are_listed(lab: RunningMesh) -> None:
    async with lines(lab.tcp) as peer:
        await peer.initialize()
        listed = (await peer.request("resources/list"))["result"]["resources"]
        templates = (await peer.request("resources/templates/list"))["result"]
        assert {"memory_bank", "task_queue"} <= {one["name"] for one in listed}
        assert "swarm://{swarmId}/tasks/{taskId}/log" in {
            one["uriTemplate"] for one in templates["resourceTemplates"]
        }


@pytest.mark.parametrize("prefix", ["", "swarm:"])
async def test_the_plain_http_edge_serves_the_tools(lab: RunningMesh, prefix: str) -> None:
    async def post(tool: str, **arguments: object) -> Json:
        raw = wire.request_bytes(
            lab.http, f"/tools/{prefix}{tool}", json.dumps(arguments).encode(),
            {"content-type": "application/json"},
        )  # fmt: skip
        return (await wire.http(lab.http, raw)).json

    made = await post("swarm_init", topology="ring")
    structured = made.get("structuredContent", made)
    gone = await post("swarm_destroy", swarmId=structured["swarmId"])
    assert gone.get("structuredContent", gone)["status"] == "destroyed"

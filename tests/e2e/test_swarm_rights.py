"""Swarms on a mesh that asks for keys: nobody reaches another's swarm, agents have no more rights
than who gave the task."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import LAB, run
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import http, request_bytes

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow
Json = dict[str, Any]

CONFIG = f"""
[security]
auth_enabled = true

[[mcp_servers]]
name = "lab"
command = "{sys.executable}"
args = ["{LAB}"]
"""


class Person:
    """A principal with a key of its own."""

    def __init__(self, mesh: RunningMesh, tenant: str, name: str) -> None:
        self._mesh = mesh
        made = mesh.mesh("key", "create", "--tenant", tenant, "--principal", name, "--json")
        self._headers = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}

    async def post(self, tool: str, **arguments: object) -> Json:
        """``POST /tools/<tool>``: the body, whatever it is."""
        raw = request_bytes(
            self._mesh.http, f"/tools/{tool}", json.dumps(arguments).encode(), self._headers
        )
        return (await http(self._mesh.http, raw)).json

    async def call(self, tool: str, **arguments: object) -> Json:
        """Structured content of a call that succeeds."""
        body = await self.post(tool, **arguments)
        structured = body.get("structuredContent", body)
        assert "error" not in structured, body
        return structured

    async def refused(self, tool: str, **arguments: object) -> Json:
        """``error`` of a call that is refused by the swarm."""
        body = await self.post(tool, **arguments)
        return body.get("structuredContent", body)["error"]

    async def ask(self, method: str, **params: object) -> Json:
        """A modern request; its whole answer."""
        meta = {
            **wire.envelope(),
            "io.modelcontextprotocol/clientCapabilities": {
                "extensions": {"io.modelcontextprotocol/tasks": {}}
            },
        }
        headers = dict(self._headers)
        if "taskId" in params:
            headers["mcp-name"] = str(params["taskId"])
        answer = await wire.post_modern(
            self._mesh.http, method, {**params, "_meta": meta}, headers=headers
        )
        return answer.json


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that serves nobody without a key; two tenants that may use swarms."""
    mesh = RunningMesh(tmp_path_factory.mktemp("rights") / "room", config=CONFIG)
    for running in run(mesh):
        running.mesh("tenant", "add", "acme", "--allow", "*", "--deny", "lab:pid")
        running.mesh("tenant", "add", "other", "--allow", "swarm:*")
        for tenant, name, role in (
            ("acme", "ann", "User"),
            ("acme", "bea", "User"),
            ("acme", "vic", "Viewer"),
            ("other", "otto", "User"),
        ):
            running.mesh("principal", "add", name, "--tenant", tenant, "--role", role)
        yield running


@pytest.fixture(scope="module")
def people(closed: RunningMesh) -> dict[str, Person]:
    """Everybody, by name."""
    tenants = {"ann": "acme", "bea": "acme", "vic": "acme", "otto": "other"}
    return {name: Person(closed, tenant, name) for name, tenant in tenants.items()}


async def running_swarm(person: Person) -> str:
    made = await person.call("swarm_init", topology="mesh", initialAgents=[{"type": "tool"}])

    async def active() -> bool:
        status = await person.call("swarm_status", swarmId=made["swarmId"])
        return status["activeAgents"] == 1

    await eventually(active, timeout_s=30)
    return made["swarmId"]


async def test_nobody_reaches_the_swarm_of_another_principal(people: dict[str, Person]) -> None:
    ann = people["ann"]
    swarm = await running_swarm(ann)
    task = await ann.call(
        "agent_task",
        agentId=(await ann.call("agent_list"))["agents"][0]["agentId"],
        task={"description": "d", "tool": "echo", "input": {"message": "mine"}},
        wait=True,
    )
    assert task["result"] == {"message": "mine"}
    await ann.call("memory_store", key="secret", value=1)
    try:
        for stranger in (people["bea"], people["otto"]):
            for tool, arguments in (
                ("swarm_status", {}),
                ("agent_list", {}),
                ("memory_retrieve", {"key": "secret"}),
                ("task_status", {"taskId": task["taskId"]}),
                ("task_orchestrate", {"task": "x"}),
                ("agent_spawn", {"agentType": "tool"}),
                ("swarm_destroy", {}),
            ):
                error = await stranger.refused(tool, swarmId=swarm, **arguments)
                assert (error["code"], error["reason"]) == ("swarm", "not_found"), (tool, error)
            error = await stranger.refused("task_result", taskId=task["taskId"])
            assert error["reason"] == "not_found"
            unknown = await stranger.ask("tasks/get", taskId=task["taskId"])
            assert unknown["error"]["code"] == -32602
            unread = await stranger.ask("resources/read", uri=f"swarm://{swarm}/memory")
            assert unread["error"]["code"] == -32602
            assert (await stranger.call("swarm_list"))["swarms"] == []
        own = await ann.ask("tasks/get", taskId=task["taskId"])
        assert own["result"]["status"] == "completed"
        bank = await ann.ask("resources/read", uri=f"swarm://{swarm}/memory")
        assert "secret" in bank["result"]["contents"][0]["text"]
    finally:
        await ann.call("swarm_destroy", swarmId=swarm)


async def test_an_agent_may_no_more_than_who_gave_the_task(people: dict[str, Person]) -> None:
    ann = people["ann"]
    swarm = await running_swarm(ann)
    try:
        for tool in ("lab__pid", "nothing__here"):
            error = await ann.refused(
                "task_orchestrate",
                task={"description": "d", "phases": [{"name": "p", "tool": tool, "input": {}}]},
                execution={"retryPolicy": "none"},
                wait=True,
            )
            assert error["code"] == "task"
            assert error["failures"][0]["type"] == "tool", error
    finally:
        await ann.call("swarm_destroy", swarmId=swarm)


async def test_who_may_only_look_has_no_tools_of_swarms(people: dict[str, Person]) -> None:
    vic = people["vic"]
    listed = await vic.ask("tools/list")
    assert "swarm_init" not in {tool["name"] for tool in listed["result"]["tools"]}
    body = await vic.post("swarm_init", topology="mesh")
    assert body["error"]["code"] == -31003

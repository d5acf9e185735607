"""Every tool of the swarm did what it says: in the store, at processes, on the bus; none by rote.

What a tool answered is compared with what somebody else sees: the broker's buckets and log, the
process table, files that an agent wrote.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.errors import KeyNotFoundError, NoKeysError
from tests.e2e import processes
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, lines

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow
Json = dict[str, Any]
TENANT = "demo-tenant"


class Seen:
    """A caller of the tools, and an operator who looks past them."""

    def __init__(self, mesh: RunningMesh, peer: Lines, client: nats.NATS, room: Path) -> None:
        self.mesh = mesh
        self.room = room
        self._peer = peer
        self._js = client.jetstream()

    async def call(self, tool: str, **arguments: object) -> Json:
        result = await self._peer.call(tool, **arguments)
        assert "error" not in result["structuredContent"], result["structuredContent"]
        return result["structuredContent"]

    async def refused(self, tool: str, **arguments: object) -> Json:
        """The error of the earlier system's codes, which this old TCP client gets."""
        answer = await self._peer.request("tools/call", {"name": tool, "arguments": arguments})
        return (
            answer["error"] if "error" in answer else answer["result"]["structuredContent"]["error"]
        )

    @asynccontextmanager
    async def swarm(self, *kinds: str, **arguments: object) -> AsyncIterator[tuple[str, list[str]]]:
        """A swarm whose agents run; its id and theirs."""
        agents = [{"type": kind, "name": kind} for kind in kinds]
        made = await self.call(
            "swarm_init", **{"topology": "mesh", "initialAgents": agents, **arguments}
        )
        name = made["swarmId"]
        try:

            async def running() -> bool:
                status = await self.call("swarm_status", swarmId=name)
                return status["activeAgents"] == len(agents)

            await eventually(running, timeout_s=30)
            yield name, [one["agentId"] for one in made["agents"]]
        finally:
            await self.call("swarm_destroy", swarmId=name)

    async def stored(self, bucket: str, mark: str) -> dict[str, Json]:
        """Entries of a bucket that hold a text, as the broker has them."""
        kv = await self._js.key_value(bucket)
        found: dict[str, Json] = {}
        try:
            keys = await kv.keys()
        except NoKeysError:
            return found
        for key in keys:
            try:
                value = (await kv.get(key)).value or b""
            except KeyNotFoundError:
                continue
            if mark.encode() in value or mark in key:
                found[key] = json.loads(value)
        return found

    async def logged(self, swarm: str) -> list[Json]:
        """The newest message of a swarm's log."""
        subject = f"mesh.v1.{TENANT}.task.log.{swarm}"
        message = await self._js.get_last_msg("MESH_SWARM_LOG", subject)
        return json.loads(message.data or b"[]")

    async def pid(self, swarm: str, agent: str) -> int:
        return (await self.call("agent_status", swarmId=swarm, agentId=agent))["pid"]

    def alive(self, pid: int) -> bool:
        return processes.of_pid(pid) is not None

    def sleepers(self, seconds: str) -> set[processes.Process]:
        below = processes.below(int(str(self.mesh.record()["pid"])))
        return {one for one in below if one.command == f"sleep {seconds}"}

    async def task(self, swarm: str, **phase: object) -> str:
        given = {"description": "d", "phases": [{"name": "p", **phase}]}
        made = await self.call("task_orchestrate", swarmId=swarm, task=given)
        return made["taskId"]

    async def until(self, swarm: str, task: str, *wanted: str) -> Json:
        seen: Json = {}

        async def reached() -> bool:
            seen.update(await self.call("task_status", swarmId=swarm, taskId=task))
            return seen["status"] in wanted

        await eventually(reached, timeout_s=20, what=f"{wanted}")
        return seen

    async def kept(self, key: str) -> object:
        """What the tool kv_set of another server has stored."""
        return (await self.call("kv_get", key=key))["value"]


COUNT = {"agents": ["clerk"]}


def rows(count: int) -> Json:
    return {"agents": ["clerk"], "input": {"do": "count", "rows": count}}


def sets(key: str, value: object) -> Json:
    return {"agents": ["tool"], "tool": "kv_set", "input": {"key": key, "value": value}}


async def swarm_init(see: Seen) -> None:
    async with see.swarm("clerk", topology="ring", name="by-init") as (name, (agent,)):
        (record,) = (await see.stored("mesh_swarms", name)).values()
        assert (record["topology"], record["name"]) == ("ring", "by-init")
        assert await see.logged(name)
        assert see.alive(await see.pid(name, agent))
        async with see.swarm() as (other, _):
            assert other != name


async def swarm_list(see: Seen) -> None:
    async def ids() -> set[str]:
        return {one["swarmId"] for one in (await see.call("swarm_list"))["swarms"]}

    before = await ids()
    async with see.swarm() as (name, _):
        assert await ids() == before | {name}
    assert await ids() == before


async def swarm_status(see: Seen) -> None:
    async with see.swarm() as (name, _):
        empty = await see.call("swarm_status", swarmId=name)
        assert (empty["agentCount"], empty["metrics"]["tasksCompleted"]) == (0, 0)
        assert empty["metrics"]["avgCompletionTime"] is None
        await see.call("agent_spawn", swarmId=name, agentType="clerk", name="clerk", wait=True)
        await see.until(name, await see.task(name, **rows(1)), "completed")
        full = await see.call("swarm_status", swarmId=name)
        assert (full["agentCount"], full["metrics"]["tasksCompleted"]) == (1, 1)
        assert full["metrics"]["avgCompletionTime"] >= 0.15
        assert full["owner"] in see.mesh.pids


async def swarm_destroy(see: Seen) -> None:
    async with see.swarm("clerk", "scribe") as (name, agents):
        pids = [await see.pid(name, agent) for agent in agents]
        await see.task(name, agents=["scribe"], prompt="x")
        gone = await see.call("swarm_destroy", swarmId=name)
        assert (gone["agentsTerminated"], gone["tasksCancelled"]) == (2, 1)
        await eventually(lambda: not any(map(see.alive, pids)), timeout_s=15)

        async def marked() -> bool:
            (record,) = (await see.stored("mesh_swarms", name)).values()
            return record["status"] == "destroyed"

        await eventually(marked, timeout_s=5)


async def agent_spawn(see: Seen) -> None:
    async with see.swarm() as (name, _):
        made = await see.call("agent_spawn", swarmId=name, agentType="clerk", wait=True)
        found = processes.of_pid(await see.pid(name, made["agentId"]))
        assert found in processes.below(int(str(see.mesh.record()["pid"])))
        assert made["initialisationMetrics"]["spawnTime"] > 0
        assert made["initialisationMetrics"]["memoryAllocated"] > 1_000_000
        unknown = await see.refused("agent_spawn", swarmId=name, agentType="wizard")
        assert unknown["data"]["reason"] == "no_runtime"


async def agent_list(see: Seen) -> None:
    async with see.swarm("clerk", "scribe") as (name, agents):
        listed = await see.call("agent_list", swarmId=name)
        assert [one["agentId"] for one in listed["agents"]] == agents
        await see.call("agent_terminate", swarmId=name, agentId=agents[0])
        listed = await see.call("agent_list", swarmId=name)
        assert [one["agentId"] for one in listed["agents"]] == agents[1:]


async def agent_status(see: Seen) -> None:
    async with see.swarm("clerk") as (name, (agent,)):
        before = await see.call("agent_status", swarmId=name, agentId=agent)
        assert (before["status"], before["stats"]["completed"]) == ("active", 0)
        task = await see.task(name, **rows(10))

        async def busy() -> bool:
            now = await see.call("agent_status", swarmId=name, agentId=agent)
            return (now["status"], now["currentTask"]) == ("busy", task)

        await eventually(busy, timeout_s=5)
        ended = await see.until(name, task, "completed")
        after = await see.call("agent_status", swarmId=name, agentId=agent)
        assert (after["stats"]["completed"], after["pid"]) == (1, ended["result"]["pid"])


async def agent_message(see: Seen) -> None:
    async with see.swarm("clerk") as (name, (agent,)):
        file = see.room / "letter.json"
        params = {"file": str(file), "text": "good morning"}
        message = {"type": "note", "action": "keep", "params": params}
        told = await see.call(
            "agent_message", swarmId=name, agentId=agent, message=message, expectReply=True
        )
        pid = await see.pid(name, agent)
        assert (told["status"], told["reply"]) == ("replied", {"pid": pid, "kept": "good morning"})
        assert json.loads(file.read_text()) == {"text": "good morning", "pid": pid}


async def agent_task(see: Seen) -> None:
    async with see.swarm("tool") as (name, (agent,)):
        key = f"agent-task-{name}"
        work = {"description": "d", "tool": "kv_set", "input": {"key": key, "value": name}}
        await see.call("agent_task", swarmId=name, agentId=agent, task=work, wait=True)
        assert await see.kept(key) == name


async def agent_terminate(see: Seen) -> None:
    async with see.swarm("clerk") as (name, (agent,)):
        pid = await see.pid(name, agent)
        gone = await see.call("agent_terminate", swarmId=name, agentId=agent)
        assert gone["exitStatus"] is not None
        await eventually(lambda: not see.alive(pid), timeout_s=10)


async def agent_types(see: Seen) -> None:
    hosts = [one for one in see.mesh.pids if one.startswith("agent-host")]
    types = {one["type"]: one for one in (await see.call("agent_types"))["types"]}
    # Those of this mesh's own file, of as many hosts as run.
    assert {"clerk", "scribe", "sleeps"} <= types.keys()
    assert {one["hosts"] for one in types.values()} == {len(hosts)}
    assert "llm" not in types  # nobody configured a model


async def task_orchestrate(see: Seen) -> None:
    async with see.swarm("clerk", "tool") as (name, _):
        key = f"orchestrated-{name}"
        phases = [
            {"name": "count", **rows(2)},
            {
                "name": "keep", "agents": ["tool"], "tool": "kv_set", "dependencies": ["count"],
                "input": {"key": key, "value": {"$ref": "/count/output"}},
            },
        ]  # fmt: skip
        given = {"description": "d", "phases": phases}
        planned = await see.call("task_orchestrate", swarmId=name, task=given, dryRun=True)
        assert (planned["taskId"], planned["status"]) == (None, "planned")
        done = await see.call("task_orchestrate", swarmId=name, task=given, wait=True)
        assert done["status"] == "completed"
        assert (await see.kept(key))["rows"] == 2  # type: ignore[index]
        (record,) = (await see.stored("mesh_tasks", done["taskId"])).values()
        assert record["status"] == "completed"


async def task_status(see: Seen) -> None:
    async with see.swarm("clerk") as (name, _):
        given = {"do": "count", "rows": {"$ref": "/item"}}
        task = await see.task(name, agents=["clerk"], fanout={"items": [1, 2, 3]}, input=given)
        figures: list[int] = []

        async def ended() -> bool:
            seen = await see.call("task_status", swarmId=name, taskId=task)
            figures.append(seen["progress"]["done"])
            return seen["status"] == "completed"

        await eventually(ended, timeout_s=20)
        assert figures == sorted(figures)
        assert (figures[0], figures[-1]) == (0, 3)
        assert len(set(figures)) > 2


async def task_result(see: Seen) -> None:
    async with see.swarm("clerk") as (name, _):
        for count in (1, 3):
            task = await see.task(name, **rows(count))
            early = await see.refused("task_result", swarmId=name, taskId=task)
            assert "not_ended" in json.dumps(early)
            told = await see.call("task_result", swarmId=name, taskId=task, wait=True)
            assert told["result"]["rows"] == count


async def task_cancel(see: Seen) -> None:
    async with see.swarm("sleeps") as (name, _):
        task = await see.task(name, agents=["sleeps"], input={"s": "6913.5"})
        await eventually(lambda: bool(see.sleepers("6913.5")), timeout_s=10)
        told = await see.call("task_cancel", swarmId=name, taskId=task)
        assert told["cancelled"] is True
        await eventually(lambda: not see.sleepers("6913.5"), timeout_s=10)
        await see.until(name, task, "cancelled")
        again = await see.call("task_cancel", swarmId=name, taskId=task)
        assert (again["cancelled"], again["status"]) == (False, "cancelled")


async def task_list(see: Seen) -> None:
    async with see.swarm("clerk") as (name, _):
        assert (await see.call("task_list", swarmId=name))["tasks"] == []
        first = await see.task(name, **rows(1))
        await see.until(name, first, "completed")
        second = await see.task(name, **rows(30))
        listed = (await see.call("task_list", swarmId=name))["tasks"]
        assert [one["taskId"] for one in listed] == [second, first]
        assert [one["status"] for one in listed][1] == "completed"
        assert listed[0]["status"] in {"queued", "running"}


async def memory_store(see: Seen) -> None:
    async with see.swarm() as (name, _):
        value = {"of": name, "n": [1, 2.5, None]}
        told = await see.call("memory_store", swarmId=name, key="k", value=value)
        (entry,) = (await see.stored(f"mesh_memory_{TENANT}", name)).values()
        assert entry["value"] == value
        late = await see.refused(
            "memory_store", swarmId=name, key="k", value=2, expectedRevision=told["revision"] - 1
        )
        assert late["data"]["reason"] == "conflict"
        assert (await see.call("memory_retrieve", swarmId=name, key="k"))["value"] == value


async def memory_retrieve(see: Seen) -> None:
    async with see.swarm() as (name, _):
        ask = {"swarmId": name, "key": "short"}
        assert (await see.call("memory_retrieve", **ask))["found"] is False
        await see.call("memory_store", **ask, value=[name], ttl=1)
        found = await see.call("memory_retrieve", **ask)
        assert (found["value"], 0 < found["ttlRemaining"] <= 1) == ([name], True)

        async def expired() -> bool:
            return not (await see.call("memory_retrieve", **ask))["found"]

        await eventually(expired, timeout_s=5, what="the end of a value's time")


async def memory_list(see: Seen) -> None:
    async with see.swarm() as (name, _):
        for key in ("b", "a", "other"):
            await see.call("memory_store", swarmId=name, key=key, value=1)
        assert (await see.call("memory_list", swarmId=name))["keys"] == ["a", "b", "other"]
        listed = await see.call("memory_list", swarmId=name, prefix="o")
        assert listed["keys"] == ["other"]


async def memory_delete(see: Seen) -> None:
    async with see.swarm() as (name, _):
        bucket = f"mesh_memory_{TENANT}"
        await see.call("memory_store", swarmId=name, key="k", value={"of": name})
        assert await see.stored(bucket, name)
        gone = await see.call("memory_delete", swarmId=name, key="k")
        assert gone["deleted"] is True
        assert not await see.stored(bucket, name)
        again = await see.call("memory_delete", swarmId=name, key="k")
        assert again["deleted"] is False


EFFECTS: dict[str, Callable[[Seen], Awaitable[None]]] = {
    one.__name__: one
    for one in (
        swarm_init, swarm_list, swarm_status, swarm_destroy,
        agent_spawn, agent_list, agent_status, agent_message, agent_task, agent_terminate,
        agent_types,
        task_orchestrate, task_status, task_result, task_cancel, task_list,
        memory_store, memory_retrieve, memory_list, memory_delete,
    )
}  # fmt: skip


@pytest.mark.parametrize("tool", EFFECTS)
async def test_tool_did_what_it_says(office: RunningMesh, tool: str, tmp_path: Path) -> None:
    client = await nats.connect(office.nats, nkeys_seed=office.seed("operator"))
    try:
        async with lines(office.tcp) as peer:
            await peer.initialize("2024-11-05")
            async with asyncio.timeout(60):
                await EFFECTS[tool](Seen(office, peer, client, tmp_path))
    finally:
        await client.close()


async def test_no_tool_of_the_swarm_is_without_its_effect(office: RunningMesh) -> None:
    async with lines(office.tcp) as peer:
        await peer.initialize()
        listed = (await peer.request("tools/list"))["result"]["tools"]
    heads = ("swarm_", "agent_", "task_", "memory_")
    assert {one["name"] for one in listed if one["name"].startswith(heads)} == EFFECTS.keys()

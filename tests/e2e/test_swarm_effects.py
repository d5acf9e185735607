"""Every tool that says it did something did it: seen at processes, in the store and on the bus."""

import json
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from tests.e2e import processes
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, http, lines, request_bytes

from mesh_chassis.testing.conditions import eventually

Json = dict[str, Any]


class Swarm:
    """A swarm of an old TCP client, its default."""

    def __init__(self, peer: Lines, name: str) -> None:
        self._peer = peer
        self.name = name

    async def call(self, tool: str, **arguments: object) -> Json:
        result = await self._peer.call(tool, **{"swarmId": self.name, **arguments})
        return result["structuredContent"]

    async def spawn(self, kind: str = "tool", **arguments: object) -> tuple[str, int]:
        """An agent that runs, and the process that it is."""
        made = await self.call("agent_spawn", agentType=kind, wait=True, **arguments)
        seen = await self.call("agent_status", agentId=made["agentId"])
        assert seen["status"] == "active", seen
        return made["agentId"], seen["pid"]


@asynccontextmanager
async def swarm(mesh: RunningMesh) -> AsyncIterator[Swarm]:
    async with lines(mesh.tcp) as peer:
        await peer.initialize("2024-11-05")
        made = await peer.call("swarm_init", topology="mesh")
        one = Swarm(peer, made["swarmId"])
        try:
            yield one
        finally:
            await one.call("swarm_destroy")


async def ended(pid: int) -> None:
    await eventually(lambda: processes.of_pid(pid) is None, timeout_s=10, what=f"end of {pid}")


async def test_an_agent_is_a_process_until_it_is_terminated(mesh: RunningMesh) -> None:
    async with swarm(mesh) as one:
        agent, pid = await one.spawn()
        found = processes.of_pid(pid)
        assert found is not None
        assert found in processes.below(int(str(mesh.record()["pid"])))

        gone = await one.call("agent_terminate", agentId=agent)

        assert gone["exitStatus"] is not None
        await ended(pid)
        assert (await one.call("agent_list"))["count"] == 0


async def test_the_processes_of_a_swarm_end_with_it(mesh: RunningMesh) -> None:
    async with swarm(mesh) as one:
        pids = [(await one.spawn())[1] for _ in range(3)]
        assert len(set(pids)) == 3

        gone = await one.call("swarm_destroy")

        assert gone["agentsTerminated"] == 3
        for pid in pids:
            await ended(pid)


async def test_a_task_calls_the_tool_and_a_cancel_ends_the_call(lab: RunningMesh) -> None:
    async with swarm(lab) as one:
        agent, _ = await one.spawn()
        key = f"made-by-{one.name}"
        work = {"description": "d", "tool": "kv_set", "input": {"key": key, "value": [1]}}
        await one.call("agent_task", agentId=agent, task=work, wait=True)
        assert await stored(lab, key) == [1]

        nap = {"description": "d", "tool": "lab__sleep", "input": {"seconds": 60}}
        task = (await one.call("agent_task", agentId=agent, task=nap))["taskId"]

        async def status(*wanted: str) -> bool:
            seen = await one.call("task_status", taskId=task)
            return seen["status"] in wanted

        await eventually(lambda: status("running"))
        cancelled = await one.call("task_cancel", taskId=task)
        assert cancelled["cancelled"] is True
        await eventually(lambda: status("cancelled"), timeout_s=20)
        assert (await one.call("agent_status", agentId=agent))["outstanding"] == 0


async def stored(mesh: RunningMesh, key: str) -> object:
    async with lines(mesh.tcp) as peer:
        return (await peer.call("kv_get", key=key))["structuredContent"]["value"]


async def test_every_transition_is_told_on_the_bus(mesh: RunningMesh) -> None:
    told: set[str] = set()
    client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("operator"))
    try:
        async with swarm(mesh) as one:

            async def take(message: Any) -> None:
                told.update(entry["e"] for entry in json.loads(message.data)["transitions"])

            await client.subscribe(f"mesh.v1.*.evt.swarm.{one.name}", cb=take)
            await client.flush()
            agent, _ = await one.spawn()
            work = {"description": "d", "tool": "echo", "input": {"message": "x"}}
            await one.call("agent_task", agentId=agent, task=work, wait=True)
            wanted = {"agent", "placed", "task", "sent", "done", "ended"}
            await eventually(lambda: wanted <= told, timeout_s=5, what=str(told))
    finally:
        await client.close()


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "swarm-tools.md"


async def test_the_commands_of_the_guide_do_what_it_says(mesh: RunningMesh) -> None:
    block = GUIDE.read_text().split("```")[1].replace("\\\n", "")
    answers: list[Json] = []
    for row in filter(None, block.splitlines()):
        _, _, body, url = shlex.split(row)
        if answers:
            body = body.replace("swarm_…", answers[0]["swarmId"])
        path = url[url.index("/tools/") :]
        answer = await http(mesh.http, request_bytes(mesh.http, path, body.encode()))
        answers.append(answer.json.get("structuredContent", answer.json))
    assert [answer["status"] for answer in answers] == ["initialized", "completed", "destroyed"]
    assert answers[1]["result"] == {"message": "hello"}

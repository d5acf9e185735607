"""Swarms and the published Synadia SDK: it prompts an agent of ours, we give a step to one of its.

The SDK knows nothing of the mesh, and the mesh does not use it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from synadia_ai.agent_service import AgentService, PromptStream
from synadia_ai.agents import Agents, Envelope, ResponseChunk, StatusChunk
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, lines

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow
Json = dict[str, Any]
TENANT = "demo-tenant"


async def call(peer: Lines, tool: str, **arguments: object) -> Json:
    result = await peer.call(tool, **arguments)
    return result["structuredContent"]


@asynccontextmanager
async def swarm(mesh: RunningMesh) -> AsyncIterator[tuple[Lines, str]]:
    async with lines(mesh.tcp) as peer:
        await peer.initialize("2025-06-18")
        name = (await call(peer, "swarm_init", topology="star"))["swarmId"]
        try:
            yield peer, name
        finally:
            await call(peer, "swarm_destroy", swarmId=name)


async def echo(envelope: Envelope, stream: PromptStream) -> None:
    await stream.send(StatusChunk(status="thinking"))
    await asyncio.sleep(0.3)
    await stream.send(f"echo: {envelope.prompt}")


@asynccontextmanager
async def theirs(mesh: RunningMesh) -> AsyncIterator[list[str]]:
    """An agent made with the SDK; what it was prompted."""
    prompted: list[str] = []

    async def take(envelope: Envelope, stream: PromptStream) -> None:
        prompted.append(envelope.prompt)
        await echo(envelope, stream)

    client = await nats.connect(mesh.nats, nkeys_seed=mesh.seed("operator"))
    service = AgentService(agent="echo", owner=TENANT, session_name="main", nc=client)
    service.on_prompt(take)
    await service.start()
    try:
        yield prompted
    finally:
        await service.stop()
        await client.close()


async def test_the_sdk_prompts_an_agent_of_a_swarm(office: RunningMesh) -> None:
    async with swarm(office) as (peer, name):
        made = await call(
            peer, "agent_spawn", swarmId=name, agentType="scribe", name="writer", wait=True
        )
        pid = (await call(peer, "agent_status", swarmId=name, agentId=made["agentId"]))["pid"]
        client = await nats.connect(office.nats, nkeys_seed=office.seed("demo"))
        agents = Agents(nc=client)
        try:
            (writer,) = [one for one in await agents.discover(stall=0.3) if one.agent == "writer"]
            assert writer.description == "Writes down what it is told."
            said, statuses = "", []
            async for chunk in writer.prompt("buy milk", timeout=20):
                if isinstance(chunk, ResponseChunk):
                    said += chunk.text
                elif isinstance(chunk, StatusChunk):
                    statuses.append(chunk.status)
        finally:
            await agents.close()
            await client.close()
        assert said == f"{pid} wrote: buy milk"
        assert any("line " in one for one in statuses), statuses
        stats = (await call(peer, "agent_status", swarmId=name, agentId=made["agentId"]))["stats"]
        assert stats["completed"] == 1


async def test_a_task_of_a_swarm_has_a_step_done_by_an_agent_of_the_sdk(
    office: RunningMesh,
) -> None:
    async with theirs(office) as prompted, swarm(office) as (peer, name):
        config = {"agent": "echo.main"}
        spawned = await call(
            peer, "agent_spawn", swarmId=name, agentType="synadia", name="far", config=config,
            wait=True,
        )  # fmt: skip
        assert spawned["runtime"] == "synadia"
        await call(peer, "agent_spawn", swarmId=name, agentType="tool", name="hand", wait=True)
        phases = [
            {"name": "near", "agents": ["hand"], "tool": "echo", "input": {"message": "from us"}},
            {
                "name": "far",
                "agents": ["far"],
                "prompt": "say it again",
                "input": {"$ref": "/near/output"},
                "dependencies": ["near"],
            },
        ]
        task = (
            await call(
                peer, "task_orchestrate", swarmId=name,
                task={"description": "both", "phases": phases},
            )
        )["taskId"]  # fmt: skip
        seen: Json = {}

        async def thinking() -> bool:
            seen.update(await call(peer, "task_status", swarmId=name, taskId=task))
            return any(step["message"] == "thinking" for step in seen["steps"])

        await eventually(thinking, timeout_s=15, what="what the agent tells of itself")
        ended = await call(peer, "task_result", swarmId=name, taskId=task, wait=True)
        assert "echo: say it again" in str(ended["result"])
        assert "from us" in str(ended["result"])
        assert len(prompted) == 1
        far = (await call(peer, "agent_status", swarmId=name, agentId="far"))["stats"]
        assert far["completed"] == 1

"""The agent host and the SDK's swarm agent under the real coordinator, on a real broker."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from libs.mesh_agents.tests.rig import config as host_config
from libs.mesh_sdk.tests.swarm.rig import DEMO, HOST

from mesh_agents.service import NAME, build
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.conditions import eventually
from mesh_chassis.testing.in_process import in_process
from mesh_chassis.testing.processes import is_alive
from mesh_sdk.swarm import StepInput, SwarmAgent
from swarm_coordinator.config import SwarmCoordinatorConfig, SwarmSection
from swarm_coordinator.service import build as build_coordinator


class Caller:
    """Calls tools of the swarm as a plain client."""

    def __init__(self, client: nats.NATS) -> None:
        self._client = client

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Structured content of the result."""
        body = json.dumps({"name": tool, "arguments": arguments}).encode()
        subject = f"mesh.v1.{DEMO}.call.swarm.{tool}"
        answer = json.loads((await self._client.request(subject, body, timeout=20)).data)
        assert "result" in answer, answer
        return answer["result"]["structuredContent"]

    async def spawn(self, kind: str, **more: Any) -> dict[str, Any]:
        return await self.call("agent_spawn", agentType=kind, wait=True, **more)

    async def do(self, agent: str, **phase: Any) -> dict[str, Any]:
        task = {"description": "t", "phases": [{"name": "p", "agents": [agent], **phase}]}
        return await self.call("task_orchestrate", task=task, wait=True)


@asynccontextmanager
async def _swarm(broker, connect_bus, tmp_path) -> AsyncIterator[Caller]:
    config = SwarmCoordinatorConfig(
        service=ServiceSection(instance="swarm-1"), swarm=SwarmSection(allow_unsigned=True)
    )
    coordinator = await connect_bus("swarm-coordinator", "swarm-1")
    host = await connect_bus(NAME, HOST)
    client = await nats.connect(broker.url, nkeys_seed=broker.seed_for("client", DEMO))
    try:
        async with (
            in_process(build_coordinator, config, coordinator),
            in_process(build, host_config(tmp_path), host),
        ):
            caller = Caller(client)
            await caller.call("swarm_init", topology="mesh")
            yield caller
    finally:
        await client.close()


@pytest.fixture
async def swarm(broker, connect_bus, provision, tmp_path):
    async with _swarm(broker, connect_bus, tmp_path) as one:
        yield one


async def test_agents_of_a_host_do_the_steps_of_tasks(swarm):
    spawned = await swarm.spawn("add_async")
    assert (spawned["status"], spawned["runtime"]) == ("active", "function")
    assert spawned["initialisationMetrics"]["spawnTime"] > 0
    items = [{"a": n, "b": 1} for n in range(30)]
    done = await swarm.do(spawned["agentId"], fanout={"items": items})
    assert [one["sum"] for one in done["result"]] == list(range(1, 31))
    refused = await swarm.spawn("no-such-type")
    assert refused["error"]["reason"] == "no_runtime"
    assert "add_async" in refused["error"]["message"]


@pytest.mark.slow
async def test_killed_agent_is_seen_at_once_and_its_step_ends(swarm):
    agent = (await swarm.spawn("anything"))["agentId"]
    pid = (await swarm.call("agent_status", agentId=agent))["pid"]
    running = asyncio.create_task(swarm.do(agent, input={"do": "sleep", "s": 100}))

    async def busy() -> bool:
        return bool((await swarm.call("agent_status", agentId=agent))["currentTask"])

    await eventually(busy)
    os.kill(pid, signal.SIGKILL)
    ended = await running
    assert ended["error"]["failures"][0]["type"] in {"lost", "crash"}


async def test_destroyed_swarm_ends_its_processes_and_counts_them(swarm):
    agents = [(await swarm.spawn(kind))["agentId"] for kind in ("add", "anything")]
    pids = [(await swarm.call("agent_status", agentId=one))["pid"] for one in agents]
    listed = await swarm.call("agent_list")
    destroyed = await swarm.call("swarm_destroy", swarmId=listed["swarmId"])
    assert destroyed["agentsTerminated"] == 2
    await eventually(lambda: not any(is_alive(pid) for pid in pids))


async def test_program_takes_the_place_of_an_external_agent_and_comes_back_to_it(
    swarm, broker, monkeypatch
):
    place = await swarm.spawn("external")
    monkeypatch.setenv("MESH_NKEY_SEED", broker.seed_for("agent", "agent-1"))
    for word in ("first", "second"):
        agent = SwarmAgent(
            swarm=place["swarmId"], agent=place["agentId"], claim=place["claim"],
            url=broker.url, tenant=DEMO, instance="agent-1",
        )  # fmt: skip

        @agent.step
        def say(step: StepInput, word: str = word) -> str:
            return word

        async with agent.running() as live, asyncio.timeout(10):
            await live.attached.wait()
            assert (await swarm.do(place["agentId"], input={}))["result"] == word

"""Owners and the broker are killed again and again: nothing is lost, wrong or doubled."""

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from tests.integration.swarm_rig import Caller, ScriptedHost, process, result, scripted_host
from tests.integration.test_swarm_takeover import patient

from mcp_proto.contracts.swarm import WorkItem, WorkResult
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

STEPS = 600
KILLS = 8
SEED = 5
BROKER_KILLS = 15
BROKER_LIVES_S = (0.05, 2.0)
"""Shortest and longest life of a broker in a storm: some die before anybody is connected again."""


async def double(item: WorkItem) -> WorkResult:
    await asyncio.sleep(0.25)
    given = msgspec.json.decode(item.payload)["input"]
    return result(item, {"n": given, "twice": 2 * given})


async def kill_often(
    stack: AsyncExitStack, broker: Broker, directory: Path, host: ScriptedHost
) -> None:
    """Kill a replica, or the broker, each time some more steps are done."""
    chance = random.Random(SEED)
    running = {
        name: await stack.enter_async_context(process(broker, directory, name))
        for name in ("swarm-1", "swarm-2")
    }
    for _ in range(KILLS):
        done = len(host.done)
        await eventually(
            lambda done=done: len(host.done) > done + 20 or len(host.done) >= STEPS,
            timeout_s=30,
            what="work goes on",
        )
        if chance.random() < 0.25:
            await broker.kill()
            await broker.start()
            continue
        name = chance.choice(sorted(running))
        running[name].kill()
        await running[name].child.wait()
        running[name] = await stack.enter_async_context(process(broker, directory, name))


async def test_a_long_task_survives_kills_of_its_owners_and_of_the_broker(
    broker: Broker, connect_bus, provision, tmp_path: Path
) -> None:
    caller = Caller(await connect_bus("gateway", "gateway-1"))
    async with scripted_host(connect_bus) as host, AsyncExitStack() as stack:
        host.work = double
        first = await stack.enter_async_context(process(broker, tmp_path, "swarm-3"))
        await caller.tool("swarm_init", topology="mesh")
        for _ in range(4):
            await caller.tool("agent_spawn", type="function", wait=True)
        phase = {"name": "one", "fanout": {"items": list(range(STEPS))}}
        spec = {"description": "x", "phases": [phase], "strategy": "balanced", "parallelism": 20}
        task = (await caller.tool("task_orchestrate", task=spec))["taskId"]
        killer = asyncio.create_task(kill_often(stack, broker, tmp_path, host))
        await eventually(lambda: len(host.done) > 20, timeout_s=20)
        first.kill()
        await killer
        status = await caller.ended(task, timeout_s=60)
        assert status["status"] == "completed", status
        assert status["progress"] == {"done": STEPS, "total": STEPS}
        found = (await patient(caller, "task_result", taskId=task))["result"]
        assert sorted((one["n"], one["twice"]) for one in found) == [
            (n, 2 * n) for n in range(STEPS)
        ]
        assert len(host.runs) == STEPS


async def test_a_broker_that_dies_again_and_again_costs_no_step_its_only_attempt(
    broker: Broker, connect_bus, provision, tmp_path: Path
) -> None:
    caller = Caller(await connect_bus("gateway", "gateway-1"))
    chance = random.Random(SEED)
    async with (
        scripted_host(connect_bus) as host,
        process(broker, tmp_path, "swarm-1"),
        process(broker, tmp_path, "swarm-2"),
    ):
        host.work = double
        await caller.tool("swarm_init", topology="mesh")
        for _ in range(4):
            await caller.tool("agent_spawn", type="function", wait=True)
        # No step may run twice: one whose agent is taken for lost would fail for good.
        items = list(range(STEPS))
        phase = {"name": "one", "fanout": {"items": items}, "idempotent": False}
        task = await caller.tool("task_orchestrate", task={"description": "x", "phases": [phase]})
        for _ in range(BROKER_KILLS):
            await broker.kill()
            await broker.start()
            await asyncio.sleep(chance.uniform(*BROKER_LIVES_S))
        killed_early = len(host.done) < STEPS
        status = await caller.ended(task["taskId"], timeout_s=60)
        assert killed_early, "the work was over before the storm was"
        assert status["status"] == "completed", status
        found = (await patient(caller, "task_result", taskId=task["taskId"]))["result"]
        assert found == [{"n": n, "twice": 2 * n} for n in items]
        assert set(host.runs.values()) == {1}
        assert len(host.runs) == STEPS

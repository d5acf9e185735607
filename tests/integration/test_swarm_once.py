"""What is asked for twice under one idempotency key is there once, whichever replica is asked."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from tests.integration.swarm_rig import Caller, replica, scripted_host

from mesh_chassis.testing.broker import Broker

CALLS = 12


@pytest_asyncio.fixture
async def caller(broker: Broker, connect_bus, provision) -> AsyncIterator[Caller]:
    """Of two replicas, in turn."""
    async with replica(connect_bus, "swarm-1"), replica(connect_bus, "swarm-2"):
        yield Caller(await connect_bus("gateway", "gateway-1"))


async def test_one_key_makes_one_swarm_at_two_replicas(caller: Caller) -> None:
    arguments = {"topology": "mesh", "idempotencyKey": "once"}
    together = await asyncio.gather(*(caller.tool("swarm_init", **arguments) for _ in range(CALLS)))
    later = [await caller.tool("swarm_init", **arguments) for _ in range(CALLS)]

    assert len({answer["swarmId"] for answer in (*together, *later)}) == 1
    listed = await caller.tool("swarm_list", includeDestroyed=True)
    assert [one["swarmId"] for one in listed["swarms"]] == [later[0]["swarmId"]]
    other = await caller.tool("swarm_init", topology="mesh", idempotencyKey="other")
    assert other["swarmId"] != later[0]["swarmId"]


async def test_one_key_makes_one_task_at_two_replicas(caller: Caller, connect_bus) -> None:
    async with scripted_host(connect_bus):
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        answers = await asyncio.gather(
            *(
                caller.tool("task_orchestrate", task="x", wait=True, idempotencyKey="once")
                for _ in range(CALLS)
            )
        )
        assert len({answer["taskId"] for answer in answers}) == 1
        assert {answer["status"] for answer in answers} == {"completed"}
        assert (await caller.tool("swarm_status"))["taskCount"] == 1


async def test_a_local_task_is_done_beside_its_coordinator_or_refused(
    broker: Broker, connect_bus, provision
) -> None:
    local = {"task": "x", "execution": {"mode": "local"}, "wait": True}
    async with scripted_host(connect_bus) as host:  # it says that its node is "here"
        async with replica(connect_bus, "swarm-1", node="elsewhere"):
            caller = Caller(await connect_bus("gateway", "gateway-1"))
            await caller.tool("swarm_init", topology="mesh")
            await caller.tool("agent_spawn", type="function", wait=True)
            refused = (await caller.whole("task_orchestrate", **local))["result"]
            error = refused["structuredContent"]["error"]
            assert (error["code"], error["reason"]) == ("resource", "missing_capabilities")
            assert "node elsewhere" in error["message"]
            assert host.runs == {}
        async with replica(connect_bus, "swarm-2", node="here"):
            done = await caller.tool("task_orchestrate", **local)
            assert done["status"] == "completed"
            assert len(host.runs) == 1

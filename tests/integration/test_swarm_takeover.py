"""A swarm changes its owner: stopped, killed, frozen, without a broker. Nothing lost or doubled."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration.swarm_rig import (
    Caller,
    Process,
    ScriptedHost,
    echo,
    process,
    replica,
    scripted_host,
)

from mcp_proto.contracts.swarm import WorkItem, WorkResult
from mcp_proto.errors import MeshError
from mesh_chassis.testing.broker import Broker
from mesh_chassis.testing.conditions import eventually

STEPS = 40


@pytest_asyncio.fixture
async def caller(broker: Broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def host(broker: Broker, connect_bus, provision) -> AsyncIterator[ScriptedHost]:
    async with scripted_host(connect_bus) as made:

        async def slow(item: WorkItem) -> WorkResult:
            await asyncio.sleep(0.4)
            return await echo(item)

        made.work = slow
        yield made


async def begun(caller: Caller, host: ScriptedHost) -> str:
    """A task under way: some steps are done, some run, some wait."""
    await caller.tool("swarm_init", topology="mesh")
    for _ in range(2):
        await caller.tool("agent_spawn", type="function", wait=True)
    phase = {"name": "one", "fanout": {"items": list(range(STEPS))}}
    task = await caller.tool("task_orchestrate", task={"description": "x", "phases": [phase]})
    await eventually(lambda: len(host.done) >= 4)
    return task["taskId"]


async def check(caller: Caller, host: ScriptedHost, task: str) -> None:
    """It ends, and every step counts once."""
    status = await caller.ended(task, timeout_s=30)
    assert status["status"] == "completed", status
    assert status["progress"] == {"done": STEPS, "total": STEPS}
    found = (await patient(caller, "task_result", taskId=task))["result"]
    assert sorted(one["input"] for one in found) == list(range(STEPS))
    assert set(host.runs.values()) == {1}


async def patient(caller: Caller, tool: str, **arguments: object) -> dict:
    """Call until somebody answers: a frozen replica is still in the queue group."""
    for _ in range(20):
        try:
            return await caller.tool(tool, timeout_s=1.0, **arguments)
        except MeshError:
            continue
    raise AssertionError(f"nobody answered {tool}")


async def owner_of(caller: Caller) -> str:
    return (await patient(caller, "swarm_status"))["owner"]


@pytest.mark.slow
async def test_a_replica_that_stops_hands_its_swarm_over_within_a_second(
    connect_bus, caller, host
) -> None:
    async with AsyncExitStack() as second:
        async with replica(connect_bus, "swarm-1"):
            task = await begun(caller, host)
            await second.enter_async_context(replica(connect_bus, "swarm-2"))
            assert await owner_of(caller) == "swarm-1"
            began = asyncio.get_running_loop().time()
        assert await owner_of(caller) == "swarm-2"
        assert asyncio.get_running_loop().time() - began < 1.0
        await check(caller, host, task)


@pytest.mark.slow
async def test_a_call_that_waits_for_its_task_is_answered_when_its_replica_stops(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus, "swarm-1"):
        await begun(caller, host)
        phase = {"name": "one", "fanout": {"items": list(range(STEPS))}}
        spec = {"description": "x", "phases": [phase]}
        waiting = asyncio.create_task(
            caller.tool("task_orchestrate", task=spec, wait=True, timeout_s=20.0)
        )
        await eventually(lambda: len(host.runs) > 20)
        assert not waiting.done()
    answer = await waiting
    assert answer["status"] == "orchestrating"
    async with replica(connect_bus, "swarm-1"):
        assert (await caller.ended(answer["taskId"], timeout_s=30))["status"] == "completed"


@pytest.mark.slow
async def test_a_swarm_without_an_owner_is_taken_by_the_next_replica_that_starts(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus, "swarm-1"):
        task = await begun(caller, host)
    async with replica(connect_bus, "swarm-1"):
        await check(caller, host, task)


@pytest_asyncio.fixture
async def two(broker: Broker, tmp_path: Path, provision) -> AsyncIterator[dict[str, Process]]:
    async with (
        process(broker, tmp_path, "swarm-1") as one,
        process(broker, tmp_path, "swarm-2") as two,
    ):
        yield {"swarm-1": one, "swarm-2": two}


@pytest.mark.slow
async def test_a_killed_owner_is_replaced_within_8_seconds_without_a_call(
    caller, host, two: dict[str, Process]
) -> None:
    task = await begun(caller, host)
    owner = await owner_of(caller)
    replies = len(host.replies)
    two[owner].kill()
    await two[owner].child.wait()
    began = asyncio.get_running_loop().time()
    # Nobody calls a tool: the other replica sees it by itself, and takes results.
    before = {one.owner_epoch for one in host.replies}
    await eventually(
        lambda: any(one.owner_epoch not in before for one in host.replies[replies:]), timeout_s=8
    )
    assert asyncio.get_running_loop().time() - began < 8
    await check(caller, host, task)
    assert await owner_of(caller) != owner


@pytest.mark.slow
async def test_a_frozen_owner_that_wakes_is_refused_by_the_log(
    caller, host, two: dict[str, Process]
) -> None:
    task = await begun(caller, host)
    owner = await owner_of(caller)
    frozen = two[owner]
    frozen.freeze()
    await eventually(lambda: len({one.owner_epoch for one in host.replies}) > 1, timeout_s=15)
    frozen.wake()
    await check(caller, host, task)
    assert await owner_of(caller) != owner
    assert max(one.owner_epoch for one in host.replies) == host.replies[-1].owner_epoch


@pytest.mark.slow
async def test_a_terminated_process_gives_its_swarm_back(
    caller, host, two: dict[str, Process]
) -> None:
    task = await begun(caller, host)
    owner = await owner_of(caller)
    two[owner].child.send_signal(signal.SIGTERM)
    await check(caller, host, task)
    assert await two[owner].child.wait() == 0


@pytest.mark.slow
async def test_a_broker_that_is_restarted_in_mid_task_costs_nothing(
    broker: Broker, connect_bus, caller, host
) -> None:
    async with replica(connect_bus, "swarm-1"):
        task = await begun(caller, host)
        await broker.kill()
        await broker.start()
        await check(caller, host, task)

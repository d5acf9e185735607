"""From a tool call through the owner to a host and back, on a real broker."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from tests.integration.swarm_rig import (
    TENANT,
    Caller,
    ScriptedHost,
    echo,
    replica,
    result,
    scripted_host,
)

from mcp_proto import buckets
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import Results, StepError, WorkItem, WorkResult
from mcp_proto.contracts.tasks import TaskRecord, record_key
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.core.evolve import snapshot
from swarm_coordinator.orchestrator.takeover import replayed
from swarm_coordinator.store.log import SwarmLog
from swarm_coordinator.store.values import Values


@pytest_asyncio.fixture
async def caller(broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def host(broker, connect_bus, provision) -> AsyncIterator[ScriptedHost]:
    async with scripted_host(connect_bus) as made:
        yield made


def fanned(n: int, **phase: object) -> dict[str, object]:
    """A task of ``n`` steps, each with its number."""
    one = {"name": "one", "fanout": {"items": list(range(n))}, **phase}
    return {"description": "count", "phases": [one]}


async def swarm_of(caller: Caller, agents: int, **arguments: object) -> str:
    made = await caller.tool("swarm_init", topology="mesh", **arguments)
    for _ in range(agents):
        await caller.tool("agent_spawn", type="function", wait=True)
    return made["swarmId"]


async def outputs(caller: Caller, task: str) -> list[object]:
    found = await caller.tool("task_result", taskId=task)
    return found["result"]


async def test_a_replica_starts_answers_and_stops(connect_bus, caller) -> None:
    async with replica(connect_bus):
        assert (await caller.tool("swarm_list"))["swarms"] == []
        answer = await caller.whole("swarm_status")
        assert answer["result"]["isError"]


async def test_a_task_is_done_by_agents_and_its_result_is_read(connect_bus, caller, host) -> None:
    async with replica(connect_bus):
        swarm = await swarm_of(caller, 3)
        assert len(host.agents) == 3
        task = await caller.tool("task_orchestrate", task=fanned(12))
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed", status
        assert len(host.done) == 12
        assert all(runs == 1 for runs in host.runs.values())
        await eventually(lambda: not host.untaken)
        told = await caller.tool("swarm_status")
        assert (told["swarmId"], told["completedTasks"]) == (swarm, 1)


async def test_the_record_of_a_task_is_what_mcp_clients_poll(connect_bus, caller, host) -> None:
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        task = await caller.tool("task_orchestrate", task=fanned(3))
        await caller.ended(task["taskId"])
        kv = KV.bind(await connect_bus("operator", "operator"), buckets.TASKS)
        key = record_key(TENANT, "unsigned", task["taskId"])

        async def completed() -> bool:
            entry = await kv.latest(key)
            if entry is None:
                return False
            return msgspec.json.decode(entry.value, type=TaskRecord).status == "completed"

        await eventually(completed)
        entry = await kv.latest(key)
        assert entry is not None
        record = msgspec.json.decode(entry.value, type=TaskRecord)
        body = msgspec.json.decode(record.result)
        assert body["structuredContent"]["taskId"] == task["taskId"]
        assert record.owner == ""


async def test_results_that_come_again_or_from_the_wrong_host_count_once(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus), scripted_host(connect_bus, "agent-host-2") as other:
        other.slots = 1
        swarm = await swarm_of(caller, 1)
        release = asyncio.Event()

        async def wait(item: WorkItem) -> WorkResult:
            await release.wait()
            return await echo(item)

        worker, stranger = (host, other) if host.agents else (other, host)
        worker.work = wait
        task = await caller.tool("task_orchestrate", task=fanned(1))
        agent = next(iter(worker.agents.values()))
        await eventually(lambda: bool(agent.items))
        item = next(iter(agent.items))
        forged = WorkResult(
            agent=agent.id, epoch=1, item=item, status="ok", structured=msgspec.Raw(b'"forged"')
        )
        # Under its own name: the owner does not believe it about another host's agent.
        assert await stranger.send(swarm, (forged,)) is not None
        # Under the other's name: the broker does not let it.
        subject = wire.result_subject(TENANT, swarm, worker.name)
        body = msgspec.json.encode(Results(results=(forged,)))
        with pytest.raises(MeshError) as refused:
            await stranger.bus.request(subject, body, timeout_s=1.0)
        assert refused.value.kind is ErrorKind.DENIED
        release.set()
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed"
        made = worker.done[item]
        assert await worker.send(swarm, (made, made)) is not None
        late = msgspec.structs.replace(made, structured=msgspec.Raw(b'"late"'))
        assert await worker.send(swarm, (late,)) is not None
        assert b"forged" not in msgspec.json.encode(await outputs(caller, task["taskId"]))
        assert b"late" not in msgspec.json.encode(await outputs(caller, task["taskId"]))


async def test_a_failed_attempt_is_tried_again_and_then_counts(connect_bus, caller, host) -> None:
    failed: list[str] = []

    async def flaky(item: WorkItem) -> WorkResult:
        if item.attempt == 1:
            failed.append(item.item)
            return WorkResult(
                agent=item.agent,
                epoch=item.epoch,
                item=item.item,
                status="error",
                error=StepError(type="exit", message="no"),
            )
        return await echo(item)

    host.work = flaky
    async with replica(connect_bus):
        await swarm_of(caller, 2)
        again = {"maxAttempts": 3, "initialMs": 10}
        task = await caller.tool("task_orchestrate", task=fanned(4, retryPolicy=again))
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed", status
        assert len(failed) == 4


@pytest.mark.slow
async def test_a_dead_host_is_seen_at_once_and_its_work_goes_elsewhere(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus), scripted_host(connect_bus, "agent-host-2") as other:
        await swarm_of(caller, 4)
        assert host.agents
        assert other.agents

        async def never(_item: WorkItem) -> WorkResult | None:
            await asyncio.sleep(60)
            return None

        host.work = never
        task = await caller.tool("task_orchestrate", task=fanned(20))
        await eventually(lambda: any(agent.items for agent in host.agents.values()))
        began = asyncio.get_running_loop().time()
        await host.die()
        status = await caller.ended(task["taskId"], timeout_s=25)
        assert status["status"] == "completed", status
        assert asyncio.get_running_loop().time() - began < 16
        agents = (await caller.tool("agent_list", filter="all"))["agents"]
        assert sum(agent["status"] == "lost" for agent in agents) == 2


@pytest.mark.slow
async def test_a_silent_host_is_lost_in_16_seconds(connect_bus, caller, host) -> None:
    async with replica(connect_bus), scripted_host(connect_bus, "agent-host-2") as other:
        await swarm_of(caller, 2)

        async def never(_item: WorkItem) -> WorkResult | None:
            await asyncio.sleep(60)
            return None

        host.work = never
        task = await caller.tool("task_orchestrate", task=fanned(4))
        await eventually(lambda: any(agent.items for agent in host.agents.values()))
        host.beating = False
        status = await caller.ended(task["taskId"], timeout_s=25)
        assert status["status"] == "completed", status
        assert len(other.done) == 4
        # It was only cut off: it is back in a new life, and gets work again.
        host.beating, host.work = True, echo
        (lost,) = host.agents

        async def back() -> bool:
            return (await caller.tool("agent_status", agentId=lost))["status"] == "active"

        await eventually(back)
        assert len(host.done) == 0
        task = await caller.tool("task_orchestrate", task=fanned(8, agents=[lost]))
        assert (await caller.ended(task["taskId"]))["status"] == "completed"
        assert len(host.done) == 8


@pytest.mark.slow
async def test_work_that_a_host_forgot_is_sent_again_after_its_beat(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        agent = next(iter(host.agents.values()))

        async def forget(item: WorkItem) -> WorkResult | None:
            return None if len(agent.seen) == 1 else await echo(item)

        host.work = forget
        task = await caller.tool("task_orchestrate", task=fanned(1))
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed"
        assert agent.seen == [agent.seen[0]] * 2


async def test_a_cancelled_task_is_cancelled_at_its_hosts(connect_bus, caller, host) -> None:
    async def never(_item: WorkItem) -> WorkResult | None:
        await asyncio.sleep(60)
        return None

    host.work = never
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        task = await caller.tool("task_orchestrate", task=fanned(3))
        await eventually(lambda: any(agent.items for agent in host.agents.values()))
        await caller.tool("task_cancel", taskId=task["taskId"])
        status = await caller.ended(task["taskId"])
        assert status["status"] == "cancelled"
        await eventually(lambda: not any(agent.items for agent in host.agents.values()))
        assert host.cancelled


async def test_a_thousand_steps_are_done_once_each_and_the_log_says_the_same_as_memory(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus, snapshot_events=500):
        swarm = await swarm_of(caller, 10)
        task = await caller.tool("task_orchestrate", task=fanned(1000))
        status = await caller.ended(task["taskId"], timeout_s=50)
        assert status["status"] == "completed", status
        assert status["progress"] == {"done": 1000, "total": 1000}
        assert len(host.runs) == 1000
        assert set(host.runs.values()) == {1}
        found = await outputs(caller, task["taskId"])
        assert sorted(one["input"] for one in found) == list(range(1000))  # type: ignore[index]
        bus = await connect_bus("swarm-coordinator", "swarm-2")
        log = SwarmLog(bus, TENANT, swarm, Values(bus, TENANT), message_bytes=768 * 1024)
        state = await replayed(log)
        assert state is not None
        log = SwarmLog(bus, TENANT, swarm, Values(bus, TENANT), message_bytes=768 * 1024)
        again = await replayed(log)
        assert again is not None
        assert snapshot(state) == snapshot(again)
        assert state.tasks[task["taskId"]].done == 1000


async def test_a_large_result_is_kept_and_given(connect_bus, caller, host) -> None:
    async def large(item: WorkItem) -> WorkResult:
        return result(item, "x" * 900_000)

    host.work = large
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        task = await caller.tool("task_orchestrate", task=fanned(2))
        status = await caller.ended(task["taskId"])
        assert status["status"] == "completed", status

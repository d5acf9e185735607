"""What else comes to an owner: MCP tasks, people's answers, other replicas, attaching programs."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from tests.integration.swarm_rig import TENANT, Caller, ScriptedHost, replica, scripted_host
from tests.integration.test_swarm_path import fanned, swarm_of

from mcp_proto import buckets, subjects
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts import tasks as contract
from mcp_proto.contracts.swarm import (
    AgentBeat,
    Attach,
    Attached,
    Beat,
    BeatAnswer,
    WorkItem,
    WorkResult,
)
from mcp_proto.contracts.tasks import TaskCancel, TaskCreate, TaskRecord, TaskUpdate, record_key
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.orchestrator import swarms
from swarm_coordinator.orchestrator.outward import SwarmEvent

DEMO = "demo-tenant"
WHO = "unsigned"
KEEPER = contract.keeper_of("swarm")


@pytest_asyncio.fixture
async def caller(broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


@pytest_asyncio.fixture
async def host(broker, connect_bus, provision) -> AsyncIterator[ScriptedHost]:
    async with scripted_host(connect_bus) as made:
        yield made


@pytest_asyncio.fixture
async def records(broker, connect_bus, provision) -> KV:
    return KV.bind(await connect_bus("operator", "operator"), buckets.TASKS)


async def never(_item: WorkItem) -> WorkResult | None:
    await asyncio.sleep(60)
    return None


def creation(arguments: dict[str, object]) -> TaskCreate:
    params = {"name": "task_orchestrate", "arguments": arguments}
    return TaskCreate(
        context="",
        tenant=TENANT,
        principal=WHO,
        server="swarm",
        tool="task_orchestrate",
        params=msgspec.Raw(msgspec.json.encode(params)),
    )


async def record_of(records: KV, task: str) -> TaskRecord:
    entry = await records.latest(record_key(TENANT, WHO, task))
    assert entry is not None
    return msgspec.json.decode(entry.value, type=TaskRecord)


async def until(records: KV, task: str, status: str) -> TaskRecord:
    async def reached() -> bool:
        return (await record_of(records, task)).status == status

    await eventually(reached, timeout_s=10, what=f"{task} is {status}")
    return await record_of(records, task)


async def test_a_call_becomes_an_mcp_task_with_the_id_of_the_swarm_task(
    connect_bus, caller, host, records
) -> None:
    async with replica(connect_bus):
        swarm = await swarm_of(caller, 2)
        create = contract.create.at(KEEPER)
        record = await caller.bus.operation(create, creation({"task": fanned(5)}))
        assert record.status in {"working", "completed"}
        assert record.upstream == swarm
        # The record is there before the answer is: a gateway may be asked at once.
        assert (await record_of(records, record.id)).id == record.id
        done = await until(records, record.id, "completed")
        assert not done.is_error
        status = await caller.tool("task_status", taskId=record.id)
        assert status["status"] == "completed"


async def test_a_call_that_is_refused_becomes_no_task(connect_bus, caller, host) -> None:
    async with replica(connect_bus):
        create = contract.create.at(KEEPER)
        nobody = await caller.bus.operation(create, creation({"task": fanned(1)}))
        assert nobody.id == ""
        assert b"not_found" in bytes(nobody.result)
        await caller.tool("swarm_init", topology="mesh")
        bad = {**fanned(1), "requiredCapabilities": ["flying"]}
        refused = await caller.bus.operation(create, creation({"task": bad}))
        assert refused.id == ""
        assert b"missing_capabilities" in bytes(refused.result)


async def test_a_task_is_cancelled_by_its_submitter_and_by_nobody_else(
    connect_bus, caller, host, records
) -> None:
    host.work = never
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        task = (await caller.tool("task_orchestrate", task=fanned(2)))["taskId"]
        await eventually(lambda: any(agent.items for agent in host.agents.values()))
        cancel = contract.cancel.at(KEEPER)
        ask = TaskCancel(context="", tenant=TENANT, principal="somebody", id=task)
        with pytest.raises(MeshError) as refused:
            await caller.bus.operation(cancel, ask)
        assert refused.value.kind is ErrorKind.NOT_FOUND
        await caller.bus.operation(cancel, msgspec.structs.replace(ask, principal=WHO))
        await until(records, task, "cancelled")


async def test_a_person_who_approves_lets_a_phase_begin(connect_bus, caller, host, records) -> None:
    async with replica(connect_bus):
        await swarm_of(caller, 1)
        task = (await caller.tool("task_orchestrate", task=fanned(2, approval=True)))["taskId"]
        waiting = await until(records, task, "input_required")
        assert waiting.held is not None
        (key,) = waiting.held.requests
        answer = msgspec.Raw(b'{"action":"accept","content":{"approve":true}}')
        update = contract.update.at(KEEPER)
        ask = TaskUpdate(context="", tenant=TENANT, principal=WHO, id=task, responses={key: answer})
        await caller.bus.operation(update, ask)
        await until(records, task, "completed")


async def test_calls_that_arrive_at_another_replica_are_answered_by_the_owner(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus, "swarm-1"):
        await swarm_of(caller, 1)
        async with replica(connect_bus, "swarm-2") as second:
            for _ in range(20):
                assert (await caller.tool("swarm_status"))["owner"] == "swarm-1"
                task = await caller.tool("task_orchestrate", task=fanned(1), wait=True)
                assert task["status"] == "completed"
            calls = next(one for one in second.endpoints if one.name == "call-swarm")
            assert calls.stats.requests > 0
            assert len(host.runs) == 20


async def test_an_external_program_attaches_with_its_claim_and_works(connect_bus, caller) -> None:
    caller.tenant = DEMO  # the broker of the tests knows its programs
    async with replica(connect_bus):
        made = await caller.tool("swarm_init", topology="mesh")
        agent = await caller.tool("agent_spawn", type="mine", config={"runtime": "external"})
        program = await connect_bus("agent", "agent-1")
        swarm = made["swarmId"]
        outsider = Program(program, swarm, agent["agentId"])
        assert (await outsider.attach("wrong")).refused == "not_found"
        attached = await outsider.attach(agent["claim"])
        assert attached.refused == ""
        await outsider.beat(attached.epoch)
        found = await caller.tool("agent_status", agentId=agent["agentId"])
        assert found["status"] == "active"


class Program:
    """An external process, as far as attaching and beating go. Rights are those of the demo."""

    def __init__(self, bus: Bus, swarm: str, agent: str) -> None:
        self.bus = bus
        self.swarm = swarm
        self.agent = agent

    async def attach(self, claim: str) -> Attached:
        ask = Attach(agent=self.agent, claim=claim, boot=self.bus.boot)
        subject = wire.attach_subject(DEMO, self.swarm, self.bus.instance)
        reply = await self.bus.request(subject, msgspec.json.encode(ask), timeout_s=2.0)
        return msgspec.json.decode(reply.payload, type=Attached)

    async def beat(self, epoch: int) -> BeatAnswer:
        one = AgentBeat(agent=self.agent, epoch=epoch, state="active")
        beat = Beat(boot=self.bus.boot, node="n", agents=(one,))
        subject = wire.beat_subject(DEMO, self.swarm, self.bus.instance)
        reply = await self.bus.request(subject, msgspec.json.encode(beat), timeout_s=2.0)
        return msgspec.json.decode(reply.payload, type=BeatAnswer)


async def test_every_transition_is_told_on_the_bus(connect_bus, caller, host) -> None:
    heard: list[SwarmEvent] = []
    listener = await connect_bus("operator", "operator")

    async def on_event(message) -> None:
        heard.append(msgspec.json.decode(message.data, type=SwarmEvent))

    subscription = await listener.subscribe(subjects.event(TENANT, "swarm", subjects.ANY), on_event)
    async with replica(connect_bus):
        swarm = await swarm_of(caller, 1)
        task = await caller.tool("task_orchestrate", task=fanned(7), wait=True)

        def told(tag: str) -> int:
            return sum(one["e"] == tag for event in heard for one in event.transitions)

        await eventually(lambda: told("ended") == 1)
        assert {event.swarm for event in heard} == {swarm}
        assert (told("sent"), told("done"), told("task")) == (7, 7, 1)
        assert all(
            one["task"] == task["taskId"]
            for event in heard
            for one in event.transitions
            if one["e"] == "done"
        )
    await subscription.unsubscribe()


async def test_a_destroyed_swarm_ends_its_agents_and_is_not_the_default_any_more(
    connect_bus, caller, host
) -> None:
    async with replica(connect_bus):
        swarm = await swarm_of(caller, 2)
        gone = await caller.tool("swarm_destroy", swarmId=swarm)
        assert gone["agentsTerminated"] == 2
        assert host.agents == {}
        answer = await caller.whole("swarm_status")
        assert answer["result"]["structuredContent"]["error"]["reason"] == "not_found"


async def test_a_swarm_at_rest_is_let_go_and_taken_again_by_a_call(
    connect_bus, caller, host, monkeypatch
) -> None:
    monkeypatch.setattr(swarms, "REST_S", 0.0)
    monkeypatch.setattr(swarms, "LOOK_S", 0.1)
    async with replica(connect_bus) as service:
        swarm = await swarm_of(caller, 1)
        agent = (await caller.tool("agent_list"))["agents"][0]["agentId"]
        assert b"mesh_swarms_owned 1.0" in service.metrics.text()
        await caller.tool("agent_terminate", agentId=agent)
        await eventually(lambda: b"mesh_swarms_owned 0.0" in service.metrics.text(), timeout_s=10)
        assert (await caller.tool("swarm_status"))["swarmId"] == swarm
        await caller.tool("agent_spawn", type="function", wait=True)
        task = await caller.tool("task_orchestrate", task=fanned(3), wait=True)
        assert task["status"] == "completed"


async def test_a_message_reaches_its_agent(connect_bus, caller, host) -> None:
    async with replica(connect_bus):
        await swarm_of(caller, 2)
        (one, _) = host.agents
        swarm = (await caller.tool("swarm_status"))["swarmId"]
        said = {"type": "command", "action": "look", "params": {"where": "up"}}
        told = await caller.tool("agent_message", swarmId=swarm, agentId=one, message=said)
        assert told["status"] in {"queued", "delivered"}
        await eventually(lambda: any(mail.action == "look" for mail in host.mail))

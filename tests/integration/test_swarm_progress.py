"""How far a swarm task is, from what a host tells to everybody who looks: on a real broker."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from tests.integration.swarm_rig import (
    TENANT,
    Caller,
    ScriptedHost,
    process,
    replica,
    result,
    scripted_host,
)

from mcp_proto import buckets
from mcp_proto.contracts import swarm as wire
from mcp_proto.contracts.swarm import WorkItem, WorkProgress, WorkResult
from mcp_proto.contracts.tasks import TaskRecord, record_key
from mcp_proto.envelope import RequestEnvelope
from mcp_proto.errors import MeshError, Outcome
from mcp_proto.subjects import call, rpc
from mesh_chassis.bucket import KV
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.store.log import SwarmLog
from swarm_coordinator.store.values import Values

_encode = msgspec.json.encode
THREE = {"name": "p", "fanout": {"items": [1, 2, 3]}, "prompt": "go"}


@pytest_asyncio.fixture
async def caller(broker, connect_bus, provision) -> Caller:
    return Caller(await connect_bus("gateway", "gateway-1"))


class Telling:
    """Work that tells half of each step and goes on when it may."""

    def __init__(self, host: ScriptedHost) -> None:
        self.host = host
        self.go_on = asyncio.Event()
        self.told = asyncio.Event()

    async def work(self, item: WorkItem) -> WorkResult:
        swarm = self.host.swarm_of(item.agent)
        said = WorkProgress(agent=item.agent, item=item.item, progress=1, total=2, message="half")
        subject = wire.progress_subject(TENANT, swarm, self.host.name)
        await self.host.bus.publish(subject, _encode(said))
        self.told.set()
        await self.go_on.wait()
        return result(item, {"n": 1})


@pytest_asyncio.fixture
async def telling(broker, connect_bus, provision) -> AsyncIterator[Telling]:
    async with scripted_host(connect_bus) as host:
        made = Telling(host)
        host.work = made.work
        yield made


async def streamed(
    bus, tool: str, token: str | int, heard: list[dict], **arguments: object
) -> dict:
    """A call whose caller gave a progress token."""
    params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": token}}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    body = await bus.call(
        call(TENANT, "swarm", tool),
        _encode(request),
        envelope=RequestEnvelope(),
        timeout_s=20,
        tenant=TENANT,
        on_frame=lambda frame: heard.append(msgspec.json.decode(frame)),
    )
    return msgspec.json.decode(body)["result"]["structuredContent"]


async def test_callers_of_any_replica_are_told_how_far_the_task_is(
    connect_bus, caller, telling
) -> None:
    async with replica(connect_bus, "swarm-1"), replica(connect_bus, "swarm-2"):
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        calls: list[tuple[asyncio.Task[dict], list[dict]]] = []
        # The queue group spreads them over both replicas: some are forwarded to the owner.
        for n in range(8):
            heard: list[dict] = []
            task = {"description": "d", "phases": [THREE], "parallelism": 3}
            calls.append(
                (
                    asyncio.ensure_future(
                        streamed(caller.bus, "task_orchestrate", n, heard, task=task, wait=True)
                    ),
                    heard,
                )
            )
            await eventually(
                lambda heard=heard: any(0 < one["params"]["progress"] < 3 for one in heard),
                timeout_s=30,
            )
            telling.go_on.set()
            done = await calls[-1][0]
            telling.go_on.clear()
            assert done["status"] == "completed"
        for n, (_, heard) in enumerate(calls):
            assert {one["method"] for one in heard} == {"notifications/progress"}
            assert {one["params"]["progressToken"] for one in heard} == {n}
            figures = [one["params"]["progress"] for one in heard]
            assert figures == sorted(set(figures))
            assert heard[-1]["params"]["progress"] == heard[-1]["params"]["total"] == 3


@pytest.mark.slow
async def test_a_waiting_caller_learns_soon_that_the_owner_was_killed(
    broker, connect_bus, caller, telling, tmp_path
) -> None:
    async with process(broker, tmp_path, "swarm-1") as first:
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        async with replica(connect_bus, "swarm-2"):
            calls = []
            for n in range(4):  # some reach the owner, some are forwarded to it
                heard: list[dict] = []
                task = {"description": "d", "phases": [THREE], "parallelism": 3}
                asked = streamed(caller.bus, "task_orchestrate", n, heard, task=task, wait=True)
                calls.append((asyncio.ensure_future(asked), heard))
            for _, heard in calls:
                await eventually(lambda heard=heard: len(heard) > 0, timeout_s=30)
            first.kill()
            async with asyncio.timeout(30):
                ended = await asyncio.gather(*(call for call, _ in calls), return_exceptions=True)
            for one in ended:
                assert isinstance(one, MeshError)
                assert one.outcome is not Outcome.NOT_EXECUTED
            telling.go_on.set()
            listed = await eventually_tool(caller, "task_list")
            assert listed["count"] == 4
            for one in listed["tasks"]:
                assert (await caller.ended(one["taskId"]))["status"] == "completed"


async def eventually_tool(caller: Caller, tool: str) -> dict:
    """An answer once somebody owns the swarm again."""
    found: dict = {}

    async def answered() -> bool:
        try:
            found.update(await caller.tool(tool))
        except MeshError:
            return False
        return True

    await eventually(answered, timeout_s=20)
    return found


async def test_a_caller_without_a_token_gets_no_frames(connect_bus, caller, telling) -> None:
    heard: list[bytes] = []
    telling.go_on.set()
    async with replica(connect_bus):
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        arguments = {"task": {"description": "d", "phases": [THREE]}, "wait": True}
        params = {"name": "task_orchestrate", "arguments": arguments}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        await caller.bus.call(
            call(TENANT, "swarm", "task_orchestrate"),
            _encode(request),
            envelope=RequestEnvelope(),
            timeout_s=20,
            tenant=TENANT,
            on_frame=heard.append,
        )
    assert heard == []


async def test_status_and_the_record_show_what_the_agent_told(connect_bus, caller, telling) -> None:
    async with replica(connect_bus):
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        task = {"description": "d", "phases": [THREE]}
        made = await caller.tool("task_orchestrate", task=task)
        async with asyncio.timeout(20):
            await telling.told.wait()

        async def shown() -> bool:
            seen = await caller.tool("task_status", taskId=made["taskId"])
            return any(step["message"] == "half" for step in seen["steps"])

        await eventually(shown, timeout_s=20)
        kv = KV.bind(caller.bus, buckets.TASKS)
        key = record_key(TENANT, "unsigned", made["taskId"])
        record = TaskRecord(
            id="", tenant="", principal="", server="", tool="", status="", created_ms=0,
            updated_ms=0, ttl_ms=0, poll_ms=0,
        )  # fmt: skip

        async def recorded() -> bool:
            nonlocal record
            entry = await kv.get(key)
            assert entry is not None
            record = msgspec.json.decode(entry.value, type=TaskRecord)
            return "half" in record.message

        await eventually(recorded, timeout_s=20)
        assert (record.progress, record.total) == (0.5, 3.0)
        telling.go_on.set()
        assert (await caller.ended(made["taskId"]))["steps"] == []


async def test_answers_to_a_waiting_call_reach_the_owner_through_any_replica(
    connect_bus, caller, telling
) -> None:
    telling.go_on.set()
    clients = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}

    async def asked(**more: object) -> dict:
        task = {"description": "d", "phases": [{**THREE, "approval": True}]}
        params = {"name": "task_orchestrate", "arguments": {"task": task, "wait": True}}
        params |= {"_meta": clients, **more}
        request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        body = await caller.bus.call(
            call(TENANT, "swarm", "task_orchestrate"),
            _encode(request),
            envelope=RequestEnvelope(),
            timeout_s=20,
            tenant=TENANT,
        )
        return msgspec.json.decode(body)["result"]

    async with replica(connect_bus, "swarm-1"), replica(connect_bus, "swarm-2"):
        await caller.tool("swarm_init", topology="mesh")
        await caller.tool("agent_spawn", type="function", wait=True)
        for n in range(6):  # each call and each repeat goes to one of the two
            first = await asked()
            ((key, _),) = first["inputRequests"].items()
            answer = {"action": "accept" if n else "decline", "content": {"approve": True}}
            done = await asked(requestState=first["requestState"], inputResponses={key: answer})
            structured = done["structuredContent"]
            if n:
                assert (structured["status"], structured["taskId"]) == (
                    "completed",
                    first["requestState"],
                )
            else:
                assert structured["error"]["reason"] == "declined"
        assert (await caller.tool("task_list"))["count"] == 6


async def resource(bus, uri: str) -> dict:
    params = {"uri": uri}
    request = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params}
    body = await bus.call(
        rpc(TENANT, "swarm", "resources/read"),
        _encode(request),
        envelope=RequestEnvelope(),
        timeout_s=20,
        tenant=TENANT,
    )
    (content,) = msgspec.json.decode(body)["result"]["contents"]
    return msgspec.json.decode(content["text"])


async def test_log_of_a_task_is_read_from_the_log_and_says_what_is_cut_off(
    connect_bus, caller, telling
) -> None:
    telling.go_on.set()
    async with replica(connect_bus, snapshot_events=20):
        swarm = (await caller.tool("swarm_init", topology="mesh"))["swarmId"]
        await caller.tool("agent_spawn", type="function", wait=True)

        async def done(items: int) -> dict:
            phase = {"name": "p", "fanout": {"items": list(range(items))}, "prompt": "go"}
            task = {"description": "d", "phases": [phase], "parallelism": 8}
            made = await caller.tool("task_orchestrate", task=task, wait=True)
            return await resource(caller.bus, f"swarm://{swarm}/tasks/{made['taskId']}/log")

        small = await done(2)
        tags = [one["e"] for one in small["entries"]]
        assert (tags[0], tags[-1], small["complete"]) == ("task", "ended", True)
        assert tags.count("sent") == tags.count("done") == 2
        # Enough events for a snapshot in the middle: what is older than that is no longer there.
        await done(200)
        uri = f"swarm://{swarm}/tasks/{small['taskId']}/log"

        async def cut() -> bool:
            return not (await resource(caller.bus, uri))["complete"]

        await eventually(cut, timeout_s=30)
        later = await resource(caller.bus, uri)
        assert (later["entries"], later["status"]) == ([], "completed")
        assert len(later["steps"]) == 2


async def test_tasks_of_a_swarm_whose_log_is_lost_fail_and_say_so(
    connect_bus, caller, telling
) -> None:
    async with replica(connect_bus):
        swarm = (await caller.tool("swarm_init", topology="mesh"))["swarmId"]
        await caller.tool("agent_spawn", type="function", wait=True)
        task = (await caller.tool("task_orchestrate", task={"description": "d"}))["taskId"]
    bus = await connect_bus("swarm-coordinator", "swarm-9")
    values = Values(bus, TENANT, replicas=1)
    await SwarmLog(bus, TENANT, swarm, values, message_bytes=64_000).remove()

    async with replica(connect_bus):
        kv = KV.bind(caller.bus, buckets.TASKS)

        async def failed() -> bool:
            entry = await kv.get(record_key(TENANT, "unsigned", task))
            assert entry is not None
            record = msgspec.json.decode(entry.value, type=TaskRecord)
            if record.status != "failed":
                return False
            error = msgspec.json.decode(record.error)
            assert error["data"]["reason"] == "swarm_lost"
            assert error["data"]["outcome"] == "unknown"
            return True

        await eventually(failed, timeout_s=30)
        answer = await caller.whole("task_status", taskId=task)
        told = answer["result"]["structuredContent"]["error"]
        assert (told["code"], told["reason"], told["swarmId"]) == ("swarm", "destroyed", swarm)
        listed = await caller.tool("swarm_list")
        assert listed["count"] == 0
        assert (await caller.tool("swarm_init", topology="mesh"))["swarmId"] != swarm

"""Durable tasks in the form of the tasks extension: real runners and gateways, scripted servers."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.integration.task_rig import DECLARED, Peer, task_runner

from gateway.testing import (
    LineClient,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto import subjects
from mcp_proto.contracts.tasks import event_subject
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.types.meta import CLIENT_CAPABILITIES, TASKS_EXTENSION
from mesh_chassis.config import ServiceSection
from mesh_chassis.testing.in_process import in_process
from tool_runner.config import RunnerSection, TasksConfig, ToolRunnerConfig
from tool_runner.service import build

TERMINAL = ("completed", "failed", "cancelled")


class Gate:
    """Calls that wait until the test lets them go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0
        self.stopped = 0

    async def __call__(self, call, params) -> bytes:
        self.entered += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return text_result("done")


async def greet(call, params) -> bytes:
    name = msgspec.json.decode(params["arguments"]).get("name", "you")
    return text_result(f"Hello, {name}!")


async def fails(call, params) -> bytes:
    return msgspec.json.encode(
        {"resultType": "complete", "content": [{"type": "text", "text": "no"}], "isError": True}
    )


async def breaks(call, params) -> bytes:
    raise MeshError(ErrorKind.UPSTREAM, "it broke")


def ask_for(*keys: str) -> bytes:
    requests = {
        key: {
            "method": "elicitation/create",
            "params": {"message": key, "requestedSchema": {"type": "object", "properties": {}}},
        }
        for key in keys
    }
    body = {"resultType": "input_required", "inputRequests": requests, "requestState": "s1"}
    return msgspec.json.encode(body)


async def confirms(call, params) -> bytes:
    answers = params.get("inputResponses")
    if answers is None:
        return ask_for("a", "b")
    assert msgspec.json.decode(params["requestState"]) == "s1"
    return text_result(bytes(answers).decode())


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path, gate) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        names = ("greet", "wait", "fails", "breaks", "confirms", "large", "overasks", "rages")
        await parts.put_server("job", *(tool(name) for name in names))
        await parts.put_server("always", tool("greet"), tasks={"*": "always"})
        await parts.put_server("must", tool("greet"), tasks={"greet": "required"})
        await parts.put_server("never", tool("greet"), tasks={"*": "never"})
        parts.scripts |= {f"{one}:greet": greet for one in ("job", "always", "must", "never")}
        parts.scripts |= {
            "job:wait": gate,
            "job:fails": fails,
            "job:breaks": breaks,
            "job:confirms": confirms,
            "job:large": large,
            "job:overasks": overasks,
            "job:rages": rages,
        }
        parts.allow("other")
        yield parts


async def large(call, params) -> bytes:
    return text_result("x" * 1_500_000)


async def overasks(call, params) -> bytes:
    body = msgspec.json.decode(ask_for("a"))
    return msgspec.json.encode({**body, "requestState": "s" * 1_500_000})


async def rages(call, params) -> bytes:
    raise MeshError(ErrorKind.UPSTREAM, "no", data={"why": "x" * 1_500_000})


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def peer(gateway: Running) -> AsyncIterator[Peer]:
    async with httpx.AsyncClient(timeout=20) as client:
        yield Peer(client, gateway.http)


@pytest_asyncio.fixture
async def runner(around, connect_bus):
    async with task_runner(connect_bus) as service:
        yield service


async def test_a_call_becomes_a_task_whose_result_any_gateway_gives(
    around, connect_bus, peer, runner
) -> None:
    created = await peer.call("job__greet", name="Ada")
    assert created["resultType"] == "task"
    assert created["status"] == "working"
    assert created["ttlMs"] == 3_600_000
    assert not {"task", "result", "error", "inputRequests", "requestState"} & set(created)
    # A get right after the create works.
    assert (await peer.get(created["taskId"]))["resultType"] == "complete"
    async with running_gateway(around, connect_bus, "gateway-2") as second:
        task = await peer.until(created["taskId"], *TERMINAL, gateway=second)
    assert task["status"] == "completed"
    assert task["result"]["content"][0]["text"] == "Hello, Ada!"


async def test_policies_decide_which_calls_become_tasks(peer, runner) -> None:
    async def kind(name: str, *, wish: bool, declared: bool) -> object:
        meta = {"mesh/task": True} if wish else {}
        answer = await peer.ask("tools/call", name=name, arguments={}, meta=meta, declared=declared)
        return answer["result"]["resultType"] if "result" in answer else answer["error"]

    assert await kind("job__greet", wish=False, declared=True) == "complete"
    assert await kind("job__greet", wish=True, declared=False) == "complete"
    assert await kind("job__greet", wish=True, declared=True) == "task"
    assert await kind("always__greet", wish=False, declared=True) == "task"
    assert await kind("always__greet", wish=False, declared=False) == "complete"
    assert await kind("never__greet", wish=True, declared=True) == "complete"
    assert await kind("must__greet", wish=False, declared=True) == "task"
    refused = await kind("must__greet", wish=False, declared=False)
    assert refused["code"] == -32021
    assert refused["data"]["requiredCapabilities"] == {
        "extensions": {"io.modelcontextprotocol/tasks": {}}
    }


async def test_a_tools_own_error_completes_and_a_protocol_error_fails_the_task(
    peer, runner
) -> None:
    own = await peer.until((await peer.call("job__fails"))["taskId"], *TERMINAL)
    assert own["status"] == "completed"
    assert own["result"]["isError"] is True
    broken = await peer.until((await peer.call("job__breaks"))["taskId"], *TERMINAL)
    assert broken["status"] == "failed"
    assert broken["error"]["code"] == -31017
    assert "result" not in broken


@pytest.mark.parametrize("name", ["job__overasks", "job__rages"])
async def test_a_task_ends_though_its_record_cannot_keep_what_the_server_said(
    name: str, peer, runner
) -> None:
    ended = await peer.until((await peer.call(name))["taskId"], *TERMINAL)
    assert ended["status"] == "failed"
    assert ended["error"]["code"] in {-31012, -31017}
    assert ended["error"]["data"]["outcome"] in {"unknown", "executed"}


async def test_a_cancelled_task_stops_its_call_and_a_second_cancel_changes_nothing(
    peer, runner, gate
) -> None:
    task_id = (await peer.call("job__wait"))["taskId"]
    async with asyncio.timeout(5):
        while not gate.entered:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for _ in range(2):
        acknowledged = (await peer.ask("tasks/cancel", taskId=task_id))["result"]
        assert acknowledged["resultType"] == "complete"
        assert "status" not in acknowledged
    assert (await peer.get(task_id))["status"] == "cancelled"
    async with asyncio.timeout(5):
        while not gate.stopped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_strangers_and_undeclared_clients_learn_nothing(gateway, peer, runner) -> None:
    task_id = (await peer.call("job__greet"))["taskId"]
    async with httpx.AsyncClient() as client:
        stranger = Peer(client, gateway.http, "other")
        for method, more in (
            ("tasks/get", {}),
            ("tasks/update", {"inputResponses": {}}),
            ("tasks/cancel", {}),
        ):
            foreign = (await stranger.ask(method, taskId=task_id, **more))["error"]
            unknown = (await stranger.ask(method, taskId="task_1_x", **more))["error"]
            assert foreign == unknown
            assert foreign["code"] == -32602
            bare = (await peer.ask(method, taskId=task_id, declared=False, **more))["error"]
            assert bare["code"] == -32021
    for method in ("tasks/result", "tasks/list"):
        assert (await peer.ask(method, taskId=task_id))["error"]["code"] == -32601


async def test_a_task_that_asks_goes_on_with_the_last_answer(peer, runner) -> None:
    task_id = (await peer.call("job__confirms"))["taskId"]
    task = await peer.until(task_id, "input_required")
    assert set(task["inputRequests"]) == {"a", "b"}
    answer = {"action": "accept", "content": {}}
    await peer.ask("tasks/update", taskId=task_id, inputResponses={"a": answer, "zz": answer})
    task = await peer.get(task_id)
    assert set(task["inputRequests"]) == {"b"}
    await peer.ask("tasks/update", taskId=task_id, inputResponses={"b": answer})
    task = await peer.until(task_id, *TERMINAL)
    assert task["status"] == "completed"
    given = msgspec.json.decode(task["result"]["content"][0]["text"])
    assert given == {"a": answer, "b": answer}


async def test_a_task_asks_nothing_that_its_submitter_did_not_declare(peer, runner) -> None:
    bare = {CLIENT_CAPABILITIES: {"extensions": {TASKS_EXTENSION: {}}}, "mesh/task": True}
    answer = await peer.ask("tools/call", meta=bare, name="job__confirms", arguments={})
    task = await peer.until(answer["result"]["taskId"], *TERMINAL, "input_required")
    assert task["status"] == "failed"
    assert task["error"]["code"] == -32021
    assert task["error"]["data"]["requiredCapabilities"] == {"elicitation": {}}


async def test_a_result_names_resources_as_the_endpoint_where_it_is_read_lists_them(
    around, peer, runner
) -> None:
    uri = "file:///readme"
    resource = msgspec.Raw(msgspec.json.encode({"uri": uri, "name": "readme"}))
    for server in ("first", "second"):
        await around.put_server(server, tool("link"), resources=(resource,))

    async def link(call, params) -> bytes:
        block = {"type": "resource_link", "uri": uri, "name": "readme"}
        return msgspec.json.encode({"resultType": "complete", "content": [block]})

    around.scripts |= {"first:link": link, "second:link": link}
    async with asyncio.timeout(5):
        while len(listed := await uris(peer)) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    found: set[str] = set()
    for server in ("first", "second"):
        plain = await peer.ask("tools/call", name=f"{server}__link", arguments={})
        made = await peer.call(f"{server}__link")
        task = await peer.until(made["taskId"], *TERMINAL)
        assert task["result"]["content"] == plain["result"]["content"]
        found.add(task["result"]["content"][0]["uri"])
    assert found == listed


async def uris(peer: Peer) -> set[str]:
    answer = await peer.ask("resources/list")
    return {one["uri"] for one in answer["result"]["resources"]}


async def test_a_task_that_waits_survives_its_runner(around, connect_bus, peer) -> None:
    async with task_runner(connect_bus):
        task_id = (await peer.call("job__confirms"))["taskId"]
        await peer.until(task_id, "input_required")
    answer = {"action": "accept", "content": {}}
    async with task_runner(connect_bus, "runner-3"):
        await peer.ask("tasks/update", taskId=task_id, inputResponses={"a": answer, "b": answer})
        assert (await peer.until(task_id, *TERMINAL))["status"] == "completed"


async def test_a_large_result_is_kept_in_parts(peer, runner) -> None:
    task = await peer.until((await peer.call("job__large"))["taskId"], *TERMINAL)
    assert len(task["result"]["content"][0]["text"]) == 1_500_000


async def test_a_stopping_runner_says_what_it_leaves_behind(around, connect_bus, peer) -> None:
    tables = {"service": ServiceSection(instance="runner-2", drain_s=1.0, accept_s=0.0)}
    async with task_runner(connect_bus, **tables):
        task_id = (await peer.call("job__wait"))["taskId"]
    task = await peer.get(task_id)
    assert task["status"] == "failed"
    assert task["error"]["code"] == -31010
    assert task["error"]["data"]["outcome"] == "unknown"


@pytest.mark.slow
async def test_a_lost_owner_makes_its_task_fail(around, connect_bus, peer) -> None:
    dying = await connect_bus("tool-runner", "runner-2")
    config = ToolRunnerConfig(
        service=ServiceSection(instance="runner-2", drain_s=0.5, accept_s=0.0),
        runner=RunnerSection(toolsets=()),
    )
    async with in_process(build, config, dying):
        task_id = (await peer.call("job__wait"))["taskId"]
        await dying.link.close()  # gone without a word
    async with task_runner(connect_bus, "runner-3"):
        task = await peer.until(task_id, *TERMINAL, timeout_s=20)
    assert task["status"] == "failed"
    assert task["error"]["data"]["outcome"] == "unknown"


async def test_limits_are_said_at_the_limit(around, connect_bus, peer) -> None:
    tables = {"tasks": TasksConfig(per_tenant=2, params_bytes=600, ttl_max_s=60.0)}
    async with task_runner(connect_bus, **tables):
        meta = {**DECLARED, "mesh/task": {"ttlMs": 3_600_000}}
        made = await peer.ask("tools/call", name="job__greet", arguments={}, meta=meta)
        assert made["result"]["ttlMs"] == 60_000
        big = await peer.ask("tools/call", name="job__greet", arguments={"a": "x" * 600}, meta=meta)
        assert big["error"]["code"] == -31012
        await peer.call("job__greet")
        over = await peer.ask("tools/call", name="job__greet", arguments={}, meta=meta)
        assert over["error"]["code"] == -31016
        assert over["error"]["data"]["outcome"] == "not_executed"
        assert over["error"]["data"]["retryAfterMs"] > 0


async def test_a_task_is_forgotten_after_its_time(around, connect_bus, peer) -> None:
    async with task_runner(connect_bus):
        created = await peer.call("job__confirms", wish={"ttlMs": 1_000})
        await peer.until(created["taskId"], "input_required")
        async with asyncio.timeout(8):
            answer: dict = {}
            while "error" not in answer:
                await asyncio.sleep(0.1)
                answer = await peer.ask("tasks/get", taskId=created["taskId"])
        assert answer["error"]["code"] == -32602


async def test_a_listener_hears_of_its_tasks_and_of_no_others(gateway, peer, runner, gate) -> None:
    task_id = (await peer.call("job__wait"))["taskId"]
    wanted = {"taskIds": [task_id, "task_0_unknown"]}
    body, headers = modern("subscriptions/listen", 7, meta=DECLARED, notifications=wanted)
    heard: list[dict] = []
    async with (
        httpx.AsyncClient(timeout=20) as client,
        client.stream("POST", f"{gateway.http}/mcp", content=body, headers=headers) as stream,
    ):
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                heard.append(msgspec.json.decode(line[6:]))
            if len(heard) == 1 and not gate.open.is_set():
                gate.open.set()
            if heard and heard[-1]["params"].get("status") == "completed":
                break
    acknowledged, *notices = heard
    assert acknowledged["params"]["notifications"] == {"taskIds": [task_id]}
    last = notices[-1]
    assert last["method"] == "notifications/tasks"
    assert last["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == 7
    assert last["params"]["result"]["content"][0]["text"] == "done"
    assert "resultType" not in last["params"]


async def test_a_listener_that_declares_no_tasks_is_told_so(peer, runner) -> None:
    refused = await peer.ask(
        "subscriptions/listen", declared=False, notifications={"taskIds": ["task_0_x"]}
    )
    assert refused["error"]["code"] == -32021


async def test_lines_tell_of_tasks_too(gateway, peer, runner, gate) -> None:
    task_id = (await peer.call("job__wait"))["taskId"]
    client = await LineClient.connect(gateway.tcp)
    body, _ = modern(
        "subscriptions/listen", "l1", meta=DECLARED, notifications={"taskIds": [task_id]}
    )
    client.send(body)
    acknowledged = await client.receive()
    assert acknowledged["params"]["notifications"] == {"taskIds": [task_id]}
    gate.open.set()
    notice = await client.receive()
    assert notice["method"] == "notifications/tasks"
    assert notice["params"]["status"] == "completed"
    assert notice["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"] == "l1"
    await client.close()


async def test_a_repeat_with_an_idempotency_key_gets_the_same_task(peer, runner) -> None:
    meta = {**DECLARED, "mesh/task": True, "mesh/idempotencyKey": "once"}
    made = [
        (await peer.ask("tools/call", name="job__greet", arguments={"name": "A"}, meta=meta))
        for _ in range(3)
    ]
    assert len({one["result"]["taskId"] for one in made}) == 1
    other = await peer.ask("tools/call", name="job__greet", arguments={"name": "B"}, meta=meta)
    assert other["error"]["code"] == -32602


async def test_progress_becomes_the_status_message(around, peer, runner) -> None:
    async def steps(call, params) -> bytes:
        token = msgspec.json.decode(params["_meta"])["progressToken"]
        note = {"progressToken": token, "progress": 1, "total": 2, "message": "half way"}
        body = {"jsonrpc": "2.0", "method": "notifications/progress", "params": note}
        await call.emit(msgspec.json.encode(body))
        await asyncio.sleep(0.5)
        return text_result("done")

    around.scripts["job:greet"] = steps
    task_id = (await peer.call("job__greet"))["taskId"]
    async with asyncio.timeout(5):
        while (task := await peer.get(task_id)).get("statusMessage") != "half way":
            assert task["status"] == "working"
            await asyncio.sleep(0.02)
    assert (await peer.until(task_id, *TERMINAL))["status"] == "completed"


async def test_a_task_of_the_servers_own_is_relayed_under_a_sealed_id(
    gateway, around, peer, runner
) -> None:
    async def own(call, params) -> bytes:
        return own_task("working", "task")

    async def about(call, params) -> bytes:
        assert msgspec.json.decode(params["taskId"]) == "up-1"
        if call.subject.method != "tasks/get":
            return b'{"resultType":"complete"}'
        return own_task("completed", "complete", result={"content": []})

    around.scripts |= {"job:greet": own}
    around.scripts |= {f"job:tasks/{verb}": about for verb in ("get", "update", "cancel")}
    made = (await peer.ask("tools/call", name="job__greet", arguments={}))["result"]
    sealed = made["taskId"]
    assert "up-1" not in sealed
    task = await peer.get(sealed)
    assert (task["taskId"], task["status"]) == (sealed, "completed")
    assert (await peer.ask("tasks/cancel", taskId=sealed))["result"]["resultType"] == "complete"
    update = await peer.ask("tasks/update", taskId=sealed, inputResponses={"k": {}})
    assert update["result"]["resultType"] == "complete"
    async with httpx.AsyncClient() as client:
        stranger = Peer(client, gateway.http, "other")
        foreign = (await stranger.ask("tasks/get", taskId=sealed))["error"]
        altered = (await peer.ask("tasks/get", taskId=sealed[:-2] + "xx"))["error"]
    assert foreign == altered
    assert foreign["code"] == -32602


def own_task(status: str, kind: str, **more: object) -> bytes:
    now = "2026-11-21T10:00:00Z"
    body = {"resultType": kind, "taskId": "up-1", "status": status, "ttlMs": 60_000, **more}
    return msgspec.json.encode({**body, "createdAt": now, "lastUpdatedAt": now})


@pytest.mark.parametrize("name", ["fails", "breaks", "confirms"])
async def test_every_end_is_told_at_once(name: str, around, connect_bus, peer, runner) -> None:
    heard: list[str] = []
    listener = await connect_bus("gateway", "gateway-7")

    async def on_event(message) -> None:
        heard.append(msgspec.json.decode(message.data)["status"])

    await listener.subscribe(event_subject(subjects.ANY, subjects.ANY), on_event)
    task = await peer.until(
        (await peer.call(f"job__{name}"))["taskId"], *TERMINAL, "input_required"
    )
    async with asyncio.timeout(1):
        while not heard:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert heard == [task["status"]]

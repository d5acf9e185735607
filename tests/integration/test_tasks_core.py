"""Durable tasks in the core form of 2025-11-25, over HTTP sessions and on TCP lines."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest_asyncio
from tests.integration.task_rig import task_runner

from gateway.testing import (
    JSON_HEADERS,
    LineClient,
    Running,
    Surroundings,
    running_gateway,
    surrounded,
    text_result,
    tool,
)

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"elicitation": {}, "tasks": {}},
    "clientInfo": {"name": "old", "version": "1"},
}
RELATED = "io.modelcontextprotocol/related-task"


async def greet(call, params) -> bytes:
    name = msgspec.json.decode(params.get("arguments", b"{}")).get("name", "you")
    return text_result(f"Hello, {name}!")


async def slow(call, params) -> bytes:
    await asyncio.sleep(0.4)
    return text_result("slow")


async def wait(call, params) -> bytes:
    await asyncio.Event().wait()
    return b""


async def fails(call, params) -> bytes:
    return msgspec.json.encode(
        {"resultType": "complete", "content": [{"type": "text", "text": "no"}], "isError": True}
    )


async def confirms(call, params) -> bytes:
    answers = params.get("inputResponses")
    if answers is None:
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
        ask = {
            "method": "elicitation/create",
            "params": {"message": "?", "requestedSchema": schema},
        }
        return msgspec.json.encode(
            {"resultType": "input_required", "inputRequests": {"ask": ask}, "requestState": "s"}
        )
    return text_result(bytes(answers).decode())


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        scripts = {"greet": greet, "slow": slow, "wait": wait, "fails": fails, "confirms": confirms}
        await parts.put_server("job", *(tool(name) for name in scripts))
        await parts.put_server("must", tool("greet"), tasks={"greet": "required"})
        await parts.put_server("never", tool("greet"), tasks={"*": "never"})
        parts.scripts |= {f"job:{name}": script for name, script in scripts.items()}
        parts.scripts |= {"must:greet": greet, "never:greet": greet}
        async with task_runner(connect_bus):
            yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


class Session:
    """A 2025-11-25 session over HTTP."""

    def __init__(self, client: httpx.AsyncClient, headers: dict[str, str], hello: Any) -> None:
        self.client = client
        self.headers = headers
        self.hello = hello
        self._ids = 10

    @classmethod
    async def open(cls, client: httpx.AsyncClient) -> "Session":
        body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE}
        opened = await client.post("/mcp", json=body, headers=JSON_HEADERS)
        headers = {**JSON_HEADERS, "mcp-session-id": opened.headers["mcp-session-id"]}
        return cls(client, headers, opened.json()["result"])

    async def ask(self, method: str, **params: object) -> dict[str, Any]:
        """One request answered as JSON."""
        self._ids += 1
        body = {"jsonrpc": "2.0", "id": self._ids, "method": method, "params": params}
        return (await self.client.post("/mcp", json=body, headers=self.headers)).json()

    async def task(self, name: str, **arguments: object) -> dict[str, Any]:
        """A task-augmented call; the task."""
        answer = await self.ask("tools/call", name=name, arguments=arguments, task={"ttl": 60_000})
        return answer["result"]["task"]


@pytest_asyncio.fixture
async def session(gateway: Running) -> AsyncIterator[Session]:
    async with httpx.AsyncClient(base_url=gateway.http, timeout=20) as client:
        yield await Session.open(client)


async def test_the_session_hears_what_it_can_do_with_tasks(session: Session) -> None:
    assert session.hello["capabilities"]["tasks"] == {
        "list": {},
        "cancel": {},
        "requests": {"tools": {"call": {}}},
    }
    assert "extensions" not in session.hello["capabilities"]
    listed = (await session.ask("tools/list"))["result"]["tools"]
    support = {one["name"]: one["execution"]["taskSupport"] for one in listed}
    assert support["job__greet"] == "optional"
    assert support["must__greet"] == "required"
    assert support["never__greet"] == "forbidden"


async def test_a_task_is_made_read_listed_and_its_result_fetched(session: Session) -> None:
    task = await session.task("job__slow")
    assert task["status"] == "working"
    assert task["ttl"] == 60_000
    assert {"createdAt", "lastUpdatedAt", "pollInterval"} <= set(task)
    task_id = task["taskId"]
    assert (await session.ask("tasks/get", taskId=task_id))["result"]["taskId"] == task_id
    result = (await session.ask("tasks/result", taskId=task_id))["result"]
    assert result["content"][0]["text"] == "slow"
    assert result["_meta"][RELATED] == {"taskId": task_id}
    assert "resultType" not in result
    done = (await session.ask("tasks/get", taskId=task_id))["result"]
    assert done["status"] == "completed"
    assert "result" not in done
    listed = (await session.ask("tasks/list"))["result"]["tasks"]
    assert [one["taskId"] for one in listed] == [task_id]
    assert (await session.ask("tasks/list", cursor="x"))["error"]["code"] == -32602


async def test_a_task_without_a_wished_time_gets_the_one_that_applies_and_says_it(
    session: Session,
) -> None:
    for wish in ({"ttl": None}, {}, {"ttl": 10**12}):
        answer = await session.ask("tools/call", name="job__greet", arguments={}, task=wish)
        task = answer["result"]["task"]
        applies = 86_400_000 if wish.get("ttl") else 3_600_000
        assert task["ttl"] == applies
        again = (await session.ask("tasks/get", taskId=task["taskId"]))["result"]
        assert again["ttl"] == applies


async def test_a_tools_own_error_is_a_failed_core_task_with_its_result(session: Session) -> None:
    task_id = (await session.task("job__fails"))["taskId"]
    result = (await session.ask("tasks/result", taskId=task_id))["result"]
    assert result["isError"] is True
    assert (await session.ask("tasks/get", taskId=task_id))["result"]["status"] == "failed"


async def test_cancel_ends_the_task_and_a_second_one_is_refused(session: Session) -> None:
    task_id = (await session.task("job__wait"))["taskId"]
    waiting = asyncio.create_task(session.ask("tasks/result", taskId=task_id))
    cancelled = (await session.ask("tasks/cancel", taskId=task_id))["result"]
    assert cancelled["status"] == "cancelled"
    assert (await session.ask("tasks/cancel", taskId=task_id))["error"]["code"] == -32602
    assert "error" in await waiting
    assert (await session.ask("tasks/get", taskId="task_0_none"))["error"]["code"] == -32602


async def test_a_tool_that_never_is_a_task_answers_at_once(session: Session) -> None:
    answer = await session.ask("tools/call", name="never__greet", arguments={}, task={})
    assert answer["error"]["code"] == -32601
    refused = await session.ask("tools/call", name="must__greet", arguments={})
    assert refused["error"]["code"] == -32601


async def test_what_a_task_asks_reaches_the_client_while_it_waits_for_the_result(
    session: Session,
) -> None:
    task_id = (await session.task("job__confirms"))["taskId"]
    body = {"jsonrpc": "2.0", "id": 99, "method": "tasks/result", "params": {"taskId": task_id}}
    asked = final = None
    async with session.client.stream("POST", "/mcp", json=body, headers=session.headers) as stream:
        async for line in stream.aiter_lines():
            if not line.startswith("data: "):
                continue
            message = msgspec.json.decode(line[6:])
            if "method" in message:
                asked = message
                answer = {"action": "accept", "content": {"ok": True}}
                reply = {"jsonrpc": "2.0", "id": message["id"], "result": answer}
                await session.client.post("/mcp", json=reply, headers=session.headers)
            else:
                final = message
                break
    assert asked is not None
    assert asked["method"] == "elicitation/create"
    assert asked["params"]["_meta"][RELATED] == {"taskId": task_id}
    assert final is not None
    assert "result" in final, final
    given = msgspec.json.decode(final["result"]["content"][0]["text"])
    assert given == {"ask": {"action": "accept", "content": {"ok": True}}}


async def test_lines_speak_core_tasks_too(gateway: Running) -> None:
    client = await LineClient.connect(gateway.tcp)
    await client.ask("initialize", 1, INITIALIZE)
    params = {"name": "job__confirms", "arguments": {}, "task": {}}
    client.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    task_id = (await client.answer())["result"]["task"]["taskId"]
    client.send(
        {"jsonrpc": "2.0", "id": 3, "method": "tasks/result", "params": {"taskId": task_id}}
    )
    asked = await client.receive()
    while asked.get("method") != "elicitation/create":
        asked = await client.receive()
    answer = {"action": "decline"}
    client.send({"jsonrpc": "2.0", "id": asked["id"], "result": answer})
    final = await client.answer()
    assert final["id"] == 3
    assert msgspec.json.decode(final["result"]["content"][0]["text"]) == {"ask": answer}
    await client.close()


async def test_older_revisions_know_no_tasks(gateway: Running) -> None:
    client = await LineClient.connect(gateway.tcp)
    hello = await client.ask("initialize", 1, {**INITIALIZE, "protocolVersion": "2025-06-18"})
    assert "tasks" not in hello["result"]["capabilities"]
    client.send({"jsonrpc": "2.0", "id": 2, "method": "tasks/list"})
    assert (await client.answer())["error"]["code"] == -32601
    params = {"name": "job__greet", "arguments": {}, "task": {}}
    client.send({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params})
    assert (await client.answer())["result"]["content"][0]["text"] == "Hello, you!"
    await client.close()


async def test_status_notices_reach_a_line_client_whose_task_changes(gateway: Running) -> None:
    client = await LineClient.connect(gateway.tcp)
    await client.ask("initialize", 1, INITIALIZE)
    params = {"name": "job__slow", "arguments": {}, "task": {}}
    client.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    task_id = (await client.answer())["result"]["task"]["taskId"]
    notice = await client.receive()
    while notice["method"] != "notifications/tasks/status":
        notice = await client.receive()
    assert notice["params"]["taskId"] == task_id
    assert notice["params"]["status"] == "completed"
    assert {"createdAt", "lastUpdatedAt", "ttl"} <= set(notice["params"])
    await client.close()


async def test_status_notices_reach_the_sessions_stream(session: Session) -> None:
    async with session.client.stream("GET", "/mcp", headers=session.headers) as stream:
        task_id = (await session.task("job__slow"))["taskId"]
        async for line in stream.aiter_lines():
            if line.startswith("data: ") and b"tasks/status" in line.encode():
                notice = msgspec.json.decode(line[6:])
                break
    assert notice["params"]["taskId"] == task_id
    assert notice["params"]["status"] == "completed"

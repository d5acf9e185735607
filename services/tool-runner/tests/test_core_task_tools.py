"""Core tasks of a legacy server, driven by the runner."""

import asyncio

import msgspec
import pytest

from mcp_proto.contracts.registry import CatalogTool
from mcp_proto.errors import ErrorObject, MeshError
from tool_runner.upstreams.core_tasks import CoreTaskTools
from tool_runner.upstreams.upstream import Offer, Request

RELATED = "io.modelcontextprotocol/related-task"


def offer(support: str, *, tasks: bool = True) -> Offer:
    definition = {"name": "job", "inputSchema": {}, "execution": {"taskSupport": support}}
    return Offer(
        tools=(CatalogTool(name="job", definition=msgspec.Raw(msgspec.json.encode(definition))),),
        capabilities=msgspec.Raw(b'{"tools":{},"tasks":{}}' if tasks else b'{"tools":{}}'),
    )


class Server:
    """Answers as a server with one task does."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.done = asyncio.Event()
        self.done.set()

    async def __call__(self, request: Request) -> bytes | ErrorObject:
        params = msgspec.json.decode(request.params)
        self.asked.append((request.method, params))
        if request.method == "tools/call" and "task" in params:
            return b'{"resultType":"complete","task":{"taskId":"u1","status":"working"}}'
        if request.method == "tasks/result":
            await self.done.wait()
        return msgspec.json.encode(
            {"resultType": "complete", "content": [], "_meta": {RELATED: {"taskId": "u1"}}}
        )


def request(**members: object) -> Request:
    params = {"name": "job", "arguments": {}, "_meta": {"progressToken": 1}, **members}
    return Request(
        method="tools/call", params=msgspec.Raw(msgspec.json.encode(params)), timeout_s=5
    )


def tools(support: str) -> CoreTaskTools:
    found = CoreTaskTools.of(offer(support))
    assert found is not None
    return found


def test_a_server_without_core_tasks_is_left_alone() -> None:
    assert CoreTaskTools.of(offer("required", tasks=False)) is None


async def test_a_tool_that_needs_a_task_gets_one_and_answers_like_any_other() -> None:
    server = Server()
    answer = await tools("required").call(server, request())
    assert isinstance(answer, bytes)
    assert msgspec.json.decode(answer) == {"resultType": "complete", "content": []}
    (called, _), (asked, about) = server.asked
    assert (called, asked) == ("tools/call", "tasks/result")
    assert about["taskId"] == "u1"
    assert about["_meta"] == {"progressToken": 1}


@pytest.mark.parametrize("support", ["optional", "forbidden"])
async def test_other_tools_are_called_plainly_whatever_the_caller_adds(support: str) -> None:
    server = Server()
    await tools(support).call(server, request(task={"ttl": 1}))
    assert [method for method, _ in server.asked] == ["tools/call"]
    assert "task" not in server.asked[0][1]


async def test_a_caller_that_leaves_cancels_the_servers_task() -> None:
    server = Server()
    server.done.clear()
    call = asyncio.create_task(tools("required").call(server, request()))
    async with asyncio.timeout(2):
        while len(server.asked) < 2:  # noqa: ASYNC110 - the scripted server has no event
            await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert server.asked[-1] == ("tasks/cancel", {"taskId": "u1"})


async def test_an_answer_that_is_no_task_is_an_error() -> None:
    async def odd(_request: Request) -> bytes:
        return b'{"resultType":"complete"}'

    with pytest.raises(MeshError, match="no task"):
        await tools("required").call(odd, request())

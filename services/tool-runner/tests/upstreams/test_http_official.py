"""HTTP upstreams against the official SDK's servers, in both eras."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from mcp_proto.errors import ErrorObject
from mcp_proto.versions import Revision


class Sure(BaseModel):
    sure: bool


def official() -> MCPServer:
    server = MCPServer("official", instructions="be kind")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Add."""
        return str(a + b)

    @server.tool()
    async def steps(count: int, ctx: Context) -> str:
        """Report progress."""
        for at in range(count):
            await ctx.report_progress(at + 1, count)
        return "done"

    @server.tool()
    async def sleep(seconds: float) -> str:
        """Sleep."""
        await asyncio.sleep(seconds)
        return "slept"

    @server.tool()
    async def big(size: int) -> str:
        """Answer at length."""
        return "x" * size

    @server.tool()
    async def order(ctx: Context) -> str:
        """Ask in mid-call, as of old."""
        said = await ctx.elicit("Sure?", Sure)
        return f"{said.action} {said.data.sure if said.action == 'accept' else ''}"

    @server.resource("note://one")
    def note() -> str:
        """A note."""
        return "first"

    @server.prompt()
    def hello(name: str) -> str:
        """Greet."""
        return f"hello {name}"

    return server


def app(**options):
    return official().streamable_http_app(host="127.0.0.1", **options)


async def test_upstream_is_found_modern_when_the_official_server_speaks_both_eras(net) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp")
    assert upstream.handshake.revision is Revision.R2026_07_28
    assert {tool.name for tool in net.offer.tools} == {"add", "steps", "sleep", "big", "order"}
    assert net.offer.instructions == "be kind"
    assert len(net.offer.resources) == len(net.offer.prompts) == 1
    assert await net.call(upstream, "add", a=2, b=3) == "5"


async def test_upstream_speaks_legacy_with_sessions_when_it_is_known_to_be_legacy(net) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=True)
    assert upstream.handshake.revision is Revision.R2025_11_25
    assert await net.call(upstream, "add", a=2, b=3) == "5"


@pytest.mark.parametrize("legacy", [False, True])
async def test_caller_hears_progress_in_order_with_its_own_token(net, legacy: bool) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=legacy)
    heard: list[dict] = []

    async def notify(note: bytes) -> None:
        heard.append(msgspec.json.decode(note)["params"])

    text = await net.call(upstream, "steps", count=3, notify=notify, meta={"progressToken": "mine"})
    assert text == "done"
    assert [one["progress"] for one in heard] == [1, 2, 3]
    assert {one["progressToken"] for one in heard} == {"mine"}


@pytest.mark.parametrize("legacy", [False, True])
async def test_other_requests_reach_the_official_server(net, legacy: bool) -> None:
    from tool_runner.upstreams.upstream import Request

    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=legacy)
    for method, params in (
        ("resources/read", {"uri": "note://one"}),
        ("prompts/get", {"name": "hello", "arguments": {"name": "you"}}),
    ):
        raw = msgspec.Raw(msgspec.json.encode(params))
        answer = await upstream.call(Request(method=method, params=raw, timeout_s=5.0))
        assert not isinstance(answer, ErrorObject)
        assert msgspec.json.decode(answer)["resultType"] == "complete"


@pytest.mark.parametrize("options", [{"json_response": True}, {"stateless_http": True}])
@pytest.mark.parametrize("legacy", [False, True])
async def test_calls_work_when_the_server_answers_plainly_or_keeps_no_sessions(
    net, options: dict, legacy: bool
) -> None:
    served = await net.serve(app(**options))
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=legacy)
    assert await net.call(upstream, "add", a=40, b=2) == "42"


@pytest.mark.parametrize("legacy", [False, True])
async def test_many_callers_get_their_own_answers_when_they_call_at_once(net, legacy: bool) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=legacy)
    answers = await asyncio.gather(*(net.call(upstream, "add", a=n, b=n) for n in range(20)))
    assert answers == [str(2 * n) for n in range(20)]


class Sayer:
    """Answers every question at once."""

    timeout_s = 5.0

    def begin(self, method: str, params: msgspec.Raw, answer: Callable[[bytes], None]) -> Any:
        assert method == "elicitation/create"
        assert msgspec.json.decode(params)["message"] == "Sure?"
        answer(b'{"action":"accept","content":{"sure":true}}')
        return lambda: None


async def test_official_tool_that_asks_the_old_way_gets_its_answer(net) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=True, era="legacy")
    assert await net.call(upstream, "order", asks=Sayer()) == "accept True"
    sse = await net.serve(official().sse_app(host="127.0.0.1"))
    old = await net.started(f"http://127.0.0.1:{sse.port}/sse", transport="sse")
    assert await net.call(old, "order", asks=Sayer()) == "accept True"


@pytest.mark.parametrize("legacy", [False, True])
async def test_connection_is_kept_when_calls_are_answered_by_streams(net, legacy: bool) -> None:
    served = await net.serve(app())
    upstream = await net.started(f"http://127.0.0.1:{served.port}/mcp", legacy=legacy)
    made: list[object] = []
    connector = upstream._link._session.connector
    create = connector._create_connection

    async def counted(*args: object, **more: object) -> object:
        made.append(args)
        return await create(*args, **more)

    connector._create_connection = counted
    for n in range(5):
        assert await net.call(upstream, "add", a=n, b=0) == str(n)
        await asyncio.sleep(0.02)  # the end of a stream follows its last message
    assert len(made) <= 1


async def test_legacy_sse_server_serves_calls(net) -> None:
    served = await net.serve(official().sse_app(host="127.0.0.1"))
    upstream = await net.started(f"http://127.0.0.1:{served.port}/sse", transport="sse")
    assert upstream.handshake.revision is Revision.R2025_11_25
    assert await net.call(upstream, "add", a=2, b=3) == "5"
    heard: list[dict] = []

    async def notify(note: bytes) -> None:
        heard.append(msgspec.json.decode(note)["params"])

    await net.call(upstream, "steps", count=2, notify=notify, meta={"progressToken": 7})
    assert [one["progressToken"] for one in heard] == [7, 7]

"""HTTP upstreams against servers that break the rules, and their sessions."""

import asyncio
import json
from typing import Any

import msgspec
import pytest
from starlette.responses import JSONResponse

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.versions import Revision
from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow


async def failing(net: Any, upstream: Any, how: str, **more: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "do", how=how, **more)
    return caught.value


@pytest.mark.parametrize("era", ["old", "new"])
@pytest.mark.parametrize(
    ("how", "kind", "outcome", "words"),
    [
        ("html", ErrorKind.UPSTREAM, Outcome.UNKNOWN, "content type 'text/html'"),
        ("500", ErrorKind.UPSTREAM, Outcome.UNKNOWN, "HTTP status 500: boom"),
        ("429", ErrorKind.OVERLOADED, Outcome.NOT_EXECUTED, "HTTP status 429"),
        ("202", ErrorKind.UPSTREAM, Outcome.UNKNOWN, "took the request for a notification"),
        ("gzip", ErrorKind.UPSTREAM, Outcome.EXECUTED, "compresses"),
        ("only_garbage", ErrorKind.UPSTREAM, Outcome.EXECUTED, "cannot be passed on"),
        ("broken_json", ErrorKind.UPSTREAM, Outcome.EXECUTED, "cannot be passed on"),
        ("half", ErrorKind.UPSTREAM, Outcome.UNKNOWN, "without an answer"),
        ("huge", ErrorKind.TOO_LARGE, Outcome.EXECUTED, "exceeds"),
        ("huge_event", ErrorKind.TOO_LARGE, Outcome.EXECUTED, "exceeds"),
    ],
)
async def test_caller_gets_an_error_with_its_outcome_when_the_answer_is_no_answer(
    net, era: str, how: str, kind: ErrorKind, outcome: Outcome, words: str
) -> None:
    _, url = await getattr(net, era)()
    upstream = await net.started(url)
    error = await failing(net, upstream, how)
    assert (error.kind, error.outcome) == (kind, outcome), error.message
    assert words in error.message
    assert error.message.isprintable()
    assert await net.call(upstream, "echo", a=1) == '{"a": 1}'


@pytest.mark.parametrize("era", ["old", "new"])
async def test_answer_is_found_when_garbage_surrounds_it(net, era: str) -> None:
    _, url = await getattr(net, era)()
    upstream = await net.started(url)
    assert await net.call(upstream, "do", how="garbage") == "after garbage"


async def test_caller_is_told_when_to_come_back_if_the_server_says_it(net) -> None:
    _, url = await net.new()
    error = await failing(net, await net.started(url), "429")
    assert error.retry_after_s == 7


@pytest.mark.parametrize("era", ["old", "new"])
async def test_error_of_the_server_is_passed_on_when_it_has_an_http_status(net, era: str) -> None:
    _, url = await getattr(net, era)()
    upstream = await net.started(url)
    answer = await upstream.call(net.request("do", how="error"))
    assert isinstance(answer, ErrorObject)
    assert answer.code == -32602
    assert answer.data["uri"] == "x"


async def test_modern_call_is_cancelled_by_closing_its_stream_when_time_runs_out(net) -> None:
    server, url = await net.new()
    upstream = await net.started(url)
    error = await failing(net, upstream, "slow", timeout_s=0.3)
    assert (error.kind, error.outcome) == (ErrorKind.DEADLINE, Outcome.UNKNOWN)
    await eventually(lambda: "closed" in server.methods(), timeout_s=5, what="the end")
    assert "notifications/cancelled" not in server.methods()


async def test_legacy_call_is_cancelled_with_our_own_id_when_its_caller_leaves(net) -> None:
    server, url = await net.old()
    upstream = await net.started(url)
    call = asyncio.ensure_future(net.call(upstream, "do", how="slow"))
    async with asyncio.timeout(5):
        await server.arrived.wait()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await eventually(
        lambda: "notifications/cancelled" in server.methods(), timeout_s=5, what="the cancel"
    )
    called = next(one for one in server.seen if one.get("method") == "tools/call")
    cancelled = next(one for one in server.seen if one.get("method") == "notifications/cancelled")
    assert cancelled["params"]["requestId"] == called["id"]


def _without_discover(server: Any) -> Any:
    """Let it refuse every modern request as one whose method it does not know."""
    known = server.post

    async def post(request: Any, message: dict[str, Any]) -> Any:
        method, version = message.get("method"), request.headers.get("mcp-protocol-version")
        if version == "2026-07-28" and method in {"server/discover", "initialize"}:
            error = {"code": -32601, "message": "Method not found"}
            body = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            return JSONResponse(body, status_code=404)
        return await known(request, message)

    server.post = post
    return server


async def test_server_without_discover_that_shakes_hands_is_legacy(net) -> None:
    server, url = await net.old()
    _without_discover(server)
    upstream = await net.started(url)
    assert server.methods()[:2] == ["server/discover", "initialize"]
    assert upstream.handshake.revision is Revision.R2025_11_25
    assert await net.call(upstream, "echo", a=1) == '{"a": 1}'


async def test_server_without_discover_is_modern_when_it_knows_no_initialize(net) -> None:
    server, url = await net.new()
    _without_discover(server)
    upstream = await net.started(url)
    assert upstream.handshake.revision is Revision.R2026_07_28
    assert await net.call(upstream, "echo", a=1) == '{"a": 1}'


@pytest.mark.parametrize(("status", "text"), [(404, ""), (400, "Bad Request: unknown session")])
async def test_lost_session_is_replaced_and_the_call_repeated_once(
    net, status: int, text: str
) -> None:
    server, url = await net.old(lost_status=status, lost_text=text)
    upstream = await net.started(url)
    assert upstream.handshake.revision is Revision.R2025_11_25
    await net.call(upstream, "do", how="lose")
    answers = await asyncio.gather(*(net.call(upstream, "echo", n=n) for n in range(5)))
    assert answers == [json.dumps({"n": n}) for n in range(5)]
    assert server.sessions == ["s1", "gone", "s3"], "one new session for all of them"
    assert net.listener.changed.is_set()


async def test_watched_resources_are_watched_again_in_a_new_session(net) -> None:
    server, url = await net.old()
    upstream = await net.started(url)
    assert await upstream.watch(frozenset({"note://a"})) == {}
    await net.call(upstream, "do", how="lose")
    await net.call(upstream, "echo")
    await eventually(
        lambda: server.methods().count("resources/subscribe") == 2, timeout_s=5, what="a watch"
    )
    async with asyncio.timeout(5):
        assert b"note://a" in await net.listener.updated.get()


async def test_life_ends_when_no_new_session_can_be_had(net) -> None:
    server, url = await net.old()
    upstream = await net.started(url)
    await net.call(upstream, "do", how="lose")
    server.lost_status = 404

    async def refuse(*_: Any) -> Any:
        from starlette.responses import Response

        return Response("no", status_code=404)

    server.post = refuse
    with pytest.raises(MeshError) as caught:
        await net.call(upstream, "echo")
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    async with asyncio.timeout(5):
        assert "ended its session" in await upstream.wait_ended()


async def test_broken_stream_is_resumed_where_the_server_gave_event_ids(net) -> None:
    server, url = await net.old()
    upstream = await net.started(url)
    assert await net.call(upstream, "do", how="poll") == "resumed after e1"
    assert server.resumed == ["e1"]


async def test_session_is_ended_at_the_server_when_the_upstream_closes(net) -> None:
    server, url = await net.old()
    upstream = await net.started(url)
    await upstream.close()
    assert server.seen[-1] == {"method": "DELETE", "session": "s1"}


class Asks:
    """Answers what the server asks."""

    timeout_s = 5.0

    def __init__(self, given: bytes) -> None:
        self.given = given
        self.asked: list[tuple[str, bytes]] = []

    def begin(self, method: str, params: msgspec.Raw, answer: Any) -> Any:
        self.asked.append((method, bytes(params)))
        asyncio.get_running_loop().call_later(0.4, answer, self.given)
        return lambda: None


async def test_question_on_the_stream_of_a_call_reaches_its_caller_and_holds_its_time(net) -> None:
    _server, url = await net.old()
    upstream = await net.started(url)
    asks = Asks(b'{"action":"accept","content":{}}')
    # The answer takes longer than the call's own time.
    said = await net.call(upstream, "do", how="ask", asks=asks, timeout_s=0.2)
    assert json.loads(said) == {"action": "accept", "content": {}}
    assert asks.asked[0][0] == "elicitation/create"


async def test_question_is_refused_when_the_caller_declared_nothing(net) -> None:
    _, url = await net.old()
    upstream = await net.started(url)
    said = await net.call(upstream, "do", how="ask")
    assert "code" in json.loads(said)


async def test_news_on_the_get_stream_reach_the_listener(net) -> None:
    server, url = await net.old(stream=asyncio.Queue())
    await net.started(url)
    note = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    server.stream.put_nowait(f"data: {json.dumps(note)}\n\n".encode())
    async with asyncio.timeout(5):
        await net.listener.changed.wait()


async def test_modern_server_is_listened_to_for_lists_and_resources(net) -> None:
    server, url = await net.new()
    upstream = await net.started(url)
    await eventually(lambda: bool(server.listens), timeout_s=5, what="a listen")
    server.listens[-1].put_nowait(("notifications/tools/list_changed", {}))
    async with asyncio.timeout(5):
        await net.listener.changed.wait()
    assert await upstream.watch(frozenset({"note://a"})) == {}
    server.listens[-1].put_nowait(("notifications/resources/updated", {"uri": "note://a"}))
    async with asyncio.timeout(5):
        assert b"note://a" in await net.listener.updated.get()


async def test_modern_server_gets_its_headers_and_loses_tools_with_invalid_ones(net) -> None:
    def tool(name: str, mark: str, kind: str = "string") -> dict[str, Any]:
        schema = {"type": "object", "properties": {"q": {"type": kind, "x-mcp-header": mark}}}
        return {"name": name, "inputSchema": schema}

    tools = [tool("echo", "Query"), tool("bad", "not a token"), tool("worse", "X", "object")]
    server, url = await net.new(tools=tools)
    upstream = await net.started(url)
    assert [one.name for one in net.offer.tools] == ["echo"]
    await net.call(upstream, "echo", q="grüße")
    head = server.heads[-1]
    assert head["mcp-method"] == "tools/call"
    assert head["mcp-name"] == "echo"
    assert head["mcp-protocol-version"] == "2026-07-28"
    assert head["mcp-param-query"] == "=?base64?Z3LDvMOfZQ==?="
    await net.call(upstream, "echo")
    assert "mcp-param-query" not in server.heads[-1]


async def test_two_callers_with_the_same_token_hear_their_own_progress_only(net) -> None:
    server, url = await net.new()

    async def progress(_request: Any, number: int, params: Any) -> Any:
        token = params["_meta"]["progressToken"]
        who = params["arguments"]["who"]

        async def parts():
            note = {"progressToken": token, "progress": 1, "message": who}
            yield f"data: {json.dumps({'jsonrpc': '2.0', 'method': 'notifications/progress', 'params': note})}\n\n".encode()  # noqa: E501
            other = {"progressToken": token + 1, "progress": 2, "message": "of another"}
            yield f"data: {json.dumps({'jsonrpc': '2.0', 'method': 'notifications/progress', 'params': other})}\n\n".encode()  # noqa: E501
            result = {"resultType": "complete", "content": [{"type": "text", "text": who}]}
            yield f"data: {json.dumps({'jsonrpc': '2.0', 'id': number, 'result': result})}\n\n".encode()  # noqa: E501

        from starlette.responses import StreamingResponse

        return StreamingResponse(parts(), media_type="text/event-stream")

    server.do_progress = progress
    upstream = await net.started(url)

    async def one(who: str) -> list[Any]:
        heard: list[Any] = []

        async def notify(note: bytes) -> None:
            heard.append(msgspec.json.decode(note)["params"])

        meta = {"progressToken": 1}
        said = await net.call(upstream, "do", how="progress", who=who, notify=notify, meta=meta)
        assert said == who
        return heard

    for who, heard in zip("ab", await asyncio.gather(one("a"), one("b")), strict=True):
        assert heard == [{"progressToken": 1, "progress": 1, "message": who}]

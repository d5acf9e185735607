"""What a legacy server asks on the GET stream of its session, where no call is named."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from mcp_proto.errors import ErrorObject
from tool_runner.upstreams.upstream import Request

_WITHIN_S = 5.0


class Asks:
    """Answers what the server asks."""

    timeout_s = 5.0

    def __init__(self, given: bytes) -> None:
        self.given = given
        self.asked: list[str] = []

    def begin(self, method: str, params: msgspec.Raw, answer: Any) -> Any:
        self.asked.append(method)
        answer(self.given)
        return lambda: None


def of(tenant: str, asks: Any, **arguments: object) -> Request:
    params = {"name": "do", "arguments": arguments}
    return Request(
        method="tools/call",
        params=msgspec.Raw(msgspec.json.encode(params)),
        timeout_s=_WITHIN_S,
        tenant=tenant,
        asks=asks,
    )


def text(answer: bytes | ErrorObject) -> Any:
    assert not isinstance(answer, ErrorObject), answer
    return json.loads(msgspec.json.decode(answer)["content"][0]["text"])


async def asking(net: Any) -> tuple[Any, Any]:  # noqa: C901
    """A server whose calls ask on the GET stream, and keep roots as long as the session lasts."""
    server, url = await net.old(stream=asyncio.Queue())
    load = type(net).old.__globals__["scripted"]
    begun: asyncio.Queue[None] = asyncio.Queue()
    server.begun, server.hold, server.roots = begun, asyncio.Event(), None
    numbers = iter(range(100, 1000))

    async def ask(method: str) -> dict[str, Any]:
        number = next(numbers)
        params = {"mode": "form", "message": "?", "requestedSchema": {"type": "object"}}
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        server.stream.put_nowait(load.event(message))
        async with asyncio.timeout(_WITHIN_S):
            while True:
                got = await server.answered.get()
                if got["id"] == number:
                    return got
                server.answered.put_nowait(got)
                await asyncio.sleep(0.001)

    def streamed(number: Any, work: Any) -> Any:
        async def parts() -> AsyncIterator[bytes]:
            begun.put_nowait(None)
            said = await work()
            yield load.event(load.answer(number, json.dumps(said)))

        return load.sse(parts())

    async def do_ask(_request: Any, number: Any, _params: Any) -> Any:
        return streamed(number, lambda: ask("elicitation/create"))

    async def do_held(_request: Any, number: Any, _params: Any) -> Any:
        async def work() -> Any:
            await server.hold.wait()
            return await ask("elicitation/create")

        return streamed(number, work)

    async def do_logs(_request: Any, number: Any, _params: Any) -> Any:
        async def work() -> Any:
            line = {"level": "info", "data": "beside the call"}
            message = {"jsonrpc": "2.0", "method": "notifications/message", "params": line}
            server.stream.put_nowait(load.event(message))
            await server.hold.wait()
            return await ask("elicitation/create")  # behind the line on the same stream

        return streamed(number, work)

    async def list_roots() -> Any:
        got = await ask("roots/list")
        server.roots = got.get("result", {}).get("roots", server.roots)
        return server.roots

    async def do_roots(_request: Any, number: Any, _params: Any) -> Any:
        async def work() -> Any:
            return server.roots if server.roots is not None else await list_roots()

        return streamed(number, work)

    post = server.post
    server.renewals = []

    async def heard(request: Any, message: dict[str, Any]) -> Any:
        if message.get("method") == "notifications/roots/list_changed":
            server.renewals.append(asyncio.ensure_future(list_roots()))
        return await post(request, message)

    server.do_ask, server.do_held, server.do_roots, server.post = do_ask, do_held, do_roots, heard
    server.do_logs = do_logs
    return server, await net.started(url)


async def test_question_reaches_the_only_caller_whose_call_is_under_way(net) -> None:
    _, upstream = await asking(net)
    asks = Asks(b'{"action":"accept"}')
    assert text(await upstream.call(of("a", asks, how="ask")))["result"] == {"action": "accept"}
    assert asks.asked == ["elicitation/create"]


def logging_call(server: Any, upstream: Any, who: str, heard: list[str]) -> "asyncio.Future[Any]":
    async def hear(_note: bytes) -> None:
        heard.append(who)
        server.hold.set()

    meta = {"io.modelcontextprotocol/logLevel": "info"}
    params = {"name": "do", "arguments": {"how": "logs"}, "_meta": meta}
    asked = of(who, Asks(b'{"action":"accept"}'))
    raw = msgspec.Raw(msgspec.json.encode(params))
    return asyncio.ensure_future(
        upstream.call(msgspec.structs.replace(asked, params=raw, notify=hear))
    )


async def test_log_line_reaches_the_only_caller(net) -> None:
    server, upstream = await asking(net)
    heard: list[str] = []
    async with asyncio.timeout(_WITHIN_S):
        await logging_call(server, upstream, "a", heard)
    assert heard == ["a"]


async def test_log_line_reaches_nobody_while_two_callers_run(net) -> None:
    server, upstream = await asking(net)
    heard: list[str] = []
    server.stream, lines = asyncio.Queue(), server.stream
    calls = [logging_call(server, upstream, who, heard) for who in ("a", "b")]
    async with asyncio.timeout(_WITHIN_S):
        await server.begun.get()
        await server.begun.get()
        for _ in calls:
            lines.put_nowait(await server.stream.get())
        server.stream = lines
        server.hold.set()
        await asyncio.gather(*calls)
    assert heard == []


async def test_question_is_refused_with_the_reason_when_two_callers_run_and_then_apart(net) -> None:
    server, upstream = await asking(net)
    ann, bob = Asks(b'{"action":"accept"}'), Asks(b'{"action":"accept"}')
    calls = [
        asyncio.ensure_future(upstream.call(of(who, asks, how="held")))
        for who, asks in (("a", ann), ("b", bob))
    ]
    async with asyncio.timeout(_WITHIN_S):
        await server.begun.get()
        await server.begun.get()
        server.hold.set()
        first = [text(one) for one in await asyncio.gather(*calls)]
    # The second question comes when the first call may have ended: then it is certain.
    assert "several callers" in first[0]["error"]["message"]
    second = await asyncio.gather(
        *(upstream.call(of(who, asks, how="ask")) for who, asks in (("a", ann), ("b", bob)))
    )
    assert [text(one)["result"] for one in second] == [{"action": "accept"}] * 2


async def test_later_caller_is_never_served_with_the_roots_of_an_earlier_one(net) -> None:
    server, upstream = await asking(net)
    ann, bob = (Asks(b'{"roots":[{"uri":"file:///%s"}]}' % who) for who in (b"a", b"b"))

    async def uris(who: str, asks: Any) -> list[str]:
        return [one["uri"] for one in text(await upstream.call(of(who, asks, how="roots")))]

    assert await uris("a", ann) == ["file:///a"]
    assert await uris("a", ann) == ["file:///a"]
    assert len(server.renewals) == 0
    assert await uris("b", bob) == ["file:///b"]
    assert await uris("c", None) == []
    assert await uris("a", ann) == ["file:///a"]
    assert len(server.renewals) == 3
    both = await asyncio.gather(uris("a", ann), uris("b", bob), uris("a", ann), uris("c", None))
    assert both == [["file:///a"], ["file:///b"], ["file:///a"], []]

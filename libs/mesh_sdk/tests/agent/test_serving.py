"""An agent on a real broker: tools, resources, prompts, and handlers that misbehave."""

import asyncio
import threading
import time
from typing import Any

import msgspec
import pytest
from libs.mesh_sdk.tests.agent.rig import DEMO, Frames, ask, call, client, serve

from mesh_chassis.testing.conditions import eventually
from mesh_sdk.agent import (
    Agent,
    Context,
    Image,
    Resource,
    Tool,
    ToolError,
    audit_log,
    auth_required,
    rate_limit,
)

pytestmark = pytest.mark.usefixtures("shared_broker")


class Forecast(msgspec.Struct):
    city: str
    days: int


async def test_agent_answers_a_bare_client_with_text_and_structure(shared_broker) -> None:
    agent = Agent("weather")

    @agent.tool
    async def forecast(city: str, days: int = 3) -> Forecast:
        """Forecast for a city."""
        return Forecast(city, days)

    @agent.tool
    def shout(text: str) -> str:
        return text.upper()

    @agent.tool(name="nothing")
    async def _nothing() -> None: ...

    @agent.tool
    async def picture() -> Any:
        return Image(b"abc")

    @agent.tool(thread=False)
    def numbers() -> list[int]:
        return [1, 2]

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        answer = await call(nc, "weather", "forecast", city="Rome")
        assert answer["structuredContent"] == {"city": "Rome", "days": 3}
        assert msgspec.json.decode(answer["content"][0]["text"]) == answer["structuredContent"]
        said = await call(nc, "weather", "shout", text="hi ☂")
        assert said["content"] == [{"type": "text", "text": "HI ☂"}]
        assert "structuredContent" not in said
        assert (await call(nc, "weather", "nothing"))["content"] == []
        block = (await call(nc, "weather", "picture"))["content"][0]
        assert block == {"type": "image", "data": "YWJj", "mimeType": "image/png"}
        assert (await call(nc, "weather", "numbers"))["content"][0]["text"] == "[1,2]"
        wrong = await call(nc, "weather", "forecast", city="Rome", days="x")
        assert wrong["isError"]
        assert wrong["content"][0]["text"].endswith("days: Expected integer, got string")
        unknown = await ask(nc, "call.weather.storm", {"arguments": {}})
        assert unknown["error"]["code"] == -32602
        method = await ask(nc, "rpc.weather.tools.list", {})
        assert method["error"]["code"] == -32601


async def test_tool_with_a_schema_of_its_own_is_checked_against_it(shared_broker) -> None:
    agent = Agent("old")
    seen: list[Any] = []
    whole = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    agent.add_tool(Tool("named", "By name.", {"a": {"type": "integer"}}, lambda a: seen.append(a)))  # noqa: PLW0108
    agent.add_tool(Tool("whole", "As a dict.", whole, lambda params: seen.append(params)))  # noqa: PLW0108
    async with serve(shared_broker, agent), client(shared_broker) as nc:
        await call(nc, "old", "named", a=1)
        await call(nc, "old", "whole", a=2)
        assert seen == [1, {"a": 2}]
        wrong = await call(nc, "old", "whole", a="x")
        assert wrong["isError"]
        assert "a: " in wrong["content"][0]["text"]


async def test_resources_are_read_by_uri_and_by_template(shared_broker) -> None:
    agent = Agent("stations")

    @agent.resource("w://stations")
    def stations() -> list[str]:
        return ["LSZH"]

    @agent.resource("w://{city}/{day}")
    async def report(city: str, day: int, ctx: Context) -> str:
        return f"{ctx.target} {city} {day + 1}"

    @agent.resource("w://picture", mime_type="image/png")
    def picture() -> bytes:
        return b"\x89PNG"

    agent.add_resource(Resource("fixed", "database", "db://main", {"rows": 3}))

    @agent.completion("w://{city}/{day}", "city")
    def cities(value: str) -> list[str]:
        return [one for one in ("Rome", "Riga", "Oslo") if one.startswith(value)]

    async with serve(shared_broker, agent), client(shared_broker) as nc:

        async def read(uri: str) -> dict[str, Any]:
            return await ask(nc, "rpc.stations.resources.read", {"uri": uri})

        assert (await read("w://stations"))["result"]["contents"] == [
            {"uri": "w://stations", "mimeType": "application/json", "text": '["LSZH"]'}
        ]
        assert (await read("w://Rome/3"))["result"]["contents"][0]["text"] == "w://Rome/3 Rome 4"
        assert (await read("w://picture"))["result"]["contents"][0]["blob"] == "iVBORw=="
        assert (await read("db://main"))["result"]["contents"][0]["text"] == '{"rows":3}'
        assert (await read("w://Rome/x"))["error"]["message"].endswith(
            "day: Expected integer, got string"
        )
        assert "unknown resource" in (await read("w://"))["error"]["message"]
        found = await ask(
            nc,
            "rpc.stations.completion.complete",
            {
                "ref": {"type": "ref/resource", "uri": "w://{city}/{day}"},
                "argument": {"name": "city", "value": "R"},
            },
        )
        assert found["result"]["completion"] == {"values": ["Rome", "Riga"], "total": 2}


async def test_watcher_of_a_resource_is_told_when_it_changed(shared_broker) -> None:
    agent = Agent("watched")

    @agent.resource("w://now")
    def now() -> str:
        return "now"

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        asked = {"uris": ["w://now", "w://never"], "_meta": {"mesh/subscriber": "gateway-1"}}
        verdict = await ask(nc, "rpc.watched.resources.subscribe", asked)
        assert verdict["result"]["refused"] == {"w://never": "unknown resource"}
        heard = await nc.subscribe(f"mesh.v1.{DEMO}.evt.updated.watched")
        await nc.flush()
        await agent.updated("w://now")
        told = await heard.next_msg(5)
        assert msgspec.json.decode(told.data) == {"uri": "w://now"}


async def test_audit_log_writes_who_did_what_and_nothing_of_it(shared_broker, caplog) -> None:
    agent = Agent("audited")
    agent.use(audit_log())

    @agent.tool
    async def act(secret: str) -> None:
        raise ToolError("no")

    caplog.set_level("INFO", "mesh.audit")
    async with serve(shared_broker, agent), client(shared_broker) as nc:
        await call(nc, "audited", "act", secret="hidden")
    (line,) = [one for one in caplog.records if one.name == "mesh.audit"]
    assert line.getMessage() == "tools/call act"
    assert (line.tenant_id, line.agent, line.outcome) == (DEMO, "audited", "tool_error")
    assert "hidden" not in str(vars(line))


async def test_prompts_give_messages_from_text_and_pairs(shared_broker) -> None:
    agent = Agent("prompts")

    @agent.prompt
    def plan(city: str, days: int = 2) -> str:
        """Plan a trip."""
        return f"{days} days in {city}"

    @agent.prompt(name="talk")
    async def _talk() -> list[Any]:
        return ["hello", ("assistant", "hi")]

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        got = await ask(
            nc, "rpc.prompts.prompts.get",
            {"name": "plan", "arguments": {"city": "Rome", "days": "5"}},
        )  # fmt: skip
        assert got["result"]["description"] == "Plan a trip."
        assert got["result"]["messages"] == [
            {"role": "user", "content": {"type": "text", "text": "5 days in Rome"}}
        ]
        talk = await ask(nc, "rpc.prompts.prompts.get", {"name": "talk"})
        assert [one["role"] for one in talk["result"]["messages"]] == ["user", "assistant"]
        lacking = await ask(nc, "rpc.prompts.prompts.get", {"name": "plan"})
        assert lacking["error"]["message"].endswith("city: is required")


async def test_failing_handler_is_opaque_to_its_caller_and_harms_no_other(
    shared_broker, caplog
) -> None:
    agent = Agent("fragile")

    @agent.tool
    async def broken() -> None:
        raise KeyError("secret-of-the-author")

    @agent.tool
    def leaving() -> None:
        raise SystemExit(4)

    @agent.tool
    async def quitting() -> None:
        raise KeyboardInterrupt

    @agent.tool
    async def refusing() -> None:
        raise ToolError("no such city: try Rome")

    @agent.tool
    async def unwritable() -> Any:
        return object()

    @agent.tool
    async def infinite() -> dict[str, Any]:
        return {"none": None, "deep": [{"far": float("-inf")}]}

    @agent.tool
    async def fine() -> str:
        return "fine"

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        for tool in ("broken", "leaving", "quitting", "unwritable", "infinite"):
            answer = await ask(nc, f"call.fragile.{tool}", {})
            assert answer["error"]["code"] == -32603, tool
            assert answer["error"]["message"] == f"tool {tool} failed"
            assert answer["error"]["data"]["outcome"] in {"unknown", "executed"}
            assert "secret" not in str(answer)
        assert "secret-of-the-author" in caplog.text
        assert "NaN and infinity have no JSON form" in caplog.text
        refused = await call(nc, "fragile", "refusing")
        assert refused["isError"]
        assert refused["content"][0]["text"] == "no such city: try Rome"
        assert (await call(nc, "fragile", "fine"))["content"][0]["text"] == "fine"


async def test_handler_that_never_returns_ends_with_the_time_of_its_call(shared_broker) -> None:
    agent, cancelled, release = Agent("slow"), asyncio.Event(), threading.Event()

    @agent.tool
    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    @agent.tool
    def stuck(ctx: Context) -> str:
        while not ctx.cancelled:
            release.wait(0.01)
        return "seen"

    @agent.tool(timeout_s=0.1)
    async def bounded() -> None:
        await asyncio.Event().wait()

    async with serve(shared_broker, agent, threads=1) as live, client(shared_broker) as nc:
        for tool in ("forever", "stuck"):
            headers = {"Mesh-Timeout-Ms": "200"}
            answer = await ask(nc, f"call.slow.{tool}", {}, **headers)
            assert answer["error"]["code"] == -31014, answer
        assert cancelled.is_set()
        await eventually(lambda: live.threads.stuck == 0)
        answer = await ask(nc, "call.slow.bounded", {})
        assert answer["error"]["code"] == -31014
        assert answer["error"]["data"]["outcome"] == "unknown"


async def test_handler_that_blocks_the_loop_is_named_and_moved_to_a_thread(
    shared_broker, caplog
) -> None:
    agent = Agent("blocked")
    where: list[int] = []

    @agent.tool
    async def block(seconds: float) -> str:
        where.append(threading.get_ident())
        time.sleep(seconds)  # noqa: ASYNC251 - the very mistake
        return "done"

    @agent.tool
    async def quick() -> str:
        return "quick"

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        assert (await call(nc, "blocked", "block", seconds=1.2))["content"][0]["text"] == "done"
        assert "tool block blocks the event loop" in caplog.text
        assert "time.sleep(seconds)" in caplog.text
        slow = asyncio.ensure_future(call(nc, "blocked", "block", seconds=1.0))
        await eventually(lambda: len(where) == 2)
        assert (await call(nc, "blocked", "quick"))["content"][0]["text"] == "quick"
        assert not slow.done()
        assert (await slow)["content"][0]["text"] == "done"
        assert where[1] != where[0] == threading.get_ident()


async def test_more_calls_than_slots_are_refused_at_once(shared_broker) -> None:
    agent, release = Agent("narrow"), asyncio.Event()

    @agent.tool
    async def wait() -> str:
        await release.wait()
        return "done"

    async with serve(shared_broker, agent, concurrency=2), client(shared_broker) as nc:
        running = [asyncio.ensure_future(call(nc, "narrow", "wait")) for _ in range(2)]
        await nc.flush()
        answer = await ask(nc, "call.narrow.wait", {})
        assert answer["error"]["code"] == -31016
        assert answer["error"]["data"]["outcome"] == "not_executed"
        release.set()
        assert all(one["content"] for one in await asyncio.gather(*running))


async def test_copies_of_an_agent_share_its_calls(shared_broker) -> None:
    seen: set[str] = set()

    def make(copy: str) -> Agent:
        agent = Agent("twin")

        @agent.tool
        async def who() -> str:
            seen.add(copy)
            return copy

        return agent

    async with (
        serve(shared_broker, make("one"), "agent-1"),
        serve(shared_broker, make("two"), "agent-2"),
        client(shared_broker) as nc,
    ):
        for _ in range(64):
            await call(nc, "twin", "who")
        assert seen == {"one", "two"}


async def test_middleware_refuses_limits_and_changes(shared_broker, caplog) -> None:
    agent = Agent("guarded")
    order: list[str] = []

    async def outer(ctx: Context, call_next: Any) -> Any:
        order.append(f"outer {ctx.target} {ctx.arguments}")
        return {"wrapped": await call_next()}

    async def inner(ctx: Context, call_next: Any) -> Any:
        order.append("inner")
        return await call_next()

    agent.use(outer)
    agent.use(inner)

    @agent.tool
    async def one() -> dict[str, int]:
        order.append("handler")
        return {"a": 1}

    strict, limited = Agent("strict"), Agent("limited")
    strict.use(auth_required())
    limited.use(rate_limit(0.5, burst=2))
    for each in (strict, limited):

        @each.tool
        async def two() -> str:
            return "ok"

    async with (
        serve(shared_broker, agent, "agent-1"),
        serve(shared_broker, strict, "agent-2"),
        serve(shared_broker, limited, "agent-3"),
        client(shared_broker) as nc,
    ):
        answer = await call(nc, "guarded", "one")
        assert answer["structuredContent"] == {"wrapped": {"a": 1}}
        assert order == ["outer one {}", "inner", "handler"]
        refused = await ask(nc, "call.strict.two", {})
        assert refused["error"]["code"] == -31001
        assert refused["error"]["data"]["outcome"] == "not_executed"
        answers = [await ask(nc, "call.limited.two", {}) for _ in range(3)]
        assert ["result" in one for one in answers] == [True, True, False]
        assert answers[2]["error"]["code"] == -31016
        assert answers[2]["error"]["data"]["retryAfterMs"] > 0


async def test_context_tells_progress_and_log_as_far_as_the_caller_wants(shared_broker) -> None:
    agent = Agent("teller")

    @agent.tool
    async def work(ctx: Context) -> str:
        await ctx.progress(1, 2, "half")
        await ctx.debug("fine print")
        await ctx.warning({"careful": True})
        return ctx.request_id

    @agent.tool
    def plain(ctx: Context) -> str:
        ctx.wait(ctx.progress(3))
        return f"{ctx.tenant}/{ctx.agent}"

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        meta = {"progressToken": "t1", "io.modelcontextprotocol/logLevel": "info"}
        heard = await Frames.of(nc, "call.teller.work", {"_meta": meta}, **{"Mesh-Req": "R" * 26})
        assert [one["method"] for one in heard.notes] == [
            "notifications/progress", "notifications/message",
        ]  # fmt: skip
        assert heard.notes[0]["params"] == {
            "progressToken": "t1", "progress": 1.0, "total": 2.0, "message": "half",
        }  # fmt: skip
        assert heard.notes[1]["params"] == {
            "level": "warning", "logger": "teller", "data": {"careful": True},
        }  # fmt: skip
        assert heard.answer["result"]["content"][0]["text"] == "R" * 26
        quiet = await Frames.of(nc, "call.teller.work", {})
        assert quiet.notes == []
        plain_one = await Frames.of(nc, "call.teller.plain", {"_meta": {"progressToken": 7}})
        assert plain_one.notes[0]["params"] == {"progressToken": 7, "progress": 3.0}
        assert plain_one.answer["result"]["content"][0]["text"] == f"{DEMO}/teller"


async def test_idempotency_key_is_refused_rather_than_ignored(shared_broker) -> None:
    agent, ran = Agent("keyless"), list[str]()

    @agent.tool
    async def note(text: str) -> None:
        ran.append(text)

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        params = {"arguments": {"text": "a"}, "_meta": {"mesh/idempotencyKey": "k1"}}
        refused = await ask(nc, "call.keyless.note", params)
        assert refused["error"]["data"]["outcome"] == "not_executed"
        await call(nc, "keyless", "note", text="idempotencyKey")
        assert ran == ["idempotencyKey"]


async def test_agent_comes_back_with_its_broker_and_finishes_what_runs(broker) -> None:
    agent, began, release = Agent("steady"), asyncio.Event(), asyncio.Event()

    @agent.tool
    async def wait() -> str:
        began.set()
        await release.wait()
        return "done"

    @agent.tool
    async def quick() -> str:
        return "quick"

    async with serve(broker, agent) as live:
        await broker.stop()
        await eventually(lambda: not live.service.bus.connected)
        await broker.start()
        await eventually(lambda: live.service.bus.connected, timeout_s=20)
        async with client(broker) as nc:
            assert (await call(nc, "steady", "quick"))["content"][0]["text"] == "quick"
            running = asyncio.ensure_future(call(nc, "steady", "wait"))
            await began.wait()
            drain = asyncio.ensure_future(live.service.drain(accept_s=0.0, drain_s=5.0))
            await eventually(lambda: live.service.draining)
            release.set()
            assert (await running)["content"][0]["text"] == "done"
            assert await drain


async def test_large_result_travels_and_one_beyond_every_edge_is_refused(shared_broker) -> None:
    agent = Agent("large")

    @agent.tool
    async def text(size: int) -> str:
        return "x" * size

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        answer = await call(nc, "large", "text", size=600_000)
        assert len(answer["content"][0]["text"]) == 600_000
        refused = await ask(nc, "call.large.text", {"arguments": {"size": 12_000_000}})
        assert refused["error"]["code"] == -31012
        assert refused["error"]["data"]["outcome"] == "executed"


class _Panic(BaseException):
    """What native code raises when it breaks (pyo3's ``PanicException`` is one)."""


async def test_handler_that_raises_no_ordinary_exception_is_answered_at_once(shared_broker) -> None:
    agent = Agent("weather")

    @agent.tool
    async def on_loop() -> str:
        raise _Panic

    @agent.tool
    def in_thread() -> str:
        raise _Panic

    @agent.tool
    def generator() -> str:
        raise GeneratorExit

    @agent.tool
    async def several(ctx: Context) -> str:
        raise BaseExceptionGroup("several", [_Panic()])

    @agent.tool
    async def unlike_text() -> str:
        raise ToolError(ValueError("an exception as the message"))  # type: ignore[arg-type]

    async with serve(shared_broker, agent), client(shared_broker) as nc:
        for tool in ("on_loop", "in_thread", "generator", "several"):
            answer = await ask(nc, f"call.weather.{tool}", {})
            assert answer["error"]["message"] == f"tool {tool} failed"
            assert answer["error"]["data"]["outcome"] == "unknown"
        told = await call(nc, "weather", "unlike_text")
        assert told["content"] == [{"type": "text", "text": "an exception as the message"}]

"""Tool and llm agents as live processes: tools through a gateway, models over HTTP."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from libs.mesh_agents.tests.rig import hosting
from libs.mesh_sdk.tests.swarm.rig import DEMO

from mcp_proto import subjects
from mcp_proto.agent_runtimes import ModelEntry, Reply
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.testing.conditions import eventually

TOOLS = [
    {"name": "fs__read", "description": "Reads.", "inputSchema": {"type": "object"}},
    {"name": "fs__write", "inputSchema": {"type": "object"}},
]


class Gateway:
    """Answers ``tools/call`` and ``tools/list`` as a gateway does."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.contexts: list[str] = []
        self.cancelled = 0

    async def call(self, call: Call) -> bytes:
        request = json.loads(call.payload)
        self.calls.append(request["params"])
        self.contexts.append(call.envelope.context)
        try:
            await self._tell(call, request["params"])
            result = await self._answer(request["params"])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()

    @staticmethod
    async def _tell(call: Call, params: dict[str, Any]) -> None:
        """Two steps of progress, beside what a step must not stumble over."""
        if not params["arguments"].get("tell"):
            return
        token = params["_meta"].get("progressToken")
        for said in (
            {"progress": 1, "total": 4},
            {"progress": "?"},
            {"progress": 3, "message": "m"},
        ):
            body = {"progressToken": token, **said}
            notice = {"jsonrpc": "2.0", "method": "notifications/progress", "params": body}
            await call.emit(json.dumps(notice).encode())
            await asyncio.sleep(0.1)  # the host tells only so often

    async def list(self, call: Call) -> bytes:
        request = json.loads(call.payload)
        result = {"resultType": "complete", "tools": TOOLS}
        return json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}).encode()

    async def _answer(self, params: dict[str, Any]) -> dict[str, Any]:
        given = params["arguments"]
        if given.get("hang"):
            await asyncio.sleep(100)
        if given.get("denied"):
            raise MeshError(ErrorKind.DENIED, "not for you")
        if given.get("keyless") and "mesh/idempotencyKey" in params["_meta"]:
            member = {"member": "mesh/idempotencyKey"}
            raise MeshError(ErrorKind.PARAMS, "no keys here", data=member)
        if given.get("ask") and "inputResponses" not in params:
            asked = {"q1": {"method": "elicitation/create", "params": {"message": "sure?"}}}
            return {"resultType": "input_required", "inputRequests": asked, "requestState": "s1"}
        structured = {"name": params["name"], "arguments": given, "more": "x" * given.get("n", 0)}
        if given.get("ask"):
            structured |= {"got": params["inputResponses"], "state": params["requestState"]}
        return {
            "resultType": "complete",
            "content": [{"type": "text", "text": "read it"}],
            "structuredContent": structured,
            "isError": bool(given.get("fail")),
        }


@pytest.fixture
async def gateway(connect_bus):
    one = Gateway()
    bus = await connect_bus("gateway", "gateway-1")
    endpoints = [
        Endpoint(bus, subject=subjects.gateway(DEMO, method), handler=handler, queue="w")
        for method, handler in (("tools/call", one.call), ("tools/list", one.list))
    ]
    for endpoint in endpoints:
        await endpoint.start()
    yield one
    for endpoint in endpoints:
        await endpoint.drain(0.0)


@pytest.fixture
async def owner(connect_bus, gateway, tmp_path):
    async with hosting(connect_bus, tmp_path, f"swarm_{tmp_path.name[-30:]}") as one:
        yield one


def value(result):
    return json.loads(bytes(result.structured))


# tool


async def test_tool_agent_calls_with_the_context_of_the_submitter(owner, gateway):
    spawned = await owner.spawn("tool")
    assert (spawned.runtime, spawned.slots) == ("tool", 8)
    payload = {"tool": "fs__read", "arguments": {"path": "a"}}
    result = await owner.do(payload, kind="tool", context="signed-context")
    assert value(result)["arguments"] == {"path": "a"}
    assert result.text == "read it"
    assert result.usage.tool_calls == 1
    assert gateway.contexts == ["signed-context"]
    assert "mesh/idempotencyKey" not in gateway.calls[0]["_meta"]


async def test_step_that_must_not_run_twice_sends_its_idempotency_key(owner, gateway):
    await owner.spawn("tool")
    payload = {"tool": "fs__write", "arguments": {"path": "a"}}
    once = {"kind": "tool", "idempotent": False, "idempotency": "task_1.step"}
    assert (await owner.do(payload, **once)).status == "ok"
    assert gateway.calls[0]["_meta"]["mesh/idempotencyKey"] == "task_1.step"
    payload["arguments"] = {"keyless": True}
    assert (await owner.do(payload, **once)).status == "ok"
    assert "mesh/idempotencyKey" not in gateway.calls[-1]["_meta"]


async def test_tool_that_fails_is_refused_or_asks_ends_the_step_so(owner):
    await owner.spawn("tool", config={"tools": ["fs__*"]})
    failed = await owner.do({"tool": "fs__read", "arguments": {"fail": True}}, kind="tool")
    assert (failed.error.type, failed.error.retryable) == ("tool", True)
    denied = await owner.do({"tool": "fs__read", "arguments": {"denied": True}}, kind="tool")
    assert (denied.error.retryable, denied.error.outcome) == (False, "not_executed")
    assert (await owner.do({"tool": "db__drop"}, kind="tool")).status == "rejected"
    item = owner.item({"tool": "fs__read", "arguments": {"ask": True}}, kind="tool")
    await owner.send(item)
    asked = await owner.result(item.item)
    assert (asked.status, list(asked.requests)) == ("input_required", ["q1"])
    answers = {item.item: {"q1": msgspec.Raw(b'{"action":"accept"}')}}
    await owner.command(answers=answers)
    answered = value(await owner.result(item.item, nth=2))
    assert (answered["got"], answered["state"]) == ({"q1": {"action": "accept"}}, "s1")


async def test_agent_of_one_tool_takes_its_input_as_arguments(owner):
    await owner.spawn("tool", config={"tools": ["fs__read"]})
    assert value(await owner.do({"input": {"path": "b"}}))["arguments"] == {"path": "b"}
    assert value(await owner.do({"input": [1]}))["arguments"] == {"input": [1]}


async def test_cancel_of_a_step_cancels_its_tool_call_at_the_mesh(owner, gateway):
    await owner.spawn("tool")
    item = owner.item({"tool": "fs__read", "arguments": {"hang": True}}, kind="tool")
    await owner.send(item)
    await eventually(lambda: gateway.calls)
    await owner.command(cancel=(item.item,))
    assert (await owner.result(item.item)).error.type == "cancelled"
    await eventually(lambda: gateway.cancelled == 1)


async def test_progress_of_the_tool_is_that_of_its_step(owner, gateway):
    await owner.spawn("tool")
    payload = {"tool": "fs__read", "arguments": {"tell": True}}
    assert (await owner.do(payload, kind="tool")).status == "ok"
    assert gateway.calls[-1]["_meta"]["progressToken"]
    told = [(one.progress, one.total, one.message) for one in owner.progress]
    assert told == [(1, 4, ""), (3, None, "m")]
    # A function may call many tools: how far it is only it knows.
    await owner.spawn("anything", agent="agent_2")
    await owner.do({"input": {"do": "tool"}}, agent="agent_2")
    assert "progressToken" not in gateway.calls[-1]["_meta"]


async def test_large_tool_result_arrives_whole(owner):
    await owner.spawn("tool")
    result = await owner.do({"tool": "fs__read", "arguments": {"n": 2_000_000}}, kind="tool")
    assert len(value(result)["more"]) == 2_000_000


async def test_functions_call_tools_from_the_loop_and_from_a_process(owner, gateway):
    await owner.spawn("anything")
    result = await owner.do({"input": {"do": "tool"}}, context="c1")
    assert value(result)["structured"]["arguments"] == {"path": "a"}
    assert (await owner.do({"input": {"do": "tools"}})).usage.tool_calls == 3
    await owner.spawn("plain", agent="agent_2")
    plain = await owner.do({"input": {"do": "tool"}}, agent="agent_2", context="c2")
    assert value(plain)["structured"]["name"] == "fs__read"
    assert plain.usage.tool_calls == 1
    assert {"c1", "c2"} <= set(gateway.contexts)


# llm


@asynccontextmanager
async def endpoint(*answers: object) -> AsyncGenerator[tuple[str, list[dict[str, Any]]], None]:
    """A chat completions endpoint that gives these answers in turn."""
    asked: list[dict[str, Any]] = []
    left = list(answers)
    over = asyncio.Event()

    async def complete(request: web.Request) -> web.StreamResponse:
        asked.append({"auth": request.headers.get("Authorization"), **await request.json()})
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, web.Response):
            return answer
        if answer is None:
            await over.wait()
        return web.json_response(answer)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/v1", asked
    finally:
        over.set()
        await runner.cleanup()


def said(text: str = "", tool: str = "", arguments: str = "{}", tokens: int = 10) -> object:
    message: dict[str, object] = {"role": "assistant", "content": text}
    if tool:
        function = {"name": tool, "arguments": arguments}
        message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
    return {"choices": [{"message": message}], "usage": {"total_tokens": tokens}}


@asynccontextmanager
async def llm(connect_bus, tmp_path, model: ModelEntry, **config: object):
    async with hosting(connect_bus, tmp_path, "swarm_llm", models=(model,)) as owner:
        spawned = await owner.spawn("llm", config=config)
        assert (spawned.runtime, spawned.model_source) == ("llm", model.name), spawned
        yield owner


async def test_llm_agent_uses_tools_and_counts(connect_bus, gateway, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret-key\n")
    answers = (said(tool="fs__read", arguments='{"path":"a"}'), said("all done"))
    async with endpoint(*answers) as (url, asked):
        entry = ModelEntry(name="local", url=url, model="tiny", key_file=str(key))
        async with llm(connect_bus, tmp_path, entry, tools=["fs__r*"], temperature=0) as owner:
            result = await owner.do({"prompt": "do it", "input": {"n": 1}}, kind="prompt")
    assert (result.status, result.text) == ("ok", "all done")
    assert (result.usage.tokens, result.usage.tool_calls) == (20, 1)
    assert (asked[0]["auth"], asked[0]["model"], asked[0]["temperature"]) == (
        "Bearer secret-key", "tiny", 0,
    )  # fmt: skip
    assert [tool["function"]["name"] for tool in asked[0]["tools"]] == ["fs__read"]
    assert asked[0]["messages"][1]["content"] == 'do it\n\n{"n":1}'
    assert asked[1]["messages"][-1] == {"role": "tool", "tool_call_id": "c1", "content": "read it"}
    assert gateway.calls[0]["arguments"] == {"path": "a"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "trouble",
    [
        web.Response(status=429, headers={"Retry-After": "0"}, text="slow down"),
        web.Response(status=503, text="busy"),
        web.Response(status=200, text="{broken"),
        {"choices": []},
    ],
    ids=["429", "503", "broken JSON", "no choice"],
)
async def test_trouble_of_the_endpoint_is_tried_again(connect_bus, tmp_path, trouble):
    async with endpoint(trouble, said("at last")) as (url, asked):
        entry = ModelEntry(name="local", url=url)
        async with llm(connect_bus, tmp_path, entry) as owner:
            assert (await owner.do({"prompt": "p"}, kind="prompt")).text == "at last"
    assert len(asked) == 2


@pytest.mark.slow
async def test_endpoint_that_does_not_recover_fails_the_step(connect_bus, tmp_path):
    for answer, retryable, word in (
        (web.Response(status=401, text="who are you"), False, "401"),
        (None, True, "did not answer"),
    ):
        async with endpoint(answer) as (url, _):
            entry = ModelEntry(name="local", url=url, retries=0, request_s=0.3)
            async with llm(connect_bus, tmp_path / word, entry) as owner:
                result = await owner.do({"prompt": "p"}, kind="prompt")
                assert (result.error.type, result.error.retryable) == ("model", retryable)
                assert word in result.error.message


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"turns_max": 2}, "2 turns"),
        ({"tokens_max": 15}, "15 tokens"),
        ({"tool_calls_max": 1}, "1 tool calls"),
    ],
)
async def test_budget_ends_a_model_that_does_not_come_to_an_end(
    connect_bus, gateway, tmp_path, limits, words
):
    async with endpoint(said(tool="fs__read")) as (url, _):
        entry = ModelEntry(name="local", url=url, **limits)
        async with llm(connect_bus, tmp_path, entry, tools=["*"]) as owner:
            result = await owner.do({"prompt": "p"}, kind="prompt")
    assert (result.error.type, result.error.retryable) == ("budget", False)
    assert words in result.error.message


async def test_scripted_model_makes_an_agent_without_a_model(connect_bus, gateway, tmp_path):
    replies = (
        Reply(tool="fs__read", arguments="{}"),
        Reply(tool="no__such", arguments="{}"),
        Reply(tool="fs__read", arguments="[]"),
        Reply(text='```json\n{"verdict": "pass"}\n```'),
    )
    entry = ModelEntry(name="script", kind="scripted", replies=replies)
    async with llm(connect_bus, tmp_path, entry, tools=["*"], output="json") as owner:
        result = await owner.do({"input": "go"}, kind="vote")
        assert value(result) == {"verdict": "pass"}
        assert len(gateway.calls) == 1
        nothing = await owner.do({}, kind="prompt")
        assert (nothing.error.type, nothing.error.outcome) == ("input", "not_executed")


async def test_model_of_the_submitter_is_asked_and_its_answer_goes_on(connect_bus, tmp_path):
    entry = ModelEntry(name="client", kind="client")
    async with llm(connect_bus, tmp_path, entry, system="be brief") as owner:
        item = owner.item({"prompt": "say hi"}, kind="prompt")
        await owner.send(item)
        asked = await owner.result(item.item)
        assert asked.status == "input_required"
        request = json.loads(bytes(asked.requests["model"]))
        assert request["method"] == "sampling/createMessage"
        assert request["params"]["systemPrompt"] == "be brief"
        assert request["params"]["messages"][0]["content"]["text"] == "say hi"
        answer = b'{"role":"assistant","content":{"type":"text","text":"hi"},"model":"m"}'
        await owner.command(answers={item.item: {"model": msgspec.Raw(answer)}})
        assert (await owner.result(item.item, nth=2)).text == "hi"


async def test_host_with_models_refuses_sources_that_it_does_not_have(connect_bus, tmp_path):
    entry = ModelEntry(name="client", kind="client")
    async with hosting(connect_bus, tmp_path, "swarm_llm", models=(entry,)) as owner:
        refused = await owner.spawn("llm", config={"modelSource": "other"})
        assert refused.refused == "no_model_source"
        reviewer = await owner.spawn("reviewer", config={"runtime": "llm"})
        assert (reviewer.refused, reviewer.runtime) == ("", "llm")
        with contextlib.suppress(KeyError):
            assert reviewer.model_source == "client"

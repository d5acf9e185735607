"""The contract of a client's transports: one suite, every way to a real gateway."""

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.testing import Surroundings, text_result, tool
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.types.content import TextContent
from mesh_chassis.bus.endpoint import Call as BusCall
from mesh_chassis.testing.conditions import eventually
from mesh_sdk.client import (
    Call,
    ClientSettings,
    Elicitation,
    LogMessage,
    MeshCallError,
    Progress,
    ToolResult,
)

Params = dict[str, msgspec.Raw]


async def echo(_call: BusCall, params: Params) -> bytes:
    arguments = msgspec.json.decode(params["arguments"])
    return text_result(str(arguments.get("text", "")), said=arguments)


async def with_echo(around: Surroundings) -> None:
    await around.put_server("lab", tool("echo"), tool("ask"), tool("slow"), tool("say"))
    around.scripts["lab:echo"] = echo


async def listed(rig: Any, name: str = "lab__echo") -> None:
    """Until the gateway has seen the catalogue."""

    async def seen() -> bool:
        async with rig.client() as client:
            return name in {one.name for one in await client.list_tools()}

    await eventually(seen, timeout_s=10.0)


def note(method: str, **params: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "method": method, "params": params})


async def test_client_calls_a_tool_and_gets_a_typed_result(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    async with rig.client() as client:
        result = await client.call_tool("lab__echo", {"text": "hi"})
        assert result.text == "hi"
        assert result.content == (TextContent(text="hi"),)
        assert result.structured == {"said": {"text": "hi"}}
        assert not result.is_error
        again = await client.call_tool("lab", "echo", {"text": "two"})
        assert again.text == "two"
        assert (await client.call_tool("lab__echo", args={"text": "named"})).text == "named"


async def test_client_lists_what_one_agent_has_under_its_own_names(rig: Any) -> None:
    resource = msgspec.Raw(b'{"uri":"memo://a","name":"a"}')
    await rig.around.put_server("lab", tool("echo"), resources=(resource,))
    rig.around.scripts["lab:resources/read"] = memo
    await listed(rig)
    async with rig.client() as client:
        assert [one.name for one in await client.list_tools("lab")] == ["echo"]
        assert [one.uri for one in await client.list_resources("lab")] == ["memo://a"]
        (contents,) = await client.get_resource("lab", "a")
        assert contents.text == "A"
        with pytest.raises(MeshCallError) as failed:
            await client.get_resource("lab", "nothing")
        assert failed.value.kind is ErrorKind.NOT_FOUND


async def memo(_call: BusCall, params: Params) -> bytes:
    uri = msgspec.json.decode(params["uri"])
    return msgspec.json.encode({"contents": [{"uri": uri, "text": uri[-1].upper()}]})


async def test_error_of_a_call_has_kind_code_outcome_and_data(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)

    async def fails(_call: BusCall, _params: Params) -> bytes:
        raise MeshError(ErrorKind.UPSTREAM, "it broke", data={"upstream": "lab"})

    rig.around.scripts["lab:slow"] = fails
    async with rig.client() as client:
        with pytest.raises(MeshCallError) as failed:
            await client.call_tool("lab__slow")
        assert failed.value.kind == "upstream"
        assert failed.value.code == -31017
        assert failed.value.outcome is Outcome.UNKNOWN
        assert failed.value.data["upstream"] == "lab"
        with pytest.raises(MeshCallError) as missing:
            await client.call_tool("lab__nothing")
        assert missing.value.code == -32602
        assert missing.value.safe_to_repeat
    assert len(rig.around.seen) == 1, "what may have run is not repeated"


async def test_refused_call_is_repeated_only_when_it_did_not_run(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    tries = 0

    async def busy(call: BusCall, params: Params) -> bytes:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise MeshError(
                ErrorKind.UPSTREAM, "not yet", outcome=Outcome.NOT_EXECUTED, retry_after_s=0.02
            )
        return await echo(call, params)

    rig.around.scripts["lab:slow"] = busy
    async with rig.client() as client:
        assert (await client.call_tool("lab__slow", {"text": "x"})).text == "x"
        assert tries == 3
    tries = -100
    async with rig.client(settings=ClientSettings(retry_attempts=2, retry_delay_s=0.0)) as client:
        with pytest.raises(MeshCallError):
            await client.call_tool("lab__slow", {"text": "x"})
        assert tries == -97


async def test_progress_and_log_reach_the_callbacks_of_their_own_call(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)

    async def says(call: BusCall, params: Params) -> bytes:
        meta = msgspec.json.decode(params["_meta"])
        me = msgspec.json.decode(params["arguments"])["me"]
        for step in (1, 2, 3):
            await call.emit(
                note(
                    "notifications/progress",
                    progressToken=meta["progressToken"],
                    progress=step,
                    total=3,
                    message=me,
                )
            )
        await call.emit(note("notifications/message", level="warning", data={"from": me}))
        return text_result(me)

    rig.around.scripts["lab:say"] = says
    async with rig.client() as client:

        async def one(me: str) -> tuple[list[Progress], list[LogMessage]]:
            progress: list[Progress] = []
            logs: list[LogMessage] = []

            async def hear(event: LogMessage) -> None:
                logs.append(event)

            result = await client.call_tool(
                "lab__say", {"me": me}, progress=progress.append, log=hear
            )
            assert result.text == me
            return progress, logs

        for me, (progress, logs) in zip(
            "abcd", await asyncio.gather(*(one(me) for me in "abcd")), strict=True
        ):
            assert [event.progress for event in progress] == [1, 2, 3]
            assert {event.message for event in progress} == {me}
            assert [event.data for event in logs] == [{"from": me}]

        def broken(_event: Progress) -> None:
            raise RuntimeError("mine alone")

        assert (await client.call_tool("lab__say", {"me": "e"}, progress=broken)).text == "e"
        events = [event async for event in client.stream_tool("lab__say", {"me": "f"})]
        assert [type(event) for event in events[:4]] == [Progress] * 3 + [LogMessage]
        assert isinstance(events[-1], ToolResult)
        assert len(events) == 5


async def test_cancelled_wait_cancels_the_call_in_the_mesh(rig: Any, soon: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def hangs(_call: BusCall, _params: Params) -> bytes:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise
        raise AssertionError

    rig.around.scripts["lab:slow"] = hangs
    async with rig.client() as client:
        waiting = asyncio.create_task(client.call_tool("lab__slow"))
        await soon(begun.wait())
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await soon(stopped.wait())
        begun.clear()
        stopped.clear()
        async with client.stream_tool("lab__slow"):
            await soon(begun.wait())
        await soon(stopped.wait())
        assert (await client.call_tool("lab__echo", {"text": "still"})).text == "still"


async def test_call_ends_with_its_time_and_is_cancelled_in_the_mesh(rig: Any, soon: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    stopped = asyncio.Event()

    async def hangs(_call: BusCall, _params: Params) -> bytes:
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()
        raise AssertionError

    rig.around.scripts["lab:slow"] = hangs
    async with rig.client() as client:
        with pytest.raises(MeshCallError) as late:
            await client.call_tool("lab__slow", timeout_s=0.3)
        assert late.value.kind is ErrorKind.DEADLINE
        assert late.value.outcome is Outcome.UNKNOWN
        await soon(stopped.wait())


async def test_questions_of_a_server_are_answered_by_the_handlers(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)

    async def asks(_call: BusCall, params: Params) -> bytes:
        meta = msgspec.json.decode(params["_meta"])
        declared = meta["io.modelcontextprotocol/clientCapabilities"]
        assert set(declared) == {"elicitation", "sampling", "roots"}
        if "inputResponses" in params:
            return text_result("done", **msgspec.json.decode(params["inputResponses"]))
        requests = {
            "name": {
                "method": "elicitation/create",
                "params": {"mode": "form", "message": "Who?", "requestedSchema": {}},
            },
            "line": {
                "method": "sampling/createMessage",
                "params": {
                    "messages": [{"role": "user", "content": {"type": "text", "text": "a line"}}],
                    "maxTokens": 9,
                },
            },
            "where": {"method": "roots/list", "params": {}},
        }
        return msgspec.json.encode(
            {"resultType": "input_required", "inputRequests": requests, "requestState": "s1"}
        )

    rig.around.scripts["lab:ask"] = asks

    async def on_elicit(question: Elicitation) -> dict[str, str]:
        assert question.message == "Who?"
        return {"name": "Ann"}

    async with rig.client(
        on_elicit=on_elicit, on_sample=lambda asked: f"{asked.max_tokens} words", roots=("/srv/a",)
    ) as client:
        result = await client.call_tool("lab__ask")
        assert result.structured["name"] == {"action": "accept", "content": {"name": "Ann"}}
        assert result.structured["line"]["content"]["text"] == "9 words"
        assert result.structured["where"]["roots"][0]["uri"] == "file:///srv/a"


async def test_handler_that_fails_cancels_its_question_alone(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)

    async def asks(_call: BusCall, params: Params) -> bytes:
        if "inputResponses" in params:
            return text_result("done", **msgspec.json.decode(params["inputResponses"]))
        question = {"method": "elicitation/create", "params": {"message": "Who?"}}
        return msgspec.json.encode(
            {"resultType": "input_required", "inputRequests": {"q": question}}
        )

    rig.around.scripts["lab:ask"] = asks

    def on_elicit(_question: Elicitation) -> None:
        raise RuntimeError("no user here")

    async with rig.client(on_elicit=on_elicit) as client:
        result = await client.call_tool("lab__ask")
        assert result.structured == {"q": {"action": "cancel"}}


async def test_batch_answers_every_call_in_order_with_a_bound_on_those_at_once(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    running = most = 0

    async def counted(call: BusCall, params: Params) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.005)
        running -= 1
        return await echo(call, params)

    rig.around.scripts["lab:slow"] = counted
    async with rig.client(settings=ClientSettings(pool_size=4, pool_min=1)) as client:
        calls: list[Any] = [("lab__slow", {"text": str(n)}) for n in range(20)]
        calls.insert(7, Call("lab__nothing"))
        done = await client.batch(calls)
    failed = done.pop(7)
    assert isinstance(failed, MeshCallError)
    assert [one.text for one in done if isinstance(one, ToolResult)] == [str(n) for n in range(20)]
    assert 1 < most <= 4


async def test_many_calls_at_once_get_their_own_answers(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    async with rig.client() as client:
        texts = [f"t{n}" for n in range(40)]
        done = await asyncio.gather(*(client.call_tool("lab__echo", {"text": t}) for t in texts))
        assert [one.text for one in done] == texts


async def test_large_arguments_and_results_pass(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    size = 200_000 if rig.way == "plain-nats" else 3_000_000
    async with rig.client() as client:
        result = await client.call_tool("lab__echo", {"text": "x" * size})
        assert len(result.text) == size
        with pytest.raises(MeshCallError) as refused:
            await client.call_tool("lab__echo", {"text": "x" * 11_000_000})
        assert refused.value.kind is ErrorKind.TOO_LARGE
        assert refused.value.safe_to_repeat


async def test_lists_have_all_pages_and_prompts_and_completions_work(rig: Any) -> None:
    prompt = msgspec.Raw(b'{"name":"greet","arguments":[{"name":"who","required":true}]}')
    await rig.around.put_server(
        "lab", *(tool(f"t{n}") for n in range(250)), prompts=(prompt,),
        capabilities=msgspec.Raw(b'{"completions":{},"prompts":{},"tools":{}}'),
    )  # fmt: skip

    async def get(_call: BusCall, params: Params) -> bytes:
        who = msgspec.json.decode(params["arguments"])["who"]
        message = {"role": "user", "content": {"type": "text", "text": f"Hello {who}"}}
        return msgspec.json.encode({"messages": [message]})

    async def complete(_call: BusCall, params: Params) -> bytes:
        typed = msgspec.json.decode(params["argument"])["value"]
        return msgspec.json.encode({"completion": {"values": [typed + "n"], "hasMore": False}})

    rig.around.scripts["lab:prompts/get"] = get
    rig.around.scripts["lab:completion/complete"] = complete
    await listed(rig, "lab__t249")
    async with rig.client() as client:
        assert len(await client.list_tools()) == 250
        (listed_prompt,) = await client.list_prompts()
        assert listed_prompt.name == "lab__greet"
        filled = await client.get_prompt("lab__greet", {"who": "Ann"})
        assert filled.messages[0].content["text"] == "Hello Ann"
        found = await client.complete("who", "An", prompt="lab__greet")
        assert found.values == ("Ann",)


async def test_changed_lists_are_heard(rig: Any, soon: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    async with rig.client() as client, client.list_changes("tools") as changes:
        await rig.around.put_server("other", tool("more"))
        assert (await soon(anext(changes))).what == "tools"


async def test_arguments_that_are_no_json_are_refused_before_anything_is_sent(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    async with rig.client() as client:
        with pytest.raises(MeshCallError) as refused:
            await client.call_tool("lab__echo", {"text": object()})
        assert refused.value.kind is ErrorKind.PARAMS
        assert refused.value.safe_to_repeat
        assert not rig.around.seen


async def test_client_with_a_key_is_its_owner_and_a_bad_key_is_refused(rig: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    rig.around.allow("good")
    async with rig.client(key="good") as client:
        assert (await client.call_tool("lab__echo", {"text": "mine"})).text == "mine"
    with pytest.raises(MeshCallError) as refused:
        await rig.client(key="bad").open()
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


async def test_client_that_is_not_open_says_so(rig: Any) -> None:
    client = rig.client()
    with pytest.raises(MeshCallError, match="not open"):
        await client.call_tool("lab__echo")
    async with client:
        pass
    with pytest.raises(MeshCallError, match="not open"):
        await client.list_tools()


@pytest.mark.slow
async def test_closing_a_client_fails_what_is_in_flight(rig: Any, soon: Any) -> None:
    await with_echo(rig.around)
    await listed(rig)
    begun = asyncio.Event()

    async def hangs(_call: BusCall, _params: Params) -> bytes:
        begun.set()
        await asyncio.sleep(60)
        raise AssertionError

    rig.around.scripts["lab:slow"] = hangs
    client = rig.client()
    await client.open()
    waiting = asyncio.create_task(client.call_tool("lab__slow"))
    stream = client.stream_tool("lab__slow")
    await soon(begun.wait())
    await soon(client.close())
    if rig.way == "nats":
        await rig.seat.close()  # this connection is the test's
    with pytest.raises(MeshCallError) as lost:
        await soon(waiting)
    assert (lost.value.kind, lost.value.outcome) == (ErrorKind.LOST, Outcome.UNKNOWN)
    with pytest.raises(MeshCallError):
        await soon(stream.result())


async def test_callback_that_hangs_does_not_hold_up_its_call(
    rig: Any, monkeypatch: pytest.MonkeyPatch, soon: Any
) -> None:
    monkeypatch.setattr("mesh_sdk.client.hearing.LINGER_S", 0.05)
    await with_echo(rig.around)
    await listed(rig)

    async def says(call: BusCall, params: Params) -> bytes:
        token = msgspec.json.decode(params["_meta"])["progressToken"]
        await call.emit(note("notifications/progress", progressToken=token, progress=1))
        return text_result("said")

    async def hangs(_event: Progress) -> None:
        await asyncio.sleep(60)

    rig.around.scripts["lab:say"] = says
    async with rig.client() as client:
        assert (await soon(client.call_tool("lab__say", progress=hangs))).text == "said"


async def test_batch_above_the_rate_of_its_connections_slows_down_and_loses_nothing(
    rig: Any,
) -> None:
    await with_echo(rig.around)
    await listed(rig)
    async with rig.client(settings=ClientSettings(pool_size=2, pool_min=1)) as client:
        done = await client.batch([("lab__echo", {"text": str(n)}) for n in range(350)])
    failed = [one for one in done if isinstance(one, MeshCallError)]
    assert not failed, failed[:3]
    assert len(rig.around.seen) == 350

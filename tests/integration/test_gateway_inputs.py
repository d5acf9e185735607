"""Calls that wait for input, modern clients: sealed states, checked repeats, parked calls."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.core import sealed_state
from gateway.testing import (
    ADMIN,
    LineClient,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.codec import encode_notification
from mcp_proto.subjects import Kind
from mcp_proto.types.meta import CLIENT_CAPABILITIES

FORM = {
    "mode": "form",
    "message": "Sure?",
    "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
}
ELICIT = {"method": "elicitation/create", "params": FORM}
URL = {
    "method": "elicitation/create",
    "params": {"mode": "url", "message": "Log in", "url": "https://example.com/x"},
}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
ROOTS = {"method": "roots/list"}
CAN: dict[str, object] = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
ACCEPT = {"action": "accept", "content": {"ok": True}}


def input_required(state: str | None, **members: object) -> bytes:
    body: dict[str, object] = {"resultType": "input_required", **members}
    if state is not None:
        body["requestState"] = state
    return msgspec.json.encode(body)


async def wipe(call, params) -> bytes:
    """Asks once; a server of 2026-07-28 with a state of its own."""
    if "inputResponses" not in params:
        return input_required("own \u00fc state", inputRequests={"ask": ELICIT})
    told = {name: msgspec.json.decode(value) for name, value in params.items()}
    return text_result("done", state=told.get("requestState"), answers=told["inputResponses"])


async def stateless(call, params) -> bytes:
    if "inputResponses" not in params:
        return input_required(None, inputRequests={"ask": ELICIT})
    return text_result("done", state="requestState" in params)


async def later(call, params) -> bytes:
    if "requestState" not in params:
        return input_required("again")
    return text_result("done")


async def parked(call, params) -> bytes:
    return input_required(
        "park-1",
        inputRequests={"ask": ELICIT},
        _meta={"mesh/parked": {"instance": "runner-1"}, "theirs": 1},
    )


async def resumed(call, params) -> bytes:
    await call.emit(encode_notification("notifications/elicitation/complete", b"{}"))
    if "progressToken" in msgspec.json.decode(params["_meta"]):
        body = msgspec.json.encode({"progressToken": 1, "progress": 1})
        await call.emit(encode_notification("notifications/progress", body))
    told = {name: msgspec.json.decode(value) for name, value in params.items()}
    return text_result("resumed", state=told["requestState"], answers=told["inputResponses"])


async def link(call, params) -> bytes:
    return input_required("s", inputRequests={"a": URL})


async def everything(call, params) -> bytes:
    asked = {"a": ELICIT, "b": SAMPLE, "c": ROOTS, "d": URL}
    return input_required("s", inputRequests=asked)


async def strange(call, params) -> bytes:
    return input_required("s", inputRequests={"a": {"method": "tools/call"}})


async def nothing(call, params) -> bytes:
    return input_required(None)


async def flood(call, params) -> bytes:
    return input_required("s", inputRequests={str(n): ELICIT for n in range(33)})


async def escaped(call, params) -> bytes:
    return b'{"resultType":"input_\\u0072equired","requestState":"raw","inputRequests":{}}'


async def read(call, params) -> bytes:
    if "requestState" not in params:
        return input_required("r")
    return msgspec.json.encode({"resultType": "complete", "ttlMs": 5, "contents": []})


SCRIPTS = {
    one.__name__: one
    for one in (
        wipe, stateless, later, parked, link, everything, strange, nothing, flood, escaped
    )
}  # fmt: skip


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        resource = msgspec.Raw(b'{"uri":"note://%b","name":"n"}' % (b"x" * 400))
        await parts.put_server("disk", *(tool(name) for name in SCRIPTS), resources=(resource,))
        parts.scripts |= {f"disk:{name}": script for name, script in SCRIPTS.items()}
        parts.scripts |= {"runner-1:answer": resumed, "disk:resources/read": read}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


async def post(
    client: httpx.AsyncClient, method: str = "tools/call", **params: object
) -> httpx.Response:
    meta: dict[str, Any] = {CLIENT_CAPABILITIES: params.pop("can", CAN)}
    meta |= params.pop("meta", {})  # type: ignore[arg-type]
    if "tool" in params:
        params = {"name": f"disk__{params.pop('tool')}", "arguments": {"path": "/a"}, **params}
    body, headers = modern(method, 1, meta=meta, **params)
    return await client.post("/mcp", content=body, headers=headers)


async def call(client: httpx.AsyncClient, **params: object) -> Any:
    return (await post(client, **params)).json()


async def state_of(client: httpx.AsyncClient, name: str, **params: object) -> str:
    return (await call(client, tool=name, **params))["result"]["requestState"]


async def test_modern_client_gets_the_question_with_a_sealed_state_and_answers_it(
    client: httpx.AsyncClient,
) -> None:
    asked = (await call(client, tool="wipe"))["result"]
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"] == {"ask": ELICIT}
    assert asked["_meta"]["mesh/server"] == "disk"
    assert "own" not in asked["requestState"]
    answers = {"ask": ACCEPT, "unknown": {}}
    done = await call(
        client, tool="wipe", inputResponses=answers, requestState=asked["requestState"]
    )
    structured = done["result"]["structuredContent"]
    assert structured == {"state": "own \u00fc state", "answers": answers}


async def test_arguments_written_anew_are_the_same_call(client: httpx.AsyncClient) -> None:
    first = {"path": "/\u00e4", "n": 1.0, "deep": {"b": [1, None], "a": True}}
    again = b'{ "n":1, "deep":{"a":true, "b":[1.0,null]},"path":"\\/\\u00e4" }'
    state = await state_of(client, "wipe", arguments=first)
    done = await call(
        client,
        tool="wipe",
        arguments=msgspec.Raw(again),
        inputResponses={"ask": ACCEPT},
        requestState=state,
    )
    assert done["result"]["content"][0]["text"] == "done"


async def test_server_that_gave_no_state_gets_none_back(client: httpx.AsyncClient) -> None:
    state = await state_of(client, "stateless")
    done = await call(client, tool="stateless", inputResponses={"ask": ACCEPT}, requestState=state)
    assert done["result"]["structuredContent"] == {"state": False}


async def test_server_that_only_wants_a_repeat_gets_one(client: httpx.AsyncClient) -> None:
    asked = (await call(client, tool="later"))["result"]
    assert "inputRequests" not in asked
    done = await call(client, tool="later", requestState=asked["requestState"])
    assert done["result"]["content"][0]["text"] == "done"


async def test_state_of_a_long_uri_is_bound_to_that_uri(client: httpx.AsyncClient) -> None:
    uri = "note://" + "x" * 400
    asked = (await post(client, "resources/read", uri=uri)).json()["result"]
    assert asked["resultType"] == "input_required"
    done = (
        await post(client, "resources/read", uri=uri, requestState=asked["requestState"])
    ).json()
    assert done["result"]["contents"] == []


async def test_parked_call_is_resumed_at_the_runner_that_holds_it(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    asked = (await call(client, tool="parked"))["result"]
    assert "mesh/parked" not in asked["_meta"]
    assert asked["_meta"]["theirs"] == 1
    done = await call(
        client,
        tool="parked",
        inputResponses={"ask": ACCEPT},
        requestState=asked["requestState"],
    )
    assert done["result"]["structuredContent"] == {"state": "park-1", "answers": {"ask": ACCEPT}}
    subject = around.seen[-1].subject
    assert (subject.kind, subject.names) == (Kind.INST, ("runner-1", "answer"))
    assert around.seen[-1].envelope.context
    assert msgspec.json.decode(around.seen[-1].payload)["params"]["name"] == "parked"


async def test_notifications_of_a_resumed_call_reach_the_client(client: httpx.AsyncClient) -> None:
    state = await state_of(client, "parked")
    response = await post(
        client,
        tool="parked",
        inputResponses={"ask": ACCEPT},
        requestState=state,
        meta={"progressToken": 1},
    )
    assert response.headers["content-type"] == "text/event-stream"
    assert "notifications/progress" in response.text
    assert "elicitation/complete" not in response.text
    assert "resumed" in response.text


async def test_another_gateway_takes_the_answer(
    client: httpx.AsyncClient, around: Surroundings, connect_bus
) -> None:
    state = await state_of(client, "parked")
    async with (
        running_gateway(around, connect_bus, "gateway-2") as second,
        httpx.AsyncClient(base_url=second.http) as other,
    ):
        done = await call(other, tool="parked", inputResponses={"ask": ACCEPT}, requestState=state)
    assert done["result"]["content"][0]["text"] == "resumed"


async def test_answer_for_a_runner_that_is_gone_says_that_the_call_may_have_run(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    state = await state_of(client, "parked")
    await around.stop()
    lost = await call(client, tool="parked", inputResponses={"ask": ACCEPT}, requestState=state)
    assert lost["error"]["code"] == -31010
    assert lost["error"]["data"]["outcome"] == "unknown"


async def refused(client: httpx.AsyncClient, why: str = "another call", **params: object) -> None:
    response = await post(client, inputResponses={"ask": ACCEPT}, **params)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == -32602
    assert why in error["message"]
    assert error["data"]["outcome"] == "not_executed"


async def test_state_of_another_call_is_refused(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    state = await state_of(client, "wipe")
    seen = len(around.seen)
    await refused(client, tool="stateless", requestState=state)
    await refused(client, tool="wipe", arguments={"path": "/b"}, requestState=state)
    await refused(client, tool="wipe", arguments={"path": "/a", "x": 1}, requestState=state)
    await refused(client, tool="wipe", arguments={}, requestState=state)
    await refused(client, tool="wipe", extra=1, requestState=state)
    assert len(around.seen) == seen


async def test_altered_foreign_and_malformed_states_are_refused(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    state = await state_of(client, "wipe")
    seen = len(around.seen)
    middle = len(state) // 2
    other = "A" if state[middle] != "A" else "B"
    for token in (
        "",
        "own \u00fc state",
        state[:middle] + other + state[middle + 1 :],
        state + "A",
    ):
        await refused(client, "cannot be opened", tool="wipe", requestState=token)
    await refused(client, "", tool="wipe", requestState=7)
    await refused(client, "", tool="wipe", requestState=None)
    assert len(around.seen) == seen


async def test_state_hidden_behind_an_escaped_key_is_refused(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    body, headers = modern("tools/call", 1, name="disk__wipe", arguments={}, requestState="raw")
    body = body.replace(b'"requestState"', b'"request\\u0053tate"')
    answer = (await client.post("/mcp", content=body, headers=headers)).json()
    assert answer["error"]["code"] == -32602
    assert not around.seen


async def test_state_of_another_principal_or_tenant_is_refused(
    gateway: Running, around: Surroundings, client: httpx.AsyncClient
) -> None:
    around.allow("ann", ADMIN)
    around.allow("far", ADMIN, tenant="far-tenant", principal="owner-of-ann")
    for credential in ("ann", "far"):
        headers = {"authorization": f"Bearer {credential}"}
        async with httpx.AsyncClient(base_url=gateway.http, headers=headers) as other:
            theirs = await state_of(other, "wipe")
            await refused(client, tool="wipe", requestState=theirs)
            await refused(other, tool="wipe", requestState=await state_of(client, "wipe"))


async def test_expired_state_is_refused_with_its_reason(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed_state, "STATE_TTL_MS", 0)
    state = await state_of(client, "wipe")
    await refused(client, "expired", tool="wipe", requestState=state)


@pytest.mark.parametrize(
    ("name", "can", "needed"),
    [
        ("wipe", {}, {"elicitation": {"form": {}}}),
        ("wipe", {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}),
        ("link", {"elicitation": {}}, {"elicitation": {"url": {}}}),
        (
            "everything",
            {},
            {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}},
        ),
        ("everything", CAN, {"elicitation": {"url": {}}}),
    ],
)
async def test_question_that_the_client_did_not_declare_becomes_a_missing_capability(
    client: httpx.AsyncClient, name: str, can: dict[str, object], needed: object
) -> None:
    response = await post(client, tool=name, can=can)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == -32021
    assert error["data"]["requiredCapabilities"] == needed
    assert error["data"]["outcome"] == "unknown"


async def test_parked_call_is_abandoned_when_its_client_cannot_be_asked(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    abandoned = around.park("park-1")
    assert (await call(client, tool="parked", can={}))["error"]["code"] == -32021
    async with asyncio.timeout(5):
        await abandoned.wait()


async def test_client_may_say_that_no_answer_will_come(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    abandoned = around.park("park-1")
    state = await state_of(client, "parked")
    seen = len(around.seen)
    over = await call(client, tool="parked", requestState=state, meta={"mesh/abandon": True})
    assert over["result"] == {"resultType": "complete"}
    async with asyncio.timeout(5):
        await abandoned.wait()
    assert len(around.seen) == seen


@pytest.mark.parametrize("name", ["strange", "nothing", "flood"])
async def test_server_that_asks_for_what_cannot_be_relayed_has_failed(
    client: httpx.AsyncClient, name: str
) -> None:
    error = (await call(client, tool=name))["error"]
    assert error["code"] == -31017
    assert error["data"]["server"] == "disk"


async def test_question_spelled_with_escapes_is_sealed_too(client: httpx.AsyncClient) -> None:
    asked = (await call(client, tool="escaped"))["result"]
    assert asked["resultType"] == "input_required"
    assert asked["requestState"] != "raw"


async def test_modern_line_client_answers_on_its_line(gateway: Running) -> None:
    peer = await LineClient.connect(gateway.tcp)
    body = msgspec.json.decode(
        modern("tools/call", 1, name="disk__wipe", meta={CLIENT_CAPABILITIES: CAN})[0]
    )
    peer.send(body)
    asked = (await peer.answer())["result"]
    body["params"] |= {"inputResponses": {"ask": ACCEPT}, "requestState": asked["requestState"]}
    peer.send({**body, "id": 2})
    done = await peer.answer()
    assert done["id"] == 2
    assert done["result"]["structuredContent"]["answers"] == {"ask": ACCEPT}
    await peer.close()


async def test_plain_post_gets_mere_repeats_but_no_questions(client: httpx.AsyncClient) -> None:
    done = await client.post("/tools/disk__later", json={})
    assert done.json()["content"][0]["text"] == "done"
    refused = await client.post("/tools/disk__wipe", json={})
    assert refused.status_code == 400
    assert refused.json()["error"]["data"]["requiredCapabilities"] == {"elicitation": {"form": {}}}

"""Calls that wait for input, legacy clients: asked by real requests on the stream of a POST."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.e2e.legacy_http import EVERYTHING, Session

from gateway.config import LimitsConfig
from gateway.testing import (
    ADMIN,
    Running,
    Surroundings,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.codec import encode_notification

pytestmark = pytest.mark.slow

FORM = {
    "mode": "form",
    "message": "Sure?",
    "requestedSchema": {"type": "object", "properties": {"ok": {"type": "boolean"}}},
}
ELICIT = {"method": "elicitation/create", "params": FORM}
URL = {"mode": "url", "message": "Log in", "url": "https://example.com/x"}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 5}}
ROOTS = {"method": "roots/list"}
ACCEPT = {"action": "accept", "content": {"ok": True}}


def input_required(state: str | None = "s", **members: object) -> bytes:
    return msgspec.json.encode({"resultType": "input_required", "requestState": state, **members})


def told(params: dict[str, msgspec.Raw]) -> Any:
    return msgspec.json.decode(params["inputResponses"])


async def wipe(call, params) -> bytes:
    if "inputResponses" not in params:
        return input_required(inputRequests={"ask": ELICIT})
    return text_result("done", answers=told(params))


async def everything(call, params) -> bytes:
    if "inputResponses" not in params:
        return input_required(inputRequests={"a": ELICIT, "b": SAMPLE, "c": ROOTS})
    return text_result("done", answers=told(params))


async def twice(call, params) -> bytes:
    state = msgspec.json.decode(params.get("requestState", b'"0"'))
    if state == "2":
        return text_result("done", answers=told(params))
    return input_required(str(int(state) + 1), inputRequests={"ask": ELICIT})


async def endless(call, params) -> bytes:
    return input_required(inputRequests={"ask": ELICIT})


async def pausing(call, params) -> bytes:
    state = int(msgspec.json.decode(params.get("requestState", b'"0"')))
    return input_required(str(state + 1)) if state < 3 else text_result("done")


async def parked(call, params) -> bytes:
    return input_required(
        "park-1",
        inputRequests={"ask": ELICIT, "say": SAMPLE},
        _meta={"mesh/parked": {"instance": "runner-1"}},
    )


async def resumed(call, params) -> bytes:
    body = b'{"elicitationId":"e1"}'
    await call.emit(encode_notification("notifications/elicitation/complete", body))
    return text_result("resumed", answers=told(params))


async def link(call, params) -> bytes:
    if "inputResponses" not in params:
        asked = {"method": "elicitation/create", "params": URL}
        return input_required(inputRequests={"ask": asked})
    return text_result("done", answers=told(params))


async def asks_roots(call, params) -> bytes:
    if "inputResponses" not in params:
        return input_required(inputRequests={"r": ROOTS})
    return text_result("done", answers=told(params))


async def declared(call, params) -> bytes:
    meta = msgspec.json.decode(params["_meta"])
    return text_result("x", can=meta["io.modelcontextprotocol/clientCapabilities"])


async def forever(call, params) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


SCRIPTS = {
    one.__name__: one
    for one in (
        wipe, everything, twice, endless, pausing, parked, link, asks_roots, declared, forever
    )
}  # fmt: skip


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        await parts.put_server("disk", *(tool(name) for name in SCRIPTS))
        parts.scripts |= {f"disk:{name}": script for name, script in SCRIPTS.items()}
        parts.scripts["runner-1:answer"] = resumed
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


@pytest_asyncio.fixture
async def session(client: httpx.AsyncClient) -> Session:
    return await Session.open(client)


def answers_of(message: Any) -> Any:
    return message["result"]["structuredContent"]["answers"]


async def test_legacy_client_is_asked_on_the_stream_of_its_call_and_answers_by_post(
    session: Session,
) -> None:
    async with session.call("disk__wipe", 4) as events:
        assert events.stream
        asked = await events.next()
        assert asked["method"] == "elicitation/create"
        assert asked["params"]["message"] == "Sure?"
        assert asked["params"]["_meta"]["mesh/server"] == "disk"
        assert asked["id"].startswith("gateway-1.")
        taken = await session.post({"id": asked["id"], "result": ACCEPT})
        assert (taken.status_code, taken.content) == (202, b"")
        done = await events.next()
        assert done["id"] == 4
        assert answers_of(done) == {"ask": ACCEPT}
        assert "resultType" not in done["result"]
        assert await events.next() is None


async def test_all_questions_of_a_round_are_asked_at_once_and_answered_in_any_order(
    session: Session,
) -> None:
    roots = {"roots": [{"uri": "file:///a"}]}
    sampled = {"role": "assistant", "content": {"type": "text", "text": "hi"}, "model": "m"}
    by_method = {
        "elicitation/create": ACCEPT,
        "sampling/createMessage": sampled,
        "roots/list": roots,
    }
    async with session.call("disk__everything") as events:
        asked = [await events.next() for _ in range(3)]
        assert "mesh_open_questions 3" in (await session.client.get("/metrics")).text
        for one in reversed(asked):
            await session.post({"id": one["id"], "result": by_method[one["method"]]})
        assert answers_of(await events.last()) == {"a": ACCEPT, "b": sampled, "c": roots}
    assert "mesh_open_questions 0" in (await session.client.get("/metrics")).text


async def test_server_may_ask_again_and_may_want_mere_repeats(session: Session) -> None:
    async with session.call("disk__twice") as events:
        for _ in range(2):
            asked = await events.next()
            await session.post({"id": asked["id"], "result": ACCEPT})
        assert answers_of(await events.last()) == {"ask": ACCEPT}
    assert (await session.ask("disk__pausing"))["result"]["content"][0]["text"] == "done"


async def test_server_that_never_stops_asking_is_given_up_after_ten_rounds(
    session: Session,
) -> None:
    async with session.call("disk__endless") as events:
        for _ in range(10):
            asked = await events.next()
            await session.post({"id": asked["id"], "result": ACCEPT})
        error = (await events.next())["error"]
    assert error["code"] == -31017
    assert "10 times" in error["message"]
    assert error["data"]["outcome"] == "unknown"


async def test_answer_posted_to_another_gateway_reaches_the_call(
    session: Session, around: Surroundings, connect_bus
) -> None:
    large = {**ACCEPT, "content": {"text": "x" * 2_000_000}}
    async with (
        running_gateway(around, connect_bus, "gateway-2") as second,
        httpx.AsyncClient(base_url=second.http) as other,
    ):
        elsewhere = session.at(other)
        for answer in (ACCEPT, large):
            async with session.call("disk__wipe") as events:
                asked = await events.next()
                progress = {"progressToken": asked["id"], "progress": 1}
                told = await elsewhere.post(
                    {"method": "notifications/progress", "params": progress}
                )
                assert told.status_code == 202
                taken = await elsewhere.post({"id": asked["id"], "result": answer})
                assert taken.status_code == 202
                assert answers_of(await events.last()) == {"ask": answer}


async def test_answer_for_a_gateway_that_is_not_there_is_taken_and_dropped(
    session: Session,
) -> None:
    taken = await session.post({"id": "gateway-9.abc", "result": ACCEPT})
    assert taken.status_code == 202


async def test_nobody_else_answers_a_question(
    gateway: Running, around: Surroundings, session: Session, client: httpx.AsyncClient
) -> None:
    around.allow("ann", ADMIN)
    theirs = await Session.open(client, authorization="Bearer ann")
    same_user = await Session.open(client)
    async with session.call("disk__wipe") as events:
        asked = await events.next()
        bad = {"id": asked["id"], "result": {"action": "accept", "content": {"ok": "evil"}}}
        for other in (theirs, same_user):
            assert (await other.post(bad)).status_code == 202
        stolen = Session(client, {**theirs.headers, **_id(session)})
        assert (await stolen.post(bad)).status_code == 404
        for guess in (asked["id"][:-1], "gateway-1.x", 1, None):
            assert (await session.post({**bad, "id": guess})).status_code in {202, 400}
        await session.post({"id": asked["id"], "result": ACCEPT})
        assert answers_of(await events.last()) == {"ask": ACCEPT}


def _id(session: Session) -> dict[str, str]:
    return {"mcp-session-id": session.headers["mcp-session-id"]}


@pytest.mark.parametrize(("code", "action"), [(-1, "decline"), (-32601, "cancel")])
async def test_error_as_answer_to_an_elicitation_declines_or_cancels(
    session: Session, code: int, action: str
) -> None:
    async with session.call("disk__wipe") as events:
        asked = await events.next()
        await session.post({"id": asked["id"], "error": {"code": code, "message": "no"}})
        assert answers_of(await events.last()) == {"ask": {"action": action}}


async def test_error_as_answer_to_roots_ends_the_call_of_a_modern_server(
    session: Session,
) -> None:
    async with session.call("disk__asks_roots") as events:
        asked = await events.next()
        await session.post({"id": asked["id"], "error": {"code": -7, "message": "no disk"}})
        error = (await events.last())["error"]
    assert error["data"]["clientError"] == {"code": -7, "message": "no disk"}
    assert error["data"]["outcome"] == "unknown"


async def test_error_as_answer_reaches_a_legacy_server_as_an_error(
    session: Session,
) -> None:
    async with session.call("disk__parked") as events:
        for _ in range(2):
            asked = await events.next()
            answer: dict[str, object] = {"result": ACCEPT}
            if asked["method"] == "sampling/createMessage":
                answer = {"error": {"code": -1, "message": "User rejected"}}
            await session.post({"id": asked["id"], **answer})
        complete = await events.next()
        assert complete["method"] == "notifications/elicitation/complete"
        assert complete["params"] == {"elicitationId": "e1"}
        refused = {"_meta": {"mesh/error": {"code": -1, "message": "User rejected"}}}
        assert answers_of(await events.last()) == {"ask": ACCEPT, "say": refused}


async def test_client_that_never_answers_gets_a_clear_error_and_the_server_is_told(
    around: Surroundings, connect_bus
) -> None:
    abandoned = around.park("park-1")
    limits = LimitsConfig(input_s=0.2)
    async with (
        running_gateway(around, connect_bus, limits=limits) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as client,
    ):
        session = await Session.open(client)
        async with session.call("disk__parked") as events:
            ids = {(await events.next())["id"] for _ in range(2)}
            withdrawn = [await events.next() for _ in range(2)]
            assert {one["method"] for one in withdrawn} == {"notifications/cancelled"}
            assert {one["params"]["requestId"] for one in withdrawn} == ids
            error = (await events.next())["error"]
        assert error["code"] == -31014
        assert "elicitation/create, sampling/createMessage of server disk" in error["message"]
        assert error["data"]["outcome"] == "unknown"
        async with asyncio.timeout(5):
            await abandoned.wait()
        late = await session.post({"id": ids.pop(), "result": ACCEPT})
        assert late.status_code == 202


async def test_progress_of_the_client_extends_its_time(around: Surroundings, connect_bus) -> None:
    limits = LimitsConfig(input_s=0.4)
    async with (
        running_gateway(around, connect_bus, limits=limits) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as client,
    ):
        session = await Session.open(client)
        async with session.call("disk__wipe") as events:
            asked = await events.next()
            token = asked["params"]["_meta"]["progressToken"]
            for step in range(6):
                await asyncio.sleep(0.1)
                body = {"progressToken": token, "progress": step}
                await session.post({"method": "notifications/progress", "params": body})
            await session.post({"id": asked["id"], "result": ACCEPT})
            assert answers_of(await events.last()) == {"ask": ACCEPT}


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_cancel_ends_a_call_that_waits_for_its_client(
    session: Session, around: Surroundings, connect_bus, elsewhere: bool
) -> None:
    abandoned = around.park("park-1")
    async with contextlib.AsyncExitStack() as stack:
        where = session
        if elsewhere:
            second = await stack.enter_async_context(
                running_gateway(around, connect_bus, "gateway-2")
            )
            other = await stack.enter_async_context(httpx.AsyncClient(base_url=second.http))
            where = session.at(other)
        async with session.call("disk__parked", 9) as events:
            asked = [await events.next() for _ in range(2)]
            body = {"method": "notifications/cancelled", "params": {"requestId": 9}}
            assert (await where.post(body)).status_code == 202
            withdrawn = [await events.next() for _ in range(2)]
            assert [one["params"]["requestId"] for one in withdrawn] == [one["id"] for one in asked]
            assert "cancelled" in (await events.last())["error"]["message"]
        async with asyncio.timeout(5):
            await abandoned.wait()


async def test_cancel_at_another_gateway_reaches_the_server(
    session: Session, around: Surroundings, connect_bus, gateway: Running
) -> None:
    async with (
        running_gateway(around, connect_bus, "gateway-2") as second,
        httpx.AsyncClient(base_url=second.http) as other,
    ):
        calling = asyncio.ensure_future(session.ask("disk__forever"))
        await around.called(1)
        elsewhere = session.at(other)
        stranger = await Session.open(other)
        body = {"method": "notifications/cancelled", "params": {"requestId": 1}}
        await stranger.post(body)
        await elsewhere.post(body)
        assert "cancelled" in (await calling)["error"]["message"]
        call = around.seen[0]
        async with asyncio.timeout(5):
            await call.cancelled.wait()


async def test_lost_stream_is_no_cancel_and_the_answer_still_resumes_the_call(
    session: Session, around: Surroundings
) -> None:
    async with session.call("disk__wipe") as events:
        asked = await events.next()
    await session.post({"id": asked["id"], "result": ACCEPT})
    await around.called(2)
    assert told(msgspec.json.decode(around.seen[1].payload, type=_Sent).params) == {"ask": ACCEPT}


class _Sent(msgspec.Struct):
    params: dict[str, msgspec.Raw]


async def test_end_of_the_session_ends_its_questions(
    session: Session, around: Surroundings
) -> None:
    async with session.call("disk__wipe") as events:
        await events.next()
        ended = await session.client.delete("/mcp", headers=session.headers)
        assert ended.status_code == 204
        assert answers_of(await events.last()) == {"ask": {"action": "cancel"}}


async def test_client_without_event_streams_is_told_that_it_cannot_be_asked(
    session: Session,
) -> None:
    error = (await session.ask("disk__wipe", accept="application/json"))["error"]
    assert "event stream" in error["message"]
    assert error["code"] == -32602


@pytest.mark.parametrize(
    ("revision", "can", "seen"),
    [
        ("2024-11-05", EVERYTHING, {"sampling": {}, "roots": {}}),
        ("2025-03-26", EVERYTHING, {"sampling": {}, "roots": {}}),
        ("2025-06-18", EVERYTHING, {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}),
        ("2025-11-25", EVERYTHING, EVERYTHING),
        ("2025-11-25", {}, {}),
    ],
)
async def test_server_sees_the_capabilities_that_this_client_declared_and_its_revision_knows(
    client: httpx.AsyncClient, revision: str, can: object, seen: object
) -> None:
    session = await Session.open(client, revision, can)
    assert (await session.ask("disk__declared"))["result"]["structuredContent"]["can"] == seen


@pytest.mark.parametrize(
    ("name", "revision", "can"),
    [
        ("wipe", "2025-03-26", EVERYTHING),
        ("wipe", "2025-11-25", {}),
        ("link", "2025-06-18", EVERYTHING),
        ("link", "2025-11-25", {"elicitation": {}}),
    ],
)
async def test_client_that_cannot_be_asked_gets_a_clear_error(
    client: httpx.AsyncClient, name: str, revision: str, can: object
) -> None:
    error = (await (await Session.open(client, revision, can)).ask(f"disk__{name}"))["error"]
    assert error["code"] == -32602
    assert "elicitation" in error["data"]["requiredCapabilities"]
    if name == "link":
        assert error["data"]["elicitations"] == [URL]


async def test_link_reaches_a_client_that_opens_links(session: Session) -> None:
    async with session.call("disk__link") as events:
        asked = await events.next()
        assert asked["params"]["url"] == URL["url"]
        assert asked["params"]["elicitationId"]
        await session.post({"id": asked["id"], "result": {"action": "accept"}})
        assert answers_of(await events.last()) == {"ask": {"action": "accept"}}


async def test_form_of_2025_06_18_has_no_mode(client: httpx.AsyncClient) -> None:
    session = await Session.open(client, "2025-06-18")
    async with session.call("disk__wipe") as events:
        asked = await events.next()
        assert "mode" not in asked["params"]
        await session.post({"id": asked["id"], "result": ACCEPT})
        await events.last()


async def test_notifications_of_a_client_are_taken(session: Session) -> None:
    for method in ("roots/list_changed", "initialized", "progress", "cancelled", "what"):
        for params in ({}, {"requestId": 77}, {"progressToken": 5, "progress": 1}):
            taken = await session.post({"method": f"notifications/{method}", "params": params})
            assert taken.status_code == 202


async def test_answers_for_other_gateways_count_against_the_rate(
    around: Surroundings, connect_bus
) -> None:
    limits = LimitsConfig(rate_per_second=0.1, burst=3)
    async with (
        running_gateway(around, connect_bus, limits=limits) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as client,
    ):
        session = await Session.open(client)
        statuses = [
            (await session.post({"id": f"gateway-9.{n}", "result": {}})).status_code
            for n in range(3)
        ]
        assert statuses == [202, 202, 429]
        own = await session.post({"id": "gateway-1.x", "result": {}})
        assert own.status_code == 202

"""Bad input at every edge: the right error, the connection goes on, nobody else notices.

All tests run beside a canary, another client whose calls must go through meanwhile; and none may
cost a service its process.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import pytest_asyncio
from tests.e2e import wire
from tests.e2e.hostile import MESSAGES, REQUESTS, TOO_LARGE, TOO_LONG, Message, Wanted
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import MODERN, Lines, envelope, http, lines, post_mcp, request_bytes

pytestmark = pytest.mark.usefixtures("canary", "steady")

Open = Callable[[], AbstractAsyncContextManager[Lines]]
CANARY_PAUSE_S = 0.02
CANARY_SLOWEST_S = 1.0
GATEWAY_MAX_MB = 300
LENGTH_AND_CHUNKS = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"


def _named(value: object) -> str | None:
    return value.name if isinstance(value, Message | Wanted) else None


@pytest_asyncio.fixture
async def canary(mesh: RunningMesh) -> AsyncIterator[None]:
    """Another client: calls all the time, on a connection of its own."""
    slowest = 0.0
    calls = 0
    end = asyncio.Event()

    async def sing() -> None:
        nonlocal slowest, calls
        async with lines(mesh.tcp) as peer:
            while not end.is_set():
                began = time.monotonic()
                result = await peer.call("echo", message=f"canary {calls}")
                slowest = max(slowest, time.monotonic() - began)
                assert result["structuredContent"] == {"message": f"canary {calls}"}
                assert not peer.others
                calls += 1
                await asyncio.sleep(CANARY_PAUSE_S)

    task = asyncio.create_task(sing())
    yield
    end.set()
    await task
    assert calls > 0
    assert slowest < CANARY_SLOWEST_S


@pytest.fixture(params=["tcp", "stdio"])
def edge(request: pytest.FixtureRequest, mesh: RunningMesh) -> Open:
    if request.param == "tcp":
        return lambda: lines(mesh.tcp)
    return lambda: wire.stdio_lines(mesh)


def check(answer: dict[str, Any], code: int, request_id: object) -> None:
    assert answer["id"] == request_id
    assert type(answer["id"]) is type(request_id)
    if code == 0:
        assert answer["result"]["isError"] is True
        return
    assert answer["error"]["code"] == code, answer
    assert answer["error"]["message"]
    assert len(json.dumps(answer)) < 12_000


# Byte streams --------------------------------------------------------------------------------


async def test_line_edge_answers_every_bad_message_and_goes_on(edge: Open) -> None:
    async with edge() as peer:
        await peer.initialize()
        for message in MESSAGES:
            await peer.send(message.data + b"\n")
            answer = await peer.read()
            check(answer, message.code, message.id)
            assert answer["error"]["data"]["outcome"] == "not_executed", message.name
            assert (await peer.request("ping"))["result"] is not None, message.name
        assert not peer.others


async def test_line_edge_answers_every_impossible_request_and_goes_on(edge: Open) -> None:
    async with edge() as peer:
        await peer.initialize()
        for number, wanted in enumerate(REQUESTS):
            await peer.send(wanted.data(number) + b"\n")
            check(await peer.answer(number), wanted.code, number)
        echoed = await peer.call("echo", message="still here")
        assert echoed["structuredContent"]["message"] == "still here"


async def test_line_edge_refuses_an_over_long_line_by_its_id_and_goes_on(edge: Open) -> None:
    async with edge() as peer:
        await peer.initialize()
        sending = asyncio.create_task(peer.send(TOO_LONG + b"\n"))
        answer = await peer.answer(99)
        check(answer, TOO_LARGE, 99)
        await sending
        assert (await peer.request("ping"))["result"] is not None
        # Pieces of another, without an id anywhere.
        for _ in range(11):
            await peer.send(b"z" * 1024 * 1024)
        await peer.send(b"\n")
        check(await peer.read(), TOO_LARGE, None)
        assert (await peer.request("ping"))["result"] is not None


async def test_line_edge_finds_lines_however_they_are_cut(edge: Open) -> None:
    async with edge() as peer:
        await peer.initialize()
        message = b'\r\n  \n{"jsonrpc":"2.0","id":"\xc3\xa9","method":"ping"}\r\n'
        for at in range(len(message)):
            await peer.send(message[at : at + 1])
        assert "result" in await peer.answer("é")


async def test_nine_megabytes_pass_in_both_directions(edge: Open) -> None:
    value = "m" * 9_000_000
    async with edge() as peer:
        await peer.initialize()
        assert (await peer.call("echo", message=value))["structuredContent"]["message"] == value


async def test_answers_and_foreign_notifications_are_ignored(edge: Open) -> None:
    async with edge() as peer:
        await peer.initialize()
        for body in (
            b'{"jsonrpc":"2.0","id":77,"result":{}}',
            b'{"jsonrpc":"2.0","id":77,"error":{"code":1,"message":"x"}}',
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
            b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":[]}',
            b'{"jsonrpc":"2.0","method":"no/such"}',
        ):
            await peer.send(body + b"\n")
        assert (await peer.request("ping"))["result"] is not None
        assert not peer.others


async def test_modern_line_gets_modern_errors(edge: Open) -> None:
    async with edge() as peer:
        for number, wanted in enumerate(REQUESTS):
            if wanted.method.startswith("x"):
                continue
            await peer.send(wanted.data(number, _meta=envelope()) + b"\n")
            check(await peer.answer(number), wanted.code, number)
        old = envelope()
        old["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"
        answer = await peer.request("tools/list", {"_meta": old})
        assert answer["error"]["code"] == -32022
        assert answer["error"]["data"]["supported"] == [MODERN]


async def test_connection_that_breaks_off_leaves_nothing_running(mesh: RunningMesh) -> None:
    for ending in (b"", b'{"jsonrpc":"2.0","id":1,"meth'):
        async with lines(mesh.tcp) as peer:
            await peer.post("tools/call", {"name": "echo", "arguments": {}})
            await peer.send(ending)
            peer.writer.transport.abort()
    async with lines(mesh.tcp) as peer:
        assert "result" in await peer.request("ping")


# HTTP ----------------------------------------------------------------------------------------


async def legacy_headers(mesh: RunningMesh, version: str = "2025-11-25") -> dict[str, str]:
    info = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "e2e"}}
    info["clientInfo"]["version"] = "1"  # type: ignore[index]
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
    answer = await post_mcp(mesh.http, body)
    assert answer.status == 200, answer
    return {
        "mcp-session-id": answer.headers["mcp-session-id"],
        "mcp-protocol-version": version,
    }


@pytest.mark.parametrize("message", MESSAGES, ids=_named)
async def test_http_answers_every_bad_message_with_status_400(
    mesh: RunningMesh, message: Message
) -> None:
    old = await legacy_headers(mesh)
    new = {"mcp-protocol-version": MODERN, "mcp-method": "ping"}
    for headers in (old, new):
        answer = await post_mcp(mesh.http, message.data, headers)
        assert answer.status == 400, answer
        check(answer.json, message.code, message.id)


async def test_legacy_http_answers_impossible_requests_with_status_200(mesh: RunningMesh) -> None:
    headers = await legacy_headers(mesh)
    for number, wanted in enumerate(REQUESTS):
        answer = await post_mcp(mesh.http, wanted.data(number), headers)
        # A name that is no name at all is refused with the message, before the session counts.
        assert answer.status == (400 if wanted.code == -32600 else 200), wanted.name
        check(answer.json, wanted.code, number)


async def test_modern_http_climbs_the_ladder_of_statuses(mesh: RunningMesh) -> None:
    statuses = {-32601: 404, 0: 200, -31003: 200}
    for number, wanted in enumerate(REQUESTS):
        headers = {"mcp-protocol-version": MODERN, "mcp-method": wanted.method[:500]}
        name = wanted.params.get("name")
        if isinstance(name, str) and name.isprintable():
            headers["mcp-name"] = name
        answer = await post_mcp(mesh.http, wanted.data(number, _meta=envelope()), headers)
        code = wanted.code
        if wanted.method == "tools/call" and "mcp-name" not in headers:
            code = -32020  # what cannot stand in a header cannot agree with one
        assert answer.status == statuses.get(code, 400), wanted.name
        check(answer.json, code, number)


@pytest.mark.parametrize(
    ("change", "code", "status"),
    [
        ({"mcp-method": "tools/call"}, -32020, 400),
        ({"mcp-method": ""}, -32020, 400),
        ({"mcp-protocol-version": "2031-01-01"}, -32020, 400),
        ({"accept": "application/json"}, -32600, 406),
        ({"content-type": "text/plain"}, -32600, 415),
    ],
)
async def test_modern_http_headers_must_agree_with_the_body(
    mesh: RunningMesh, change: dict[str, str], code: int, status: int
) -> None:
    answer = await wire.post_modern(mesh.http, "tools/list", headers=change)
    assert answer.status == status
    assert answer.json["error"]["code"] == code


async def test_modern_request_without_envelope_or_with_another_version_is_refused(
    mesh: RunningMesh,
) -> None:
    bare = await wire.post_modern(mesh.http, "tools/list", {"_meta": {}})
    assert (bare.status, bare.json["error"]["code"]) == (400, -32602)
    later = envelope()
    later["io.modelcontextprotocol/protocolVersion"] = "2031-01-01"
    answer = await wire.post_modern(
        mesh.http, "tools/list", {"_meta": later}, headers={"mcp-protocol-version": "2031-01-01"}
    )
    assert (answer.status, answer.json["error"]["code"]) == (400, -32022)
    assert answer.json["error"]["data"]["requested"] == "2031-01-01"


async def test_body_over_ten_megabytes_is_413_and_the_answer_can_be_read(
    mesh: RunningMesh,
) -> None:
    for headers in ({}, {"mcp-protocol-version": MODERN, "mcp-method": "ping"}):
        answer = await post_mcp(mesh.http, TOO_LONG, headers)
        assert answer.status == 413
        check(answer.json, TOO_LARGE, None)
    tool = await http(mesh.http, request_bytes(mesh.http, "/tools/echo", TOO_LONG))
    assert tool.status == 413
    # Without a length: the limit holds while the pieces arrive.
    head = request_bytes(mesh.http, "/tools/echo", b"", {"content-length": ""})
    head = head[:-2] + b"transfer-encoding: chunked\r\n\r\n"
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    assert (await http(mesh.http, head + piece * 11 + b"0\r\n\r\n")).status == 413


async def test_http_session_that_is_missing_unknown_or_strange_is_refused(
    mesh: RunningMesh,
) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'
    for session, status in (
        ("", 400),
        ("unknown", 404),
        ("x" * 4000, 404),
        ("a b", 404),
        ("../*.>", 404),
        ("\xe9", 404),
    ):
        headers = {"mcp-protocol-version": "2025-11-25", "mcp-session-id": session}
        assert (await post_mcp(mesh.http, body, headers)).status == status, session


@pytest.mark.parametrize(
    ("raw", "statuses"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", {400}),
        (b"GET\r\n\r\n", {400}),
        (b"POST /mcp HTTP/9.9\r\nHost: HOST\r\n\r\n", {400, 505}),
        (b"POST /mcp HTTP/1.1\r\n\r\n", {400, 421}),
        (b"POST /mcp HTTP/1.1\r\nHost: HOST\r\nContent-Length: -5\r\n\r\n", {400}),
        (
            b"POST /mcp HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            {400},
        ),
        (
            b"POST /mcp HTTP/1.1\r\nHost: HOST\r\n" + LENGTH_AND_CHUNKS + b"0\r\n\r\n",
            {400},
        ),
        (
            b"POST /mcp HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            {400, 415},
        ),
        (b"BREW /mcp HTTP/1.1\r\nHost: HOST\r\n\r\n", {400, 405}),
        (b"PUT /mcp HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", {405}),
        (b"GET /mcp HTTP/1.1\r\nHost: HOST\r\nAccept: text/event-stream\r\n\r\n", {405}),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: HOST\r\n\r\n", {404}),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", {414, 431}),
        (b"GET /health HTTP/1.1\r\nHost: HOST\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", {431}),
        (b"GET /health HTTP/1.1\r\nHost: HOST\r\n" + b"X: 1\r\n" * 200 + b"\r\n", {431}),
        (b"GET /health HTTP/1.1\r\nHost: HOST\r\nX: a\x00b\r\n\r\n", {400}),
    ],
)
async def test_http_that_is_none_is_refused(
    mesh: RunningMesh, raw: bytes, statuses: set[int]
) -> None:
    host = mesh.http.removeprefix("http://").encode()
    answer = await http(mesh.http, raw.replace(b"HOST", host))
    assert answer.status in statuses, answer


async def test_http_connection_goes_on_after_errors(mesh: RunningMesh) -> None:
    host, _, port = mesh.http.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for body, path, status in (
            (b"\xff", "/mcp", 400),
            (b"[[[", "/tools/kv_get", 400),
            (b"{}", "/tools/nothing", 404),
            (b'{"key":"a"}', "/tools/kv_get", 200),
        ):
            writer.write(request_bytes(mesh.http, path, body))
            assert (await wire.read_answer(reader)).status == status, path
    finally:
        writer.close()
        await writer.wait_closed()


async def test_hostile_input_does_not_grow_the_gateway_for_good(mesh: RunningMesh) -> None:
    """After everything above, and ten times the largest of it."""

    def resident_mb() -> float:
        with open(f"/proc/{mesh.pids['gateway-1']}/statm") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * 4096 / 1e6

    wide = next(message for message in MESSAGES if message.name == "10 MB of arrays")
    for _ in range(10):
        await post_mcp(mesh.http, wide.data, {})
    assert resident_mb() < GATEWAY_MAX_MB

"""What the HTTP edge refuses, in which order, with which status: both eras, real sockets."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import msgspec
import pytest
import pytest_asyncio

from gateway.config import HttpConfig, LimitsConfig, SecurityConfig, ServerConfig
from gateway.testing import (
    ENVELOPE,
    JSON_HEADERS,
    Running,
    Surroundings,
    modern,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mesh_chassis.testing.conditions import eventually

MEGABYTE = 1024 * 1024


async def echo(call, params) -> bytes:
    return text_result("hello")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        schema = {
            "type": "object",
            "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
        }
        await parts.put_server(
            "echo", tool("echo"), tool("place", inputSchema=schema), prefixed=False
        )
        parts.scripts |= {"echo:echo": echo, "echo:place": echo}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    http = HttpConfig(port=0, cors_origins=("https://app.example",))
    limits = LimitsConfig(rate_per_second=10_000, burst=10_000)
    async with running_gateway(around, connect_bus, http=http, limits=limits) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.http) as opened:
        yield opened


async def post(client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> tuple[int, Any]:
    answer = await client.post("/mcp", content=body, headers=headers)
    return answer.status_code, answer.json() if answer.content else None


async def raw(port: int, data: bytes) -> bytes:
    """Send bytes, return the whole answer of a connection that then ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(8):
        answer = await reader.read()
    writer.close()
    return answer


CALL, CALL_HEADERS = modern("tools/call", 7, name="echo", arguments={})


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"host": "evil.example"}, 421, -32600),
        ({"origin": "https://evil.example"}, 403, -32600),
        ({"origin": "null"}, 403, -32600),
        ({"accept": "application/json"}, 406, -32600),
        ({"accept": "text/event-stream"}, 406, -32600),
        ({"content-type": "text/plain"}, 415, -32600),
        ({"content-type": "application/x-www-form-urlencoded"}, 415, -32600),
        ({"mcp-method": "tools/list"}, 400, -32020),
        ({"mcp-method": None}, 400, -32020),
        ({"mcp-method": "Tools/Call"}, 400, -32020),
        ({"mcp-name": "other"}, 400, -32020),
        ({"mcp-name": None}, 400, -32020),
        ({"mcp-name": "=?base64?ZWNobw=?="}, 400, -32020),
        ({"mcp-protocol-version": "2031-01-01"}, 400, -32020),
        ({"authorization": "Basic dTpw"}, 401, -31001),
        ({"authorization": "Bearer nobody"}, 401, -31001),
    ],
)
async def test_the_edge_refuses_a_request_whose_headers_are_wrong(
    client: httpx.AsyncClient, change: dict[str, str | None], status: int, code: int
) -> None:
    headers = {**CALL_HEADERS, **change}
    found, body = await post(client, CALL, {k: v for k, v in headers.items() if v is not None})
    assert (found, body["error"]["code"]) == (status, code)
    assert body["error"]["data"]["outcome"] == "not_executed"


@pytest.mark.parametrize(
    "change",
    [
        {"mcp-name": "=?base64?ZWNobw==?="},
        {"accept": "*/*"},
        {"origin": "https://app.example"},
        {"content-type": "application/json; charset=utf-8"},
    ],
)
async def test_the_edge_takes_what_the_specification_allows_in_headers(
    client: httpx.AsyncClient, change: dict[str, str]
) -> None:
    status, body = await post(client, CALL, {**CALL_HEADERS, **change})
    assert (status, body["id"]) == (200, 7)


async def test_a_page_served_by_the_gateway_itself_may_call_it(
    client: httpx.AsyncClient, gateway: Running
) -> None:
    for name in ("127.0.0.1", "localhost"):
        origin = f"http://{name}:{gateway.edges.http_port}"
        status, _ = await post(client, CALL, {**CALL_HEADERS, "origin": origin})
        assert status == 200


def enveloped(request_id: object = 1, method: str = "tools/list", **meta: object) -> bytes:
    return msgspec.json.encode(
        {
            "jsonrpc": "2.0",
            "id": request_id,
            "method": method,
            "params": {"_meta": {**ENVELOPE, **meta}},
        }
    )


@pytest.mark.parametrize(
    ("body", "status", "code", "request_id"),
    [
        (b"\x00\xff garbage", 400, -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"x\xff"}', 400, -32700, 1),
        (b"{", 400, -32700, None),
        (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, 400, -32600, None),
        (b"[" + b"[]," * 300_000 + b"[]]", 400, -32600, None),
        (b"[]", 400, -32600, None),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":5,"result":{}}', 400, -32600, None),
        (b'{"jsonrpc":"1.0","id":6,"method":"tools/list"}', 400, -32600, 6),
        (b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"tools/list"}', 400, -32600, None),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}', 400, -32600, ANY),
        (b'{"jsonrpc":"2.0","id":8,"method":"tools/list"}', 400, -32602, 8),
        (b'{"jsonrpc":"2.0","id":8,"method":"tools/list","params":{"_meta":[]}}', 400, -32602, 8),
    ],
)
async def test_a_malformed_modern_body_gets_its_rung_of_the_ladder(
    client: httpx.AsyncClient, body: bytes, status: int, code: int, request_id: object
) -> None:
    headers = {**JSON_HEADERS, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/list"}
    found, answer = await post(client, body, headers)
    assert (found, answer["error"]["code"]) == (status, code)
    assert answer["id"] == request_id
    assert (await post(client, CALL, CALL_HEADERS))[0] == 200


@pytest.mark.parametrize(
    ("method", "params", "status", "code"),
    [
        ("nonsense", {}, 404, -32601),
        ("initialize", {}, 404, -32601),
        ("ping", {}, 404, -32601),
        ("tools/call", {"name": "nope", "arguments": {}}, 400, -32602),
        ("tools/list", {"cursor": "bogus"}, 400, -32602),
        ("tools/list", {"cursor": ""}, 400, -32602),
        ("tools/list", {"cursor": 3}, 400, -32602),
        ("prompts/get", {"name": "nope"}, 400, -32602),
        ("resources/read", {"uri": "x:y"}, 400, -32602),
        ("subscriptions/listen", {}, 400, -32602),
    ],
)
async def test_a_modern_request_for_what_does_not_exist_says_so(
    client: httpx.AsyncClient, method: str, params: dict[str, object], status: int, code: int
) -> None:
    body, headers = modern(method, "x", **params)
    found, answer = await post(client, body, headers)
    assert (found, answer["error"]["code"], answer["id"]) == (status, code, "x")


async def test_a_version_that_is_not_served_is_named_with_those_that_are(
    client: httpx.AsyncClient,
) -> None:
    version = {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}
    body, headers = modern("tools/list", 1, meta=version)
    headers["mcp-protocol-version"] = "2031-01-01"
    status, answer = await post(client, body, headers)
    assert (status, answer["error"]["code"]) == (400, -32022)
    assert answer["error"]["data"]["supported"] == ["2026-07-28"]
    assert answer["error"]["data"]["requested"] == "2031-01-01"


async def test_a_modern_notification_is_accepted_without_a_body(client: httpx.AsyncClient) -> None:
    headers = {**JSON_HEADERS, "mcp-protocol-version": "2026-07-28"}
    note = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}'
    assert await post(client, note, headers) == (202, None)


async def test_an_enveloped_body_without_the_header_is_a_mismatch(
    client: httpx.AsyncClient,
) -> None:
    status, answer = await post(client, enveloped(), JSON_HEADERS)
    assert (status, answer["error"]["code"]) == (400, -32020)


async def test_mirrored_arguments_must_agree_with_their_headers(client: httpx.AsyncClient) -> None:
    body, headers = modern("tools/call", 1, name="place", arguments={"region": "eu"})
    assert (await post(client, body, {**headers, "Mcp-Param-Region": "eu"}))[0] == 200
    assert (await post(client, body, {**headers, "Mcp-Param-Region": "us"}))[0] == 400
    status, answer = await post(client, body, headers)
    assert (status, answer["error"]["code"]) == (400, -32020)


async def test_get_and_delete_are_not_for_the_modern_era(client: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        answer = await client.request(
            method, "/mcp", headers={"mcp-protocol-version": "2026-07-28"}
        )
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert (await client.get("/mcp")).status_code == 405
    assert (await client.put("/mcp")).status_code == 405


async def test_a_routing_header_that_appears_twice_is_refused(gateway: Running) -> None:
    head = b"".join(f"{name}: {value}\r\n".encode() for name, value in CALL_HEADERS.items())
    request = (
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n%bmcp-name: other\r\n"
        b"content-length: %d\r\n\r\n%b" % (head, len(CALL), CALL)
    )
    answer = await raw(gateway.edges.http_port, request)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"-32020" in answer


async def test_blanks_around_header_values_do_not_count(gateway: Running) -> None:
    head = b"".join(f"{name}: \t{value} \t\r\n".encode() for name, value in CALL_HEADERS.items())
    request = (
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n%b"
        b"content-length: %d\r\n\r\n%b" % (head, len(CALL), CALL)
    )
    assert (await raw(gateway.edges.http_port, request)).startswith(b"HTTP/1.1 200")


async def test_a_body_over_ten_megabytes_is_answered_readably(client: httpx.AsyncClient) -> None:
    big = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":"%b"}}'
    answer = await client.post("/mcp", content=big % (b"a" * 11 * MEGABYTE), headers=CALL_HEADERS)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == -31012

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b" " * MEGABYTE

    chunked = await client.post("/mcp", content=pieces(), headers=CALL_HEADERS)
    assert chunked.status_code == 413
    assert (await post(client, CALL, CALL_HEADERS))[0] == 200


async def test_header_blocks_and_request_lines_are_bounded(gateway: Running) -> None:
    port = gateway.edges.http_port
    large = await raw(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 17_000 + b"\r\n\r\n")
    endless = await raw(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 1_000_000)
    many = await raw(port, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n")
    garbage = await raw(port, b"\x16\x03\x01 nonsense\r\n\r\n")
    smuggled = await raw(
        port,
        b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    )
    assert large.startswith(b"HTTP/1.1 431")
    assert endless.startswith(b"HTTP/1.1 431")
    assert many.startswith(b"HTTP/1.1 431")
    assert garbage.startswith(b"HTTP/1.1 400")
    assert smuggled.startswith(b"HTTP/1.1 400")


async def test_a_browser_client_of_a_listed_origin_gets_cors_headers(
    client: httpx.AsyncClient,
) -> None:
    asked = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "mcp-method, mcp-param-region",
    }
    preflight = await client.options("/mcp", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://app.example"
    assert "mcp-param-region" in preflight.headers["access-control-allow-headers"]
    answer = await client.post(
        "/mcp", content=CALL, headers={**CALL_HEADERS, "origin": "https://app.example"}
    )
    assert "mcp-session-id" in answer.headers["access-control-expose-headers"]
    assert (
        await client.options("/mcp", headers={"origin": "https://x.example"})
    ).status_code == 403


async def test_plain_calls_take_json_and_only_with_a_token_what_curl_claims(
    client: httpx.AsyncClient, around: Surroundings
) -> None:
    around.allow("good")
    form = {"content-type": "application/x-www-form-urlencoded"}
    token = {"authorization": "Bearer good"}
    path = "/tools/echo"
    assert (await client.post(path, content=b"{}", headers=form)).status_code == 415
    assert (await client.post(path, content=b"{}", headers={**form, **token})).status_code == 200
    plain = {"content-type": "text/plain", **token}
    assert (await client.post(path, content=b"{}", headers=plain)).status_code == 415
    assert (await client.post(path, content=b"[1]", headers=JSON_HEADERS)).status_code == 400
    assert (await client.post(path, content=b"{", headers=JSON_HEADERS)).status_code == 400
    assert (await client.post(path, content=b"", headers=JSON_HEADERS)).status_code == 200
    assert (await client.get(path)).status_code == 405
    assert (await client.get("/nothing")).status_code == 404


async def test_every_refusal_beside_mcp_has_one_shape(around: Surroundings, connect_bus) -> None:
    around.allow("good")
    security = SecurityConfig(development=False)
    async with (
        running_gateway(around, connect_bus, "gateway-2", security=security) as closed,
        httpx.AsyncClient(base_url=closed.http) as client,
    ):
        token = {"authorization": "Bearer good"}
        for path, headers, status in (
            ("/tools/echo", {}, 401),
            ("/tools/none", token, 404),
            ("/tools/echo", {**token, "content-type": "text/plain"}, 415),
            ("/nothing", token, 404),
        ):
            answer = await client.post(path, content=b"{}", headers=headers)
            assert answer.status_code == status
            assert list(answer.json()) == ["error"]
            assert answer.json()["error"]["message"]
        spoken = (await client.post("/mcp", content=CALL, headers=CALL_HEADERS)).json()
        assert list(spoken) == ["jsonrpc", "id", "error"]


async def test_a_gateway_is_not_ready_while_no_credential_can_be_checked(
    around: Surroundings, connect_bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.identity.POSITIVE_S", 0.3)
    monkeypatch.setattr("gateway.identity.PROBE_EVERY_S", 0.05)
    server = ServerConfig(name="shop")
    async with (
        running_gateway(around, connect_bus, "gateway-2", server=server) as gateway,
        httpx.AsyncClient(base_url=gateway.http) as client,
    ):
        assert (await client.get("/ready")).json() == {"ready": True, "reasons": []}
        health = (await client.get("/health")).json()
        assert (health["agent"], health["checks"]["tenant-auth"]) == ("shop", "healthy")
        await around.stop()

        async def refuses() -> bool:
            return (await client.get("/ready")).status_code == 503

        await eventually(refuses)
        (reason,) = (await client.get("/ready")).json()["reasons"]
        assert reason.startswith("tenant-auth does not answer")
        health = await client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")


async def test_a_closed_gateway_asks_for_a_token(around: Surroundings, connect_bus) -> None:
    around.allow("good")
    security = SecurityConfig(development=False)
    async with (
        running_gateway(around, connect_bus, "gateway-2", security=security) as closed,
        httpx.AsyncClient(base_url=closed.http) as client,
    ):
        answer = await client.post("/mcp", content=CALL, headers=CALL_HEADERS)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        query = await client.post("/mcp?token=good", content=CALL, headers=CALL_HEADERS)
        assert query.status_code == 401
        token = {"authorization": "Bearer good"}
        status, _ = await post(client, CALL, {**CALL_HEADERS, **token})
        assert status == 200


async def test_a_connection_without_requests_is_closed_after_the_idle_time_not_before(
    around: Surroundings, connect_bus
) -> None:
    limits = LimitsConfig(idle_s=1.0)
    async with running_gateway(around, connect_bus, http=HttpConfig(port=0), limits=limits) as run:
        port = int(run.http.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = "".join(f"{name}: {value}\r\n" for name, value in CALL_HEADERS.items())
        request = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{head}".encode()
        loop = asyncio.get_running_loop()
        for _ in range(3):
            writer.write(request + b"Content-Length: %d\r\n\r\n" % len(CALL) + CALL)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            size = int(answer.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            last = loop.time()
            await asyncio.sleep(0.4)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert 0.9 <= loop.time() - last < 2.5
        writer.close()

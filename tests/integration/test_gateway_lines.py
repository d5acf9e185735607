"""The TCP-line edge as hostile, old and modern clients meet it: real sockets, scripted servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.config import LimitsConfig, SecurityConfig
from gateway.testing import (
    ENVELOPE,
    LineClient,
    Running,
    Surroundings,
    running_gateway,
    surrounded,
    text_result,
    tool,
)
from mcp_proto.codec import encode_notification
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.testing.conditions import eventually

MEGABYTE = 1024 * 1024
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}


async def echo(call, params) -> bytes:
    return text_result(bytes(params.get("arguments", b"{}")).decode(), agentId="a1", content="no")


async def forever(call, params) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def progress(call, params) -> bytes:
    token = msgspec.json.decode(params["_meta"])["progressToken"]
    body = msgspec.json.encode({"progressToken": token, "progress": 1, "total": 2})
    await call.emit(encode_notification("notifications/progress", body))
    await call.emit(encode_notification("notifications/message", b'{"level":"info","data":1}'))
    return text_result("done")


async def busy(call, params) -> bytes:
    raise MeshError(ErrorKind.OVERLOADED, "all slots are taken", retry_after_s=0.05)


async def foreign(call, params) -> bytes:
    raise MeshError(ErrorKind.PARAMS, "bad arguments", data={"field": "x"})


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        scripts = {
            "echo": echo,
            "forever": forever,
            "progress": progress,
            "busy": busy,
            "foreign": foreign,
        }
        await parts.put_server("t", *(tool(name) for name in scripts), prefixed=False)
        await parts.put_server("dead", tool("x"))
        parts.scripts |= {f"t:{name}": script for name, script in scripts.items()}
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    async with running_gateway(around, connect_bus) as running:
        yield running


@pytest_asyncio.fixture
async def client(gateway: Running) -> AsyncIterator[LineClient]:
    opened = await LineClient.connect(gateway.tcp)
    yield opened
    await opened.close()


def call(name: str, **arguments: object) -> dict[str, object]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("line", "code", "request_id"),
    [
        (b"garbage", -32700, None),
        (b"\xff\xfe{}", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"', -32700, 1),
        (b'{"jsonrpc":"2.0","id":1,"method":"a\x00b"}', -32700, 1),
        (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, -32600, None),
        (b"[" + b"{}," * 300_000 + b"{}]", -32600, None),
        (b"[]", -32600, None),
        (b"null", -32600, None),
        (b'{"jsonrpc":"1.0","id":"x","method":"ping"}', -32600, "x"),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":2,"method":"ping","method":"tools/list"}', -32600, 2),
        (b'{"jsonrpc":"2.0","id":3,"Method":"ping"}', -32600, 3),
        (b'{"jsonrpc":"2.0","id":4,"method":"nonsense"}', -32601, 4),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"no"}}', -32602, 5),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":1}}', -32602, 5),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call"}', -32602, 5),
        (b'{"jsonrpc":"2.0","id":6,"method":"tools/list","params":{"cursor":"zz"}}', -32602, 6),
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/list","tenant_id":"other"}', -31003, 7),
        (b'{"jsonrpc":"2.0","id":8,"method":"tools/list","user_id":"other"}', -31003, 8),
    ],
)
async def test_a_bad_line_is_answered_and_the_connection_goes_on(
    client: LineClient, line: bytes, code: int, request_id: object
) -> None:
    client.send(line)
    answer = await client.receive()
    assert answer["error"]["code"] == code
    assert answer["id"] == request_id
    assert answer["error"]["data"]["outcome"] == "not_executed"
    assert (await client.ask("ping", "after"))["result"]["status"] == "ok"


async def test_an_over_long_line_is_answered_once_with_its_id(client: LineClient) -> None:
    client.send(
        b'{"jsonrpc":"2.0","id":9,"method":"ping","params":{"x":"%b"}}' % (b"a" * 11 * MEGABYTE)
    )
    client.send({"jsonrpc": "2.0", "id": 10, "method": "ping"})
    refused, answered = await client.receive(), await client.receive()
    assert (refused["id"], refused["error"]["code"]) == (9, -31012)
    assert answered["id"] == 10


async def test_a_line_split_at_every_byte_is_one_line(client: LineClient) -> None:
    for byte in b'{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n':
        client.writer.write(bytes([byte]))
        await client.writer.drain()
    assert (await client.receive())["id"] == 1


async def test_two_clients_with_equal_ids_never_see_each_others_answers(gateway: Running) -> None:
    clients = [await LineClient.connect(gateway.tcp) for _ in range(8)]

    async def talk(one: LineClient, number: int) -> None:
        for turn in range(20):
            one.send(
                {
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "tools/call",
                    "params": call("echo", who=f"{number}/{turn}"),
                }
            )
            answer = await one.receive()
            assert (
                msgspec.json.decode(answer["result"]["content"][0]["text"])["who"]
                == f"{number}/{turn}"
            )

    await asyncio.gather(*(talk(one, number) for number, one in enumerate(clients)))
    for one in clients:
        await one.close()


async def test_an_old_client_gets_structured_keys_flat_but_content_wins(client: LineClient) -> None:
    answer = await client.ask("tools/call", 1, call("echo", a=1))
    result = answer["result"]
    assert result["agentId"] == "a1"
    assert result["content"] == [{"type": "text", "text": '{"a":1}'}]
    assert result["structuredContent"]["agentId"] == "a1"
    assert "resultType" not in result


async def test_a_newer_old_client_does_not(client: LineClient) -> None:
    opened = await client.ask("initialize", 0, INITIALIZE)
    assert opened["result"]["protocolVersion"] == "2025-11-25"
    assert opened["result"]["capabilities"]["tools"] == {"listChanged": True}
    client.send({"jsonrpc": "2.0", "method": "initialized"})
    answer = await client.ask("tools/call", 1, call("echo"))
    assert "agentId" not in answer["result"]


async def test_a_client_may_leave_out_capabilities_and_send_an_array(gateway: Running) -> None:
    for params in ({"protocolVersion": "2024-11-05"}, {**INITIALIZE, "capabilities": ["tools"]}):
        client = await LineClient.connect(gateway.tcp)
        answer = await client.ask("initialize", "i", params)
        assert answer["result"]["protocolVersion"] == params["protocolVersion"]
        await client.close()


async def test_a_modern_client_needs_no_handshake(client: LineClient) -> None:
    ping = await client.ask("ping", 0, {"_meta": ENVELOPE})
    assert ping["error"]["code"] == -32601
    found = await client.ask("server/discover", 1, {"_meta": ENVELOPE})
    assert found["result"]["supportedVersions"] == ["2026-07-28"]
    answer = await client.ask("tools/call", 2, {**call("echo"), "_meta": ENVELOPE})
    assert answer["result"]["resultType"] == "complete"
    refused = await client.ask("initialize", 3, {"protocolVersion": "2025-11-25"})
    assert refused["error"]["code"] == -32022


async def test_progress_reaches_the_caller_and_log_only_who_asked(client: LineClient) -> None:
    meta = {**ENVELOPE, "progressToken": "p"}
    client.send(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tools/call",
            "params": {**call("progress"), "_meta": meta},
        }
    )
    first, second = await client.receive(), await client.receive()
    assert first["method"] == "notifications/progress"
    assert first["params"]["progressToken"] == "p"
    assert second["id"] == 1
    meta["io.modelcontextprotocol/logLevel"] = "info"
    client.send(
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {**call("progress"), "_meta": meta},
        }
    )
    methods = [(await client.receive()).get("method") for _ in range(3)]
    assert methods == ["notifications/progress", "notifications/message", None]


async def test_a_cancelled_call_stops_at_the_server_and_is_not_answered(
    client: LineClient, around: Surroundings
) -> None:
    client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("forever")})
    await around.called(1)
    again = await client.ask("ping", 2)
    assert again["id"] == 2
    duplicate = await client.ask("tools/call", 1, call("echo"))
    assert duplicate["error"]["code"] == -32600
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    await eventually(around.seen[0].cancelled.is_set)
    assert (await client.ask("ping", 3))["id"] == 3


async def test_a_lost_connection_cancels_its_calls(gateway: Running, around: Surroundings) -> None:
    client = await LineClient.connect(gateway.tcp)
    client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("forever")})
    await around.called(1)
    client.reset()
    await eventually(around.seen[0].cancelled.is_set)


async def test_errors_of_servers_keep_their_meaning(client: LineClient) -> None:
    absent = await client.ask("tools/call", 1, call("dead__x"))
    assert absent["error"]["code"] == -31011 or absent["error"]["code"] == -32602
    overloaded = await client.ask("tools/call", 2, call("busy"))
    assert overloaded["error"]["code"] == -31016
    assert overloaded["error"]["data"]["retryAfterMs"] > 0
    own = await client.ask("tools/call", 3, call("foreign"))
    assert own["error"]["code"] == -32602
    assert own["error"]["data"]["field"] == "x"


async def test_a_batch_answers_in_order_with_results_and_errors(client: LineClient) -> None:
    items: list[dict[str, Any]] = [
        {"method": "tools/call", "params": call("echo", n=n)} for n in range(40)
    ]
    items.insert(3, {"method": "nonsense"})
    items.insert(5, {"method": "batch", "params": []})
    answer = (await client.ask("batch", 1, items))["result"]
    assert len(answer) == 42
    assert answer[3]["error"]["code"] == -32601
    assert answer[5]["error"]["code"] == -32600
    assert msgspec.json.decode(answer[4]["result"]["content"][0]["text"]) == {"n": 3}
    too_many = await client.ask("batch", 2, [{"method": "ping"}] * 101)
    assert too_many["error"]["code"] == -32602
    no_array = await client.ask("batch", 3, {"a": 1})
    assert no_array["error"]["code"] == -32602


async def test_an_array_of_messages_is_for_one_revision_only(gateway: Running) -> None:
    client = await LineClient.connect(gateway.tcp)
    array = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "initialize", "params": INITIALIZE},
    ]
    client.send(array)
    assert (await client.receive())["error"]["code"] == -32600
    await client.ask("initialize", 0, {**INITIALIZE, "protocolVersion": "2025-03-26"})
    client.send(array)
    answers = await client.receive()
    assert [one["id"] for one in answers] == [1, 2]
    assert answers[1]["error"]["code"] == -32600
    await client.close()


async def test_the_rate_limit_says_exactly_when_to_come_back(
    around: Surroundings, connect_bus
) -> None:
    limits = LimitsConfig(rate_per_second=10, burst=5)
    async with running_gateway(around, connect_bus, "gateway-2", limits=limits) as running:
        client = await LineClient.connect(running.tcp)
        answers = [await client.ask("ping", n) for n in range(8)]
        refused = [one for one in answers if "error" in one]
        assert len(refused) == 3
        assert refused[0]["error"]["code"] == -31016
        assert 0 < refused[0]["error"]["data"]["retryAfterMs"] <= 100
        await client.close()


async def test_no_more_than_the_limit_is_in_flight_on_one_connection(
    around: Surroundings, connect_bus
) -> None:
    limits = LimitsConfig(inflight=3, connections_per_source=2)
    async with running_gateway(around, connect_bus, "gateway-2", limits=limits) as running:
        client = await LineClient.connect(running.tcp)
        for n in range(4):
            client.send(
                {"jsonrpc": "2.0", "id": n, "method": "tools/call", "params": call("forever")}
            )
        refused = await client.receive()
        assert (refused["id"], refused["error"]["code"]) == (3, -31016)
        other = await LineClient.connect(running.tcp)
        await other.ask("ping", 1)
        third = await LineClient.connect(running.tcp)
        assert (await third.receive())["error"]["code"] == -31016
        with pytest.raises(EOFError):
            await third.receive()
        client.reset()
        for one in (other, third):
            await one.close()
        await eventually(lambda: all(one.cancelled.is_set() for one in around.seen))


async def test_silent_and_half_said_connections_are_told_and_closed(
    around: Surroundings, connect_bus
) -> None:
    limits = LimitsConfig(first_byte_s=0.1, line_s=0.1, idle_s=0.2)
    async with running_gateway(around, connect_bus, "gateway-2", limits=limits) as running:
        silent, half, idle = [await LineClient.connect(running.tcp) for _ in range(3)]
        half.writer.write(b'{"jsonrpc"')
        await idle.ask("ping", 1)
        for one in (silent, half, idle):
            assert (await one.receive())["error"]["code"] == -32600
            with pytest.raises(EOFError):
                await one.receive()
            await one.close()


async def test_a_closed_edge_serves_only_who_authenticates_first(
    around: Surroundings, connect_bus
) -> None:
    around.allow("good")
    security = SecurityConfig(development=False)
    async with running_gateway(around, connect_bus, "gateway-2", security=security) as running:
        client = await LineClient.connect(running.tcp)
        assert (await client.ask("ping", 0))["result"]["status"] == "ok"
        assert (await client.ask("tools/list", 1))["error"]["code"] == -31001
        assert (await client.ask("initialize", 2, INITIALIZE))["error"]["code"] == -31001
        refused = await client.ask("authenticate", 3, {"token": "wrong"})
        assert refused["error"]["code"] == -31001
        accepted = await client.ask("authenticate", 4, {"token": "good"})
        assert accepted["result"]["principal"] == "owner-of-good"
        assert "result" in await client.ask("tools/list", 5)
        await around.revoke("good")

        async def cut() -> bool:
            answer = await client.ask("tools/list", 6)
            return answer.get("error", {}).get("code") == -31001

        await eventually(cut, timeout_s=1.0)
        await client.close()


async def test_the_biggest_holder_of_unfinished_bytes_has_to_go(gateway: Running) -> None:
    small = await LineClient.connect(gateway.tcp)
    small.writer.write(b'{"jsonrpc":"2.0","id":1,' + b" " * 100_000)
    big = [await LineClient.connect(gateway.tcp) for _ in range(2)]
    for one in big:
        one.writer.write(b'{"x":"' + b"a" * 9 * MEGABYTE)
        with contextlib.suppress(ConnectionError):
            await one.writer.drain()

    async def refused(one: LineClient) -> bool:
        try:
            return (await one.receive(0.5))["error"]["data"]["limit"] == "unfinished"
        except (EOFError, OSError, TimeoutError):
            return False

    assert any([await refused(one) for one in big])
    small.writer.write(b'"method":"ping"}\n')
    assert (await small.receive())["id"] == 1
    for one in (small, *big):
        one.reset()


async def test_a_listen_on_a_line_is_told_and_ends_with_its_credential(
    gateway: Running, around: Surroundings
) -> None:
    around.allow("good")
    client = await LineClient.connect(gateway.tcp)
    await client.ask("authenticate", 0, {"token": "good"})
    wanted = {"notifications": {"toolsListChanged": True}, "_meta": ENVELOPE}
    told = await client.ask("subscriptions/listen", "l", wanted)
    assert told["method"] == "notifications/subscriptions/acknowledged"
    await around.put_server("n", tool("new"))
    changed = await client.receive()
    assert changed["method"] == "notifications/tools/list_changed"
    assert changed["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "l"}
    await around.revoke("good")
    ended = await client.receive()
    assert (ended["id"], ended["result"]["resultType"]) == ("l", "complete")
    await client.close()


async def test_a_cancelled_listen_hears_nothing_more(
    client: LineClient, around: Surroundings
) -> None:
    wanted = {"notifications": {"toolsListChanged": True}, "_meta": ENVELOPE}
    await client.ask("subscriptions/listen", 3, wanted)
    client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}})
    await around.put_server("n", tool("new"))

    async def listed() -> bool:
        answer = await client.ask("tools/list", 4, {"_meta": ENVELOPE})
        assert answer["id"] == 4
        return "n__new" in [one["name"] for one in answer["result"]["tools"]]

    await eventually(listed)


async def test_an_old_client_hears_of_changes_after_initialize(
    client: LineClient, around: Surroundings
) -> None:
    await client.ask("initialize", 0, INITIALIZE)
    await around.put_server("n", tool("new"))
    assert await client.receive() == {
        "jsonrpc": "2.0",
        "method": "notifications/tools/list_changed",
    }

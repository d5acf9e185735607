"""Two clients with equal JSON-RPC ids: neither ever sees an answer of the other."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, lines, stdio_lines

AT_ONCE = 32
"""Of each client; half of what may be in flight on one connection."""


async def ask_and_check(peer: Lines, who: str, tools: tuple[str, str]) -> None:
    """Send ids 0, 1, 2, … at once, and find one's own payload in each answer."""
    for number in range(AT_ONCE):
        tool = tools[number % 2]
        key = "message" if tool == "echo" else "text"
        arguments = {key: f"{who} {number}"}
        await peer.post("tools/call", {"name": tool, "arguments": arguments}, request_id=number)
    seen: set[int] = set()
    for _ in range(AT_ONCE):
        answer = await peer.read()
        number = answer["id"]
        assert number not in seen
        seen.add(number)
        told = answer["result"]["content"][0]["text"]
        assert f"{who} {number}" in told, answer
    assert seen == set(range(AT_ONCE))


async def test_equal_ids_of_two_line_clients_never_cross(lab: RunningMesh) -> None:
    async with lines(lab.tcp) as one, lines(lab.tcp) as other:
        for _ in range(2):
            await asyncio.gather(
                ask_and_check(one, "one", ("echo", "lab__echo")),
                ask_and_check(other, "other", ("lab__echo", "echo")),
            )
        assert not one.others
        assert not other.others


async def test_equal_ids_on_tcp_stdio_and_http_never_cross(lab: RunningMesh) -> None:
    async def over_http(number: int) -> None:
        answer = await wire.post_modern(
            lab.http,
            "tools/call",
            {"name": "lab__echo", "arguments": {"text": f"http {number}"}},
            request_id=number,
        )
        assert answer.json["id"] == number
        assert answer.json["result"]["content"][0]["text"] == f"http {number}"

    async with AsyncExitStack() as stack:
        tcp = await stack.enter_async_context(lines(lab.tcp))
        stdio = await stack.enter_async_context(stdio_lines(lab))
        await stdio.initialize()
        await asyncio.gather(
            ask_and_check(tcp, "tcp", ("echo", "lab__echo")),
            ask_and_check(stdio, "stdio", ("echo", "lab__echo")),
            *(over_http(number) for number in range(AT_ONCE)),
        )


async def test_equal_ids_and_sessions_of_legacy_http_clients_never_cross(
    lab: RunningMesh,
) -> None:
    async def client(who: str) -> None:
        info = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": who, "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": info}
        session = (await wire.post_mcp(lab.http, body)).headers["mcp-session-id"]
        headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-06-18"}

        async def call(number: int) -> None:
            params = {"name": "lab__echo", "arguments": {"text": f"{who} {number}"}}
            body = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
            answer = await wire.post_mcp(lab.http, body, headers)
            assert answer.json["id"] == number
            assert answer.json["result"]["content"][0]["text"] == f"{who} {number}", answer

        await asyncio.gather(*(call(number) for number in range(10)))

    await asyncio.gather(*(client(who) for who in ("one", "two", "three")))


async def test_equal_progress_tokens_of_two_clients_never_cross(lab: RunningMesh) -> None:
    async def client(peer: Lines, steps: int) -> None:
        await peer.initialize()
        params = {
            "name": "lab__steps",
            "arguments": {"steps": steps},
            "_meta": {"progressToken": "same"},
        }
        await peer.answer(await peer.post("tools/call", params, request_id=5))
        told = [note["params"] for note in peer.others if note.get("method")]
        assert [one["total"] for one in told] == [steps] * steps
        assert [one["progress"] for one in told] == list(range(1, steps + 1))

    async with lines(lab.tcp) as one, lines(lab.tcp) as other:
        await asyncio.gather(client(one, 5), client(other, 9))


async def test_client_that_cancels_stops_its_own_call_only(lab: RunningMesh) -> None:
    async with lines(lab.tcp) as one, lines(lab.tcp) as other:
        for peer, seconds in ((one, 30), (other, 0.6)):
            await peer.initialize()
            params = {"name": "lab__sleep", "arguments": {"seconds": seconds}}
            await peer.post("tools/call", params, request_id=1)
        note = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
        await one.send(json.dumps({**note, "params": {"requestId": 1}}).encode() + b"\n")
        assert "result" in await one.request("ping", request_id=2)
        slept = await other.answer(1)
        assert slept["result"]["content"][0]["text"] == "slept"
        with pytest.raises(TimeoutError):
            await one.read(0.3)  # a cancelled request is not answered

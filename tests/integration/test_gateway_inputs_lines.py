"""Calls that wait for input on a line: requests of both sides interleave on TCP and stdio."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway.config import LimitsConfig
from gateway.testing import (
    DEMO_TENANT,
    LineClient,
    Running,
    Surroundings,
    running_gateway,
    surrounded,
    text_result,
    tool,
)

ELICIT = {
    "method": "elicitation/create",
    "params": {"mode": "form", "message": "Sure?", "requestedSchema": {"type": "object"}},
}
CAN = {"elicitation": {}, "sampling": {}, "roots": {}}
ACCEPT = {"action": "accept", "content": {"ok": True}}


def told(params: dict[str, msgspec.Raw]) -> Any:
    return msgspec.json.decode(params["inputResponses"])


async def wipe(call, params) -> bytes:
    if "inputResponses" not in params:
        asked = {"resultType": "input_required", "inputRequests": {"ask": ELICIT}}
        return msgspec.json.encode(asked)
    return text_result("done", answers=told(params))


async def parked(call, params) -> bytes:
    return msgspec.json.encode(
        {
            "resultType": "input_required",
            "inputRequests": {"ask": ELICIT},
            "requestState": "park-1",
            "_meta": {"mesh/parked": {"instance": "runner-1"}},
        }
    )


async def resumed(call, params) -> bytes:
    return text_result("resumed", answers=told(params))


async def plain(call, params) -> bytes:
    return text_result("plain")


@pytest_asyncio.fixture
async def around(broker, connect_bus, tmp_path: Path) -> AsyncIterator[Surroundings]:
    async with surrounded(connect_bus, tmp_path) as parts:
        scripts = {"wipe": wipe, "parked": parked, "plain": plain}
        await parts.put_server("disk", *(tool(name) for name in scripts))
        parts.scripts |= {f"disk:{name}": script for name, script in scripts.items()}
        parts.scripts["runner-1:answer"] = resumed
        yield parts


@pytest_asyncio.fixture
async def gateway(around: Surroundings, connect_bus) -> AsyncIterator[Running]:
    limits = LimitsConfig(input_s=1.0)
    async with running_gateway(around, connect_bus, limits=limits) as running:
        yield running


class Pipe(LineClient):
    """A peer of the stdio edge."""

    process: asyncio.subprocess.Process

    async def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(10):
            assert await self.process.wait() == 0


async def pipe(broker) -> Pipe:
    seed = broker.seed_for("stdio", "stdio-1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.edges.stdio", "--url", broker.url),
        *("--nkey-seed-file", str(seed), "--tenant", DEMO_TENANT),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    made = Pipe(process.stdout, process.stdin)
    made.process = process
    return made


Connect = Callable[[], Awaitable[LineClient]]


@pytest.fixture(params=["tcp", "stdio"])
def connect(request: pytest.FixtureRequest, gateway: Running, broker) -> Connect:
    async def opened() -> LineClient:
        if request.param == "tcp":
            peer = await LineClient.connect(gateway.tcp)
        else:
            peer = await pipe(broker)
        await begin(peer)
        return peer

    return opened


async def begin(peer: LineClient, revision: str = "2025-11-25", can: object = None) -> None:
    params = {
        "protocolVersion": revision,
        "capabilities": CAN if can is None else can,
        "clientInfo": {"name": "c", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    peer.send(body)
    assert (await peer.receive(20))["id"] == 0


def call(name: str, request_id: int = 1) -> dict[str, object]:
    params = {"name": f"disk__{name}", "arguments": {}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


def answer(request_id: object, result: object = ACCEPT) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


async def test_requests_of_both_sides_interleave_on_the_line(connect: Connect) -> None:
    peer = await connect()
    peer.send(call("wipe", 1))
    asked = await peer.receive()
    assert asked["method"] == "elicitation/create"
    assert asked["params"]["_meta"]["mesh/server"] == "disk"
    peer.send(call("plain", 2))
    assert (await peer.receive())["id"] == 2
    peer.send(call("parked", 3))
    also = await peer.receive()
    assert also["id"] != asked["id"]
    peer.send(answer(also["id"]))
    done = await peer.receive()
    assert (done["id"], done["result"]["content"][0]["text"]) == (3, "resumed")
    peer.send(answer("mesh-77"))
    peer.send(answer(None))
    peer.send(answer(asked["id"]))
    peer.send(answer(asked["id"], {"action": "decline"}))
    done = await peer.receive()
    while done.get("id") != 1:
        done = await peer.receive()
    assert done["result"]["structuredContent"] == {"answers": {"ask": ACCEPT}}
    await peer.close()


async def test_cancel_of_a_waiting_call_withdraws_the_question_and_tells_the_server(
    connect: Connect, around: Surroundings
) -> None:
    abandoned = around.park("park-1")
    peer = await connect()
    peer.send(call("parked", 5))
    asked = await peer.receive()
    cancel = {"method": "notifications/cancelled", "params": {"requestId": 5}}
    peer.send({"jsonrpc": "2.0", **cancel})
    withdrawn = await peer.receive()
    assert withdrawn["method"] == "notifications/cancelled"
    assert withdrawn["params"]["requestId"] == asked["id"]
    async with asyncio.timeout(5):
        await abandoned.wait()
    peer.send(call("plain", 6))
    assert (await peer.receive())["id"] == 6
    await peer.close()


async def test_peer_that_ends_its_side_is_answered_in_its_place(connect: Connect) -> None:
    peer = await connect()
    peer.send(call("wipe", 1))
    assert (await peer.receive())["method"] == "elicitation/create"
    peer.writer.write_eof()
    done = await peer.receive()
    assert done["result"]["structuredContent"] == {"answers": {"ask": {"action": "cancel"}}}
    await peer.close()


async def test_silent_peer_gets_an_error_in_time(gateway: Running, around: Surroundings) -> None:
    abandoned = around.park("park-1")
    peer = await LineClient.connect(gateway.tcp)
    await begin(peer)
    peer.send(call("parked", 1))
    asked = await peer.receive()
    body = {"progressToken": asked["id"], "progress": 1}
    peer.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": body})
    assert (await peer.receive())["method"] == "notifications/cancelled"
    assert (await peer.receive())["error"]["code"] == -31014
    async with asyncio.timeout(5):
        await abandoned.wait()
    await peer.close()


async def test_peer_that_vanishes_leaves_no_waiting_server(
    gateway: Running, around: Surroundings
) -> None:
    abandoned = around.park("park-1")
    peer = await LineClient.connect(gateway.tcp)
    await begin(peer)
    peer.send(call("parked", 1))
    await peer.receive()
    peer.reset()
    async with asyncio.timeout(5):
        await abandoned.wait()


async def test_peer_that_never_initialized_cannot_be_asked(gateway: Running) -> None:
    peer = await LineClient.connect(gateway.tcp)
    peer.send(call("wipe", 1))
    error = (await peer.receive())["error"]
    assert error["data"]["requiredCapabilities"] == {"elicitation": {"form": {}}}
    await peer.close()

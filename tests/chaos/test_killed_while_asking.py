"""Deaths while a person thinks about a server's question: a clear end, nothing left waiting."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.chaos.acting import answered_within
from tests.conftest import run
from tests.e2e import wire
from tests.e2e.legacy_http import Session
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import HttpAnswer

from mesh_chassis.testing.conditions import eventually

pytestmark = pytest.mark.slow

CROWD = Path(__file__).parent / "servers" / "crowd.py"
PARKED_S = 4.0
CONFIG = f"""
[[mcp_servers]]
name = "crowd"
command = "{sys.executable}"
args = ["{CROWD}", "5", "NOTES"]
"""
ACCEPT = {"action": "accept", "content": {"colour": "red"}}
CAN = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """Two gateways, two runners that park for a short time, a server that asks."""
    room = tmp_path_factory.mktemp("asking") / "room"
    config = CONFIG.replace("NOTES", str(room / "notes"))
    env = {"MESH_PARKING_TTL_S": str(PARKED_S)}
    two = ("--gateways", "2", "--runners", "2")
    yield from run(RunningMesh(room, *two, config=config, env=env))


@pytest_asyncio.fixture
async def at(asking: RunningMesh) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A connection to each gateway."""
    clients = [httpx.AsyncClient(base_url=url, timeout=20) for url in asking.urls]
    yield clients
    for client in clients:
        await client.aclose()


def notes(mesh: RunningMesh) -> list[str]:
    """What reached the server so far."""
    file = mesh.room / "notes"
    return file.read_text().splitlines() if file.exists() else []


def holder(mesh: RunningMesh) -> str:
    """The runner that holds the server."""
    for runner in ("runner-1", "runner-2"):
        if any(CROWD.name in process.command for process in mesh.children_of(runner)):
            return runner
    raise AssertionError("nobody holds the server")


async def ask(base: str, **more: object) -> HttpAnswer:
    """A call of a modern client."""
    params = {"name": "crowd__ask", "arguments": {}, **more}
    params["_meta"] = {**wire.envelope(), **CAN}
    return await wire.post_modern(base, "tools/call", params)


async def kill_holder(mesh: RunningMesh) -> tuple[str, int, float]:
    """Kill the runner with the server; the broker has seen it when this returns."""
    runner = holder(mesh)
    old = mesh.kill(runner)
    killed = time.monotonic()
    await asyncio.sleep(0.2)  # for the kernel to close its sockets on a loaded machine
    return runner, old, killed


async def served_again(mesh: RunningMesh, runner: str, old: int) -> None:
    """Wait until the server runs elsewhere, and the dead runner too."""
    await answered_within(10.0, lambda: ask(mesh.urls[1]))
    await asyncio.to_thread(mesh.await_restart, runner, old)


async def test_modern_client_gets_an_error_with_outcome_when_the_runner_of_its_call_was_killed(
    asking: RunningMesh,
) -> None:
    base = asking.http
    _, answer = await answered_within(10.0, lambda: ask(base))
    asked: Any = answer.json["result"]
    assert asked["resultType"] == "input_required"
    runner, old, _ = await kill_holder(asking)
    began = time.monotonic()
    answers = dict.fromkeys(asked["inputRequests"], ACCEPT)
    # At whichever gateway the answer arrives, and as often as it is tried.
    for gateway in asking.urls:
        lost = await ask(gateway, inputResponses=answers, requestState=asked["requestState"])
        assert lost.json["error"]["code"] == -31010, lost
        assert lost.json["error"]["data"]["outcome"] == "unknown"
    assert time.monotonic() - began < 1.0
    await served_again(asking, runner, old)


async def test_legacy_client_in_mid_question_gets_an_error_with_outcome_when_the_runner_was_killed(
    asking: RunningMesh, at: list[httpx.AsyncClient]
) -> None:
    await answered_within(10.0, lambda: ask(asking.http))
    session = await Session.open(at[0])
    async with session.call("crowd__ask") as events:
        question = await events.next()
        assert question["method"] == "elicitation/create"
        runner, old, _ = await kill_holder(asking)
        began = time.monotonic()
        await session.at(at[1]).post({"id": question["id"], "result": ACCEPT})
        lost = await events.last()
        assert time.monotonic() - began < 1.0
    assert lost["error"]["code"] == -31010, lost
    assert lost["error"]["data"]["outcome"] == "unknown"
    await served_again(asking, runner, old)
    # The session goes on, with the server's new process.
    async with session.call("crowd__ask", 2) as events:
        question = await events.next()
        await session.post({"id": question["id"], "result": ACCEPT})
        assert "red" in (await events.last())["result"]["content"][0]["text"]


async def test_line_client_in_mid_question_gets_an_error_with_outcome_when_the_runner_was_killed(
    asking: RunningMesh,
) -> None:
    await answered_within(10.0, lambda: ask(asking.http))
    async with wire.lines(asking.tcp) as peer:
        await peer.initialize(capabilities={"elicitation": {}})
        number = await peer.post("tools/call", {"name": "crowd__ask", "arguments": {}})
        question = await peer.read()
        assert question["method"] == "elicitation/create"
        runner, old, _ = await kill_holder(asking)
        began = time.monotonic()
        reply = {"jsonrpc": "2.0", "id": question["id"], "result": ACCEPT}
        await peer.send(json.dumps(reply).encode() + b"\n")
        lost = await peer.answer(number)
        assert time.monotonic() - began < 1.0
        assert (lost["error"]["code"], lost["error"]["data"]["outcome"]) == (-31010, "unknown")
    await served_again(asking, runner, old)


async def test_server_is_told_that_nobody_answers_when_the_gateway_of_its_question_was_killed(
    asking: RunningMesh, at: list[httpx.AsyncClient]
) -> None:
    await answered_within(10.0, lambda: ask(asking.urls[1]))
    session = await Session.open(at[0])
    async with session.call("crowd__ask") as events:
        await events.next()
        asked = notes(asking)[-1]
        assert asked.startswith("asks ")
        old = asking.pids["gateway-1"]
        os.kill(old, signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises((httpx.HTTPError, AssertionError)):
            assert await events.next()
    assert time.monotonic() - killed < 1.0, "the client's stream ends with its gateway"
    # The session goes on at the other one while the lost call still waits.
    elsewhere = session.at(at[1])
    async with elsewhere.call("crowd__ask", 2) as events:
        question = await events.next()
        assert question["id"].startswith("gateway-2.")
        await elsewhere.post({"id": question["id"], "result": ACCEPT})
        assert "red" in (await events.last())["result"]["content"][0]["text"]
    gave_up = asked.replace("asks", "heard") + " cancel"
    await eventually(
        lambda: gave_up in notes(asking), timeout_s=PARKED_S + 3, what="the server is told"
    )
    assert time.monotonic() - killed > PARKED_S - 1.0
    await asyncio.to_thread(asking.await_restart, "gateway-1", old)

"""Deaths while a server waits for its client: it goes on elsewhere, or a clear error comes."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio
from tests.e2e import wire
from tests.e2e.legacy_http import Session
from tests.e2e.processes import Process
from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.slow

ASKING = Path(__file__).parents[2] / "services" / "tool-runner" / "tests" / "asking_server.py"
CAN = {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
ACCEPT = {"action": "accept", "content": {"colour": "red"}}


@pytest.fixture(scope="module")
def asking(mesh_pair: RunningMesh) -> RunningMesh:
    """The pair with a server of the old era that asks."""
    mesh_pair.mesh("server", "add", "asking", "--", sys.executable, str(ASKING))
    return mesh_pair


@pytest_asyncio.fixture
async def at(asking: RunningMesh) -> AsyncIterator[list[httpx.AsyncClient]]:
    """A connection to each gateway."""
    clients = [httpx.AsyncClient(base_url=url, timeout=20) for url in asking.urls]
    yield clients
    for client in clients:
        await client.aclose()


def child_of(mesh: RunningMesh, runner: str) -> Process | None:
    found = [p for p in mesh.children_of(runner) if ASKING.name in p.command]
    return found[0] if found else None


async def choose(base: str, **more: object) -> Any:
    """A call of a modern client."""
    params = {"name": "asking__choose", "arguments": {}, **more}
    params["_meta"] = {**wire.envelope(), **CAN}
    return (await wire.post_modern(base, "tools/call", params)).json


async def asked_at(base: str) -> Any:
    """The question, once the server is served."""
    until = time.monotonic() + 10
    answer = await choose(base)
    while "error" in answer:
        assert time.monotonic() < until, answer
        await asyncio.sleep(0.05)
        answer = await choose(base)
    return answer["result"]


async def test_answer_goes_on_at_the_other_gateway_in_both_eras(
    asking: RunningMesh, at: list[httpx.AsyncClient]
) -> None:
    one, other = asking.urls
    asked = await asked_at(one)
    answers = dict.fromkeys(asked["inputRequests"], ACCEPT)
    done = await choose(other, inputResponses=answers, requestState=asked["requestState"])
    assert done["result"]["content"][0]["text"] == "accept: red"

    session = await Session.open(at[0])
    async with session.call("asking__choose") as events:
        question = await events.next()
        await session.at(at[1]).post({"id": question["id"], "result": ACCEPT})
        assert (await events.last())["result"]["content"][0]["text"] == "accept: red"


async def test_gateway_killed_in_mid_question_ends_the_stream_and_not_the_session(
    asking: RunningMesh, at: list[httpx.AsyncClient]
) -> None:
    asked = await asked_at(asking.urls[0])
    session = await Session.open(at[0])
    async with session.call("asking__choose") as events:
        question = await events.next()
        os.kill(asking.pids["gateway-1"], signal.SIGKILL)
        with pytest.raises((httpx.HTTPError, AssertionError)):
            assert await events.next()
    elsewhere = session.at(at[1])
    late = await elsewhere.post({"id": question["id"], "result": ACCEPT})
    assert late.status_code == 202
    async with elsewhere.call("asking__choose") as events:
        again = await events.next()
        assert again["id"].startswith("gateway-2.")
        await elsewhere.post({"id": again["id"], "result": ACCEPT})
        assert (await events.last())["result"]["content"][0]["text"] == "accept: red"
    # The modern client had its question from the dead gateway, and answers at the living one.
    answers = dict.fromkeys(asked["inputRequests"], ACCEPT)
    done = await choose(asking.urls[1], inputResponses=answers, requestState=asked["requestState"])
    assert done["result"]["content"][0]["text"] == "accept: red"


async def test_runner_killed_with_a_parked_call_is_a_clear_error_soon(
    asking: RunningMesh,
) -> None:
    base = asking.urls[1]
    asked = await asked_at(base)
    runner = next(one for one in ("runner-1", "runner-2") if child_of(asking, one))
    os.kill(asking.pids[runner], signal.SIGKILL)
    answers = dict.fromkeys(asked["inputRequests"], ACCEPT)
    began = time.monotonic()
    lost = await choose(base, inputResponses=answers, requestState=asked["requestState"])
    # The answer may have gone out before the broker saw the death: then it waits for its ack.
    assert time.monotonic() - began < 6.0
    assert lost["error"]["code"] == -31010
    assert lost["error"]["data"]["outcome"] == "unknown"
    assert msgspec.json.encode(asked["requestState"]) not in msgspec.json.encode(lost)
    # A new call is served by the other runner.
    assert (await asked_at(base))["resultType"] == "input_required"

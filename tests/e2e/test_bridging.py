"""Servers that ask their client in mid-call, bridged between the eras, with the official SDK.

A server of the old era sends requests of its own, one of the new era answers ``input_required``; an
old client expects requests, a new one repeats its call. All four pairs, on both kinds of edge.
"""

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.types import (
    INTERNAL_ERROR,
    CreateMessageResult,
    ElicitResult,
    ErrorData,
    ListRootsResult,
    Root,
    TextContent,
)
from tests.e2e import wire
from tests.e2e.legacy_http import Session
from tests.e2e.running_mesh import MESH, RunningMesh

REPOSITORY = Path(__file__).parents[2]
RUNNER_TESTS = REPOSITORY / "services" / "tool-runner" / "tests"
ASKING = RUNNER_TESTS / "asking_server.py"
CURIOUS = RUNNER_TESTS / "curious_server.py"
RESOLVING = Path(__file__).parent / "servers" / "resolving.py"
MODES = ("legacy", "2026-07-28")
EDGES = ("http", "stdio")


@pytest.fixture(scope="module")
def bridged(mesh: RunningMesh) -> RunningMesh:
    """The mesh with servers of both eras that ask."""
    mesh.mesh("server", "add", "asking", "--", sys.executable, str(ASKING))
    mesh.mesh("server", "add", "curious", "--", sys.executable, str(CURIOUS))
    mesh.mesh("server", "add", "resolving", "--", sys.executable, str(RESOLVING))
    return mesh


class User:
    """The person, the model and the disk behind a client."""

    def __init__(self, elicited: ElicitResult | ErrorData | None = None) -> None:
        self.elicited = elicited or ElicitResult(action="accept", content={"colour": "blue"})
        self.sampled: CreateMessageResult | ErrorData = CreateMessageResult(
            role="assistant", content=TextContent(type="text", text="hello"), model="m"
        )
        self.asked: list[Any] = []

    async def elicit(self, context: Any, params: Any) -> ElicitResult | ErrorData:
        self.asked.append(params)
        return self.elicited

    async def sample(self, context: Any, params: Any) -> CreateMessageResult | ErrorData:
        self.asked.append(params)
        return self.sampled

    async def roots(self, context: Any) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///here")])  # type: ignore[arg-type]


@asynccontextmanager
async def client_of(mesh: RunningMesh, edge: str, mode: str, user: User) -> Any:
    server: Any = mesh.mcp
    if edge == "stdio":
        server = StdioServerParameters(command=MESH, args=["stdio", "--state", str(mesh.state)])
    async with Client(
        server,
        mode=mode,  # type: ignore[arg-type]
        read_timeout_seconds=20,
        elicitation_callback=user.elicit,
        sampling_callback=user.sample,
        list_roots_callback=user.roots,
    ) as client:
        yield client


def text_of(result: Any) -> str:
    return "".join(part.text for part in result.content)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("edge", EDGES)
async def test_old_server_asks_its_client_whatever_its_era(
    bridged: RunningMesh, edge: str, mode: str
) -> None:
    user = User()
    async with client_of(bridged, edge, mode, user) as client:
        chosen = await client.call_tool("asking__choose", {})
        assert (text_of(chosen), chosen.is_error) == ("accept: blue", False)
        assert text_of(await client.call_tool("asking__sample", {})) == "hello"
        assert text_of(await client.call_tool("asking__roots", {})) == "file:///here"
    assert user.asked[0].message == "Which colour?"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("edge", EDGES)
async def test_new_server_asks_its_client_whatever_its_era(
    bridged: RunningMesh, edge: str, mode: str
) -> None:
    user = User()
    async with client_of(bridged, edge, mode, user) as client:
        assert text_of(await client.call_tool("resolving__era", {})) == "2026-07-28"
        assert text_of(await client.call_tool("resolving__choose", {})) == "accept: blue"
        assert text_of(await client.call_tool("resolving__praise", {})) == "hello"
        assert text_of(await client.call_tool("resolving__roots", {})) == "file:///here"
    assert user.asked[-1].messages[0].content.text == "praise accept"


@pytest.mark.parametrize("mode", MODES)
async def test_old_server_hears_that_its_user_declined(bridged: RunningMesh, mode: str) -> None:
    user = User(ElicitResult(action="decline"))
    async with client_of(bridged, "http", mode, user) as client:
        assert text_of(await client.call_tool("asking__choose", {})) == "decline: None"


async def test_old_server_hears_the_error_of_an_old_client(bridged: RunningMesh) -> None:
    user = User()
    user.sampled = ErrorData(code=INTERNAL_ERROR, message="no model here")
    async with client_of(bridged, "http", "legacy", user) as client:
        with pytest.raises(MCPError, match="no model here"):
            await client.call_tool("asking__sample", {})


@pytest.mark.parametrize("mode", MODES)
async def test_client_that_declared_nothing_is_not_asked(bridged: RunningMesh, mode: str) -> None:
    async with Client(bridged.mcp, mode=mode, read_timeout_seconds=20) as client:  # type: ignore[arg-type]
        with pytest.raises(MCPError, match="does not support elicitation"):
            await client.call_tool("asking__choose", {})


async def test_old_server_hears_at_once_that_its_waiting_call_was_cancelled(
    bridged: RunningMesh,
) -> None:
    async with httpx.AsyncClient(base_url=bridged.http, timeout=20) as client:
        session = await Session.open(client)
        async with session.call("curious__ask", 5) as events:
            assert (await events.next())["method"] == "elicitation/create"
            cancel = {"method": "notifications/cancelled", "params": {"requestId": 5}}
            await session.post(cancel)
            assert "cancelled" in (await events.last())["error"]["message"]
        until = time.monotonic() + 5
        while '"cancelled"' not in (seen := await asked_seen(session)):
            assert time.monotonic() < until, seen
            await asyncio.sleep(0.02)
        assert '"action": "cancel"' in seen


async def asked_seen(session: Session) -> str:
    """What the server got for its questions."""
    async with session.call("curious__seen", 6) as events:
        result = (await events.last())["result"]
    return str(result["content"][0]["text"])


async def test_link_goes_to_an_old_client_with_its_end_and_to_a_new_one_without(
    bridged: RunningMesh,
) -> None:
    async with httpx.AsyncClient(base_url=bridged.http, timeout=20) as client:
        session = await Session.open(client)
        async with session.call("curious__link") as events:
            asked = await events.next()
            assert (asked["params"]["mode"], asked["params"]["elicitationId"]) == ("url", "e1")
            await session.post({"id": asked["id"], "result": {"action": "accept"}})
            told = await events.next()
            assert told["method"] == "notifications/elicitation/complete"
            assert (await events.last())["result"]
        # Error -32042 of an old server: the link first, then the call again.
        async with session.call("curious__pay_first") as events:
            asked = await events.next()
            assert asked["params"]["url"] == "https://e.x/"
            await session.post({"id": asked["id"], "result": {"action": "accept"}})
            assert "paid" in str(await events.last())
    can = {"elicitation": {"url": {}}}
    meta = wire.envelope(**{"io.modelcontextprotocol/clientCapabilities": can})
    params: dict[str, Any] = {"name": "curious__link", "arguments": {}, "_meta": meta}
    asked = (await wire.post_modern(bridged.http, "tools/call", params)).json["result"]
    params["inputResponses"] = {key: {"action": "accept"} for key in asked["inputRequests"]}
    params["requestState"] = asked["requestState"]
    answer = await wire.post_modern(bridged.http, "tools/call", params)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json["result"]["resultType"] == "complete"

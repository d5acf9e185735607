"""Python clients that the product does not depend on: the SDK of the old line, fastmcp with tasks.

The SDK 2.3 in its modes is in ``tests/e2e/test_official_clients.py``.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastmcp
import fastmcp_tasks  # noqa: F401 - teaches the client to drive tasks
import mcp.types
import pytest
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport
from tests.conftest import LAB
from tests.e2e.running_mesh import MESH, RunningMesh
from tests.interop import peers

SERVERS = Path(__file__).parents[1] / "e2e" / "servers"
NAME = "pyevery"
EDGES = ("http", "stdio")
FORM = "Please provide inputs for the following fields:"


@pytest.fixture(scope="module")
def served(installed: None, mesh: RunningMesh) -> Iterator[RunningMesh]:
    servers = {
        NAME: (peers.NODE, peers.EVERYTHING, "stdio"),
        "pyask": (sys.executable, str(SERVERS / "resolving.py")),
        "pylab": (sys.executable, str(LAB)),
    }
    with peers.lent(mesh, servers):
        yield mesh


@pytest.mark.parametrize("edge", EDGES)
def test_v1_client_uses_every_part_of_the_protocol(served: RunningMesh, edge: str) -> None:
    target = [served.mcp] if edge == "http" else [MESH, "stdio", "--state", str(served.state)]
    told = peers.script("sdk_v1.py", NAME, *target)
    assert (told["server"], told["revision"]) == ("mesh", "2025-11-25")
    assert bool(told["session"]) is (edge == "http")
    assert {f"{NAME}__echo", f"{NAME}__get-sum", "kv_set"} <= set(told["tools"])
    assert told["sum"] == "The sum of 20 and 22 is 42."
    assert told["wrong"] is True
    assert told["unknown"] == mcp.types.INVALID_PARAMS
    assert told["progress"] == [[1, 3], [2, 3], [3, 3]]
    assert told["asked"] == [
        ["elicitation", FORM],
        ["sampling", "Resource trigger-sampling-request context: speak"],
    ]
    assert "Name: Ada\n- Agreed to terms: true" in told["elicited"]
    assert '"model": "parrot"' in told["sampled"]
    assert told["read"].startswith("Resource 7: This is a plaintext resource")
    assert told["updated"] == "demo://resource/static/document/features.md"
    assert f"{NAME}__args-prompt" in told["prompts"]
    assert told["prompt"] == "What's weather in Oslo?"
    assert told["completed"] == ["Sales", "Support"]


def transport(mesh: RunningMesh, edge: str) -> Any:
    if edge == "http":
        return mesh.mcp
    return StdioTransport(MESH, ["stdio", "--state", str(mesh.state)], keep_alive=False)


@pytest.mark.parametrize("edge", EDGES)
async def test_fastmcp_client_is_asked_by_servers_of_both_eras(
    served: RunningMesh, edge: str
) -> None:
    asked: list[str] = []
    heard: list[float] = []

    async def elicit(message: str, kind: Any, params: Any, context: Any) -> Any:
        asked.append(message)
        answer = {"name": "Ada", "check": True} if message == FORM else {"colour": "blue"}
        return ElicitResult(action="accept", content=answer)

    async def sample(messages: Any, params: Any, context: Any) -> str:
        asked.append(messages[0].content.text)
        return "polly"

    async def progress(at: float, total: float | None, message: str | None) -> None:
        heard.append(at)

    async with fastmcp.Client(
        transport(served, edge),
        timeout=20,
        elicitation_handler=elicit,
        sampling_handler=sample,
        roots=["file:///fast"],
        progress_handler=progress,
    ) as client:
        old = await client.call_tool(f"{NAME}__trigger-elicitation-request")
        assert "Name: Ada" in old.content[1].text
        old = await client.call_tool(f"{NAME}__trigger-sampling-request", {"prompt": "speak"})
        assert "polly" in old.content[0].text
        new = await client.call_tool("pyask__choose")
        assert new.content[0].text == "accept: blue"
        assert (await client.call_tool("pyask__praise")).content[0].text == "polly"
        assert (await client.call_tool("pyask__roots")).content[0].text == "file:///fast"
        await client.call_tool("pylab__steps", {"steps": 3})
    assert asked == [
        FORM,
        "Resource trigger-sampling-request context: speak",
        "Which colour?",
        "Which colour?",
        "praise accept",
    ]
    assert heard == [1, 2, 3]


@pytest.mark.parametrize("edge", EDGES)
async def test_fastmcp_client_lists_reads_and_prompts(served: RunningMesh, edge: str) -> None:
    async with fastmcp.Client(transport(served, edge), timeout=20) as client:
        resources = {str(one.uri) for one in await client.list_resources()}
        assert "demo://resource/static/document/features.md" in resources
        read = await client.read_resource("demo://resource/dynamic/text/7")
        assert read[0].text.startswith("Resource 7: This is a plaintext resource")
        assert f"{NAME}__args-prompt" in {one.name for one in await client.list_prompts()}
        prompt = await client.get_prompt(f"{NAME}__args-prompt", {"city": "Oslo"})
        assert prompt.messages[0].content.text == "What's weather in Oslo?"

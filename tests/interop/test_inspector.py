"""The official Inspector on the command line, in both eras, over HTTP and as a stdio client."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.running_mesh import MESH, RunningMesh
from tests.interop import peers

pytestmark = pytest.mark.slow

NAME = "insevery"
ERAS = ("legacy", "modern")
TOOL_SAID_ERROR = 5
SUM = ("tools/call", "--tool-name", f"{NAME}__get-sum", "--tool-args-json")


@pytest.fixture(scope="module")
def served(installed: None, mesh: RunningMesh) -> Iterator[RunningMesh]:
    with peers.lent(mesh, {NAME: (peers.NODE, peers.EVERYTHING, "stdio")}):
        yield mesh


def inspect(mesh: RunningMesh, era: str, edge: str, *words: str, code: int = 0) -> dict[str, Any]:
    """One run of it; a question nobody answers would hang it, so its time is limited."""
    options = ["--protocol-era", era, "--format", "json", "-q", "--connect-timeout", "15000"]
    if edge == "http":
        command = [*options, "--server-url", mesh.mcp, "--transport", "http", "--method", *words]
    else:
        target = ["--", MESH, "stdio", "--state", str(mesh.state)]
        command = [*options, "--transport", "stdio", "--method", *words, *target]
    ran = peers.run([peers.NODE, peers.INSPECTOR, "--cli", *command], timeout_s=30)
    assert ran.returncode == code, f"{ran.returncode}\n{ran.stderr}\n{ran.stdout[:2000]}"
    return json.loads(ran.stdout)["result"]


@pytest.mark.parametrize("era", ERAS)
def test_inspector_lists_what_there_is(served: RunningMesh, era: str) -> None:
    tools = {one["name"]: one for one in inspect(served, era, "http", "tools/list")["tools"]}
    assert tools[f"{NAME}__get-sum"]["inputSchema"]["required"] == ["a", "b"]
    assert "kv_set" in tools
    resources = inspect(served, era, "http", "resources/list")["resources"]
    assert "demo://resource/static/document/features.md" in {one["uri"] for one in resources}
    templates = inspect(served, era, "http", "resources/templates/list")["resourceTemplates"]
    assert "demo://resource/dynamic/text/{resourceId}" in {one["uriTemplate"] for one in templates}
    prompts = {one["name"]: one for one in inspect(served, era, "http", "prompts/list")["prompts"]}
    assert prompts[f"{NAME}__args-prompt"]["arguments"][0]["name"] == "city"


@pytest.mark.parametrize("era", ERAS)
def test_inspector_calls_reads_and_gets(served: RunningMesh, era: str) -> None:
    summed = inspect(served, era, "http", *SUM, '{"a":2,"b":3}')
    assert peers.said_by(summed) == "The sum of 2 and 3 is 5."
    wrong = inspect(served, era, "http", *SUM, '{"a":"x"}', code=TOOL_SAID_ERROR)
    assert "expected number" in peers.said_by(wrong)
    read = inspect(served, era, "http", "resources/read", "--uri", "demo://resource/dynamic/text/3")
    assert read["contents"][0]["text"].startswith("Resource 3:")
    words = ("prompts/get", "--prompt-name", f"{NAME}__args-prompt", "--prompt-args", "city=Oslo")
    got = inspect(served, era, "http", *words)
    assert got["messages"][0]["content"]["text"] == "What's weather in Oslo?"


@pytest.mark.parametrize("era", ERAS)
def test_inspector_starts_the_stdio_edge_and_calls(served: RunningMesh, era: str) -> None:
    tools = inspect(served, era, "stdio", "tools/list")["tools"]
    assert f"{NAME}__get-sum" in {one["name"] for one in tools}
    summed = inspect(served, era, "stdio", *SUM, '{"a":2,"b":3}')
    assert peers.said_by(summed) == "The sum of 2 and 3 is 5."

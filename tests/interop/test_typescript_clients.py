"""The TypeScript SDKs, v1 and v2, do through the mesh what they do with a server of their own."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.running_mesh import RunningMesh
from tests.interop import peers

pytestmark = pytest.mark.slow

SERVERS = Path(__file__).parents[1] / "e2e" / "servers"
NAME = "tsevery"
FORM = "Please provide inputs for the following fields:"
LINK = "Please open the link to complete this action."


@pytest.fixture(scope="module")
def served(installed: None, mesh: RunningMesh) -> Iterator[RunningMesh]:
    """A server of the old era with everything, and two of the new era."""
    servers = {
        NAME: (peers.NODE, peers.EVERYTHING, "stdio"),
        "tsask": (sys.executable, str(SERVERS / "resolving.py")),
        "tswatch": (sys.executable, str(SERVERS / "watched.py")),
    }
    with peers.lent(mesh, servers):
        yield mesh


@pytest.fixture(scope="module")
def first(served: RunningMesh) -> dict[str, Any]:
    return peers.script("sdk_v1.mjs", served.mcp, NAME)


def test_v1_client_has_a_session_until_it_terminates_it(first: dict[str, Any]) -> None:
    assert first["revision"] == "2025-11-25"
    assert len(first["session"]) >= 32
    assert first["server"]["name"] == "mesh"
    assert first["afterwards"] == 404


def test_v1_client_calls_tools(first: dict[str, Any]) -> None:
    assert {f"{NAME}__echo", f"{NAME}__get-sum", "kv_set"} <= set(first["tools"])
    assert first["sum"] == "The sum of 20 and 22 is 42."
    assert first["structured"]["conditions"] == "Light rain / drizzle"
    assert first["image"] == ["text", "image/png", "text"]
    assert first["wrong"] is True
    assert first["progress"] == [[1, 3], [2, 3], [3, 3]]
    assert "Steps: 3" in first["long"]
    assert "enough" in first["aborted"]


def test_v1_client_is_asked_by_the_server_in_mid_call(first: dict[str, Any]) -> None:
    assert ["elicitation", "form", FORM] in first["asked"]
    assert ["elicitation", "url", LINK] in first["asked"]
    assert ["sampling", "Resource trigger-sampling-request context: speak", 7] in first["asked"]
    assert "Name: Ada\n- Agreed to terms: true" in first["elicited"]
    assert "User completed the URL elicitation flow" in first["linked"]
    assert '"model": "parrot"' in first["sampled"]
    assert "file:///v1" in first["roots"]


def test_v1_client_reads_resources_and_hears_that_one_changed(first: dict[str, Any]) -> None:
    assert "demo://resource/static/document/architecture.md" in first["resources"]
    assert "demo://resource/dynamic/text/{resourceId}" in first["templates"]
    assert first["read"]["text"].startswith("Resource 7: This is a plaintext resource")
    assert first["updated"] == first["watched"]


def test_v1_client_gets_prompts_and_completions(first: dict[str, Any]) -> None:
    assert f"{NAME}__args-prompt" in first["prompts"]
    assert first["prompt"] == "What's weather in Oslo?"
    assert first["completed"] == ["Sales", "Support"]


def test_v1_client_runs_a_tool_as_a_task_of_the_server(first: dict[str, Any]) -> None:
    assert first["task"][0] == "taskCreated"
    assert first["task"][-2:] == ["completed", "# Research Report: moss"]
    assert set(first["task"][1:-2]) <= {"working"}


@pytest.mark.parametrize("mode", ["auto", "legacy", "2026-07-28"])
def test_v2_client_lists_calls_is_asked_and_listens(served: RunningMesh, mode: str) -> None:
    told = peers.script("sdk_v2.mjs", served.mcp, NAME, mode, "tsask", "tswatch")
    modern = mode != "legacy"
    assert told["era"] == ("modern" if modern else "legacy")
    assert told["revision"] == ("2026-07-28" if modern else "2025-11-25")
    assert (told["session"] is None) is modern

    assert {f"{NAME}__echo", f"{NAME}__get-sum", "kv_set"} <= set(told["tools"])
    assert told["sum"] == "The sum of 20 and 22 is 42."
    assert told["structured"]["conditions"] == "Light rain / drizzle"
    assert told["wrong"] is True
    assert told["progress"] == [[1, 3], [2, 3], [3, 3]]
    assert "enough" in told["aborted"]

    assert told["asked"] == [
        ["elicitation", "form", FORM],
        ["sampling", "Resource trigger-sampling-request context: speak"],
        ["elicitation", "form", "Which colour?"],
        ["elicitation", "form", "Which colour?"],
        ["sampling", "praise accept"],
    ]
    assert "Name: Ada\n- Agreed to terms: true" in told["elicited"]
    assert '"model": "parrot"' in told["sampled"]
    assert (told["chosen"], told["praised"]) == ("accept: blue", "polly")
    assert told["rooted"] == "file:///v2"

    assert told["read"]["text"].startswith("Resource 7: This is a plaintext resource")
    if modern:
        filter_ = {"toolsListChanged": True, "resourceSubscriptions": [told["watched"]]}
        assert told["honoured"] == filter_
        assert told["closed"] == "local"
    assert told["updated"] == told["watched"]
    assert told["changed"] is True
    assert f"tswatch__grown_{mode}" in told["grown"]
    assert told["prompt"] == "What's weather in Oslo?"
    assert told["completed"] == ["Sales", "Support"]

"""Outputs that no edge could give out are stored, and a link stands in their place."""

from typing import Any

import msgspec
import pytest

from mcp_proto.contracts.swarm import StepError, WorkItem, WorkResult
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.limits import STEP_OUTPUT_BYTES_MAX
from mesh_sdk.swarm.large_outputs import deliverable
from mesh_sdk.swarm.steps import StepFailedError

ITEM = WorkItem(
    agent="agent_1", epoch=1, item="task_1.a-0-1", task="task_1", phase="a", step="a-0",
    attempt=1, kind="call", payload=msgspec.Raw(b"{}"),
)  # fmt: skip
LARGE = b'"' + b"x" * STEP_OUTPUT_BYTES_MAX + b'"'


class Storing:
    """``Gateway`` of a mesh that stores, or does not."""

    def __init__(self, answer: dict[str, Any] | StepFailedError) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def request(
        self, tenant: str, item: WorkItem, method: str, params: msgspec.Raw, *, timeout_s: float
    ) -> msgspec.Raw:
        assert (item, method, timeout_s > 0) == (ITEM, "tools/call", True)
        self.asked.append((tenant, msgspec.json.decode(params)))
        if isinstance(self.answer, StepFailedError):
            raise self.answer
        return msgspec.Raw(msgspec.json.encode(self.answer))


def stored(uri: str, size: int) -> dict[str, Any]:
    return {"structuredContent": {"key": "k", "uri": uri, "size": size}, "content": []}


def result(structured: bytes = b"", text: str = "", status: str = "ok") -> WorkResult:
    return WorkResult(
        agent="agent_1",
        epoch=1,
        item=ITEM.item,
        status=status,  # type: ignore[arg-type]
        structured=msgspec.Raw(structured) if structured else ABSENT,
        text=text,
    )


async def delivered(gateway: Storing, one: WorkResult) -> WorkResult:
    return await deliverable(gateway, "acme", ITEM, one)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "body", "media_type"),
    [
        (result(LARGE), LARGE.decode(), "application/json"),
        (result(text="ä" * STEP_OUTPUT_BYTES_MAX), "ä" * STEP_OUTPUT_BYTES_MAX, "text/plain"),
    ],
    ids=["json", "text"],
)
async def test_a_large_output_becomes_an_artifact_and_its_link(
    given: WorkResult, body: str, media_type: str
) -> None:
    gateway = Storing(stored("mesh://artifacts/x", 9))
    found = await delivered(gateway, given)
    ((tenant, asked),) = gateway.asked
    assert (tenant, asked["name"]) == ("acme", "artifacts_put")
    assert asked["arguments"]["content"] == body
    assert asked["arguments"]["contentType"].startswith(media_type)
    link = msgspec.json.decode(found.structured)
    assert (found.status, found.text, found.artifacts) == ("ok", "", ("mesh://artifacts/x",))
    assert (link["type"], link["uri"], link["size"]) == ("resource_link", "mesh://artifacts/x", 9)


@pytest.mark.parametrize("given", [result(b'{"a":1}'), result(LARGE, status="error")])
async def test_other_results_stay_as_they_are(given: WorkResult) -> None:
    gateway = Storing(stored("u", 1))
    assert await delivered(gateway, given) is given
    assert gateway.asked == []


@pytest.mark.parametrize(
    "answer",
    [
        StepFailedError("no permission PutArtifacts", type="tool", retryable=False),
        {"isError": True, "content": [{"type": "text", "text": "the store is full"}]},
        {"structuredContent": {"key": "k"}},
    ],
)
async def test_an_output_that_cannot_be_stored_is_an_error_that_says_why(answer: Any) -> None:
    found = await delivered(Storing(answer), result(LARGE))
    error = found.error
    assert isinstance(error, StepError)
    assert (found.status, error.type, bytes(found.structured)) == ("error", "limit", b"")
    assert str(STEP_OUTPUT_BYTES_MAX) in error.message

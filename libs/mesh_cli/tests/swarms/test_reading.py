"""Answers of the swarm's tools, as the views read them."""

from typing import Any

import msgspec
import pytest

from mesh_cli.failure import Failure
from mesh_cli.swarms.reading import read_status, read_swarms, read_task, seconds_between


class Gateway:
    """Answers one tool call and remembers it."""

    def __init__(self, structured: object, *, error: bool = False) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._answer = msgspec.json.encode(
            {"content": [], "structuredContent": structured, "isError": error}
        )

    async def __call__(self, method: str, params: dict[str, Any]) -> bytes:
        self.asked.append((method, params))
        return self._answer


async def test_default_swarm_is_asked_for_without_a_name() -> None:
    gateway = Gateway({"swarmId": "swarm_1", "topology": "mesh", "unknown": [1]})
    found = await read_status(gateway, "")
    assert (found.swarm_id, found.messages) == ("swarm_1", 0)
    assert gateway.asked == [
        ("tools/call", {"name": "swarm_status", "arguments": {"verbose": True}})
    ]
    await read_status(gateway, "swarm_1")
    assert gateway.asked[1][1]["arguments"] == {"verbose": True, "swarmId": "swarm_1"}


async def test_refusal_of_a_tool_is_the_end_of_the_command_in_its_words() -> None:
    refused = Gateway({"error": {"code": "swarm", "message": "no such swarm"}}, error=True)
    with pytest.raises(Failure, match="no such swarm"):
        await read_swarms(refused)


@pytest.mark.parametrize("answer", [{"taskId": 5}, [], "x", None])
async def test_answer_of_another_shape_is_refused_by_name(answer: object) -> None:
    with pytest.raises(Failure, match="task_status"):
        await read_task(Gateway(answer), "", "task_1")


def test_times_that_are_not_there_have_no_distance() -> None:
    assert seconds_between("2026-11-21T10:00:00.000Z", "2026-11-21T10:00:01.250Z") == 1.25
    for begin, end in (
        (None, "x"),
        ("", "y"),
        ("x", "y"),
        ("2026-11-21T10:00:00", "2026-11-21T10:00:00Z"),
    ):
        assert seconds_between(begin, end) is None

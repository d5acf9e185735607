"""What resources of a swarm say, and whom they tell it."""

from typing import Any

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.handlers import dispatch, resources

Room = Any


async def read(room: Room, uri: str) -> dict[str, Any]:
    owner = room.swarms.owners[dispatch.swarm_of_uri(uri) or await room.swarms.default(room.caller)]
    result = msgspec.json.decode(await dispatch.read_resource(owner, room.caller, uri))
    (content,) = result["contents"]
    assert (content["uri"], content["mimeType"]) == (uri, "application/json")
    assert result["resultType"] == "complete"
    return msgspec.json.decode(content["text"])


async def test_the_memory_bank_names_what_is_remembered(room: Room) -> None:
    owner = await room.swarm("tool")
    await room.call("memory_store", key="b", value={"x": 1})
    await room.call("memory_store", key="a", value=2, namespace="own")

    bank = await read(room, f"swarm://{owner.state.swarm}/memory")

    assert bank["count"] == 2
    assert {(one["namespace"], one["key"]) for one in bank["keys"]} == {
        ("default", "b"), ("own", "a"),
    }  # fmt: skip
    assert await read(room, "swarm://default/memory") == bank


async def test_the_task_queue_has_what_has_not_ended(room: Room) -> None:
    owner = await room.swarm("tool")
    one = (await room.call("task_orchestrate", task="first"))["taskId"]
    owner.finish_all(1)
    two = (await room.call("task_orchestrate", task="second"))["taskId"]

    queue = await read(room, f"swarm://{owner.state.swarm}/tasks")

    assert [task["taskId"] for task in queue["tasks"]] == [two]
    assert one not in str(queue)


async def test_the_log_of_a_task_has_every_step(room: Room) -> None:
    owner = await room.swarm("tool")
    task = (await room.call("task_orchestrate", task="go"))["taskId"]
    uri = f"swarm://{owner.state.swarm}/tasks/{task}/log"
    begun = await read(room, uri)
    assert begun["steps"][0]["status"] == "assigned"
    assert begun["endedAt"] is None
    owner.finish_all(1)

    done = await read(room, uri)
    (step,) = done["steps"]
    assert (done["status"], step["status"]) == ("completed", "done")
    assert [one["e"] for one in begun["entries"]] == [
        one["e"] for one in done["entries"][: len(begun["entries"])]
    ]
    tags = [one["e"] for one in done["entries"]]
    assert tags[0] == "task"
    assert tags[-1] == "ended"
    assert tags.index("sent") < tags.index("done")
    assert {one["task"] for one in done["entries"] if "task" in one} == {task}
    assert (done["complete"], done["entriesLeftOut"]) == (True, 0)
    assert step["agentId"] in owner.state.agents
    assert done["endedAt"]


async def test_strangers_and_wrong_uris_find_nothing(room: Room) -> None:
    owner = await room.swarm("tool")
    with pytest.raises(MeshError) as caught:
        await dispatch.read_resource(
            owner, room.someone_else("bob").caller, f"swarm://{owner.state.swarm}/memory"
        )
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert caught.value.data["uri"].endswith("/memory")
    for uri in ("swarm://x/y", "swarm:///memory", "http://x/memory", "swarm://a/tasks/t"):
        with pytest.raises(MeshError) as caught:
            dispatch.swarm_of_uri(uri)
        assert caught.value.data == {"uri": uri}
    with pytest.raises(MeshError):
        await read(room, f"swarm://{owner.state.swarm}/tasks/task_0/log")


async def test_a_wish_to_watch_is_refused_for_what_is_not_there() -> None:
    async def exists(swarm: str) -> bool:
        return swarm == "swarm_1"

    verdict = await resources.watched(
        ("swarm://swarm_1/memory", "swarm://default/tasks", "swarm://swarm_2/tasks", "x://y"),
        exists,
    )

    assert set(verdict.refused) == {"swarm://swarm_2/tasks", "x://y"}


def test_changes_are_told_under_every_name_of_a_resource() -> None:
    assert resources.memory_uris("s") == ("swarm://s/memory", "swarm://default/memory")
    assert resources.task_uris("s", "t")[0] == "swarm://s/tasks/t/log"

"""The tools of the memory on a real broker: every answer stands for something stored."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import now_ms
from mesh_chassis.testing.conditions import eventually
from swarm_coordinator.core.spec import SwarmConfig
from swarm_coordinator.handlers import dispatch
from swarm_coordinator.store.memory import SwarmMemory
from swarm_coordinator.store.values import Values

Room = Any
ConnectBus = Callable[..., Awaitable[Bus]]


@pytest_asyncio.fixture
async def memory(connect_bus: ConnectBus, provision: None) -> SwarmMemory:
    """What another replica would read."""
    bus = await connect_bus("swarm-coordinator", "swarm-2")
    return SwarmMemory(bus, "t1", Values(bus, "t1"))


@pytest_asyncio.fixture
async def swarm(room: Room, connect_bus: ConnectBus, memory: SwarmMemory) -> str:
    bus = await connect_bus("swarm-coordinator", "swarm-1")
    room.swarms.clock.advance((now_ms() - room.swarms.now_ms()) / 1000)
    owner = await room.swarm()
    owner.memory = SwarmMemory(bus, "t1", Values(bus, "t1"))
    swarm: str = owner.state.swarm
    return swarm


async def test_a_value_that_was_stored_is_there_for_others_and_comes_back(
    room: Room, swarm: str, memory: SwarmMemory
) -> None:
    stored = await room.call("memory_store", key="plan", value={"steps": [1, 2]})
    assert stored | {"timestamp": 0} == {
        "success": True,
        "key": "plan",
        "namespace": "default",
        "swarmId": swarm,
        "revision": stored["revision"],
        "expiresAt": None,
        "size": 15,
        "warnings": [],
        "timestamp": 0,
    }
    kept = await memory.retrieve(swarm, "default", "plan")
    assert kept is not None
    assert (bytes(kept.value), kept.revision) == (b'{"steps":[1,2]}', stored["revision"])

    found = await room.call("memory_retrieve", key="plan")
    assert (found["found"], found["value"]) == (True, {"steps": [1, 2]})
    assert (found["revision"], found["ttlRemaining"]) == (stored["revision"], None)
    assert found["updatedAt"].endswith("Z")


@pytest.mark.parametrize("value", ["9007199254740993", "1.10", "null", "123456789012345678901"])
async def test_a_value_comes_back_as_it_was_written(room: Room, swarm: str, value: str) -> None:
    owner = room.swarms.owners[swarm]
    # What is put right beside it (a null, a whole number with a point) does not touch it.
    raw = msgspec.Raw(b'{"key":"k","value":%b,"ttl":60.0,"namespace":null}' % value.encode())
    await dispatch.call_on_owner(owner, room.caller, "memory_store", raw)
    body = await dispatch.call_on_owner(
        owner, room.caller, "memory_retrieve", msgspec.Raw(b'{"key":"k"}')
    )
    assert f'"value":{value},'.encode() in body


async def test_what_is_not_there_is_said_so(room: Room, swarm: str) -> None:
    found = await room.call("memory_retrieve", key="nothing", namespace="n")
    assert (found["found"], found["value"], found["revision"]) == (False, None, None)
    assert (found["updatedAt"], found["ttlRemaining"]) == (None, None)
    assert (await room.call("memory_delete", key="nothing"))["deleted"] is False
    listed = await room.call("memory_list")
    assert (listed["keys"], listed["count"], listed.get("cursor")) == ([], 0, None)
    assert swarm == listed["swarmId"]


async def test_a_value_expires(room: Room, swarm: str, memory: SwarmMemory) -> None:
    stored = await room.call("memory_store", key="k", value=1, ttl=1)
    assert stored["expiresAt"].endswith("Z")
    found = await room.call("memory_retrieve", key="k")
    assert 0 < found["ttlRemaining"] <= 1.5

    async def gone() -> bool:
        return await memory.retrieve(swarm, "default", "k") is None

    await eventually(gone)
    assert (await room.call("memory_retrieve", key="k"))["found"] is False


async def test_a_swarm_may_say_how_long_values_live(room: Room, swarm: str) -> None:
    room.swarms.owners[swarm].state.config = SwarmConfig(memory_ttl=60)
    await room.call("memory_store", key="short", value=1, ttl=5)
    await room.call("memory_store", key="usual", value=1)
    short = await room.call("memory_retrieve", key="short")
    usual = await room.call("memory_retrieve", key="usual")
    assert 0 < short["ttlRemaining"] <= 5.5 < usual["ttlRemaining"] <= 60.5


async def test_a_write_over_another_revision_is_refused_and_changes_nothing(
    room: Room, swarm: str
) -> None:
    first = (await room.call("memory_store", key="k", value=1, expectedRevision=0))["revision"]
    error = await room.refused("memory_store", key="k", value=2, expectedRevision=0)
    assert (error["code"], error["reason"], error["revision"]) == ("resource", "conflict", first)
    assert (error["outcome"], error["retryable"]) == ("not_executed", False)
    assert (error["key"], error["swarmId"]) == ("k", swarm)
    assert (await room.call("memory_retrieve", key="k"))["value"] == 1
    second = await room.call("memory_store", key="k", value=2, expectedRevision=first)
    assert second["revision"] > first
    assert (await room.call("memory_delete", key="k"))["deleted"] is True
    error = await room.refused(
        "memory_store", key="k", value=3, expectedRevision=second["revision"]
    )
    assert error["revision"] == 0


async def test_keys_are_listed_in_pages(room: Room, swarm: str) -> None:
    for n in range(5):
        await room.call("memory_store", key=f"run/{n}", value=n, namespace="runs")
    await room.call("memory_store", key="run/9", value=9)
    first = await room.call("memory_list", namespace="runs", prefix="run/", limit=3)
    rest = await room.call(
        "memory_list", namespace="runs", prefix="run/", limit=3, cursor=first["cursor"]
    )
    assert (first["keys"], rest["keys"]) == (
        ["run/0", "run/1", "run/2"],
        ["run/3", "run/4"],
    )
    assert "cursor" not in rest
    assert rest["count"] == 2
    await room.bad("memory_list", cursor="=no")
    assert swarm


async def test_a_cursor_behind_the_longest_key_is_taken_back(room: Room, swarm: str) -> None:
    keys = sorted("💾" * 255 + end for end in "ab")
    for key in keys:
        await room.call("memory_store", key=key, value=1)
    first = await room.call("memory_list", limit=1)
    rest = await room.call("memory_list", limit=1, cursor=first["cursor"])
    assert (first["keys"] + rest["keys"], swarm) == (keys, rest["swarmId"])


async def test_a_large_value_is_kept_and_too_large_a_one_refused(room: Room, swarm: str) -> None:
    value = "x" * 900_000
    stored = await room.call("memory_store", key="k", value=value)
    assert stored["size"] == 900_002
    assert (await room.call("memory_retrieve", key="k"))["value"] == value
    with pytest.raises(Exception, match="1048576"):
        await room.result("memory_store", key="k", value="x" * 1_048_576)
    assert (await room.call("memory_retrieve", key="k", swarmId=swarm))["value"] == value


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"value": 1}, ""),
        ({"key": "k"}, ""),
        ({"key": "", "value": 1}, "/key"),
        ({"key": "k" * 257, "value": 1}, "/key"),
        ({"key": 7, "value": 1}, "/key"),
        ({"key": "k", "value": 1, "ttl": 0}, "/ttl"),
        ({"key": "k", "value": 1, "ttl": 2_592_001}, "/ttl"),
        ({"key": "k", "value": 1, "ttl": 1.5}, "/ttl"),
        ({"key": "k", "value": 1, "expectedRevision": -1}, "/expectedRevision"),
        ({"key": "k", "value": 1, "namespace": ""}, "/namespace"),
        ({"key": "k", "value": 1, "namespace": "n" * 129}, "/namespace"),
    ],
)
async def test_bad_arguments_are_named(
    room: Room, swarm: str, arguments: dict[str, object], where: str
) -> None:
    error = await room.bad("memory_store", **arguments)
    assert error.data.get("where", "") == where
    assert (await room.call("memory_list", swarmId=swarm))["keys"] == []


async def test_the_memory_of_another_principal_is_out_of_reach(room: Room, swarm: str) -> None:
    await room.call("memory_store", key="secret", value=1)
    stranger = room.someone_else("mallory")
    error = await stranger.refused("memory_retrieve", key="secret", swarmId=swarm)
    assert (error["code"], error["reason"]) == ("swarm", "not_found")


async def test_null_counts_as_left_out(room: Room, swarm: str) -> None:
    stored = await room.call(
        "memory_store", key="k", value=None, ttl=None, namespace=None, expectedRevision=None
    )
    assert (stored["expiresAt"], stored["namespace"], stored["swarmId"]) == (None, "default", swarm)
    found = await room.call("memory_retrieve", key="k")
    assert (found["found"], found["value"]) == (True, None)


async def test_a_destroyed_swarm_remembers_nothing_and_takes_nothing(
    room: Room, swarm: str, memory: SwarmMemory
) -> None:
    await room.call("memory_store", key="k", value="x" * 400_000)
    state = room.swarms.owners[swarm].state
    state.status = "destroyed"
    for tool, more in [
        ("memory_store", {"value": 1}),
        ("memory_retrieve", {}),
        ("memory_delete", {}),
    ]:
        error = await room.refused(tool, key="k", swarmId=swarm, **more)
        assert (error["code"], error["reason"]) == ("swarm", "destroyed")
    error = await room.refused("memory_list", swarmId=swarm)
    assert error["reason"] == "destroyed"
    assert await memory.forget(swarm) == 1


async def test_a_value_that_arrives_while_the_swarm_ends_does_not_stay(
    room: Room, swarm: str, memory: SwarmMemory
) -> None:
    owner = room.swarms.owners[swarm]
    store = owner.memory.store

    async def destroyed_meanwhile(*args: object, **more: object) -> object:
        kept = await store(*args, **more)
        owner.state.status = "destroyed"
        return kept

    owner.memory.store = destroyed_meanwhile
    error = await room.refused("memory_store", key="k", value=1, swarmId=swarm)
    assert error["reason"] == "destroyed"
    assert await memory.bank(swarm, 10) == []

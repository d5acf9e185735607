"""The catalogue and what every tool has in common."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest

from mcp_proto.contracts.tasks import policy_of
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.names import SWARM_TOOLS
from swarm_coordinator.handlers import catalog, dispatch

Room = Any
TOOLS = {tool.spec.name: tool for tool in catalog.TOOLS}


def test_the_catalogue_lists_exactly_the_reserved_names_bare() -> None:
    made = catalog.catalog("1.2.3")

    assert {tool.name for tool in made.tools} == SWARM_TOOLS
    assert (made.tenant, made.server, made.prefixed) == ("_", "swarm", False)
    assert policy_of(made.tasks, "task_orchestrate") == "optional"
    assert policy_of(made.tasks, "agent_task") == "optional"
    assert policy_of(made.tasks, "swarm_status") == "never"
    names = {msgspec.json.decode(one)["name"] for one in made.resource_templates}
    assert names == {"memory_bank", "task_queue", "task_log"}
    assert {msgspec.json.decode(one)["name"] for one in made.resources} == {
        "memory_bank", "task_queue",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_schemas_are_valid_and_of_a_form_that_every_client_takes(name: str) -> None:
    spec = TOOLS[name].spec
    for schema in (spec.input_schema, spec.output_schema):
        jsonschema_rs.meta.validate(dict(schema))
        assert schema["type"] == "object"
        assert not {"oneOf", "anyOf", "allOf", "$ref"} & schema.keys()
    assert len(spec.description) > 40
    assert {"timestamp", "warnings"} <= set(spec.output_schema["required"])  # type: ignore[arg-type]
    assert not (spec.read_only and spec.destructive)
    assert len(msgspec.json.encode(spec.input_schema)) < 20_000


@pytest.mark.parametrize("name", sorted(TOOLS))
async def test_arguments_that_are_no_object_are_refused(name: str) -> None:
    for raw in (b"[]", b'"x"', b"3", b"{", b"null", b'{"a":'):
        with pytest.raises(MeshError) as caught:
            dispatch.check(name, msgspec.Raw(raw))
        assert caught.value.kind is ErrorKind.PARAMS


def test_an_unknown_tool_is_not_found() -> None:
    for ask in (dispatch.permission_of, lambda name: dispatch.check(name, msgspec.Raw(b"{}"))):
        with pytest.raises(MeshError) as caught:
            ask("swarm_dance")
        assert caught.value.kind is ErrorKind.NOT_FOUND


def test_a_call_means_the_swarm_it_names() -> None:
    raw = msgspec.Raw(b'{"swarmId":"swarm_1","taskId":"task_1"}')
    assert dispatch.swarm_of("task_status", raw) == "swarm_1"
    assert dispatch.target_of("task_status", raw).task == "task_1"
    assert dispatch.swarm_of("task_status", msgspec.Raw(b'{"swarmId":null}')) == ""
    assert dispatch.swarm_of("swarm_status", msgspec.Raw(b"")) == ""
    assert dispatch.swarm_of("swarm_init", raw) == ""


def test_a_key_in_the_envelope_is_the_key_of_the_tools_that_take_one() -> None:
    arguments = msgspec.Raw(b'{"task":"x"}')

    def keyed(tool: str, meta: object, own: msgspec.Raw = arguments) -> dict[str, object]:
        params = msgspec.Raw(msgspec.json.encode({"arguments": own, "_meta": meta}))
        return msgspec.json.decode(dispatch.with_key(tool, params, own))

    meta = {"mesh/idempotencyKey": "k"}
    assert keyed("task_orchestrate", meta) == {"task": "x", "idempotencyKey": "k"}
    assert keyed("swarm_status", meta) == keyed("agent_task", {}) == {"task": "x"}
    own = msgspec.Raw(b'{"idempotencyKey":"mine"}')
    assert keyed("swarm_init", meta, own) == {"idempotencyKey": "mine"}
    with pytest.raises(MeshError):
        keyed("swarm_init", {"mesh/idempotencyKey": 5})


async def test_every_answer_carries_warnings_and_the_time(room: Room) -> None:
    await room.swarm("tool")
    now = room.swarms.now_ms()
    seen = await room.call("agent_list", colour="red")

    assert seen["timestamp"] == now
    assert seen["warnings"] == ["unknown argument /colour was ignored"]
    assert (await room.call("agent_list"))["warnings"] == []


ASKED: dict[str, dict[str, object]] = {
    "swarm_list": {},
    "swarm_status": {},
    "agent_list": {},
    "agent_status": {"agentId": "tool-1"},
    "task_status": {},
    "task_list": {},
    "task_result": {"taskId": ""},
    "memory_retrieve": {"key": "k"},
    "memory_list": {},
}


async def test_no_reader_answers_the_same_whatever_happened(room: Room) -> None:
    """A tool whose answer does not change with what it is about has made it up."""
    owner = await room.swarm("tool", name="one")
    await room.call("task_orchestrate", task="first")
    owner.finish_all({"n": 1})
    await room.call("memory_store", key="k", value=1)
    before = await answers(room)

    room.swarms.clock.advance(5)
    await room.call("swarm_init", topology="ring", name="two")
    second = await room.swarm("tool", "tool", topology="star", name="three")
    await room.call("task_orchestrate", task="second")
    second.finish_all({"n": 2})
    await room.call("memory_store", key="k", value=2)
    await room.call("memory_store", key="l", value=2)
    after = await answers(room)

    assert {name for name in before if before[name] == after[name]} == set()


async def answers(room: Room) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    last = (await room.call("task_status"))["taskId"]
    for name, asked in ASKED.items():
        arguments = {"taskId": last} if name == "task_result" else asked
        seen = await room.call(name, **arguments)
        moving = {"timestamp", "taskId", "swarmId", "agentId", "updatedAt", "createdAt"}
        found[name] = {key: value for key, value in seen.items() if key not in moving}
    return found

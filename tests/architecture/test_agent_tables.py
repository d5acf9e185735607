"""``[agents]`` of ``mesh.toml`` and the host's own file say the same of what agents may be."""

import msgspec
import pytest

from mesh_agents.config import AgentHostConfig
from mesh_agents.runtimes import settings
from mesh_cli.tables import agents as tables
from mesh_cli.user_file import MeshFile
from swarm_coordinator.config import SwarmCoordinatorConfig


def shape(struct: type[msgspec.Struct]) -> list[tuple[str, object, object]]:
    """Fields with their defaults and JSON Schemas."""
    schema = msgspec.json.schema(struct)
    known = schema["$defs"][struct.__name__]["properties"]
    return [
        (field.name, field.default, _without_names(known[field.encode_name]))
        for field in msgspec.structs.fields(struct)
    ]


def _without_names(schema: dict[str, object]) -> object:
    """A reference to another table says nothing here; that table is compared by itself."""
    text = msgspec.json.encode(schema).decode()
    return text.replace("ReplyTable", "Reply")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (tables.FunctionTable, settings.FunctionEntry),
        (tables.CommandTable, settings.CommandEntry),
        (tables.ModelTable, settings.ModelEntry),
        (tables.ReplyTable, settings.Reply),
    ],
)
def test_entries_of_agents_are_those_of_the_host(
    ours: type[msgspec.Struct], theirs: type[msgspec.Struct]
) -> None:
    assert shape(ours) == shape(theirs)


def test_what_mesh_writes_for_hosts_and_coordinators_is_what_they_read() -> None:
    content = msgspec.convert(
        {
            "agents": {
                "types": ["tester"],
                "roots": ["/a"],
                "functions": [{"name": "f", "call": "m:f"}],
                "commands": [{"name": "c", "argv": ["true", "{x}"]}],
                "models": [{"name": "m", "kind": "scripted", "replies": [{"text": "hi"}]}],
            },
            "swarm": {"max_agents": 5, "agent_timeout_seconds": 60},
        },
        MeshFile,
    )
    service = {"service": {"instance": "x-1"}}
    host = msgspec.convert({**service, **content.agents.for_host("agents")}, AgentHostConfig)
    assert host.host.work_dir == "agents"
    assert (host.types.builtin, host.types.roots) == (("tester",), ("/a",))
    assert (host.functions[0].call, host.commands[0].argv) == ("m:f", ("true", "{x}"))
    assert host.models[0].replies[0].text == "hi"
    tables = content.swarm.for_coordinator(allow_unsigned=True)
    coordinator = msgspec.convert({**service, **tables}, SwarmCoordinatorConfig)
    swarm = coordinator.swarm
    assert (swarm.allow_unsigned, swarm.max_agents, swarm.agent_timeout_s) == (True, 5, 60)

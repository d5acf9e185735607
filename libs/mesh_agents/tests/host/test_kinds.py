import msgspec
import pytest

from mcp_proto.agent_runtimes import CommandEntry, FunctionEntry, ModelEntry
from mesh_agents.config import AgentHostConfig, TypesSection
from mesh_agents.contract import AgentType
from mesh_agents.host.kinds import Kinds, RefusedError, SpawnConfig
from mesh_agents.runtimes.settings import ModelSource
from mesh_chassis.config import ServiceSection

BUILTIN = {
    name: AgentType(name=name, description=name, capabilities=(), run=lambda step: None)
    for name in ("reviewer", "tester", "tool")
}


def kinds(**parts) -> Kinds:
    config = AgentHostConfig(service=ServiceSection(instance="agent-host-1"), **parts)
    return Kinds(config, BUILTIN)


FULL = {
    "functions": (FunctionEntry(name="count", call="m:f"), FunctionEntry(name="sum", call="m:g")),
    "commands": (CommandEntry(name="wc", argv=("wc",)),),
    "models": (ModelEntry(name="first", kind="client"), ModelEntry(name="second", kind="client")),
}


def test_types_are_those_that_can_run():
    assert kinds().types == ("reviewer", "synadia", "tester", "tool")
    assert kinds(types=TypesSection(builtin=("tester",))).types == ("synadia", "tester", "tool")
    assert set(kinds(**FULL).types) >= {"count", "sum", "wc", "function", "command", "llm"}


@pytest.mark.parametrize(
    ("agent_type", "config", "runtime", "loader", "name"),
    [
        ("reviewer", {}, "function", "builtin", "reviewer"),
        ("tool", {}, "tool", "tool", "tool"),
        ("count", {}, "function", "function", "count"),
        ("function", {"function": "sum"}, "function", "function", "sum"),
        ("anything", {"runtime": "function", "function": "sum"}, "function", "function", "sum"),
        ("wc", {}, "command", "command", "wc"),
        ("command", {"command": ["wc"]}, "command", "command", "wc"),
        ("llm", {}, "llm", "llm", "llm"),
        ("reviewer", {"runtime": "llm", "modelSource": "second"}, "llm", "llm", "reviewer"),
        ("synadia", {"agent": "echo"}, "synadia", "", "echo"),
        ("x", {"runtime": "tool"}, "tool", "tool", "x"),
    ],
)
def test_type_and_wish_decide_what_runs(agent_type, config, runtime, loader, name):
    found = kinds(**FULL).resolve(agent_type, msgspec.convert(config, SpawnConfig))
    assert (found.runtime, found.loader, found.name) == (runtime, loader, name)


@pytest.mark.parametrize(
    ("agent_type", "config", "reason", "words"),
    [
        ("nothing", {}, "no_runtime", "types here"),
        ("function", {}, "no_runtime", "count, sum"),
        ("command", {"command": ["rm"]}, "no_runtime", "wc"),
        ("command", {"command": ["wc", "-l"]}, "no_runtime", "alone"),
        ("llm", {"modelSource": "third"}, "no_model_source", "first, second"),
        ("reviewer", {"runtime": "vm"}, "no_runtime", "machine"),
        ("reviewer", {"runtime": "external"}, "no_runtime", "claim"),
        ("reviewer", {"runtime": "magic"}, "no_runtime", "no runtime"),
    ],
)
def test_what_cannot_run_is_refused_with_what_can(agent_type, config, reason, words):
    with pytest.raises(RefusedError) as caught:
        kinds(**FULL).resolve(agent_type, msgspec.convert(config, SpawnConfig))
    assert caught.value.reason == reason
    assert words in caught.value.message


def test_token_of_a_model_is_read_when_an_agent_is_spawned(tmp_path):
    key = tmp_path / "key"
    key.write_text("k1\n")
    entry = ModelEntry(name="m", url="http://x", key_file=str(key))
    found = kinds(models=(entry,)).resolve("llm", SpawnConfig())
    assert msgspec.json.decode(found.settings, type=ModelSource).key == "k1"

import msgspec
import pytest

from mcp_proto.agent_runtimes import CommandEntry
from mcp_proto.server_types.command import parse
from mesh_agents.contract import StepFailedError
from mesh_agents.runtimes.command import command_line, load
from mesh_agents.runtimes.loading import LoadError
from mesh_agents.worker.frames import Init


def line(argv, values, **more):
    entry = CommandEntry(name="c", argv=argv, **more)
    return command_line(entry, tuple(parse(word) for word in argv), values)


def test_values_fill_their_place_and_nothing_else():
    assert line(("grep", "-e{p}", "--", "{f}"), {"p": "a b;c", "f": "-x"}) == [
        "grep", "-ea b;c", "--", "-x",
    ]  # fmt: skip
    assert line(("x", "{n}", "{b}"), {"n": 1.5, "b": True}) == ["x", "1.5", "true"]
    assert line(("x", "{v}"), {"v": "-1"}, allow_dash=("v",)) == ["x", "-1"]


@pytest.mark.parametrize("value", ["-rf", "a\0b", None, [1], {"a": 1}, "x" * 70_000])
def test_value_that_cannot_stand_there_is_refused(value):
    with pytest.raises(StepFailedError) as caught:
        line(("x", "{v}"), {"v": value})
    assert (caught.value.type, caught.value.outcome) == ("input", "not_executed")


@pytest.mark.parametrize(
    ("argv", "words"),
    [(("no-such-program",), "can be run"), (("{x}",), "fixed"), (("cat", "{"), "placeholder")],
)
def test_command_that_cannot_run_is_known_when_it_is_loaded(argv, words):
    settings = msgspec.Raw(msgspec.json.encode(CommandEntry(name="c", argv=argv)))
    init = Init(
        agent="a", kind="command", name="c", config=msgspec.Raw(b"{}"), settings=settings,
        workdir="/",
    )  # fmt: skip
    with pytest.raises(LoadError, match=words):
        load(init)

"""Arguments are put right where clients differ, and refused with the place where they are wrong."""

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.handlers.checking import WARNINGS_MAX, Checker
from swarm_coordinator.handlers.schemas import AGENT_CONFIG, RETRY, obj, text, whole

CHECKER = Checker(
    obj(
        {
            "task": {"oneOf": [{"type": "string"}, obj({"n": whole(1, 9), "retry": RETRY}, "n")]},
            "steps": {"type": "array", "items": obj({"name": text()}, "name")},
            "config": AGENT_CONFIG,
            "params": {"type": "object"},
            "value": {},
            "swarmId": text(most=8),
        },
        "task",
    )
)


def check(**arguments: object) -> tuple[dict[str, object], tuple[str, ...]]:
    checked = CHECKER.check(msgspec.Raw(msgspec.json.encode(arguments)))
    return msgspec.json.decode(checked.arguments), checked.warnings


def place(**arguments: object) -> str:
    with pytest.raises(MeshError) as caught:
        check(**arguments)
    assert caught.value.kind is ErrorKind.PARAMS
    where = caught.value.data.get("where", "")
    assert caught.value.message.startswith(str(where))
    return str(where)


def test_bytes_that_fit_are_not_rewritten() -> None:
    raw = msgspec.Raw(b'{ "task" : "x", "value": 1.10 }')
    assert CHECKER.check(raw).arguments is raw


def test_null_for_an_optional_member_counts_as_left_out() -> None:
    assert check(task="x", swarmId=None) == ({"task": "x"}, ())
    assert check(task="x", value=None) == ({"task": "x", "value": None}, ())
    assert place(task=None) == "/task"
    assert check(task={"n": 1, "retry": None}, steps=[{"name": "a"}])[0]["task"] == {"n": 1}
    assert place(task={"n": None}) == "/task/n"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert check(task={"n": 3.0})[0] == {"task": {"n": 3}}
    assert place(task={"n": 3.5}) == "/task/n"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({}, ""),
        ({"task": 5}, "/task"),
        ({"task": {}}, "/task"),
        ({"task": {"n": 10}}, "/task/n"),
        ({"task": {"n": 1, "retry": "sometimes"}}, "/task/retry"),
        ({"task": {"n": 1, "retry": {"maxAttempts": 0}}}, "/task/retry/maxAttempts"),
        ({"task": "x", "steps": [{"name": "a"}, {"name": 2}]}, "/steps/1/name"),
        ({"task": "x", "swarmId": "x" * 9}, "/swarmId"),
    ],
)
def test_the_place_of_what_is_wrong_is_named(arguments: dict[str, object], where: str) -> None:
    assert place(**arguments) == where


def test_what_nobody_declared_is_named_with_its_place() -> None:
    _, warnings = check(task={"n": 1, "x": 1}, steps=[{"name": "a", "y": 1}], z=1)
    assert [text.split()[2] for text in warnings] == ["/task/x", "/steps/0/y", "/z"]


def test_open_objects_take_any_member() -> None:
    assert check(task="x", config={"roots": []}, params={"a": 1}, value={"b": 2})[1] == ()


def test_warnings_are_bounded() -> None:
    assert len(check(task="x", **{f"m{n}": n for n in range(99)})[1]) == WARNINGS_MAX


def test_a_long_value_is_not_repeated_in_full() -> None:
    with pytest.raises(MeshError) as caught:
        check(task="x", swarmId="y" * 5000)
    assert len(caught.value.message) < 400

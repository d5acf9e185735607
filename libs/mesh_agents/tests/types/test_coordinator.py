"""Merges on the way up, ties of votes, and the types together."""

from typing import Any

import pytest

from mesh_agents.contract import Json, StepFailedError
from mesh_agents.types import TYPES


def _merge(do: Any, kind: str, outputs: list[Json], pointer: str = "") -> Json:
    given = {"outputs": outputs, "aggregate": {"kind": kind, "pointer": pointer}}
    return do("coordinator", given, kind="merge")


@pytest.mark.parametrize(
    ("kind", "outputs", "pointer", "merged"),
    [
        ("sum", [{"a": {"n": 1}}, {"a": {"n": 2}}], "/a/n", {"a": {"n": 3}}),
        ("sum", [10**20, 1], "", 10**20 + 1),
        ("sum", [0.1, 0.2, 0.3], "", 0.6),
        ("min", [{"n": 3}, {"n": 2}], "/n", {"n": 2}),
        ("max", [3, 2.5], "", 3),
        ("union", [[1, {"a": 1}], [1.0, {"a": 1.0}, 2]], "", [1, {"a": 1}, 2]),
        ("intersection", [[1, 2, 1], [2, 1.0], [1, 3]], "", [1]),
        ("best", [{"s": 1, "x": "a"}, {"s": 3, "x": "b"}, {"s": 3}], "/s", {"s": 3, "x": "b"}),
    ],
)
def test_coordinator_merges_to_the_form_of_one_output(
    do: Any, kind: str, outputs: list[Json], pointer: str, merged: Json
) -> None:
    assert _merge(do, kind, outputs, pointer) == merged


@pytest.mark.parametrize("kind", ["sum", "min", "max", "union", "intersection", "best"])
def test_merge_is_the_same_at_whatever_depth(do: Any, kind: str) -> None:
    lists = kind in ("union", "intersection")
    outputs: list[Json] = [{"v": [n, 7] if lists else n, "w": n} for n in (4, 9, 2, 9)]
    inner = [_merge(do, kind, outputs[:2], "/v"), _merge(do, kind, outputs[2:], "/v")]
    assert _merge(do, kind, inner, "/v") == _merge(do, kind, outputs, "/v")


@pytest.mark.parametrize(
    ("choices", "chosen"),
    [
        ([(1, 2, 0.4, None), (2, 1, 0.6, None)], (2, "share")),
        ([(1, 2, 0.5, None), (2, 3, 0.5, None)], (2, "voters")),
        ([(2, 2, 0.5, 0.9), (1, 2, 0.5, None)], (2, "confidence")),
        ([(2, 2, 0.5, 0.9), (1, 2, 0.5, 0.9)], (1, "order")),
    ],
)
def test_coordinator_breaks_ties_by_a_written_rule(
    do: Any, choices: list[tuple[int, int, float, float | None]], chosen: tuple[int, str]
) -> None:
    asked = [
        {"number": number, "choice": "x", "voters": voters, "share": share, "confidence": sure}
        for number, voters, share, sure in choices
    ]
    found = do("coordinator", {"why": "tie", "choices": asked}, kind="vote")
    assert (found["choice"], found["by"]) == chosen


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"outputs": [1], "aggregate": {"kind": "median"}}, "not by median"),
        ({"outputs": [], "aggregate": {"kind": "sum"}}, "1..10000"),
        ({"outputs": [1, "x"], "aggregate": {"kind": "sum"}}, "outputs/1: not a number"),
        ({"outputs": [{}], "aggregate": {"kind": "sum", "pointer": "/n"}}, "nothing at /n"),
        ({"outputs": [1], "aggregate": {"kind": "union"}}, "not a list"),
        ({"outputs": [1e308, 1e308], "aggregate": {"kind": "sum"}}, "no finite number"),
        ({"why": "tie", "choices": []}, "at least one"),
        ({"choices": [{"number": 1, "choice": "x"}]}, "missing required field `why`"),
        ({}, "missing required field"),
    ],
)
def test_coordinator_refuses_with_the_place_named(do: Any, given: dict, message: str) -> None:
    with pytest.raises(StepFailedError, match=message):
        do("coordinator", given)


def test_every_type_says_what_it_does() -> None:
    assert set(TYPES) == {
        "coordinator", "researcher", "reviewer", "security", "coder", "tester", "analyst",
        "validator",
    }  # fmt: skip
    for name, one in TYPES.items():
        assert one.name == name
        assert one.capabilities
        assert len(one.description) > 40

"""JSON judged by schemas and assertions."""

import json
from pathlib import Path
from typing import Any

import pytest

from mesh_agents.contract import Json, StepFailedError

VALUE: Json = {
    "passed": 2, "list": ["a", {"x/y": 1.0}], "none": None, "yes": True, "text": "b-17",
}  # fmt: skip


def test_validator_names_every_issue_and_its_place(do: Any) -> None:
    schema = {
        "type": "object", "required": ["gone"],
        "properties": {"passed": {"minimum": 3}, "list": {"items": {"type": "string"}}},
    }  # fmt: skip
    found = do("validator", {"value": VALUE, "schema": schema})
    assert found["verdict"] == "reject"
    assert {(one["pointer"], one["rule"]) for one in found["issues"]} == {
        ("", "required"), ("/passed", "minimum"), ("/list/1", "type"),
    }  # fmt: skip
    fine = do("validator", {"value": VALUE, "schema": {"type": "object"}})
    assert fine == {"verdict": "approve", "valid": True, "checked": 1, "issues": []}


@pytest.mark.parametrize(
    ("pointer", "rule", "value", "holds"),
    [
        ("/passed", "at_least", 2, True), ("/passed", "more", 2, False),
        ("/passed", "less", 3, True), ("/passed", "at_most", 1, False),
        ("/passed", "equals", 2.0, True), ("/yes", "equals", 1, False),
        ("/passed", "differs", 2, False), ("/passed", "in", [1, 2], True),
        ("/list", "contains", "a", True), ("/list", "contains", {"x/y": 1}, True),
        ("/text", "matches", r"^b-\d+$", True), ("/text", "contains", "17", True),
        ("/none", "type", "null", True), ("/passed", "type", "integer", True),
        ("/yes", "type", "number", False), ("/list", "length", 2, True),
        ("/list", "min_length", 3, False), ("/text", "max_length", 4, True),
        ("/list/1/x~1y", "present", None, True), ("/gone", "present", None, False),
        ("/gone", "absent", None, True), ("/none", "absent", None, False),
        ("/list/2", "equals", 1, False), ("/text", "at_least", 1, False),
        ("", "type", "object", True), ("/list/01", "present", None, False),
    ],
)  # fmt: skip
def test_assertion_holds_or_says_why_not(
    do: Any, pointer: str, rule: str, value: Json, holds: bool
) -> None:
    assertion = {"pointer": pointer, "is": rule, "value": value}
    found = do("validator", {"value": VALUE, "assertions": [assertion]})
    assert found["valid"] is holds
    if not holds:
        assert found["issues"][0]["pointer"] == pointer
        assert found["issues"][0]["message"]


def test_validator_reads_a_file_of_its_roots(root: Path, do: Any) -> None:
    (root / "out.json").write_text(json.dumps(VALUE))
    (root / "bad.json").write_text("{")
    given = {"path": "out.json", "schema": {"required": ["passed"]}}
    assert do("validator", given)["valid"]
    for path in ("bad.json", "../x.json"):
        with pytest.raises(StepFailedError):
            do("validator", {**given, "path": path})


def test_validator_of_a_swarm_judges_its_input_by_the_rules_of_its_agent(output_of: Any) -> None:
    config = {"assertions": [{"pointer": "/passed", "is": "at_least", "value": 3}]}
    judged = output_of("validator", VALUE, kind="validate", config=config)
    assert judged.structured.verdict == "reject"
    voted = output_of("validator", {"value": VALUE}, kind="vote", config=config)
    assert bytes(voted.ballot.choice) == b'"reject"'
    assert "not at least 3" in voted.ballot.rationale


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"value": 1}, "nothing to check"),
        ({"schema": {}}, "value or path"),
        ({"value": 1, "path": "a", "schema": {}}, "one of value and path"),
        ({"value": 1, "schema": {"type": "nonsense"}}, "input.schema"),
        ({"value": 1, "schema": {"$ref": "http://127.0.0.1:1/x"}}, "input.schema"),
        ({"value": 1, "schema": {"$ref": "file:///etc/hostname"}}, "input.schema"),
        ({"value": 1, "assertions": [{"pointer": "", "is": "odd"}]}, "no rule odd; there are"),
        ({"value": 1, "assertions": [{"pointer": "", "is": "less", "value": "x"}]}, "not a number"),
        ({"value": "a", "assertions": [{"pointer": "", "is": "matches", "value": "("}]}, "input"),
        ({"value": 1, "assertions": [{"pointer": "", "is": "type", "value": "int"}]}, "JSON type"),
    ],
)
def test_validator_refuses_what_would_check_nothing(do: Any, given: dict, message: str) -> None:
    with pytest.raises(StepFailedError, match=message) as failed:
        do("validator", given)
    assert failed.value.type == "input"

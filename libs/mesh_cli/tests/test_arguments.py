"""Tool arguments from words."""

import pytest

from mesh_cli import arguments
from mesh_cli.failure import Exit, Failure

SCHEMA = {
    "properties": {
        "count": {"type": "integer"},
        "name": {"type": "string"},
        "flags": {"type": ["array", "null"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "free": {},
    }
}


def test_no_words_are_no_arguments() -> None:
    assert arguments.parse([]) == {}


def test_one_json_object_is_taken_whole() -> None:
    assert arguments.parse(['{"a":{"b":[1]}}']) == {"a": {"b": [1]}}


def test_pairs_take_the_type_the_schema_names() -> None:
    words = ["count=3", "name=3", "flags=[1]", "either=3", "free=3", "unknown=x=y"]

    assert arguments.parse(words, SCHEMA) == {
        "count": 3,
        "name": "3",
        "flags": [1],
        "either": "3",
        "free": "3",
        "unknown": "x=y",
    }


def test_colon_equals_is_json_whatever_the_schema_says() -> None:
    assert arguments.parse(["name:={}", "x:=null"], SCHEMA) == {"name": {}, "x": None}


def test_schema_is_needed_for_plain_pairs_only() -> None:
    assert arguments.needs_schema(["a=1"])
    assert not arguments.needs_schema(["a:=1"])
    assert not arguments.needs_schema(['{"a":"b=c"}'])
    assert not arguments.needs_schema([])


@pytest.mark.parametrize("words", [["[1]"], ["word"], ["=x"], ["{bad"], ["a:=nope"]])
def test_what_is_no_argument_is_a_usage_failure(words: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        arguments.parse(words)
    assert caught.value.code is Exit.USAGE


def test_value_of_a_typed_pair_must_be_json() -> None:
    with pytest.raises(Failure, match="count: not JSON"):
        arguments.parse(["count=three"], SCHEMA)

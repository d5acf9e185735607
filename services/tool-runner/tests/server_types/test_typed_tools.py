"""Tests of tool_runner.server_types.typed_tools."""

import json
from typing import Annotated, Any

import jsonschema_rs
import msgspec
import pytest
from msgspec import Meta

from tool_runner.server_types.linked_server import path_of
from tool_runner.server_types.typed_tools import Hints, Refused, schema_of, typed_tool
from tool_runner.upstreams.upstream import Request


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part.

    More about it.
    """

    whole_name: str
    note: str = ""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments."""

    count: Annotated[int, Meta(ge=1, le=9, description="How many.")] = 2
    name: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result."""

    parts: tuple[Part, ...]


async def make(asked: Asked) -> Told:
    if asked.name == "none":
        raise Refused("There is none of that name.")
    return Told(parts=tuple(Part(whole_name=asked.name) for _ in range(asked.count)))


TOOL = typed_tool(
    "make", "Make", "Makes parts.", make, asks=Asked, gives=Told, hints=Hints(destructive=True)
)


async def call(**arguments: Any) -> Any:
    params = msgspec.Raw(b"{}")
    request = Request(method="tools/call", params=params, timeout_s=1.0)
    raw = msgspec.Raw(json.dumps(arguments).encode())
    return json.loads(msgspec.json.encode(await TOOL.handler(request, raw)))


async def test_what_is_answered_fits_what_is_listed() -> None:
    result = await call(name="a")
    assert result["structuredContent"] == {"parts": [{"wholeName": "a"}, {"wholeName": "a"}]}
    assert TOOL.spec.output_schema is not None
    jsonschema_rs.validate(dict(TOOL.spec.output_schema), result["structuredContent"])


async def test_whole_numbers_may_be_written_with_a_point() -> None:
    assert len((await call(count=3.0))["structuredContent"]["parts"]) == 3


async def test_a_refusal_is_a_tool_error() -> None:
    result = await call(name="none")
    assert result["isError"] is True
    assert result["content"][0]["text"] == "There is none of that name."


def test_schema_is_an_object_with_the_words_of_the_docstring() -> None:
    schema = schema_of(Told)
    assert schema["type"] == "object"
    assert schema["$defs"]["Part"]["description"] == "A part."  # type: ignore[index]
    assert TOOL.spec.input_schema["additionalProperties"] is False
    assert TOOL.spec.destructive


@pytest.mark.parametrize(
    ("segments", "path"),
    [(("a", "b c"), "/a/b%20c"), (("a/b",), "/a%2Fb"), (("ä?#",), "/%C3%A4%3F%23")],
)
def test_segments_stay_in_their_place(segments: tuple[str, ...], path: str) -> None:
    assert path_of(*segments) == path


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_segments_that_are_steps_are_refused(segment: str) -> None:
    with pytest.raises(Refused):
        path_of("a", segment)

"""Tests of mcp_proto.param_headers."""

from typing import Any

import msgspec
import pytest

from mcp_proto.param_headers import (
    ParamHeader,
    param_headers,
    read_annotations,
    written_headers,
)


def tool(schema: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"name": "t", "inputSchema": {"type": "object", **schema}})


def marked(mark: Any, kind: Any = "string") -> dict[str, Any]:
    return {"type": kind, "x-mcp-header": mark}


def test_annotations_are_read_through_properties() -> None:
    inner = {"type": "object", "properties": {"deep": marked("Deep", "boolean")}}
    schema = {"properties": {"q": marked("Query"), "n": marked("N", "integer"), "o": inner}}
    assert read_annotations(tool(schema)) == (
        ParamHeader("mcp-param-query", ("q",), "string"),
        ParamHeader("mcp-param-n", ("n",), "integer"),
        ParamHeader("mcp-param-deep", ("o", "deep"), "boolean"),
    )


def test_tool_without_annotations_is_not_even_decoded() -> None:
    assert read_annotations(b"{not json") == ()


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"q": marked("")}},
        {"properties": {"q": marked("a b")}},
        {"properties": {"q": marked("a:b")}},
        {"properties": {"q": marked("ä")}},
        {"properties": {"q": marked(5)}},
        {"properties": {"q": marked("Q", "object")}},
        {"properties": {"q": marked("Q", "number")}},
        {"properties": {"q": marked("Q", ["string", "null"])}},
        {"properties": {"q": {"x-mcp-header": "Q"}}},
        {"properties": {"a": marked("Q"), "b": marked("q")}},
        {"properties": {"a": {"type": "array", "items": marked("Q")}}},
        {"properties": {"a": {"anyOf": [marked("Q")]}}},
        {"$defs": {"d": marked("Q")}, "properties": {"a": {"$ref": "#/$defs/d"}}},
        {"if": {"properties": {"a": marked("Q")}}},
        {"x-mcp-header": "Q"},
    ],
)
def test_tool_is_invalid_when_one_annotation_is(schema: dict[str, Any]) -> None:
    assert read_annotations(tool(schema)) is None
    assert param_headers(tool(schema)) == ()


def test_property_of_that_name_and_plain_values_are_no_annotations() -> None:
    schema = {
        "properties": {"x-mcp-header": {"type": "string"}, "q": {"default": {"x-mcp-header": 1}}}
    }
    assert read_annotations(tool(schema)) == ()


def test_headers_are_written_from_arguments() -> None:
    rules = [ParamHeader(f"mcp-param-{name}", (name,), "string") for name in "abcdefg"]
    arguments = {"a": "plain", "b": "grüße", "c": True, "d": 42, "e": None, "f": 2.0}
    assert written_headers(rules, msgspec.json.encode(arguments)) == [
        ("mcp-param-a", "plain"),
        ("mcp-param-b", "=?base64?Z3LDvMOfZQ==?="),
        ("mcp-param-c", "true"),
        ("mcp-param-d", "42"),
        ("mcp-param-f", "2"),
    ]
    assert written_headers(rules, b"") == []


def test_text_that_no_header_can_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        written_headers([ParamHeader("mcp-param-a", ("a",), "string")], rb'{"a":"\ud800"}')

"""Arguments that a virtual server fixes, hides or gives a default."""

import json

import msgspec
import pytest

from gateway.core.toolargs import ArgumentRules, argument_rules, completed, reshaped
from mcp_proto.contracts.virtuals import Argument
from mcp_proto.errors import ErrorKind, MeshError

SCHEMA = (
    b'{"type":"object","$defs":{"x":{"a":1.50}},"properties":{"repo":{"type":"string","x":1.0},'
    b'"page":{"type":"integer"},"token":{"$ref":"#/$defs/x"},"q":{"type" : "string"}},'
    b'"required":["repo","q","token"],"additionalProperties":false}'
)
ENTRY = b'{"name":"find","inputSchema":' + SCHEMA + b',"annotations":{"readOnlyHint":true}}'


def rules(**arguments: Argument) -> ArgumentRules:
    made = argument_rules(arguments)
    assert made is not None
    return made


FIXED = rules(
    repo=Argument(value="acme/site"), token=Argument(hidden=True), page=Argument(default=1)
)


def test_a_schema_shows_only_what_a_caller_may_send() -> None:
    entry = reshaped(ENTRY, FIXED)
    schema = json.loads(entry)["inputSchema"]
    assert schema["properties"] == {
        "page": {"default": 1, "type": "integer"},
        "q": {"type": "string"},
    }
    assert schema["required"] == ["q"]
    for kept in (
        b'"$defs":{"x":{"a":1.50}}',
        b'{"type" : "string"}',
        b'"additionalProperties":false',
    ):
        assert kept in entry
    assert entry.startswith(b'{"name":"find",')
    assert entry.endswith(b',"annotations":{"readOnlyHint":true}}')


def test_a_schema_whose_required_arguments_are_all_fixed_requires_nothing() -> None:
    entry = reshaped(
        b'{"name":"a","inputSchema":{"properties":{"x":{}},"required":["x"]}}',
        rules(x=Argument(value=None)),
    )
    assert json.loads(entry)["inputSchema"] == {"properties": {}}


@pytest.mark.parametrize(
    "schema",
    [b"{}", b"true", b'{"properties":3}', b'{"required":"x"}', b'{"properties":{"repo":1}}'],
)
def test_an_odd_schema_stays_a_schema(schema: bytes) -> None:
    msgspec.json.decode(reshaped(b'{"name":"a","inputSchema":%b}' % schema, FIXED))
    assert reshaped(b'{"name":"a"}', FIXED) == b'{"name":"a"}'


def test_a_call_gets_what_its_caller_does_not_send() -> None:
    params = completed(b'{"name":"find","arguments":{"q":"a b","n":1.0},"_meta":{}}', FIXED)
    assert json.loads(params)["arguments"] == {"repo": "acme/site", "page": 1, "q": "a b", "n": 1}
    assert b'"q":"a b","n":1.0}' in params
    assert b"token" not in params
    for bare in (b'{"name":"find"}', b'{"name":"find","arguments":null}'):
        assert json.loads(completed(bare, FIXED))["arguments"] == {"repo": "acme/site", "page": 1}


def test_a_caller_may_send_its_own_value_where_there_is_a_default() -> None:
    params = completed(b'{"arguments":{"page":7}}', FIXED)
    assert json.loads(params)["arguments"] == {"repo": "acme/site", "page": 7}


@pytest.mark.parametrize(
    "arguments",
    [
        b'{"repo":"other"}',
        b'{"token":"t"}',
        b'{"re\\u0070o":"other"}',
        b'{"q":1,"repo":1,"repo":2}',
        b'{"page":1,"page":2}',
        b"[]",
        b'"text"',
    ],
)
def test_a_caller_that_sends_a_fixed_argument_is_refused(arguments: bytes) -> None:
    with pytest.raises(MeshError) as caught:
        completed(b'{"arguments":%b}' % arguments, FIXED)
    assert caught.value.kind is ErrorKind.PARAMS


def test_a_tool_without_rules_has_none() -> None:
    assert argument_rules({}) is None

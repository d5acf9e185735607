"""Native tools as data: schemas, validation, results."""

import msgspec
import pytest

from mcp_proto.errors import ErrorKind, MeshError
from tool_runner.core.toolbox import Toolbox, failure, success
from tool_runner.toolsets import artifacts, echo, kv


class NoStorage:
    """The toolset is only looked at."""


@pytest.fixture
def toolsets():
    return kv.toolset(NoStorage()), echo.toolset()  # type: ignore[arg-type]


@pytest.fixture
def toolbox(toolsets):
    return Toolbox(tool.spec for toolset in toolsets for tool in toolset.tools)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("kv_get", b'{"key":"a"}'),
        ("kv_set", b'{"key":"..","value":null}'),
        ("kv_set", b'{"key":"a","value":[123456789012345678901234567890],"ttl":1}'),
        ("kv_set", b'{"key":"a","value":1,"ttl":60.0}'),
        ("kv_list", b""),
        ("kv_list", b'{"prefix":"","limit":1000}'),
        ("echo", b"{}"),
        ("echo", b'{"message":{"a":[true]}}'),
    ],
)
def test_fitting_arguments_have_no_problem(toolbox, tool, arguments):
    assert toolbox.problem(tool, arguments) is None


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("kv_get", b"{}", "required"),
        ("kv_get", b'{"key":7}', "string"),
        ("kv_get", b'{"key":""}', "key"),
        ("kv_get", b'{"key":"a","more":1}', "more"),
        ("kv_get", b"[]", "object"),
        ("kv_set", b'{"key":"a","value":1,"ttl":0}', "ttl"),
        ("kv_set", b'{"key":"a","value":1,"ttl":1.5}', "ttl"),
        ("kv_list", b'{"limit":1001}', "limit"),
        ("echo", b'{"messages":1}', "messages"),
    ],
)
def test_problem_names_what_is_wrong(toolbox, tool, arguments, words):
    problem = toolbox.problem(tool, arguments)
    assert problem is not None
    assert words in problem


def test_problem_never_quotes_a_large_value_in_full(toolbox):
    problem = toolbox.problem("kv_get", msgspec.json.encode({"key": ["x" * 100_000]}))
    assert problem is not None
    assert len(problem) < 500


def test_unknown_tool_and_broken_json_are_protocol_errors(toolbox):
    for tool, arguments in _BROKEN:
        with pytest.raises(MeshError) as caught:
            toolbox.problem(tool, arguments)
        assert caught.value.kind is ErrorKind.PARAMS


_BROKEN = (
    ("nope", b"{}"),
    ("echo", b"{"),
    ("echo", b'"\xff"'),
    ("echo", b'{"message":1e400}'),
)


def test_two_tools_of_one_name_are_refused(toolsets):
    specs = [tool.spec for tool in toolsets[1].tools]
    with pytest.raises(ValueError, match="echo"):
        Toolbox([*specs, *specs])


def test_catalogue_of_a_toolset_is_complete(toolsets):
    catalog = toolsets[0].catalog("1.2.3")
    assert not catalog.prefixed
    assert [(tool.name, tool.permission) for tool in catalog.tools] == [
        ("kv_get", "ReadKV"),
        ("kv_set", "WriteKV"),
        ("kv_compare_and_set", "WriteKV"),
        ("kv_delete", "WriteKV"),
        ("kv_list", "ReadKV"),
    ]
    definition = msgspec.json.decode(catalog.tools[0].definition)
    assert definition["annotations"]["readOnlyHint"] is True
    assert definition["inputSchema"]["type"] == definition["outputSchema"]["type"] == "object"


def test_result_says_the_same_as_text_and_as_structure():
    result = msgspec.json.decode(msgspec.json.encode(success(b'{"a":1.50}')))
    assert result == {
        "resultType": "complete",
        "content": [{"type": "text", "text": '{"a":1.50}'}],
        "structuredContent": {"a": 1.5},
    }
    assert msgspec.json.decode(msgspec.json.encode(failure("no")))["isError"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (b'{"key":"a","content":"%b"}', None),
        (b'{"content":"%b","key":"a"}', None),
        (b'{"key":"","content":"%b"}', "key"),
        (b'{"content":"%b"}', "required"),
        (b'{"key":"%b","content":""}', "key"),
        (b'{"key":"a","content":["%b"]}', "content"),
        (b'{"key":"a","more":"%b"}', "more"),
        (b'{"key":"a","key":"","content":"%b"}', "key"),
        (b'["%b"]', "Invalid arguments"),
    ],
)
def test_toolbox_says_of_large_arguments_what_it_says_of_small_ones(arguments, words):
    toolbox = Toolbox(tool.spec for tool in artifacts.toolset(None, None).tools)  # type: ignore[arg-type]
    problem = toolbox.problem("artifacts_put", arguments % (b"x" * 300_000))
    assert problem is None if words is None else problem is not None and words in problem


async def test_artifact_with_half_a_surrogate_in_a_large_text_is_refused():
    put = artifacts.toolset(None, None).tools[0]  # type: ignore[arg-type]
    text = msgspec.Raw(b'{"key":"a","content":"%b\\ud800"}' % (b"x" * 300_000))
    with pytest.raises(MeshError) as caught:
        await put.handler("acme", text)  # type: ignore[misc]
    assert caught.value.kind is ErrorKind.PARAMS

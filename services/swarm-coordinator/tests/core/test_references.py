import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.limits import JSON_DEPTH_MAX
from swarm_coordinator.core.references import (
    REFERENCES_MAX,
    Outputs,
    compiled,
    escape,
    pointer_fault,
    source_of,
    value_at,
)
from swarm_coordinator.core.views import PlanError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=20,
)


def places(value: object, path: str = "") -> list[tuple[str, object]]:
    found = [(path, value)]
    if isinstance(value, list):
        for i, one in enumerate(value):
            found += places(one, f"{path}/{i}")
    if isinstance(value, dict):
        for name, one in value.items():
            found += places(one, f"{path}/{escape(name)}")
    return found


@given(JSON)
def test_a_reference_finds_every_place_of_every_output(value: object) -> None:
    outputs = Outputs({"a": msgspec.json.encode(value)})
    for pointer, inner in places(value):
        source, rest = source_of(f"/a/output{pointer}", "/x")
        assert source == "a"
        assert msgspec.json.decode(outputs.at(source, rest)) == inner


@given(JSON, st.text(max_size=30))
def test_a_pointer_of_any_text_finds_a_value_or_is_refused(value: object, text: str) -> None:
    with contextlib.suppress(PlanError):
        msgspec.json.decode(Outputs({"a": msgspec.json.encode(value)}).at("a", text))


@given(JSON)
def test_a_template_filled_with_outputs_is_the_input_with_values_in_it(value: object) -> None:
    data = msgspec.json.encode({"keep": value, "put": [{"$ref": "/a/output/deep"}, 1]})
    template = compiled(data, "/input")
    outputs = Outputs({"a": msgspec.json.encode({"deep": value})})
    if "$ref" in data.decode() and len(template.references) == 1:
        filled = template.fill(lambda one: outputs.at(one.source, one.pointer))
        assert msgspec.json.decode(filled) == {"keep": value, "put": [value, 1]}


def test_a_value_goes_in_byte_for_byte() -> None:
    template = compiled(b'{"x": {"$ref": "/a/output/n"}}', "/input")
    outputs = Outputs({"a": b'{"n": 1.50e3 , "m": 2}'})
    assert template.fill(lambda one: outputs.at(one.source, one.pointer)) == b'{"x":1.50e3}'


def test_an_input_without_references_stays_as_it_was_written() -> None:
    data = b'{ "x" : 1.0, "s": {"$ref": "#/definitions/a"}, "t": "$ref" }'
    assert compiled(data, "/input").fill(lambda _: b"") == data


def test_what_looks_like_a_mark_in_a_text_is_not_one() -> None:
    data = msgspec.json.encode({"x": "\x000\x00", "y": {"$ref": "/a/output"}})
    filled = compiled(data, "/input").fill(lambda _: b"7")
    assert msgspec.json.decode(filled) == {"x": "\x000\x00", "y": 7}


def test_what_looks_like_a_reference_in_an_output_is_data() -> None:
    outputs = Outputs({"a": b'{"$ref":"/secret/output"}', "secret": b"1"})
    template = compiled(b'[{"$ref":"/a/output"}]', "/input")
    filled = template.fill(lambda one: outputs.at(one.source, one.pointer))
    assert filled == b'[{"$ref":"/secret/output"}]'


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("/a/output", ("a", "")),
        ("/a/output/", ("a", "/")),
        ("/a/output/0/b", ("a", "/0/b")),
        ("/a~1b/output", ("a/b", "")),
        ("/item", ("item", "")),
        ("/item/x", ("item", "/x")),
        ("/index", ("index", "")),
        ("/previous/text", ("previous", "/text")),
    ],
)
def test_a_reference_names_its_source(pointer: str, found: tuple[str, str]) -> None:
    assert source_of(pointer, "/x") == found


@pytest.mark.parametrize(
    "pointer", ["", "a/output", "/a", "/a/outputs", "/a/Output/x", "/~2/output"]
)
def test_a_reference_that_cannot_be_one_is_refused(pointer: str) -> None:
    with pytest.raises(PlanError) as caught:
        source_of(pointer, "/task/phases/0/input/x")
    assert caught.value.where == "/task/phases/0/input/x"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"a": {"$ref": "/x"}}', "/input/a"),
        ('{"a/b": [{"$ref": "/x/output", "defualt": 1}]}', "/input/a~1b/0/defualt"),
        ('[{"$ref": "/x/output", "first": 1}]', "/input/0/first"),
        ('{"$ref": "/index/3"}', "/input"),
        ("{", "/input"),
        ('{"a": 1e999, "$ref": "/x/output"}', "/input"),
    ],
)
def test_an_input_with_a_wrong_reference_is_refused_with_its_place(text: str, where: str) -> None:
    with pytest.raises(PlanError) as caught:
        compiled(text.encode(), "/input")
    assert caught.value.where == where


def test_an_input_nested_too_deep_is_refused() -> None:
    deep = JSON_DEPTH_MAX + 5
    data = b"[" * deep + b'{"$ref":"/a/output"}' + b"]" * deep
    with pytest.raises(PlanError, match="nested deeper"):
        compiled(data, "/input")
    with pytest.raises(PlanError, match="expected JSON"):
        compiled(b"[" * 100_000 + b"]" * 100_000, "/input")


def test_an_input_with_too_many_references_is_refused() -> None:
    many = [{"$ref": "/a/output"}] * (REFERENCES_MAX + 1)
    with pytest.raises(PlanError, match="references"):
        compiled(msgspec.json.encode(many), "/input")


@pytest.mark.parametrize(
    ("pointer", "message"),
    [
        ("/b", "nothing is there; the value is an object with a, l"),
        ("/a/x", "nothing is there; /a is neither an object nor an array"),
        ("/l/2", "nothing is there; /l is an array of 2"),
        ("/l/-", "nothing is there; /l is an array of 2"),
        ("/l/01", "nothing is there; /l is an array of 2"),
    ],
)
def test_a_missing_place_is_an_error_that_says_what_is_there(pointer: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        value_at(b'{"a": 1, "l": [1, 2]}', pointer, "/x/output")
    assert (caught.value.where, caught.value.message) == (f"/x/output{pointer}", message)


def test_a_phase_without_output_is_an_error() -> None:
    with pytest.raises(PlanError, match="phase a has no output"):
        Outputs({}).at("a", "")


@given(st.text(max_size=20))
def test_an_escaped_token_is_a_good_pointer(token: str) -> None:
    pointer = f"/{escape(token)}"
    assert not pointer_fault(pointer)
    assert value_at(msgspec.json.encode({token: 1}), pointer, "") == b"1"

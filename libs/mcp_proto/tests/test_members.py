import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.codec import pick, remove, splice
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import TooManyMembersError, pairs

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "ä", "c"]), inner, max_size=3)
    ),
    max_leaves=6,
)
objects = st.dictionaries(
    st.sampled_from(["a", "b", "ä", 'q"', "", "\n"]) | st.text(max_size=3), values, max_size=5
)
styles = st.sampled_from(
    [
        {"separators": (",", ":")},
        {"indent": 1},
        {"ensure_ascii": False},
        {"separators": (" , ", " : ")},
    ]
)


def text(value: object, style: dict[str, object]) -> bytes:
    return json.dumps(value, **style).encode("utf-8")  # type: ignore[arg-type]


def utf8(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@given(objects.filter(utf8), objects.filter(utf8), styles)
def test_splice_sets_members_as_a_dict_update_does(
    obj: dict[str, object], new: dict[str, object], style: dict[str, object]
) -> None:
    members = {key: text(value, {}) for key, value in new.items()}
    spliced = splice(text(obj, style), members)
    assert json.loads(spliced) == {**obj, **new}
    assert splice(msgspec.Raw(text(obj, style)), members) == spliced


@given(
    objects.filter(utf8), st.lists(st.sampled_from(["a", "b", "ä", 'q"', ""]), max_size=3), styles
)
def test_remove_drops_members_as_a_dict_does(
    obj: dict[str, object], keys: list[str], style: dict[str, object]
) -> None:
    data = text(obj, style)
    left = {key: value for key, value in obj.items() if key not in keys}
    removed = remove(data, *keys)
    assert json.loads(removed) == left
    if left == obj:
        assert removed == data.strip()


@given(
    objects.filter(utf8), st.lists(st.sampled_from(["a", "b", "ä", 'q"', ""]), max_size=3), styles
)
def test_pick_reads_members_as_a_dict_does(
    obj: dict[str, object], keys: list[str], style: dict[str, object]
) -> None:
    picked = pick(text(obj, style), *keys)
    expected = {key: value for key, value in obj.items() if not keys or key in keys}
    assert {key: json.loads(bytes(raw)) for key, raw in picked.items()} == expected


def test_splice_keeps_other_values_byte_for_byte() -> None:
    obj = b'{"n": 1.00, "o": { "x" : 1e5 }, "name": "a", "t": "\\u00e9\\/"}'
    spliced = splice(obj, {"name": b'"b"', "new": b"[]"})
    assert spliced == b'{"new":[],"n":1.00,"o":{ "x" : 1e5 },"name":"b","t":"\\u00e9\\/"}'
    assert splice(obj, {"new": b"1"}) == b'{"new":1,' + obj[1:]
    assert splice(b"{ }", {"a": b"1"}) == b'{"a":1}'
    assert splice(b"", {"a": b"1", "b": b"2"}) == b'{"a":1,"b":2}'
    assert splice(obj, {}) == obj


def test_splice_leaves_no_second_copy_that_another_reader_could_take() -> None:
    obj = b'{"name":"good","n\\u0061me":"evil","x":{"name":1},"name":"third"}'
    assert splice(obj, {"name": b'"own"'}) == b'{"name":"own","x":{"name":1}}'
    assert remove(obj, "name") == b'{"x":{"name":1}}'
    with pytest.raises(MeshError, match="twice") as caught:
        pick(obj, "name")
    assert caught.value.kind is ErrorKind.PARAMS
    assert list(pick(obj, "x")) == ["x"]


def test_key_is_found_when_its_slash_is_escaped() -> None:
    obj = b'{"pv\\/a":1,"pv/a":2,"b":3}'
    assert remove(obj, "pv/a") == b'{"b":3}'
    assert splice(b'{"pv\\/a":1,"b":3}', {"pv/a": b"0"}) == b'{"pv/a":0,"b":3}'
    assert remove(b'{"u":"a\\/b"}', "b") == b'{"u":"a\\/b"}'


def test_remove_does_not_touch_nested_members_or_text() -> None:
    obj = b'{"a":{"ttl":1}, "b":"\\"ttl\\""}'
    assert remove(obj, "ttl") == obj
    assert remove(obj, "a") == b'{"b":"\\"ttl\\""}'
    assert remove(b'{"a":1}', "a") == b"{}"


@pytest.mark.parametrize("data", [b"[]", b"5", b'"a"', b"null"])
def test_what_is_no_object_is_refused_as_params(data: bytes) -> None:
    for call in (
        lambda: pick(data, "a"),
        lambda: splice(data, {"a": b"1"}),
        lambda: remove(data, "a"),
    ):
        with pytest.raises(MeshError) as caught:
            call()
        assert caught.value.kind is ErrorKind.PARAMS


def test_absent_params_hold_no_members() -> None:
    assert pick(b"", "a") == {}
    assert pick(msgspec.Raw(b""), "a") == {}
    assert remove(b"", "a") == b"{}"


def test_malformed_objects_are_refused_when_they_are_read() -> None:
    with pytest.raises(MeshError) as caught:
        pick(b'{"a":', "a")
    assert caught.value.kind is ErrorKind.PARSE
    with pytest.raises(MeshError) as caught:
        pick(b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "a")
    assert caught.value.kind is ErrorKind.REQUEST


def test_pairs_stop_counting_at_the_limit() -> None:
    assert len(pairs(b'{"a":1,"a":2}', 2)) == 2
    for filler in (b"", b" " * 20_000):
        with pytest.raises(TooManyMembersError):
            pairs(b'{"a":1,"a":2,"a":3}' + filler, 2)
    with pytest.raises(MeshError, match="members"):
        pick(b"{" + b'"a":1,' * 250_000 + b'"b":1}', "b")

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.codec import decode_message
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import EDGE_MESSAGE_BYTES, JSON_CONTAINERS_MAX, JSON_DEPTH_MAX
from mcp_proto.rim import check_rim


def wrap(value: bytes) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":' + value + b"}}"


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def kind_of(data: bytes) -> ErrorKind | None:
    try:
        check_rim(data)
    except MeshError as error:
        return error.kind
    return None


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'"' + b"x" * (EDGE_MESSAGE_BYTES - 2) + b'"', None),
        (b'"' + b"x" * (EDGE_MESSAGE_BYTES - 1) + b'"', ErrorKind.TOO_LARGE),
        (b'"\xff"', ErrorKind.PARSE),
        (b'"\xc3"', ErrorKind.PARSE),
        (b'"\xed\xa0\x80"', ErrorKind.PARSE),
        ('"é€😀"'.encode(), None),
        (nested(JSON_DEPTH_MAX), None),
        (nested(JSON_DEPTH_MAX + 1), ErrorKind.REQUEST),
        (b'{"a":' * JSON_DEPTH_MAX + b"1" + b"}" * JSON_DEPTH_MAX, None),
        (b'{"a":' * (JSON_DEPTH_MAX + 1) + b"1" + b"}" * (JSON_DEPTH_MAX + 1), ErrorKind.REQUEST),
        (b"[" + b"[]," * (JSON_CONTAINERS_MAX - 2) + b"[]]", None),
        (b"[" + b"[]," * (JSON_CONTAINERS_MAX - 1) + b"[]]", ErrorKind.REQUEST),
        (b'"' + b"[" * 300_000 + b'"', None),
        (b'["' + b"[" * 300 + b'\\"' + b"{" * 300 + b'\\\\",' + nested(127) + b"]", None),
        (b'["' + b"[" * 300 + b'\\\\",' + nested(128) + b"]", ErrorKind.REQUEST),
        (b"[" * 2000, ErrorKind.REQUEST),
        (b"", None),
    ],
    ids=range(17),
)
def test_the_rim_answers_by_the_ladder(data: bytes, kind: ErrorKind | None) -> None:
    assert kind_of(data) is kind


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"[" + b"[]," * 3_000_000 + b"1]", ErrorKind.REQUEST),
        (b"[" + b"{}," * 3_000_000 + b"1]", ErrorKind.REQUEST),
        (b"[" * 5_000_000, ErrorKind.REQUEST),
        (nested(2_000), ErrorKind.REQUEST),
        (b"[" + b",".join([nested(125)] * 1_590) + b"]", None),
        (b"[" + b",".join([nested(127)] * 1_570) + b"]", ErrorKind.REQUEST),
        (b'["' + b'\\"' * 5_000_000 + b'"' + b",[]" * 200 + b"]", None),
        (b'["' + b"\\\\" * 5_000_000 + b'"' + b",[]" * 200 + b"]", None),
        (b"[" + b'"[",' * 2_500_000 + b"1]", None),
    ],
    ids=[
        "arrays",
        "objects",
        "open",
        "deep",
        "chains",
        "deep-chains",
        "quotes",
        "slashes",
        "texts",
    ],
)
def test_hostile_megabytes_are_decided_fast(value: bytes, kind: ErrorKind | None) -> None:
    data = wrap(value)
    started = time.perf_counter()
    try:
        decode_message(data)
        found = None
    except MeshError as error:
        found = error.kind
    took = time.perf_counter() - started
    assert found is kind
    assert took < 0.5  # promised: 50 ms on a free core; this one is shared


def depth_of(value: object) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 0


texts = st.text(alphabet='[]{}"\\a,:é\n', max_size=6)
trees = st.recursive(
    texts | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=12,
)


@given(trees, st.integers(0, 20), st.booleans())
def test_the_rim_measures_depth_as_a_decoder_does(tree: object, levels: int, wide: bool) -> None:
    import json

    for _ in range(levels + 110):
        tree = [tree]
    if wide:
        tree = [tree, *([[]] * 130)]
    data = json.dumps(tree).encode()
    expected = ErrorKind.REQUEST if depth_of(tree) > JSON_DEPTH_MAX else None
    assert kind_of(data) is expected


@pytest.mark.parametrize("bracket", [b"[", b"{"])
def test_large_text_is_held_to_the_same_depth(bracket):
    close = b"]" if bracket == b"[" else b"}"
    inside = b'"a":' if bracket == b"{" else b""
    filler = b'"%b"' % (b"x" * 100_000)

    def deep(levels: int) -> bytes:
        opened = (bracket + inside) * (levels - 1) + bracket
        return b"[" + filler + b"," + opened + close * levels + b"]"

    assert kind_of(deep(JSON_DEPTH_MAX - 1)) is None
    assert kind_of(deep(JSON_DEPTH_MAX)) is ErrorKind.REQUEST


def test_brackets_inside_a_large_text_are_no_containers():
    assert kind_of(wrap(b'"%b"' % (b"[{" * 300_000))) is None

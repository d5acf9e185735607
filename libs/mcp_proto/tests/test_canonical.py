"""Equal values have one canonical spelling, different ones never share it."""

import pytest

from mcp_proto.canonical import canonical
from mcp_proto.errors import MeshError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"b":1,"a":[1,2]}', b' { "a" : [ 1 , 2.0 ] , "b" : 1e0 } '),
        (b'{"\xc3\xbc":"/"}', b'{"\\u00fc":"\\/"}'),
        (b"100000000000000000000", b"1e20"),
        (b"0", b"-0.0"),
        (b'{"a":{"d":1,"c":":"}}', b'{"a":{"c":"\\u003a","d":1}}'),
        (b'"a\\"b:"', b'"a\\u0022b:"'),
    ],
)
def test_the_same_value_written_anew_is_the_same(one: bytes, other: bytes) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"1", b'"1"'),
        (b"1", b"true"),
        (b"9007199254740993", b"9007199254740992"),
        (b"0.1", b"0.10000000000000002"),
        (b"[1,2]", b"[2,1]"),
        (b'{"a":1}', b'{"a":2,"a":1}'),
        (b'{"a":{"b":1}}', b'{"a":{"b":2,"b":1}}'),
        (b'{"a":1}', b'[["a",1]]'),
        (b'{"a":null}', b"{}"),
    ],
)
def test_different_values_differ(one: bytes, other: bytes) -> None:
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize(
    "value", [b"", b"{", b"NaN", b"1e999", b'"\\ud800"', b"[" * 5_000, b"{} {}"]
)
def test_what_is_not_json_is_refused(value: bytes) -> None:
    with pytest.raises(MeshError):
        canonical(value)

"""JSON pointers into raw JSON."""

import pytest

from swarm_coordinator.core.pointers import NoSuchPlaceError, at

DOC = b' {"a": [1.10, {"b/c": 9007199254740993}], "": 1, "m~n": [ ], "x": null, "d": 1, "d": 2}'


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", DOC),
        ("/a/0", b"1.10"),
        ("/a/1/b~1c", b"9007199254740993"),
        ("/", b"1"),
        ("/m~0n", b"[ ]"),
        ("/x", b"null"),
        ("/d", b"2"),
    ],
)
def test_a_pointer_names_a_value_byte_for_byte(pointer: str, value: bytes) -> None:
    assert at(DOC, pointer) == value


@pytest.mark.parametrize(
    "pointer",
    ["a", "/b", "/a/2", "/a/-1", "/a/01", "/a/x", "/a/", "/a/0/0", "/x/y", "/a/" + "9" * 5000,
     "/a/\u0661", "/a/-"],
)  # fmt: skip
def test_a_pointer_that_names_nothing_is_an_error(pointer: str) -> None:
    with pytest.raises(NoSuchPlaceError):
        at(DOC, pointer)


@pytest.mark.parametrize("value", [b"{", b"", b"null", b'{"a":' * 5000])
def test_what_is_no_json_holds_nothing(value: bytes) -> None:
    with pytest.raises(NoSuchPlaceError):
        at(value, "/a")

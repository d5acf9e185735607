from typing import Any

import pytest

from tool_runner.server_types.openapi.values import (
    RefusedValueError,
    cookie,
    header,
    pairs,
    path_value,
)

LIST = ["blue", "black", "brown"]
OBJECT = {"R": 100, "G": 200, "B": 150}


@pytest.mark.parametrize(
    ("style", "explode", "value", "written"),
    [
        ("simple", False, "blue", "blue"),
        ("simple", True, LIST, "blue,black,brown"),
        ("simple", False, OBJECT, "R,100,G,200,B,150"),
        ("simple", True, OBJECT, "R=100,G=200,B=150"),
        ("label", False, "blue", ".blue"),
        ("label", False, LIST, ".blue,black,brown"),
        ("label", True, LIST, ".blue.black.brown"),
        ("label", True, OBJECT, ".R=100.G=200.B=150"),
        ("matrix", False, "blue", ";color=blue"),
        ("matrix", False, LIST, ";color=blue,black,brown"),
        ("matrix", True, LIST, ";color=blue;color=black;color=brown"),
        ("matrix", False, OBJECT, ";color=R,100,G,200,B,150"),
        ("matrix", True, OBJECT, ";R=100;G=200;B=150"),
    ],
)
def test_path_is_written_as_the_table_of_openapi_says(
    style: str, explode: bool, value: Any, written: str
) -> None:
    assert path_value("color", value, style, explode=explode) == written


@pytest.mark.parametrize(
    ("style", "explode", "value", "written"),
    [
        ("form", True, "blue", "color=blue"),
        ("form", True, "", "color="),
        ("form", True, LIST, "color=blue&color=black&color=brown"),
        ("form", False, LIST, "color=blue,black,brown"),
        ("form", True, OBJECT, "R=100&G=200&B=150"),
        ("form", False, OBJECT, "color=R,100,G,200,B,150"),
        ("spaceDelimited", False, LIST, "color=blue%20black%20brown"),
        ("pipeDelimited", False, LIST, "color=blue%7Cblack%7Cbrown"),
        ("pipeDelimited", True, LIST, "color=blue&color=black&color=brown"),
        ("deepObject", True, OBJECT, "color%5BR%5D=100&color%5BG%5D=200&color%5BB%5D=150"),
        ("deepObject", True, {"a": {"b": [1, 2]}}, "color%5Ba%5D%5Bb%5D=1&color%5Ba%5D%5Bb%5D=2"),
        ("form", True, [], ""),
        ("form", False, [], ""),
        ("form", True, True, "color=true"),
        ("form", True, 1.5, "color=1.5"),
        ("content", True, {"a": [1]}, "color=%7B%22a%22%3A%5B1%5D%7D"),
        ("form", True, "a&b=c#d+e f/ü", "color=a%26b%3Dc%23d%2Be%20f%2F%C3%BC"),
        ("form", False, ["a,b", "c"], "color=a%2Cb,c"),
    ],
)
def test_query_is_written_as_the_table_of_openapi_says(
    style: str, explode: bool, value: Any, written: str
) -> None:
    found = pairs("color", value, style, explode=explode)
    assert "&".join(f"{key}={text}" for key, text in found) == written


def test_reserved_characters_stay_where_allowed_but_never_what_ends_a_value() -> None:
    ((_, text),) = pairs("q", "a/b:c?d&e=f#g+h", "form", explode=True, reserved=True)
    assert text == "a/b:c?d%26e%3Df%23g%2Bh"


def test_name_of_a_parameter_is_encoded_too() -> None:
    assert list(pairs("a[b]&", "c", "form", explode=True)) == [("a%5Bb%5D%26", "c")]


@pytest.mark.parametrize(
    "value",
    [
        "..", ".", "../admin", "a/../b", "..\\admin", "a\\..\\b", "%2e%2e", "%2E%2e%2fadmin",
        "..%2fadmin", "%252e%252e%252fadmin", "..%5cadmin", "..;/admin", "..;x=1", "a/./b", " .. ",
        "a\0b", "a\nb", "%00", "%0d%0aHost:", "", ["ok", ".."], {"..": "x"}, {"a": ".."},
    ],
)  # fmt: skip
def test_value_that_could_lead_elsewhere_is_refused_in_a_path(value: Any) -> None:
    with pytest.raises(RefusedValueError, match="id: "):
        path_value("id", value, "simple", explode=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("a/b", "a%2Fb"), ("a?b", "a%3Fb"), ("a#b", "a%23b"), ("a%2fb", "a%252fb"),
        ("a;b", "a%3Bb"), ("a\\b", "a%5Cb"), ("100%", "100%25"), ("ü", "%C3%BC"),
        ("a.b", "a.b"), ("...", "..."), ("..a", "..a"), ("a:b@c", "a%3Ab%40c"), ("//x", "%2F%2Fx"),
    ],
)  # fmt: skip
def test_everything_that_means_something_in_a_path_is_encoded(value: str, written: str) -> None:
    assert path_value("id", value, "simple", explode=False) == written


@pytest.mark.parametrize("value", ["a\r\nX: 1", "a\0", "ü", "x" * 20_000])
def test_value_that_no_header_can_hold_is_refused(value: str) -> None:
    with pytest.raises(RefusedValueError, match="X-Id: "):
        header("X-Id", value, "simple", explode=False)


def test_header_and_cookie_are_written_as_openapi_says() -> None:
    assert header("X", LIST, "simple", explode=False) == "blue,black,brown"
    assert header("X", OBJECT, "simple", explode=True) == "R=100,G=200,B=150"
    assert cookie("c", "a;b=c", "form", explode=True) == "c=a%3Bb%3Dc"
    assert cookie("c", LIST, "form", explode=False) == "c=blue,black,brown"


def test_object_nested_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {"v": 1}
    for _ in range(10):
        deep = {"d": deep}
    with pytest.raises(RefusedValueError, match="nested deeper"):
        list(pairs("q", deep, "deepObject", explode=True))

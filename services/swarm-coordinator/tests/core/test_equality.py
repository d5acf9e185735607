"""When two values are the same."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm_coordinator.core.equality import (
    NotComparableError,
    canonical_key,
    classes,
    fault_of,
    is_exact,
    item_key,
    part_of,
)
from swarm_coordinator.core.spec import Equality


def same(one: str, other: str, equality: Equality) -> bool:
    return len(set(classes([one.encode(), other.encode()], equality))) == 1


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("1", "1.0", True),
        ("100", "1e2", True),
        ("-0", "0.0", True),
        ("9007199254740992", "9007199254740993", False),
        ('{"a":1,"b":2}', ' { "b" : 2.0 , "a" : 1 } ', True),
        ('"\\u00e9"', '"e\\u0301"', True),
        ('{"\\u00e9":1,"z":2}', '{"z":2,"e\\u0301":1}', True),
        ('"A"', '"a"', False),
        ("[1,2]", "[2,1]", False),
        ("null", "false", False),
        ('{"a":1,"a":2}', '{"a":2}', False),
        ("1", '"1"', False),
    ],
)
def test_json_compares_values_and_not_how_they_are_written(
    one: str, other: str, equal: bool
) -> None:
    assert same(one, other, Equality()) is equal


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ('"Yes"', '"  yes\\n"', True),
        ('"two  words"', '"Two\\tWords"', True),
        ('"\\ufb01ne"', '"FINE"', True),
        ('"\\uff21"', '"a"', True),
        ('"stra\\u00dfe"', '"STRASSE"', True),
        ('"yes."', '"yes"', False),
        ("true", '"True"', True),
        ("1.0", '"1"', True),
    ],
)
def test_text_compares_words_without_case_width_and_blanks(
    one: str, other: str, equal: bool
) -> None:
    assert same(one, other, Equality(kind="text")) is equal


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("[1,2,2]", "[2.0,1]", True),
        ("[]", "[]", True),
        ("[1]", "[1,2]", False),
        ('[{"a":1,"b":2}]', '[{"b":2,"a":1}]', True),
        ("[[1,2]]", "[[2,1]]", False),
    ],
)
def test_set_compares_lists_without_order_and_repeats(one: str, other: str, equal: bool) -> None:
    assert same(one, other, Equality(kind="set")) is equal


@pytest.mark.parametrize(
    ("one", "other", "absolute", "relative", "equal"),
    [
        ("1", "1.0", 0, 0, True),
        ("0.3", "0.30000000000000004", 0, 0, False),
        ("0.1", "0.4", 0.3, 0, True),
        ("0.1", "0.41", 0.3, 0, False),
        ("100", "110", 0, 0.1, True),
        ("-100", "-90", 0, 0.1, True),
        ("100", "112", 0, 0.1, False),
        ("0.5", "0.45", 0, 0.1, True),
        ("0.5", "0.449", 0, 0.1, False),
        ("-0.5", "-0.45", 0, 0.1, True),
        ("0", "0.001", 0, 0.9, False),
        ("-1", "1", 0, 0.9, False),
        ("9007199254740993", "9007199254740992", 0, 0, False),
        ('" 42 "', "42", 0, 0, True),
        ("1e300", "1.0000001e300", 0, 0.001, True),
        ("1e-999999999", "0", 0, 0, True),
    ],
)
def test_numeric_compares_decimal_numbers_within_a_tolerance(
    one: str, other: str, absolute: float, relative: float, equal: bool
) -> None:
    equality = Equality(kind="numeric", absolute=absolute, relative=relative)
    assert same(one, other, equality) is equal
    assert same(other, one, equality) is equal


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("numeric", '"many"'),
        ("numeric", "true"),
        ("numeric", "[1]"),
        ("numeric", "1e999999999"),
        ("numeric", "9" * 401),
        ("set", '{"a":1}'),
        ("json", "1e400"),
        ("json", "{"),
        ("json", '"\\ud800"'),
        ("json", "[" * 5000 + "]" * 5000),
        ("text", '"\\ud800"'),
        ("set", "[1e400]"),
        ("judge", "1"),
    ],
)
def test_a_value_that_cannot_be_compared_is_refused(kind: str, value: str) -> None:
    equality = Equality(kind=kind)  # type: ignore[arg-type]
    with pytest.raises(NotComparableError):
        classes([value.encode()], equality)


def test_a_pointer_compares_one_field() -> None:
    equality = Equality(kind="pointer", pointer="/verdict/0")
    assert part_of(b'{"verdict": ["pass", 1], "why": 2}', equality) == b'"pass"'
    with pytest.raises(NotComparableError, match="/verdict/0 is not there"):
        part_of(b'{"verdict": []}', equality)


def test_items_are_the_same_by_their_key_fields() -> None:
    one, other = b'{"file":"a","line":1.0,"text":"x"}', b'{"line":1,"file":"a"}'
    assert item_key(one, ("file", "line")) == item_key(other, ("file", "line"))
    assert item_key(one, ()) != item_key(other, ())
    assert item_key(b'{"file":"a"}', ("file", "line")) == item_key(
        b'{"file":"a","line":null}', ("file", "line")
    )
    assert item_key(b'"plain"', ("file",)) == canonical_key(b'"plain"')


def test_keys_do_not_run_into_each_other() -> None:
    assert item_key(b'{"a":"1,2","b":"3"}', ("a", "b")) != item_key(
        b'{"a":"1","b":"2,3"}', ("a", "b")
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("1 2 3", "1 1 1"),  # all agree with the middle
        ("1 2 3 4", "1 1 1 3"),  # two middles with the same right: the smaller
        ("10 1 1.5 10.2", "0 1 1 0"),
        ("1 5 9", "0 1 2"),
        ("3 3 3 4.5 5 5.5", "0 0 0 4 4 4"),
    ],
)
def test_numbers_gather_around_the_value_that_most_agree_with(values: str, expected: str) -> None:
    parts = [one.encode() for one in values.split()]
    found = classes(parts, Equality(kind="numeric", absolute=1.0))
    numbers = [parts[index] for index in found]
    wanted = [parts[int(index)] for index in expected.split()]
    assert numbers == wanted


@given(
    st.lists(st.decimals(-50, 50, places=1), min_size=1, max_size=12),
    st.sampled_from([(1.0, 0.0), (0.0, 0.1), (0.5, 0.05), (0.0, 0.99)]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_clusters_are_the_same_in_any_order_and_agree_with_their_centre(
    values: list[object], tolerance: tuple[float, float], random: object
) -> None:
    equality = Equality(kind="numeric", absolute=tolerance[0], relative=tolerance[1])
    parts = [str(value).encode() for value in values]
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def clusters(given: list[bytes]) -> set[tuple[Fraction, Fraction]]:
        found = classes(given, equality)
        return {
            (Fraction(part.decode()), Fraction(given[index].decode()))
            for part, index in zip(given, found, strict=True)
        }

    assert clusters(parts) == clusters(shuffled)
    absolute, relative = (Fraction(repr(one)) for one in tolerance)
    for value, centre in clusters(parts):
        allowed = max(absolute, relative * max(abs(value), abs(centre)))
        assert abs(value - centre) <= allowed


@given(st.lists(st.decimals(-9, 9, places=1), min_size=1, max_size=9))
@settings(max_examples=200, deadline=None)
def test_no_other_centre_gathers_more_than_the_first(values: list[object]) -> None:
    equality = Equality(kind="numeric", absolute=1.0)
    parts = [str(value).encode() for value in values]
    found = classes(parts, equality)
    biggest = max(found.count(one) for one in found)
    numbers = [Fraction(str(value)) for value in values]
    assert biggest == max(sum(abs(one - other) <= 1 for other in numbers) for one in numbers)


def test_a_thousand_numbers_that_hardly_agree_are_clustered_at_once() -> None:
    parts = [f"{n * 9 // 10}.{n * 9 % 10}".encode() for n in range(1_000)]
    found = classes(parts, Equality(kind="numeric", absolute=1.0))
    assert len(set(found)) == 334


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e200, max_value=1e200),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_canonical_keys_do_not_depend_on_spelling(value: object) -> None:
    try:
        plain = json.dumps(value).encode()
        other = json.dumps(value, ensure_ascii=False, indent=2).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no JSON that travels
    try:
        key = canonical_key(plain)
    except NotComparableError:
        return
    assert key == canonical_key(other) == canonical_key(key)


@pytest.mark.parametrize(
    ("equality", "fault"),
    [
        (Equality(), ""),
        (Equality(kind="numeric", absolute=-1), "absolute"),
        (Equality(kind="numeric", relative=1.0), "relative"),
        (Equality(kind="numeric", relative=float("nan")), "relative"),
        (Equality(kind="pointer"), "pointer is missing"),
        (Equality(kind="pointer", pointer="verdict"), "JSON pointer"),
        (Equality(kind="judge"), "agent is missing"),
        (Equality(kind="judge", agent="reviewer"), ""),
        (Equality(kind="items", keys=("file", "line")), ""),
    ],
)
def test_parameters_of_an_equality_are_checked(equality: Equality, fault: str) -> None:
    found = fault_of(equality)
    assert fault in found
    assert bool(fault) == bool(found)


def test_only_modes_without_a_tolerance_are_exact() -> None:
    assert is_exact(Equality())
    assert is_exact(Equality(kind="numeric"))
    assert not is_exact(Equality(kind="numeric", relative=0.1))
    assert not is_exact(Equality(kind="items"))

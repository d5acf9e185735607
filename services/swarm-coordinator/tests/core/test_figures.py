"""Numbers of JSON texts, exact."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm_coordinator.core.figures import exact, text_of


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("9007199254740993", 9007199254740993),
        ("0.1", Fraction(1, 10)),
        ("1.0", Fraction(1)),
        ("-1.5e3", Fraction(-1500)),
        ("1E+2", Fraction(100)),
        ("5e-0400", Fraction(5, 10**400)),
        ("5e-401", Fraction(0)),
        ("5e-99999999999999999999", Fraction(0)),
    ],
)
def test_a_number_is_what_its_digits_say(text: str, value: object) -> None:
    found = exact(text.encode())
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    ["", "true", '"1"', "[1]", "01", "1.", ".5", "+1", "1e", "0x1", "NaN", "-", "1 2", "1\x00"],
)
def test_what_is_no_number_is_none(text: str) -> None:
    assert exact(text.encode()) is None


@pytest.mark.parametrize("text", ["1e401", "1e99999999999999999999", "1" * 401, "0." + "1" * 400])
def test_numbers_beyond_reason_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a number is too"):
        exact(text.encode())


@given(st.integers(-(10**300), 10**300))
def test_integers_keep_every_digit(value: int) -> None:
    found = exact(str(value).encode())
    assert found == value
    assert text_of(value) == str(value).encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive(value: float) -> None:
    found = exact(repr(value).encode())
    assert found is not None
    assert float(text_of(Fraction(found))) == value


def test_a_figure_beyond_every_double_is_refused() -> None:
    with pytest.raises(ValueError, match="too large"):
        text_of(Fraction(10**400, 3))

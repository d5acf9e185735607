import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_proto.header_values import decode_value, encode_value

texts = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["=?base64?", "=?base64?YQ==?=", " a", "a ", "\r\nEvil: 1", "\x7f", "=?BASE64?x?="]
)


@given(texts)
def test_any_text_survives_a_header(text: str) -> None:
    value = encode_value(text)
    assert decode_value(value) == text
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip()


@given(texts, texts)
def test_two_texts_never_share_a_header(first: str, second: str) -> None:
    assert (encode_value(first) == encode_value(second)) == (first == second)


@pytest.mark.parametrize(
    "value",
    [
        "=?base64?YQ?=",
        "=?base64?YR==?=",
        "=?base64?/w==?=",
        "=?base64?Y Q?=",
    ],
)
def test_a_malformed_marker_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"base64|utf-8"):
        decode_value(value)


@pytest.mark.parametrize("value", ["=?base64?", "=?base64?=", "=?base64?YQ==", "YQ==?="])
def test_half_a_marker_is_a_literal(value: str) -> None:
    assert decode_value(value) == value


def test_lone_surrogates_cannot_be_encoded() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_value("\ud800")

import binascii
import os

import pytest

from mesh_chassis import base64url


@pytest.mark.parametrize("length", range(6))
def test_what_was_encoded_decodes_without_padding_or_reserved_characters(length: int) -> None:
    data = os.urandom(length)
    text = base64url.encode(data)
    assert not set(text) & set("=+/")
    assert base64url.decode(text) == data


@pytest.mark.parametrize("text", ["QQ==", "QR", "Q Q", "QQ\n", "+/+/", "Q", "QQ.", "ä"])
def test_any_other_spelling_is_refused(text: str) -> None:
    assert base64url.encode(b"A") == "QQ"
    with pytest.raises((binascii.Error, ValueError)):
        base64url.decode(text)

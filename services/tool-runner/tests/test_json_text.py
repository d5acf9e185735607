import base64
import json
from collections.abc import AsyncGenerator

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_runner.core.json_text import JsonLength, base64_length, in_base64, in_json

quick = settings(max_examples=60, deadline=None)


async def parts_of(data: bytes, size: int) -> AsyncGenerator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@given(text=st.text(max_size=80), size=st.integers(1, 9))
@quick
async def test_text_becomes_a_json_string_of_the_length_said(text: str, size: int) -> None:
    data = text.encode()
    length = JsonLength()
    for at in range(0, len(data), size):
        assert length.feed(data[at : at + size])
    made = b"".join([part async for part in in_json(parts_of(data, size))])
    assert length.end() == len(made)
    assert json.loads(b'"%b"' % made) == text
    assert made == msgspec.json.encode(text)[1:-1]


@given(data=st.binary(max_size=60), size=st.integers(1, 9))
@quick
async def test_bytes_become_base64_of_the_length_said(data: bytes, size: int) -> None:
    made = b"".join([part async for part in in_base64(parts_of(data, size))])
    assert made == base64.b64encode(data)
    assert len(made) == base64_length(len(data))


def test_what_is_no_text_has_no_length() -> None:
    assert not JsonLength().feed(b"a\xff")
    torn = JsonLength()
    assert torn.feed("é".encode()[:1])
    assert torn.end() == -1

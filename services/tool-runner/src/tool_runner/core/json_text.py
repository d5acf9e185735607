"""Bodies as JSON strings, made in parts: how long one will be, and its text or base64."""

import base64
import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

__all__ = ["JsonLength", "base64_length", "in_base64", "in_json"]

_encode = msgspec.json.Encoder().encode
_decoder = codecs.getincrementaldecoder("utf-8")


class JsonLength:
    """How long a text is as a JSON string; each character is escaped by itself."""

    def __init__(self) -> None:
        self._decoder = _decoder()
        self._length = 0

    def feed(self, piece: bytes) -> bool:
        """Take the next piece; False = it is no UTF-8."""
        try:
            self._length += len(_encode(self._decoder.decode(piece))) - 2
        except UnicodeDecodeError:
            return False
        return True

    def end(self) -> int:
        """Bytes between the quotes; -1 = it ends within a character."""
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return -1
        return self._length


async def in_json(parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """What stands between the quotes of a text whose UTF-8 comes in parts."""
    decoder = _decoder()
    async with aclosing(parts):
        async for part in parts:
            yield _encode(decoder.decode(part))[1:-1]


def base64_length(size: int) -> int:
    """Characters of so many bytes."""
    return (size + 2) // 3 * 4


async def in_base64(parts: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Base64 of bytes that come in parts."""
    held = b""
    async with aclosing(parts):
        async for part in parts:
            data = held + part
            whole = len(data) - len(data) % 3
            held = data[whole:]
            yield base64.b64encode(data[:whole])
        yield base64.b64encode(held)

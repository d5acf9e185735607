"""Bodies kept for their receivers: whole from the beginning, or growing while they are pulled."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["TRAILING", "Answer", "LargeBody", "Offer", "Parts"]

TRAILING = "trailing"
"""Stands in a claim for the digest: the last range brings it, hashed while the others left."""
ASKED_MAX = 64
"""Ranges asked for before they are there; a receiver has a handful in flight."""

Answer = Callable[[bytes, str, MeshError | None], None]
"""Takes a range, the digest of the whole with the last one of a growing body, and what failed."""
_log = logging.getLogger(__name__)


class LargeBody(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is made while it is being pulled.

    Attributes:
        size: bytes of all parts together; another size is an error.
        parts: in order, of any length.
    """

    size: int
    parts: AsyncGenerator[bytes]

    def within(self, before: bytes, after: bytes) -> "LargeBody":
        """The same between two other pieces."""
        size = len(before) + self.size + len(after)
        return LargeBody(size=size, parts=_joined(before, self.parts, after))

    async def collected(self) -> bytes:
        """All of it.

        Raises:
            MeshError: it could not be made.
        """
        async with aclosing(self.parts) as parts:
            return b"".join([part async for part in parts])


async def _joined(
    before: bytes, parts: AsyncGenerator[bytes], after: bytes
) -> AsyncGenerator[bytes]:
    async with aclosing(parts):
        yield before
        async for part in parts:
            yield part
        yield after


class Parts:
    """A large body in pieces that are not copied into one: its bytes are made range by range.

    Args:
        pieces: bytes, or views of bytes that do not change.
    """

    __slots__ = ("_pieces", "_size")

    def __init__(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._pieces = tuple(memoryview(one) for one in pieces)
        self._size = sum(one.nbytes for one in self._pieces)

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self._pieces)

    def cut(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end``."""
        found: list[memoryview] = []
        at = 0
        for piece in self._pieces:
            if start < at + piece.nbytes and at < end:
                found.append(piece[max(0, start - at) : end - at])
            at += piece.nbytes
        return b"".join(found)


class _Asked(msgspec.Struct, frozen=True):
    end: int
    offset: int
    answer: Answer


class Offer:
    """A body kept for its receiver.

    Args:
        body: whole, or what it is being made of.
        tenant: of the call.
        now: loop time.
    """

    __slots__ = (
        "_asked",
        "_body",
        "_complete",
        "_failure",
        "_filled",
        "_hash",
        "_hashed",
        "_made",
        "_task",
        "size",
        "tenant",
        "touched",
    )

    def __init__(self, body: bytes | Parts | LargeBody, tenant: str, now: float) -> None:
        self.tenant = tenant
        self.touched = now
        self._failure: MeshError | None = None
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._asked: list[_Asked] = []
        self._task: asyncio.Task[None] | None = None
        self._made = bytearray()
        self._complete = not isinstance(body, LargeBody)
        if not isinstance(body, LargeBody):
            self.size = self._filled = len(body)
            self._body = body if isinstance(body, Parts) else Parts((body,))
        else:
            self.size, self._filled = body.size, 0
            self._made = bytearray(body.size)
            self._body = Parts((memoryview(self._made),))
            # Owned here: ``forget`` ends it.
            self._task = asyncio.get_running_loop().create_task(self._make(body.parts))

    def ask(self, offset: int, length: int, answer: Answer) -> None:
        """Answer with a range, now or as soon as it is there."""
        end = min(offset + length, self.size)
        if self._failure is not None or len(self._asked) >= ASKED_MAX:
            busy = MeshError(ErrorKind.OVERLOADED, "too many ranges are asked for at once")
            answer(b"", "", self._failure or busy)
        elif end <= self._filled and (end < self.size or self._complete):
            self._give(_Asked(end, offset, answer))
        else:
            self._asked.append(_Asked(end, offset, answer))

    def forget(self) -> None:
        """Nobody wants it any more."""
        self._asked.clear()
        if self._task is not None:
            self._task.cancel()

    def _give(self, asked: _Asked) -> None:
        chunk = self._body.cut(asked.offset, asked.end)
        if asked.offset == self._hashed:
            # Receivers ask in order: hashed on its way, the whole waits for no pass of its own.
            self._hash.update(chunk)
            self._hashed = asked.end
        digest = ""
        if asked.end == self.size:
            if self._hashed < self.size:
                self._hash.update(self._body.cut(self._hashed, self.size))
                self._hashed = self.size
            digest = self._hash.hexdigest()
        asked.answer(chunk, digest, None)

    async def _make(self, parts: AsyncGenerator[bytes]) -> None:
        try:
            async with aclosing(parts):
                async for part in parts:
                    end = self._filled + len(part)
                    if end > self.size:
                        raise ValueError("a body became larger than it was said to be")
                    self._made[self._filled : end] = part
                    self._filled = end
                    self._give_what_is_there()
            if self._filled < self.size:
                raise ValueError("a body became smaller than it was said to be")
            self._complete = True
            self._give_what_is_there()
        except MeshError as error:
            self._fail(error)
        except Exception:  # noqa: BLE001 - whatever ends it, its receiver is told
            _log.exception("a large body could not be made")
            self._fail(MeshError(ErrorKind.INTERNAL, "internal error"))

    def _give_what_is_there(self) -> None:
        waiting, self._asked = self._asked, []
        for asked in waiting:
            if asked.end <= self._filled and (asked.end < self.size or self._complete):
                self._give(asked)
            else:
                self._asked.append(asked)

    def _fail(self, error: MeshError) -> None:
        self._failure = error
        waiting, self._asked = self._asked, []
        for asked in waiting:
            asked.answer(b"", "", error)

"""Artifacts that are stored while they arrive: a put of 10 MB is not read, then stored, but both.

The body of a large put is a JSON text whose one long string is the content. That string is cut
out on its way (``core.long_string``), decoded piece by piece and written under a name nobody
knows. What is left of the body is judged as every call is; only then, if it is a put of that very
key, what was written becomes visible. In every other case it is dropped.
"""

import asyncio
import base64
import binascii
import os
import re
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from mcp_proto.errors import ErrorKind, MeshError
from tool_runner.core.long_string import LongString
from tool_runner.drivers.storage import Artifact, ArtifactStore

__all__ = ["MARK_CHARS", "Arriving", "BadDataError", "PutArguments"]

MARK_CHARS = 32
WAITING_MAX = 4
"""Pieces of about 128 KiB that wait for the store; then no more of the body is asked for."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_CLOSERS = {ord("{"): b"}", ord("["): b"]"}
_text = msgspec.json.Decoder(str)


class PutArguments(msgspec.Struct, frozen=True, rename="camel"):
    """Arguments of ``artifacts_put``."""

    key: str
    content: str | None = None
    data: str | None = None
    content_type: str = ""


_arguments = msgspec.json.Decoder(PutArguments)


class BadDataError(Exception):
    """``data`` is no base64."""


class Arriving:
    """One call's body on its way into the store; an ``Intake`` of the endpoint.

    Args:
        store: where it goes.
        known: where the handler finds it by its mark, until it is closed.
        tenant: of the call.
        read: makes a whole body into the arguments of the call, or raises ``MeshError``.

    Attributes:
        mark: what stands for the content in the arguments that the handler gets.
        key: of the artifact; "" until the content has begun.
    """

    def __init__(
        self,
        store: ArtifactStore,
        known: dict[str, "Arriving"],
        tenant: str,
        read: Callable[[bytes], msgspec.Raw],
    ) -> None:
        self.mark = os.urandom(MARK_CHARS // 2).hex()
        known[self.mark] = self
        self._known = known
        self.key = ""
        self._parts: list[bytes] = []
        self._store = store
        self._tenant = tenant
        self._read = read
        self._cut = LongString(self.mark.encode(), self._wanted)
        self._decode: Callable[[bytes], bytes] = _utf8
        self._content_type = ""
        self._waiting: deque[bytes] = deque()
        self._complete = False
        self._changed = asyncio.Event()
        self._space = asyncio.Event()
        self._problem: MeshError | BadDataError | None = None
        self._putting: asyncio.Task[Artifact] | None = None

    async def feed(self, part: bytes) -> None:
        """See ``Intake``."""
        if self._problem is not None:
            return
        raw = self._cut.feed(part)
        if not self._cut.begun:
            return
        try:
            piece = self._decode(raw) if raw else b""
            if self._cut.ended and isinstance(self._decode, _Base64):
                piece += self._decode.finish()
        except (MeshError, BadDataError) as problem:
            self._problem = problem
            return
        if piece:
            await self._give(piece)

    def rest(self, parts: list[bytes]) -> bytes | None:
        """See ``Intake``."""
        left = self._cut.rest() if self._cut.begun else None
        self._parts = [] if left is None else parts
        return left

    def whole(self) -> bytes:
        """The body as it came."""
        return b"".join(self._parts)

    @property
    def used(self) -> bool:
        """Whether ``rest`` is less than the body."""
        return self._cut.begun and self._cut.ended

    async def close(self) -> None:
        """See ``Intake``."""
        self._known.pop(self.mark, None)
        self._parts = []
        putting = self._putting
        if putting is None:
            return
        if not putting.done():
            putting.cancel()
            await asyncio.wait({putting})
        if not putting.cancelled():
            putting.exception()  # told already, or nobody's concern any more

    async def commit(self, content_type: str) -> Artifact:
        """Make what was written visible.

        Raises:
            BadDataError: the content is no base64; nothing is stored.
            MeshError: ``params`` for a text that cannot be read, and what the store says.
        """
        if self._problem is not None:
            raise self._problem
        if self._putting is None:  # all of it came with the piece that ended it
            self._begin()
        assert self._putting is not None
        self._content_type = content_type
        self._complete = True
        self._changed.set()
        return await self._putting

    def _wanted(self, head: bytes) -> bool:
        """Whether the string that follows is the content of a put of a key that is known."""
        body = b'%b"%b"%b' % (head, self.mark.encode(), _closing(head))
        try:
            found = _arguments.decode(self._read(body))
        except (MeshError, msgspec.DecodeError, UnicodeDecodeError):
            return False
        if not found.key or (found.content, found.data).count(self.mark) != 1:
            return False
        if found.content is not None and found.data is not None:
            return False
        self.key = found.key
        if found.data is not None:
            self._decode = _Base64()
        return True

    async def _give(self, piece: bytes) -> None:
        if self._putting is None:
            self._begin()
        while len(self._waiting) >= WAITING_MAX and not self._stopped():
            self._space.clear()
            await self._space.wait()
        if not self._stopped():
            self._waiting.append(piece)
            self._changed.set()

    def _stopped(self) -> bool:
        """The store takes no more: ``commit`` says why."""
        return self._putting is not None and self._putting.done()

    def _begin(self) -> None:
        # Owned here: ``commit`` or ``close`` awaits it, and the endpoint always closes.
        self._putting = asyncio.get_running_loop().create_task(self._put())
        self._putting.add_done_callback(lambda _: self._space.set())

    async def _put(self) -> Artifact:
        return await self._store.put(
            self._tenant, self.key, self._pieces(), lambda: self._content_type
        )

    async def _pieces(self) -> AsyncIterator[bytes]:
        while True:
            while self._waiting:
                self._space.set()
                yield self._waiting.popleft()
            if self._complete:
                return
            self._changed.clear()
            await self._changed.wait()


def _closing(head: bytes) -> bytes:
    """What ends the objects and arrays that are open behind ``head``."""
    closers: list[bytes] = []
    for byte in _STRING.sub(b"", head):
        if byte in _CLOSERS:
            closers.append(_CLOSERS[byte])
        elif byte in b"}]" and closers:
            closers.pop()
    return b"".join(reversed(closers))


def _utf8(raw: bytes) -> bytes:
    try:
        return _text.decode(b'"%b"' % raw).encode()
    except (msgspec.DecodeError, UnicodeError) as error:
        raise MeshError(ErrorKind.PARAMS, f"arguments cannot be read: {error}") from None


class _Base64:
    """Decodes base64 that comes in pieces of any length."""

    def __init__(self) -> None:
        self._held = b""
        self._padded = False

    def __call__(self, raw: bytes) -> bytes:
        data = self._held + _utf8(raw)
        whole = len(data) - len(data) % 4
        self._held = data[whole:]
        return self._decoded(data[:whole])

    def finish(self) -> bytes:
        """What is left at the end, which must be nothing."""
        held, self._held = self._held, b""
        return self._decoded(held)

    def _decoded(self, data: bytes) -> bytes:
        if data and self._padded:
            raise BadDataError("Excess data after padding")
        try:
            found = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise BadDataError(str(error)) from None
        self._padded = self._padded or data.endswith(b"=")
        return found

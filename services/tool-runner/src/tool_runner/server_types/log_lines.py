"""Output of a container as lines: the newest are kept, in the order in which they came."""

from collections import deque
from typing import Annotated

import msgspec
from msgspec import Meta

from tool_runner.core.engine_stream import STDERR, EngineStream

__all__ = ["LINE_BYTES_MAX", "LOG_BYTES_MAX", "LogLine", "LogLines"]

LOG_BYTES_MAX = 256 * 1024
"""Text of one answer; what is older is left out."""
LINE_BYTES_MAX = 8 * 1024
"""The rest of a longer line is left out."""
_LINE_COST = 64
"""What an empty line counts: as JSON it is more than its text."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line."""

    text: str
    time: Annotated[str, Meta(description="When it was written, RFC 3339.")] = ""
    stream: Annotated[str, Meta(description="stdout or stderr, where they are told apart.")] = ""


class LogLines:
    """Takes bytes, gives lines; each begins with its time and a space.

    Args:
        plain: the two streams are not told apart.
    """

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain
        self._stream = EngineStream(plain=plain)
        self._rest: dict[int, bytearray] = {}
        self._lines: deque[tuple[int, bytes]] = deque()
        self._held = 0
        self.truncated = False

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            ValueError: it is no output of a container.
        """
        for stream, piece in self._stream.feed(data):
            *whole, rest = piece.split(b"\n")
            for end in whole:
                self._extend(stream, end)
                self._keep(stream, bytes(self._rest.pop(stream, b"")))
            self._extend(stream, rest)

    def end(self) -> tuple[LogLine, ...]:
        """All lines kept; a last one without its end too."""
        for stream, rest in self._rest.items():
            if rest:
                self._keep(stream, bytes(rest))
        self._rest.clear()
        return tuple(self._line(stream, text) for stream, text in self._lines)

    def _extend(self, stream: int, piece: bytes) -> None:
        held = self._rest.setdefault(stream, bytearray())
        room = LINE_BYTES_MAX - len(held)
        if len(piece) > room:
            self.truncated = True
        held += piece[:room]

    def _keep(self, stream: int, text: bytes) -> None:
        self._lines.append((stream, text))
        self._held += len(text) + _LINE_COST
        while self._held > LOG_BYTES_MAX:
            _, gone = self._lines.popleft()
            self._held -= len(gone) + _LINE_COST
            self.truncated = True

    def _line(self, stream: int, text: bytes) -> LogLine:
        time, _, rest = text.decode(errors="replace").rstrip("\r").partition(" ")
        name = "" if self._plain else "stderr" if stream == STDERR else "stdout"
        return LogLine(text=rest, time=time, stream=name)

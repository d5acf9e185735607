"""Output of a container as a Docker engine sends it: two streams in one, or a terminal's one.

Each piece of stdout or stderr has a header of 8 bytes: the stream (1 or 2), three zeros, the
length as four bytes, most significant first (Engine API, "Attach to a container"). A container
with a terminal has one stream and no headers. Pieces may be as long as the engine likes, so they
are passed on as they come and nothing is gathered here.
"""

from collections.abc import Iterator

__all__ = ["STDERR", "STDOUT", "EngineStream"]

STDOUT = 1
STDERR = 2
_HEADER_BYTES = 8


class EngineStream:
    """Splits what a connection brings into (stream, bytes).

    Args:
        plain: the container has a terminal: everything is stdout.
    """

    def __init__(self, *, plain: bool = False) -> None:
        self._plain = plain
        self._header = b""
        self._stream = STDOUT
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Take what came.

        Raises:
            ValueError: it is no such stream.
        """
        if self._plain:
            yield STDOUT, data
            return
        at = 0
        while at < len(data):
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                yield self._stream, piece
            else:
                at = self._read_header(data, at)

    def _read_header(self, data: bytes, at: int) -> int:
        more = data[at : at + _HEADER_BYTES - len(self._header)]
        self._header += more
        if len(self._header) == _HEADER_BYTES:
            header, self._header = self._header, b""
            if header[0] > STDERR or header[1:4] != b"\0\0\0":
                raise ValueError("the engine sends no stream of a container")
            self._stream = STDERR if header[0] == STDERR else STDOUT
            self._left = int.from_bytes(header[4:], "big")
        return at + len(more)

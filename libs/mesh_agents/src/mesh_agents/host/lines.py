"""What a process prints: read always, so that it never waits; the last lines are kept."""

import asyncio
from collections import deque

__all__ = ["TAIL_LINES", "Lines"]

TAIL_LINES = 20
_TAIL_BYTES = 4_096


class Lines(asyncio.Protocol):
    """Keeps the last lines of a stream.

    Args:
        tail: takes them.
    """

    def __init__(self, tail: deque[str]) -> None:
        self._tail = tail
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_TAIL_BYTES:]
        for line in lines[-TAIL_LINES:]:
            self._tail.append(line[:_TAIL_BYTES].decode(errors="replace"))

"""Which messages of Redis are our own, come back because we subscribed to their channel.

Pub/sub carries nothing beside the payload, and the payload belongs to those who read it there. So
what is published on a subscribed channel is remembered by digest until it is heard.
"""

from collections import deque
from collections.abc import Callable
from hashlib import sha256

__all__ = ["ECHOES_MAX", "ECHO_S", "Echoes"]

ECHOES_MAX = 4_096
"""Own messages whose echo is awaited."""
ECHO_S = 10.0
"""How long it is awaited; the like of it from somebody else would be taken for ours."""


class Echoes:
    """Own messages that Redis will give back because we subscribed to their channel.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._due: dict[bytes, deque[float]] = {}
        self._size = 0

    def expect(self, channel: bytes, payload: bytes) -> None:
        """We are about to publish this."""
        if self._size >= ECHOES_MAX:
            self._sweep()
        self._due.setdefault(_mark(channel, payload), deque()).append(self._now() + ECHO_S)
        self._size += 1

    def heard(self, channel: bytes, payload: bytes) -> bool:
        """Whether a message is one of ours; each is so once."""
        if not self._due:
            return False
        mark = _mark(channel, payload)
        due = self._due.get(mark)
        ours = False
        while due and not ours:
            ours = due.popleft() >= self._now()
            self._size -= 1
        if due is not None and not due:
            del self._due[mark]
        return ours

    def clear(self) -> None:
        """A new subscription gives nothing back of what was before it."""
        self._due.clear()
        self._size = 0

    def _sweep(self) -> None:
        now = self._now()
        alive = {mark: deque(one for one in due if one >= now) for mark, due in self._due.items()}
        self._due = {mark: due for mark, due in alive.items() if due}
        self._size = sum(len(due) for due in self._due.values())
        if self._size >= ECHOES_MAX:
            # At worst an own message becomes an event once more; it is not sent back again.
            self.clear()


def _mark(channel: bytes, payload: bytes) -> bytes:
    return sha256(len(channel).to_bytes(4, "big") + channel + payload).digest()

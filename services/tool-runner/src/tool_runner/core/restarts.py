"""When a child that ended is started again, and when it no longer is.

Delays double from half a second to thirty; five ends within a minute quarantine the server, so
that a program that cannot run costs neither processor nor log. A quarantine ends with a changed
definition, ``mesh server restart``, or one new try after five minutes, because the cause may have
gone by itself (a package index that was away).
"""

import msgspec

__all__ = ["DELAY_FIRST_S", "QUARANTINE_S", "REMOTE_QUARANTINE_S", "Restarts", "Wait"]

DELAY_FIRST_S = 0.5
DELAY_MAX_S = 30.0
CRASHES_MAX = 5
CRASH_WINDOW_S = 60.0
QUARANTINE_S = 300.0
REMOTE_QUARANTINE_S = 30.0
"""Of a server behind an address: a try costs one connect, and it comes back by itself."""


class Wait(msgspec.Struct, frozen=True):
    """How long to wait before the next start; ``quarantined`` when that is a last resort."""

    delay_s: float
    quarantined: bool = False


class Restarts:
    """Memory of one server's ends. Times are monotonic seconds.

    Args:
        quarantine_s: from a quarantine to the next try.
    """

    def __init__(self, *, quarantine_s: float = QUARANTINE_S) -> None:
        self._quarantine_s = quarantine_s
        self._ends: list[float] = []
        self._row = 0
        self._quarantined = False

    def ended(self, now_s: float, *, ran_s: float, jitter: float = 0.0) -> Wait:
        """Decide after an unwanted end.

        Args:
            now_s: monotonic time.
            ran_s: how long the server had been answering; 0 when it never did.
            jitter: 0..1, spreads the delay by up to a fifth.
        """
        if ran_s >= CRASH_WINDOW_S:
            self._row = 0
        self._ends = [at for at in self._ends if now_s - at < CRASH_WINDOW_S] + [now_s]
        if len(self._ends) >= CRASHES_MAX or (self._quarantined and ran_s < CRASH_WINDOW_S):
            self._quarantined = True
            return Wait(self._quarantine_s, quarantined=True)
        self._quarantined = False
        delay = min(DELAY_MAX_S, DELAY_FIRST_S * 2**self._row)
        self._row += 1
        return Wait(delay * (1 + 0.2 * jitter))

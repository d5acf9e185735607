"""Bounds that are asked on the path of every call: how often, and how many at once.

Pure counting, no waiting: a refusal is an answer with the time after which asking again helps.
"""

from collections.abc import Generator
from contextlib import contextmanager

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["Bulkhead", "TokenBucket"]


class TokenBucket:
    """A rate with a burst, as GCRA: one number instead of a counter and a timer.

    Args:
        rate: admissions per second, over time.
        burst: admissions at once after a pause.
    """

    __slots__ = ("_ideal", "_interval", "_tolerance")

    def __init__(self, *, rate: float, burst: float = 1.0) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError("a rate is above 0, a burst at least 1")
        self._interval = 1.0 / rate
        self._tolerance = (burst - 1.0) * self._interval
        self._ideal = 0.0  # time at which the next admission would be exactly on the rate

    def admit(self, now: float) -> float:
        """Ask for one admission.

        Args:
            now: monotonic seconds; the same clock for every call.

        Returns:
            0.0 = admitted; else seconds after which one would be. A refusal costs nothing.
        """
        ideal = self._ideal
        if ideal < now:
            self._ideal = now + self._interval
            return 0.0
        early = ideal - now - self._tolerance
        # Sums of intervals drift by rounding; a nanosecond is not worth a refusal.
        if early > 1e-9:
            return early
        self._ideal = ideal + self._interval
        return 0.0

    def idle(self, now: float) -> bool:
        """Whether the full burst is available: such a bucket may be dropped and made anew."""
        return self._ideal <= now


class Bulkhead:
    """How many at once; what is full refuses at once instead of queueing.

    Args:
        limit: at once.
        name: of the limit, for the refusal and metrics.
        retry_after_s: hint in the refusal, in seconds.
    """

    __slots__ = ("_limit", "_name", "_retry_after_s", "_used")

    def __init__(self, *, limit: int, name: str, retry_after_s: float = 0.1) -> None:
        self._limit = limit
        self._name = name
        self._retry_after_s = retry_after_s
        self._used = 0

    @property
    def used(self) -> int:
        """Running now."""
        return self._used

    @property
    def limit(self) -> int:
        """At once, at most."""
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        """What runs above a lower limit goes on; nothing new comes in until it is below."""
        self._limit = limit

    def enter(self) -> bool:
        """Take a place; every True needs one ``leave``."""
        if self._used >= self._limit:
            return False
        self._used += 1
        return True

    def leave(self) -> None:
        """Give a place back."""
        if self._used <= 0:
            raise RuntimeError(f"{self._name}: left more often than entered")
        self._used -= 1

    @contextmanager
    def place(self) -> Generator[None]:
        """A place for the length of a ``with`` block.

        Raises:
            MeshError: ``overloaded``, not executed, when it is full.
        """
        if not self.enter():
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"{self._name}: {self._limit} at once",
                data={"limit": self._name},
                retry_after_s=self._retry_after_s,
            )
        try:
            yield
        finally:
            self.leave()

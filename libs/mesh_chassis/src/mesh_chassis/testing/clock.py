"""A clock that moves only when a test says so."""

__all__ = ["FakeClock"]


class FakeClock:
    """Stands in wherever code takes its time as a callable.

    ``clock()`` gives monotonic seconds, ``clock.now_ms()`` Unix milliseconds; both move together.
    """

    def __init__(self, *, monotonic_s: float = 1_000.0, unix_ms: int = 1_790_000_000_000) -> None:
        self._monotonic_s = monotonic_s
        self._unix_ms = unix_ms

    def __call__(self) -> float:
        """Monotonic seconds."""
        return self._monotonic_s

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self._monotonic_s

    def now_ms(self) -> int:
        """Unix time in milliseconds."""
        return self._unix_ms

    def advance(self, seconds: float) -> None:
        """Move on; time never goes back.

        Raises:
            ValueError: a negative step.
        """
        if seconds < 0:
            raise ValueError("time does not go back")
        self._monotonic_s += seconds
        self._unix_ms += round(seconds * 1000)

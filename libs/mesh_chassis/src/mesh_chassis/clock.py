"""Time, in one place, so that everything that waits or expires can be tested without waiting.

Two clocks that must not be mixed: wall time in Unix milliseconds (expiries that leave the
process) and monotonic seconds (intervals inside it). State machines take the value as an
argument; only code that owns a loop reads a clock. The simulated twin is
``mesh_chassis.testing.clock.FakeClock``.
"""

import time
from typing import Protocol

__all__ = ["SYSTEM", "Clock", "SystemClock", "monotonic", "now_ms"]

monotonic = time.monotonic
"""Seconds that never go backwards; meaningful only as differences inside this process."""


def now_ms() -> int:
    """Wall time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class Clock(Protocol):
    """What reads the time."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        ...

    def monotonic(self) -> float:
        """Monotonic seconds."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        return time.time_ns() // 1_000_000

    monotonic = staticmethod(time.monotonic)
    """Monotonic seconds. Not wrapped: it is read several times per call."""


SYSTEM = SystemClock()
"""The default wherever a ``Clock`` is an argument."""

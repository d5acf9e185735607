"""Repeating what is safe to repeat: how long to wait, and how much repeating there may be.

Only calls with outcome ``not_executed`` are repeated, and all repeats together may not exceed a
tenth of the calls: without the budget, retries multiply exactly the load that caused them.
"""

import random

__all__ = ["RetryBudget", "backoff_s"]


def backoff_s(attempt: int, *, first_s: float, max_s: float, spread: float | None = None) -> float:
    """Wait before repeating: doubles up to ``max_s``, with full jitter over the upper half.

    Args:
        attempt: 0 for the wait after the first failure.
        first_s: longest first wait, in seconds.
        max_s: longest wait at all, in seconds.
        spread: random number in 0..1; None = drawn here.

    Returns:
        Seconds, at least half of the nominal wait so that no repeat is immediate.
    """
    nominal = min(first_s * 2 ** min(attempt, 32), max_s)
    drawn = random.random() if spread is None else spread  # noqa: S311 - spreads load, no secret
    return nominal * (0.5 + 0.5 * drawn)


class RetryBudget:
    """Repeats as a share of calls, in one number.

    Each call earns ``ratio`` of a repeat, each repeat costs one. A reserve lets a quiet service
    repeat at all, and bounds what a storm can spend.

    Args:
        ratio: repeats per call, over time.
        reserve: repeats that can be saved up.
    """

    def __init__(self, *, ratio: float = 0.1, reserve: float = 10.0) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._saved = reserve

    @property
    def left(self) -> float:
        """Repeats that may be made now."""
        return self._saved

    def called(self) -> None:
        """Note a call (not a repeat)."""
        self._saved = min(self._reserve, self._saved + self._ratio)

    def may_retry(self) -> bool:
        """Take one repeat out of the budget, if there is one."""
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

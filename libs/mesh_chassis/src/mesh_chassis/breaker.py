"""The circuit breaker of one upstream: stop knocking where nobody answers, find out when they do.

A pure state machine: the caller passes the time and the randomness in. It opens after five
failures in a row, or when at least half of at least twenty calls within ten seconds failed; stays
open 5 s, doubling up to 60 s, with jitter; then lets exactly one probe through.
A busy refusal is neither success nor failure: counting it would open the breaker under plain
overload and turn a slow upstream into a dead one.
"""

from collections import deque
from enum import StrEnum

import msgspec

__all__ = ["Breaker", "BreakerRules", "BreakerState"]


class BreakerState(StrEnum):
    """States of a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class BreakerRules(msgspec.Struct, frozen=True, kw_only=True):
    """When it opens and for how long; times in seconds.

    Attributes:
        failures_in_row: opens at this many failures without a success between.
        window_s: age of outcomes that count for the ratio.
        window_calls_min: outcomes needed before the ratio counts.
        failure_ratio: opens at this share of failures.
        open_s: first time open; doubles with each failed probe.
        open_max_s: longest time open.
        jitter: share by which the time open is lengthened at random.
        probe_timeout_s: a probe that never reported counts as failed after this.
    """

    failures_in_row: int = 5
    window_s: float = 10.0
    window_calls_min: int = 20
    failure_ratio: float = 0.5
    open_s: float = 5.0
    open_max_s: float = 60.0
    jitter: float = 0.2
    probe_timeout_s: float = 30.0


OUTCOMES_MAX = 1_000
"""Outcomes remembered; at higher rates the window is shorter than its seconds, not wrong."""


class Breaker:
    """One breaker.

    Args:
        rules: see ``BreakerRules``.
    """

    def __init__(self, rules: BreakerRules | None = None) -> None:
        self.rules = rules or BreakerRules()
        self.state = BreakerState.CLOSED
        self._in_row = 0
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._opened = 0
        self._until = 0.0

    def admit(self, now: float) -> float:
        """Ask to make a call.

        Args:
            now: monotonic seconds.

        Returns:
            0.0 = go ahead (and report the outcome); else seconds after which asking again helps.
            In the state half-open the one call that got 0.0 is the probe.
        """
        if self.state is BreakerState.CLOSED:
            return 0.0
        if now < self._until:
            return self._until - now
        # Open and its time is over, or a probe that never reported: the next call probes.
        self.state = BreakerState.HALF_OPEN
        self._until = now + self.rules.probe_timeout_s
        return 0.0

    def succeeded(self, now: float) -> None:
        """Report an answer of the upstream, whatever it said."""
        self._in_row = 0
        if self.state is BreakerState.CLOSED:
            self._note(now, failed=False)
            return
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.CLOSED
            self._opened = 0
            self._outcomes.clear()
            self._failed = 0
        # Open: a call from before the opening came through; the probe decides.

    def failed(self, now: float, spread: float) -> bool:
        """Report an error or a time-out of the upstream.

        Args:
            now: monotonic seconds.
            spread: random number in 0..1, for the jitter.

        Returns:
            Whether this failure opened the breaker.
        """
        self._in_row += 1
        match self.state:
            case BreakerState.OPEN:
                return False
            case BreakerState.HALF_OPEN:
                self._open(now, spread)
                return True
            case BreakerState.CLOSED:
                self._note(now, failed=True)
                if self._in_row >= self.rules.failures_in_row or self._too_many():
                    self._open(now, spread)
                    return True
                return False

    def busy(self, now: float) -> None:
        """Report a busy refusal: counts as nothing, but ends a probe so that the next may try."""
        if self.state is BreakerState.HALF_OPEN:
            self._until = now

    def reset(self) -> None:
        """Forget everything, e.g. because the upstream was started anew."""
        self.state = BreakerState.CLOSED
        self._in_row = self._failed = self._opened = 0
        self._outcomes.clear()

    def _note(self, now: float, *, failed: bool) -> None:
        self._outcomes.append((now, failed))
        self._failed += failed
        oldest = now - self.rules.window_s
        while self._outcomes and (
            self._outcomes[0][0] < oldest or len(self._outcomes) > OUTCOMES_MAX
        ):
            self._failed -= self._outcomes.popleft()[1]

    def _too_many(self) -> bool:
        calls = len(self._outcomes)
        return (
            calls >= self.rules.window_calls_min
            and self._failed >= self.rules.failure_ratio * calls
        )

    def _open(self, now: float, spread: float) -> None:
        rules = self.rules
        open_s = min(rules.open_s * 2 ** min(self._opened, 16), rules.open_max_s)
        self.state = BreakerState.OPEN
        self._until = now + open_s * (1 + rules.jitter * spread)
        self._opened += 1
        self._in_row = 0
        self._outcomes.clear()
        self._failed = 0

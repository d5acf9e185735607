"""When a refused call is sent again: only where the refusal proves that nothing ran.

No responders: once after 50 to 100 ms (rolling restart), and until a second after an own
reconnect, because the caller may be back before the runner. Busy: jittered waits of 2, 10 and
25 ms inside a bounded wait queue.
"""

import random
from collections import defaultdict

from mcp_proto.errors import ErrorKind, MeshError, Outcome

__all__ = ["BusyQueue", "Repeats"]

BUSY_WAITS_S = (0.002, 0.010, 0.025)
BUSY_WAIT_MAX_S = 0.1
BUSY_WAIT_SHARE = 0.25
"""Longest wait of a call for a free slot: 100 ms or a quarter of its budget."""
NO_RUNNER_WAIT_S = (0.05, 0.1)
AFTER_RECONNECT_S = 1.0
QUEUE_PER_TARGET = 256
QUEUE_PER_TENANT = 32
"""Calls waiting for a free slot, per server and per tenant; above, busy is answered at once."""


class BusyQueue:
    """Counts the calls that wait for a free slot."""

    def __init__(self) -> None:
        self._targets: defaultdict[str, int] = defaultdict(int)
        self._tenants: defaultdict[str, int] = defaultdict(int)

    def enter(self, target: str, tenant: str) -> bool:
        """Take a place; False when the queue is full."""
        if self._targets[target] >= QUEUE_PER_TARGET or self._tenants[tenant] >= QUEUE_PER_TENANT:
            return False
        self._targets[target] += 1
        self._tenants[tenant] += 1
        return True

    def leave(self, target: str, tenant: str) -> None:
        """Give the place back."""
        for counts, key in ((self._targets, target), (self._tenants, tenant)):
            counts[key] -= 1
            if counts[key] <= 0:
                del counts[key]


class Repeats:
    """Decides for one call, after each refusal, whether and when it is sent again.

    Args:
        queue: shared wait queue.
        target: server or operation the call goes to.
        tenant: whose call it is.
        budget_s: time the whole call has.
    """

    def __init__(self, queue: BusyQueue, *, target: str, tenant: str, budget_s: float) -> None:
        self._queue = queue
        self._target = target
        self._tenant = tenant
        self._busy_left = min(BUSY_WAIT_MAX_S, BUSY_WAIT_SHARE * budget_s)
        self._busy = 0
        self._no_runner = 0
        self._waiting = False

    def wait_after(self, error: MeshError, *, now: float, reconnected_at: float) -> float | None:
        """Seconds to wait before sending again; None = give the error to the caller.

        Args:
            error: the refusal.
            now: loop time.
            reconnected_at: loop time of the last own reconnect.
        """
        if error.outcome is not Outcome.NOT_EXECUTED:
            return None
        if error.kind is ErrorKind.OVERLOADED:
            return self._after_busy()
        if error.kind is ErrorKind.NO_RUNNER:
            first = self._no_runner == 0
            self._no_runner += 1
            if first or now - reconnected_at < AFTER_RECONNECT_S:
                return random.uniform(*NO_RUNNER_WAIT_S)  # noqa: S311 - jitter
        return None

    def _after_busy(self) -> float | None:
        if self._busy >= len(BUSY_WAITS_S):
            return None
        wait = BUSY_WAITS_S[self._busy] * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        if wait > self._busy_left:
            return None
        if not self._waiting:
            if not self._queue.enter(self._target, self._tenant):
                return None
            self._waiting = True
        self._busy += 1
        self._busy_left -= wait
        return wait

    def done(self) -> None:
        """The call ended: give back the place in the queue."""
        if self._waiting:
            self._waiting = False
            self._queue.leave(self._target, self._tenant)

"""Notices an event loop that does not turn: first out of service, then out of the process.

A loop blocked for a second delays every call of the process; blocked for ten it is a hung worker
that its broker connection still shows as alive. The loop measures its own delay for the first
case; for the second a thread must look, because a blocked loop cannot.
"""

import asyncio
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable

from mesh_chassis.clock import monotonic
from mesh_chassis.health import Health

__all__ = ["LAG_DEGRADED_S", "LAG_EXIT_S", "LoopWatchdog"]

LAG_DEGRADED_S = 1.0
"""A loop this late leaves readiness until it has been on time for ``RECOVER_S``."""

LAG_EXIT_S = 10.0
"""A loop this late is hung; the supervisor starts a new process."""

RECOVER_S = 5.0
TICK_S = 0.25
THREAD_TICK_S = 1.0

REASON = "event loop lag"

_log = logging.getLogger(__name__)


class LoopWatchdog:
    """Watches the running loop.

    Args:
        health: loses readiness while the loop is late.
        hung: called in a foreign thread when the loop is hung; must not return.
        exit_s: lag at which the loop counts as hung, in seconds; None = ``LAG_EXIT_S``.
    """

    def __init__(
        self, health: Health, *, hung: Callable[[], None], exit_s: float | None = None
    ) -> None:
        self._health = health
        self._hung = hung
        self._exit_s = LAG_EXIT_S if exit_s is None else exit_s
        self._beat = monotonic()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, name="loop-watchdog", daemon=True)
        self.lag_s = 0.0
        """Delay of the last turn, in seconds."""

    async def run(self) -> None:
        """Beat and measure until cancelled."""
        self._beat = monotonic()
        self._thread.start()
        good_since = self._beat
        late = False
        try:
            while True:
                due = monotonic() + TICK_S
                await asyncio.sleep(TICK_S)
                now = self._beat = monotonic()
                self.lag_s = max(0.0, now - due)
                if self.lag_s > LAG_DEGRADED_S:
                    _log.warning("the event loop was blocked for %.2f s", self.lag_s)
                    self._health.unready(REASON)
                    late, good_since = True, now
                elif late and now - good_since > RECOVER_S:
                    self._health.ready_again(REASON)
                    late = False
        finally:
            self._stopping.set()

    def join(self, timeout_s: float) -> None:
        """Wait, outside of the loop, until the thread has ended."""
        self._thread.join(timeout_s)

    def _look(self) -> None:
        before = monotonic()
        while not self._stopping.wait(THREAD_TICK_S):
            now = monotonic()
            # A thread that is late itself was stopped with the process (SIGSTOP, a paused VM):
            # the loop deserves its turn before anybody judges it.
            if now - before > THREAD_TICK_S + LAG_DEGRADED_S:
                self._beat = now
            before = now
            if now - self._beat > self._exit_s:
                self._hung()
                return


def exit_hung(code: int) -> None:
    """Show where the loop is stuck and leave without its help."""
    sys.stderr.write('{"level":"critical","msg":"the event loop is hung, leaving"}\n')
    faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
    os._exit(code)


def exit_late(code: int) -> None:
    """Leave although something runs on that was told to end."""
    sys.stderr.write('{"level":"error","msg":"something ignores that it was stopped, leaving"}\n')
    sys.stderr.flush()
    os._exit(code)

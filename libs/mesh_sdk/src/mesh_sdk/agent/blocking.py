"""Finds the handler that blocks the loop, while it does: only another thread can look then.

A coroutine that computes for a second, or waits without ``await``, stops every call of the
process. It is named in the log with the line it stands at, and runs in a thread from then on
(``Handler.blocking``).
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from mesh_sdk.agent.handler import Handler

__all__ = ["BLOCKED_S", "BlockedLoop"]

BLOCKED_S = 0.5
"""A handler that keeps the loop so long is moved to a thread."""
_TICK_S = 0.1
_FRAMES = 6
_log = logging.getLogger(__name__)


class BlockedLoop:
    """Watches the running loop.

    Args:
        running: handler of each task that runs one now.
        blocked_s: how long is too long, in seconds.
    """

    def __init__(
        self, running: dict[asyncio.Task[Any], Handler], *, blocked_s: float = BLOCKED_S
    ) -> None:
        self._running = running
        self._blocked_s = blocked_s
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._beat = time.monotonic()
        self._stopping = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._told: Handler | None = None

    def start(self) -> None:
        """Begin."""
        self._turn()
        threading.Thread(target=self._look, name="blocked-loop", daemon=True).start()

    def stop(self) -> None:
        """End; the thread goes within a tick."""
        self._stopping.set()
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self._beat = time.monotonic()
        self._told = None
        self._timer = self._loop.call_later(_TICK_S, self._turn)

    def _look(self) -> None:
        while not self._stopping.wait(_TICK_S):
            late_s = time.monotonic() - self._beat - _TICK_S
            if late_s < self._blocked_s:
                continue
            handler = self._guilty()
            if handler is not None and handler is not self._told:
                self._told = handler
                handler.blocking = True
                _log.warning(
                    "%s blocks the event loop and with it every other call; from now on it runs in "
                    "a thread. It stands at:\n%s",
                    handler.label,
                    self._stack(),
                )

    def _guilty(self) -> Handler | None:
        find: Callable[..., Any] = asyncio.current_task
        try:
            task = find(self._loop)
        except RuntimeError:
            return None
        return self._running.get(task) if task is not None else None

    def _stack(self) -> str:
        # The documented way to another thread's stack, whatever its name looks like.
        frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        frame = frames.get(self._loop_thread)
        if frame is None:
            return ""
        return "".join(traceback.format_stack(frame)[-_FRAMES:])

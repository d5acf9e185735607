"""The parent of background tasks: nothing runs that nobody owns, awaits or counts.

``asyncio.TaskGroup`` fits work with one scope; a service also starts work that outlives the
function that starts it (heartbeats, watches, running calls). Such work belongs to a ``Tasks``:
it keeps the reference, logs what fails, and ends everything in bounded time.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TypeVar

__all__ = ["TASKS_MAX", "Tasks", "TasksFullError"]

T = TypeVar("T")

TASKS_MAX = 20_000
"""Tasks of one parent; far above the slots of any service, so reaching it means a leak."""

CANCEL_ROUNDS = 3
"""A task may swallow a cancel once (a library bug we have met); after three it is abandoned."""

_log = logging.getLogger(__name__)


class TasksFullError(RuntimeError):
    """The parent is closed, or has as many tasks as it may."""


class Tasks:
    """Background tasks with one parent.

    Args:
        name: whose tasks these are, for logs.
        on_fatal: called with the exception when a task spawned with ``fatal=True`` fails; the
            owner then ends the process in order.
        tasks_max: bound of tasks alive at once.
    """

    def __init__(
        self,
        name: str,
        *,
        on_fatal: Callable[[BaseException], None] | None = None,
        tasks_max: int = TASKS_MAX,
    ) -> None:
        self.name = name
        self._on_fatal = on_fatal
        self._max = tasks_max
        self._alive: dict[asyncio.Task[object], bool] = {}
        self._closed = False

    def __len__(self) -> int:
        """Tasks alive."""
        return len(self._alive)

    def counts(self) -> dict[str, int]:
        """Tasks alive by name, for health reports and leak checks."""
        return dict(Counter(task.get_name() for task in self._alive))

    def spawn(
        self, work: Coroutine[object, object, T], *, name: str, fatal: bool = False
    ) -> asyncio.Task[T]:
        """Start ``work``; its exception is logged, never lost.

        Args:
            work: the coroutine; closed unrun when it is refused.
            name: what it does, for logs and ``counts``; few distinct values.
            fatal: its failure ends the owner (``on_fatal``).

        Raises:
            TasksFullError: closed, or the bound is reached.
        """
        if self._closed or len(self._alive) >= self._max:
            work.close()
            state = "closed" if self._closed else f"full ({self._max} tasks)"
            raise TasksFullError(f"{self.name} is {state}, cannot start {name}")
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._alive[task] = fatal
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[T]) -> None:
        fatal = self._alive.pop(task, False)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        _log.error("task %s of %s failed", task.get_name(), self.name, exc_info=error)
        if fatal and self._on_fatal is not None:
            self._on_fatal(error)

    async def join(self, timeout_s: float) -> bool:
        """Wait until all tasks have ended by themselves; False when time ran out first."""
        if self._alive:
            await asyncio.wait(tuple(self._alive), timeout=timeout_s)
        return not self._alive

    async def close(self, timeout_s: float = 5.0) -> tuple[str, ...]:
        """Refuse new tasks, cancel the living, await them.

        Returns:
            Names of tasks that did not end in time (empty when all is well).
        """
        self._closed = True
        current = asyncio.current_task()
        for _ in range(CANCEL_ROUNDS):
            alive = [task for task in self._alive if task is not current]
            if not alive:
                break
            for task in alive:
                task.cancel()
            await asyncio.wait(alive, timeout=timeout_s / CANCEL_ROUNDS)
        left = tuple(task.get_name() for task in self._alive if task is not current)
        if left:
            _log.error("tasks of %s did not end: %s", self.name, ", ".join(left))
        return left

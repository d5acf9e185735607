"""Plain functions in threads: bounded, and one that never returns costs its own place only.

Python cannot stop a thread. So a call that is over leaves its thread behind, counted; another is
started in its place until ``STUCK_MAX`` are left behind, and then calls are refused at once
instead of queueing behind handlers that do not come back. The threads are daemons: none of them
keeps a process from ending.
"""

import asyncio
import contextvars
import functools
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["STUCK_MAX", "Threads"]

STUCK_MAX = 64
"""Threads left behind by calls that were over; each holds a stack of some hundred KiB."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Job:
    __slots__ = ("abandoned", "done", "run", "started")

    def __init__(self, run: Callable[[], Callable[[], None]]) -> None:
        self.run = run
        self.started = False
        self.abandoned = False
        self.done = False


class Threads:
    """A pool of threads.

    Args:
        size: functions that run at once.
        name: of the threads.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._alive = 0
        self._idle = 0
        self.stuck = 0
        """Threads that a call left behind and that still run."""

    @property
    def exhausted(self) -> bool:
        """Whether so many were left behind that calls are refused."""
        return self.stuck > STUCK_MAX

    async def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` in a thread; when the wait is cancelled the thread is left to itself.

        Raises:
            MeshError: ``overloaded``, not executed: as many run as may.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> Callable[[], None]:
            try:
                value = context.run(function)
            except BaseException as error:  # noqa: BLE001 - carried to whoever waits
                return functools.partial(_tell, loop, result, None, error)
            return functools.partial(_tell, loop, result, value, None)

        job = _Job(work)
        self._submit(job)
        try:
            return await result
        except asyncio.CancelledError:
            self._abandon(job)
            raise

    def _submit(self, job: _Job) -> None:
        with self._lock:
            if self._idle > 0:
                self._idle -= 1
            elif self._alive - self.stuck < self._size and self.stuck <= STUCK_MAX:
                self._alive += 1
                threading.Thread(target=self._loop, name=self._name, daemon=True).start()
            else:
                raise MeshError(
                    ErrorKind.OVERLOADED, "all threads are taken", retry_after_s=0.1,
                    data={"limit": "threads"},
                )  # fmt: skip
            self._jobs.put(job)

    def _abandon(self, job: _Job) -> None:
        with self._lock:
            if job.done:
                return
            job.abandoned = True
            if job.started:
                self.stuck += 1
                _log.warning("a plain function runs on after its call was over; %d do", self.stuck)

    def _loop(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            with self._lock:
                skip = job.abandoned
                job.started = True
            tell = _nothing if skip else job.run()
            with self._lock:
                job.done = True
                if job.abandoned and not skip:
                    self.stuck -= 1
                # One that comes back late may find its place taken.
                surplus = self._alive - self.stuck > self._size
                if surplus:
                    self._alive -= 1
                else:
                    self._idle += 1
            # Only now: whoever waits may ask for the next run at once.
            tell()
            if surplus:
                return

    def close(self) -> None:
        """Let idle threads go; those that run are left to themselves."""
        with self._lock:
            for _ in range(self._alive):
                self._jobs.put(None)


def _tell(
    loop: asyncio.AbstractEventLoop,
    result: "asyncio.Future[T]",
    value: "T | None",
    error: BaseException | None,
) -> None:
    def settle() -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(_carried(error))
        else:
            result.set_result(value)  # type: ignore[arg-type]

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed: nobody waits any more


def _carried(error: BaseException) -> BaseException:
    # A future cannot carry StopIteration, and nobody may end the process from a handler.
    if isinstance(error, StopIteration | SystemExit | KeyboardInterrupt | GeneratorExit):
        wrapped = RuntimeError(f"the handler raised {type(error).__name__}")
        wrapped.__cause__ = error
        return wrapped
    return error


def _nothing() -> None:
    """Nobody waits."""

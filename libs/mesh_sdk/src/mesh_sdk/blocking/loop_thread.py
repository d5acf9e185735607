"""An event loop in a thread of its own, on which a program without one runs coroutines."""

import asyncio
import inspect
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError as FutureCancelledError
from typing import Any, TypeVar

from mcp_proto.errors import Outcome
from mesh_sdk.client.errors import lost

__all__ = ["LoopThread", "aside"]

T = TypeVar("T")

STOP_S = 5.0
"""What tasks may take to end when the loop is stopped, or when a wait is interrupted."""


class LoopThread:
    """Started with the first coroutine, stopped by ``stop``; a daemon that never holds up exit."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    @property
    def forked(self) -> bool:
        """Whether the thread is that of a parent process."""
        return self._loop is not None and self._process != os.getpid()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for it.

        An interrupted wait (ctrl-C) cancels the coroutine, and with it the call in the mesh.

        Raises:
            RuntimeError: called from the loop's own thread, where it would wait for itself.
            RuntimeError: in a forked process, which has neither the thread nor its connections.
            MeshCallError: ``lost``: stopped by another thread meanwhile.
        """
        if self.forked:
            work.close()
            raise RuntimeError(
                "the client was opened before this process was forked; open one here"
            )
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a callback of a blocking client cannot call that client")
        loop = self._started()
        future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except FutureCancelledError:
            raise lost("it was closed while this waited", Outcome.UNKNOWN) from None
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def stop(self) -> None:
        """Cancel what runs, end the loop and its thread."""
        if self.forked:
            self._loop = self._thread = None  # they are the parent's
            return
        with self._guard:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_end_all(), loop).result(STOP_S * 2)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(STOP_S)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name=self._name, daemon=True
                )
                self._thread.start()
                self._process = os.getpid()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end_all() -> None:
    own = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not own]
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_S)
    await asyncio.get_running_loop().shutdown_asyncgens()


def aside(handler: Callable[..., Any] | None) -> Callable[..., Any] | None:
    """A handler as the loop may call it: a plain function runs in a thread, so it may block."""
    if handler is None or inspect.iscoroutinefunction(handler):
        return handler

    async def called(*arguments: Any) -> Any:
        return await asyncio.to_thread(handler, *arguments)

    return called

"""A call whose events are read one by one, and its result at the end."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from mcp_proto.errors import Outcome
from mcp_proto.jsonrpc import Notification
from mesh_chassis.tasks import Tasks
from mesh_sdk.client.errors import MeshCallError, lost
from mesh_sdk.client.results import Event, ToolResult, event_of
from mesh_sdk.client.transports.transport import Hear

__all__ = ["ToolStream"]

EVENTS_MAX = 1_024
"""Events that wait to be read; of more the oldest go and are counted."""


class ToolStream:
    """An async iterator over the events of a call; the last item is its ``ToolResult``.

    Leave it with ``async with`` or ``aclose`` and a call that still runs is cancelled.

    Attributes:
        dropped: events that were not read in time.
    """

    def __init__(self, tasks: Tasks, call: Callable[[Hear], Awaitable[ToolResult]]) -> None:
        self._waiting: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._call = call
        self._result: ToolResult | None = None
        self._failure: MeshCallError | None = None
        self._given = False
        self._task = tasks.spawn(self._run(), name="stream")
        self.dropped = 0

    async def result(self) -> ToolResult:
        """Wait for the result; events that are not read are dropped.

        Raises:
            MeshCallError: the call failed, or the stream was closed before its end.
        """
        await asyncio.wait({self._task})
        if self._failure is not None:
            raise self._failure
        if self._result is None:
            raise lost("the stream was closed", Outcome.UNKNOWN)
        return self._result

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event | ToolResult:
        while True:
            if self._waiting:
                return self._waiting.popleft()
            if self._task.done():
                if self._given:
                    raise StopAsyncIteration
                self._given = True
                return await self.result()
            self._arrived.clear()
            waiting = asyncio.get_running_loop().create_task(self._arrived.wait())
            try:
                await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()

    async def aclose(self) -> None:
        """End it; a call that still runs is cancelled."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run(self) -> None:
        try:
            self._result = await self._call(self._hear)
        except MeshCallError as error:
            self._failure = error

    def _hear(self, note: Notification) -> None:
        event = event_of(note)
        if event is None:
            return
        if len(self._waiting) >= EVENTS_MAX:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(event)
        self._arrived.set()

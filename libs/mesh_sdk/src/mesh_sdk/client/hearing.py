"""Notifications on their way to the callbacks of one call: in order, bounded, never in its way."""

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from mcp_proto.jsonrpc import Notification
from mesh_sdk.client.results import Event, LogMessage, Progress, event_of
from mesh_sdk.client.settings import LOGGER
from mesh_sdk.client.transports.transport import Hear

__all__ = ["OnLog", "OnProgress", "hearing"]

EVENTS_MAX = 1_024
"""Events that wait for a callback; the oldest go."""
LINGER_S = 1.0
"""What a callback may still take once the call has its answer."""

OnProgress: TypeAlias = Callable[[Progress], Awaitable[Any] | Any]
OnLog: TypeAlias = Callable[[LogMessage], Awaitable[Any] | Any]
_log = logging.getLogger(LOGGER)


@asynccontextmanager
async def hearing(
    progress: OnProgress | None, log: OnLog | None
) -> AsyncGenerator[Hear | None, None]:
    """What a transport calls with notifications while the block runs; None = nobody listens."""
    if progress is None and log is None:
        yield None
        return
    waiting: deque[Event] = deque(maxlen=EVENTS_MAX)
    arrived = asyncio.Event()
    ended = False

    def hear(note: Notification) -> None:
        event = event_of(note)
        if event is not None:
            waiting.append(event)
            arrived.set()

    async def deliver() -> None:
        while True:
            while waiting:
                await _told(waiting.popleft(), progress, log)
            if ended:
                return
            arrived.clear()
            await arrived.wait()

    teller = asyncio.get_running_loop().create_task(deliver(), name="mesh-client-events")
    try:
        yield hear
        ended = True
        arrived.set()
        await asyncio.wait({teller}, timeout=LINGER_S)
    finally:
        teller.cancel()
        await asyncio.wait({teller}, timeout=LINGER_S)


async def _told(event: Event, progress: OnProgress | None, log: OnLog | None) -> None:
    try:
        said: object = None
        if isinstance(event, Progress) and progress is not None:
            said = progress(event)
        elif isinstance(event, LogMessage) and log is not None:
            said = log(event)
        if inspect.isawaitable(said):
            await said
    except Exception:  # noqa: BLE001 - a callback that fails harms nothing
        _log.exception("a callback of a call failed")

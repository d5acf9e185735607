"""Who at this gateway hears that a task has changed.

One subscription for all, made when the first listener comes. An event says only that a record is
to be read; whoever waits also looks by itself from time to time, because an event may be lost.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.tasks import TaskEvent, event_subject
from mesh_chassis.bus.connection import Bus, Msg, Subscription

__all__ = ["LISTENERS_MAX", "TaskEvents"]

LISTENERS_MAX = 10_000
EVENTS_PENDING = 16_384
_EVENT = msgspec.json.Decoder(TaskEvent)
_log = logging.getLogger(__name__)

Heard = Callable[[str], None]
"""Takes the id of a task that has changed; must not block."""


class TaskEvents:
    """Events of all tasks, handed to those who asked.

    Args:
        bus: connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._by_task: dict[tuple[str, str], dict[Heard, None]] = {}
        self._by_owner: dict[tuple[str, str], dict[Heard, None]] = {}
        self._subscription: Subscription | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Hear of changes from now on.

        Raises:
            MeshError: ``denied``, ``bus``.
        """
        async with self._opening:
            if self._subscription is None:
                subject = event_subject(subjects.ANY, subjects.ANY)
                self._subscription = await self._bus.subscribe(
                    subject, self._on_event, pending=EVENTS_PENDING
                )

    async def close(self) -> None:
        """Hear nothing more."""
        if self._subscription is not None:
            await self._subscription.unsubscribe()
            self._subscription = None

    def of_task(self, tenant: str, task_id: str, heard: Heard) -> Callable[[], None]:
        """Listen to one task; the answer ends it."""
        return _add(self._by_task, (tenant, task_id), heard)

    def of_owner(self, tenant: str, owner: str, heard: Heard) -> Callable[[], None]:
        """Listen to all tasks of one principal (``owner_token``); the answer ends it."""
        return _add(self._by_owner, (tenant, owner), heard)

    async def changed(self, tenant: str, task_id: str, timeout_s: float) -> None:
        """Wait for the next change of a task, at most so long."""
        moved = asyncio.Event()
        stop = self.of_task(tenant, task_id, lambda _: moved.set())
        try:
            async with asyncio.timeout(timeout_s):
                await moved.wait()
        except TimeoutError:
            return
        finally:
            stop()

    async def _on_event(self, message: Msg) -> None:
        try:
            subject = subjects.parse(message.subject)
            event = _EVENT.decode(message.data)
        except (ValueError, msgspec.DecodeError):
            _log.warning("an event of a task cannot be read", extra={"subject": message.subject})
            return
        task_id = subject.names[1]
        for listeners in (
            self._by_task.get((subject.tenant, task_id)),
            self._by_owner.get((subject.tenant, event.principal)),
        ):
            for heard in tuple(listeners or ()):
                heard(task_id)


def _add(
    table: dict[tuple[str, str], dict[Heard, None]], key: tuple[str, str], heard: Heard
) -> Callable[[], None]:
    table.setdefault(key, {})[heard] = None

    def stop() -> None:
        listeners = table.get(key)
        if listeners is not None:
            listeners.pop(heard, None)
            if not listeners:
                del table[key]

    return stop

"""What a client hears of without asking each time: changed resources and lists.

The mesh ends such a stream now and then, and connections break; it is asked for again, and what
may have been missed meanwhile is told as if it had just changed.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import msgspec

from mcp_proto.jsonrpc import Notification
from mesh_chassis.tasks import Tasks
from mesh_sdk.client.caller import Caller
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.requests import Asked
from mesh_sdk.client.results import ListChanged, ResourceUpdated, event_of
from mesh_sdk.client.settings import LOGGER

__all__ = ["LISTS", "Listening"]

E = TypeVar("E", ResourceUpdated, ListChanged)

LISTS = ("tools", "prompts", "resources")
EVENTS_MAX = 1_024
"""Changes that wait to be read; a resource waits once, however often it changes."""
AGAIN_FIRST_S = 0.1
AGAIN_MAX_S = 5.0
"""Waits before it is asked for again: doubling, with jitter."""
LISTEN_S = 300.0
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_log = logging.getLogger(LOGGER)


class _Filter(msgspec.Struct, rename="camel"):
    resource_subscriptions: tuple[str, ...] = ()


class _Acknowledged(msgspec.Struct):
    notifications: _Filter = msgspec.field(default_factory=_Filter)


class Listening(Generic[E]):
    """An async iterator of changes. Close it, or use it with ``async with``.

    Args:
        caller: makes the request.
        tasks: parent of the stream.
        kind: of the events given.
        resources: URIs.
        lists: of ``LISTS``.
        endpoint: see ``Outgoing``.

    Attributes:
        refused: URIs that no server watches.
    """

    def __init__(
        self,
        caller: Caller,
        tasks: Tasks,
        kind: type[E],
        *,
        resources: Sequence[str] = (),
        lists: Sequence[str] = (),
        endpoint: str = "",
    ) -> None:
        self._caller = caller
        self._kind = kind
        self._resources = tuple(resources)
        self._lists = tuple(lists)
        self._endpoint = endpoint
        self._waiting: dict[E, None] = {}
        self._arrived = asyncio.Event()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: MeshCallError | None = None
        self._ended = False
        self._heard = False
        self._task = tasks.spawn(self._run(), name="listen")
        self.refused: frozenset[str] = frozenset()

    async def ready(self) -> Self:
        """Wait until the mesh has taken it: changes from now on are told.

        Raises:
            MeshCallError: it was refused.
        """
        await asyncio.wait({self._ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._failure is not None:
            raise self._failure
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        while True:
            if self._waiting:
                event = next(iter(self._waiting))
                del self._waiting[event]
                return event
            if self._ended:
                if self._failure is not None:
                    raise self._failure
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    async def aclose(self) -> None:
        """End it: nothing more is told."""
        self._end()
        self._task.cancel()
        await asyncio.wait({self._task})

    async def __aenter__(self) -> Self:
        return await self.ready()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _run(self) -> None:
        wait_s = AGAIN_FIRST_S
        try:
            while True:
                self._heard = False
                try:
                    await self._listen()
                except MeshCallError as error:
                    if not self._ready.done() or error.kind.value in _FINAL:
                        raise
                    _log.info("listening is tried again: %s", error)
                wait_s = AGAIN_FIRST_S if self._heard else min(AGAIN_MAX_S, wait_s * 2)
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        except MeshCallError as error:
            self._failure = error
        finally:
            self._end()

    async def _listen(self) -> None:
        wanted: dict[str, Any] = {f"{name}ListChanged": True for name in self._lists}
        if self._resources:
            wanted["resourceSubscriptions"] = self._resources
        await self._caller.send(
            "subscriptions/listen",
            {"notifications": wanted},
            Asked(timeout_s=LISTEN_S, endpoint=self._endpoint),
            self._hear,
            listens=True,
        )

    def _hear(self, note: Notification) -> None:
        if note.method == _ACKNOWLEDGED:
            self._acknowledged(note)
            return
        event = event_of(note)
        if isinstance(event, self._kind):
            self._put(event)

    def _acknowledged(self, note: Notification) -> None:
        self._heard = True
        try:
            taken = msgspec.json.decode(note.params, type=_Acknowledged).notifications
        except msgspec.DecodeError:
            taken = _Filter()
        self.refused = frozenset(self._resources) - set(taken.resource_subscriptions)
        if not self._ready.done():
            self._ready.set_result(None)
            return
        for missed in (*map(ResourceUpdated, self._resources), *map(ListChanged, self._lists)):
            if isinstance(missed, self._kind):
                self._put(missed)

    def _put(self, event: E) -> None:
        if len(self._waiting) < EVENTS_MAX or event in self._waiting:
            self._waiting[event] = None
            self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()
        if not self._ready.done():
            self._ready.set_result(None)


_FINAL = frozenset(("params", "denied", "unauthenticated", "method", "version", "request"))
"""Refusals that would be the same again."""

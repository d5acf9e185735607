"""Events of the tenant, sent and heard by agents: ``publish`` and ``subscribe``.

An event goes to the subject of its topic, where the tenant's stream keeps it for the toolset
``events``; whoever listens hears it at once. Topics are any text (``tasks:high_priority``).
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts.topics import SOURCE, fits, readable_source, writable_source
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus, Msg
from mesh_chassis.tasks import Tasks, TasksFullError
from mesh_sdk.agent.handler import Handler
from mesh_sdk.agent.models import decode_hook, encode
from mesh_sdk.agent.threads import Threads

__all__ = ["SUBSCRIPTIONS_MAX", "Event", "Listener", "Topics"]

SUBSCRIPTIONS_MAX = 256
"""Topics one agent may listen to."""
RUNNING_MAX = 64
"""Events of one subscription that are handled at once; further ones wait, then are dropped."""
_DRAIN_S = 10.0
_log = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True):
    """What a handler hears, when it has a parameter of this type."""

    topic: str
    data: Any
    source: str = ""


class Listener:
    """A handler of events.

    Args:
        topic: topic, or with ``*`` for any text inside it.
        function: takes the value, an ``Event``, or nothing.
        every_copy: every copy of the agent hears every event; False = one of them.

    Raises:
        TypeError: it takes more than one parameter.
    """

    def __init__(self, topic: str, function: Callable[..., Any], *, every_copy: bool) -> None:
        self.topic = topic
        self.every_copy = every_copy
        self.handler = Handler(function, f"subscription to {topic}", topic)
        parameters = self.handler.signature.parameters
        if len(parameters) > 1 or self.handler.signature.context:
            raise TypeError(f"subscription to {topic}: the handler takes the value alone")
        self._takes = parameters[0].name if parameters else ""
        kind = self.handler.signature.kinds.get(self._takes, Any)
        self._event = kind is Event
        self._kind = Any if self._event else kind

    @property
    def subject_topic(self) -> str:
        """The topic as far as the broker filters; ``ANY`` = it is a pattern."""
        return subjects.ANY if "*" in self.topic or not self.topic else self.topic

    def values(self, topic: str, data: bytes, source: str) -> dict[str, Any] | None:
        """Arguments of the handler; None = the topic does not fit.

        Raises:
            ValueError: the event does not fit the type.
        """
        if not fits(self.topic, topic):
            return None
        if not self._takes:
            return {}
        value = msgspec.json.decode(data, type=self._kind, dec_hook=decode_hook)
        return {self._takes: Event(topic, value, source) if self._event else value}


class Topics:
    """Events of one connection.

    Args:
        bus: connected.
        name: of the agent: source of its events, and queue group of its copies.
        tenant: whose events.
        tasks: parent of running handlers.
        threads: where plain handlers run.
    """

    def __init__(self, bus: Bus, name: str, tenant: str, tasks: Tasks, threads: Threads) -> None:
        self._bus = bus
        self._name = name
        self._tenant = tenant
        self._tasks = tasks
        self._threads = threads
        self._running: set[asyncio.Task[None]] = set()
        self._open: list[Any] = []
        self._topics: Counter[str] = Counter()

    async def publish(self, topic: str, value: object) -> None:
        """Send an event.

        Raises:
            MeshError: ``bus`` unless connected, ``too_large``.
            TypeError: the value has no JSON form.
        """
        subject = subjects.topic(self._tenant, topic)
        await self._bus.publish(
            subject, encode(value), headers={SOURCE: writable_source(self._name)}
        )

    async def listen(self, listener: Listener) -> None:
        """Hear events until ``close``.

        Raises:
            MeshError: ``denied``, ``bus``.
        """
        slots = asyncio.Semaphore(RUNNING_MAX)

        async def heard(message: Msg) -> None:
            topic = subjects.parse(message.subject).names[0]
            try:
                source = readable_source((message.headers or {}).get(SOURCE, ""))
                values = listener.values(topic, message.data, source)
            except (msgspec.MsgspecError, ValueError) as error:
                _log.warning("event of %s does not fit %s: %s", topic, listener.topic, error)
                return
            if values is None:
                return
            await slots.acquire()
            try:
                task = self._tasks.spawn(self._handle(listener, values, slots), name="event")
            except TasksFullError:
                slots.release()
                _log.warning("an event of %s is dropped: too much runs", topic)
                return
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        queue = "" if listener.every_copy else self._queue(listener)
        subject = subjects.topic(self._tenant, listener.subject_topic)
        self._open.append(await self._bus.subscribe(subject, heard, queue=queue))

    def _queue(self, listener: Listener) -> str:
        # The broker takes subscriptions to overlapping subjects for one group if their queues
        # have one name: two handlers of an agent must both hear.
        at = self._topics[listener.topic]
        self._topics[listener.topic] += 1
        names = (self._name, listener.topic or "*", str(at))
        return "-".join(subjects.encode_token(name) for name in names)

    async def _handle(
        self, listener: Listener, values: dict[str, Any], slots: asyncio.Semaphore
    ) -> None:
        try:
            await listener.handler.run(self._threads, values, None)
        except MeshError as error:
            if error.kind is not ErrorKind.INTERNAL:
                _log.warning("%s: %s", listener.handler.label, error.message)
        finally:
            slots.release()

    async def close(self) -> None:
        """Hear no more; handlers that run may end."""
        opened, self._open = self._open, []
        for one in opened:
            await one.unsubscribe()
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=_DRAIN_S)

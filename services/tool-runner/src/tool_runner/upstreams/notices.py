"""What a connection has to hear of outside calls: changed lists and watched resources.

An old server tells of changed lists unasked and takes one subscription per URI; a modern one
tells only what one ``subscriptions/listen`` asks for, all URIs in it. A listen that has to ask
for more is replaced: the new one is acknowledged before the old one ends, so nothing is missed.
A listen that drops is made again, and then lists and watched resources count as changed, because
nobody knows what was missed. The transports give the two means, the rest is the same for all.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

import msgspec

from mcp_proto.codec import encode, pick, splice
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mesh_chassis.tasks import Tasks, TasksFullError
from tool_runner.core.dialect import Handshake, discover_params
from tool_runner.upstreams.upstream import Listener

__all__ = ["Acknowledged", "Conversation", "Notices"]

ACK_S = 5.0
"""How long a modern server may take to acknowledge a listen."""
SUBSCRIBE_S = 5.0
"""How long an old server may take to answer a subscribe or unsubscribe."""
TOGETHER = 16
"""Subscribe requests in flight to one old server."""
AGAIN_FIRST_S = 0.5
AGAIN_MAX_S = 30.0
"""Wait before a dropped listen is made again, doubling; a listen that held long starts over."""
HELD_S = 60.0

_METHOD_NOT_FOUND = -32601
_LISTS = b'"toolsListChanged":true,"promptsListChanged":true,"resourcesListChanged":true'
_log = logging.getLogger(__name__)

Acknowledged = Callable[[msgspec.Raw], None]
"""Takes the params of ``notifications/subscriptions/acknowledged``; must not block."""


class Conversation(Protocol):
    """What a transport gives."""

    handshake: Handshake | None
    """What the server said of itself."""

    async def ask(self, method: str, params: bytes, timeout_s: float) -> msgspec.Raw | ErrorObject:
        """A request of our own; raises ``MeshError``."""
        ...

    async def listen(self, params: bytes, acknowledged: Acknowledged) -> msgspec.Raw | ErrorObject:
        """``subscriptions/listen`` until the server ends it; cancelling the task ends it too.

        Raises:
            MeshError: the connection is gone.
        """
        ...


class _Ack(msgspec.Struct, rename="camel"):
    resource_subscriptions: tuple[str, ...] = ()


class _AckParams(msgspec.Struct):
    notifications: _Ack = msgspec.field(default_factory=_Ack)


_ACK = msgspec.json.Decoder(_AckParams)


class _Listen:
    """One ``subscriptions/listen``, made again while it is wanted."""

    def __init__(self, uris: frozenset[str]) -> None:
        self.uris = uris
        self.acknowledged: asyncio.Future[frozenset[str]] = (
            asyncio.get_running_loop().create_future()
        )
        self.task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it is held, or made again soon."""
        return self.task is not None and not self.task.done()

    def stop(self) -> None:
        """Another one takes its place."""
        if self.task is not None:
            self.task.cancel()

    def on_ack(self, params: msgspec.Raw) -> None:
        """The first frame."""
        try:
            honoured = frozenset(_ACK.decode(params).notifications.resource_subscriptions)
        except (msgspec.DecodeError, UnicodeDecodeError):
            honoured = frozenset()
        if not self.acknowledged.done():
            self.acknowledged.set_result(honoured)

    def fail(self, error: MeshError) -> None:
        """It was not acknowledged and will not be."""
        if not self.acknowledged.done():
            self.acknowledged.set_exception(error)
            self.acknowledged.exception()  # nobody may be waiting


class Notices:
    """Keeps one connection telling what its owner wants to hear.

    Args:
        server: its name, for errors and logs.
        conversation: the connection.
        listener: hears of changed lists and updated resources.
        tasks: parent of listens; closed with the connection.
    """

    def __init__(
        self, server: str, conversation: Conversation, listener: Listener, tasks: Tasks
    ) -> None:
        self._server = server
        self._talk = conversation
        self._listener = listener
        self._tasks = tasks
        self._lock = asyncio.Lock()
        self._current: _Listen | None = None
        self._subscribed: set[str] = set()

    def open(self) -> None:
        """After the handshake: a modern server is listened to from now on."""
        handshake = self._talk.handshake
        if handshake is not None and handshake.modern:
            self._begin(_Listen(frozenset()))

    async def watch(self, uris: frozenset[str]) -> dict[str, str]:
        """See ``Upstream.watch``."""
        handshake = self._talk.handshake
        if handshake is None:
            raise self._error("is not connected")
        if uris and not _takes_subscriptions(handshake):
            return dict.fromkeys(uris, f"server {self._server} has no resource subscriptions")
        async with self._lock:
            if handshake.modern:
                return await self._relisten(uris)
            return await self._subscribe(uris)

    # Old servers ----------------------------------------------------------------------------

    async def _subscribe(self, uris: frozenset[str]) -> dict[str, str]:
        refused: dict[str, str] = {}
        slots = asyncio.Semaphore(TOGETHER)

        async def one(method: str, uri: str) -> MeshError | None:
            try:
                async with slots:
                    answer = await self._talk.ask(method, encode({"uri": uri}), SUBSCRIBE_S)
            except MeshError as error:
                return error
            if method == "resources/subscribe":
                if isinstance(answer, ErrorObject):
                    refused[uri] = answer.message[:200] or "the server refused"
                else:
                    self._subscribed.add(uri)
            return None

        ended = sorted(self._subscribed - uris)
        self._subscribed.difference_update(ended)
        added = sorted(uris - self._subscribed)
        async with asyncio.TaskGroup() as group:
            for uri in ended:
                group.create_task(one("resources/unsubscribe", uri))
            asked = [group.create_task(one("resources/subscribe", uri)) for uri in added]
        for task in asked:
            failure = task.result()
            if failure is not None:
                raise failure
        return refused

    # Modern servers -------------------------------------------------------------------------

    async def _relisten(self, uris: frozenset[str]) -> dict[str, str]:
        before = self._current
        if before is not None and before.uris == uris and before.alive:
            return self._refusals(uris, await self._acknowledged(before))
        listen = _Listen(uris)
        self._begin(listen)
        try:
            honoured = await self._acknowledged(listen)
        except MeshError:
            # What was heard before is heard on; only what was asked for in addition is not.
            listen.stop()
            self._current = before
            raise
        if before is not None:
            before.stop()
        return self._refusals(uris, honoured)

    async def _acknowledged(self, listen: _Listen) -> frozenset[str]:
        try:
            async with asyncio.timeout(ACK_S):
                return await asyncio.shield(listen.acknowledged)
        except TimeoutError:
            raise self._error("does not acknowledge a listen") from None

    def _refusals(self, uris: frozenset[str], honoured: frozenset[str]) -> dict[str, str]:
        return dict.fromkeys(uris - honoured, f"server {self._server} does not watch it")

    def _begin(self, listen: _Listen) -> None:
        try:
            listen.task = self._tasks.spawn(self._hold(listen), name="listen")
        except TasksFullError:
            raise self._error("has too many listens") from None
        self._current = listen

    async def _hold(self, listen: _Listen) -> None:
        """Listen, again and again, until another listen takes the place of this one."""
        told: Acknowledged = listen.on_ack
        loop = asyncio.get_running_loop()
        delay_s = AGAIN_FIRST_S
        while True:
            began = loop.time()
            try:
                answer = await self._talk.listen(_params(listen.uris), told)
            except MeshError as error:
                # Usually the connection has ended; then its next life listens anew.
                listen.fail(error)
                _log.info("no longer listens: %s", error.message, extra={"server": self._server})
                return
            if isinstance(answer, ErrorObject):
                listen.fail(self._error(f"refused to be listened to: {answer.message[:200]}"))
                if answer.code == _METHOD_NOT_FOUND:
                    return  # it has nothing that changes
            if loop.time() - began > HELD_S:
                delay_s = AGAIN_FIRST_S
            await asyncio.sleep(delay_s)
            delay_s = min(AGAIN_MAX_S, delay_s * 2)
            told = self._missed_something(listen)

    def _missed_something(self, listen: _Listen) -> Acknowledged:
        def told(params: msgspec.Raw) -> None:
            listen.on_ack(params)
            self._listener.lists_changed()
            for uri in listen.uris:
                self._listener.resource_updated(msgspec.Raw(encode({"uri": uri})))

        return told

    def _error(self, what: str) -> MeshError:
        return MeshError(
            ErrorKind.UPSTREAM,
            f"server {self._server} {what}",
            data={"upstream": self._server},
            outcome=Outcome.NOT_EXECUTED,
        )


def _params(uris: frozenset[str]) -> bytes:
    wanted = _LISTS
    if uris:
        wanted += b',"resourceSubscriptions":%b' % encode(sorted(uris))
    return splice(discover_params(), {"notifications": b"{%b}" % wanted})


def _takes_subscriptions(handshake: Handshake) -> bool:
    try:
        resources = pick(handshake.capabilities, "resources").get("resources")
        said = None if resources is None else pick(resources, "subscribe").get("subscribe")
    except MeshError:
        return False
    return said is not None and bytes(said) == b"true"

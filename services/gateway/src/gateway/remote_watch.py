"""What an edge that is no gateway hears outside of requests: a listen at whichever gateway answers.

A listen names every URI, so it is replaced when the client wants others, before its time is over,
and when its gateway is gone. The new one is acknowledged before the old one ends; after a loss
everything counts as changed once, because nobody knows what was missed.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from gateway.identity import Caller
from gateway.subscriptions import SETTLE_S, Told
from mcp_proto.convert.requests import EnvelopeStamp
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import CALL_TIMEOUT_MAX_S
from mcp_proto.session import SUBSCRIPTIONS_MAX
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["Listen", "RemoteListen", "RemoteWatch"]

ACK_S = 5.0
RENEW_S = CALL_TIMEOUT_MAX_S * 0.8
"""A call on the bus has a longest time; the listen is replaced before it is over."""
AGAIN_S = (0.2, 1.0)
"""Wait before a lost listen is asked for again."""
REFUSED_S = 10.0
"""The same after a refusal of the credential."""
_REFUSED = frozenset({ErrorKind.UNAUTHENTICATED, ErrorKind.DENIED})

Listen = Callable[[bytes, Callable[[bytes], None]], Awaitable[object]]
"""(params, on_notice) → awaits the end of a listen; raises ``MeshError``."""

_log = logging.getLogger(__name__)


class _Filter(msgspec.Struct, rename="camel"):
    resource_subscriptions: tuple[str, ...] = ()


class _Params(msgspec.Struct):
    uri: str = ""
    notifications: _Filter = msgspec.field(default_factory=_Filter)


class _Notice(msgspec.Struct):
    method: str = ""
    params: _Params = msgspec.field(default_factory=_Params)


Noticed = Callable[[str, str], None]
"""Takes the method of a notification, and the URI it names."""

_NOTICE = msgspec.json.Decoder(_Notice)


class _Stream:
    """One listen: what it asked for, what is honoured."""

    def __init__(self, uris: frozenset[str], noticed: Noticed) -> None:
        self.uris = uris
        self.failure: MeshError | None = None
        self.honoured: frozenset[str] = frozenset()
        self.answered = asyncio.Event()
        self.active = False
        self.task: asyncio.Task[None] | None = None
        self._noticed = noticed

    @property
    def lost(self) -> bool:
        """It ended although it was wanted."""
        return self.task is not None and self.task.done()

    def on_notice(self, notice: bytes) -> None:
        """Take a frame."""
        try:
            read = _NOTICE.decode(notice)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        if read.method == "notifications/subscriptions/acknowledged":
            self.honoured = frozenset(read.params.notifications.resource_subscriptions)
            self.answered.set()
        elif self.active:
            self._noticed(read.method, read.params.uri)

    def stop(self) -> None:
        """Another one has taken its place."""
        self.active = False
        if self.task is not None:
            self.task.cancel()


class RemoteListen:
    """One listen, kept open and replaced without a gap.

    Args:
        listen: opens a listen at a gateway.
        noticed: takes what it tells.
        missed: called when something may have been missed, with the URIs heard before and now.
        tasks: parent of the listens.
        lists: changed lists asked for, beside the resources aimed at.
    """

    def __init__(
        self,
        listen: Listen,
        noticed: Noticed,
        missed: Callable[[frozenset[str]], None],
        tasks: Tasks,
        *,
        lists: Iterable[str] = (),
    ) -> None:
        self._listen = listen
        self._noticed = noticed
        self._missed = missed
        self._tasks = tasks
        self._lists = dict.fromkeys(lists, True)
        self._aims: dict[str, None] = {}
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self._current = _Stream(frozenset(), noticed)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def open(self) -> None:
        """Begin.

        Raises:
            MeshError: ``overloaded``.
        """
        if self._task is not None:
            return
        try:
            self._task = self._tasks.spawn(self._run(), name="listen")
        except TasksFullError:
            raise MeshError(ErrorKind.OVERLOADED, "too many listeners", retry_after_s=5.0) from None

    @property
    def uris(self) -> tuple[str, ...]:
        """What it aims at."""
        return tuple(self._aims)

    def problem(self, uri: str) -> MeshError | None:
        """Why ``uri`` is not watched, as far as the acknowledgement tells."""
        if uri in self._current.honoured:
            return None
        return MeshError(
            ErrorKind.NOT_FOUND,
            "the resource cannot be watched: it is unknown, denied, or its server does not tell",
            data={"uri": uri[:2_048]},
        )

    def aim(self, uris: Iterable[str]) -> None:
        """Want exactly these from now on."""
        wanted = dict.fromkeys(list(dict.fromkeys(uris))[:SUBSCRIPTIONS_MAX])
        if self._closed or wanted.keys() == self._aims.keys():
            return
        self._aims = wanted
        self._changed.set()
        try:
            self.open()
        except MeshError as error:
            _log.warning("resources are not watched: %s", error.message)

    async def settle(self, timeout_s: float = SETTLE_S) -> frozenset[str]:
        """Wait for the word of the gateway; what is watched."""
        try:
            async with asyncio.timeout(timeout_s + ACK_S):
                while self._current.uris != self._aims.keys():
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return frozenset()
        return self._current.honoured & self._aims.keys()

    def renew(self, caller: Caller) -> None:
        """The gateway checks the credential by itself."""

    def close(self) -> None:
        """Hear no more."""
        self._closed = True
        self._aims = {}
        self._current.stop()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            await self._replace(frozenset(self._aims))
            failure = self._current.failure
            if self._current.lost:
                refused = failure is not None and failure.kind in _REFUSED
                spread_s = random.uniform(*AGAIN_S)  # noqa: S311 - spreads load
                await asyncio.sleep(REFUSED_S if refused else spread_s)
                continue
            await self._until_something_happens()

    async def _replace(self, uris: frozenset[str]) -> None:
        old = self._current
        fresh = _Stream(uris, self._noticed)
        if uris or self._lists:
            fresh.task = self._tasks.spawn(self._hold(fresh), name="watch-listen")
            try:
                async with asyncio.timeout(ACK_S):
                    await fresh.answered.wait()
            except TimeoutError:
                _log.info("a listen was not acknowledged in time")
            except BaseException:
                fresh.stop()
                raise
        missed = old.lost and not fresh.lost
        old.stop()
        fresh.active = True
        self._current = fresh
        self._moved.set()
        if missed:
            self._missed(fresh.honoured & old.uris)

    async def _hold(self, stream: _Stream) -> None:
        filters: dict[str, object] = dict(self._lists)
        if stream.uris:
            filters["resourceSubscriptions"] = sorted(stream.uris)
        params = EnvelopeStamp().stamp(msgspec.json.encode({"notifications": filters}))
        try:
            await self._listen(params, stream.on_notice)
        except MeshError as error:
            stream.failure = error
            _log.info("a listen was lost: %s", error.message)
        finally:
            stream.answered.set()
            self._changed.set()

    async def _until_something_happens(self) -> None:
        try:
            async with asyncio.timeout(RENEW_S):
                while not self._current.lost and self._current.uris == self._aims.keys():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return


class RemoteWatch(RemoteListen):
    """Watched resources; see ``backend.Watch``.

    Args:
        listen: opens a listen at a gateway.
        told: takes the URI of an updated resource.
        tasks: parent of the listens.
    """

    def __init__(self, listen: Listen, told: Told, tasks: Tasks) -> None:
        def noticed(method: str, uri: str) -> None:
            if method == "notifications/resources/updated":
                told(uri)

        def missed(uris: frozenset[str]) -> None:
            for uri in uris:
                told(uri)

        super().__init__(listen, noticed, missed, tasks)

"""What one connection on a byte stream hears of without asking each time.

A modern peer has any number of ``subscriptions/listen`` open, each told what it asked for under
its own id; an old one is told of every changed list from ``initialize`` on, and of the resources
it subscribed to. All of it is seen through one credential: when that is cut, everything here is
checked again before anything more is told.
"""

from collections.abc import Callable

import msgspec

from gateway.backend import Backend, Stop, Watch
from gateway.core import eras
from gateway.core.merge import ListKind
from gateway.core.requests import ModernRequest
from gateway.edges.task_watch import TaskWatch
from gateway.identity import Caller
from mcp_proto import codec
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.jsonrpc import Request, RequestId
from mcp_proto.request_meta import meta_of

__all__ = ["LineListens"]

SUBSCRIBE_S = 5.0
"""How long an old client's ``resources/subscribe`` waits for the word of the server."""


class _Held:
    """One listen, or all that an old client hears (``request_id`` None)."""

    __slots__ = ("request_id", "stop", "tasks", "wanted", "watch")

    def __init__(self, request_id: RequestId | None, wanted: eras.Filter) -> None:
        self.request_id = request_id
        self.wanted = wanted
        self.stop: Stop | None = None
        self.watch: Watch | None = None
        self.tasks: TaskWatch | None = None

    def release(self) -> None:
        """Hear no more."""
        if self.stop is not None:
            self.stop()
            self.stop = None
        if self.watch is not None:
            self.watch.close()
            self.watch = None
        if self.tasks is not None:
            self.tasks.close()
            self.tasks = None


class LineListens:
    """The listens of a connection.

    Args:
        backend: tells of changes.
        send: writes a message that must arrive.
        notice: writes a notification, dropped for a peer that does not read.
        on_cut: called when the credential is no longer good; must end in ``renew`` or ``refuse``.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        send: Callable[[bytes], None],
        notice: Callable[[bytes], None],
        on_cut: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._send = send
        self._notice = notice
        self._on_cut = on_cut
        self._held: dict[RequestId | None, _Held] = {}
        self.ids = self._held.keys()
        """Ids of the open listens, always as they are now: looked into for every request."""
        self._caller: Caller | None = None
        self.endpoint = ""

    def __len__(self) -> int:
        """Open listens."""
        return len(self._held)

    def __contains__(self, request_id: RequestId) -> bool:
        """Whether a listen of this id is open."""
        return request_id in self._held

    async def listen(self, request: Request, caller: Caller) -> None:
        """``subscriptions/listen``: acknowledge once the servers have said what they watch.

        Raises:
            MeshError: ``params``, ``overloaded``.
        """
        held = _Held(request.id, eras.listen_filter(request.params))
        try:
            if held.wanted.resource_subscriptions:
                watch = held.watch = self._watch(held, caller)
                watch.aim(held.wanted.resource_subscriptions)
                held.wanted = eras.honoured(held.wanted, await watch.settle())
                watch.aim(held.wanted.resource_subscriptions)
            if held.wanted.task_ids:
                held.tasks = self._task_watch(held, request, caller)
                known = await held.tasks.aim(held.wanted.task_ids)
                held.wanted = msgspec.structs.replace(held.wanted, task_ids=known)
            self._hold(held, caller)
        except BaseException:
            self._held.pop(held.request_id, None)
            held.release()
            raise
        self._send(eras.acknowledged(held.wanted, request.id))
        if held.tasks is not None:
            held.tasks.start()

    def _task_watch(self, held: _Held, request: Request, caller: Caller) -> TaskWatch:
        asks = ModernRequest(
            "tasks/get", request.params, meta_of(request.params), "lines", endpoint=self.endpoint
        )

        def told(task: bytes, _seen: object) -> None:
            if self._held.get(held.request_id) is held:
                self._notice(eras.task_notice(task, request.id))

        return TaskWatch(self._backend.dispatch, asks, caller, told)

    def begin_old(self, caller: Caller) -> None:
        """An old client hears of every changed list, without asking.

        Raises:
            MeshError: ``overloaded``.
        """
        self._hold(_Held(None, eras.EVERYTHING), caller)

    async def subscribe(self, uri: str) -> None:
        """``resources/subscribe`` of an old client.

        Raises:
            MeshError: why the resource cannot be watched.
        """
        held = self._held.get(None)
        if held is None or self._caller is None:
            raise MeshError(ErrorKind.REQUEST, "nothing is listened to on this connection")
        watch = held.watch
        if watch is None:
            watch = held.watch = self._watch(held, self._caller)
        before = watch.uris
        if uri in before:
            return
        watch.aim((*before, uri))
        try:
            taken = uri in await watch.settle(SUBSCRIBE_S)
        except BaseException:
            watch.aim(one for one in watch.uris if one != uri)
            raise
        if not taken:
            problem = watch.problem(uri)
            watch.aim(one for one in watch.uris if one != uri)
            raise problem or MeshError(ErrorKind.DEADLINE, "the server did not answer in time")

    def unsubscribe(self, uri: str) -> None:
        """``resources/unsubscribe`` of an old client; what was not subscribed to is ignored."""
        held = self._held.get(None)
        if held is not None and held.watch is not None:
            held.watch.aim(one for one in held.watch.uris if one != uri)

    def end(self, request_id: RequestId) -> None:
        """The client cancelled a listen: nothing more of it is sent."""
        held = self._held.pop(request_id, None)
        if held is not None:
            held.release()
        if not self._held:
            self._forget_caller()

    def finish(self) -> None:
        """The gateway ends every listen: its result, and word that the request is over."""
        for request_id in [one for one in self._held if one is not None]:
            self.end(request_id)
            self._send(codec.encode_response(request_id, eras.listen_result(request_id)))
            body = b'{"requestId":%b}' % codec.encode(request_id)
            self._send(codec.encode_notification("notifications/cancelled", body))

    def drop(self) -> None:
        """The connection is over: hear nothing more."""
        for held in self._held.values():
            held.release()
        self._held.clear()
        self._forget_caller()

    def renew(self, caller: Caller) -> None:
        """The credential was checked again.

        Raises:
            MeshError: ``overloaded``.
        """
        for held in self._held.values():
            if held.stop is not None:
                held.stop()
                held.stop = None
            self._attach(held, caller)
            if held.watch is not None:
                held.watch.renew(caller)
        if self._held:
            self._remember(caller)

    def _hold(self, held: _Held, caller: Caller) -> None:
        self._attach(held, caller)
        self._held[held.request_id] = held
        self._remember(caller)

    def _attach(self, held: _Held, caller: Caller) -> None:
        request_id = held.request_id

        def changed(kinds: frozenset[ListKind]) -> None:
            if self._held.get(request_id) is held:
                for notice in eras.notices(kinds, held.wanted, request_id):
                    self._notice(notice)

        held.stop = self._backend.listen(caller, changed, self.endpoint)

    def _watch(self, held: _Held, caller: Caller) -> Watch:
        request_id = held.request_id

        def told(uri: str) -> None:
            if self._held.get(request_id) is held:
                self._notice(eras.updated(uri, request_id))

        return self._backend.watch(caller, told, self.endpoint)

    def _remember(self, caller: Caller) -> None:
        self._forget_caller()
        self._caller = caller
        caller.ended[self._on_cut] = None

    def _forget_caller(self) -> None:
        if self._caller is not None:
            self._caller.ended.pop(self._on_cut, None)
            self._caller = None

"""What a server asks outside of any call: which it belongs to, who answers, who is kept apart.

Over a byte stream, and on the GET stream of HTTP, a question carries no id of a call. Where only
one caller's calls can have caused it, it is theirs; where calls of several callers are under way
it is refused, never guessed (docs/adr/0015).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

import msgspec

from mcp_proto.codec import decode_as, encode_error, encode_response
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.inputs import RESUMABLE, ROOTS, given_up, undeclared
from mcp_proto.jsonrpc import Request as ServerRequest
from mcp_proto.jsonrpc import RequestId
from mcp_proto.types.meta import RELATED_TASK
from tool_runner.core.askers import Askers, target_of
from tool_runner.upstreams.asks import ASKABLE, Answer, begin
from tool_runner.upstreams.pending import Pending
from tool_runner.upstreams.roots import NO_ROOTS, Roots
from tool_runner.upstreams.turns import Turns

__all__ = ["QUESTIONS_MAX", "Inquiries"]

QUESTIONS_MAX = 4096
"""Questions of one server that are open at once; fewer where the calls are fewer (``parking``)."""

_TASK_RESULT = "tasks/result"
_ASKING = RESUMABLE | {_TASK_RESULT}
"""Requests in whose course callers can be asked; a task is waited for on behalf of a call."""
_REQUEST = -32600
_INTERNAL = -32603
_DIALOGUE_RETRY_S = 1.0
_log = logging.getLogger(__name__)


class _Inquiry:
    __slots__ = (
        "answered",
        "done",
        "elicitation",
        "first",
        "id",
        "method",
        "pending",
        "withdraw",
    )

    def __init__(self, request: ServerRequest, pending: Pending, *, first: bool = False) -> None:
        self.first = first  # before the call itself is sent: see ``roots``
        self.id = request.id
        self.method = request.method
        self.pending = pending
        self.elicitation = _elicitation_of(request.params)
        self.answered = False
        self.done = False
        self.withdraw: Callable[[], None] | None = None


class _Task(msgspec.Struct, frozen=True):
    task_id: str = msgspec.field(default="", name="taskId")


class _Meta(msgspec.Struct, frozen=True):
    task: _Task = msgspec.field(default=_Task(), name=RELATED_TASK)


class _Hints(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(default=_Meta(), name="_meta")


class _Elicitation(msgspec.Struct, frozen=True):
    id: str = msgspec.field(default="", name="elicitationId")


class _Cancelled(msgspec.Struct, frozen=True):
    request_id: RequestId = msgspec.field(name="requestId")


class Inquiries:
    """Questions of one server over one connection.

    Args:
        server: its name, for logs.
        pending: all requests of the connection without an answer.
        askers: what is known of the server's habits, over all its lives.
        write: sends a message without waiting; may raise ``MeshError``.
        barrier: see ``Roots``.
    """

    def __init__(
        self,
        server: str,
        pending: Callable[[], Collection[Pending]],
        askers: Askers,
        write: Callable[[bytes], None],
        barrier: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.askers = askers
        self.turns = Turns(pending)
        self.roots = Roots(write, barrier or _at_once)
        self._server = server
        self._pending = pending
        self._write = write
        self._open: dict[RequestId, _Inquiry] = {}
        self._links: dict[str, Pending] = {}
        """Calls by the id of their url elicitation, for the notice that it is done."""

    @property
    def careful(self) -> bool:
        """The server asks back, so calls must ``enter``; without waiting for others mostly."""
        return bool(self.askers) or self.roots.held

    async def enter(self, pending: Pending) -> None:
        """Wait for the turn of a call, and until its server has no roots of another caller.

        Raises:
            MeshError: ``overloaded``, not executed: it never was its turn.
        """
        await self._await_turn(pending)
        pending.running_since = asyncio.get_running_loop().time()
        if self.roots.foreign(pending) or self.roots.caller is not None:
            pending.preparing = True
            try:
                await self.roots.change(pending)
            finally:
                pending.preparing = False
                self.turns.stir()
            self._check_turn(pending)

    async def _await_turn(self, pending: Pending) -> None:
        request = pending.request
        if request is not None:
            pending.alone = (
                request.asks is not None
                and target_of(request.method, request.params) in self.askers
            )
            pending.apart = request.asks is not None and self.roots.held
        await self.turns.enter(pending)
        self._check_turn(pending)

    def _check_turn(self, pending: Pending) -> None:
        if pending.failure is not None:
            raise pending.failure
        if pending.expired or not pending.sent:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"server {self._server} is in a dialogue with another caller",
                data={"upstream": self._server},
                retry_after_s=_DIALOGUE_RETRY_S,
            )

    def give_up(self, pending: Pending) -> None:
        """A call is about to end: nobody can answer its questions any more."""
        if pending.questions:
            for inquiry in [one for one in self._open.values() if one.pending is pending]:
                self._close(inquiry)
                self._reply(inquiry.id, given_up(inquiry.method, "the call has ended"))

    def leave(self, pending: Pending) -> None:
        """A call has ended and is no longer among the pending: the next may begin."""
        self.give_up(pending)
        if self._links:
            self._links = {key: one for key, one in self._links.items() if one is not pending}
        if pending.alone and pending.reply is not None and pending.request is not None:
            self.askers.ended(target_of(pending.method, pending.request.params))
        if self.careful:
            self.turns.left(pending)

    def take(self, request: ServerRequest) -> None:
        """A request of the server."""
        if request.method not in ASKABLE:
            self._reply(request.id, undeclared(request.method))
            return
        if request.id in self._open:
            self._reply(request.id, ErrorObject(_REQUEST, "the id of this request is in use"))
            return
        if len(self._open) >= QUESTIONS_MAX:
            self._reply(request.id, ErrorObject(_INTERNAL, "too many requests are open"))
            return
        if request.method == ROOTS and self._take_first(request):
            return
        found = self._whose(request)
        if isinstance(found, ErrorObject):
            self._reply(request.id, found)
            return
        self._begin(_Inquiry(request, found), request)

    def withdraw(self, params: msgspec.Raw) -> None:
        """``notifications/cancelled`` of the server, for a request of its own."""
        try:
            inquiry = self._open.get(decode_as(params, _Cancelled).request_id)
        except MeshError:
            return
        if inquiry is None:
            return
        self._close(inquiry)
        if not inquiry.pending.questions:
            _run_time(inquiry.pending)

    def link_done(self, params: msgspec.Raw) -> Pending | None:
        """The call that ``notifications/elicitation/complete`` is about, while it lasts."""
        return self._links.get(_elicitation_of(params))

    def close(self) -> None:
        """The connection is gone; its calls fail and leave by themselves."""
        self.turns.close()

    def forget(self) -> None:
        """The session at the server is a new one: it waits for no answer, and has no roots."""
        self.roots.forget()
        for inquiry in list(self._open.values()):
            self._close(inquiry)
            if not inquiry.pending.questions:
                _run_time(inquiry.pending)

    def _take_first(self, request: ServerRequest) -> bool:
        """Take ``roots/list`` that comes because the server was told to ask again.

        The call it is about is not sent yet. If another that runs may be the one that asks, it is
        a question like any other. If only a parked one may be, nobody's roots are the answer.
        """
        pending = self.roots.caller
        if pending is None:
            return False
        able = pending.request is not None and pending.request.asks is not None
        rivals = [
            one
            for one in self.turns.calls()
            if one.owner != pending.owner
            and (able or (one.request is not None and one.request.asks is not None))
        ]
        if any(not one.parked for one in rivals):
            return False
        self.roots.asked()
        if able and not rivals and not self.turns.ghost_owners() - {pending.owner}:
            self._begin(_Inquiry(request, pending, first=True), request)
            return True
        if able:
            self.roots.unsettle()
        self._reply(request.id, NO_ROOTS)
        self.roots.answered()
        return True

    def _whose(self, request: ServerRequest) -> Pending | ErrorObject:
        calls = self.turns.calls()
        for one in calls:
            one.asked = True
        if not any(one.method in _ASKING for one in calls):
            return ErrorObject(
                undeclared(request.method).code,
                f"the client can be asked only during {', '.join(sorted(RESUMABLE))}",
            )
        hinted = _hinted(calls, request.params)
        if hinted is not None:
            return hinted
        # Who waits for an answer has asked; while any other runs, it is that one's question.
        likely = [one for one in calls if not one.parked] or calls
        able = [one for one in likely if one.request is not None and one.request.asks is not None]
        if not able:
            return undeclared(request.method)
        owners = {one.owner for one in calls} | self.turns.ghost_owners()
        listing = request.method == ROOTS and any(
            one.request is None and one.method != "ping" for one in self._pending()
        )
        if len(owners) > 1 or listing:
            if request.method == ROOTS:
                self.roots.unsettle()
            # Once per target: a server that asks on and on must not fill the log.
            level = logging.WARNING if self._suspect(calls) else logging.DEBUG
            _log.log(
                level, "%s refused: several callers' calls are under way and it names none",
                request.method, extra={"server": self._server},
            )  # fmt: skip
            return ErrorObject(
                _INTERNAL,
                f"{request.method} does not say which of several callers' calls it belongs to; "
                "call again: from now on such calls run one at a time",
            )
        return self._likeliest(able)

    def _suspect(self, calls: list[Pending]) -> bool:
        """Remember who may have asked; whether that is news."""
        targets = {target_of(one.method, _params(one)) for one in calls}
        # Where one is known to ask, the others need no blame for it.
        if any(self.askers.proven(target) for target in targets):
            return False
        news = not all(target in self.askers for target in targets)
        for target in targets:
            self.askers.suspect(target)
        return news

    def _likeliest(self, able: list[Pending]) -> Pending:
        """Of one owner's calls: servers ask in the order in which they got calls and answers."""
        known = [one for one in able if target_of(one.method, _params(one)) in self.askers]
        if not able[0].parked:
            return min(known or able, key=lambda one: one.running_since)
        # Every call waits: the one that asked last is asking several things at once.
        return max(known or able, key=lambda one: one.running_since)

    def _begin(self, inquiry: _Inquiry, request: ServerRequest) -> None:
        pending = inquiry.pending
        if pending.request is None:
            return
        if not inquiry.first:
            self.askers.prove(target_of(pending.method, _params(pending)))

        def answer(given: Answer) -> None:
            self._answered(inquiry, given)

        withdraw = begin(pending.request.asks, request.method, request.params, answer)
        if inquiry.done:
            return
        inquiry.withdraw = withdraw
        self._open[inquiry.id] = inquiry
        if inquiry.elicitation:
            self._links[inquiry.elicitation] = pending
        pending.questions += 1
        if not inquiry.first:
            pending.alone = True
        pending.hold_time()
        self.turns.stir()

    def _answered(self, inquiry: _Inquiry, answer: Answer) -> None:
        if inquiry.done or inquiry.answered:
            return
        inquiry.answered = True
        if inquiry.method == ROOTS:
            answer = self._rooted(inquiry, answer)
        if inquiry.withdraw is None:  # refused at once: it was never open
            inquiry.done = True
            self._reply(inquiry.id, answer)
            if inquiry.first:
                self.roots.answered()
            return
        inquiry.withdraw = None
        pending = inquiry.pending

        def go_on() -> None:
            if not inquiry.done:
                self._close(inquiry)
                self._remind(inquiry)
                self._reply(inquiry.id, answer)
                if inquiry.first:
                    self.roots.answered()

        if pending.questions > 1:
            go_on()
        elif inquiry.first:
            _run_time(pending)
            go_on()
        else:
            _run_time(pending)
            self.turns.resume(pending, go_on)

    def _rooted(self, inquiry: _Inquiry, answer: Answer) -> Answer:
        """An answer to ``roots/list``; before the call itself, none at all is an empty one."""
        if inquiry.first and isinstance(answer, ErrorObject):
            answer = NO_ROOTS
        if not isinstance(answer, ErrorObject):
            self.roots.given(inquiry.pending)
        return answer

    def _remind(self, inquiry: _Inquiry) -> None:
        """A parked call goes on; while it waited the server may have got another's roots."""
        pending = inquiry.pending
        if inquiry.method == ROOTS or not self.roots.foreign(pending):
            return
        others = [one for one in self.turns.calls() if one.owner != pending.owner]
        if self.roots.caller is None and all(one.parked for one in others):
            try:
                self.roots.tell(pending)
            except MeshError as error:
                _log.info("not told: %s", error.message, extra={"server": self._server})

    def _close(self, inquiry: _Inquiry) -> None:
        inquiry.done = True
        if self._open.pop(inquiry.id, None) is not None:
            inquiry.pending.questions -= 1
        if inquiry.withdraw is not None:
            inquiry.withdraw()
            inquiry.withdraw = None

    def _reply(self, request_id: RequestId, answer: Answer) -> None:
        message = (
            encode_error(request_id, answer)
            if isinstance(answer, ErrorObject)
            else encode_response(request_id, answer)
        )
        try:
            self._write(message)
        except MeshError as error:
            _log.info("not answered: %s", error.message, extra={"server": self._server})


async def _at_once() -> None:
    """What is sent first is read first."""


def _params(pending: Pending) -> bytes:
    return bytes(pending.request.params) if pending.request is not None else b""


def _hinted(calls: list[Pending], params: msgspec.Raw) -> Pending | None:
    """The call for whose task the server asks (core tasks of 2025-11-25), if it says so.

    A progress token is no hint: it is the server's own, and SDKs number theirs as we do ours.
    """
    if RELATED_TASK.encode() not in bytes(params):
        return None
    try:
        task = decode_as(params, _Hints).meta.task.task_id
        for one in calls:
            if task and one.method == _TASK_RESULT and task == _task_of(one):
                return one
    except MeshError:
        pass
    return None


def _task_of(pending: Pending) -> str:
    return decode_as(_params(pending), _Task).task_id


def _elicitation_of(params: msgspec.Raw) -> str:
    if b"elicitationId" not in bytes(params):
        return ""
    try:
        return decode_as(params, _Elicitation).id
    except MeshError:
        return ""


def _run_time(pending: Pending) -> None:
    """No question of the call is open any more: its time runs again."""
    pending.running_since = asyncio.get_running_loop().time()
    request = pending.request
    if request is not None and request.asks is not None:
        pending.time(request.asks.timeout_s)

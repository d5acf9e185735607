"""One handler that may ask its caller, over as many bus calls as that takes.

The handler runs in a task of its own. A bus call stays with it until it ends or asks; then the
bus call is answered ``input_required`` and the handler waits here (docs/adr/0015), in bounded
number and time, found by an unguessable id and only by the principal who called. The repeated
call brings the answers and stays in its turn.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Coroutine
from typing import Protocol

import msgspec

from mcp_proto.codec import decode_as, pick
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.inputs import (
    capabilities_of,
    check_answer,
    given_up,
    input_required,
    question,
    refusal,
)
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["PARKED_MAX", "PARK_S", "Exchange", "Exchanges", "Note"]

PARKED_MAX = 256
"""Calls of one agent that wait for input at once."""
PARK_S = 300.0
"""Longest wait for one answer."""
QUESTIONS_MAX = 16
QUESTION_BYTES_MAX = 64 * 1024
NOTES_MAX = 100
"""Notifications kept while no bus call is there to take them; the oldest go first."""
GATHER_S = 0.01
"""After a question, how long others of the same moment are waited for."""
END_S = 2.0
_ID_BYTES = 24
_log = logging.getLogger(__name__)


class Note(Protocol):
    """Writes a notification for the bus call that takes it; None = that one wants none."""

    def __call__(self, params: msgspec.Raw) -> bytes | None:
        """Bytes, by the params of the bus call (progress token, log level)."""
        ...


class _Question:
    __slots__ = ("answer", "entry", "method")

    def __init__(self, method: str, entry: bytes, answer: "asyncio.Future[bytes]") -> None:
        self.method = method
        self.entry = entry
        self.answer = answer


class Exchange:
    """The state of such a call. Made by ``Exchanges.run``."""

    def __init__(self, call: Call, method: str, params: msgspec.Raw, principal: str) -> None:
        self.method = method
        self.tenant = call.subject.tenant
        self.principal = principal
        self.params = params
        self.call: Call | None = call
        self.questions: dict[str, _Question] = {}
        self.task: asyncio.Task[bytes | MeshError] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self.closing = ""
        self.on_cancel = _nothing
        self._asked = 0
        self._notes: deque[Note] = deque(maxlen=NOTES_MAX)
        self._stirred = asyncio.Event()

    async def ask(self, method: str, params: bytes) -> bytes:
        """Ask the caller and wait.

        Returns:
            The answer, checked to be a result of ``method``.

        Raises:
            MeshError: ``capability`` when the caller did not declare that it can be asked this;
                ``overloaded`` for too much at once; ``lost`` when nobody answers.
        """
        raw = msgspec.Raw(params)
        refused = refusal(capabilities_of(self.params), method, raw)
        if refused is not None:
            raise MeshError(
                ErrorKind.CAPABILITY,
                refused.message,
                data=refused.data if isinstance(refused.data, dict) else None,
                outcome=Outcome.UNKNOWN,
            )
        if self.closing:
            raise MeshError(ErrorKind.LOST, self.closing)
        entry = question(method, raw)
        if len(self.questions) >= QUESTIONS_MAX or len(entry) > QUESTION_BYTES_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, "too many or too large questions", outcome=Outcome.UNKNOWN
            )
        self._asked += 1
        key = f"ask-{self._asked}"
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.questions[key] = _Question(method, entry, answer)
        self._stirred.set()
        try:
            return await answer
        finally:
            self.questions.pop(key, None)

    async def notify(self, note: Note) -> None:
        """Pass a notification on, or keep it for the repeated call."""
        if self.call is None:
            self._notes.append(note)
            return
        await _deliver(note, self.call, self.params)

    async def stay(self) -> bytes | None:
        """Wait until the handler ends, or asks.

        Returns:
            Its result; None = there are questions.

        Raises:
            MeshError: how it failed.
        """
        task = self.task
        assert task is not None
        while not task.done():
            self._stirred.clear()
            if self.questions:
                asked = -1
                while asked != self._asked and not task.done():
                    asked = self._asked
                    await asyncio.wait((task,), timeout=GATHER_S)
                if self.questions and not task.done():
                    return None
                continue
            stirred = asyncio.ensure_future(self._stirred.wait())
            try:
                await asyncio.wait((task, stirred), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stirred.cancel()
        if task.cancelled():
            raise MeshError(ErrorKind.LOST, "the call was stopped", outcome=Outcome.UNKNOWN)
        outcome = task.result()
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    async def take_over(
        self, call: Call, params: msgspec.Raw, answers: dict[str, bytes | ErrorObject]
    ) -> None:
        """A repeated call is there, with checked answers."""
        self.call, self.params = call, params
        while self._notes:
            await _deliver(self._notes.popleft(), call, params)
        for key, answer in answers.items():
            one = self.questions.pop(key, None)
            if one is not None and not one.answer.done():
                _settle(one.answer, answer)

    def end(self, why: str) -> None:
        """Nobody will answer: the questions are given up, then the handler is cancelled."""
        self.closing = why
        for one in list(self.questions.values()):
            if not one.answer.done():
                _settle(one.answer, given_up(one.method, why))
        self.questions.clear()
        if self.task is not None:
            self.task.cancel()

    def cancel_by_caller(self) -> None:
        """See ``bus.instance.Cancellable``: the parked call is given up."""
        self.on_cancel()


class Exchanges:
    """The calls of one agent that may ask.

    Args:
        tasks: parent of the handlers.
        instance: of this process, where answers must come.
        cancels: where gateways cancel a parked call by its id.
    """

    def __init__(self, tasks: Tasks, instance: str, cancels: InstanceEndpoint) -> None:
        self._tasks = tasks
        self._instance = instance
        self._cancels = cancels
        self._parked: dict[str, Exchange] = {}
        self._closing = ""

    def __len__(self) -> int:
        """Calls that wait for input now."""
        return len(self._parked)

    async def run(self, exchange: Exchange, work: Coroutine[object, object, bytes]) -> bytes:
        """Run a handler that may ask.

        Returns:
            Its result, or an ``input_required`` one.

        Raises:
            MeshError: how it failed; ``overloaded`` when too many wait for input.
        """
        try:
            exchange.task = self._tasks.spawn(_outcome(work), name="exchange")
        except TasksFullError:
            work.close()
            raise MeshError(
                ErrorKind.OVERLOADED, "too much runs in this agent", retry_after_s=1.0
            ) from None
        return await self._stay(exchange)

    async def answer(self, call: Call, method: str, params: msgspec.Raw, principal: str) -> bytes:
        """Go on with a parked call: the repeated request with its state and answers.

        Raises:
            MeshError: ``lost`` when no such call of this principal waits here; ``params`` for an
                answer that is none (the call stays parked); else as ``run``.
        """
        found = pick(params, "requestState", "inputResponses")
        state = decode_as(found["requestState"], str) if "requestState" in found else ""
        exchange = self._parked.get(state)
        if exchange is None or (exchange.tenant, exchange.principal, exchange.method) != (
            call.subject.tenant,
            principal,
            method,
        ):
            raise MeshError(ErrorKind.LOST, "the call that waited for input is no longer here")
        given = pick(found["inputResponses"]) if "inputResponses" in found else {}
        answers = {
            key: check_answer(key, exchange.questions[key].method, one)
            for key, one in given.items()
            if key in exchange.questions
        }
        self._unlist(state)
        await exchange.take_over(call, params, answers)
        return await self._stay(exchange)

    async def close(self) -> None:
        """End every parked call in order and park no more."""
        self._closing = "the agent stops"
        parked = list(self._parked.values())
        for state in tuple(self._parked):
            self._unlist(state)
        for exchange in parked:
            exchange.end(self._closing)
        tasks = [one.task for one in parked if one.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=END_S)

    async def _stay(self, exchange: Exchange) -> bytes:
        parked = False
        task = exchange.task
        try:
            outcome = await exchange.stay()
            if outcome is not None:
                return outcome
            parked_result = self._park(exchange)
            parked = True
            return parked_result
        finally:
            if not parked and task is not None and not task.done():
                exchange.end("the caller has left")
                await asyncio.wait((task,), timeout=END_S)

    def _park(self, exchange: Exchange) -> bytes:
        if self._closing or len(self._parked) >= PARKED_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED,
                self._closing or "too many calls of this agent wait for input",
                outcome=Outcome.UNKNOWN,
            )
        state = secrets.token_urlsafe(_ID_BYTES)
        self._parked[state] = exchange
        exchange.call = None

        def expire() -> None:
            if self._unlist(state) is not None:
                _log.info("nobody answered a call that waits for input")
                exchange.end("nobody answered in time")

        exchange.on_cancel = expire
        exchange.expiry = asyncio.get_running_loop().call_later(PARK_S, expire)
        self._cancels.add(exchange.tenant, state, exchange)
        entries = {key: one.entry for key, one in exchange.questions.items()}
        return input_required(entries, state, self._instance)

    def _unlist(self, state: str) -> Exchange | None:
        exchange = self._parked.pop(state, None)
        if exchange is not None:
            self._cancels.remove(exchange.tenant, state, exchange)
            if exchange.expiry is not None:
                exchange.expiry.cancel()
        return exchange


def _settle(answer: "asyncio.Future[bytes]", given: bytes | ErrorObject) -> None:
    if isinstance(given, ErrorObject):
        answer.set_exception(
            MeshError(ErrorKind.UPSTREAM, f"the client answered with an error: {given.message}")
        )
    else:
        answer.set_result(given)


async def _outcome(work: Coroutine[object, object, bytes]) -> bytes | MeshError:
    """Errors are for whoever waits; the parent of the task has nothing to log."""
    try:
        return await work
    except MeshError as error:
        return error


async def _deliver(note: Note, call: Call, params: msgspec.Raw) -> None:
    if not call.frames:
        return
    body = note(params)
    if body is not None:
        await call.emit(body)


def _nothing() -> None:
    """Not parked."""

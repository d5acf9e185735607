"""One call to a server that may ask its caller, over as many bus calls as that takes.

The upstream call runs in a task of its own. A bus call stays with it until it ends or until the
server asks; then the bus call is answered and the upstream call waits (``parking``). The repeated
call brings the answers and stays with it again. Notifications go to the bus call that is there.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping

import msgspec

from mcp_proto.codec import decode_as, decode_message, encode_notification, pick, splice
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.inputs import (
    capabilities_of,
    check_answer,
    given_up,
    question,
    refusal,
    wanted_key,
)
from mcp_proto.jsonrpc import Notification
from mcp_proto.types.capabilities import ClientCapabilities
from mcp_proto.types.meta import LOG_LEVEL
from tool_runner.core import log_levels
from tool_runner.core.dialect import TOKEN_KEY, caller_meta
from tool_runner.upstreams.asks import Answer

__all__ = ["GATHER_S", "NOTES_PARKED_BYTES", "Admit", "Dialogue", "Notify", "Visit", "responses_of"]

GATHER_S = 0.01
"""After a question, how long others of the same moment are waited for; each begins it anew."""

GATHER_MAX_S = 0.1
"""Longest such wait altogether."""

QUESTIONS_MAX = 64
"""Open questions of one call."""

NOTES_PARKED_BYTES = 64 * 1024
"""Notifications kept while no bus call is there to take them; the oldest go first."""

Notify = Callable[[bytes], Awaitable[None]]
_log = logging.getLogger(__name__)


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """What a bus call brings to the dialogue while it stays.

    Attributes:
        params: of the JSON-RPC request.
        timeout_s: its budget, in seconds.
        notify: takes notifications; None = the caller hears none.
    """

    params: msgspec.Raw
    timeout_s: float
    notify: Notify | None = None


class _Question:
    __slots__ = ("answer", "entry", "method")

    def __init__(self, method: str, entry: bytes, answer: Callable[[Answer], None]) -> None:
        self.method = method
        self.entry = entry
        self.answer = answer


class Dialogue:
    """The state of such a call; also the ``Asks`` of its upstream request.

    Args:
        tenant: whose call it is.
        caller: who calls; None = unsigned.
        method: MCP method of the call.
        visit: the first bus call.
        timeout_max_s: longest time of the upstream call without people.
        admit: asked before so many bytes are kept; gives the reason against it.
        park_s: longest time it waits for one answer.
        park_until: loop time after which it waits no more in any case.
        tag: of the record of its idempotency key; "" = it has none.

    Attributes:
        held_bytes: what the questions and an outcome nobody took yet amount to.
    """

    def __init__(
        self,
        *,
        tenant: str,
        caller: CallerContext | None,
        method: str,
        visit: Visit,
        timeout_max_s: float,
        admit: "Admit",
        park_s: float,
        park_until: float = math.inf,
        tag: str = "",
    ) -> None:
        self.tenant = tenant
        self.principal = caller.sub if caller is not None else ""
        self.method = method
        self.held_bytes = 0
        self.closing = ""
        self.tag = tag
        self._park_s = park_s
        self._park_until = park_until
        self._expiry: asyncio.TimerHandle | None = None
        self._expire: Callable[[], None] | None = None
        self._on_end: Callable[[Answer | MeshError], None] | None = None
        self._admit = admit
        self._timeout_max_s = timeout_max_s
        self._visit: Visit | None = visit
        self._declared: ClientCapabilities | None = None
        self._declaring = visit.params
        self._first = visit
        self._questions: dict[str, _Question] = {}
        self._asked = 0
        self._named: set[str] = set()
        self._dropped = ""
        self._notes: deque[bytes] = deque()
        self._stirred: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[Answer | MeshError] | None = None

    # The bus calls

    def run(
        self,
        work: Awaitable[Answer],
        spawn: Callable[
            [Coroutine[object, object, Answer | MeshError]], asyncio.Task[Answer | MeshError]
        ],
    ) -> None:
        """Start the upstream call."""
        self._task = spawn(_outcome(work))
        self._task.add_done_callback(self._ended)

    @property
    def done(self) -> bool:
        """Whether the upstream call has ended."""
        return self._task is not None and self._task.done()

    async def stay(self) -> Answer | None:
        """Wait until the upstream call ends, or asks.

        Returns:
            Its outcome; None = there are questions.

        Raises:
            MeshError: how it failed.
        """
        while not self.done:
            if self._questions:
                await self._gather()
                if self._questions and not self.done:
                    return None
            else:
                await self._rest(None)
        return self._result()

    async def _gather(self) -> None:
        """Wait for the questions that belong to those that are open."""
        loop = asyncio.get_running_loop()
        until = loop.time() + GATHER_MAX_S
        asked = -1
        while asked != self._asked and not self.done and loop.time() < until:
            asked = self._asked
            await self._rest(GATHER_S)

    def open_questions(self) -> dict[str, bytes]:
        """Entries of ``inputRequests`` by key."""
        return {key: one.entry for key, one in self._questions.items()}

    def park(
        self,
        expire: Callable[[], None],
        on_end: Callable[[Answer | MeshError], None] | None = None,
    ) -> None:
        """The bus call is about to be answered, and none is there until ``take_over``.

        Args:
            expire: called when it has waited long enough.
            on_end: takes the outcome if the upstream call ends by itself meanwhile; None = it is
                kept for the repeated call.
        """
        loop = asyncio.get_running_loop()
        self._visit = None
        self._expire = expire
        self._on_end = on_end
        until = min(loop.time() + self._park_s, self._park_until)
        self._expiry = loop.call_at(until, expire)

    def cancel_by_caller(self) -> None:
        """Nobody will answer (``bus.instance.Cancellable``): as if its time were up."""
        self.unpark()
        if self._expire is not None:
            self._expire()

    def unpark(self) -> None:
        """It does not expire any more."""
        self._on_end = None
        if self._expiry is not None:
            self._expiry.cancel()

    async def take_over(self, visit: Visit, answers: Mapping[str, Answer]) -> None:
        """A repeated call is there, with checked answers."""
        self._declaring, self._declared = visit.params, None
        self._visit = visit
        await self._flush()
        for key, answer in answers.items():
            one = self._questions.pop(key, None)
            if one is not None:
                self.held_bytes -= len(one.entry)
                one.answer(answer)

    def check(self, responses: Mapping[str, msgspec.Raw]) -> dict[str, Answer]:
        """Those answers that belong to open questions; unknown keys are ignored.

        Raises:
            MeshError: ``params`` for an answer that is none.
        """
        return {
            key: check_answer(key, self._questions[key].method, answer)
            for key, answer in responses.items()
            if key in self._questions
        }

    def cancel(self, why: str) -> None:
        """End the upstream call if it still runs: its questions, then the call itself."""
        self.closing = why
        questions = list(self._questions.values())
        self._questions.clear()
        for one in questions:
            one.answer(given_up(one.method, why))
        if self._task is not None:
            self._task.cancel()

    async def wait(self, timeout_s: float) -> None:
        """Wait for the upstream call to end."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout_s)

    async def _rest(self, timeout_s: float | None) -> None:
        if self._stirred.done():
            self._stirred = asyncio.get_running_loop().create_future()
        if timeout_s is None:
            await self._stirred
        elif self._task is not None:
            await asyncio.wait((self._task,), timeout=timeout_s)

    def _ended(self, task: asyncio.Task[Answer | MeshError]) -> None:
        self._stir()
        if self._visit is not None or task.cancelled() or task.exception() is not None:
            return
        outcome = task.result()
        if self._on_end is not None:
            self._on_end(outcome)
            return
        if not isinstance(outcome, bytes):
            return
        # Nobody is there to take it: it counts until the repeated call comes, or the time is up.
        problem = self._admit(self, len(outcome))
        if problem:
            self._dropped = problem
        else:
            self.held_bytes += len(outcome)

    def _stir(self) -> None:
        if not self._stirred.done():
            self._stirred.set_result(None)

    def _result(self) -> Answer:
        task = self._task
        if task is None or task.cancelled():
            raise MeshError(ErrorKind.LOST, "the call was stopped", outcome=Outcome.UNKNOWN)
        if self._dropped:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"the result could not be kept: {self._dropped}",
                outcome=Outcome.EXECUTED,
            )
        outcome = task.result()
        if isinstance(outcome, MeshError):
            raise outcome
        return outcome

    # What the connection to the server calls

    @property
    def timeout_s(self) -> float:
        """See ``Asks``; nobody there = as long as the first caller gave."""
        return min((self._visit or self._first).timeout_s, self._timeout_max_s)

    def begin(
        self, method: str, params: msgspec.Raw, answer: Callable[[Answer], None]
    ) -> Callable[[], None]:
        """See ``Asks``."""
        problem = self.closing
        if len(self._questions) >= QUESTIONS_MAX:
            problem = "too many questions in one call"
        if problem:
            answer(ErrorObject(_INTERNAL, problem))
            return _nothing
        if self._declared is None:
            self._declared = capabilities_of(self._declaring)
        refused = refusal(self._declared, method, params)
        if refused is None:
            try:
                entry = question(method, params)
                problem = self._admit(self, len(entry))
                refused = ErrorObject(_INTERNAL, problem) if problem else None
            except MeshError as error:
                entry, refused = b"", error.to_object()
        else:
            entry = b""
        if refused is not None:
            answer(refused)
            return _nothing
        self._asked += 1
        key = self._key(params)
        self._questions[key] = _Question(method, entry, answer)
        self.held_bytes += len(entry)
        self._stir()

        def withdraw() -> None:
            if self._questions.pop(key, None) is not None:
                self.held_bytes -= len(entry)

        return withdraw

    def _key(self, params: msgspec.Raw) -> str:
        """The server's wish where it is free, else a number: no key comes twice in one call."""
        wish = wanted_key(params)
        free = wish not in self._named and not wish.startswith("ask-")
        if wish and free and len(self._named) < QUESTIONS_MAX:
            self._named.add(wish)
            return wish
        return f"ask-{self._asked}"

    async def notify(self, note: bytes) -> None:
        """Pass a notification on, or keep it for the repeated call."""
        visit = self._visit
        if visit is not None and not self._notes:
            await _deliver(note, visit, self._first)
            return
        self._notes.append(note)
        while sum(map(len, self._notes)) > NOTES_PARKED_BYTES:
            self._notes.popleft()

    async def _flush(self) -> None:
        while self._notes and self._visit is not None:
            note = self._notes[0]
            try:
                await _deliver(note, self._visit, self._first)
            except MeshError as error:
                _log.info("notification dropped: %s", error.message)
            if self._notes and self._notes[0] is note:
                self._notes.popleft()


_INTERNAL = -32603
Admit = Callable[[Dialogue, int], str]


async def _outcome(work: Awaitable[Answer]) -> Answer | MeshError:
    try:
        return await work
    except MeshError as error:
        return error


async def _deliver(note: bytes, visit: Visit, first: Visit) -> None:
    if visit.notify is None:
        return
    adapted = note if visit is first else _adapt(note, visit)
    if adapted is not None:
        await visit.notify(adapted)


class _Level(msgspec.Struct, frozen=True):
    level: str = ""


def _adapt(note: bytes, visit: Visit) -> bytes | None:
    """A notification for a repeated call, which has a progress token and log level of its own."""
    message = decode_message(note)
    if not isinstance(message, Notification):
        return None
    meta = caller_meta(visit.params)
    if message.method == "notifications/progress":
        token = meta.get(TOKEN_KEY)
        if token is None:
            return None
        params = splice(message.params, {TOKEN_KEY: bytes(token)})
        return encode_notification(message.method, params)
    if message.method == "notifications/message":
        wanted = log_levels.read(meta.get(LOG_LEVEL))
        level = decode_as(message.params, _Level).level
        return note if wanted and log_levels.reaches(level, wanted) else None
    return note


def responses_of(params: msgspec.Raw) -> tuple[str, dict[str, msgspec.Raw]]:
    """Request state and answers of a repeated call.

    Raises:
        MeshError: ``params`` when one has the wrong type.
    """
    found = pick(params, "requestState", "inputResponses")
    state = decode_as(found["requestState"], str) if "requestState" in found else ""
    given = found.get("inputResponses")
    return state, pick(given) if given is not None else {}


def _nothing() -> None:
    """Nothing is open."""

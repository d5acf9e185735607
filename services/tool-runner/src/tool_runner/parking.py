"""Calls that wait for input: their servers go on waiting here while people think.

A parked call is found by an unguessable id and only by the principal who made it; it lives in
memory, for a bounded time, in bounded number and size (docs/adr/0015).
"""

import asyncio
import functools
import logging
import math
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol

import msgspec

from mcp_proto.codec import decode_as, pick
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.inputs import input_required
from mesh_chassis.bus.instance import InstanceEndpoint
from mesh_chassis.tasks import Tasks
from tool_runner.config import ParkingConfig
from tool_runner.core.idempotency import is_tag
from tool_runner.dialogues import Dialogue, Visit, responses_of
from tool_runner.upstreams.asks import Answer
from tool_runner.upstreams.upstream import Request

__all__ = ["HELD_BYTES_MAX", "Answering", "Callee", "Parking", "parked_under"]

HELD_BYTES_MAX = 64 * 1024 * 1024
"""Questions and untaken outcomes of all parked calls of this runner, together."""

END_S = 2.0
"""Longest wait for a server to be told that its call is over."""

_ID_BYTES = 24
_NO_ANSWERS: Mapping[str, Answer] = {}
_log = logging.getLogger(__name__)


class Callee(Protocol):
    """A server as parking sees it."""

    @property
    def call_timeout_s(self) -> float:
        """Longest time one call may take without people."""
        ...

    def call(self, request: Request) -> Awaitable[Answer]:
        """See ``Upstream.call``."""
        ...


class Answering(Protocol):
    """The bus call that is there, as far as parking needs it."""

    over: bool
    """Whether it has been answered already, or given up."""

    @property
    def frames(self) -> bool:
        """Whether it takes notifications."""
        ...

    @property
    def remaining_s(self) -> float:
        """Its budget, in seconds."""
        ...

    async def emit(self, notification: bytes) -> None:
        """Take a notification."""
        ...


class Parking:
    """The parked calls of one runner.

    Args:
        instance: this runner, to which answers must come.
        tasks: parent of the upstream calls.
        config: bounds.
        cancels: where gateways cancel a parked call by its id; None = nowhere.
    """

    def __init__(
        self,
        instance: str,
        tasks: Tasks,
        config: ParkingConfig,
        cancels: InstanceEndpoint | None = None,
    ) -> None:
        self._instance = instance
        self._cancels = cancels
        self._tasks = tasks
        self._config = config
        self._parked: dict[str, Dialogue] = {}
        self._asking: set[Dialogue] = set()
        """Dialogues in which something was asked, parked or not."""
        self._per_tenant: Counter[str] = Counter()
        self._closing = ""
        self.on_end: Callable[[str, str, str, Answer | str], None] = _nobody_cares
        """Takes tenant, principal, tag and answer of a parked call with an idempotency key that
        ends without its caller; text = why the answer is not known."""

    def __len__(self) -> int:
        """Calls that wait for input now."""
        return len(self._parked)

    @property
    def asking(self) -> int:
        """Calls in which something was asked: those that wait, and those that went on."""
        return len(self._asking)

    @property
    def held_bytes(self) -> int:
        """What they keep in memory, as far as it is counted."""
        return sum(one.held_bytes for one in self._asking)

    async def call(
        self, call: Answering, request: Request, target: Callee, tag: str = ""
    ) -> bytes | ErrorObject:
        """Make a call whose server may ask back.

        Args:
            call: the bus call.
            request: what it asks for.
            target: its server.
            tag: of the record of its idempotency key; "" = it has none.

        Returns:
            As ``Upstream.call``; with open questions an ``input_required`` result.

        Raises:
            MeshError: as ``Upstream.call``.
        """
        dialogue = Dialogue(
            tenant=request.tenant,
            caller=request.caller,
            method=request.method,
            visit=_visit(call, request.params),
            # A durable task has the time that its record gives it.
            timeout_max_s=math.inf if request.task else target.call_timeout_s,
            admit=self._admit,
            tag=tag,
            **self._patience(request),
        )
        notify = dialogue.notify if request.notify is not None else None
        work = target.call(msgspec.structs.replace(request, asks=dialogue, notify=notify))
        dialogue.run(work, self._spawn)
        return await self._stay(call, dialogue)

    def _patience(self, request: Request) -> dict[str, float]:
        """How long it waits for people: what asks for a durable task, as long as that is kept."""
        if not request.task:
            return {"park_s": self._config.ttl_s}
        return {
            "park_s": request.task_s,
            "park_until": asyncio.get_running_loop().time() + request.task_s,
        }

    def holds(self, park_id: str) -> bool:
        """Whether a call is parked under this id."""
        return park_id in self._parked

    async def answer(
        self, call: Answering, method: str, params: msgspec.Raw, tenant: str, principal: str
    ) -> bytes | ErrorObject:
        """Go on with a parked call: the repeated request, with its state and answers.

        Returns:
            As ``call``.

        Raises:
            MeshError: ``lost`` when no such call of this principal is parked here; ``params`` for
                an answer that is none (the call stays parked); else as ``call``.
        """
        state, responses = responses_of(params)
        dialogue = self._parked.get(state)
        if (
            dialogue is None
            or (dialogue.tenant, dialogue.principal) != (tenant, principal)
            or dialogue.method != method
        ):
            raise MeshError(ErrorKind.LOST, "the call that waited for input is no longer here")
        answers = dialogue.check(responses)
        self._unlist(state)
        dialogue.unpark()
        return await self._stay(call, dialogue, _visit(call, params), answers)

    async def close(self, why: str) -> None:
        """End every parked call in order and take no more questions.

        Args:
            why: public text for servers that ask from now on.
        """
        self._closing = why
        parked = list(self._parked.values())
        for park_id in tuple(self._parked):
            self._unlist(park_id)
        for dialogue in parked:
            self._end(dialogue, why)
        async with asyncio.TaskGroup() as group:
            for dialogue in parked:
                group.create_task(dialogue.wait(END_S))

    async def _stay(
        self,
        call: Answering,
        dialogue: Dialogue,
        visit: Visit | None = None,
        answers: Mapping[str, Answer] = _NO_ANSWERS,
    ) -> bytes | ErrorObject:
        parked = False
        try:
            if visit is not None:
                await dialogue.take_over(visit, answers)
            outcome = await dialogue.stay()
            if outcome is not None:
                return outcome
            if call.over and not dialogue.tag:
                # Its time ended in this very moment: nobody will learn where to answer.
                raise MeshError(ErrorKind.LOST, "the call was stopped")
            parked = True
            return self._park(dialogue)
        finally:
            if not parked:
                self._forget(dialogue)
                if not dialogue.done:
                    dialogue.cancel("the caller has left")
                    await dialogue.wait(END_S)

    def _park(self, dialogue: Dialogue) -> bytes:
        park_id = secrets.token_urlsafe(_ID_BYTES)
        if dialogue.tag:
            park_id = f"{park_id}.{dialogue.tag}"
        self._parked[park_id] = dialogue
        on_end = functools.partial(self._ended, park_id) if dialogue.tag else None
        dialogue.park(functools.partial(self._expire, park_id), on_end)
        if self._cancels is not None:
            self._cancels.add(dialogue.tenant, park_id, dialogue)
        return input_required(dialogue.open_questions(), park_id, self._instance)

    def _expire(self, park_id: str) -> None:
        dialogue = self._unlist(park_id)
        if dialogue is not None:
            _log.info("nobody answered a parked call", extra={"tenant": dialogue.tenant})
            self._end(dialogue, "nobody answered in time")

    def _end(self, dialogue: Dialogue, why: str) -> None:
        dialogue.unpark()
        dialogue.cancel(why)
        self._forget(dialogue)
        if dialogue.tag:
            self.on_end(dialogue.tenant, dialogue.principal, dialogue.tag, why)

    def _ended(self, park_id: str, outcome: Answer | MeshError) -> None:
        """A parked call with an idempotency key ended by itself: its record keeps the answer."""
        dialogue = self._unlist(park_id)
        if dialogue is None:
            return
        dialogue.unpark()
        self._forget(dialogue)
        answer = outcome.to_object() if isinstance(outcome, MeshError) else outcome
        self.on_end(dialogue.tenant, dialogue.principal, dialogue.tag, answer)

    def _unlist(self, park_id: str) -> Dialogue | None:
        dialogue = self._parked.pop(park_id, None)
        if dialogue is not None and self._cancels is not None:
            self._cancels.remove(dialogue.tenant, park_id, dialogue)
        return dialogue

    def _admit(self, dialogue: Dialogue, size: int) -> str:
        if self._closing:
            return self._closing
        if self.held_bytes + size > HELD_BYTES_MAX:
            return "too much waits for input on this runner"
        if dialogue in self._asking:
            return ""
        if len(self._asking) >= self._config.calls:
            return "too many calls wait for input on this runner"
        if self._per_tenant[dialogue.tenant] >= self._config.calls_per_tenant:
            return "too many calls of this tenant wait for input"
        self._asking.add(dialogue)
        self._per_tenant[dialogue.tenant] += 1
        return ""

    def _forget(self, dialogue: Dialogue) -> None:
        if dialogue in self._asking:
            self._asking.remove(dialogue)
            self._per_tenant[dialogue.tenant] -= 1
            if not self._per_tenant[dialogue.tenant]:
                del self._per_tenant[dialogue.tenant]

    def _spawn(
        self, work: Coroutine[object, object, Answer | MeshError]
    ) -> asyncio.Task[Answer | MeshError]:
        return self._tasks.spawn(work, name="dialogue")


def _visit(call: Answering, params: msgspec.Raw) -> Visit:
    return Visit(
        params=params,
        timeout_s=call.remaining_s,
        notify=call.emit if call.frames else None,
    )


class _State(msgspec.Struct, frozen=True):
    request_state: str = msgspec.field(default="", name="requestState")


def parked_under(params: msgspec.Raw) -> tuple[str, str]:
    """Id of the parked call that a repeated request goes on with, and the tag in it ("" = none).

    Raises:
        MeshError: ``params`` when the state is no string.
    """
    if "requestState" not in pick(params, "requestState"):
        return "", ""
    state = decode_as(params, _State).request_state
    tag = state.partition(".")[2]
    return state, tag if is_tag(tag) else ""


def _nobody_cares(_tenant: str, _principal: str, _tag: str, _answer: Answer | str) -> None:
    """Nothing keeps records of idempotency keys yet."""

"""One agent of a swarm in this process: what it has to do, and how each attempt ends.

Every attempt ends with exactly one result: of its body, of its time, of a cancel, or of the death
of its body. Whoever runs the steps (a child process, or functions of this one) is the ``Body``.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Literal, Protocol

import msgspec

from mcp_proto.contracts.swarm import AgentBeat, StepError, Usage, WorkItem, WorkResult
from mcp_proto.jsonrpc import ABSENT
from mesh_chassis.tasks import Tasks
from mesh_sdk.swarm.steps import Json, Letter

__all__ = ["Body", "BodyGoneError", "Job", "Measured", "Resident", "failed"]

State = Literal["starting", "active", "draining", "frozen", "gone"]

UNSENT_MAX = 64
"""Results of one agent that wait for the owner; with more it takes no work."""
PARKED_MAX = 256
"""Attempts of one agent that wait for answers of a person or a model."""
PARKED_S = 24 * 3600.0
"""How long such an attempt is kept, unless its deadline comes first."""

_log = logging.getLogger(__name__)


class BodyGoneError(Exception):
    """The process that ran the step has ended; ``str`` says how."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a body is given: an attempt, and in a later round what was asked for."""

    item: WorkItem
    timeout_s: float
    answers: dict[str, msgspec.Raw] = {}
    state: msgspec.Raw = ABSENT


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Of a body, now; None = not measured."""

    memory_bytes: int | None = None
    cpu_ms: float | None = None


class Body(Protocol):
    """What runs the steps of an agent."""

    @property
    def pid(self) -> int | None:
        """Process id; None = it has no process of its own."""
        ...

    async def run(self, job: Job) -> WorkResult:
        """Do one attempt. When cancelled, it returns only once the work has ended.

        Raises:
            BodyGoneError: it ended before the work did.
        """
        ...

    async def ping(self, timeout_s: float) -> bool:
        """Whether it lives and reacts."""
        ...

    async def hear(self, letter: Letter, timeout_s: float) -> tuple[bool, Json]:
        """Deliver a letter: whether anybody took it, and the reply.

        Raises:
            BodyGoneError: it is gone.
            TimeoutError: no reply in time.
            StepFailedError: whoever took it failed.
        """
        ...

    async def stop(self, grace_s: float) -> int | None:
        """End it; the exit status once it is gone. May be called again."""
        ...

    def measure(self) -> Measured:
        """What it uses."""
        ...


class _Attempt:
    __slots__ = ("begun", "deadline", "ended_by", "job", "task", "timer")

    def __init__(self, job: Job, deadline: float) -> None:
        self.job = job
        self.deadline = deadline
        self.begun = False
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ended_by: StepError | None = None


class _Parked(msgspec.Struct):
    item: WorkItem
    state: msgspec.Raw
    timer: asyncio.TimerHandle


class Resident:
    """One life of an agent.

    Args:
        agent: its id.
        epoch: counts its lives.
        body: runs its steps.
        slots: steps at once; as many again may wait here.
        tasks: parent of attempts.
        settled: takes the result of each attempt.
        unsent: how many results of this agent still wait for the owner.
        changed: hears that a beat is due.
    """

    def __init__(
        self,
        agent: str,
        epoch: int,
        body: Body,
        *,
        slots: int,
        tasks: Tasks,
        settled: Callable[[WorkResult], None],
        unsent: Callable[[], int] = int,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.agent = agent
        self.epoch = epoch
        self.body = body
        self.slots = slots
        self.state: State = "active"
        self.exited: int | None = None
        self._tasks = tasks
        self._settled = settled
        self._unsent = unsent
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Attempt] = deque()
        self._items: dict[str, _Attempt] = {}
        self._running = 0
        self._parked: dict[str, _Parked] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping: asyncio.Task[int | None] | None = None

    @property
    def busy(self) -> int:
        """Attempts that run or wait for a slot."""
        return len(self._items)

    def has(self, item: str) -> bool:
        """Whether it has this attempt, in whatever state."""
        return item in self._items or item in self._parked

    def beat(self, unsent: list[str]) -> AgentBeat:
        """Everything it has, ``unsent`` results included."""
        gone = self.state == "gone"
        measured = Measured() if gone else self.body.measure()
        return AgentBeat(
            agent=self.agent,
            epoch=self.epoch,
            state=self.state,
            items=(*self._items, *self._parked, *unsent),
            pid=None if gone else self.body.pid,
            memory_bytes=measured.memory_bytes,
            cpu_ms=measured.cpu_ms,
        )

    def refusal(self) -> str:
        """Why it takes no more work; "" = it does."""
        if self.state == "gone":
            return "unknown_agent"
        if self.state == "draining" or len(self._items) >= 2 * self.slots:
            return "busy"
        return "busy" if self._unsent() >= UNSENT_MAX else ""

    def take(self, item: WorkItem, timeout_s: float) -> None:
        """Do an attempt, now or when a slot is free; see ``refusal``."""
        self._enqueue(Job(item=item, timeout_s=timeout_s))

    def answer(self, item: str, answers: Mapping[str, msgspec.Raw]) -> bool:
        """Go on with an attempt that asked; whether it is here."""
        parked = self._parked.pop(item, None)
        if parked is None:
            return False
        parked.timer.cancel()
        timeout_s = parked.item.timeout_ms / 1000
        job = Job(
            item=parked.item, timeout_s=timeout_s, answers=dict(answers), state=parked.state
        )  # fmt: skip
        self._enqueue(job)
        return True

    def cancel(self, item: str, error: StepError | None = None) -> bool:
        """End one attempt; whether it is here. Its result follows once it has ended."""
        because = error or StepError(
            type="cancelled",
            message="the attempt was cancelled",
            retryable=False,
            outcome="unknown",
        )
        parked = self._parked.pop(item, None)
        if parked is not None:
            parked.timer.cancel()
            self._settled(failed(parked.item, because))
            return True
        attempt = self._items.get(item)
        if attempt is None:
            return False
        if attempt.task is None:
            self._leave_queue(attempt)
            unbegun = msgspec.structs.replace(because, outcome="not_executed")
            self._end(attempt, failed(attempt.job.item, unbegun))
        elif attempt.ended_by is None:
            attempt.ended_by = because
            if attempt.begun:
                attempt.task.cancel()
        return True

    def drain(self) -> None:
        """Finish what runs, give back what waits, take nothing new."""
        if self.state in {"gone", "draining"}:
            return
        self.state = "draining"
        for attempt in list(self._queue):
            self._leave_queue(attempt)
            error = StepError(type="draining", message="the agent drains", outcome="not_executed")
            self._end(attempt, failed(attempt.job.item, error, status="rejected"))
        self._changed()

    def freeze(self, frozen: bool) -> None:
        """Its body does not react, or does so again."""
        if self.state == "active" and frozen:
            self.state = "frozen"
        elif self.state == "frozen" and not frozen:
            self.state = "active"
        else:
            return
        self._changed()

    async def idle(self) -> None:
        """Wait until nothing runs."""
        await self._idle.wait()

    async def stop(self, grace_s: float) -> int | None:
        """End its body whatever runs; the exit status. It is ``gone`` afterwards."""
        if self._stopping is None:
            self.drain()
            self._stopping = self._tasks.spawn(self._stop(grace_s), name="stop-agent")
        return await asyncio.shield(self._stopping)

    def abandon(self) -> None:
        """End every attempt."""
        error = StepError(type="stopped", message="the agent was stopped", outcome="unknown")
        for item in [*self._items, *self._parked]:
            self.cancel(item, error)

    async def _stop(self, grace_s: float) -> int | None:
        self.abandon()
        status = await self.body.stop(grace_s)
        self.lost("the agent was stopped", status)
        return status

    def lost(self, reason: str, status: int | None = None) -> None:
        """Its body is gone: everything that it had ends as a crash, once."""
        if self.state == "gone":
            return
        self.state = "gone"
        self.exited = status
        for item in list(self._parked):
            self.cancel(item, StepError(type="crash", message=reason, outcome="unknown"))
        for attempt in list(self._queue):
            self._leave_queue(attempt)
            error = StepError(type="crash", message=reason, outcome="not_executed")
            self._end(attempt, failed(attempt.job.item, error))
        self._changed()

    # Attempts

    def _enqueue(self, job: Job) -> None:
        attempt = _Attempt(job, self._loop.time() + job.timeout_s)
        self._items[job.item.item] = attempt
        self._queue.append(attempt)
        self._idle.clear()
        self._pump()
        if attempt.task is None and attempt.timer is None:
            attempt.timer = self._loop.call_at(attempt.deadline, self._expire, attempt)

    def _pump(self) -> None:
        while self._queue and self._running < self.slots and self.state != "gone":
            attempt = self._queue.popleft()
            self._unwind(attempt)
            self._running += 1
            attempt.task = self._tasks.spawn(self._run(attempt), name="step")

    def _expire(self, attempt: _Attempt) -> None:
        self._leave_queue(attempt)
        error = StepError(
            type="timeout", message="its time was over before a slot was free",
            outcome="not_executed",
        )  # fmt: skip
        self._end(attempt, failed(attempt.job.item, error))

    def _leave_queue(self, attempt: _Attempt) -> None:
        self._queue.remove(attempt)
        self._unwind(attempt)

    @staticmethod
    def _unwind(attempt: _Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None

    async def _run(self, attempt: _Attempt) -> None:
        attempt.begun = True
        began = self._loop.time()
        try:
            result = await self._outcome(attempt)
        except asyncio.CancelledError:
            self._items.pop(attempt.job.item.item, None)
            raise
        finally:
            self._running -= 1
        if result.usage.wall_ms is None:
            wall_ms = round((self._loop.time() - began) * 1000, 3)
            usage = msgspec.structs.replace(result.usage, wall_ms=wall_ms)
            result = msgspec.structs.replace(result, usage=usage)
        self._end(attempt, result)

    async def _outcome(self, attempt: _Attempt) -> WorkResult:
        item = attempt.job.item
        if attempt.ended_by is not None:
            # Cancelled before its task had its first turn.
            return failed(item, msgspec.structs.replace(attempt.ended_by, outcome="not_executed"))
        limit = asyncio.timeout_at(attempt.deadline)
        try:
            async with limit:
                return await self.body.run(attempt.job)
        except asyncio.CancelledError:
            if attempt.ended_by is None:
                raise  # the whole process ends
            return failed(item, attempt.ended_by)
        except BodyGoneError as gone:
            message = str(gone) or "the agent's process ended"
            crash = StepError(type="crash", message=message, outcome="unknown")
            return failed(item, attempt.ended_by or crash)
        except Exception:  # noqa: BLE001 - whatever a body does, the attempt ends with a result
            if limit.expired():
                message = f"the attempt exceeded its {attempt.job.timeout_s:g} s"
                return failed(item, StepError(type="timeout", message=message, outcome="unknown"))
            _log.exception("an attempt failed in its host")
            error = StepError(type="internal", message="the host failed", outcome="unknown")
            return failed(item, error)

    def _end(self, attempt: _Attempt, result: WorkResult) -> None:
        item = attempt.job.item
        self._items.pop(item.item, None)
        if result.status == "input_required":
            result = self._park(item, result)
        self._settled(result)
        self._pump()
        if not self._items:
            self._idle.set()

    def _park(self, item: WorkItem, result: WorkResult) -> WorkResult:
        """Keep an attempt that asked."""
        if self.state == "gone" or len(self._parked) >= PARKED_MAX:
            error = StepError(type="limit", message="too many attempts wait for answers here")
            return failed(item, error)
        timer = self._loop.call_later(PARKED_S, self._forget, item.item)
        self._parked[item.item] = _Parked(item, result.state, timer)
        return result

    def _forget(self, item: str) -> None:
        error = StepError(type="input", message="nobody answered in time", retryable=False)
        self.cancel(item, error)


def failed(
    item: WorkItem, error: StepError, *, status: Literal["error", "rejected"] = "error"
) -> WorkResult:
    """The result of an attempt that did not end well."""
    return WorkResult(
        agent=item.agent, epoch=item.epoch, item=item.item, status=status, error=error,
        usage=Usage(),
    )  # fmt: skip

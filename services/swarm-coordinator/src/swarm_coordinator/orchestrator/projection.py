"""What others read of a swarm: its record, and the records of its tasks.

A record is made from the state in memory, which is ahead of the log, and written only once the log
has what it says. Progress is told once a second; a change of status at once.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import msgspec

from mcp_proto.contracts.tasks import TaskRecord
from mcp_proto.errors import ErrorKind, MeshError
from swarm_coordinator.core.effects import Effect, SwarmChanged, TaskChanged
from swarm_coordinator.core.records import SwarmRecord
from swarm_coordinator.core.state import SwarmState, TaskState
from swarm_coordinator.handlers.task_progress import Reports
from swarm_coordinator.handlers.task_records import record_of, result_of
from swarm_coordinator.orchestrator.journal import Journal
from swarm_coordinator.store.swarms import SwarmStore
from swarm_coordinator.store.tasks import TaskRecords
from swarm_coordinator.store.values import Values

__all__ = ["Projection"]

PROGRESS_S = 1.0
"""Least time between two records of a task that only went on, and of a swarm."""
GENTLE_MAX = 100
"""Records of one pass that only went on: each is a synced write; the rest waits for the next."""
RETRY_S = 1.0
STEP_BACK_S = 0.001
"""Records that nobody waits for are behind whom somebody waits for."""
TURNS = 4
"""Of the loop, within which work of a batch is on its way to hosts."""
RESULT_BYTES_MAX = 10 * 1024 * 1024
_log = logging.getLogger(__name__)


class Projection:
    """Writes what the owner of one swarm has stored into the records of others.

    Args:
        state: of the swarm, now.
        journal: says when what the state says is stored.
        swarms: records of swarms.
        records: records of tasks.
        values: large results.
        sequence: of the log, now.
        reports: what agents told of steps that run.
    """

    def __init__(
        self,
        *,
        state: Callable[[], SwarmState],
        journal: Journal,
        swarms: SwarmStore,
        records: TaskRecords,
        values: Values,
        sequence: Callable[[], int],
        reports: Reports,
    ) -> None:
        self._state = state
        self._journal = journal
        self._swarms = swarms
        self._records = records
        self._values = values
        self._sequence = sequence
        self._reports = reports
        self._urgent: dict[str, None] = {}
        self._later: dict[str, None] = {}
        self._swarm_stale = False
        self._hurry = False
        self._closing = False
        self._written: SwarmRecord | None = None
        self._told: dict[str, TaskRecord] = {}
        self._wake = asyncio.Event()
        self._pressed = asyncio.Event()
        self._writing = ""
        self._written_once = asyncio.Event()
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def stored(self, effects: Sequence[Effect]) -> None:
        """Take note of what is in the log now."""
        for effect in effects:
            if isinstance(effect, TaskChanged):
                if effect.status or effect.ended:
                    self._later.pop(effect.task, None)
                    self._urgent[effect.task] = None
                elif effect.task not in self._urgent:
                    self._later[effect.task] = None
            elif isinstance(effect, SwarmChanged):
                self._swarm_stale = True
                self._hurry = self._hurry or self._is_news()
        if self._urgent or self._later or self._swarm_stale:
            self._idle.clear()
            self._wake.set()

    def reported(self, task: str) -> None:
        """An agent has told how far a step of this task is."""
        if task not in self._urgent and task not in self._later:
            self._later[task] = None
            self._idle.clear()
            self._wake.set()

    async def recorded(self, task: str) -> None:
        """Wait until the record of a task says what the state says now.

        Raises:
            MeshError: it cannot be written.
        """
        await self._journal.stored()
        self._later.pop(task, None)
        self._urgent[task] = None
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(task, []).append(waiting)
        self._idle.clear()
        self._pressed.set()
        self._wake.set()
        await waiting

    async def known(self, task: str) -> None:
        """Wait until there is a record of a task at all; what is under way, is waited for.

        Raises:
            MeshError: it cannot be written.
        """
        if task in self._told:
            return
        if task == self._writing:
            await self._written_once.wait()
        if task not in self._told:
            await self.recorded(task)

    async def settled(self) -> None:
        """Write everything that is left now; returns when it is written."""
        self._hurry = self._closing = True
        self._pressed.set()
        self._wake.set()
        await self._idle.wait()

    async def run(self) -> None:
        """Write, for ever."""
        clock = asyncio.get_running_loop().time
        gentle_at = 0.0
        try:
            while True:
                while self._urgent:
                    await self._task(next(iter(self._urgent)), self._urgent)
                pending = bool(self._later) or self._swarm_stale
                left = 0.0 if self._hurry else gentle_at - clock()
                if pending and left <= 0:
                    self._hurry = self._closing
                    gentle_at = clock() + PROGRESS_S
                    await self._gentle()
                    continue
                if not pending:
                    self._idle.set()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left if pending else None):
                        await self._wake.wait()
                await self._step_back()
        finally:
            for waiting in self._waiting.values():
                for one in waiting:
                    one.cancel()

    async def _step_back(self) -> None:
        """Let work and answers that the same batch of the log has set free go first."""
        if self._waiting or self._closing:
            return
        tasks = self._state().tasks
        if not any(task in tasks and tasks[task].ended for task in self._urgent):
            for _ in range(TURNS):  # work leaves; while it is done, there is time for a record
                await asyncio.sleep(0)
            return
        self._pressed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STEP_BACK_S):
                await self._pressed.wait()

    async def write_swarm(self) -> None:
        """Write the record of the swarm now.

        Raises:
            MeshError: it could not be written.
        """
        self._swarm_stale = False
        record = self._swarm_record()
        await self._journal.stored()
        await self._swarms.put(record)
        self._written = record

    def _is_news(self) -> bool:
        """What other replicas act upon: that it has ended, or can no longer be left alone."""
        known = self._written
        state = self._state()
        if known is None or known.status != state.status:
            return True
        return not known.agents and not known.tasks

    async def _gentle(self) -> None:
        if self._swarm_stale:
            try:
                await self.write_swarm()
            except MeshError as error:
                await self._late("a swarm", error)
                self._swarm_stale = self._journal.ended is None
        waiting = list(self._later)
        for task in waiting if self._closing else waiting[:GENTLE_MAX]:
            if self._urgent:
                return
            await self._task(task, self._later)

    async def _late(self, what: str, error: MeshError) -> None:
        _log.warning("the record of %s is late: %s", what, error.message)
        await asyncio.sleep(RETRY_S)

    async def _task(self, task_id: str, queue: dict[str, None]) -> None:
        queue.pop(task_id, None)
        state = self._state()
        task = state.tasks.get(task_id)
        waiting = self._waiting.pop(task_id, [])
        error: MeshError | None = None
        if task is not None:
            self._writing = task_id
            self._written_once.clear()
            try:
                await self._write(state, task)
            except MeshError as raised:
                error = raised
                await self._late("a task", raised)
                if self._journal.ended is None:
                    self._urgent[task_id] = None
            finally:
                self._writing = ""
                self._written_once.set()
        for one in waiting:
            if one.done():
                continue
            if error is None:
                one.set_result(None)
            else:
                one.set_exception(error)

    async def _write(self, state: SwarmState, task: TaskState) -> None:
        told = self._told.get(task.id)
        if told is not None and told.terminal:
            return
        record = record_of(state, task, reports=self._reports)
        if record == told:
            return  # whoever made the task waits for it, and it was written at once
        result = b""
        if record.status == "completed":
            large = b""
            if task.result_ref:
                large = await self._values.get(state.swarm, task.result_ref)
            result = result_of(state, task, large)
            if len(result) > RESULT_BYTES_MAX:
                result = _too_large(len(result))
                record = msgspec.structs.replace(record, is_error=True)
        await self._journal.stored()
        await self._records.write(record, result)
        self._told[task.id] = record
        if record.terminal:
            for gone in self._told.keys() - state.tasks.keys():
                del self._told[gone]

    def _swarm_record(self) -> SwarmRecord:
        state = self._state()
        return SwarmRecord(
            swarm=state.swarm,
            tenant=state.tenant,
            principal=state.principal,
            name=state.name,
            topology=state.topology,
            status=state.status,
            created_ms=state.created_ms,
            sequence=self._sequence(),
            agents=sum(agent.status != "terminated" for agent in state.agents.values()),
            tasks=sum(not task.ended for task in state.tasks.values()),
            owner=state.owner,
            idempotency=state.idempotency,
        )


def _too_large(size: int) -> bytes:
    error = MeshError(ErrorKind.TOO_LARGE, f"the result has {size} bytes")
    text = error.message
    return msgspec.json.encode(
        {
            "content": [{"type": "text", "text": text}],
            "structuredContent": {
                "error": {
                    "code": "resource",
                    "reason": "limit",
                    "message": text,
                    "retryable": False,
                    "outcome": "executed",
                }
            },
            "isError": True,
        }
    )

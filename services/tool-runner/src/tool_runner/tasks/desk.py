"""The operations on tasks of this runner, and the executions it owns.

Any runner takes a request: a task is made and executed where the request to make it arrived; one
that waits for input is continued where the last answer arrives; a cancel is written by whoever
gets it, and the owner sees it in its watch.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine

import msgspec

from mcp_proto import ids
from mcp_proto.codec import pick
from mcp_proto.contracts import tasks as contract
from mcp_proto.contracts.tasks import (
    Acknowledged,
    TaskCancel,
    TaskCreate,
    TaskRecord,
    TaskUpdate,
    record_key,
)
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Endpoint, serve_operation
from mesh_chassis.tasks import Tasks, TasksFullError
from tool_runner.config import TasksConfig
from tool_runner.core import idempotency as rules
from tool_runner.core import tasks as life
from tool_runner.idempotency import Idempotency
from tool_runner.tasks.execution import Execution, abandon
from tool_runner.tasks.store import Conflict, Seen, Stored, TaskStore
from tool_runner.tasks.upstream_tasks import cancel_upstream, follow

__all__ = ["Identify", "TaskDesk"]

WRITES_MAX = 20
"""Attempts to change a record that others change at the same time."""
CALL_ENDS_S = 2.0
"""A call ends so long before its task expires, so that its failure can still be read."""
OPERATION_SLOTS = 256
STOP_S = 2.0
_log = logging.getLogger(__name__)

Identify = Callable[[str, str, str], tuple[str, str]]
"""(signed context, tenant, principal) → tenant and principal that are believed."""


class _Running:
    """An execution and the task of the loop it runs in."""

    __slots__ = ("execution", "task")

    def __init__(self, execution: Execution, task: asyncio.Task[None]) -> None:
        self.execution = execution
        self.task = task


class TaskDesk:
    """Takes ``task-create``, ``task-update`` and ``task-cancel``.

    Args:
        bus: connection.
        store: the records.
        config: bounds.
        identify: who asks.
        once: idempotency keys.
        tasks: parent of the executions.
    """

    def __init__(
        self,
        bus: Bus,
        store: TaskStore,
        config: TasksConfig,
        *,
        identify: Identify,
        once: Idempotency,
        tasks: Tasks,
    ) -> None:
        self._bus = bus
        self._store = store
        self._config = config
        self._identify = identify
        self._once = once
        self._tasks = tasks
        self._running: dict[str, _Running] = {}
        self._draining = False
        store.on_change = self._on_change
        self.endpoints: tuple[Endpoint, ...] = (
            serve_operation(bus, contract.create, self.create, slots=OPERATION_SLOTS),
            serve_operation(bus, contract.update, self.update, slots=OPERATION_SLOTS),
            serve_operation(bus, contract.cancel, self.cancel, slots=OPERATION_SLOTS),
        )

    @property
    def executing(self) -> int:
        """Calls of tasks that this runner makes now."""
        return len(self._running)

    # Operations

    async def create(self, ask: TaskCreate) -> TaskRecord:
        """Make a task, write it, begin its call.

        Raises:
            MeshError: ``overloaded`` at a limit of number, ``too_large``, ``unauthenticated``,
                ``denied``.
        """
        tenant, principal = self._identify(ask.context, ask.tenant, ask.principal)
        await self._admit(tenant, ask)
        now = self._bus.server_now_ms()
        config = self._config
        wanted_s = ask.ttl_ms / 1000 if ask.ttl_ms > 0 else config.ttl_s
        ttl_s = min(max(wanted_s, config.ttl_min_s), config.ttl_max_s)
        record = TaskRecord(
            id=ids.handle("task", now, os.urandom(ids.HANDLE_RANDOM_BYTES)),
            tenant=tenant,
            principal=principal,
            server=ask.server,
            tool=ask.tool,
            status="working",
            created_ms=now,
            updated_ms=now,
            ttl_ms=round(ttl_s * 1000),
            poll_ms=round(config.poll_s * 1000),
            owner=self._bus.instance,
            boot=self._bus.boot,
            pad=life.PAD,
        )
        name = _key_name(record, ask.params)
        known = await self._known(name, record, ask.params)
        if known is not None:
            return known
        try:
            revision = await self._store.create(record, now)
        except MeshError:
            if name:
                await self._once.free(name)
            raise
        params = life.call_params(ask.params, record.id)
        execution = self._execution(Stored(record, revision), ask.context)
        self._spawn(execution, execution.begin(params, self._budget_s(record)))
        return record

    async def _known(self, name: str, record: TaskRecord, params: msgspec.Raw) -> TaskRecord | None:
        """The task that the idempotency key of these params has made before."""
        if not name:
            return None
        arguments = pick(params, "arguments").get("arguments", msgspec.Raw(b""))
        digest = rules.arguments_digest(arguments)
        earlier = await self._once.claim_for_task(name, digest, record.id)
        if earlier is None:
            return None
        stored = await self._store.read(record.tenant, record.principal, earlier)
        if stored is None:
            raise MeshError(
                ErrorKind.LOST,
                "the task of this idempotency key is not kept any more",
                outcome=Outcome.UNKNOWN,
            )
        return stored.record

    async def _admit(self, tenant: str, ask: TaskCreate) -> None:
        config = self._config
        self._admit_work()
        size = memoryview(ask.params).nbytes
        if size > config.params_bytes:
            raise MeshError(
                ErrorKind.TOO_LARGE,
                f"the call of a task may have {config.params_bytes} bytes",
                data={"maxBytes": config.params_bytes},
            )
        await self._store.check_room(tenant)

    def _admit_work(self) -> None:
        if self._draining or len(self._running) >= self._config.executing:
            raise MeshError(
                ErrorKind.OVERLOADED, "the runner takes no more tasks now", retry_after_s=0.5
            )

    async def update(self, ask: TaskUpdate) -> Acknowledged:
        """Take answers; with the last one the task goes on here.

        Raises:
            MeshError: ``not_found``, ``overloaded``, and as ``create``.
        """
        tenant, principal = self._identify(ask.context, ask.tenant, ask.principal)
        for _ in range(WRITES_MAX):
            stored = await self._found(tenant, principal, ask.id)
            now = self._bus.server_now_ms()
            record = life.answered(stored.record, ask.responses, now)
            if record is None or record.held is None:
                return Acknowledged()
            held = record.held
            ready = not held.requests
            if ready:
                self._admit_work()
                record = life.began(
                    record, owner=self._bus.instance, boot=self._bus.boot, now_ms=now
                )
            try:
                revision = await self._store.update(record, stored.revision, now)
            except Conflict:
                continue
            if ready:
                execution = self._execution(Stored(record, revision), ask.context)
                self._spawn(execution, execution.resume(held, self._budget_s(record)))
            return Acknowledged()
        raise _contended()

    async def cancel(self, ask: TaskCancel) -> Acknowledged:
        """Stop a task, wherever its call runs.

        Raises:
            MeshError: ``not_found``, and as ``create``.
        """
        tenant, principal = self._identify(ask.context, ask.tenant, ask.principal)
        for _ in range(WRITES_MAX):
            stored = await self._found(tenant, principal, ask.id)
            if stored.record.terminal:
                return Acknowledged()
            now = self._bus.server_now_ms()
            try:
                await self._store.update(life.cancelled(stored.record, now), stored.revision, now)
            except Conflict:
                continue
            held = stored.record.held
            if held is not None and held.upstream_task:
                execution = self._execution(stored, ask.context)
                await cancel_upstream(execution, held.upstream_task)
            if held is not None and held.instance:
                await abandon(self._bus, tenant, held.instance, held.state)
            return Acknowledged()
        raise _contended()

    async def _found(self, tenant: str, principal: str, task_id: str) -> Stored:
        known = contract.is_task_id(task_id)
        stored = await self._store.read(tenant, principal, task_id) if known else None
        if stored is None:
            raise MeshError(ErrorKind.NOT_FOUND, "unknown task")
        return stored

    # Executions

    def _execution(self, stored: Stored, context: str) -> Execution:
        return Execution(
            self._bus,
            self._store,
            stored.record,
            stored.revision,
            context=context,
            follow=follow,
        )

    def _budget_s(self, record: TaskRecord) -> float:
        left_s = (record.expires_ms - self._bus.server_now_ms()) / 1000 - CALL_ENDS_S
        most_s = self._config.call_timeout_s
        return max(0.5, min(left_s, most_s) if most_s else left_s)

    def _spawn(self, execution: Execution, work: Coroutine[object, object, None]) -> None:
        record = execution.record
        key = record_key(record.tenant, record.principal, record.id)

        async def run() -> None:
            try:
                await work
            finally:
                # With the last answer the next execution may be there already.
                known = self._running.get(key)
                if known is not None and known.execution is execution:
                    del self._running[key]

        try:
            task = self._tasks.spawn(run(), name="task-execution")
        except TasksFullError:
            work.close()
            raise MeshError(ErrorKind.OVERLOADED, "the runner stops", retry_after_s=0.5) from None
        self._running[key] = _Running(execution, task)

    def _on_change(self, key: str, seen: Seen | None) -> None:
        """Somebody else ended a task that is executed here, or it expired."""
        running = self._running.get(key)
        if running is None or running.execution.settling:
            return  # what it writes itself comes back here, too
        record = running.execution.record
        if seen is None or (seen.status in {"cancelled", "failed"} and not seen.owner):
            if not running.execution.ended:
                _log.info("a task is stopped: %s", seen.status if seen else "expired",
                          extra={"task": record.id})  # fmt: skip
            running.execution.ended = True
            running.task.cancel()

    async def drain(self, timeout_s: float) -> None:
        """Take no more, wait for what runs, and say of the rest that nobody knows how it ends.

        Args:
            timeout_s: longest wait for running calls.
        """
        self._draining = True
        running = [one.task for one in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=timeout_s)
        left = list(self._running.values())
        for one in left:
            one.task.cancel()
        if left:
            _log.warning("%d tasks outlast the runner", len(left))
            await asyncio.wait([one.task for one in left], timeout=STOP_S)
            await asyncio.gather(
                *(one.execution.give_up("the runner stopped in mid-call") for one in left)
            )


def _key_name(record: TaskRecord, params: msgspec.Raw) -> str:
    """Name of the record of an idempotency key; "" = the call has none."""
    key = rules.key_of(params)
    if key is None:
        return ""
    return rules.record_name(record.tenant, record.principal, record.server, record.tool, key)


def _contended() -> MeshError:
    return MeshError(ErrorKind.OVERLOADED, "the task changes too often", retry_after_s=0.2)

"""Durable tasks as parts of the service: opened when the broker lets us, drained with the rest."""

import asyncio
import logging

from mcp_proto.contracts.tasks import is_task_id, record_key
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.envelope import Header
from mcp_proto.errors import MeshError
from mcp_proto.subjects import Kind
from mesh_chassis.bus.endpoint import Call
from mesh_chassis.service import Service
from tool_runner.config import ToolRunnerConfig
from tool_runner.handlers import Admission
from tool_runner.idempotency import Idempotency
from tool_runner.tasks.desk import TaskDesk
from tool_runner.tasks.owners import Owners
from tool_runner.tasks.reconciler import Reconciler
from tool_runner.tasks.store import TaskStore

__all__ = ["DurableTasks"]

OPEN_AGAIN_S = 1.0
DRAIN_KEPT_S = 5.0
"""Of the drain, kept for what comes after the tasks."""
_log = logging.getLogger(__name__)


class DurableTasks:
    """Everything about tasks on this runner.

    Args:
        service: the process.
        config: its configuration.
        admission: tells who asks.
        owners: tells which runners are dead.
    """

    def __init__(
        self, service: Service, config: ToolRunnerConfig, admission: Admission, owners: Owners
    ) -> None:
        self._service = service
        self._config = config
        self._admission = admission
        self._owners = owners
        self._store: TaskStore | None = None
        self._desk: TaskDesk | None = None
        self._once: Idempotency | None = None
        service.on_ready(self._begin)
        service.on_stop(self._close)
        service.metrics.ask("mesh_tasks_executing", self._executing)

    def _executing(self) -> float:
        return float(self._desk.executing) if self._desk is not None else 0.0

    async def _begin(self) -> None:
        try:
            await self._open()
        except MeshError as error:
            _log.warning("tasks are not served yet: %s", error.message)
            self._service.tasks.spawn(self._open_late(), name="open-tasks")

    async def _open_late(self) -> None:
        while True:
            await asyncio.sleep(OPEN_AGAIN_S)
            try:
                await self._open()
            except MeshError:
                continue
            return

    async def _open(self) -> None:
        service, config = self._service, self._config
        store = await TaskStore.open(service.bus, per_tenant=config.tasks.per_tenant)
        try:
            once = await Idempotency.open(
                service.bus,
                self._owners,
                service.tasks,
                config.idempotency,
            )
        except BaseException:
            await store.close()
            raise
        self._store, self._once = store, once
        service.add_watch(store.watch, bucket=store.bucket)
        service.add_watch(once.watch, bucket=once.bucket)
        self._admission.once = once
        desk = self._desk = TaskDesk(
            service.bus,
            store,
            config.tasks,
            identify=self._admission.identify,
            once=once,
            tasks=service.tasks,
        )
        for endpoint in desk.endpoints:
            await service.serve(endpoint)
        reconciler = Reconciler(
            service.bus, store, self._owners, every_s=config.tasks.check_every_s
        )
        service.tasks.spawn(reconciler.run(), name="task-reconciler", fatal=True)

    async def drain(self) -> None:
        """Let calls of tasks end within the drain; see ``TaskDesk.drain``."""
        if self._desk is not None:
            room = self._config.service.drain_s - self._config.service.accept_s - DRAIN_KEPT_S
            await self._desk.drain(max(0.5, room))

    async def _close(self) -> None:
        if self._once is not None:
            await self._once.close()
        if self._store is not None:
            await self._store.close()

    async def extend(self, call: Call, caller: CallerContext | None) -> float:
        """Let the call of a task take as long as the task may.

        Args:
            call: one that names a task in ``Mesh-Task``.
            caller: checked; None for an unsigned call.

        Returns:
            Seconds for which its task is still kept; 0 = it is not the call of a task, and only
            such a call has that time.

        Raises:
            MeshError: no answer from the broker.
        """
        store, task_id = self._store, call.headers.get(Header.TASK, "")
        if store is None or not is_task_id(task_id):
            return 0.0
        if caller is not None:
            stored = await store.at(record_key(call.subject.tenant, caller.sub, task_id))
        else:
            stored = await store.find(call.subject.tenant, task_id)
        if stored is None or stored.record.status != "working":
            return 0.0
        if call.subject.kind is Kind.CALL and stored.record.server != call.subject.names[0]:
            return 0.0
        call.deadline = call.started + call.envelope.timeout_ms / 1000
        return max(0.001, (stored.record.expires_ms - self._service.bus.server_now_ms()) / 1000)

    async def follower(self, call: Call, task_id: str) -> CallerContext | None:
        """Whose task follows a server's task.

        Args:
            call: a request about the server's task that names ours in ``Mesh-Task``.
            task_id: the server's own id.

        Returns:
            The submitter; None = no task of ours follows that one.

        Raises:
            MeshError: no answer from the broker.
        """
        if self._store is None:
            return None
        tenant, own = call.subject.tenant, call.headers.get(Header.TASK, "")
        stored = await self._store.find(tenant, own) if is_task_id(own) else None
        if stored is None or stored.record.upstream != task_id:
            return None
        record = stored.record
        if record.server != call.subject.names[0]:
            return None
        return CallerContext(
            tid=tenant, sub=record.principal, roles=(), exp=0, iss=self._service.instance
        )

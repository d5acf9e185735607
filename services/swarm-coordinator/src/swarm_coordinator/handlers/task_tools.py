"""What the tools about tasks do."""

import msgspec

from swarm_coordinator.core import decide
from swarm_coordinator.core.arguments import orchestrate_of
from swarm_coordinator.core.state import TaskState
from swarm_coordinator.core.views import PlanError
from swarm_coordinator.handlers import task_schemas as schemas
from swarm_coordinator.handlers.answers import bad, iso
from swarm_coordinator.handlers.finding import last_task, no_task
from swarm_coordinator.handlers.paging import paged
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.schemas import LIST_DEFAULT
from swarm_coordinator.handlers.submitting import brought, ended, submit, submitted
from swarm_coordinator.handlers.task_history import Kept, kept
from swarm_coordinator.handlers.task_progress import StepShown, saying, steps_running
from swarm_coordinator.handlers.task_records import Orchestrated, failure_of
from swarm_coordinator.handlers.task_views import (
    PhaseShown,
    Progress,
    connections,
    coordination_of,
    estimated_s,
    failures_of,
    outline,
    phases_of,
    progress_of,
    team_of,
    usage_of,
    votes_of,
)
from swarm_coordinator.handlers.toolset import Answer, FailedTask, Tool

__all__ = ["TOOLS"]

NOT_ENDED_RETRY_MS = 1_000


# Giving


async def _orchestrate(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    try:
        asked = orchestrate_of(arguments, owner.state.config)
    except PlanError as error:
        raise bad(error.where, error.message) from None
    if asked.dry_run:
        planned = decide.plan_for(owner.state, asked.spec)
        plan = outline(owner.state, planned.plan, planned.team)
        return Orchestrated(
            task_id=None,
            swarm_id=owner.state.swarm,
            status="planned",
            assigned_agents=team_of(owner.state, asked.spec, planned.plan, planned.team),
            orchestration_plan=plan,
            coordination=coordination_of(asked.spec.coordination),
            estimated_completion=estimated_s(plan),
            mcp_connections=connections(owner.state),
            warnings=(*asked.warnings, *planned.plan.warnings),
        )
    task = await submit(owner, caller, asked.spec, asked.idempotency, wait=asked.wait)
    answer = await submitted(owner, caller, task, wait=asked.wait)
    state = owner.state.tasks.get(task)
    planning = () if state is None else state.plan.warnings
    return msgspec.structs.replace(answer, warnings=(*asked.warnings, *planning))


# Asking


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    task_id: str | None = None
    fresh: bool = False
    wait: bool = False
    reason: str | None = None


class _Status(Answer, frozen=True, kw_only=True):
    task_id: str
    swarm_id: str
    status: str
    message: str | None
    progress: Progress
    steps: tuple[StepShown, ...]
    phases: tuple[PhaseShown, ...]
    failures: list[dict[str, object]]
    created_at: str
    updated_at: str
    assigned_agents: tuple[str, ...]
    usage: dict[str, object]
    requests: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET
    partial: bool | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    votes: dict[str, object] | msgspec.UnsetType = msgspec.UNSET


_ASKED = msgspec.json.Decoder(_Asked)


async def _status(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _ASKED.decode(arguments)
    task = _found(owner, caller, asked.task_id or "")
    if task is None:
        return _of_kept(await kept(owner, caller.principal, asked.task_id or ""))
    if asked.fresh:
        await owner.recorded(task.id)
    # State and result are read together: a task may end during a wait.
    result = await brought(owner, task)
    completed = task.status == "completed"
    return _Status(
        task_id=task.id,
        swarm_id=owner.state.swarm,
        status=task.status,
        message=None if task.ended and not task.message else _saying(owner, task),
        progress=progress_of(task),
        steps=steps_running(owner.state, task, owner.reported),
        phases=phases_of(task),
        failures=failures_of(task),
        created_at=iso(task.created_ms),
        updated_at=iso(max(task.updated_ms, task.created_ms)),
        assigned_agents=task.team,
        usage=usage_of(task),
        requests=(
            {key: one.request for key, one in task.requests.items()}
            if task.requests
            else msgspec.UNSET
        ),
        partial=task.partial if completed else msgspec.UNSET,
        result=result if completed else msgspec.UNSET,
        votes=votes_of(task) or msgspec.UNSET,
    )


def _saying(owner: Owner, task: TaskState) -> str:
    return saying(owner.state, task, owner.reported)


def _found(owner: Owner, caller: Caller, wanted: str) -> TaskState | None:
    """The task; None = the state has no such id (any more).

    Raises:
        Refusal: no id was given, and there is no task.
    """
    if wanted:
        return owner.state.tasks.get(wanted)
    task = last_task(owner.state, caller.principal)
    if task is None:
        raise no_task(owner.state, "")
    return task


def _of_kept(past: Kept) -> _Status:
    completed = past.status == "completed"
    return _Status(
        task_id=past.id,
        swarm_id=past.swarm,
        status=past.status,
        message=past.message or None,
        progress=Progress(done=0, total=None),
        steps=(),
        phases=(),
        failures=past.failures,
        created_at=iso(past.created_ms),
        updated_at=iso(past.updated_ms),
        assigned_agents=(),
        usage={},
        partial=past.partial if completed else msgspec.UNSET,
        result=past.result if completed else msgspec.UNSET,
        votes=past.votes or msgspec.UNSET,
        warnings=("the task ended long ago: its steps are forgotten",),
    )


class _Result(Answer, frozen=True, kw_only=True):
    task_id: str
    swarm_id: str
    result: msgspec.Raw | None
    partial: bool
    failures: list[dict[str, object]]
    votes: dict[str, object]
    status: str = "completed"


async def _result(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _ASKED.decode(arguments)
    task = _found(owner, caller, asked.task_id or "")
    if task is None:
        past = await kept(owner, caller.principal, asked.task_id or "")
        if past.error is not None:
            raise FailedTask(past.error)
        return _Result(
            task_id=past.id,
            swarm_id=past.swarm,
            result=past.result,
            partial=past.partial,
            failures=past.failures,
            votes=past.votes,
        )
    if asked.wait:
        task = await ended(owner, caller, task)
    if not task.ended:
        raise FailedTask(
            {
                "code": "task",
                "reason": "not_ended",
                "message": f"the task is {task.status}",
                "retryable": True,
                "outcome": "not_executed",
                "retryAfterMs": NOT_ENDED_RETRY_MS,
                "taskId": task.id,
                "swarmId": owner.state.swarm,
                "progress": progress_of(task),
            }
        )
    if task.status != "completed":
        raise FailedTask(failure_of(owner.state, task))
    return _Result(
        task_id=task.id,
        swarm_id=owner.state.swarm,
        result=await brought(owner, task),
        partial=task.partial,
        failures=failures_of(task),
        votes=votes_of(task),
    )


# Ending


class _Cancelled(Answer, frozen=True, kw_only=True):
    task_id: str
    swarm_id: str
    status: str
    cancelled: bool
    steps_running: int


async def _cancel(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _ASKED.decode(arguments)
    task = _found(owner, caller, asked.task_id or "")
    if task is None:
        past = await kept(owner, caller.principal, asked.task_id or "")
        return _Cancelled(
            task_id=past.id,
            swarm_id=past.swarm,
            status=past.status,
            cancelled=False,
            steps_running=0,
        )
    before = task.status
    reason = asked.reason or f"cancelled by {caller.principal}"
    events = decide.cancel(owner.state, task.id, reason, owner.now_ms())
    if events:
        await owner.commit(events)
        await owner.recorded(task.id)
    return _Cancelled(
        task_id=task.id,
        swarm_id=owner.state.swarm,
        status=task.status,
        cancelled=bool(events) and before not in {"cancelling", "cancelled"},
        steps_running=task.leaving + task.running,
    )


# Listing


class _List(msgspec.Struct, frozen=True):
    status: str | None = None
    limit: int = LIST_DEFAULT
    cursor: str | None = None


class _Entry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    task_id: str
    description: str
    status: str
    priority: str
    progress: Progress
    message: str
    created_at: str
    updated_at: str


class _Tasks(Answer, frozen=True, kw_only=True):
    swarm_id: str
    tasks: tuple[_Entry, ...]
    count: int
    cursor: str | msgspec.UnsetType = msgspec.UNSET


_LIST = msgspec.json.Decoder(_List)
DESCRIPTION_CHARS = 200


async def _list(owner: Owner, caller: Caller, arguments: msgspec.Raw) -> Answer:
    asked = _LIST.decode(arguments)
    newest_first = [
        task
        for task in reversed(owner.state.tasks.values())
        if task.principal == caller.principal and asked.status in {None, task.status}
    ]
    page, cursor = paged(newest_first, lambda task: task.id, asked.cursor, asked.limit)
    entries = tuple(
        _Entry(
            task_id=task.id,
            description=task.spec.description[:DESCRIPTION_CHARS],
            status=task.status,
            priority=task.spec.priority,
            progress=progress_of(task),
            message=_saying(owner, task),
            created_at=iso(task.created_ms),
            updated_at=iso(max(task.updated_ms, task.created_ms)),
        )
        for task in page
    )
    return _Tasks(swarm_id=owner.state.swarm, tasks=entries, count=len(entries), cursor=cursor)


TOOLS = (
    Tool(schemas.TASK_ORCHESTRATE, on_owner=_orchestrate, warns=True),
    Tool(schemas.TASK_STATUS, on_owner=_status),
    Tool(schemas.TASK_RESULT, on_owner=_result),
    Tool(schemas.TASK_CANCEL, on_owner=_cancel),
    Tool(schemas.TASK_LIST, on_owner=_list),
)

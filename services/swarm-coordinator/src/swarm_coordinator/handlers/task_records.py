"""Swarm tasks as answers of tools and as records of MCP tasks: both tell the same, by the same id.

The owner writes ``record_of`` into ``mesh_tasks`` whenever a task has changed, and with its end
``result_of``: the result of the call that made the task, whichever tool that was.
"""

import msgspec

from mcp_proto.contracts.tasks import TaskHeld, TaskRecord
from mcp_proto.errors import Outcome
from mcp_proto.names import SWARM_SERVER
from swarm_coordinator.core.state import SwarmState, TaskState
from swarm_coordinator.handlers.answers import call_result, failed_result
from swarm_coordinator.handlers.task_progress import Reports, looked_at
from swarm_coordinator.handlers.task_views import (
    AgentShown,
    Connections,
    Outline,
    connections,
    coordination_of,
    estimated_s,
    failures_of,
    outline,
    team_of,
    votes_of,
)
from swarm_coordinator.handlers.toolset import Answer

__all__ = [
    "POLL_MS",
    "TASK_CODE",
    "Orchestrated",
    "failure_of",
    "mcp_status",
    "orchestrated",
    "outcome_of",
    "record_of",
    "result_of",
]

KEPT_MS = 7 * 86_400_000
"""A record outlives the longest its task may take by a week."""
POLL_MS = 500
TASK_CODE = "task"
"""``error.code`` of a task that ended without a result; no old code stands for it."""
_STATUSES = {
    "queued": "working",
    "running": "working",
    "cancelling": "working",
    "waiting": "input_required",
    "completed": "completed",
    "failed": "completed",
    "cancelled": "cancelled",
}
_encode = msgspec.json.Encoder().encode


class Orchestrated(Answer, frozen=True, kw_only=True):
    """Answer of ``task_orchestrate`` and ``agent_task``, and the result of the MCP task."""

    task_id: str | None
    swarm_id: str
    status: str
    assigned_agents: tuple[AgentShown, ...]
    orchestration_plan: Outline
    coordination: dict[str, object]
    estimated_completion: float | None
    mcp_connections: Connections
    agent_id: str | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType | None = msgspec.UNSET
    partial: bool | msgspec.UnsetType = msgspec.UNSET
    votes: dict[str, object] | msgspec.UnsetType = msgspec.UNSET
    failures: list[dict[str, object]] | msgspec.UnsetType = msgspec.UNSET


def orchestrated(
    state: SwarmState, task: TaskState, result: msgspec.Raw | None = None
) -> Orchestrated:
    """A task as the call that made it answers.

    Args:
        state: of its swarm.
        task: the task.
        result: of a completed one.
    """
    plan = outline(state, task.plan, task.team)
    answer = Orchestrated(
        task_id=task.id,
        swarm_id=state.swarm,
        status=task.status if task.ended else "orchestrating",
        assigned_agents=team_of(state, task.spec, task.plan, task.team),
        orchestration_plan=plan,
        coordination=coordination_of(task.spec.coordination),
        estimated_completion=None if task.ended else estimated_s(plan),
        mcp_connections=connections(state),
        agent_id=task.team[0] if len(task.team) == 1 else msgspec.UNSET,
    )
    if task.status != "completed":
        return answer
    return msgspec.structs.replace(
        answer,
        result=result,
        partial=task.partial,
        votes=votes_of(task),
        failures=failures_of(task),
    )


def outcome_of(task: TaskState) -> Outcome:
    """What a task that failed may have had as effects."""
    if any(failure.outcome == "unknown" for failure in task.failures):
        return Outcome.UNKNOWN
    begun = any(step.begun for step in task.steps.values())
    return Outcome.EXECUTED if begun else Outcome.NOT_EXECUTED


def failure_of(state: SwarmState, task: TaskState) -> dict[str, object]:
    """``error`` of a task that ended without a result."""
    return {
        "code": TASK_CODE,
        "reason": task.reason or task.status,
        "message": task.message or f"the task was {task.status}",
        "retryable": task.reason in {"lost", "timeout"},
        "outcome": outcome_of(task).value,
        "taskId": task.id,
        "swarmId": state.swarm,
        "status": task.status,
        "failures": failures_of(task),
        "votes": votes_of(task),
    }


def mcp_status(task: TaskState) -> str:
    """Status as an MCP task; a task that failed is a completed call with an error."""
    return _STATUSES[task.status]


def result_of(state: SwarmState, task: TaskState, result: bytes = b"") -> bytes:
    """The result of the call, once a task is ``completed`` or ``failed``; b"" otherwise.

    Args:
        state: of its swarm.
        task: the task.
        result: what it brought, as JSON, where it lies in ``result_ref``; else left out.
    """
    if task.status == "completed":
        brought = msgspec.Raw(result or bytes(task.result) or b"null")
        answer = orchestrated(state, task, brought)
        return call_result(_encode(msgspec.structs.replace(answer, timestamp=task.ended_ms)))
    if task.status == "failed":
        return failed_result(
            _encode({"error": failure_of(state, task), "timestamp": task.ended_ms})
        )
    return b""


def record_of(
    state: SwarmState,
    task: TaskState,
    *,
    tool: str = "task_orchestrate",
    reports: Reports = lambda _item: None,
) -> TaskRecord:
    """The record of a task, without its result.

    Args:
        state: of its swarm.
        task: the task.
        tool: that made it.
        reports: what agents told of its steps.
    """
    status = mcp_status(task)
    now, told_ms = looked_at(state, task, reports)
    works = status == "working"
    return TaskRecord(
        id=task.id,
        tenant=state.tenant,
        principal=task.principal,
        server=SWARM_SERVER,
        tool=tool,
        status=status,
        created_ms=task.created_ms,
        updated_ms=max(task.updated_ms, task.created_ms, told_ms),
        ttl_ms=KEPT_MS + max(0, task.deadline_ms - task.created_ms),
        poll_ms=POLL_MS,
        message=now.message,
        progress=now.progress if works else None,
        total=now.total if works else None,
        is_error=task.status == "failed",
        held=_held(task) if status == "input_required" else None,
        upstream=state.swarm,
    )


def _held(task: TaskState) -> TaskHeld:
    return TaskHeld(
        params=msgspec.Raw(b"{}"),
        requests={key: request.request for key, request in task.requests.items()},
        names={key: key for key in task.requests},
    )

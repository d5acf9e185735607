"""A task is given to a swarm: planned, granted, stored, and only then answered."""

from typing import cast

import msgspec

from mcp_proto.contracts.tasks import TaskRecord
from swarm_coordinator.core import decide
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state import TaskState
from swarm_coordinator.handlers.agent_spawning import Wanted, add, all_started, settled
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.task_records import Orchestrated, failure_of, orchestrated
from swarm_coordinator.handlers.toolset import FailedTask

__all__ = ["brought", "ended", "submit", "submitted", "told"]

ANSWER_S = 0.2
"""Kept of the caller's time for the answer itself."""
AUTO_SPAWN_S = 10.0
"""Longest wait for one agent that a task needs and that is spawned for it."""
GRANT_MARGIN_MS = 60_000
"""A grant outlives its task a little: attempts that end late still report their cancels."""


async def submit(owner: Owner, caller: Caller, spec: TaskSpec, idempotency: str) -> str:
    """Store a task; a repeat under the same key gives the task that is there.

    Returns:
        Its id. Its record is in ``mesh_tasks``.

    Raises:
        Refusal: as ``decide.submit``.
    """
    repeat = decide.repeated(owner.state, caller.principal, idempotency, spec)
    if repeat:
        return repeat
    await _covered(owner, spec)
    task = owner.new_id("task")
    deadline_ms = owner.now_ms() + spec.timeout * 1000
    grant = await owner.delegate(caller, task, deadline_ms + GRANT_MARGIN_MS)
    # Another call with the same key may have come meanwhile: nothing lies between this and commit.
    repeat = decide.repeated(owner.state, caller.principal, idempotency, spec)
    if repeat:
        return repeat
    events = decide.submit(
        owner.state,
        caller.principal,
        spec,
        task=task,
        grant=grant,
        idempotency=idempotency,
        now_ms=owner.now_ms(),
    )
    await owner.commit(events)
    await owner.recorded(task)
    return task


async def _covered(owner: Owner, spec: TaskSpec) -> None:
    """See that the task can be planned before a grant is made; spawn what it lacks if it may.

    Raises:
        Refusal: as ``decide.plan_for``.
    """
    try:
        await _planned(owner, spec)
    except Refusal as refusal:
        if not spec.auto_spawn or refusal.reason != "missing_capabilities":
            raise
        for name in _lacking(refusal):
            # A host that has no such type refuses it: nothing is spawned that could not do it.
            agent, _ = await add(owner, Wanted(type=name, capabilities=(name,)))
            await settled(owner, agent, AUTO_SPAWN_S)
        decide.plan_for(owner.state, spec)


async def _planned(owner: Owner, spec: TaskSpec) -> None:
    """As ``decide.plan_for``; agents that start just now are given a moment to be there."""
    try:
        decide.plan_for(owner.state, spec)
    except Refusal as refusal:
        if refusal.reason not in _LACKING or not await all_started(owner):
            raise
        decide.plan_for(owner.state, spec)


_LACKING = frozenset(("missing_capabilities", "plan"))
"""What may be for the lack of an agent."""


def _lacking(refusal: Refusal) -> list[str]:
    found = refusal.data.get("missingCapabilities")
    return [str(one) for one in cast("list[object]", found)] if isinstance(found, list) else []


async def submitted(owner: Owner, caller: Caller, task: str, *, wait: bool) -> Orchestrated:
    """What the call that gave a task answers.

    Raises:
        FailedTask: it ended without a result.
        Refusal: it is a repeat of a task whose state is forgotten.
    """
    state = owner.state.tasks.get(task)
    if state is None:
        raise _forgotten(task, await owner.task_record(caller.principal, task))
    if wait:
        state = await ended(owner, caller, state)
    return await told(owner, state)


async def ended(owner: Owner, caller: Caller, task: TaskState) -> TaskState:
    """A task once it has ended, or the caller's time is nearly over."""
    if task.ended:
        return task
    return await owner.ended(task.id, max(0.0, caller.deadline_s - owner.monotonic() - ANSWER_S))


async def told(owner: Owner, task: TaskState) -> Orchestrated:
    """The answer about a task as it is.

    Raises:
        FailedTask: it ended without a result.
    """
    if task.ended and task.status != "completed":
        raise FailedTask(failure_of(owner.state, task))
    return orchestrated(owner.state, task, await brought(owner, task))


async def brought(owner: Owner, task: TaskState) -> msgspec.Raw | None:
    """What a completed task brought, as JSON."""
    if task.status != "completed":
        return None
    if task.result_ref:
        return msgspec.Raw(await owner.load(task.result_ref))
    return task.result if memoryview(task.result).nbytes else None


def _forgotten(task: str, record: TaskRecord | None) -> Refusal:
    how = "" if record is None else f" ({record.status})"
    return Refusal(
        "swarm",
        "not_found",
        f"the task of this idempotency key has ended{how}; task_status may still know it",
        taskId=task,
    )

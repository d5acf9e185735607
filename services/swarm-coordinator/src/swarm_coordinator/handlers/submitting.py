"""A task is given to a swarm: planned, granted, stored, and only then answered."""

import asyncio
from collections.abc import Sequence

import msgspec

from mcp_proto.contracts.tasks import TaskRecord
from swarm_coordinator.core import decide
from swarm_coordinator.core.auto_spawning import Lacking, lacking
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state import TaskState
from swarm_coordinator.handlers.agent_spawning import Wanted, add, all_started, settled
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.task_progress import followed
from swarm_coordinator.handlers.task_records import Orchestrated, failure_of, orchestrated
from swarm_coordinator.handlers.toolset import FailedTask

__all__ = ["brought", "ended", "submit", "submitted", "told"]

ANSWER_S = 0.2
"""Kept of the caller's time for the answer itself."""
AUTO_SPAWN_S = 10.0
"""Longest wait for one agent that a task needs and that is spawned for it."""
GRANT_MARGIN_MS = 60_000
"""A grant outlives its task a little: attempts that end late still report their cancels."""


async def submit(
    owner: Owner, caller: Caller, spec: TaskSpec, idempotency: str, *, wait: bool
) -> str:
    """Store a task; a repeat under the same key gives the task that is there.

    Returns:
        Its id. Its record is in ``mesh_tasks``, with ``wait`` once ``submitted`` answers.

    Raises:
        Refusal: as ``decide.submit``.
    """
    repeat = decide.repeated(owner.state, caller.principal, idempotency, spec)
    if repeat:
        return repeat
    planned = await _covered(owner, spec)
    sequence = owner.state.sequence
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
        planned=planned if owner.state.sequence == sequence else None,
    )
    await owner.commit(events)
    if not wait:
        await owner.recorded(task)
    return task


async def _covered(owner: Owner, spec: TaskSpec) -> decide.Planned:
    """See that the task can be planned before a grant is made; spawn what it lacks if it may.

    Raises:
        Refusal: as ``decide.plan_for``.
    """
    try:
        return await _planned(owner, spec)
    except Refusal as refusal:
        if not spec.auto_spawn or refusal.reason != "missing_capabilities":
            raise
        types = await owner.offers(local=spec.execution.mode == "local")
        await _spawned(owner, spec, lacking(owner.state, spec, types, refusal))
        return decide.plan_for(owner.state, spec)


async def _spawned(owner: Owner, spec: TaskSpec, wanted: Sequence[Lacking]) -> None:
    """Start agents side by side; when one of them cannot be, none of them stays.

    Raises:
        Refusal: of the first that could not be started.
    """
    local = spec.execution.mode == "local"
    agents: list[str] = []
    try:
        for one in wanted:
            asked = Wanted(type=one.type, capabilities=one.capabilities, local=local)
            agents.append((await add(owner, asked))[0])
        done = await asyncio.gather(
            *(settled(owner, agent, AUTO_SPAWN_S) for agent in agents), return_exceptions=True
        )
        for one in done:
            if isinstance(one, BaseException):
                raise one
    except Refusal:
        reason = "a task that it was spawned for was refused"
        for agent in agents:
            events = decide.terminate(owner.state, agent, reason, owner.now_ms())
            await owner.commit(events)
        raise


async def _planned(owner: Owner, spec: TaskSpec) -> decide.Planned:
    """As ``decide.plan_for``; agents that start just now are given a moment to be there."""
    try:
        return decide.plan_for(owner.state, spec)
    except Refusal as refusal:
        if refusal.reason not in _LACKING or not await all_started(owner):
            raise
        return decide.plan_for(owner.state, spec)


_LACKING = frozenset(("missing_capabilities", "plan"))
"""What may be for the lack of an agent."""


async def submitted(owner: Owner, caller: Caller, task: str, *, wait: bool) -> Orchestrated:
    """What the call that gave a task answers: who does not wait gets its id, whatever became of it.

    Raises:
        FailedTask: waited for, it ended without a result.
        Refusal: it is a repeat of a task whose state is forgotten.
    """
    state = owner.state.tasks.get(task)
    if state is None:
        raise _forgotten(task, await owner.task_record(caller.principal, task))
    if not wait:
        return orchestrated(owner.state, state, await brought(owner, state))
    state = await ended(owner, caller, state)
    await owner.known(task)
    return await told(owner, state)


async def ended(owner: Owner, caller: Caller, task: TaskState) -> TaskState:
    """A task once it has ended, or the caller's time is nearly over.

    Raises:
        Asks: it asks what the caller's client can be asked.
    """
    if task.ended:
        return task
    left_s = max(0.0, caller.deadline_s - owner.monotonic() - ANSWER_S)
    if caller.tell is not None or memoryview(caller.client).nbytes:
        return await followed(owner, caller, task, left_s)
    return await owner.ended(task.id, left_s)


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

"""How an attempt that ended badly changes its step: the decisions that many inputs share."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import msgspec

from mcp_proto.contracts.swarm import StepError, Usage
from swarm_coordinator.core.events import (
    Event,
    RunEnded,
    StepFailed,
    StepRetry,
    StepReturned,
    StepsCancelled,
)
from swarm_coordinator.core.retry import after_failure, after_loss
from swarm_coordinator.core.state import AgentState, Run, StepState, SwarmState, TaskState

__all__ = ["cancelled", "failed", "find", "losses", "returned"]


def find(state: SwarmState, item: str) -> tuple[TaskState, StepState | None] | None:
    """Task and step of an item ``{task}.{step}-{attempt}``; None = no such task."""
    name, _, rest = item.partition(".")
    task = state.tasks.get(name)
    if task is None:
        return None
    return task, task.steps.get(rest.rpartition("-")[0])


def failed(
    task: TaskState,
    step: StepState,
    run: Run,
    error: StepError,
    now_ms: int,
    seed: int,
    *,
    gone: AbstractSet[str] = frozenset(),
    usage: Usage | None = None,
    stop: bool = False,
) -> Event:
    """An attempt failed: the other one goes on, or the next one follows, or the step fails.

    ``stop`` = it may still run, and its host is told to end it. ``gone`` = attempts that ended
    earlier in the same decision.
    """
    if _another(step, run, gone):
        return _run_ended(task, step, run, error, now_ms, usage=usage, stop=stop)
    due = after_failure(step, error, run.item, now_ms, seed)
    if due is None:
        return _final(task, step, run, error, now_ms, usage=usage, stop=stop)
    return StepRetry(
        at=now_ms,
        task=task.id,
        step=step.id,
        item=run.item,
        agent=run.agent,
        error=error,
        due_ms=due,
        usage=usage,
        stop=stop,
    )


def _another(step: StepState, run: Run, gone: AbstractSet[str]) -> bool:
    return any(one is not run and one.item not in gone for one in step.runs)


def returned(
    task: TaskState,
    step: StepState,
    run: Run,
    error: StepError,
    now_ms: int,
    *,
    gone: AbstractSet[str] = frozenset(),
) -> Event:
    """An attempt was lost, rejected or refused as busy: it goes out again, or the step fails."""
    if _another(step, run, gone):
        return _run_ended(task, step, run, error, now_ms)
    due = after_loss(step, error, now_ms)
    if due is None:
        return _final(task, step, run, error, now_ms)
    return StepReturned(
        at=now_ms,
        task=task.id,
        step=step.id,
        item=run.item,
        agent=run.agent,
        error=error,
        due_ms=due,
        excluded=error.type == "rejected",
    )


def _run_ended(
    task: TaskState,
    step: StepState,
    run: Run,
    error: StepError,
    now_ms: int,
    *,
    usage: Usage | None = None,
    stop: bool = False,
) -> RunEnded:
    return RunEnded(
        at=now_ms,
        task=task.id,
        step=step.id,
        item=run.item,
        agent=run.agent,
        error=error,
        usage=usage,
        stop=stop,
    )


def _final(
    task: TaskState,
    step: StepState,
    run: Run,
    error: StepError,
    now_ms: int,
    *,
    usage: Usage | None = None,
    stop: bool = False,
) -> StepFailed:
    if error.outcome == "not_executed" and step.begun:
        # Of the step it is said, and an attempt before this one may have had effects.
        error = msgspec.structs.replace(error, outcome="unknown")
    return StepFailed(
        at=now_ms,
        task=task.id,
        step=step.id,
        item=run.item,
        agent=run.agent,
        error=error,
        usage=usage,
        stop=stop,
    )


def losses(
    state: SwarmState, agent: AgentState, why: str, now_ms: int, gone: set[str] | None = None
) -> list[Event]:
    """What an agent had when it was lost: each attempt goes to another one, or its step fails.

    ``gone`` collects the attempts, for when several agents are lost in one decision.
    """
    gone = set() if gone is None else gone
    events: list[Event] = []
    for item in agent.items:
        found = find(state, item)
        step = found[1] if found is not None else None
        run = next((one for one in step.runs if one.item == item), None) if step else None
        if found is None or step is None or run is None or item in gone:
            continue
        error = StepError(
            type="lost",
            message=f"{agent.name or agent.id} was lost: {why}",
            retryable=True,
            outcome="unknown",
        )
        events.append(returned(found[0], step, run, error, now_ms, gone=gone))
        gone.add(item)
    return events


def cancelled(
    task: TaskState,
    steps: Iterable[StepState],
    reason: str,
    now_ms: int,
    *,
    skipped: bool = False,
) -> list[Event]:
    """End the open ones of these steps; their attempts are cancelled."""
    ending = [step for step in steps if not step.ended]
    if not ending:
        return []
    return [
        StepsCancelled(
            at=now_ms,
            task=task.id,
            steps=tuple(step.id for step in ending),
            items=tuple(run.item for step in ending for run in step.runs),
            reason=reason,
            skipped=skipped,
        )
    ]

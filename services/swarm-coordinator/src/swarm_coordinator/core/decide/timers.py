"""What is due."""

from collections.abc import Callable

from mcp_proto.contracts.swarm import StepError
from swarm_coordinator.core.agenda import Timer
from swarm_coordinator.core.decide.attempts import failed, losses
from swarm_coordinator.core.decide.endings import fail_task
from swarm_coordinator.core.decide.results import breaker
from swarm_coordinator.core.decide.stragglers import stragglers
from swarm_coordinator.core.events import (
    AgentTerminated,
    Event,
    ItemsGone,
    MailDropped,
    StepFailed,
    StepReady,
    TaskForgotten,
)
from swarm_coordinator.core.schedule_queues import hopeless
from swarm_coordinator.core.schedule_timers import first
from swarm_coordinator.core.state import Run, StepState, SwarmState, TaskState

__all__ = ["next_due", "tick"]


def tick(state: SwarmState, now_ms: int, seed: int) -> list[Event]:
    """The first thing that is due; fold it and ask again until there is nothing (``turn.take``).

    Time-outs, retries, ends of waits, old mail and tasks; stragglers.
    """
    while (timer := first(state)) is not None and timer[0] <= now_ms:
        if events := _HANDLERS[timer[2]](state, timer, now_ms, seed):
            return events
        state.agenda.drop_timer()
    return stragglers(state, now_ms)


def next_due(state: SwarmState) -> int | None:
    """When ``tick`` has something to do at the earliest (Unix ms, may be past); None = never."""
    timer = first(state)
    looks = state.agenda.straggling.values()
    dues = [*((timer[0],) if timer is not None else ()), *((min(looks),) if looks else ())]
    return min(dues, default=None)


def _step(state: SwarmState, timer: Timer, now_ms: int, seed: int) -> list[Event]:
    task = state.tasks[timer[3]]
    step = task.steps[timer[4]]
    if step.status == "retrying":
        return [StepReady(at=now_ms, task=task.id, steps=(step.id,))]
    if step.status == "ready":
        waited = (now_ms - step.ready_ms) // 1000
        return [_never_sent(task, step, "timeout", f"it waited {waited} s in the queue", now_ms)]
    run = next(one for one in step.runs if one.due_ms == timer[0])
    return _timed_out(state, task, step, run, now_ms, seed)


def _timed_out(
    state: SwarmState, task: TaskState, step: StepState, run: Run, now_ms: int, seed: int
) -> list[Event]:
    error = StepError(
        type="timeout",
        message=f"no result after {(now_ms - run.sent_ms) / 1000:.0f} s",
        retryable=True,
        outcome="unknown",
    )
    agent = state.agents.get(run.agent)
    events = [failed(task, step, run, error, now_ms, seed, stop=True)]
    return [*events, *(breaker(agent, 0, now_ms) if agent is not None else ())]


def _never_sent(
    task: TaskState, step: StepState, kind: str, message: str, now_ms: int
) -> StepFailed:
    outcome = "unknown" if step.begun else "not_executed"
    error = StepError(type=kind, message=message, retryable=False, outcome=outcome)
    return StepFailed(at=now_ms, task=task.id, step=step.id, error=error)


def _unplaced(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    task = state.tasks[timer[3]]
    step = task.steps[timer[4]]
    if step.excluded:
        return [_never_sent(task, step, "rejected", "every agent that may do it refused", now_ms)]
    message = "every agent that may do it is gone"
    if not hopeless(state, task, step):
        message = "no agent that may do it came back"
    return [_never_sent(task, step, "lost", message, now_ms)]


def _task(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    task = state.tasks[timer[3]]
    if task.status == "cancelling":
        return []
    budget = task.spec.budget.wall_s
    if budget and task.deadline_ms == task.created_ms + budget * 1000:
        return fail_task(task, "budget", f"its {budget} s of wall time are over", now_ms)
    return fail_task(task, "timeout", f"it took longer than {task.spec.timeout} s", now_ms)


def _keep(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    task = state.tasks[timer[3]]
    return [] if task.leaving else [TaskForgotten(at=now_ms, task=task.id)]


def _spawn(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    agent = state.agents[timer[3]]
    return [AgentTerminated(at=now_ms, agent=agent.id, reason="its process never reported")]


def _lost(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    agent = state.agents[timer[3]]
    why = "it was lost and has not come back"
    return [
        *losses(state, agent, why, now_ms),
        AgentTerminated(at=now_ms, agent=agent.id, reason=why),
    ]


def _leave(_state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    why = "its host said nothing of it in time"
    return [ItemsGone(at=now_ms, agent=timer[3], items=(timer[4],), reason=why)]


def _breaker(_state: SwarmState, _timer: Timer, _now_ms: int, _seed: int) -> list[Event]:
    return []  # it was set so that somebody looks at the queues again


def _mail(state: SwarmState, timer: Timer, now_ms: int, _seed: int) -> list[Event]:
    agent = state.agents[timer[3]]
    old = tuple(held.mail.id for held in agent.mailbox if held.until_ms <= now_ms)
    return [MailDropped(at=now_ms, agent=agent.id, ids=old, reason="old")]


_Handler = Callable[[SwarmState, Timer, int, int], list[Event]]
_HANDLERS: dict[str, _Handler] = {
    "step": _step,
    "unplaced": _unplaced,
    "task": _task,
    "keep": _keep,
    "spawn": _spawn,
    "lost": _lost,
    "leave": _leave,
    "breaker": _breaker,
    "mail": _mail,
}

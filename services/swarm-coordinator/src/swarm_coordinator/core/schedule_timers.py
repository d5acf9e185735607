"""Which timers still mean something. Kinds, and whose: see ``_HOLDS``."""

from collections.abc import Callable

from swarm_coordinator.core.agenda import Timer
from swarm_coordinator.core.limits import (
    CANCEL_GRACE_MS,
    LOST_KEPT_MS,
    SPAWN_MS,
    TASK_KEPT_MS,
)
from swarm_coordinator.core.state import SwarmState

__all__ = ["compact", "first", "holds"]


def holds(state: SwarmState, timer: Timer) -> bool:
    """Whether what a timer was set for is still so."""
    return _HOLDS[timer[2]](state, timer)


def first(state: SwarmState) -> Timer | None:
    """The first timer that holds; those before it are dropped."""
    agenda = state.agenda
    while agenda.timers:
        timer = agenda.timers[0]
        if holds(state, timer):
            return timer
        agenda.drop_timer()
    return None


def compact(state: SwarmState) -> None:
    """Drop what does not hold: of attempts that ended in time, timers are left."""
    agenda = state.agenda
    agenda.keep_timers([timer for timer in agenda.timers if holds(state, timer)])


def _step(state: SwarmState, timer: Timer) -> bool:
    due, _, _, whose, which = timer
    task = state.tasks.get(whose)
    step = task.steps.get(which) if task is not None else None
    if step is None or task is None or task.ended:
        return False
    if step.status == "assigned":
        return any(run.due_ms == due for run in step.runs)
    return step.status in ("retrying", "ready") and step.due_ms == due


def _unplaced(state: SwarmState, timer: Timer) -> bool:
    return state.agenda.unplaced.get((timer[3], timer[4])) == timer[0]


def _task(state: SwarmState, timer: Timer) -> bool:
    task = state.tasks.get(timer[3])
    return task is not None and task.deadline_ms == timer[0] and task.id in state.agenda.live


def _keep(state: SwarmState, timer: Timer) -> bool:
    task = state.tasks.get(timer[3])
    return task is not None and task.ended and task.ended_ms + TASK_KEPT_MS == timer[0]


def _spawn(state: SwarmState, timer: Timer) -> bool:
    agent = state.agents.get(timer[3])
    return (
        agent is not None
        and agent.status == "spawning"
        and not agent.external
        and agent.changed_ms + SPAWN_MS == timer[0]
    )


def _lost(state: SwarmState, timer: Timer) -> bool:
    agent = state.agents.get(timer[3])
    return (
        agent is not None and agent.status == "lost" and agent.changed_ms + LOST_KEPT_MS == timer[0]
    )


def _leave(state: SwarmState, timer: Timer) -> bool:
    agent = state.agents.get(timer[3])
    since = agent.leaving.get(timer[4]) if agent is not None else None
    return since is not None and since + CANCEL_GRACE_MS == timer[0]


def _breaker(state: SwarmState, timer: Timer) -> bool:
    agent = state.agents.get(timer[3])
    return agent is not None and agent.breaker_until_ms == timer[0]


def _mail(state: SwarmState, timer: Timer) -> bool:
    agent = state.agents.get(timer[3])
    return agent is not None and bool(agent.mailbox) and agent.mailbox[0].until_ms == timer[0]


_HOLDS: dict[str, Callable[[SwarmState, Timer], bool]] = {
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

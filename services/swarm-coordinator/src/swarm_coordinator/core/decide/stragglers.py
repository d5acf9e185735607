"""Slow steps of adaptive tasks are duplicated once: the first valid result counts."""

from statistics import median

from swarm_coordinator.core.events import Event, StepDuplicated
from swarm_coordinator.core.limits import (
    RUNNING_MAX,
    STRAGGLER_CHECK_MS,
    STRAGGLER_DONE_SHARE,
    STRAGGLER_FACTOR,
)
from swarm_coordinator.core.schedule import due_of, free_agents, pick
from swarm_coordinator.core.schedule_queues import eligible
from swarm_coordinator.core.state import PhaseState, StepState, SwarmState, TaskState

__all__ = ["stragglers"]


def stragglers(state: SwarmState, now_ms: int) -> list[Event]:
    """The next duplicate, of the phases that are due for a look."""
    looks = state.agenda.straggling
    for (name, phase), due in list(looks.items()):
        if due > now_ms:
            continue
        task = state.tasks.get(name)
        if task is None or task.ended or task.phases[phase].ended:
            del looks[name, phase]
            continue
        if event := _of_phase(state, task, task.phases[phase], now_ms):
            return [event]
        looks[name, phase] = now_ms + STRAGGLER_CHECK_MS
    return []


def _of_phase(state: SwarmState, task: TaskState, phase: PhaseState, now_ms: int) -> Event | None:
    steps = [task.steps[name] for name in phase.steps]
    done = [step.wall_ms for step in steps if step.status == "done" and step.wall_ms is not None]
    if task.status != "running" or not done or phase.open == 0:
        return None
    if len(done) < STRAGGLER_DONE_SHARE * len(steps) or state.agenda.running >= RUNNING_MAX:
        return None
    slow_ms = STRAGGLER_FACTOR * median(done)
    for step in steps:
        if _is_slow(step, slow_ms, now_ms) and _affordable(state, task, step):
            event = _duplicate(state, task, step, slow_ms, now_ms)
            if event is not None:
                return event
    return None


def _is_slow(step: StepState, slow_ms: float, now_ms: int) -> bool:
    return (
        step.status == "assigned"
        and len(step.runs) == 1
        and not step.asked
        and step.plan.idempotent
        and not step.plan.ballot
        and not step.former
        and now_ms - step.runs[0].sent_ms > slow_ms
    )


def _affordable(state: SwarmState, task: TaskState, step: StepState) -> bool:
    budget, spent = task.spec.budget, task.spent
    admitted = state.agenda.admitted.get(task.id, 0)
    if budget.messages and spent.messages + admitted >= budget.messages:
        return False
    tools = step.kind == "tool" and budget.tool_calls
    return not tools or spent.tool_calls + admitted < budget.tool_calls


def _duplicate(
    state: SwarmState, task: TaskState, step: StepState, slow_ms: float, now_ms: int
) -> Event | None:
    has_it = step.runs[0].agent
    others = {
        name: agent for name, agent in free_agents(state, now_ms)[0].items() if name != has_it
    }
    able = [others[name] for name in eligible(state, task, step) if name in others]
    if not able:
        return None
    agent = pick(task, step, able)
    took = now_ms - step.runs[0].sent_ms
    return StepDuplicated(
        at=now_ms,
        task=task.id,
        step=step.id,
        agent=agent.id,
        attempt=step.attempt + 1,
        due_ms=due_of(step, agent, now_ms),
        reason=f"{took / 1000:.1f} s is more than {slow_ms / 1000:.1f} s, twice the median",
    )

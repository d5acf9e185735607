"""Which ready step goes to which agent now."""

from collections.abc import Sequence

import msgspec

from mcp_proto.contracts.swarm import StepError
from swarm_coordinator.core.agenda import Entry, Lane
from swarm_coordinator.core.events import Event, StepAssigned, StepFailed
from swarm_coordinator.core.limits import ATTEMPT_GRACE_MS, RUNNING_MAX
from swarm_coordinator.core.schedule_queues import head
from swarm_coordinator.core.state import AgentState, StepState, SwarmState, TaskState
from swarm_coordinator.core.steps import bound
from swarm_coordinator.core.views import PlanError

__all__ = ["due_of", "free_agents", "payload_of", "pick", "schedule"]


def schedule(state: SwarmState, now_ms: int, seed: int) -> list[Event]:
    """The next assignment; fold it and ask again until there is none (``turn.take``).

    The step that ranks highest (class, raised by waiting; then age) among all that a free agent
    may do goes to the one of its free agents that the task's strategy prefers.
    """
    del seed  # nothing here is left to chance
    agenda = state.agenda
    if agenda.running >= RUNNING_MAX:
        return []
    free, kept_out = free_agents(state, now_ms)
    if not free and not kept_out:
        return []
    best: tuple[tuple[int, int, int], Entry] | None = None
    lane_of_best: Lane | None = None
    for names, lane in list(agenda.lanes.items()):
        if lane.agents.isdisjoint(free) and (len(names) > 1 or lane.agents.isdisjoint(kept_out)):
            continue
        found = head(state, lane, now_ms)
        if found is None:
            del agenda.lanes[names]
        elif best is None or found[0] > best[0]:
            best, lane_of_best = found, lane
    if best is None or lane_of_best is None:
        return []
    task = state.tasks[best[1][2]]
    able = [free[name] for name in lane_of_best.names if name in free]
    if not able:
        able = [kept_out[lane_of_best.names[0]]]
    step = task.steps[best[1][3]]
    return [_assign(task, step, pick(task, step, able), now_ms)]


def free_agents(
    state: SwarmState, now_ms: int
) -> tuple[dict[str, AgentState], dict[str, AgentState]]:
    """Agents with a free slot: those whose breaker is closed, and the others.

    A breaker sends work elsewhere; what nobody else may do is not held up by it.
    """
    free: dict[str, AgentState] = {}
    kept_out: dict[str, AgentState] = {}
    agents = state.agents
    for name in state.agenda.active:
        agent = agents[name]
        if agent.slots > len(agent.items) + len(agent.leaving):
            (free if agent.breaker_until_ms <= now_ms else kept_out)[name] = agent
    return free, kept_out


def pick(task: TaskState, step: StepState, able: Sequence[AgentState]) -> AgentState:
    """Of the agents that may do a step and are free, the one that the strategy prefers.

    ``sequential``: the first in order; ``parallel``: the emptiest; ``balanced`` and ``adaptive``:
    least (outstanding + 1) * average duration of the kind / slots, where an unknown duration
    counts as the mean of the known ones. Ties go by order.
    """
    if len(able) == 1 or task.spec.strategy == "sequential":
        return able[0]
    if task.spec.strategy == "parallel":
        return min(able, key=lambda agent: (agent.load + 1) / agent.slots)
    known = [mean for agent in able if (mean := agent.stats.duration_ms.get(step.kind))]
    usual = sum(known) / len(known) if known else 1.0

    def cost(agent: AgentState) -> float:
        duration = agent.stats.duration_ms.get(step.kind) or usual
        return (agent.load + 1) * duration / agent.slots

    return min(able, key=cost)


def due_of(step: StepState, agent: AgentState, now_ms: int) -> int:
    """When the owner gives up on an attempt sent now; the host ends it a little earlier."""
    timeout_s = step.plan.timeout_s or agent.timeout_s
    return now_ms + timeout_s * 1000 + ATTEMPT_GRACE_MS


def payload_of(task: TaskState, step: StepState) -> msgspec.Raw:
    """What an agent is given: the payload, completed with what the steps before it gave.

    Raises:
        PlanError: the outputs do not hold what is referred to.
    """
    if step.plan.takes == "nothing":
        return step.payload
    before = [task.steps[name] for name in step.plan.after]
    outputs = [one.output if bytes(one.output) else _NULL for one in before if one.status == "done"]
    return bound(step.plan, outputs)


_NULL = msgspec.Raw(b"null")


def _assign(task: TaskState, step: StepState, agent: AgentState, now_ms: int) -> Event:
    if step.plan.takes != "nothing":
        try:
            payload_of(task, step)
        except PlanError as fault:
            error = StepError(
                type="input", message=str(fault), retryable=False, outcome="not_executed"
            )
            return StepFailed(at=now_ms, task=task.id, step=step.id, error=error)
    return StepAssigned(
        at=now_ms,
        task=task.id,
        step=step.id,
        agent=agent.id,
        attempt=step.attempt + 1,
        due_ms=due_of(step, agent, now_ms),
    )

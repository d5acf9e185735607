"""Ready steps by the agents that may do them: who is eligible, who is let in, what is taken out.

A ready step stands in the lane of the agents that may do it, unless the width or the budget of
its task holds it back. Nothing here is stored; a change of an agent makes all queues anew.
"""

from collections.abc import Sequence

from swarm_coordinator.core.agenda import CLASSES, Agenda, Entry, Lane
from swarm_coordinator.core.limits import AGEING_MS, UNPLACED_MS
from swarm_coordinator.core.state import AgentState, StepState, SwarmState, TaskState

__all__ = [
    "admit",
    "eligible",
    "head",
    "hold_back",
    "hopeless",
    "is_held",
    "rebuild_queues",
    "release",
    "withdraw",
]

_CLASS = {"low": 0, "medium": 1, "high": 2, "critical": 3}


def eligible(state: SwarmState, task: TaskState, step: StepState) -> tuple[str, ...]:
    """Active agents that may do a step now, in the order of its plan.

    The agent that the topology prefers alone, while it lives; those to avoid only if there is no
    other. Where the phase names nobody and nobody of the team lives, any agent that holds what
    is required stands in, except for what each agent does for itself.
    """
    plan = step.plan
    agents, excluded = state.agents, step.excluded
    living = [
        name
        for name in task.agents_of(step)
        if (agent := agents.get(name)) is not None
        and agent.status == "active"
        and name not in excluded
    ]
    if not living:
        living = [agent.id for agent in _stand_ins(state, task, step) if agent.status == "active"]
    elif plan.prefer and plan.prefer in living:
        return (plan.prefer,)
    if plan.avoid and len(living) > 1:
        living = [name for name in living if name not in plan.avoid] or living
    return tuple(living)


def _is_anybodys(task: TaskState, step: StepState) -> bool:
    """Whether a step is for any agent that can do it, not for those of a list."""
    if step.plan.ballot or step.role:
        return False
    phase = next((one for one in task.plan.phases if one.name == step.plan.phase), None)
    return phase is not None and not phase.agents and not phase.each


def _stand_ins(state: SwarmState, task: TaskState, step: StepState) -> list[AgentState]:
    if not _is_anybodys(task, step):
        return []
    needed = set(step.plan.requires or task.spec.required_capabilities)
    return [
        agent
        for agent in state.agents.values()
        if agent.id not in step.excluded
        and agent.status != "terminated"
        and needed.issubset(agent.capabilities)
    ]


def hopeless(state: SwarmState, task: TaskState, step: StepState) -> bool:
    """Whether nobody who may do a step will come: all are terminated or have rejected it.

    A step for anybody waits while the swarm has no agent at all: others are spawned for the dead.
    """
    if _is_anybodys(task, step) and all(
        agent.status == "terminated" for agent in state.agents.values()
    ):
        return False
    for name in task.agents_of(step):
        agent = state.agents.get(name)
        waits = agent is not None and agent.status in ("spawning", "active", "lost")
        if waits and name not in step.excluded:
            return False
    return not any(
        agent.status in ("spawning", "active", "lost") for agent in _stand_ins(state, task, step)
    )


# Into the queues and out of them


def admit(state: SwarmState, task: TaskState, step: StepState) -> None:
    """A step has become ready."""
    agenda = state.agenda
    held = agenda.held.get(task.id)
    if held or not _has_room(task, step, agenda):
        agenda.held.setdefault(task.id, {})[step.id] = None
        agenda.touch(task.id)
        return
    _enqueue(state, task, step)


def release(state: SwarmState, task: TaskState) -> None:
    """Let in what the width and the budget of a task allow now."""
    held = state.agenda.held.get(task.id)
    while held:
        first = next(iter(held))
        if not _has_room(task, task.steps[first], state.agenda):
            if not task.running and not state.agenda.admitted.get(task.id):
                state.agenda.touch(task.id)  # its budget is used up
            return
        del held[first]
        _enqueue(state, task, task.steps[first])
    if held is not None:
        state.agenda.held.pop(task.id, None)


def hold_back(state: SwarmState, task: TaskState) -> None:
    """The width of a task has become less: let its steps in anew."""
    agenda = state.agenda
    agenda.admitted[task.id] = 0
    agenda.held[task.id] = {
        step.id: None
        for step in sorted(task.steps.values(), key=lambda one: one.ready_ms)
        if step.status == "ready"
    }
    for name in agenda.held[task.id]:
        agenda.unplaced.pop((task.id, name), None)
    release(state, task)


def withdraw(state: SwarmState, task: TaskState, step: StepState) -> None:
    """A step is no longer ready; its entries in queues are stale now."""
    agenda = state.agenda
    held = agenda.held.get(task.id)
    if held is not None and step.id in held:
        del held[step.id]
        return
    agenda.admitted[task.id] = agenda.admitted.get(task.id, 0) - 1
    if agenda.unplaced:
        agenda.unplaced.pop((task.id, step.id), None)


def is_held(agenda: Agenda, task: str, step: str) -> bool:
    """Whether a ready step is kept out of the queues."""
    return step in agenda.held.get(task, ())


def _has_room(task: TaskState, step: StepState, agenda: Agenda) -> bool:
    """Width and budgets count what is let in as spent, so that neither is ever exceeded."""
    admitted = agenda.admitted.get(task.id, 0)
    if task.width and task.running + admitted >= task.width:
        return False
    budget, spent = task.spec.budget, task.spent
    if budget.messages and spent.messages + admitted >= budget.messages:
        return False
    if budget.tokens and spent.tokens >= budget.tokens:
        return False
    if budget.tool_calls and step.plan.kind == "tool":
        return spent.tool_calls + admitted < budget.tool_calls
    return True


def _enqueue(state: SwarmState, task: TaskState, step: StepState) -> None:
    agenda = state.agenda
    agenda.admitted[task.id] = agenda.admitted.get(task.id, 0) + 1
    names = eligible(state, task, step)
    if not names:
        due = (
            step.ready_ms
            if hopeless(state, task, step)
            else _since(state, task, step) + UNPLACED_MS
        )
        agenda.unplaced[task.id, step.id] = due
        agenda.at(due, "unplaced", task.id, step.id)
        return
    lane = agenda.lanes.get(names)
    if lane is None:
        lane = agenda.lanes[names] = Lane(names)
    lane.classes[_CLASS[task.spec.priority]].append(
        (step.ready_ms, agenda.number(), task.id, step.id)
    )


def _since(state: SwarmState, task: TaskState, step: StepState) -> int:
    """Since when nobody is there: the step is ready, or the last one has gone."""
    if _is_anybodys(task, step):
        gone = [agent.changed_ms for agent in state.agents.values()]
    else:
        those = task.agents_of(step)
        gone = [state.agents[name].changed_ms for name in those if name in state.agents]
    return max([step.ready_ms, *gone])


def _is_fresh(state: SwarmState, entry: Entry) -> bool:
    task = state.tasks.get(entry[2])
    step = task.steps.get(entry[3]) if task is not None else None
    return (
        step is not None
        and step.status == "ready"
        and step.ready_ms == entry[0]
        and not is_held(state.agenda, entry[2], entry[3])
    )


def head(state: SwarmState, lane: Lane, now_ms: int) -> tuple[tuple[int, int, int], Entry] | None:
    """The step that a lane should give next, and its rank (larger goes first); None = it is empty.

    Who waits rises by a class per ``AGEING_MS``, up to the highest; there the oldest goes first.
    """
    best: tuple[tuple[int, int, int], Entry] | None = None
    for rank, queue in enumerate(lane.classes):
        while queue and not _is_fresh(state, queue[0]):
            queue.popleft()
        if queue:
            entry = queue[0]
            aged = min(CLASSES - 1, rank + max(0, now_ms - entry[0]) // AGEING_MS)
            key = (aged, -entry[0], -entry[1])
            if best is None or key > best[0]:
                best = (key, entry)
    return best


def rebuild_queues(state: SwarmState) -> None:
    """Make all queues anew: after a restore, and whenever who is there has changed."""
    agenda = state.agenda
    agenda.lanes, agenda.admitted, agenda.held, agenda.unplaced = {}, {}, {}, {}
    agenda.active = [agent.id for agent in state.agents.values() if agent.status == "active"]
    agenda.draining = [agent.id for agent in state.agents.values() if agent.status == "draining"]
    for task, step in _ready(state):
        admit(state, task, step)


def _ready(state: SwarmState) -> Sequence[tuple[TaskState, StepState]]:
    found = [
        (task, step)
        for name in state.agenda.live
        for task in (state.tasks[name],)
        for step in task.steps.values()
        if step.status == "ready"
    ]
    found.sort(key=lambda pair: pair[1].ready_ms)
    return found

"""What follows from what has happened: phases begin and end, votes are counted, tasks end."""

import msgspec

from swarm_coordinator.core.decide.attempts import cancelled
from swarm_coordinator.core.decide.endings import end_phase, end_task, fail_phase, fail_task
from swarm_coordinator.core.decide.votes import count, votes_ended
from swarm_coordinator.core.decide.widths import first_width, next_width
from swarm_coordinator.core.events import (
    AgentTerminated,
    Event,
    InputAsked,
    PhaseBegun,
    PhaseEnded,
    StepsAdded,
    TaskEnded,
    TaskForgotten,
    TaskPlanned,
    TaskStarted,
)
from swarm_coordinator.core.limits import (
    ENDED_BYTES_MAX,
    ENDED_STEPS_MAX,
    OPERATIONS_MAX,
    STEPS_EVENT_BYTES_MAX,
    TASKS_KEPT_MAX,
)
from swarm_coordinator.core.plan import planned
from swarm_coordinator.core.roster import available, living, network, team_of
from swarm_coordinator.core.state import PhaseState, Request, SwarmState, TaskState
from swarm_coordinator.core.steps import steps_of
from swarm_coordinator.core.team import choose_team
from swarm_coordinator.core.views import AgentView, PhasePlan, PlanError, StepPlan

__all__ = ["advance"]


def advance(state: SwarmState, now_ms: int, seed: int) -> list[Event]:
    """The next consequences; fold them and ask again until there are none (``turn.take``)."""
    del seed  # nothing here is left to chance
    agenda = state.agenda
    if agenda.parked:
        for name, steps in agenda.parked.items():
            if agenda.open + steps <= OPERATIONS_MAX:
                agenda.touch(name)
    while agenda.dirty:
        name = next(iter(agenda.dirty))
        task = state.tasks.get(name)
        if task is not None and (events := _of_task(state, task, now_ms)):
            return events
        del agenda.dirty[name]
    return _drained(state, now_ms) or _too_many_ended(state, now_ms)


def _drained(state: SwarmState, now_ms: int) -> list[Event]:
    for name in state.agenda.draining:
        agent = state.agents[name]
        if not agent.load:
            return [AgentTerminated(at=now_ms, agent=name, reason=agent.reason)]
    return []


def _too_many_ended(state: SwarmState, now_ms: int) -> list[Event]:
    ended = state.agenda.ended
    agenda = state.agenda
    wide = agenda.ended_steps > ENDED_STEPS_MAX or agenda.held_bytes > ENDED_BYTES_MAX
    if len(ended) <= TASKS_KEPT_MAX and not (wide and len(ended) > 1):
        return []
    oldest = next((name for name in ended if not state.tasks[name].leaving), "")
    return [TaskForgotten(at=now_ms, task=oldest)] if oldest else []


def _of_task(state: SwarmState, task: TaskState, now_ms: int) -> list[Event]:
    if task.ended:
        return []
    if task.status in ("cancelling", "queued"):
        waits = task.status == "queued"
        return _queued(state, task, now_ms) if waits else _cancelling(task, now_ms)
    if events := _over_budget(state, task, now_ms) or _over_threshold(task, now_ms):
        return events
    for plan in task.plan.phases:
        if events := _of_phase(state, task, plan, now_ms):
            return events
    if all(task.phases[one.name].ended for one in task.plan.phases):
        if task.plan.source == "planner":
            return _replan(state, task, now_ms)
        return end_task(task, now_ms)
    return next_width(state, task, now_ms)


def _of_phase(state: SwarmState, task: TaskState, plan: PhasePlan, now_ms: int) -> list[Event]:
    phase = task.phases[plan.name]
    if phase.status == "failed" and phase.reason and plan.on_failure == "fail":
        return fail_task(task, phase.reason, phase.message, now_ms)
    if phase.status == "pending":
        return _begin(state, task, plan, phase, now_ms)
    if plan.name in state.agenda.dirty.get(task.id, {}) and not phase.ended:
        return _running(state, task, plan, phase, now_ms)
    return []


def _cancelling(task: TaskState, now_ms: int) -> list[Event]:
    if task.ended_steps < task.total:
        return cancelled(task, task.steps.values(), "cancelled", now_ms)
    if task.leaving:
        return []
    return [
        TaskEnded(
            at=now_ms,
            task=task.id,
            status="cancelled",
            message=task.message,
            partial=task.done > 0,
        )
    ]


def _queued(state: SwarmState, task: TaskState, now_ms: int) -> list[Event]:
    waits = False
    for name in task.spec.dependencies:
        before = state.tasks.get(name)
        if before is None or (before.ended and before.status != "completed"):
            how = before.status if before is not None else "forgotten"
            return fail_task(task, "dependency", f"{name}, which it needs, is {how}", now_ms)
        waits = waits or not before.ended
    if waits or not task.plan.phases:
        return []
    return [TaskStarted(at=now_ms, task=task.id, width=first_width(task))]


def _over_budget(state: SwarmState, task: TaskState, now_ms: int) -> list[Event]:
    """What is used up ends the task once something more would be needed."""
    budget, spent = task.spec.budget, task.spent
    if task.ended_steps == task.total:
        return []
    if budget.tokens and spent.tokens >= budget.tokens:
        why = f"{spent.tokens} of {budget.tokens} tokens are used"
        return fail_task(task, "budget", why, now_ms)
    if budget.tool_calls and spent.tool_calls > budget.tool_calls:
        why = f"{spent.tool_calls} tool calls were made, of at most {budget.tool_calls}"
        return fail_task(task, "budget", why, now_ms)
    agenda = state.agenda
    if agenda.held.get(task.id) and not task.running and not agenda.admitted.get(task.id):
        why = "its messages" if budget.messages else "its tool calls"
        return fail_task(task, "budget", f"{why} are used up before its steps were done", now_ms)
    return []


def _over_threshold(task: TaskState, now_ms: int) -> list[Event]:
    most = task.spec.execution.failure_threshold
    if not task.counted or task.counted <= most * task.total + 1e-9:
        return []
    first = task.failures[0] if task.failures else None
    why = f"{task.counted} of {task.total} steps failed, more than the threshold of {most:g}"
    if first is not None:
        why = f"{why}; first {first.step} ({first.type}: {first.message})"
    return fail_task(task, "threshold", why, now_ms)


# Phases


def _begin(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    plans = {one.name: one for one in task.plan.phases}
    for name in plan.dependencies:
        before = task.phases[name]
        if not before.ended:
            return []
        if plan.gathers:
            continue
        fatal = before.status == "failed" and plans[name].on_failure == "skip_dependents"
        if fatal or before.status in ("skipped", "cancelled"):
            return _skipped(task, phase, f"{name}, which it needs, is {before.status}", now_ms)
    if plan.gathers and not any(bytes(task.phases[name].output) for name in plan.dependencies):
        said = (task.phases[name].message for name in plan.dependencies)
        return _skipped(task, phase, next((one for one in said if one), ""), now_ms)
    if plan.approval and not phase.approved:
        return _ask_approval(task, phase, now_ms)
    try:
        team = _team(state, task)
        outputs = {
            name: one.output for name, one in task.phases.items() if one.ended and bytes(one.output)
        }
        steps = steps_of(plan, outputs, team, network(state))
    except PlanError as error:
        return fail_phase(task, phase, "plan", str(error), now_ms)
    if steps and state.agenda.open + len(steps) > OPERATIONS_MAX:
        state.agenda.parked[task.id] = len(steps)
        return []
    return [
        PhaseBegun(
            at=now_ms,
            task=task.id,
            phase=phase.name,
            total=len(steps),
            team=tuple(agent.id for agent in team),
        ),
        *_added(task, phase, steps, now_ms),
    ]


def _skipped(task: TaskState, phase: PhaseState, message: str, now_ms: int) -> list[Event]:
    return [
        PhaseEnded(at=now_ms, task=task.id, phase=phase.name, status="skipped", message=message)
    ]


def _team(state: SwarmState, task: TaskState) -> list[AgentView]:
    """The team, or another one for a task whose whole team has gone."""
    team = team_of(state, task)
    if team:
        return team
    agents = available(state, task.spec)
    chosen = choose_team(task.spec, task.plan, agents)
    if not chosen.complete or not chosen.members:
        lacks = ", ".join((*chosen.missing, *chosen.absent)) or "agents"
        raise PlanError("", f"the whole team is gone, and nobody else there has: {lacks}")
    return [agent for agent in agents if agent.id in chosen.ids]


def _added(task: TaskState, phase: PhaseState, steps: list[StepPlan], now_ms: int) -> list[Event]:
    """Events that each fit one message."""
    events: list[Event] = []
    some: list[StepPlan] = []
    size = 0
    agents = phase.agents or _shared(steps)

    def event() -> Event:
        return StepsAdded(
            at=now_ms, task=task.id, phase=phase.name, steps=tuple(some), agents=agents
        )

    for step in steps:
        more = len(bytes(step.payload)) + _STEP_BYTES
        if some and size + more > STEPS_EVENT_BYTES_MAX:
            events.append(event())
            some, size = [], 0
        same = bool(agents) and step.agents == agents
        some.append(msgspec.structs.replace(step, agents=()) if same else step)
        size += more
    if some:
        events.append(event())
    return events


def _shared(steps: list[StepPlan]) -> tuple[str, ...]:
    """Agents that need not be repeated in each step."""
    alike = len(steps) > 1 and len(steps[0].agents) > 1 and steps[0].agents == steps[1].agents
    return steps[0].agents if alike else ()


_STEP_BYTES = 512
"""Of a step beside its payload."""


def _ask_approval(task: TaskState, phase: PhaseState, now_ms: int) -> list[Event]:
    asked = {
        "method": "elicitation/create",
        "params": {
            "message": f"Shall the phase {phase.name} of the task begin? {task.spec.description}",
            "requestedSchema": {
                "type": "object",
                "properties": {"approve": {"type": "boolean", "title": "Begin"}},
                "required": ["approve"],
            },
        },
    }
    request = Request(
        kind="approval", request=msgspec.Raw(msgspec.json.encode(asked)), phase=phase.name
    )
    key = f"{phase.name}.{task.asked + 1}"
    return [InputAsked(at=now_ms, task=task.id, requests={key: request})]


def _running(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    if phase.status not in ("running", "deciding"):
        return []
    if len(phase.steps) < phase.total:
        return _complete(state, task, plan, phase, now_ms)
    stranded = state.agenda.stranded.get(task.id)
    if stranded:
        steps = [task.steps[name] for name in stranded]
        return cancelled(task, steps, "what it needs was not done", now_ms, skipped=True)
    if plan.vote is not None:
        if events := count(state, task, plan, phase, now_ms):
            return events
        if phase.total and not votes_ended(state, task, phase):
            return []
    elif plan.aggregate.kind == "first_success" and phase.done and phase.open:
        steps = (task.steps[name] for name in phase.steps)
        return cancelled(task, steps, "another one was first", now_ms)
    if phase.open:
        return []
    return end_phase(state, task, plan, phase, now_ms)


def _complete(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    """The owner before died between the events that add steps: add the others."""
    outputs = {
        name: one.output for name, one in task.phases.items() if one.ended and bytes(one.output)
    }
    there = {agent.id: agent for agent in living(state)}
    team = [there[name] for name in phase.team if name in there] or _team_or_none(state, task)
    try:
        steps = steps_of(plan, outputs, team, network(state))
    except PlanError as error:
        return fail_phase(task, phase, "plan", str(error), now_ms)
    missing = [step for step in steps if step.step not in task.steps]
    if len(phase.steps) + len(missing) != phase.total:
        return fail_phase(task, phase, "plan", "the team changed while it began", now_ms)
    return _added(task, phase, missing, now_ms)


def _team_or_none(state: SwarmState, task: TaskState) -> list[AgentView]:
    try:
        return _team(state, task)
    except PlanError:
        return []


def _replan(state: SwarmState, task: TaskState, now_ms: int) -> list[Event]:
    """A planner agent has made phases."""
    asked = task.plan.phases[0].name
    output = task.phases[asked].output
    if not bytes(output):
        return fail_task(task, "plan", "the planner made no plan", now_ms)
    try:
        agents = available(state, task.spec)
        full, plan = planned(task.spec, output, agents, topology=state.topology)
        chosen = choose_team(full, plan, agents)
    except PlanError as error:
        return fail_task(task, "plan", str(error), now_ms)
    if not chosen.complete or not chosen.members:
        lacks = ", ".join((*chosen.missing, *chosen.absent)) or "agents"
        return fail_task(task, "plan", f"the plan needs what nobody here has: {lacks}", now_ms)
    if any(phase.name in task.phases for phase in plan.phases):
        return fail_task(task, "plan", f"a phase cannot be called {asked}", now_ms)
    roles = tuple(member.role for member in chosen.members)
    return [TaskPlanned(at=now_ms, task=task.id, plan=plan, team=chosen.ids, roles=roles)]

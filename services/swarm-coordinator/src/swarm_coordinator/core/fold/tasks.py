"""Tasks, phases, votes and questions."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.events import (
    InputAnswered,
    InputAsked,
    PhaseApproved,
    PhaseBegun,
    PhaseEnded,
    TaskCancelling,
    TaskEnded,
    TaskForgotten,
    TaskPlanned,
    TaskStarted,
    TaskSubmitted,
    VoteCounted,
    WidthChanged,
)
from swarm_coordinator.core.fold.transitions import settle_waiting
from swarm_coordinator.core.limits import (
    FAILURES_KEPT_MAX,
    KEYS_MAX,
    STRAGGLER_CHECK_MS,
    TASK_KEPT_MS,
)
from swarm_coordinator.core.schedule_queues import hold_back, release
from swarm_coordinator.core.state import (
    TERMINAL_PHASES,
    Failure,
    PhaseState,
    Run,
    StepState,
    SwarmState,
    TaskState,
    Window,
)
from swarm_coordinator.core.views import Plan

__all__ = [
    "input_answered",
    "input_asked",
    "key_of",
    "phase_approved",
    "phase_begun",
    "phase_ended",
    "task_cancelling",
    "task_ended",
    "task_forgotten",
    "task_planned",
    "task_started",
    "task_submitted",
    "vote_counted",
    "width_changed",
]


def key_of(principal: str, idempotency: str) -> str:
    """Member of ``SwarmState.keys``; a principal holds no NUL, so no two pairs are one key."""
    return f"{principal}\0{idempotency}"


def task_submitted(state: SwarmState, event: TaskSubmitted) -> None:
    """Accepted."""
    task = TaskState(
        id=event.task,
        principal=event.principal,
        spec=event.spec,
        plan=Plan(phases=()),
        team=event.team,
        roles=event.roles,
        created_ms=event.at,
        deadline_ms=event.deadline_ms,
        grant=event.grant,
        idempotency=event.idempotency,
    )
    state.tasks[task.id] = task
    state.counters.submitted += 1
    if event.idempotency:
        state.keys[key_of(event.principal, event.idempotency)] = task.id
        if len(state.keys) > KEYS_MAX:
            del state.keys[next(iter(state.keys))]
    agenda = state.agenda
    agenda.live[task.id] = None
    agenda.at(event.deadline_ms, "task", task.id)
    for before in event.spec.dependencies:
        agenda.dependents.setdefault(before, []).append(task.id)
    agenda.touch(task.id)


def task_planned(state: SwarmState, event: TaskPlanned) -> None:
    """Its phases; those of a plan that a planner made come behind the planner's."""
    task = state.tasks[event.task]
    task.plan = event.plan
    if event.team:
        task.team, task.roles = event.team, event.roles
    for phase in event.plan.phases:
        task.phases.setdefault(phase.name, PhaseState(name=phase.name))
    state.agenda.touch(task.id)


def task_started(state: SwarmState, event: TaskStarted) -> None:
    """Its dependencies have completed."""
    task = state.tasks[event.task]
    task.status = "running"
    task.width = event.width
    state.agenda.touch(task.id)


def task_cancelling(state: SwarmState, event: TaskCancelling) -> None:
    """Somebody wants it ended."""
    task = state.tasks[event.task]
    task.status = "cancelling"
    task.message = event.reason
    task.requests = {}
    state.agenda.touch(task.id)


def task_ended(state: SwarmState, event: TaskEnded) -> None:
    """Terminal. What only work needed is dropped."""
    task = state.tasks[event.task]
    task.status = event.status
    task.reason, task.message = event.reason, event.message or task.message
    task.partial = event.partial
    task.result, task.result_ref = event.result, event.result_ref
    task.ended_ms = event.at
    task.requests = {}
    counters = state.counters
    if event.status == "completed":
        counters.completed += 1
        counters.completed_ms += event.at - task.created_ms
    elif event.status == "cancelled":
        counters.cancelled += 1
    else:
        counters.failed += 1
    for phase in task.phases.values():
        if phase.status not in TERMINAL_PHASES:
            phase.status = "cancelled"
            phase.ended_ms = event.at
    for step in task.steps.values():
        _strip(step)
    agenda = state.agenda
    agenda.forget(task.id)
    agenda.end(task.id, task.total, task.held_bytes)
    agenda.at(event.at + TASK_KEPT_MS, "keep", task.id)
    if task.leaving:
        agenda.touch(task.id)
    for name in agenda.dependents.pop(task.id, ()):
        if name in agenda.live:
            agenda.touch(name)


def _strip(step: StepState) -> None:
    step.plan = msgspec.structs.replace(step.plan, payload=_NOTHING, holes=())
    step.answers = {}
    step.output = ABSENT  # its phase has what came of it


_NOTHING = msgspec.Raw(b"{}")


def task_forgotten(state: SwarmState, event: TaskForgotten) -> None:
    """It leaves the state."""
    state.tasks.pop(event.task, None)
    state.agenda.forget(event.task)
    state.agenda.drop_ended(event.task)


def width_changed(state: SwarmState, event: WidthChanged) -> None:
    """So many steps at once from now on."""
    task = state.tasks[event.task]
    shrinks = event.width < task.width
    task.width = event.width
    task.window = Window()
    if shrinks:
        hold_back(state, task)
    else:
        release(state, task)


# Phases


def phase_begun(state: SwarmState, event: PhaseBegun) -> None:
    """Its steps follow."""
    task = state.tasks[event.task]
    phase = task.phases[event.phase]
    phase.status = "running"
    phase.total = event.total
    phase.team = event.team
    phase.began_ms = event.at
    agenda = state.agenda
    agenda.parked.pop(task.id, None)
    agenda.touch(task.id, phase.name)
    if task.spec.strategy == "adaptive":
        agenda.straggling[task.id, phase.name] = event.at + STRAGGLER_CHECK_MS


def phase_approved(state: SwarmState, event: PhaseApproved) -> None:
    """A person agreed."""
    task = state.tasks[event.task]
    phase = task.phases[event.phase]
    phase.approved = True
    phase.status = "pending"
    state.agenda.touch(task.id, phase.name)


def vote_counted(state: SwarmState, event: VoteCounted) -> None:
    """How a vote stands."""
    task = state.tasks[event.task]
    phase = task.phases[event.phase]
    phase.votes[event.group] = msgspec.structs.replace(event.vote)
    for names, agreed in ((event.agreed, 1), (event.differed, 0)):
        for name in names:
            agent = state.agents.get(name)
            if agent is not None:
                agent.stats.voted += 1
                agent.stats.agreed += agreed
    state.agenda.touch(task.id, phase.name)


def phase_ended(state: SwarmState, event: PhaseEnded) -> None:
    """Terminal."""
    task = state.tasks[event.task]
    phase = task.phases[event.phase]
    phase.status = event.status
    phase.output = event.output
    phase.reason, phase.message = event.reason, event.message
    phase.ended_ms = event.at
    if event.status == "failed" and event.reason and len(task.failures) < FAILURES_KEPT_MAX:
        task.failures.append(Failure(phase=phase.name, type=event.reason, message=event.message))
    state.agenda.straggling.pop((task.id, phase.name), None)
    state.agenda.touch(task.id, phase.name)


# Questions


def input_asked(state: SwarmState, event: InputAsked) -> None:
    """The task waits for its submitter."""
    task = state.tasks[event.task]
    for key, request in event.requests.items():
        task.requests[key] = request
        task.asked += 1
        if request.kind == "step":
            step = task.steps[request.step]
            step.asked = True
            step.answers = {}
            step.runs = tuple(_waiting(run, request.item) for run in step.runs)
        elif request.kind == "approval":
            task.phases[request.phase].status = "approving"
        else:
            task.phases[request.phase].status = "deciding"
    settle_waiting(task)


def _waiting(run: Run, item: str) -> Run:
    return msgspec.structs.replace(run, due_ms=0) if run.item == item else run


def input_answered(state: SwarmState, event: InputAnswered) -> None:
    """One question less."""
    task = state.tasks[event.task]
    request = task.requests.get(event.key)
    if request is None:
        return
    if request.kind == "step":
        task.requests[event.key] = msgspec.structs.replace(request, answer=event.answer)
    else:
        del task.requests[event.key]
        state.agenda.touch(task.id, request.phase)
    settle_waiting(task)

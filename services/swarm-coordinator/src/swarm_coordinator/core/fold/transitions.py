"""The one place where a step changes its status, so that every count changes with it."""

from mcp_proto.contracts.swarm import Usage
from swarm_coordinator.core.limits import CANCEL_GRACE_MS, QUEUE_MS
from swarm_coordinator.core.schedule_queues import admit, release, withdraw
from swarm_coordinator.core.state import (
    AgentState,
    PhaseState,
    Request,
    Run,
    StepState,
    StepStatus,
    SwarmState,
    TaskState,
)

__all__ = [
    "drop_requests",
    "end_run",
    "end_step",
    "may_follow",
    "set_ready",
    "set_retrying",
    "settle_waiting",
    "spend",
]


def _leave(state: SwarmState, task: TaskState, step: StepState) -> None:
    agenda = state.agenda
    if step.status == "assigned":
        task.running -= 1
        agenda.running -= 1
        if step.asked:
            drop_requests(task, step)
    elif step.status == "ready":
        withdraw(state, task, step)
    elif step.status == "waiting":
        agenda.blocked.pop((task.id, step.id), None)
        if stranded := agenda.stranded.get(task.id):
            stranded.pop(step.id, None)


def set_ready(state: SwarmState, task: TaskState, step: StepState, at: int) -> None:
    """It can be sent."""
    _leave(state, task, step)
    step.status = "ready"
    step.ready_ms = at
    step.due_ms = at + QUEUE_MS
    state.agenda.at(step.due_ms, "step", task.id, step.id)
    admit(state, task, step)


def set_retrying(state: SwarmState, task: TaskState, step: StepState, due_ms: int, at: int) -> None:
    """It can be sent at ``due_ms``; at once if that is now."""
    if due_ms <= at:
        set_ready(state, task, step, at)
    else:
        _leave(state, task, step)
        step.status = "retrying"
        step.due_ms = due_ms
        state.agenda.at(due_ms, "step", task.id, step.id)
    release(state, task)


def end_step(
    state: SwarmState, task: TaskState, step: StepState, status: StepStatus, at: int
) -> None:
    """It is terminal. Steps behind it become ready, or their phase decides about them."""
    _leave(state, task, step)
    step.status = status
    step.ended_ms = at
    step.due_ms = 0
    agenda = state.agenda
    agenda.open -= 1
    task.ended_steps += 1
    phase = task.phases[step.phase]
    phase.open -= 1
    if status == "done":
        phase.done += 1
        task.done += 1
        state.counters.done += 1
    elif status == "failed":
        phase.failed += 1
        task.failed += 1
        state.counters.failures += 1
        if step.plan.on_failure == "fail" and not _first_of_many(task, step.phase):
            task.counted += 1
    if step.plan.ballot or step.role:
        group = agenda.voted.setdefault((task.id, phase.name), {})
        group[step.plan.group] = None
        agenda.touch(task.id, phase.name)
    elif phase.open == 0 or status != "done" or _first_of_many(task, phase.name):
        agenda.touch(task.id, phase.name)
    followers = agenda.followers.pop((task.id, step.id), None)
    if followers is not None:
        _follow(state, task, phase, followers, at)
    release(state, task)


def _first_of_many(task: TaskState, phase: str) -> bool:
    """One success is enough, and failures beside it are none."""
    if len(task.plan.phases) == 1:
        return task.plan.phases[0].aggregate.kind == "first_success"
    return any(
        one.name == phase and one.aggregate.kind == "first_success" for one in task.plan.phases
    )


def _follow(
    state: SwarmState, task: TaskState, phase: PhaseState, followers: list[str], at: int
) -> None:
    agenda = state.agenda
    for name in followers:
        left = agenda.blocked.get((task.id, name))
        if left is None:
            continue
        agenda.blocked[task.id, name] = left - 1
        if left > 1:
            continue
        follower = task.steps[name]
        if may_follow(task, follower):
            set_ready(state, task, follower, at)
        else:
            agenda.stranded.setdefault(task.id, {})[name] = None
            agenda.touch(task.id, phase.name)


def may_follow(task: TaskState, step: StepState) -> bool:
    """Whether a step can go on with what those before it left, now that all have ended."""
    done = [task.steps[name].status == "done" for name in step.plan.after]
    if all(done) or step.plan.takes == "nothing":
        return True
    if step.plan.takes == "outputs":
        return any(done)
    return step.plan.on_failure == "continue"


def end_run(
    state: SwarmState, task: TaskState, run: Run, at: int, *, leaving: bool = False
) -> AgentState | None:
    """An attempt is no longer on its way; ``leaving`` = its agent still has it, and is told."""
    agent = state.agents.get(run.agent)
    if agent is None:
        return None
    if agent.items.pop(run.item, None) is not None and leaving:
        agent.leaving[run.item] = at
        task.leaving += 1
        state.agenda.at(at + CANCEL_GRACE_MS, "leave", agent.id, run.item)
    return agent


def drop_requests(task: TaskState, step: StepState) -> None:
    """Nobody waits for the answers of a step any more."""
    task.requests = {key: asked for key, asked in task.requests.items() if asked.step != step.id}
    step.asked = False
    settle_waiting(task)


def settle_waiting(task: TaskState) -> None:
    """A task waits for people as long as a question is open."""
    if task.status in ("running", "waiting"):
        task.status = "waiting" if any(map(_is_open, task.requests.values())) else "running"


def _is_open(request: Request) -> bool:
    return not bytes(request.answer)


def spend(state: SwarmState, task: TaskState, usage: Usage | None, kind: str) -> None:
    """Count what an attempt used. A tool step counted as one call when it was sent."""
    if usage is None:
        return
    spent = task.spent
    calls = usage.tool_calls or 0
    spent.tool_calls += max(0, calls - 1) if kind == "tool" else calls
    spent.tokens += usage.tokens or 0
    spent.wall_ms += usage.wall_ms or 0.0
    spent.cpu_ms += usage.cpu_ms or 0.0
    budget = task.spec.budget
    if budget.tokens or budget.tool_calls:
        state.agenda.touch(task.id)

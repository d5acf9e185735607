"""Steps and attempts."""

from swarm_coordinator.core.events import (
    ItemsGone,
    ResultIgnored,
    RunEnded,
    StepAssigned,
    StepDone,
    StepDuplicated,
    StepFailed,
    StepReady,
    StepResumed,
    StepRetry,
    StepReturned,
    StepsAdded,
    StepsCancelled,
)
from swarm_coordinator.core.fold.transitions import (
    drop_requests,
    end_run,
    end_step,
    may_follow,
    set_ready,
    set_retrying,
    spend,
)
from swarm_coordinator.core.limits import (
    EWMA_SHARE,
    FAILURE_SHARE,
    FAILURES_KEPT_MAX,
    FORMER_MAX,
)
from swarm_coordinator.core.schedule_queues import release, withdraw
from swarm_coordinator.core.state import (
    AgentState,
    Failure,
    Run,
    StepState,
    SwarmState,
    TaskState,
)

__all__ = [
    "item_of",
    "items_gone",
    "note_group",
    "result_ignored",
    "run_ended",
    "step_assigned",
    "step_done",
    "step_duplicated",
    "step_failed",
    "step_ready",
    "step_resumed",
    "step_retry",
    "step_returned",
    "steps_added",
    "steps_cancelled",
    "wait_for",
]


def item_of(task: str, step: str, attempt: int) -> str:
    """Identity of an attempt."""
    return f"{task}.{step}-{attempt}"


def steps_added(state: SwarmState, event: StepsAdded) -> None:
    """Steps of a phase."""
    task = state.tasks[event.task]
    phase = task.phases[event.phase]
    phase.agents = phase.agents or event.agents
    agenda = state.agenda
    agenda.touch(task.id, phase.name)
    for plan in event.steps:
        step = StepState(plan=plan, role=event.role, round=event.round)
        task.steps[plan.step] = step
        phase.steps.append(plan.step)
        phase.open += 1
        task.total += 1
        agenda.open += 1
        note_group(state, task, step)
        if not wait_for(state, task, step):
            set_ready(state, task, step, event.at)


def wait_for(state: SwarmState, task: TaskState, step: StepState) -> int:
    """Note the steps that must end before; how many."""
    agenda = state.agenda
    before = [name for name in step.plan.after if not task.steps[name].ended]
    for name in before:
        agenda.followers.setdefault((task.id, name), []).append(step.id)
    agenda.blocked[task.id, step.id] = len(before)
    if before or may_follow(task, step):
        return len(before)
    agenda.stranded.setdefault(task.id, {})[step.id] = None
    return 1


def note_group(state: SwarmState, task: TaskState, step: StepState) -> None:
    """Of a voting phase: which ballots are counted together."""
    if step.plan.ballot or step.role:
        groups = state.agenda.groups.setdefault((task.id, step.phase), {})
        groups.setdefault(step.plan.group, []).append(step.id)


def step_ready(state: SwarmState, event: StepReady) -> None:
    """The wait before the next attempt is over."""
    task = state.tasks[event.task]
    for name in event.steps:
        set_ready(state, task, task.steps[name], event.at)


# Sent


def step_assigned(state: SwarmState, event: StepAssigned) -> None:
    """An attempt goes to an agent."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    task.running += 1  # before it leaves the queue: the room it has there is not for others
    state.agenda.running += 1
    withdraw(state, task, step)
    step.status = "assigned"
    step.due_ms = 0
    if not task.started_ms:
        task.started_ms = event.at
    _send(state, task, step, event)
    release(state, task)


def step_duplicated(state: SwarmState, event: StepDuplicated) -> None:
    """A second attempt of a slow step."""
    task = state.tasks[event.task]
    _send(state, task, task.steps[event.step], event)


def _send(
    state: SwarmState, task: TaskState, step: StepState, event: StepAssigned | StepDuplicated
) -> None:
    agent = state.agents[event.agent]
    item = item_of(task.id, step.id, event.attempt)
    run = Run(
        item=item,
        agent=agent.id,
        epoch=agent.epoch,
        attempt=event.attempt,
        sent_ms=event.at,
        due_ms=event.due_ms,
    )
    step.attempt = event.attempt
    step.runs = (*step.runs, run)
    agent.items[item] = event.at
    task.spent.messages += 1
    if step.kind == "tool":
        task.spent.tool_calls += 1
    state.counters.sent += 1
    if event.attempt > 1:
        task.retries += 1
        state.counters.retries += 1
    state.agenda.at(event.due_ms, "step", task.id, step.id)


# Ended


def _take_run(
    state: SwarmState, task: TaskState, step: StepState, item: str, at: int, *, leaving: bool
) -> AgentState | None:
    """End an attempt of a step, on its way or given up on."""
    for run in step.runs:
        if run.item == item:
            step.runs = tuple(one for one in step.runs if one is not run)
            if leaving:
                step.former = (*step.former, run)[-FORMER_MAX:]
            return end_run(state, task, run, at, leaving=leaving)
    for run in step.former:
        if run.item == item:
            agent = state.agents.get(run.agent)
            if agent is not None:
                _gone(state, task, agent, item)
            return agent
    return None


def _gone(state: SwarmState, task: TaskState, agent: AgentState, item: str) -> None:
    if agent.leaving.pop(item, None) is not None:
        task.leaving -= 1
        if not task.leaving:
            state.agenda.touch(task.id)


def step_done(state: SwarmState, event: StepDone) -> None:
    """The first valid result."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    agent = _take_run(state, task, step, event.item, event.at, leaving=False)
    for run in step.runs:
        end_run(state, task, run, event.at, leaving=True)
    step.runs = ()
    step.former = ()
    step.agent, step.item = event.agent, event.item
    step.output, step.ballot, step.artifacts = event.output, event.ballot, event.artifacts
    step.usage, step.wall_ms, step.error = event.usage, event.wall_ms, None
    step.begun = True
    spend(state, task, event.usage, step.kind)
    _window(state, task, failed=False)
    if agent is not None:
        _succeeded(agent, step.kind, event.wall_ms)
    end_step(state, task, step, "done", event.at)


def _succeeded(agent: AgentState, kind: str, wall_ms: float | None) -> None:
    stats = agent.stats
    stats.completed += 1
    stats.in_row = 0
    old = stats.failure_ewma
    stats.failure_ewma = 0.0 if old is None else old * (1 - FAILURE_SHARE)
    if wall_ms is not None:
        before = stats.duration_ms.get(kind)
        mean = wall_ms if before is None else before + EWMA_SHARE * (wall_ms - before)
        stats.duration_ms[kind] = mean
        stats.samples[kind] = stats.samples.get(kind, 0) + 1


def _failed(agent: AgentState | None) -> None:
    if agent is not None:
        stats = agent.stats
        stats.failed += 1
        stats.in_row += 1
        old = stats.failure_ewma or 0.0
        stats.failure_ewma = old + FAILURE_SHARE * (1 - old)


def _note_begun(step: StepState, event: StepRetry | StepReturned | RunEnded | StepFailed) -> None:
    if event.error.outcome != "not_executed":
        step.begun = True


def _window(state: SwarmState, task: TaskState, *, failed: bool) -> None:
    """Results since the width of an adaptive task changed."""
    if not task.width:
        return
    window = task.window
    if window.done + window.failed >= task.width:
        window.done = window.failed = window.busy = 0  # it was full and gave no reason for a change
    if failed:
        window.failed += 1
    else:
        window.done += 1
    if window.done + window.failed >= task.width:
        state.agenda.touch(task.id)


def step_retry(state: SwarmState, event: StepRetry) -> None:
    """An attempt is used up."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    agent = _take_run(state, task, step, event.item, event.at, leaving=event.stop)
    step.failures += 1
    step.error = event.error
    _note_begun(step, event)
    spend(state, task, event.usage, step.kind)
    _failed(agent)
    _window(state, task, failed=True)
    set_retrying(state, task, step, event.due_ms, event.at)


def step_returned(state: SwarmState, event: StepReturned) -> None:
    """An attempt was lost or rejected."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    run = next((one for one in step.runs if one.item == event.item), None)
    agent = _take_run(state, task, step, event.item, event.at, leaving=False)
    if run is not None and event.error.type == "lost":
        step.former = (*step.former, run)[-FORMER_MAX:]
    elif agent is not None:
        agent.stats.rejected += 1
    step.losses += 1
    step.error = event.error
    _note_begun(step, event)
    state.counters.losses += 1
    if event.excluded and event.agent not in step.excluded:
        step.excluded = (*step.excluded, event.agent)
    if event.error.type == "busy" and task.width:
        task.window.busy += 1
        state.agenda.touch(task.id)
    if event.error.type != "lost" and step.kind == "tool":
        task.spent.tool_calls -= 1  # it was not called
    set_retrying(state, task, step, event.due_ms, event.at)


def run_ended(state: SwarmState, event: RunEnded) -> None:
    """One of two attempts ended badly."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    run = next((one for one in step.runs if one.item == event.item), None)
    agent = _take_run(state, task, step, event.item, event.at, leaving=event.stop)
    _note_begun(step, event)
    if event.error.type == "lost":
        if run is not None:
            step.former = (*step.former, run)[-FORMER_MAX:]
    elif event.error.type in ("rejected", "busy"):
        if step.kind == "tool":
            task.spent.tool_calls -= 1
            release(state, task)
    else:
        spend(state, task, event.usage, step.kind)
        _failed(agent)
        _window(state, task, failed=True)


def step_failed(state: SwarmState, event: StepFailed) -> None:
    """No further attempt."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    agent: AgentState | None = None
    if event.item:
        agent = _take_run(state, task, step, event.item, event.at, leaving=event.stop)
        if event.error.type in ("rejected", "busy"):
            if step.kind == "tool":
                task.spent.tool_calls -= 1
        elif event.error.type != "lost":
            spend(state, task, event.usage, step.kind)
            _failed(agent)
            _window(state, task, failed=True)
    _note_begun(step, event)
    for run in step.runs:
        end_run(state, task, run, event.at, leaving=True)
        step.begun = True
    step.runs = ()
    step.former = ()
    step.agent, step.item, step.error = event.agent, event.item, event.error
    step.usage = event.usage
    if len(task.failures) < FAILURES_KEPT_MAX:
        task.failures.append(
            Failure(
                phase=step.phase,
                step=step.id,
                agent=event.agent,
                type=event.error.type,
                message=event.error.message,
                outcome=event.error.outcome,
                attempts=step.attempt,
            )
        )
    end_step(state, task, step, "failed", event.at)


def steps_cancelled(state: SwarmState, event: StepsCancelled) -> None:
    """Nobody wants these any more."""
    task = state.tasks[event.task]
    for name in event.steps:
        step = task.steps[name]
        if step.ended:
            continue
        for run in step.runs:
            end_run(state, task, run, event.at, leaving=True)
            step.begun = True
        step.runs = ()
        step.former = ()
        step.reason = event.reason
        end_step(state, task, step, "skipped" if event.skipped else "cancelled", event.at)


def items_gone(state: SwarmState, event: ItemsGone) -> None:
    """Slots are free."""
    agent = state.agents.get(event.agent)
    if agent is None:
        return
    for item in event.items:
        task = state.tasks.get(item.partition(".")[0])
        if task is None:
            agent.leaving.pop(item, None)
        else:
            _gone(state, task, agent, item)
            task.updated_ms = event.at


def result_ignored(state: SwarmState, event: ResultIgnored) -> None:
    """It changes no step, and is counted."""
    task = state.tasks[event.task]
    step = task.steps.get(event.step)
    counters = state.counters
    agent = state.agents.get(event.agent)
    if event.reason in ("wrong_agent", "wrong_host"):
        task.ignored += 1
        counters.ignored += 1
        return
    if event.reason == "duplicate":
        task.duplicates += 1
        counters.duplicates += 1
        return
    task.late += 1
    counters.late += 1
    if agent is not None:
        agent.stats.late += 1
        _gone(state, task, agent, event.item)
    if step is not None:
        spend(state, task, event.usage, step.kind)
        if step.status == "cancelled" and event.status == "ok":
            task.cancelled_late += 1


# Questions of agents


def step_resumed(state: SwarmState, event: StepResumed) -> None:
    """All its questions are answered; it goes on."""
    task = state.tasks[event.task]
    step = task.steps[event.step]
    drop_requests(task, step)
    step.answers = dict(event.answers)
    step.runs = tuple(
        Run(
            item=run.item,
            agent=run.agent,
            epoch=run.epoch,
            attempt=run.attempt,
            sent_ms=run.sent_ms,
            due_ms=event.due_ms if run.item == event.item else run.due_ms,
        )
        for run in step.runs
    )
    state.agenda.at(event.due_ms, "step", task.id, step.id)
    release(state, task)

"""How phases and tasks end."""

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.aggregate import Aggregated, AggregateError, Output, aggregate
from swarm_coordinator.core.decide.attempts import cancelled
from swarm_coordinator.core.events import Event, PhaseEnded, TaskEnded
from swarm_coordinator.core.limits import OUTPUT_BYTES_MAX
from swarm_coordinator.core.roster import voter_of
from swarm_coordinator.core.spec import Coordination
from swarm_coordinator.core.state import PhaseState, StepState, SwarmState, TaskState
from swarm_coordinator.core.views import PhasePlan
from swarm_coordinator.core.weights import weights_of

__all__ = ["end_phase", "end_task", "fail_phase", "fail_task"]

_NULL = msgspec.Raw(b"null")


def fail_task(task: TaskState, reason: str, message: str, now_ms: int) -> list[Event]:
    """Fail at once and cancel the rest."""
    return [
        *cancelled(task, task.steps.values(), f"the task failed: {reason}", now_ms),
        TaskEnded(
            at=now_ms,
            task=task.id,
            status="failed",
            reason=reason,
            message=message,
            partial=task.done > 0,
        ),
    ]


def fail_phase(
    task: TaskState, phase: PhaseState, reason: str, message: str, now_ms: int
) -> list[Event]:
    """A phase that cannot go on as a whole; what that means for the task, ``on_failure`` says."""
    return [
        *cancelled(task, (task.steps[name] for name in phase.steps), message, now_ms),
        PhaseEnded(
            at=now_ms,
            task=task.id,
            phase=phase.name,
            status="failed",
            reason=reason,
            message=message,
        ),
    ]


def end_phase(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    """All its steps have ended, its votes too."""
    if plan.vote is not None:
        return _end_vote(state, task, plan, phase, now_ms)
    results = [
        step
        for name in phase.steps
        if (step := task.steps[name]).plan.result and step.status == "done"
    ]
    if not results and phase.total > 0:
        message = f"none of {phase.total} steps of {phase.name} was done"
        return [_ended(task, phase, "failed", ABSENT, message, now_ms)]
    if plan.single or plan.aggregate.kind == "reduce":
        output = results[0].output if results else _NULL
        return [_ended(task, phase, _status(plan, phase), output or _NULL, "", now_ms)]
    rules = task.spec.coordination
    try:
        told = aggregate(
            plan.aggregate,
            [_output(state, task, step, rules) for step in results],
            equality=rules.equality,
            rules=rules,
        )
    except AggregateError as error:
        return fail_phase(task, phase, "aggregate", str(error), now_ms)
    return _aggregated(task, plan, phase, told, now_ms)


def _aggregated(
    task: TaskState, plan: PhasePlan, phase: PhaseState, told: Aggregated, now_ms: int
) -> list[Event]:
    if told.tally is not None and not told.tally.reached:
        why = f"{plan.aggregate.kind} was not reached: {told.tally.reason}"
        return fail_phase(task, phase, "vote", why, now_ms)
    return [_ended(task, phase, _status(plan, phase), told.value, "", now_ms)]


def _output(state: SwarmState, task: TaskState, step: StepState, rules: Coordination) -> Output:
    agent = state.agents.get(step.agent)
    weight = 1.0
    if agent is not None:
        required = task.spec.required_capabilities
        weight = weights_of([voter_of(agent)], rules.weights, required)[agent.id]
    value = step.output if bytes(step.output) else _NULL
    return Output(step=step.id, value=value, agent=step.agent, order=step.ended_ms, weight=weight)


def _status(plan: PhasePlan, phase: PhaseState) -> str:
    """Failed steps that matter to those behind make a failed phase, whatever it came to."""
    return "failed" if phase.failed and plan.on_failure == "skip_dependents" else "done"


def _ended(
    task: TaskState,
    phase: PhaseState,
    status: str,
    output: msgspec.Raw,
    message: str,
    now_ms: int,
) -> Event:
    if len(bytes(output)) > OUTPUT_BYTES_MAX:
        why = f"its output takes {len(bytes(output))} bytes, of at most {OUTPUT_BYTES_MAX}"
        return PhaseEnded(
            at=now_ms,
            task=task.id,
            phase=phase.name,
            status="failed",
            reason="too_large",
            message=why,
        )
    return PhaseEnded(
        at=now_ms,
        task=task.id,
        phase=phase.name,
        status=status,  # type: ignore[arg-type]
        output=output,
        message=message,
    )


def _end_vote(
    state: SwarmState, task: TaskState, plan: PhasePlan, phase: PhaseState, now_ms: int
) -> list[Event]:
    votes = [phase.votes[group] for group in sorted(phase.votes, key=int)]
    decided = [vote for vote in votes if bytes(vote.decision)]
    if len(decided) < len(votes) and (plan.on_failure != "continue" or not decided):
        why = next(vote.message for vote in votes if not bytes(vote.decision))
        return fail_phase(task, phase, "vote", why or "no decision was reached", now_ms)
    if plan.fanout is None:
        output = decided[0].decision if decided else _NULL
        return [_ended(task, phase, _status(plan, phase), output, "", now_ms)]
    outputs = [
        Output(step=f"{phase.name}-{group}", value=phase.votes[group].decision)
        for group in sorted(phase.votes, key=int)
        if bytes(phase.votes[group].decision)
    ]
    try:
        told = aggregate(plan.aggregate, outputs, equality=plan.vote and plan.vote.equality)
    except AggregateError as error:
        return fail_phase(task, phase, "aggregate", str(error), now_ms)
    return _aggregated(task, plan, phase, told, now_ms)


def end_task(task: TaskState, now_ms: int) -> list[Event]:
    """All phases have ended: the result is the output of the last ones."""
    phases = [task.phases[name] for name in task.plan.outputs]
    found = [phase for phase in phases if bytes(phase.output)]
    if not found:
        why = next((phase.message for phase in phases if phase.message), "")
        return fail_task(task, "no_result", why or "no phase came to a result", now_ms)
    result = found[0].output
    if len(phases) > 1:
        outputs = [Output(step=phase.name, value=phase.output) for phase in found]
        try:
            result = aggregate(
                task.spec.execution.aggregate, outputs, rules=task.spec.coordination
            ).value
        except AggregateError as error:
            return fail_task(task, "aggregate", str(error), now_ms)
        if not bytes(result):
            how = task.spec.execution.aggregate.kind
            return fail_task(task, "vote", f"{how} over the outputs gave nothing", now_ms)
    spoiled = any(phase.status in ("failed", "skipped") for phase in task.phases.values())
    return [
        TaskEnded(
            at=now_ms,
            task=task.id,
            status="completed",
            partial=bool(task.failed) or spoiled,
            result=result,
        )
    ]

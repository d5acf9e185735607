"""The fold: events change the state here and nowhere else."""

from collections.abc import Callable
from typing import Any

import msgspec

from swarm_coordinator.core import events as e
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.fold import agents, steps, tasks
from swarm_coordinator.core.limits import (
    CANCEL_GRACE_MS,
    LOST_KEPT_MS,
    SPAWN_MS,
    STRAGGLER_CHECK_MS,
    TASK_KEPT_MS,
)
from swarm_coordinator.core.schedule_queues import rebuild_queues
from swarm_coordinator.core.schedule_timers import compact
from swarm_coordinator.core.state import StepState, SwarmState, TaskState

__all__ = ["evolve", "restore", "snapshot"]

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(SwarmState)


def evolve(state: SwarmState | None, event: Event) -> SwarmState:
    """Fold one event; the state is changed in place and returned. None = before the first one.

    Raises:
        ValueError: the log does not begin with ``SwarmCreated``.
        KeyError: an event of something that does not exist.
    """
    if state is None:
        if not isinstance(event, e.SwarmCreated):
            raise ValueError("a log begins with the making of its swarm")
        return SwarmState(
            swarm=event.swarm,
            tenant=event.tenant,
            principal=event.principal,
            name=event.name,
            topology=event.topology,
            config=event.config,
            idempotency=event.idempotency,
            created_ms=event.at,
            sequence=1,
        )
    _FOLDS[type(event)](state, event)
    state.sequence += 1
    task = state.tasks.get(getattr(event, "task", ""))
    if task is not None:
        task.updated_ms = event.at
    if len(state.agenda.timers) > state.agenda.timers_max:
        compact(state)
    return state


_FOLDS: dict[type, Callable[[SwarmState, Any], None]] = {
    e.SwarmDestroyed: agents.swarm_destroyed,
    e.OwnerChanged: agents.owner_changed,
    e.AgentAdded: agents.agent_added,
    e.AgentPlaced: agents.agent_placed,
    e.AgentAttached: agents.agent_attached,
    e.AgentActive: agents.agent_active,
    e.AgentDraining: agents.agent_draining,
    e.AgentLost: agents.agent_lost,
    e.AgentReturned: agents.agent_returned,
    e.AgentTerminated: agents.agent_terminated,
    e.BreakerOpened: agents.breaker_opened,
    e.TaskSubmitted: tasks.task_submitted,
    e.TaskPlanned: tasks.task_planned,
    e.TaskStarted: tasks.task_started,
    e.TaskCancelling: tasks.task_cancelling,
    e.TaskEnded: tasks.task_ended,
    e.TaskForgotten: tasks.task_forgotten,
    e.WidthChanged: tasks.width_changed,
    e.PhaseBegun: tasks.phase_begun,
    e.StepsAdded: steps.steps_added,
    e.PhaseApproved: tasks.phase_approved,
    e.VoteCounted: tasks.vote_counted,
    e.PhaseEnded: tasks.phase_ended,
    e.StepReady: steps.step_ready,
    e.StepAssigned: steps.step_assigned,
    e.StepDuplicated: steps.step_duplicated,
    e.StepDone: steps.step_done,
    e.StepRetry: steps.step_retry,
    e.StepReturned: steps.step_returned,
    e.RunEnded: steps.run_ended,
    e.StepFailed: steps.step_failed,
    e.StepsCancelled: steps.steps_cancelled,
    e.ItemsGone: steps.items_gone,
    e.ResultIgnored: steps.result_ignored,
    e.InputAsked: tasks.input_asked,
    e.InputAnswered: tasks.input_answered,
    e.StepResumed: steps.step_resumed,
    e.MailSent: agents.mail_sent,
    e.MailTaken: agents.mail_taken,
    e.MailDropped: agents.mail_dropped,
}


# Snapshots


def snapshot(state: SwarmState) -> bytes:
    """The whole state as JSON; equal logs give equal bytes."""
    return _encoder.encode(state)


def restore(data: bytes) -> SwarmState:
    """A state from its snapshot, ready to go on.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    state = _decoder.decode(data)
    _rebuild(state)
    return state


def _rebuild(state: SwarmState) -> None:
    """Draw the agenda from the facts. Every task is looked at again: what followed, followed."""
    agenda = state.agenda
    for task in sorted(state.tasks.values(), key=lambda one: one.ended_ms):
        if task.ended:
            agenda.end(task.id, task.total, task.held_bytes)
            agenda.at(task.ended_ms + TASK_KEPT_MS, "keep", task.id)
    for task in state.tasks.values():
        if not task.ended:
            _rebuild_task(state, task)
    for agent in state.agents.values():
        due = {"spawning": ("spawn", SPAWN_MS), "lost": ("lost", LOST_KEPT_MS)}.get(agent.status)
        if due is not None:
            agenda.at(agent.changed_ms + due[1], due[0], agent.id)
        for item, since in agent.leaving.items():
            agenda.at(since + CANCEL_GRACE_MS, "leave", agent.id, item)
        if agent.breaker_until_ms:
            agenda.at(agent.breaker_until_ms, "breaker", agent.id)
        if agent.mailbox:
            agenda.at(agent.mailbox[0].until_ms, "mail", agent.id)
    rebuild_queues(state)


def _rebuild_task(state: SwarmState, task: TaskState) -> None:
    agenda = state.agenda
    agenda.live[task.id] = None
    agenda.at(task.deadline_ms, "task", task.id)
    agenda.touch(task.id)
    for before in task.spec.dependencies:
        if (other := state.tasks.get(before)) is not None and not other.ended:
            agenda.dependents.setdefault(before, []).append(task.id)
    for phase in task.phases.values():
        agenda.touch(task.id, phase.name)
        if phase.status == "running" and task.spec.strategy == "adaptive":
            agenda.straggling[task.id, phase.name] = phase.began_ms + STRAGGLER_CHECK_MS
    for step in task.steps.values():
        if step.plan.ballot or step.role:
            steps.note_group(state, task, step)
            groups = agenda.voted.setdefault((task.id, step.phase), {})
            groups[step.plan.group] = None
        if not step.ended:
            _rebuild_step(state, task, step)


def _rebuild_step(state: SwarmState, task: TaskState, step: StepState) -> None:
    agenda = state.agenda
    agenda.open += 1
    if step.status == "waiting":
        steps.wait_for(state, task, step)
    elif step.status == "assigned":
        agenda.running += 1
    for due_ms in (step.due_ms, *(run.due_ms for run in step.runs)):
        if due_ms:
            agenda.at(due_ms, "step", task.id, step.id)

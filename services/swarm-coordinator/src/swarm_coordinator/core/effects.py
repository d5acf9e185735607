"""What has to be said to whom once events are stored: pure, from the events and the state after.

Nothing here harms when it is repeated: receivers know items and ids.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from mcp_proto.contracts.swarm import Mail, WorkItem
from swarm_coordinator.core import events as e
from swarm_coordinator.core.events import Event
from swarm_coordinator.core.fold.steps import item_of
from swarm_coordinator.core.limits import ATTEMPT_GRACE_MS
from swarm_coordinator.core.schedule import payload_of
from swarm_coordinator.core.state import AgentState, Run, StepState, SwarmState, TaskState

__all__ = [
    "AnswerWork",
    "CancelWork",
    "DrainAgent",
    "Effect",
    "GrantEnded",
    "SendMail",
    "SendWork",
    "StopAgent",
    "SwarmChanged",
    "TaskChanged",
    "effects_of",
    "work_items",
]


class _Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do after the append."""


class SendWork(_Effect, frozen=True):
    """Send attempts to a host.

    ``context`` of each item is "": the sender puts a fresh one in, made from the grant of its task
    (``grants``: task → grant id; tasks without a grant are not in it).
    """

    host: str
    items: tuple[WorkItem, ...]
    grants: dict[str, str] = {}


class CancelWork(_Effect, frozen=True):
    """Tell a host to end attempts."""

    host: str
    items: tuple[str, ...]


class AnswerWork(_Effect, frozen=True):
    """Give a waiting attempt its answers (``AgentCommand.answers``)."""

    host: str
    agent: str
    item: str
    answers: dict[str, msgspec.Raw]


class DrainAgent(_Effect, frozen=True):
    """Tell a host that an agent shall take nothing new."""

    host: str
    agent: str


class StopAgent(_Effect, frozen=True):
    """Tell a host to end an agent's process."""

    host: str
    agent: str


class SendMail(_Effect, frozen=True):
    """Deliver a message; once the host has it, commit ``decide.mail_taken``."""

    host: str
    agent: str
    mail: Mail


class TaskChanged(_Effect, frozen=True):
    """The record of a task is stale. ``status`` = its status changed, not only its progress."""

    task: str
    status: bool = False
    ended: bool = False


class GrantEnded(_Effect, frozen=True):
    """A task has ended and no attempt of it runs: its grant can be revoked."""

    task: str
    grant: str


class SwarmChanged(_Effect, frozen=True):
    """The record of the swarm is stale (agents, status, owner, number of tasks)."""


Effect = (
    SendWork
    | CancelWork
    | AnswerWork
    | DrainAgent
    | StopAgent
    | SendMail
    | TaskChanged
    | GrantEnded
    | SwarmChanged
)


def work_items(state: SwarmState, items: Iterable[str]) -> list[SendWork | AnswerWork]:
    """Work of attempts that are on their way, by host: for the first sending and for repeats.

    Attempts that have been answered get their answers again. Items that are no longer wanted are
    passed over.
    """
    told = _Told(state)
    for item in items:
        told.send(item)
    return [*told.work_effects(), *told.answers]


def effects_of(state: SwarmState, events: Sequence[Event]) -> list[Effect]:
    """What ``events``, already folded into ``state``, ask for once they are stored."""
    told = _Told(state)
    for event in events:
        rule = _RULES.get(type(event))
        if rule is not None:
            rule(told, event)
        task = getattr(event, "task", "")
        if task and task in state.tasks:
            told.changed(task, status=type(event) in _STATUS)
    return told.effects()


_STATUS = (
    e.TaskSubmitted, e.TaskStarted, e.TaskCancelling, e.TaskEnded, e.InputAsked, e.InputAnswered,
    e.StepResumed,
)  # fmt: skip


class _Told:
    """Collects effects: work and cancels by host, each record once."""

    def __init__(self, state: SwarmState) -> None:
        self.state = state
        self.others: list[Effect] = []
        self.answers: list[AnswerWork] = []
        self._work: dict[str, dict[str, WorkItem]] = {}
        self._cancels: dict[str, dict[str, None]] = {}
        self._grants: dict[str, str] = {}
        self._tasks: dict[str, bool] = {}
        self._swarm = False

    def send(self, item: str) -> None:
        """An attempt, if it is still wanted."""
        name, _, rest = item.partition(".")
        task = self.state.tasks.get(name)
        step = task.steps.get(rest.rpartition("-")[0]) if task is not None else None
        run = next((one for one in step.runs if one.item == item), None) if step else None
        agent = self.state.agents.get(run.agent) if run is not None else None
        if task is None or step is None or run is None or agent is None or not agent.host:
            return
        self._work.setdefault(agent.host, {})[item] = _item(task, step, run, agent)
        if task.grant:
            self._grants[task.id] = task.grant
        if step.answers and not step.asked:
            self.answer(agent, item, step.answers)

    def answer(self, agent: AgentState, item: str, answers: dict[str, msgspec.Raw]) -> None:
        """Answers for an attempt."""
        self.answers.append(
            AnswerWork(host=agent.host, agent=agent.id, item=item, answers=dict(answers))
        )

    def cancel(self, items: Iterable[str]) -> None:
        """Attempts that their agents are leaving."""
        for item in items:
            for agent in self.state.agents.values():
                if item in agent.leaving and agent.host:
                    self._cancels.setdefault(agent.host, {})[item] = None

    def changed(self, task: str, *, status: bool) -> None:
        """The record of a task."""
        self._tasks[task] = self._tasks.get(task, False) or status

    def swarm_changed(self) -> None:
        """The record of the swarm."""
        self._swarm = True

    def work_effects(self) -> list[SendWork]:
        """Work by host."""
        return [
            SendWork(
                host=host,
                items=tuple(items.values()),
                grants={
                    item.task: self._grants[item.task]
                    for item in items.values()
                    if item.task in self._grants
                },
            )
            for host, items in self._work.items()
        ]

    def effects(self) -> list[Effect]:
        """All, cancels first: they free slots that the work needs."""
        tasks = self.state.tasks
        return [
            *(CancelWork(host=host, items=tuple(items)) for host, items in self._cancels.items()),
            *self.work_effects(),
            *self.answers,
            *self.others,
            *(
                TaskChanged(task=name, status=status, ended=tasks[name].ended)
                for name, status in self._tasks.items()
            ),
            *((SwarmChanged(),) if self._swarm else ()),
        ]


def _item(task: TaskState, step: StepState, run: Run, agent: AgentState) -> WorkItem:
    timeout_s = step.plan.timeout_s or agent.timeout_s
    return WorkItem(
        agent=run.agent,
        epoch=run.epoch,
        item=run.item,
        task=task.id,
        phase=step.phase,
        step=step.id,
        attempt=run.attempt,
        kind=step.kind,
        payload=payload_of(task, step),
        idempotency=f"{task.id}.{step.id}",
        idempotent=step.plan.idempotent,
        timeout_ms=run.due_ms - run.sent_ms - ATTEMPT_GRACE_MS if run.due_ms else timeout_s * 1000,
        deadline_ms=task.deadline_ms,
    )


# One rule for each event that asks for something


def _sent(told: _Told, event: e.StepAssigned | e.StepDuplicated) -> None:
    told.send(item_of(event.task, event.step, event.attempt))


def _done(told: _Told, event: e.StepDone) -> None:
    told.cancel(event.others)
    _let_go(told, event.task)


def _ended_badly(told: _Told, event: e.StepRetry | e.RunEnded | e.StepFailed) -> None:
    if event.stop:
        told.cancel((event.item,))


def _cancelled(told: _Told, event: e.StepsCancelled) -> None:
    told.cancel(event.items)


def _resumed(told: _Told, event: e.StepResumed) -> None:
    task = told.state.tasks.get(event.task)
    step = task.steps.get(event.step) if task is not None else None
    run = next((one for one in step.runs if one.item == event.item), None) if step else None
    agent = told.state.agents.get(run.agent) if run is not None else None
    if agent is not None and agent.host:
        told.answer(agent, event.item, event.answers)


def _draining(told: _Told, event: e.AgentDraining) -> None:
    agent = told.state.agents.get(event.agent)
    if agent is not None and agent.host:
        told.others.append(DrainAgent(host=agent.host, agent=agent.id))
    told.swarm_changed()


def _terminated(told: _Told, event: e.AgentTerminated) -> None:
    agent = told.state.agents.get(event.agent)
    if agent is not None and agent.host:
        told.others.append(StopAgent(host=agent.host, agent=agent.id))
    told.swarm_changed()


def _present(told: _Told, event: e.AgentActive | e.AgentAttached | e.AgentReturned) -> None:
    """What waited for it is delivered."""
    agent = told.state.agents.get(event.agent)
    if agent is not None:
        for held in agent.mailbox:
            told.others.append(SendMail(host=agent.host, agent=agent.id, mail=held.mail))
    told.swarm_changed()


def _mail(told: _Told, event: e.MailSent) -> None:
    agent = told.state.agents.get(event.to)
    if agent is None or not any(one.mail.id == event.mail.id for one in reversed(agent.mailbox)):
        return  # delivered already, and only counted
    if agent.host and agent.status in ("active", "draining"):
        told.others.append(SendMail(host=agent.host, agent=agent.id, mail=event.mail))


def _task_ended(told: _Told, event: e.TaskEnded) -> None:
    told.swarm_changed()
    _let_go(told, event.task)


def _let_go(told: _Told, name: str) -> None:
    """The grant of an ended task, once no attempt is left that might use it."""
    task = told.state.tasks.get(name)
    if task is not None and task.ended and task.grant and not task.leaving:
        effect = GrantEnded(task=name, grant=task.grant)
        if effect not in told.others:
            told.others.append(effect)


def _gone(told: _Told, event: e.ItemsGone) -> None:
    for name in dict.fromkeys(item.partition(".")[0] for item in event.items):
        told.changed(name, status=False) if name in told.state.tasks else None
        _let_go(told, name)


def _ignored(told: _Told, event: e.ResultIgnored) -> None:
    _let_go(told, event.task)


def _owner(told: _Told, _event: e.OwnerChanged) -> None:
    """All that is on its way is sent again, and all that shall be cancelled is said again."""
    for agent in told.state.agents.values():
        for item in agent.items:
            told.send(item)
        told.cancel(agent.leaving)
        if agent.status in ("active", "draining"):
            for held in agent.mailbox:
                told.others.append(SendMail(host=agent.host, agent=agent.id, mail=held.mail))
    for name in told.state.tasks:
        told.changed(name, status=True)
    told.swarm_changed()


def _swarm(told: _Told, _event: Event) -> None:
    told.swarm_changed()


_RULES: dict[type, Callable[[_Told, Any], None]] = {
    e.SwarmCreated: _swarm,
    e.SwarmDestroyed: _swarm,
    e.OwnerChanged: _owner,
    e.AgentAdded: _swarm,
    e.AgentPlaced: _swarm,
    e.AgentAttached: _present,
    e.AgentActive: _present,
    e.AgentReturned: _present,
    e.AgentDraining: _draining,
    e.AgentLost: _swarm,
    e.AgentTerminated: _terminated,
    e.TaskSubmitted: _swarm,
    e.TaskEnded: _task_ended,
    e.StepAssigned: _sent,
    e.StepDuplicated: _sent,
    e.StepDone: _done,
    e.StepRetry: _ended_badly,
    e.RunEnded: _ended_badly,
    e.StepFailed: _ended_badly,
    e.StepsCancelled: _cancelled,
    e.StepResumed: _resumed,
    e.ItemsGone: _gone,
    e.ResultIgnored: _ignored,
    e.MailSent: _mail,
}

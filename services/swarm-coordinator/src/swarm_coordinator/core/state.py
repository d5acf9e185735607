"""What a swarm is: the fold of its log. Facts only; what follows from them is in ``index``.

``evolve`` changes these structs in place and is the only one that may. Everything is JSON, so a
snapshot is the encoded state, and equal logs give equal bytes. Times are Unix ms.
"""

from functools import cached_property
from typing import Literal

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.agenda import Agenda
from swarm_coordinator.core.facts import Facts
from swarm_coordinator.core.spec import SwarmConfig, TaskSpec, Topology
from swarm_coordinator.core.state_agents import AgentState, AgentStats, AgentStatus, Held
from swarm_coordinator.core.state_steps import (
    OPEN_STEPS,
    TERMINAL_PHASES,
    TERMINAL_STEPS,
    Failure,
    PhaseState,
    PhaseStatus,
    Request,
    Run,
    StepState,
    StepStatus,
    VoteState,
)
from swarm_coordinator.core.views import Plan

__all__ = [
    "OPEN_STEPS",
    "TERMINAL_PHASES",
    "TERMINAL_STEPS",
    "TERMINAL_TASKS",
    "AgentState",
    "AgentStats",
    "AgentStatus",
    "Counters",
    "Failure",
    "Held",
    "PhaseState",
    "PhaseStatus",
    "Request",
    "Run",
    "Spent",
    "StepState",
    "StepStatus",
    "SwarmState",
    "TaskState",
    "TaskStatus",
    "VoteState",
    "Window",
]

TaskStatus = Literal[
    "queued", "running", "waiting", "completed", "failed", "cancelling", "cancelled"
]
TERMINAL_TASKS = frozenset({"completed", "failed", "cancelled"})


class Spent(Facts):
    """What a task has used; every result counts, late ones too."""

    tokens: int = 0
    tool_calls: int = 0
    messages: int = 0
    wall_ms: float = 0.0
    cpu_ms: float = 0.0


class Window(Facts):
    """Results since the width of an adaptive task last changed."""

    done: int = 0
    failed: int = 0
    busy: int = 0


class TaskState(Facts):
    """One task.

    Attributes:
        id: ``task_…``.
        principal: who submitted it.
        spec: as asked for.
        plan: phases.
        team: agent ids.
        roles: of the team, in the same order: ``coordinator``, ``validator``, ``worker``.
        status: ``waiting`` = for a person.
        reason: why it failed: ``timeout``, ``budget``, ``threshold``, ``vote``, ``plan``,
            ``dependency``, ``lost``, ``declined``, ``destroyed``; "" otherwise.
        message: public text of that.
        phases: by name, in plan order.
        steps: by id.
        requests: open questions by key.
        asked: questions so far; numbers their keys.
        spent: used so far.
        total: steps known.
        done: of those, done.
        failed: finally failed.
        counted: finally failed in phases whose ``on_failure`` is ``fail``: the threshold's.
        ended_steps: terminal, whatever way.
        running: assigned now.
        leaving: attempts told to cancel that are not gone yet.
        retries: attempts after the first.
        late: results that came after their step had ended.
        cancelled_late: of those, finished although cancelled.
        duplicates: results that came again.
        ignored: results from an agent or host that did not have the step.
        failures: the first ``FAILURES_KEPT_MAX``.
        partial: completed although something failed.
        width: ``adaptive``: steps at once; 0 = no bound of its own.
        window: ``adaptive``: results since the width changed.
        created_ms: submitted.
        updated_ms: last event.
        started_ms: first step sent; 0 = none yet.
        ended_ms: 0 = not yet.
        deadline_ms: end of ``timeout`` or of the wall budget.
        grant: id of the delegated grant; "" = none.
        idempotency: key of the submitter; "" = none.
        result: JSON; ``ABSENT`` = none, or in ``result_ref``.
        result_ref: of a large result.
    """

    id: str
    principal: str
    spec: TaskSpec
    plan: Plan
    team: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    status: TaskStatus = "queued"
    reason: str = ""
    message: str = ""
    phases: dict[str, PhaseState] = msgspec.field(default_factory=dict[str, PhaseState])
    steps: dict[str, StepState] = msgspec.field(default_factory=dict[str, StepState])
    requests: dict[str, Request] = msgspec.field(default_factory=dict[str, Request])
    asked: int = 0
    spent: Spent = msgspec.field(default_factory=Spent)
    total: int = 0
    done: int = 0
    failed: int = 0
    counted: int = 0
    ended_steps: int = 0
    running: int = 0
    leaving: int = 0
    retries: int = 0
    late: int = 0
    cancelled_late: int = 0
    duplicates: int = 0
    ignored: int = 0
    failures: list[Failure] = msgspec.field(default_factory=list[Failure])
    partial: bool = False
    width: int = 0
    window: Window = msgspec.field(default_factory=Window)
    created_ms: int = 0
    updated_ms: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    deadline_ms: int = 0
    grant: str = ""
    idempotency: str = ""
    result: msgspec.Raw = ABSENT
    result_ref: str = ""

    def agents_of(self, step: StepState) -> tuple[str, ...]:
        """Agents that may do a step."""
        return step.plan.agents or self.phases[step.phase].agents

    @property
    def held_bytes(self) -> int:
        """Of its result and the outputs of its phases."""
        return memoryview(self.result).nbytes + sum(
            memoryview(phase.output).nbytes for phase in self.phases.values()
        )

    @property
    def ended(self) -> bool:
        """Terminal: its status never changes again."""
        return self.status in TERMINAL_TASKS


class Counters(Facts):
    """Since the swarm began.

    Attributes:
        submitted: tasks.
        completed: tasks; ``partial`` ones included.
        failed: tasks.
        cancelled: tasks.
        sent: attempts.
        done: steps.
        failures: finally failed steps.
        retries: attempts after the first.
        losses: attempts lost or rejected.
        late: results after the end of their step.
        duplicates: results that came again.
        ignored: results of the wrong agent or host.
        mails: messages accepted.
        mails_dropped: given way, or over an hour old.
        completed_ms: total time of completed tasks.
        owners: times the owner changed.
    """

    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    sent: int = 0
    done: int = 0
    failures: int = 0
    retries: int = 0
    losses: int = 0
    late: int = 0
    duplicates: int = 0
    ignored: int = 0
    mails: int = 0
    mails_dropped: int = 0
    completed_ms: int = 0
    owners: int = 0


class SwarmState(Facts, dict=True):
    """A swarm.

    Attributes:
        swarm: ``swarm_…``.
        tenant: whose tenant.
        principal: who made it.
        name: for people.
        topology: shape.
        config: settings.
        idempotency: key it was made with.
        status: ``destroyed`` takes nothing any more.
        created_ms: when it was made.
        ended_ms: when it was destroyed.
        owner: replica that has it.
        node: machine of that replica; tasks with ``mode: local`` are done there.
        owner_epoch: counts owners.
        sequence: events folded so far.
        agents: by id, in order of creation; terminated ones stay for a while.
        tasks: by id, in order of submission; ended ones stay for a while.
        keys: principal, NUL and key of an idempotent submit → task; kept after it is forgotten.
        links: messages by link ``from>to``.
        counters: since it began.
    """

    swarm: str
    tenant: str
    principal: str
    name: str = ""
    topology: Topology = "mesh"
    config: SwarmConfig = SwarmConfig()
    idempotency: str = ""
    status: Literal["active", "destroyed"] = "active"
    created_ms: int = 0
    ended_ms: int = 0
    owner: str = ""
    node: str = ""
    owner_epoch: int = 0
    sequence: int = 0
    agents: dict[str, AgentState] = msgspec.field(default_factory=dict[str, AgentState])
    tasks: dict[str, TaskState] = msgspec.field(default_factory=dict[str, TaskState])
    keys: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    links: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    counters: Counters = msgspec.field(default_factory=Counters)

    @cached_property
    def agenda(self) -> Agenda:
        """What is to be done next, derived: queues, timers, counts. Rebuilt after a restore."""
        return Agenda()

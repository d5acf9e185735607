"""What can happen to tasks, phases, steps and attempts. Contract: see ``events``."""

from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Ballot, StepError, Usage
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.facts import LogEntry
from swarm_coordinator.core.spec import TaskSpec
from swarm_coordinator.core.state_steps import Request, VoteState
from swarm_coordinator.core.views import Plan, StepPlan

__all__ = [
    "InputAnswered",
    "InputAsked",
    "ItemsGone",
    "PhaseApproved",
    "PhaseBegun",
    "PhaseEnded",
    "ResultIgnored",
    "RunEnded",
    "StepAssigned",
    "StepDone",
    "StepDuplicated",
    "StepFailed",
    "StepReady",
    "StepResumed",
    "StepRetry",
    "StepReturned",
    "StepsAdded",
    "StepsCancelled",
    "TaskCancelling",
    "TaskEnded",
    "TaskForgotten",
    "TaskPlanned",
    "TaskStarted",
    "TaskSubmitted",
    "VoteCounted",
    "WidthChanged",
]


# Tasks


class TaskSubmitted(LogEntry, frozen=True, tag="task"):
    """A task was accepted: ``queued``."""

    task: str
    principal: str
    spec: TaskSpec
    deadline_ms: int
    team: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    grant: str = ""
    idempotency: str = ""


class TaskPlanned(LogEntry, frozen=True, tag="plan"):
    """Its plan; again when a planner agent made one, with the team for that (() = as it was)."""

    task: str
    plan: Plan
    team: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


class TaskStarted(LogEntry, frozen=True, tag="started"):
    """Its dependencies have completed: ``running``."""

    task: str
    width: int = 0


class TaskCancelling(LogEntry, frozen=True, tag="cancelling"):
    """Somebody wants it ended; its steps are cancelled by an event of their own."""

    task: str
    reason: str = ""


class TaskEnded(LogEntry, frozen=True, tag="ended"):
    """Terminal."""

    task: str
    status: Literal["completed", "failed", "cancelled"]
    reason: str = ""
    message: str = ""
    partial: bool = False
    result: msgspec.Raw = ABSENT
    result_ref: str = ""


class TaskForgotten(LogEntry, frozen=True, tag="forgotten"):
    """An ended task leaves the state."""

    task: str


class WidthChanged(LogEntry, frozen=True, tag="width"):
    """``adaptive``: how many steps at once from now on, and why."""

    task: str
    width: int
    reason: str = ""


# Phases


class PhaseBegun(LogEntry, frozen=True, tag="phase"):
    """Its steps follow in ``StepsAdded`` until ``total`` is reached.

    ``team`` are the agents that its steps were made for.
    """

    task: str
    phase: str
    total: int
    team: tuple[str, ...] = ()


class StepsAdded(LogEntry, frozen=True, tag="steps"):
    """Steps of a phase, in order. ``waiting`` until those they come after are done.

    ``agents`` = those of every step that names none itself: wide phases would repeat them.
    """

    task: str
    phase: str
    steps: tuple[StepPlan, ...]
    agents: tuple[str, ...] = ()
    round: int = 1
    role: Literal["", "judge", "decide"] = ""


class PhaseApproved(LogEntry, frozen=True, tag="approved"):
    """A person agreed that it begins."""

    task: str
    phase: str


class VoteCounted(LogEntry, frozen=True, tag="vote"):
    """How the vote of a group stands.

    ``agreed`` and ``differed`` name voters whose ballots were, or were not, the decision.
    """

    task: str
    phase: str
    group: str
    vote: VoteState
    agreed: tuple[str, ...] = ()
    differed: tuple[str, ...] = ()


class PhaseEnded(LogEntry, frozen=True, tag="phase-ended"):
    """Terminal. ``skipped`` = because of its dependencies."""

    task: str
    phase: str
    status: Literal["done", "failed", "skipped", "cancelled"]
    output: msgspec.Raw = ABSENT
    reason: str = ""
    message: str = ""


# Steps and attempts


class StepReady(LogEntry, frozen=True, tag="ready"):
    """What it waited for is done, or its wait before the next attempt is over."""

    task: str
    steps: tuple[str, ...]


class StepAssigned(LogEntry, frozen=True, tag="sent"):
    """An attempt goes to an agent: ``item`` = ``{task}.{step}-{attempt}``."""

    task: str
    step: str
    agent: str
    attempt: int
    due_ms: int


class StepDuplicated(LogEntry, frozen=True, tag="twin"):
    """A second attempt of a slow step, elsewhere; the first valid result counts."""

    task: str
    step: str
    agent: str
    attempt: int
    due_ms: int
    reason: str = ""


class StepDone(LogEntry, frozen=True, tag="done"):
    """Terminal: the first valid result. Other attempts of the step are cancelled (``others``)."""

    task: str
    step: str
    item: str
    agent: str
    output: msgspec.Raw = ABSENT
    ballot: Ballot | None = None
    usage: Usage | None = None
    wall_ms: float | None = None
    artifacts: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class StepRetry(LogEntry, frozen=True, tag="retry"):
    """An attempt failed and was used up; the next may begin at ``due_ms`` (jitter included).

    ``stop`` = the attempt may still run, its host is told to cancel it.
    """

    task: str
    step: str
    item: str
    agent: str
    error: StepError
    due_ms: int
    usage: Usage | None = None
    stop: bool = False


class StepReturned(LogEntry, frozen=True, tag="back"):
    """An attempt was lost or rejected, which uses none up; the next may begin at ``due_ms``.

    ``excluded`` = the agent shall not get it again.
    """

    task: str
    step: str
    item: str
    agent: str
    error: StepError
    due_ms: int
    excluded: bool = False
    usage: Usage | None = None


class RunEnded(LogEntry, frozen=True, tag="run"):
    """One of two attempts ended badly; the other goes on."""

    task: str
    step: str
    item: str
    agent: str
    error: StepError
    usage: Usage | None = None
    stop: bool = False


class StepFailed(LogEntry, frozen=True, tag="failed"):
    """Terminal: no further attempt. ``item`` = the last one, "" = there was none on its way."""

    task: str
    step: str
    error: StepError
    item: str = ""
    agent: str = ""
    usage: Usage | None = None
    stop: bool = False


class StepsCancelled(LogEntry, frozen=True, tag="cancelled"):
    """Terminal: nobody wants these any more; ``items`` are on their way and are cancelled.

    ``skipped`` = they never were to run.
    """

    task: str
    steps: tuple[str, ...]
    items: tuple[str, ...] = ()
    reason: str = ""
    skipped: bool = False


class ItemsGone(LogEntry, frozen=True, tag="gone"):
    """Cancelled attempts are no longer with their agent: their slots are free."""

    agent: str
    items: tuple[str, ...]
    reason: str = ""


class ResultIgnored(LogEntry, frozen=True, tag="ignored"):
    """A result that changes no step, and is counted.

    Attributes:
        status: of the result.
        reason: ``late`` (its step has ended), ``duplicate``, ``wrong_agent``, ``wrong_host``.
    """

    task: str
    step: str
    item: str
    agent: str
    status: str
    reason: Literal["late", "duplicate", "wrong_agent", "wrong_host"]
    usage: Usage | None = None


# People


class InputAsked(LogEntry, frozen=True, tag="ask"):
    """Questions to the submitter; the task waits."""

    task: str
    requests: dict[str, Request]


class InputAnswered(LogEntry, frozen=True, tag="answer"):
    """One of them is answered; it waits with the others of its attempt, or is gone."""

    task: str
    key: str
    answer: msgspec.Raw


class StepResumed(LogEntry, frozen=True, tag="resumed"):
    """All questions of a waiting attempt are answered (by the agent's own keys); it goes on."""

    task: str
    step: str
    item: str
    answers: dict[str, msgspec.Raw]
    due_ms: int

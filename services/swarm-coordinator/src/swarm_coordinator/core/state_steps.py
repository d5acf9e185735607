"""What a task knows of its phases, steps, attempts and votes. Times are Unix ms."""

from typing import Literal

import msgspec

from mcp_proto.contracts.swarm import Ballot, StepError, Usage
from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.facts import Facts, FrozenFacts
from swarm_coordinator.core.spec import RetryPolicy
from swarm_coordinator.core.views import Kind, StepPlan

__all__ = [
    "OPEN_STEPS",
    "TERMINAL_PHASES",
    "TERMINAL_STEPS",
    "Failure",
    "PhaseState",
    "PhaseStatus",
    "Request",
    "Run",
    "StepState",
    "StepStatus",
    "VoteState",
]

PhaseStatus = Literal[
    "pending", "approving", "beginning", "running", "deciding", "done", "failed", "skipped",
    "cancelled",
]  # fmt: skip
StepStatus = Literal[
    "waiting", "ready", "assigned", "retrying", "done", "failed", "cancelled", "skipped"
]

TERMINAL_PHASES = frozenset({"done", "failed", "skipped", "cancelled"})
TERMINAL_STEPS = frozenset({"done", "failed", "cancelled", "skipped"})
OPEN_STEPS = frozenset({"waiting", "ready", "assigned", "retrying"})


class Run(FrozenFacts, frozen=True, gc=False):
    """One attempt on its way; ``due_ms`` = when the owner gives up on it, 0 = never (waits)."""

    item: str
    agent: str
    epoch: int
    attempt: int
    sent_ms: int
    due_ms: int


class StepState(Facts, gc=False):
    """One step.

    Attributes:
        plan: what it is; ``agents`` is empty where they are those of its phase.
        status: ``retrying`` waits for ``due_ms``.
        attempt: times it was sent; part of the item, so that items are unique.
        failures: attempts used up; lost and rejected ones use none.
        losses: attempts lost or rejected.
        runs: attempts on their way: one, or two while a straggler has a duplicate.
        former: attempts given up on whose result would still count.
        excluded: agents that rejected it.
        begun: an attempt may have had effects; false while all were refused before they ran.
        ready_ms: when it last became ready.
        due_ms: when it is tried again; while ready, when waiting for an agent ends.
        agent: who ended it.
        item: the attempt that ended it.
        output: JSON; ``ABSENT`` = none.
        ballot: a vote.
        error: why it failed, or why the last attempt did.
        usage: of the attempt that counted.
        wall_ms: from sending to result.
        artifacts: URIs.
        ended_ms: when it became terminal.
        reason: why it was cancelled or skipped.
        asked: it waits for answers (``TaskState.requests``).
        answers: the last ones it was given, by its own keys; sent again with the work.
        role: ``judge`` and ``decide``: made by a vote, not by the plan.
        round: of a vote, from 1.
    """

    plan: StepPlan
    status: StepStatus = "waiting"
    attempt: int = 0
    failures: int = 0
    losses: int = 0
    runs: tuple[Run, ...] = ()
    former: tuple[Run, ...] = ()
    excluded: tuple[str, ...] = ()
    begun: bool = False
    ready_ms: int = 0
    due_ms: int = 0
    agent: str = ""
    item: str = ""
    output: msgspec.Raw = ABSENT
    ballot: Ballot | None = None
    error: StepError | None = None
    usage: Usage | None = None
    wall_ms: float | None = None
    artifacts: tuple[str, ...] = ()
    ended_ms: int = 0
    reason: str = ""
    asked: bool = False
    answers: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict[str, msgspec.Raw])
    role: Literal["", "judge", "decide"] = ""
    round: int = 1

    @property
    def id(self) -> str:
        """Unique in the task."""
        return self.plan.step

    @property
    def phase(self) -> str:
        """Its phase."""
        return self.plan.phase

    @property
    def kind(self) -> Kind:
        """As in ``WorkItem``."""
        return self.plan.kind

    @property
    def payload(self) -> msgspec.Raw:
        """As in ``WorkItem``, before ``takes`` is heeded."""
        return self.plan.payload

    @property
    def retry(self) -> RetryPolicy:
        """How it is tried again."""
        return self.plan.retry

    @property
    def ended(self) -> bool:
        """Terminal: never changes again."""
        return self.status in TERMINAL_STEPS


class VoteState(Facts):
    """What a vote came to. JSON values.

    Attributes:
        decision: the winning choice; ``ABSENT`` = none (yet).
        reached: by the rule itself.
        method: rule, or the conflict resolution that decided.
        rounds: taken.
        early: fixed before every ballot was in.
        tally: the last count: votes, shares, weights, dissent (``ballots.Tally``).
        message: why it was not reached.
        ended: decided, or finally not.
    """

    decision: msgspec.Raw = ABSENT
    reached: bool = False
    method: str = ""
    rounds: int = 1
    early: bool = False
    tally: msgspec.Raw = ABSENT
    message: str = ""
    ended: bool = False


class PhaseState(Facts):
    """One phase.

    Attributes:
        name: of its plan.
        status: ``approving`` and ``deciding`` wait for a person (or agent, ``deciding``).
        steps: ids in order; those added by a vote come behind.
        total: steps it begins with; -1 = not known yet.
        open: steps not terminal.
        done: steps done.
        failed: steps finally failed.
        output: JSON; ``ABSENT`` = none.
        votes: by group (``"0"`` without fan-out).
        approved: a person agreed.
        team: agents that its steps were made for.
        agents: those of its steps whose plan names none (``agents_of``).
        began_ms: 0 = not yet.
        ended_ms: 0 = not yet.
        reason: word for why it failed as a whole (``plan``, ``vote``, ``aggregate``,
            ``declined``); "" = its steps tell.
        message: why it failed or was skipped.
    """

    name: str
    status: PhaseStatus = "pending"
    steps: list[str] = msgspec.field(default_factory=list[str])
    total: int = -1
    open: int = 0
    done: int = 0
    failed: int = 0
    output: msgspec.Raw = ABSENT
    votes: dict[str, VoteState] = msgspec.field(default_factory=dict[str, VoteState])
    approved: bool = False
    team: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    began_ms: int = 0
    ended_ms: int = 0
    reason: str = ""
    message: str = ""

    @property
    def ended(self) -> bool:
        """Terminal."""
        return self.status in TERMINAL_PHASES


class Request(FrozenFacts, frozen=True):
    """An open question to the submitter; its key in ``TaskState.requests`` is what he answers to.

    Attributes:
        kind: ``approval`` of a phase, ``vote`` (a person decides), ``step`` (an agent asks).
        request: MCP input request, ``{"method", "params"}``.
        phase: whose.
        step: ``step``: who asks.
        item: ``step``: its attempt.
        name: ``step``: key the agent used.
        group: ``vote``: which.
        answer: given, while others of the same attempt are still open; ``ABSENT`` = open.
    """

    kind: Literal["approval", "vote", "step"]
    request: msgspec.Raw
    phase: str = ""
    step: str = ""
    item: str = ""
    name: str = ""
    group: str = ""
    answer: msgspec.Raw = ABSENT


class Failure(FrozenFacts, frozen=True):
    """A finally failed step, or a phase that could not go on (``step`` = "")."""

    phase: str
    step: str = ""
    agent: str = ""
    type: str = ""
    message: str = ""
    outcome: Literal["not_executed", "unknown", "executed"] = "executed"
    attempts: int = 0

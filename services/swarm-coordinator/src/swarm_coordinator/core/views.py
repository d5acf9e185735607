"""What planning sees and says: agents as it needs them, phases and steps as it made them.

Everything here may be stored in the log as it stands. The state's own records of agents and steps
hold more; these hold what plans, teams and topologies depend on, and no more.
"""

from typing import Literal

import msgspec

from mcp_proto.jsonrpc import ABSENT
from swarm_coordinator.core.spec import Aggregate, Coordination, Fanout, RetryPolicy

__all__ = [
    "AgentView",
    "Kind",
    "MergeForm",
    "Pace",
    "PhasePlan",
    "Plan",
    "PlanError",
    "StepPlan",
    "Takes",
]

Kind = Literal["tool", "prompt", "call", "vote", "validate", "merge"]
Takes = Literal["nothing", "previous", "outputs"]


class PlanError(Exception):
    """A task that cannot be planned as asked; outward -32602, or why a phase failed.

    Attributes:
        where: JSON pointer into the arguments (``/task/phases/2/dependencies/0``), or into the
            outputs for a reference that does not hold (``/lint/output/3``).
        message: what was expected there; public text.
    """

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}" if where else message)
        self.where = where
        self.message = message


class _View(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; defaults are left out of the log."""


class Pace(_View, frozen=True, kw_only=True):
    """How long an agent takes for one kind of step: moving average, and of how many."""

    ewma_ms: float
    samples: int


class AgentView(_View, frozen=True, kw_only=True):
    """An agent that can be given work.

    Attributes:
        id: agent id.
        type: ``reviewer`` …
        name: for people; may be used in ``agents`` of a phase.
        capabilities: what it declared.
        slots: steps at once.
        load: steps it has now.
        success_rate: 0..1; None = nothing done yet.
        joined_ms: when it was spawned; spawn order is rank.
        durations: by kind of step.
        parent: explicit parent (``hierarchical``); "" = by spawn order.
    """

    id: str
    type: str
    name: str = ""
    capabilities: tuple[str, ...] = ()
    slots: int = 1
    load: int = 0
    success_rate: float | None = None
    joined_ms: int = 0
    durations: dict[str, Pace] = {}
    parent: str = ""


class MergeForm(_View, frozen=True, kw_only=True):
    """Input of the merges of a phase whose agents have a form of their own.

    Attributes:
        input: JSON object that ``member`` is put into.
        member: name of the array of outputs.
        begin: reference to a value that the last merge begins with; "" = none. ``null`` is none.
    """

    input: msgspec.Raw = msgspec.Raw(b"{}")
    member: str = "outputs"
    begin: str = ""


class PhasePlan(_View, frozen=True, kw_only=True):
    """One phase, checked, every default applied; ``steps_of`` makes its steps when it begins.

    Attributes:
        name: unique in the plan.
        where: JSON pointer of the phase in the arguments; "" = made by us.
        agents: ids, names or types; empty = the team.
        requires: capabilities that its one agent must have all of.
        kind: of its steps.
        tool: with ``tool``.
        prompt: "" = none.
        input: JSON with references; ``ABSENT`` = none.
        dependencies: phases that must have ended, names in plan order; a sequential plan adds the
            phase before.
        fanout: None = one step, or one per agent (``each``).
        each: one step for every agent of the phase.
        single: its output is the output of its only step as it is, and not an aggregate.
        chained: its steps run one after the other, each given the output of the one before.
        previous: phase whose output the first step of a chain is given; "" = none.
        elsewhere: member of an item that names the agent which shall not do it; "" = none.
        items_min: fewer items of its fan-out are an error.
        optional: ``itemsFrom`` may name nothing, which is an empty list.
        merge: form of its merges; None = the usual one.
        gathers: it reduces what the phases before came to, those that failed left out.
        aggregate: how its outputs become one; of a voting phase with fan-out, its decisions.
        vote: None = no vote.
        timeout_s: of one attempt; 0 = that of the agent.
        retry: of its steps.
        idempotent: may run twice.
        on_failure: what a finally failed step means.
        approval: a person must agree before it begins.
    """

    name: str
    where: str = ""
    agents: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    kind: Kind = "call"
    tool: str = ""
    prompt: str = ""
    input: msgspec.Raw = ABSENT
    dependencies: tuple[str, ...] = ()
    fanout: Fanout | None = None
    each: bool = False
    single: bool = False
    chained: bool = False
    previous: str = ""
    elsewhere: str = ""
    items_min: int = 0
    optional: bool = False
    merge: MergeForm | None = None
    gathers: bool = False
    aggregate: Aggregate = Aggregate()
    vote: Coordination | None = None
    timeout_s: int = 0
    retry: RetryPolicy = RetryPolicy()
    idempotent: bool = True
    on_failure: Literal["fail", "continue", "skip_dependents"] = "fail"
    approval: bool = False


class Plan(_View, frozen=True, kw_only=True):
    """Phases in an order in which each stands behind its dependencies.

    Attributes:
        phases: all of them.
        source: where they come from. With ``planner`` the only phase asks a planner agent, and
            ``plan.planned`` makes the real plan of its output.
        outputs: phases whose outputs are the task's result; of several, the task's
            ``resultAggregation`` over them, in this order.
        warnings: what was asked for and could not be heeded.
    """

    phases: tuple[PhasePlan, ...]
    source: Literal["phases", "template", "planner", "broadcast"] = "broadcast"
    outputs: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class StepPlan(_View, frozen=True, kw_only=True):
    """One step, ready to be stored and later sent as a ``WorkItem``.

    Attributes:
        step: id, unique in the task, the same for the same outputs: ``{phase}-{n}``.
        phase: its phase.
        kind: as in ``WorkItem``.
        payload: as in ``WorkItem``; with ``takes`` completed by ``steps.bound`` before it is sent.
        agents: ids of those that may do it, never empty; exactly one for a voter.
        prefer: the agent that the topology wants, while it lives; "" = none.
        avoid: agents that shall not do it if any other can.
        requires: capabilities that its agent must have all of (``agents`` have them already).
        after: steps of the same phase that must be done before.
        takes: ``previous``: the output of ``after`` completes the payload; ``outputs``: those of
            all ``after``, in that order, are put at the end of an array of a merge.
        holes: pairs of JSON pointers (into the payload, into the output): where what it takes goes.
        result: its output is one of the phase's outputs (not one that a later step takes up).
        ballot: its output is a ballot.
        group: steps with the same number are tallied together (index of the fan-out item).
        timeout_s: of one attempt; 0 = that of the agent.
        retry: how it is tried again.
        idempotent: may run twice.
        on_failure: what its final failure means.
    """

    step: str
    phase: str
    kind: Kind
    payload: msgspec.Raw
    agents: tuple[str, ...]
    prefer: str = ""
    avoid: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    takes: Takes = "nothing"
    holes: tuple[tuple[str, str], ...] = ()
    result: bool = True
    ballot: bool = False
    group: int = 0
    timeout_s: int = 0
    retry: RetryPolicy = RetryPolicy()
    idempotent: bool = True
    on_failure: Literal["fail", "continue", "skip_dependents"] = "fail"

"""The vocabulary of tasks: what was asked for, after every alias and default has been applied.

Read by the planner, the ballots and the reducer, and stored in the log as it stands. Names of
members are those of the tool schemas (reference swarm.md, section 8).
"""

from typing import Literal

import msgspec

from mcp_proto.jsonrpc import ABSENT

__all__ = [
    "AGGREGATES",
    "Aggregate",
    "AggregateName",
    "Budget",
    "Conflict",
    "Coordination",
    "Equality",
    "EqualityName",
    "Execution",
    "Fanout",
    "Mechanism",
    "PhaseSpec",
    "Priority",
    "RetryPolicy",
    "Strategy",
    "SwarmConfig",
    "TaskSpec",
    "Topology",
    "Weights",
]

Topology = Literal["mesh", "hierarchical", "ring", "star"]
Strategy = Literal["parallel", "sequential", "adaptive", "balanced"]
Priority = Literal["low", "medium", "high", "critical"]
Mechanism = Literal["majority", "weighted", "unanimous", "quorum", "threshold"]
Conflict = Literal["expert_priority", "coordinator_decides", "revote", "human", "fail"]
Weights = Literal["equal", "agent", "expertise", "record"]
EqualityName = Literal["json", "text", "numeric", "set", "pointer", "items", "judge"]
AggregateName = Literal[
    "all", "first_success", "majority_vote", "weighted_vote", "unanimous", "union",
    "intersection", "concat", "merge", "sum", "avg", "min", "max", "median", "best", "reduce",
]  # fmt: skip
AGGREGATES: tuple[str, ...] = AggregateName.__args__  # type: ignore[attr-defined]


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """JSON, camelCase; defaults are left out of the log."""


class RetryPolicy(_Spec, frozen=True):
    """How a failed step is tried again; the defaults are ``exponential_backoff``.

    ``none`` = 1 attempt, ``immediate`` = 0 ms, ``fixed`` = factor 1.

    Attributes:
        max_attempts: first included.
        initial_ms: before the second attempt.
        factor: for each further one.
        max_ms: longest wait.
        jitter: share by which a wait is longer or shorter, drawn when the retry is decided.
        non_retryable: types of errors that end the step.
    """

    max_attempts: int = 3
    initial_ms: int = 1000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.2
    non_retryable: tuple[str, ...] = ()


class Aggregate(_Spec, frozen=True):
    """How outputs become one (section 5.2).

    Attributes:
        kind: name of the function.
        pointer: JSON pointer into each output; "" = the whole output.
        on_conflict: of ``merge``.
        tool: of ``reduce``.
        agent: of ``reduce``.
    """

    kind: AggregateName = "all"
    pointer: str = ""
    on_conflict: Literal["error", "first", "last"] = "error"
    tool: str = ""
    agent: str = ""


class Equality(_Spec, frozen=True):
    """When two choices are the same (section 5.1).

    Attributes:
        kind: mode.
        absolute: ``numeric``: tolerance.
        relative: ``numeric``: tolerance as a share.
        pointer: ``pointer``: the field; ``items``: the list in a choice, "" = the choice itself.
        keys: ``items``: fields that make an item the same; empty = the whole item.
        agent: ``judge``.
    """

    kind: EqualityName = "json"
    absolute: float = 0.0
    relative: float = 0.0
    pointer: str = ""
    keys: tuple[str, ...] = ()
    agent: str = ""


class Coordination(_Spec, frozen=True):
    """How votes are taken.

    Attributes:
        voting_mechanism: rule by which a choice wins.
        consensus_threshold: share for ``threshold`` and ``weighted``.
        conflict_resolution: what follows a tie or a choice not reached.
        equality: when ballots agree.
        electorate: ``items``: rule class → capabilities of which a voter needs one; the pointer to
            the class in an item is ``class``. ``ABSENT`` = every voter is competent.
        quorum: share of the electorate that must have voted or abstained.
        quorum_size: ``quorum``: equal ballots needed; 0 = more than half of the electorate.
        weights: whose voice counts how much.
    """

    voting_mechanism: Mechanism = "majority"
    consensus_threshold: float = 0.7
    conflict_resolution: Conflict = "fail"
    equality: Equality = Equality()
    electorate: msgspec.Raw = ABSENT
    quorum: float = 0.5
    quorum_size: int = 0
    weights: Weights = "equal"


class Fanout(_Spec, frozen=True):
    """Steps of a phase: one per item. Exactly one member is given.

    Attributes:
        items: given here (JSON array).
        items_from: JSON pointer to an array in earlier outputs, ``/phase/output/…``.
        shards: the phase's ``input`` must be an array; it is cut into so many parts.
    """

    items: msgspec.Raw = ABSENT
    items_from: str = ""
    shards: int = 0


class PhaseSpec(_Spec, frozen=True):
    """One phase as asked for; times in seconds.

    Attributes:
        agents: ids, names or types that shall do it; empty = the team.
        requires: capabilities that its one agent must have all of.
        tool: MCP tool to call.
        prompt: for agents that take prompts.
        input: JSON; strings of the form ``{"$ref": "/phase/output/…"}`` stand for earlier outputs.
        dependencies: phases that must have ended.
        fanout: None = one step per agent (``vote``) or one step.
        aggregate: None = the task's.
        vote: None = no vote.
        timeout: of one attempt; 0 = that of the agent.
        retry: None = the task's.
        idempotent: may run twice.
        on_failure: what a finally failed step means.
        approval: a person must agree before the phase begins.
    """

    name: str
    agents: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    tool: str = ""
    prompt: str = ""
    input: msgspec.Raw = ABSENT
    dependencies: tuple[str, ...] = ()
    fanout: Fanout | None = None
    aggregate: Aggregate | None = None
    vote: Coordination | None = None
    timeout: int = 0
    retry: RetryPolicy | None = None
    idempotent: bool = True
    on_failure: Literal["fail", "continue", "skip_dependents"] = "fail"
    approval: bool = False


class Budget(_Spec, frozen=True):
    """Bounds of a whole task; 0 = none."""

    wall_s: int = 0
    tokens: int = 0
    tool_calls: int = 0
    messages: int = 0


class Execution(_Spec, frozen=True):
    """How a task is run.

    Attributes:
        mode: ``local`` = only agents on the coordinator's node.
        retry: of steps.
        aggregate: of phases that say nothing, and of the whole.
        failure_threshold: share of finally failed steps above which the task fails.
    """

    mode: Literal["distributed", "local"] = "distributed"
    retry: RetryPolicy = RetryPolicy()
    aggregate: Aggregate = Aggregate()
    failure_threshold: float = 0.0


class TaskSpec(_Spec, frozen=True):
    """A task as asked for, aliases resolved; times in seconds.

    Attributes:
        description: in words; what a broadcast sends.
        priority: class in the ready queue.
        strategy: which agent gets which step, and how many at once.
        timeout: of the whole task.
        required_capabilities: the team must hold their union.
        parallelism: size of the team and of a broadcast.
        consensus_required: the outputs of a broadcast are voted on.
        auto_spawn: spawn what is missing.
        template: name; "" = none.
        input: of the template, or of a broadcast.
        planner: a planner agent shall make the phases.
        budget: bounds.
        phases: explicit plan; empty = template or broadcast.
        execution: how it runs.
        coordination: how votes are taken.
        dependencies: tasks that must have completed before.
    """

    description: str
    priority: Priority = "medium"
    strategy: Strategy = "parallel"
    timeout: int = 3600
    required_capabilities: tuple[str, ...] = ()
    parallelism: int = 1
    consensus_required: bool = False
    auto_spawn: bool = False
    template: Literal["", "code_review", "test_run", "map_reduce", "broadcast"] = ""
    input: msgspec.Raw = ABSENT
    planner: bool = False
    budget: Budget = Budget()
    phases: tuple[PhaseSpec, ...] = ()
    execution: Execution = Execution()
    coordination: Coordination = Coordination()
    dependencies: tuple[str, ...] = ()


class SwarmConfig(_Spec, frozen=True):
    """Settings of a swarm.

    Attributes:
        max_agents: 1..20.
        consensus_threshold: default of its tasks.
        voting_mechanism: default of its tasks.
        conflict_resolution: default of its tasks.
        strategy: default of its tasks.
        relay: ``star``: the hub passes on what a spoke sends to a spoke.
        siblings: ``hierarchical``: children of one parent may talk.
        predecessor: ``ring``: messages may go back.
        fanout: ``hierarchical``: children per node.
        memory_ttl: seconds; 0 = values stay until deleted.
        agent_timeout: seconds of an attempt, of agents whose spawn names none.
    """

    max_agents: int = 20
    consensus_threshold: float = 0.7
    voting_mechanism: Mechanism = "majority"
    conflict_resolution: Conflict = "fail"
    strategy: Strategy = "adaptive"
    relay: bool = False
    siblings: bool = False
    predecessor: bool = False
    fanout: int = 4
    memory_ttl: int = 0
    agent_timeout: int = 300

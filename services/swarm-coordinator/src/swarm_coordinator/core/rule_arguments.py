"""Arguments that say how: votes, equality, aggregation, retries, budgets. Names or objects."""

from typing import Literal

from swarm_coordinator.core.electorate import electorate_fault
from swarm_coordinator.core.equality import fault_of
from swarm_coordinator.core.reading import Table
from swarm_coordinator.core.references import pointer_fault
from swarm_coordinator.core.spec import (
    AGGREGATES,
    Aggregate,
    AggregateName,
    Budget,
    Conflict,
    Coordination,
    Equality,
    EqualityName,
    Execution,
    Mechanism,
    RetryPolicy,
    Strategy,
    Weights,
)
from swarm_coordinator.core.views import PlanError

__all__ = [
    "CONFLICTS",
    "MECHANISMS",
    "NAME_CHARS_MAX",
    "aggregate_of",
    "budget_of",
    "coordination_of",
    "execution_of",
    "pointer_of",
    "retry_of",
    "strategy_of",
]

NAME_CHARS_MAX = 128
"""Names of agents, tools, types, capabilities, tasks."""
POINTER_CHARS_MAX = 1_024
KEYS_MAX = 32
ATTEMPTS_MAX = 100
WAIT_MAX_MS = 3_600_000
FACTOR_MAX = 100.0
TYPES_MAX = 64
COUNT_MAX = 2**53 - 1
"""Largest integer that every JSON reader keeps."""
WALL_MAX_S = 86_400

STRATEGIES: tuple[Strategy, ...] = ("parallel", "sequential", "adaptive", "balanced")
MECHANISMS: tuple[Mechanism, ...] = ("majority", "weighted", "unanimous", "quorum", "threshold")
CONFLICTS: tuple[Conflict, ...] = (
    "expert_priority", "coordinator_decides", "revote", "human", "fail",
)  # fmt: skip
WEIGHTS: tuple[Weights, ...] = ("equal", "agent", "expertise", "record")
EQUALITIES: tuple[EqualityName, ...] = (
    "json", "text", "numeric", "set", "pointer", "items", "judge",
)  # fmt: skip
_AGGREGATES: tuple[AggregateName, ...] = AGGREGATES  # type: ignore[assignment]
_RETRIES = {
    "exponential_backoff": RetryPolicy(),
    "none": RetryPolicy(max_attempts=1),
    "immediate": RetryPolicy(initial_ms=0),
    "fixed": RetryPolicy(factor=1.0),
}


def strategy_of(table: Table, default: Strategy) -> Strategy:
    """``strategy``; ``auto`` is adaptive."""
    words: tuple[Strategy | Literal["auto"], ...] = (*STRATEGIES, "auto")
    word: Strategy | Literal["auto"] = table.word("strategy", words, default)
    return "adaptive" if word == "auto" else word


def pointer_of(table: Table, name: str, default: str = "") -> str:
    """A JSON pointer.

    Raises:
        PlanError: none.
    """
    pointer = table.text(name, default, most=POINTER_CHARS_MAX)
    fault = pointer_fault(pointer)
    if fault:
        raise PlanError(table.at(name), fault)
    return pointer


def retry_of(table: Table, name: str) -> RetryPolicy | None:
    """A retry policy by name or as an object; None = not given."""
    if not table.has(name):
        return None
    if table.kind(name) == "a string":
        return _RETRIES[table.word(name, tuple(_RETRIES), "none")]
    if table.kind(name) != "an object":
        raise PlanError(table.at(name), f"expected an object or one of {', '.join(_RETRIES)}")
    given = table.table(name)
    initial = given.integer("initialMs", 1_000, 0, WAIT_MAX_MS)
    policy = RetryPolicy(
        max_attempts=given.integer("maxAttempts", 3, 1, ATTEMPTS_MAX),
        initial_ms=initial,
        factor=given.number("factor", 2.0, 1.0, FACTOR_MAX),
        max_ms=given.integer("maxMs", max(60_000, initial), 0, WAIT_MAX_MS),
        jitter=given.number("jitter", 0.2, 0.0, 1.0),
        non_retryable=given.texts("nonRetryable", most=TYPES_MAX, chars=NAME_CHARS_MAX),
    )
    if policy.max_ms < policy.initial_ms:
        raise PlanError(given.at("maxMs"), f"expected at least initialMs, {policy.initial_ms}")
    given.end()
    return policy


def aggregate_of(table: Table, name: str) -> Aggregate | None:
    """How outputs become one, by name or as an object; None = not given."""
    if not table.has(name):
        return None
    if table.kind(name) == "a string":
        found = Aggregate(kind=table.word(name, _AGGREGATES, "all"))
        where = table.at(name)
    else:
        given = table.table(name)
        if not given.has("kind"):
            raise PlanError(given.at("kind"), "is missing")
        found = Aggregate(
            kind=given.word("kind", _AGGREGATES, "all"),
            pointer=pointer_of(given, "pointer"),
            on_conflict=given.word("onConflict", ("error", "first", "last"), "error"),
            tool=given.text("tool", most=NAME_CHARS_MAX),
            agent=given.text("agent", most=NAME_CHARS_MAX),
        )
        given.end()
        where = given.where
    if found.kind == "reduce" and bool(found.tool) == bool(found.agent):
        raise PlanError(where, "reduce: expected a tool or an agent that reduces")
    return found


def coordination_of(table: Table, default: Coordination) -> Coordination:
    """How votes are taken; what is not given is as in ``default``."""
    electorate = table.raw("electorate")
    if fault := electorate_fault(electorate):
        raise PlanError(table.at("electorate"), fault)
    mechanism: Mechanism = table.word("votingMechanism", MECHANISMS, default.voting_mechanism)
    # "weighted" with equal weights would be "threshold": who says it means the agents' own.
    weights: Weights = "agent" if mechanism == "weighted" else default.weights
    rules = Coordination(
        voting_mechanism=mechanism,
        consensus_threshold=table.number(
            "consensusThreshold", default.consensus_threshold, 0.0, 1.0
        ),
        conflict_resolution=table.word(
            "conflictResolution", CONFLICTS, default.conflict_resolution
        ),
        equality=_equality(table, default.equality),
        electorate=electorate if bytes(electorate) else default.electorate,
        quorum=table.number("quorum", default.quorum, 0.0, 1.0),
        quorum_size=table.integer("quorumSize", default.quorum_size, 1, COUNT_MAX),
        weights=table.word("weights", WEIGHTS, weights),
    )
    table.end()
    return rules


def _equality(table: Table, default: Equality) -> Equality:
    name = "equality"
    if not table.has(name):
        return default
    if table.kind(name) == "a string":
        found = Equality(kind=table.word(name, EQUALITIES, "json"))
    else:
        given = table.table(name)
        if not given.has("kind"):
            raise PlanError(given.at("kind"), "is missing")
        found = Equality(
            kind=given.word("kind", EQUALITIES, "json"),
            absolute=given.number("absolute", 0.0, 0.0, 1e300),
            relative=given.number("relative", 0.0, 0.0, 1.0),
            pointer=pointer_of(given, "pointer"),
            keys=given.texts("keys", most=KEYS_MAX, chars=NAME_CHARS_MAX),
            agent=given.text("agent", most=NAME_CHARS_MAX),
        )
        given.end()
    if fault := fault_of(found):
        raise PlanError(table.at(name), fault)
    return found


def budget_of(table: Table) -> Budget:
    """Bounds of a task; what is not given is unbounded."""
    budget = Budget(
        wall_s=table.integer("wallS", 0, 1, WALL_MAX_S),
        tokens=table.integer("tokens", 0, 1, COUNT_MAX),
        tool_calls=table.integer("toolCalls", 0, 1, COUNT_MAX),
        messages=table.integer("messages", 0, 1, COUNT_MAX),
    )
    table.end()
    return budget


def execution_of(table: Table) -> Execution:
    """How a task is run."""
    mode: Literal["distributed", "local"] = table.word(
        "mode", ("distributed", "local"), "distributed"
    )
    execution = Execution(
        mode=mode,
        retry=retry_of(table, "retryPolicy") or RetryPolicy(),
        aggregate=aggregate_of(table, "resultAggregation") or Aggregate(),
        failure_threshold=table.number("failureThreshold", 0.0, 0.0, 1.0),
    )
    table.end()
    return execution
